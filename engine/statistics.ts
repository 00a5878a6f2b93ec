/**
 * Reading times and peaks in Redis, and the way that views take to `redis-totals.ts`.
 *
 * Entries are sent in parts of a few hundred, so no script grows with the traffic. Each part is added once: a part whose
 * answer was lost is sent again under the same number, and Redis keeps the number of the last part of each site and node. A part
 * that keeps failing is given up and counted, so it hinders nothing else.
 */

import { ReplyError } from "ioredis";
import { LRUCache } from "lru-cache";
import {
  DAY_MINUTES,
  DAY_SECONDS,
  HISTORY_DAYS,
  MAX_MOST_READ,
  messageOf,
  MINUTE_MS,
  OTHER_PAGES,
  type PageReading,
  type Peak,
  type Reading,
  type ReadingSum,
  type StatsEntries,
  type StatsStore,
  storedPageName,
  type ViewSum,
} from "./engine.ts";
import { isTemporary, type Link } from "./link.ts";
import { keyOf, type Options } from "./options.ts";
import { inPortions } from "./portions.ts";
import { parseHistogram, readingOf } from "./reading.ts";
import { MARK_TTL_SECONDS, type RedisTotals, type Refusal } from "./redis-totals.ts";
import { RECORD } from "./scripts.ts";
import { limitsOf, type UnlistedSites } from "./unlisted.ts";

/** Entries of one site that one script adds. */
interface Part {
  /** Grows from part to part. */
  readonly number: number;
  readonly site: string;
  readonly isListed: boolean;
  readonly readings: readonly ReadingSum[];
  readonly peaks: readonly Peak[];
  /** A part with views has nothing else. */
  readonly views: readonly ViewSum[];
  /** The epoch of the site when the part was sent for the first time; undefined when it was not sent yet. */
  sentIn: string | undefined;
  /** How often the part was sent without success. */
  tries: number;
}

/** The entries of one site. */
interface SiteEntries {
  readonly readings: ReadingSum[];
  readonly peaks: Peak[];
  readonly views: ViewSum[];
}

const MAX_PART = 250; // entries: 1,000 arguments, and about 2 ms of Redis where pages have many buckets
const MAX_TRIES = 10; // of one part; each call of `record` makes one or two
const PARALLEL_SITES = 4; // between these scripts Redis has time for counts
export const BYTES_PER_MINUTE = 4; // in the string that holds a day of history
/** Losses of a site are logged once in this time. */
const LOG_INTERVAL_MS = 3_600_000;
const MAX_LOGGED_SITES = 1_000;

export class RedisStatistics implements StatsStore {
  readonly #link: Link;
  readonly #options: Required<Options>;
  readonly #wallClock: () => number;
  readonly #totals: RedisTotals;
  readonly #unlisted: UnlistedSites;
  /** The name of the key that holds the number of this node's last part of a site. */
  readonly #mark: string;
  #lastPart = 0;
  /** Parts that Redis has not confirmed, by site, in the order in which they must be sent. */
  readonly #unconfirmed = new Map<string, Part[]>();
  #recording: Promise<void> = Promise.resolve();
  #lostEntries = 0;
  readonly #loggedSites = new LRUCache<string, true>({ max: MAX_LOGGED_SITES, ttl: LOG_INTERVAL_MS });

  /** @param mark the name of the key with this node's last part, in each site */
  constructor(
    link: Link,
    options: Required<Options>,
    wallClock: () => number,
    mark: string,
    totals: RedisTotals,
    unlisted: UnlistedSites,
  ) {
    this.#link = link;
    this.#mark = mark;
    this.#totals = totals;
    this.#unlisted = unlisted;
    this.#options = options;
    this.#wallClock = wallClock;
  }

  get lostEntries(): number {
    return this.#lostEntries;
  }

  /**
   * Once this has resolved, the entries are the engine's own business: parts that Redis has not confirmed are sent again
   * with the next call. While Redis takes nothing, new entries are refused, so the memory for unconfirmed parts is bounded.
   * @throws {Error} when Redis takes nothing now. None of the entries were sent
   */
  async record(entries: StatsEntries): Promise<void> {
    const turn = this.#recording.then(() => this.#recordInTurn(entries));
    this.#recording = turn.catch(() => {}); // the caller gets the error
    return turn;
  }

