/**
 * Views and visitors by day as bars: for 30 days, a year, and all. It asks for its own numbers, and reads exact values to
 * the mouse, a finger or the arrow keys.
 */
import { days as texts } from "#texts";
import uPlot from "uplot";
import { counted, locale, number } from "./locale.ts";
import { fill } from "./words.ts";

/** What /dashboard/days answers: dates in the time zone of the service, and no day on which nothing was counted. */
interface DaysAnswer {
  today: string;
  days: { date: string; views: number; visitors: number }[];
}
type Columns = [seconds: number[], views: number[], visitors: number[]];

export interface Days {
  /** Asks for the days of a site and draws them; undefined stands for the service's own site. */
  load(site: string | undefined): Promise<void>;
}

const DAY = 86_400;
const PATIENCE_MS = 10_000;
const FEWEST_DAYS = 30; // fewer bars would be as wide as a finger is long
const RANGE_DAYS: Record<string, number> = { month: 30, year: 365, all: FEWEST_DAYS };
const STEPS = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8].flatMap((power) => [power, 2 * power, 5 * power]);
const FONT = "12px system-ui, sans-serif";

const compact = new Intl.NumberFormat(locale, { notation: "compact" });
/** A date of the answer is read and written as UTC, so that no time zone of the reader moves it. */
const inUtc = (options: Intl.DateTimeFormatOptions) => new Intl.DateTimeFormat(locale, { ...options, timeZone: "UTC" });
const fullDate = inUtc({ dateStyle: "medium" });
const dayLabel = inUtc({ day: "numeric", month: "short" });
const monthLabel = inUtc({ month: "short", year: "numeric" });

const colour = (name: string) => () => getComputedStyle(document.documentElement).getPropertyValue(name);
const secondOf = (date: string) => Date.parse(`${date}T00:00Z`) / 1000;

/** Every day of the range, as the columns that uPlot wants. */
function columnsOf({ today, days }: DaysAnswer, range: string): Columns {
  const last = secondOf(today);
  const shortest = last - ((RANGE_DAYS[range] ?? FEWEST_DAYS) - 1) * DAY;
  const first = range === "all" && days[0] ? Math.min(shortest, secondOf(days[0].date)) : shortest;
  const seconds = Array.from({ length: Math.round((last - first) / DAY) + 1 }, (_, index) => first + index * DAY);
  const byDay = new Map(days.map((its) => [secondOf(its.date), its]));
  const column = (name: "views" | "visitors") => seconds.map((second) => byDay.get(second)?.[name] ?? 0);
  return [seconds, column("views"), column("visitors")];
}

/** What is true of all days, or of the one at the index. */
function textOf([seconds, views, visitors]: Columns, index: number | null | undefined): string {
  const dateAt = (at: number) => fullDate.format(seconds[at]! * 1000);
  if (index != null) {
    return `${counted(texts.views, views[index]!)} · ${counted(texts.visitors, visitors[index]!)} · ${dateAt(index)}`;
  }
  const most = views.reduce((best, value, at) => (value > views[best]! ? at : best), 0);
  const sum = views.reduce((total, value) => total + value, 0);
  if (sum === 0) return texts.nothing;
  return fill(texts.sum, {
    views: counted(texts.views, sum),
    days: counted(texts.days, seconds.length),
    most: number.format(views[most]!),
    date: dateAt(most),
  });
}

const bars = (property: string): uPlot.Series => ({
  fill: colour(property),
  width: 0,
  paths: uPlot.paths.bars!({ size: [0.75, 48] }),
  points: { show: false },
});

const axis: uPlot.Axis = { stroke: colour("--soft"), font: FONT, ticks: { show: false } };
const options: Omit<uPlot.Options, "width" | "height"> = {
  legend: { show: false },
  padding: [8, 28, 0, 12],
  tzDate: (second) => uPlot.tzDate(new Date(second * 1000), "Etc/UTC"),
  cursor: { y: false, drag: { x: true, y: false, dist: 8 }, points: { show: false } },
  scales: {
    x: {
      // Half a day at both ends of the data, so that the first and the last bar are whole.
      range: ({ data: [seconds] }, first, last) => [
        first === seconds[0] ? first - DAY / 2 : first,
        last === seconds.at(-1) ? last + DAY / 2 : last,
      ],
    },
    y: { range: (_plot, _least, most) => [0, Math.max(2, most * 1.1)] },
  },
  axes: [
    {
      ...axis,
      grid: { show: false },
      space: 72,
      size: 26,
      incrs: [1, 2, 7, 14, 30, 61, 91, 182, 365, 730, 1825].map((days) => days * DAY),
      values: (_plot, seconds, _axis, _space, increment) =>
        seconds.map((second) => (increment >= 30 * DAY ? monthLabel : dayLabel).format(second * 1000)),
    },
    {
      ...axis,
      grid: { stroke: colour("--line"), width: 1 },
      incrs: STEPS,
      size: (_plot, labels) => 14 + 7 * Math.max(1, ...(labels ?? []).map((label) => label.length)),
      values: (_plot, values) => values.map((value) => compact.format(value)),
    },
  ],
  series: [{}, bars("--bar"), bars("--accent")],
};

