/** Views and visitors by day as bars: for 30 days, a year, and all. This part asks for its own numbers. */
import { days as texts } from "#texts";
import uPlot from "uplot";
import { ask, reasonOf } from "./ask.ts";
import { counted, locale, number } from "./locale.ts";
import { colour, countAxis, countScale, createPlot, draw, type Plot, timeAxis } from "./plot.ts";
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

/** What is asked for, and what is drawn. */
interface Bars {
  readonly plot: Plot<Columns>;
  site: string | undefined;
  range: string;
  drawn: string;
  loading: AbortController;
}

const DAY = 86_400;
const FEWEST_DAYS = 30; // fewer bars would be too wide
const RANGE_DAYS: Record<string, number> = { month: 30, year: 365, all: FEWEST_DAYS };

/** A date of the answer is read and written as UTC, so that no time zone of the reader moves it. */
const inUtc = (options: Intl.DateTimeFormatOptions) => new Intl.DateTimeFormat(locale, { ...options, timeZone: "UTC" });
const fullDate = inUtc({ dateStyle: "medium" });
const dayLabel = inUtc({ day: "numeric", month: "short" });
const monthLabel = inUtc({ month: "short", year: "numeric" });

/** @param ranges the group of buttons that choose the range */
export function createDays(element: HTMLElement, readout: HTMLElement, ranges: HTMLElement): Days {
  const heights = { phone: 160, wide: 200 };
  const plot = createPlot<Columns>({ element, readout, options, heights, textOf, middleOf: () => 0 }, [[], [], []]);
  const bars: Bars = { plot, site: undefined, range: "month", drawn: "", loading: new AbortController() };
  const buttons = ranges.querySelectorAll("button");
  const choose = (range: string) => {
    bars.range = range;
    for (const button of buttons) button.ariaPressed = String(button.value === range);
  };
  for (const button of buttons)
    button.onclick = () => {
      choose(button.value);
      void load(bars);
    };
  choose(bars.range);
  return {
    load(site) {
      bars.site = site;
      return load(bars);
    },
  };
}

async function load(bars: Bars): Promise<void> {
  const { plot, site, range } = bars;
  const { element, readout } = plot;
  bars.loading.abort();
  const { signal } = (bars.loading = new AbortController());
  const wanted = new URLSearchParams({ range, ...(site !== undefined && { site }) }).toString();
  const isNew = bars.drawn !== wanted;
  try {
    const answer = await ask<DaysAnswer>(`dashboard/days?${wanted}`, signal);
    bars.drawn = wanted;
    element.classList.remove("unknown");
    draw(plot, columnsOf(answer, range), isNew);
  } catch (failure) {
    if (signal.aborted) return;
    element.classList.toggle("unknown", isNew);
    readout.textContent = fill(texts.notLoaded, { reason: await reasonOf(failure) });
  }
}

const secondOf = (date: string) => Date.parse(`${date}T00:00Z`) / 1000;

/** Every day of the range, as the columns that uPlot wants. */
function columnsOf({ today, days }: DaysAnswer, range: string): Columns {
  const last = secondOf(today);
  const shortest = last - ((RANGE_DAYS[range] ?? FEWEST_DAYS) - 1) * DAY;
  const first = range === "all" && days[0] ? Math.min(shortest, secondOf(days[0].date)) : shortest;
  const seconds = Array.from({ length: Math.round((last - first) / DAY) + 1 }, (_, index) => first + index * DAY);
  const byDay = new Map(days.map((day) => [secondOf(day.date), day]));
  const column = (name: "views" | "visitors") => seconds.map((second) => byDay.get(second)?.[name] ?? 0);
  return [seconds, column("views"), column("visitors")];
}

/** The sum of all days, or the numbers of the day at the index. */
function textOf([seconds, views, visitors]: Columns, index: number | undefined): string {
  const dateAt = (at: number) => fullDate.format(seconds[at]! * 1000);
  if (index !== undefined) {
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

const barsOf = (property: string): uPlot.Series => ({
  fill: colour(property),
  width: 0,
  paths: uPlot.paths.bars!({ size: [0.75, 48] }),
  points: { show: false },
});

/** Half a day at both ends of the data, so that the first and the last bar are whole. */
const timeRange: uPlot.Range.Function = ({ data: [seconds] }, first, last) => [
  first === seconds[0] ? first - DAY / 2 : first,
  last === seconds.at(-1) ? last + DAY / 2 : last,
];

const options: Omit<uPlot.Options, "width" | "height"> = {
  tzDate: (second) => uPlot.tzDate(new Date(second * 1000), "Etc/UTC"),
  cursor: { y: false, drag: { x: true, y: false, dist: 8 }, points: { show: false } },
  scales: { x: { range: timeRange }, y: countScale },
  axes: [
    {
      ...timeAxis,
      incrs: [1, 2, 7, 14, 30, 61, 91, 182, 365, 730, 1825].map((days) => days * DAY),
      values: (_uplot, seconds, _axis, _space, increment) =>
        seconds.map((second) => (increment >= 30 * DAY ? monthLabel : dayLabel).format(second * 1000)),
    },
    countAxis,
  ],
  series: [{}, barsOf("--bar"), barsOf("--accent")],
};