  async reading(site: string, page: string): Promise<Reading> {
    const name = storedPageName(page);
    const [histogram, ms] = await this.#link.ask((client) =>
      Promise.all([client.hget(this.#key(site, "readings"), name), client.zscore(this.#key(site, "mostread"), name)]),
    );
    return readingOf(parseHistogram(histogram), Number(ms) / 1_000);
  }

  async mostRead(site: string): Promise<PageReading[]> {
    const key = this.#key(site, "mostread");
    const ranking = await this.#link.ask((client) => client.zrevrange(key, 0, MAX_MOST_READ - 1, "WITHSCORES"));
    const pages = ranking.filter((_, index) => index % 2 === 0); // each page is followed by its milliseconds
    if (pages.length === 0) return [];
    const histograms = await this.#link.ask((client) => client.hmget(this.#key(site, "readings"), ...pages));
    const readings: PageReading[] = [];
    await inPortions(pages.entries(), ([index, page]) => {
      const seconds = Number(ranking[2 * index + 1]) / 1_000;
      readings.push({ page, ...readingOf(parseHistogram(histograms[index]), seconds) });
    });
    return readings;
  }

  async history(site: string, fromMinute: number, step: number): Promise<Peak[]> {
    const today = Math.floor(this.#wallClock() / MINUTE_MS / DAY_MINUTES);
    const firstDay = Math.max(Math.floor(fromMinute / DAY_MINUTES), today - HISTORY_DAYS);
    const dayCount = Math.max(1, today + 2 - firstDay); // the clock may have been wrong when something was recorded
    const keys = Array.from({ length: dayCount }, (_, index) => this.#dayKey(site, firstDay + index));
    const days = await this.#link.ask((client) => client.mgetBuffer(keys));
    const peaks = new Map<number, number>();
    for (const [index, day] of days.entries())
      for (const { minute, peak } of peaksOfDay(firstDay + index, day)) {
        const start = minute - (minute % step);
        if (minute >= fromMinute) peaks.set(start, Math.max(peak, peaks.get(start) ?? 0));
      }
    return Array.from(peaks, ([minute, peak]) => ({ minute, peak }));
  }

  async highest(site: string): Promise<Peak | undefined> {
    const { minute, peak } = await this.#link.ask((client) => client.hgetall(this.#key(site, "highest")));
    return peak === undefined ? undefined : { minute: Number(minute), peak: Number(peak) };
  }

  async firstMinute(site: string): Promise<number | undefined> {
    const today = Math.floor(this.#wallClock() / MINUTE_MS / DAY_MINUTES);
    const days = Array.from({ length: HISTORY_DAYS + 2 }, (_, index) => today - HISTORY_DAYS + index);
    const [isKept, highest] = await Promise.all([
      this.#link.ask((client) => Promise.all(days.map((day) => client.exists(this.#dayKey(site, day))))),
      this.highest(site),
    ]);
    const day = days[isKept.indexOf(1)];
    if (day === undefined) return highest?.minute;
    const bytes = await this.#link.ask((client) => client.getBuffer(this.#dayKey(site, day)));
    const [first] = peaksOfDay(day, bytes);
    return Math.min(first?.minute ?? Infinity, highest?.minute ?? Infinity);
  }

  // Recording

  /** Calls of `record` run one after the other, because the parts of a site must be sent in order. */
  async #recordInTurn(entries: StatsEntries): Promise<void> {
    if (this.#link.isAway) throw new Error("Redis is away, and takes no statistics");
    const obstacle = await this.#sendAll();
    if (obstacle !== undefined)
      throw new Error(`Redis takes no statistics: ${messageOf(obstacle)}`, { cause: obstacle });
    const sites = entriesBySite(entries);
    const unlisted = [...sites.keys()].filter((site) => entries.unlistedSites?.has(site));
    const admitted = await this.#admit(unlisted);
    for (const [site, ofSite] of sites)
      if (admitted.has(site)) this.#enqueue(site, false, ofSite);
      else if (!unlisted.includes(site)) this.#enqueue(site, true, ofSite);
    await this.#sendAll();
  }

  /** Those of the unlisted sites that are recorded. */
  async #admit(sites: readonly string[]): Promise<ReadonlySet<string>> {
    try {
      return await this.#unlisted.admit(sites);
    } catch (error) {
      if (isTemporary(error)) throw error;
      for (const site of sites) this.#giveUp(site, { entries: 1, reason: messageOf(error) }); // listed sites are recorded all the same
      return new Set();
    }
  }

  #enqueue(site: string, isListed: boolean, { readings, peaks, views }: SiteEntries): void {
    const parts = this.#unconfirmed.get(site) ?? [];
    const add = (some: Partial<SiteEntries>) => {
      this.#lastPart += 1;
      const number = this.#lastPart;
      const empty = { readings: [], peaks: [], views: [], sentIn: undefined, tries: 0 };
      parts.push({ number, site, isListed, ...empty, ...some });
    };
    for (const chunk of chunksOf(readings, MAX_PART)) add({ readings: chunk });
    for (const chunk of chunksOf(peaks, MAX_PART)) add({ peaks: chunk });
    for (const chunk of chunksOf(views, MAX_PART)) add({ views: chunk });
    this.#unconfirmed.set(site, parts);
  }

  /** Sends all unconfirmed parts, a few sites at a time. Returns the error when Redis takes nothing now. */
  async #sendAll(): Promise<unknown> {
    const sites = [...this.#unconfirmed.keys()];
    let obstacle: unknown;
    const sendNext = async () => {
      for (let site = sites.pop(); site !== undefined && obstacle === undefined; site = sites.pop())
        obstacle ??= await this.#sendSite(site);
    };
    await Promise.all(Array.from({ length: PARALLEL_SITES }, sendNext));
    return obstacle;
  }

  /** Sends the parts of a site in order. Returns the error when Redis takes nothing now; a refused part is skipped. */
  async #sendSite(site: string): Promise<unknown> {
    const waiting: Part[] = [];
    const parts = this.#unconfirmed.get(site) ?? [];
    let obstacle: unknown;
    for (const part of parts) {
      const error = obstacle === undefined ? await this.#send(part) : obstacle;
      if (error === undefined) continue;
      if (isTemporary(error)) obstacle = error;
      if (part.tries < MAX_TRIES) waiting.push(part);
      else this.#giveUp(part.site, { entries: sizeOf(part), reason: messageOf(error) });
    }
    if (waiting.length > 0) this.#unconfirmed.set(site, waiting);
    else this.#unconfirmed.delete(site);
    return obstacle;
  }

  /** Returns the error when the part could not be sent. */
  async #send(part: Part): Promise<unknown> {
    try {
      const refusal = part.views.length > 0 ? await this.#sendViews(part) : await this.#sendStatistics(part);
      if (refusal.entries > 0) this.#giveUp(part.site, refusal);
      return undefined;
    } catch (error) {
      const isRefusedForNow = error instanceof ReplyError && isTemporary(error); // may last, and costs no try
      if (!isRefusedForNow) part.tries += 1;
      return error;
    }
  }

  #sendViews(part: Part): Promise<Refusal> {
    const sent = this.#totals.addViews(part);
    if (!this.#link.isAway) part.sentIn ??= this.#totals.epochOf(part.site);
    return sent;
  }

  async #sendStatistics(part: Part): Promise<Refusal> {
    const { keys, args } = this.#argumentsOf(part);
    const [entries, reason] = (await this.#link.run(RECORD, keys, args)) as [number, string];
    this.#totals.confirm(part.site, part.number);
    return { entries, reason };
  }

  #giveUp(site: string, { entries, reason: message }: Refusal): void {
    this.#lostEntries += entries;
    if (this.#loggedSites.has(site)) return;
    this.#loggedSites.set(site, true);
    this.#options.log("error", "Redis refuses statistics of a site, which are lost", { site, entries, message });
  }

  #argumentsOf({ number, site, isListed, readings, peaks }: Part): { keys: string[]; args: (string | number)[] } {
    const keys = [this.#mark, "readings", "mostread", "highest"].map((name) => this.#key(site, name));
    const { maxPages, ttlSeconds } = limitsOf(isListed);
    const args: (string | number)[] = [number, MARK_TTL_SECONDS, maxPages, OTHER_PAGES, ttlSeconds, readings.length];
    for (const { page, bucket, views, seconds } of readings)
      args.push(storedPageName(page), bucket, views, Math.round(seconds * 1_000));
    for (const { minute, peak } of peaks) {
      const day = Math.floor(minute / DAY_MINUTES);
      keys.push(this.#dayKey(site, day));
      args.push(minute, minute % DAY_MINUTES, (day + 1 + HISTORY_DAYS) * DAY_SECONDS, peak);
    }
    return { keys, args };
  }

  #key(site: string, name: string): string {
    return keyOf(this.#options.prefix, site, name);
  }

  #dayKey(site: string, day: number): string {
    return this.#key(site, `history:${day}`);
  }
}

const sizeOf = ({ readings, peaks, views }: Part) => readings.length + peaks.length + views.length;

function entriesBySite({ readings, peaks, views = [] }: StatsEntries): Map<string, SiteEntries> {
  const sites = new Map<string, SiteEntries>();
  const entriesOf = (site: string) => {
    const entries = sites.get(site) ?? { readings: [], peaks: [], views: [] };
    sites.set(site, entries);
    return entries;
  };
  for (const reading of readings) entriesOf(reading.site).readings.push(reading);
  for (const peak of peaks) entriesOf(peak.site).peaks.push(peak);
  for (const sum of views) entriesOf(sum.site).views.push(sum);
  return sites;
}

function* chunksOf<Item>(items: Item[], size: number): Generator<Item[]> {
  for (let from = 0; from < items.length; from += size) yield items.slice(from, from + size);
}

/** The minutes of a day in which anybody was there. */
function* peaksOfDay(day: number, bytes: Buffer | null): Generator<Peak> {
  for (let offset = 0; offset < (bytes?.length ?? 0) / BYTES_PER_MINUTE; offset += 1) {
    const peak = bytes?.readUInt32BE(offset * BYTES_PER_MINUTE) ?? 0;
    if (peak > 0) yield { minute: day * DAY_MINUTES + offset, peak };
  }
}