/** @param ranges the group of buttons that choose the range */
export function createDays(element: HTMLElement, readout: HTMLElement, ranges: HTMLElement): Days {
  let data: Columns = [[], [], []];
  let site: string | undefined;
  let range = "month";
  let drawn = ""; // site and range of the data
  let loading = new AbortController();

  const size = () => ({ width: element.clientWidth, height: element.clientWidth < 500 ? 160 : 200 });
  const hooks: uPlot.Hooks.Arrays = { setCursor: [() => tell()] };
  const plot = new uPlot({ ...options, ...size(), hooks }, data, element);

  const tell = () => {
    const at = plot.cursor.idxs?.[1];
    const text = textOf(data, at);
    if (readout.textContent !== text) readout.textContent = text;
    element.ariaValueMax = String(data[0].length - 1);
    element.ariaValueNow = String(at ?? data[0].length - 1);
    element.ariaValueText = text;
  };

  const draw = (next: Columns, isNew: boolean) => {
    const { min = 0, max = 0 } = plot.scales["x"]!;
    const isCloser = !isNew && (min > data[0][0]! || max < data[0].at(-1)!);
    data = next;
    plot.batch(() => {
      plot.setData(data, !isCloser);
      if (isCloser) plot.setScale("x", { min, max });
    });
    tell();
  };

  const load = async () => {
    loading.abort();
    const { signal } = (loading = new AbortController());
    const about = new URLSearchParams({ range, ...(site !== undefined && { site }) });
    const isNew = drawn !== about.toString();
    // A relative address would inherit a password from the address bar, and `fetch` refuses that.
    const address = new URL(`dashboard/days?${about.toString()}`, location.origin + location.pathname);
    try {
      const response = await fetch(address, { signal: AbortSignal.any([signal, AbortSignal.timeout(PATIENCE_MS)]) });
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      const answer: DaysAnswer = await response.json();
      drawn = about.toString();
      element.classList.remove("unknown");
      draw(columnsOf(answer, range), isNew);
    } catch (failure) {
      if (signal.aborted) return;
      element.classList.toggle("unknown", isNew);
      readout.textContent = fill(texts.notLoaded, {
        reason: failure instanceof Error ? failure.message : String(failure),
      });
    }
  };

  const buttons = ranges.querySelectorAll("button");
  const choose = (next: string) => {
    range = next;
    for (const button of buttons) button.ariaPressed = String(button.value === range);
  };
  for (const button of buttons)
    button.onclick = () => {
      choose(button.value);
      void load();
    };
  choose(range);
  readToKeyboardAndTouch(plot, element, () => data);
  new ResizeObserver(() => plot.setSize(size())).observe(element);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot.redraw());
  return {
    load: (its) => {
      site = its;
      return load();
    },
  };
}

function readToKeyboardAndTouch(plot: uPlot, element: HTMLElement, data: () => Columns): void {
  const leave = () => plot.setCursor({ left: -10, top: -10 });
  element.addEventListener("keydown", (event) => {
    const [seconds, views] = data();
    const last = seconds.length - 1;
    const at = plot.cursor.idxs?.[1] ?? last;
    const targets: Record<string, number> = {
      ArrowLeft: at - 1,
      ArrowDown: at - 1,
      ArrowRight: at + 1,
      ArrowUp: at + 1,
      PageDown: at - 30,
      PageUp: at + 30,
      Home: 0,
      End: last,
    };
    const target = targets[event.key];
    if (event.key === "Escape") {
      leave();
      plot.setData(data());
    } else if (target !== undefined) {
      event.preventDefault();
      const index = Math.min(last, Math.max(0, target));
      plot.setCursor({ left: plot.valToPos(seconds[index]!, "x"), top: plot.valToPos(views[index]!, "y") });
    }
  });
  element.addEventListener("blur", leave);
  plot.over.addEventListener("pointermove", ({ pointerType, clientX, clientY }) => {
    if (pointerType === "mouse") return; // uPlot follows a mouse by itself
    const { left, top } = plot.over.getBoundingClientRect();
    plot.setCursor({ left: clientX - left, top: clientY - top });
  });
}
