/** The order and the form in which both engines tell what they keep, so two exports of the same numbers are the same text. */

import {
  DAY_MINUTES,
  type DayTotals,
  ImportRefusal,
  type ImportedTotals,
  type KeptEntry,
  MAX_PER_ENTRY,
  type Peak,
  type ReadingSum,
} from "./engine.ts";

/** Everything that is kept of a site. */
export interface KeptSite {
  readonly site: string;
  readonly total: number;
  readonly visitors: number;
  /** Page → views. */
  readonly views: ReadonlyMap<string, number>;
  /** Page → how it was read. */
  readonly readings: ReadonlyMap<string, KeptReading>;
  readonly days: readonly DayTotals[];
  /** One for each minute, oldest first. */
  readonly peaks: readonly Peak[];
  readonly highest: Peak | undefined;
  /** By source. */
  readonly imports: ReadonlyMap<string, ImportedTotals>;
  /** Hashes of the visitors of the last day. */
  readonly today: { readonly day: number; readonly hashes: readonly string[] } | undefined;
}

/** Sums are kept in whole milliseconds by Redis, so an export has no more than that. */
export interface KeptReading {
  ms: number;
  readonly histogram: [bucket: number, views: number][];
}

/** Compares by code units, as every engine can. */
const compare = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);
export const sorted = (names: Iterable<string>): string[] => [...names].toSorted(compare);
const sortedEntries = <Value>(map: ReadonlyMap<string, Value>) => [...map].toSorted(([a], [b]) => compare(a, b));

export function* entriesOf(kept: KeptSite): Generator<KeptEntry> {
  const { site, total, visitors, views, days, highest, imports, today } = kept;
  yield { site, total, visitors };
  for (const [page, count] of sortedEntries(views)) if (count > 0) yield { site, page, views: count };
  for (const [page, { ms, histogram }] of sortedEntries(kept.readings))
    if (histogram.length > 0)
      yield { site, page, seconds: Math.max(0, ms) / 1_000, histogram: histogram.toSorted(([a], [b]) => a - b) };
  for (const { day, views: count, visitors: ofDay } of days) yield { site, day, views: count, visitors: ofDay };
  for (const peaks of Map.groupBy(kept.peaks, ({ minute }) => Math.floor(minute / DAY_MINUTES)).values())
    yield { site, peaks: peaks.map(({ minute, peak }) => [minute, peak] as const) };
  if (highest !== undefined) yield { site, highest: [highest.minute, highest.peak] };
  for (const [source, imported] of sortedEntries(imports)) {
    yield { site, source, total: imported.total, visitors: imported.visitors };
    for (const [page, count] of sortedEntries(imported.pages)) yield { site, source, page, views: count };
  }
  if (today === undefined) return;
  const hashes = sorted(today.hashes);
  for (let from = 0; from < hashes.length; from += MAX_PER_ENTRY)
    yield { site, day: today.day, hashes: hashes.slice(from, from + MAX_PER_ENTRY) };
}

/** Puts the buckets of each page together. */
export function readingsByPage(sums: readonly ReadingSum[]): Map<string, KeptReading> {
  const pages = new Map<string, KeptReading>();
  for (const { page, bucket, views, seconds } of sums) {
    const reading = pages.get(page) ?? { ms: 0, histogram: [] };
    pages.set(page, reading);
    reading.ms += Math.round(seconds * 1_000);
    if (views > 0) reading.histogram.push([bucket, views]);
  }
  return pages;
}

/** What must be added so that a source counts as `next` instead of `last`: page → views, which may be negative. */
export function differenceOf(last: ImportedTotals | undefined, next: ImportedTotals): ImportedTotals {
  const pages = new Map<string, number>();
  for (const [page, views] of next.pages) pages.set(page, views - (last?.pages.get(page) ?? 0));
  for (const [page, views] of last?.pages ?? []) if (!next.pages.has(page)) pages.set(page, -views);
  for (const [page, views] of pages) if (views === 0) pages.delete(page);
  return { total: next.total - (last?.total ?? 0), visitors: next.visitors - (last?.visitors ?? 0), pages };
}

/** @throws {ImportRefusal} when a number would be too large to be exact */
export function addExactly(value: number, difference: number, name: string): number {
  const sum = Math.max(0, value + difference);
  if (sum <= Number.MAX_SAFE_INTEGER) return sum;
  throw new ImportRefusal(`Cannot add ${difference} to ${value}: ${name} would be above ${Number.MAX_SAFE_INTEGER}`);
}
