/** The online history as a chart: exact values under the mouse, a finger or the arrow keys; drag to look closer. */
// oxlint-disable-next-line import/no-unassigned-import -- it has to run before uPlot is imported
import "./language.ts";
import { chart as texts } from "#texts";
import uPlot from "uplot";
import { locale, number } from "./locale.ts";
import { fill } from "./words.ts";

/** What /dashboard/history answers: minutes since 1970, and no point where nobody was there. */
export interface History {
  from: number;
  to: number;
  step: number;
  points: { minute: number; peak: number }[];
  /** The first minute that is known; nothing is drawn before it. Missing when nobody was ever there. */
  since?: number;
}

export interface Chart {
  /** `isNew`: another time or site than before, so that a closer look at the last one is over. */
  show(history: History, isNew: boolean): void;
  /** So many people are there now: the newest interval cannot have had fewer. */
  raise(visitors: number): void;
}

const DAY = 86_400;
const PEOPLE = [1, 10, 100, 1e3, 1e4, 1e5, 1e6].flatMap((power) => [power, 2 * power, 5 * power]); // between grid lines
/** Seconds since 1970, and people; null where nothing is known. */
type Columns = [seconds: number[], people: (number | null)[]];

const FONT = "12px system-ui, sans-serif";

const compact = new Intl.NumberFormat(locale, { notation: "compact" });
const time = new Intl.DateTimeFormat(locale, { timeStyle: "short" });
const date = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short" });
const moment = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });

/** Read at each drawing, since the reader may turn to the dark. */
const colour = (name: string) => () => getComputedStyle(document.documentElement).getPropertyValue(name);

/** Times of a day, and the date wherever a new one begins, or where only days are told apart. */
const timeLabels: uPlot.Axis.DynamicValues = (_plot, seconds, _axis, _space, increment) =>
  seconds.map((second) => {
    const then = new Date(second * 1000);
    return (increment >= DAY || then.getHours() + then.getMinutes() === 0 ? date : time).format(then);
  });

/** Every interval of the history, as the two columns that uPlot wants. */
function columnsOf({ from, to, step, points, since = to }: History): Columns {
  const peaks = new Map(points.map(({ minute, peak }) => [minute, peak]));
  const minutes = Array.from({ length: Math.floor((to - from) / step) + 1 }, (_, index) => from + index * step);
  const people = minutes.map((minute) => peaks.get(minute) ?? (minute + step > since ? 0 : null));
  return [minutes.map((minute) => minute * 60), people];
}

/** @param readout says the value under the cursor, or else the highest one */
export function createChart(element: HTMLElement, readout: HTMLElement): Chart {
  let data: Columns = [[], []];
  let width = 60; // of an interval, in seconds

  const size = () => ({ width: element.clientWidth, height: element.clientWidth < 500 ? 200 : 280 });
  const options: uPlot.Options = {
    ...size(),
    legend: { show: false },
    padding: [8, 28, 0, 12],
    cursor: {
      y: false,
      drag: { x: true, y: false, dist: 8 },
      // A point stands at the beginning of its interval, and the whole interval is its own.
      dataIdx: (_plot, _series, nearest, second) => Math.max(0, nearest - Number(data[0][nearest]! > second)),
    },
    scales: {
      x: { range: (_plot, first, last) => [first, last === data[0].at(-1) ? last + width : last] },
      y: { range: (_plot, _least, most) => [0, Math.max(2, most * 1.1)] },
    },
    axes: [
      {
        stroke: colour("--soft"),
        font: FONT,
        grid: { show: false },
        ticks: { show: false },
        space: 72,
        size: 26,
        values: timeLabels,
      },
      {
        stroke: colour("--soft"),
        font: FONT,
        grid: { stroke: colour("--line"), width: 1 },
        ticks: { show: false },
        incrs: PEOPLE,
        size: (_plot, labels) => 14 + 7 * Math.max(1, ...(labels ?? []).map((label) => label.length)),
        values: (_plot, values) => values.map((value) => compact.format(value)),
      },
    ],
    series: [
      {},
      {
        stroke: colour("--accent"),
        fill: colour("--glow"),
        width: 1.5,
        paths: uPlot.paths.stepped!({ align: 1, extend: true }),
        points: { show: false },
      },
    ],
    hooks: { setCursor: [() => tell()] },
  };
  const plot = new uPlot(options, data, element);

  const tell = () => {
    const [seconds, people] = data;
    const at = plot.cursor.idxs?.[1];
    const most = people.reduce<number>((best, value, index) => ((value ?? 0) > (people[best] ?? 0) ? index : best), 0);
    const start = (seconds[at ?? most] ?? 0) * 1000;
    const when = width === 60 ? moment.format(start) : moment.formatRange(start, start + width * 1000);
    const shown = people[at ?? most];
    const value = `${shown == null ? texts.notKnown : number.format(shown)} · ${when}`;
    const text = at != null ? value : people[most] ? fill(texts.highest, { value }) : texts.nobody;
    if (readout.textContent !== text) readout.textContent = text;
    element.ariaValueMax = String(seconds.length - 1);
    element.ariaValueNow = String(at ?? seconds.length - 1);
    element.ariaValueText = text;
  };

  const point = (index: number) => {
    const first = data[1].findIndex((people) => people !== null);
    const at = Math.min(data[0].length - 1, Math.max(0, first, index));
    const left = plot.valToPos(data[0][at]! + width / 2, "x");
    plot.setCursor({ left, top: plot.valToPos(data[1][at] ?? 0, "y") });
  };
  const leave = () => plot.setCursor({ left: -10, top: -10 });

  element.addEventListener("keydown", (event) => {
    const last = data[0].length - 1;
    const at = plot.cursor.idxs?.[1] ?? last;
    const targets: Record<string, number> = {
      ArrowLeft: at - 1,
      ArrowDown: at - 1,
      ArrowRight: at + 1,
      ArrowUp: at + 1,
      PageDown: at - Math.ceil(last / 20),
      PageUp: at + Math.ceil(last / 20),
      Home: 0,
      End: last,
    };
    const target = targets[event.key];
    if (event.key === "Escape") {
      leave();
      plot.setData(data);
    } else if (target !== undefined) {
      event.preventDefault();
      point(target);
    }
  });
  element.addEventListener("blur", leave);
  plot.over.addEventListener("pointermove", ({ pointerType, clientX, clientY }) => {
    if (pointerType === "mouse") return; // uPlot follows that by itself
    const { left, top } = plot.over.getBoundingClientRect();
    plot.setCursor({ left: clientX - left, top: clientY - top });
  });
  new ResizeObserver(() => plot.setSize(size())).observe(element);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot.redraw());

  const draw = (next: Columns, isNew: boolean) => {
    const { min = 0, max = 0 } = plot.scales["x"]!;
    const isCloser = !isNew && (min > data[0][0]! || max < data[0].at(-1)!);
    data = next;
    plot.batch(() => {
      plot.setData(data, !isCloser);
      if (isCloser) plot.setScale("x", { min, max });
    }); // now, or else the next call would take the scale from before for a closer look
    tell();
  };
  return {
    show(history, isNew) {
      width = history.step * 60;
      draw(columnsOf(history), isNew);
    },
    raise(visitors) {
      const [seconds, people] = data;
      const isOver = Date.now() / 1000 >= seconds.at(-1)! + width; // the next interval is not here yet
      if (!isOver && visitors > (people.at(-1) ?? 0)) draw([seconds, [...people.slice(0, -1), visitors]], false);
    },
  };
}
