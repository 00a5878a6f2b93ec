/** The online history as a chart. */
import { chart as texts } from "#texts";
import uPlot from "uplot";
import { locale, number } from "./locale.ts";
import { colour, countAxis, countScale, createPlot, draw, timeAxis } from "./plot.ts";
import { fill } from "./words.ts";

/** What /dashboard/history answers: minutes since 1970. There is no point where nobody was there. */
export interface History {
  from: number;
  to: number;
  step: number;
  points: { minute: number; peak: number }[];
  /** The first minute that is known; nothing is drawn before it. Missing when nobody was ever there. */
  since?: number;
}

export interface Chart {
  /** @param isNew whether this is another time or site than before: a closer look ends then */
  show(history: History, isNew: boolean): void;
  /** Raises the newest interval to the number of people who are there now. */
  raise(visitors: number): void;
}

/** Seconds since 1970, each at the beginning of its interval, and people; null where nothing is known. */
type Columns = [seconds: number[], people: (number | null)[]];

const MINUTE = 60;
const DAY = 86_400;

const time = new Intl.DateTimeFormat(locale, { timeStyle: "short" });
const date = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short" });
const moment = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });

/** @param readout says the value under the cursor, or else the highest one */
export function createChart(element: HTMLElement, readout: HTMLElement): Chart {
  const heights = { phone: 200, wide: 280 };
  const middleOf = (data: Columns) => intervalOf(data) / 2;
  const plot = createPlot<Columns>({ element, readout, options, heights, textOf, middleOf }, [[], []]);
  return {
    show: (history, isNew) => draw(plot, columnsOf(history), isNew),
    raise(visitors) {
      const [seconds, people] = plot.data;
      const isOver = Date.now() / 1000 >= seconds.at(-1)! + intervalOf(plot.data); // the next interval is not here yet
      if (!isOver && visitors > (people.at(-1) ?? 0)) draw(plot, [seconds, [...people.slice(0, -1), visitors]], false);
    },
  };
}

/** Every interval of the history, as the two columns that uPlot wants. */
function columnsOf({ from, to, step, points, since = to }: History): Columns {
  const peaks = new Map(points.map(({ minute, peak }) => [minute, peak]));
  const minutes = Array.from({ length: Math.floor((to - from) / step) + 1 }, (_, index) => from + index * step);
  const people = minutes.map((minute) => peaks.get(minute) ?? (minute + step > since ? 0 : null));
  return [minutes.map((minute) => minute * MINUTE), people];
}

const intervalOf = ([[first = 0, second = first + MINUTE]]: uPlot.AlignedData | Columns): number => second - first;

function textOf(data: Columns, index: number | undefined): string {
  const [seconds, people] = data;
  const most = people.reduce<number>((best, value, at) => ((value ?? 0) > (people[best] ?? 0) ? at : best), 0);
  if (index === undefined && !people[most]) return texts.nobody;
  const at = index ?? most;
  const start = (seconds[at] ?? 0) * 1000;
  const interval = intervalOf(data);
  const when = interval === MINUTE ? moment.format(start) : moment.formatRange(start, start + interval * 1000);
  const shown = people[at];
  const value = `${shown == null ? texts.notKnown : number.format(shown)} · ${when}`;
  return index === undefined ? fill(texts.highest, { value }) : value;
}

/** Labels show the time of day. Where a day begins, or where a label stands for a whole day, they show the date. */
const timeLabels: uPlot.Axis.DynamicValues = (_uplot, seconds, _axis, _space, increment) =>
  seconds.map((second) => {
    const then = new Date(second * 1000);
    return (increment >= DAY || then.getHours() + then.getMinutes() === 0 ? date : time).format(then);
  });

/** The axis ends where the last interval ends, and not where it begins. */
const timeRange: uPlot.Range.Function = ({ data }, first, last) => [
  first,
  last === data[0].at(-1) ? last + intervalOf(data) : last,
];

const options: Omit<uPlot.Options, "width" | "height"> = {
  cursor: {
    y: false,
    drag: { x: true, y: false, dist: 8 },
    // A point stands at the beginning of its interval, and is meant anywhere in this interval.
    dataIdx: ({ data }, _series, nearest, second) => Math.max(0, nearest - Number(data[0][nearest]! > second)),
  },
  scales: { x: { range: timeRange }, y: countScale },
  axes: [{ ...timeAxis, values: timeLabels }, countAxis],
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
};
