/** The order and the form in which both engines tell what they keep, so two exports of the same numbers are the same text. */

import {
  DAY_MINUTES,
  type DayTotals,
  ImportRefusal,
  type ImportedTotals,
  type KeptSiteEntry,
  MAX_PER_ENTRY,
  type Peak,
  storedPageName,
} from "./engine.ts";
import type { Histogram } from "./reading.ts";

/** Everything that is kept of a site. */
export interface KeptSite {
  readonly site: string;
  /** Whether the site is in SITES. */
  readonly isListed: boolean;
  readonly total: number;
  readonly visitors: number;
  /** Page → views. */
  readonly views: ReadonlyMap<string, number>;
  /** Page → how it was read. */
  readonly readings: ReadonlyMap<string, KeptReading>;
  /** Oldest first. */
  readonly days: readonly DayTotals[];
  /** One for each minute, oldest first. */
  readonly peaks: readonly Peak[];
  readonly highest: Peak | undefined;
  /** By source. */
  readonly imports: ReadonlyMap<string, ImportedTotals>;
  /** Day → hashes of its visitors, of those days whose key is kept. */
  readonly dayVisitors: ReadonlyMap<number, readonly string[]>;
}

export interface KeptReading {
  readonly seconds: number;
  readonly histogram: Histogram;
}

/** Compares by code units, as every engine can. */
const compare = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0);
export const sorted = (names: Iterable<string>): string[] => [...names].toSorted(compare);
const sortedEntries = <Value>(map: ReadonlyMap<string, Value>) => [...map].toSorted(([a], [b]) => compare(a, b));

/** Redis keeps whole milliseconds, so an export has no more than that. */
const wholeMs = (seconds: number) => Math.max(0, Math.round(seconds * 1_000)) / 1_000;

export function* entriesOf(kept: KeptSite): Generator<KeptSiteEntry> {
  const { site, total, visitors, days, highest } = kept;
  yield { site, total, visitors, unlisted: kept.isListed ? undefined : true };
  for (const [page, count] of sortedEntries(kept.views)) if (count > 0) yield { site, page, views: count };
  for (const [page, { seconds, histogram }] of sortedEntries(kept.readings)) {
    const buckets = Object.entries(histogram).map(([bucket, views]) => [Number(bucket), views] as const);
    const positive = buckets.filter(([, views]) => views > 0); // a lost part may have left others
    if (positive.length > 0) yield { site, page, seconds: wholeMs(seconds), histogram: positive };
  }
  for (const { day, views: count, visitors: ofDay } of days) yield { site, day, views: count, visitors: ofDay };
  for (const peaks of Map.groupBy(kept.peaks, ({ minute }) => Math.floor(minute / DAY_MINUTES)).values())
    yield { site, peaks: peaks.map(({ minute, peak }) => [minute, peak] as const) };
  if (highest !== undefined) yield { site, highest: [highest.minute, highest.peak] };
  yield* importEntries(kept);
  yield* visitorEntries(kept);
}

function* importEntries({ site, imports }: KeptSite): Generator<KeptSiteEntry> {
  for (const [source, { total, visitors, pages }] of sortedEntries(imports)) {
    yield { site, source, total, visitors };
    for (const [page, views] of sortedEntries(pages)) yield { site, source, page, views };
  }
}

function* visitorEntries({ site, dayVisitors }: KeptSite): Generator<KeptSiteEntry> {
  for (const [day, unsorted] of [...dayVisitors].toSorted(([a], [b]) => a - b)) {
    const hashes = sorted(unsorted);
    for (let from = 0; from < hashes.length; from += MAX_PER_ENTRY)
      yield { site, day, hashes: hashes.slice(from, from + MAX_PER_ENTRY) };
  }
}

/** The same totals by the names under which pages are stored. */
export function withStoredNames({ total, visitors, pages }: ImportedTotals): ImportedTotals {
  const stored = new Map<string, number>();
  for (const [page, views] of pages) stored.set(storedPageName(page), views);
  return { total, visitors, pages: stored };
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
