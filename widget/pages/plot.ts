/**
 * What the charts of the dashboard have in common: exact values under the mouse, a finger or the arrow keys, a closer look
 * that stays while new numbers come, and axes in the colours of the page.
 */
import uPlot from "uplot";
import { locale } from "./locale.ts";

/** Seconds since 1970, and one or more series; null where nothing is known. */
export type Columns = [seconds: number[], first: (number | null)[], ...more: (number | null)[][]];

export interface Parts<Data extends Columns> {
  /** A slider for the keyboard and for screen readers. */
  element: HTMLElement;
  readout: HTMLElement;
  options: Omit<uPlot.Options, "width" | "height">;
  heights: { phone: number; wide: number };
  /** What the readout says of the point at the index, or of all points when there is no index. */
  textOf: (data: Data, index: number | undefined) => string;
  /** The seconds from a point to the middle of the time that the point stands for. */
  middleOf: (data: Data) => number;
}

export interface Plot<Data extends Columns> extends Parts<Data> {
  readonly uplot: uPlot;
  data: Data;
}

const PHONE_WIDTH = 500;
const FONT = "12px system-ui, sans-serif";
const GRID_STEPS = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8].flatMap((power) => [power, 2 * power, 5 * power]);

const compact = new Intl.NumberFormat(locale, { notation: "compact" });

/** Read at each drawing, because the reader may switch to dark colours. */
export const colour = (name: string) => () => getComputedStyle(document.documentElement).getPropertyValue(name);

const axis: uPlot.Axis = { stroke: colour("--soft"), font: FONT, ticks: { show: false } };
export const timeAxis: uPlot.Axis = { ...axis, grid: { show: false }, space: 72, size: 26 };
export const countAxis: uPlot.Axis = {
  ...axis,
  grid: { stroke: colour("--line"), width: 1 },
  incrs: GRID_STEPS,
  size: (_uplot, labels) => 14 + 7 * Math.max(1, ...(labels ?? []).map((label) => label.length)),
  values: (_uplot, values) => values.map((value) => compact.format(value)),
};
export const countScale: uPlot.Scale = { range: (_uplot, _least, most) => [0, Math.max(2, most * 1.1)] };

export function createPlot<Data extends Columns>(parts: Parts<Data>, data: Data): Plot<Data> {
  const { element, options } = parts;
  const padding: uPlot.Padding = [8, 28, 0, 12];
  const hooks = { setCursor: [() => tell(plot)] };
  const uplot = new uPlot({ ...options, legend: { show: false }, padding, hooks, ...sizeOf(parts) }, data, element);
  const plot: Plot<Data> = { ...parts, uplot, data };
  element.addEventListener("keydown", (event) => followKey(plot, event));
  element.addEventListener("blur", () => leave(plot));
  uplot.over.addEventListener("pointermove", (event) => followFinger(plot, event));
  new ResizeObserver(() => uplot.setSize(sizeOf(parts))).observe(element);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => uplot.redraw());
  return plot;
}

function sizeOf({ element, heights }: Pick<Parts<never>, "element" | "heights">): { width: number; height: number } {
  const width = element.clientWidth;
  return { width, height: width < PHONE_WIDTH ? heights.phone : heights.wide };
}

/** @param isNew whether this is another time or site than before: a closer look ends then */
export function draw<Data extends Columns>(plot: Plot<Data>, next: Data, isNew: boolean): void {
  const { uplot, data } = plot;
  const { min = 0, max = 0 } = uplot.scales["x"]!;
  const isCloser = !isNew && (min > data[0][0]! || max < data[0].at(-1)!);
  plot.data = next;
  uplot.batch(() => {
    uplot.setData(next, !isCloser);
    if (isCloser) uplot.setScale("x", { min, max });
  }); // at once, because the next call would take the old scale for a closer look
  tell(plot);
}

function tell<Data extends Columns>({ element, readout, uplot, data, textOf }: Plot<Data>): void {
  const at = uplot.cursor.idxs?.[1] ?? undefined;
  const text = textOf(data, at);
  const last = data[0].length - 1;
  if (readout.textContent !== text) readout.textContent = text;
  element.ariaValueMax = String(last);
  element.ariaValueNow = String(at ?? last);
  element.ariaValueText = text;
}

function followKey<Data extends Columns>(plot: Plot<Data>, event: KeyboardEvent): void {
  const last = plot.data[0].length - 1;
  const at = plot.uplot.cursor.idxs?.[1] ?? last;
  const far = Math.ceil(last / 20);
  const targets: Record<string, number> = {
    ArrowLeft: at - 1,
    ArrowDown: at - 1,
    ArrowRight: at + 1,
    ArrowUp: at + 1,
    PageDown: at - far,
    PageUp: at + far,
    Home: 0,
    End: last,
  };
  const target = targets[event.key];
  if (event.key === "Escape") {
    leave(plot);
    plot.uplot.setData(plot.data);
  } else if (target !== undefined) {
    event.preventDefault();
    pointAt(plot, target);
  }
}

/** Moves the cursor to a point that is known. */
function pointAt<Data extends Columns>({ uplot, data, middleOf }: Plot<Data>, index: number): void {
  const [seconds, values] = data;
  const firstKnown = values.findIndex((value) => value !== null);
  const at = Math.min(seconds.length - 1, Math.max(0, firstKnown, index));
  const left = uplot.valToPos(seconds[at]! + middleOf(data), "x");
  uplot.setCursor({ left, top: uplot.valToPos(values[at] ?? 0, "y") });
}

function followFinger({ uplot }: Pick<Plot<never>, "uplot">, { pointerType, clientX, clientY }: PointerEvent): void {
  if (pointerType === "mouse") return; // uPlot follows the mouse by itself
  const { left, top } = uplot.over.getBoundingClientRect();
  uplot.setCursor({ left: clientX - left, top: clientY - top });
}

const leave = ({ uplot }: Pick<Plot<never>, "uplot">): void => uplot.setCursor({ left: -10, top: -10 });
