/**
 * Views and visitors in Redis, for good. A site has these keys, beside those that `redis.ts` describes:
 *
 *     counts      hash         epoch · total: views of the site · day, earlier, newcomers: the last day on which anybody
 *                              came, visitors before that day, and visitors who were new on it
 *     views       hash         page → views
 *     days        hash         "<day>v" → views of the day, "<day>u" → its visitors
 *     day:<day>   sorted set   hash of each visitor of the day → 1 if the visitor was new on that day, else 0; expires
 *     base        hash         cell (see VIEWS in `scripts.ts`) → its value when the epoch began; expires
 *
 * Views are added in numbered parts, each part once. Visitors need no numbers: their set says who was counted.
 *
 * Redis may come back empty, or with the data of an earlier time. Then the site gets a new epoch: Redis has no epoch at all,
 * or does not know the last part that it has confirmed to a node. A node remembers the number of each cell as Redis answered
 * it last, with the epoch. When a node meets a new epoch, it tells Redis what it knows from the epoch before, and the hashes of today's
 * visitors. A cell is its value at the beginning of the epoch plus all parts since then, and that beginning is the highest
 * value that any node knows. So nodes may come in any order and at any time, and nothing counts twice. The node that added
 * the last part of a cell knows its exact number, and while that node lives nothing is lost.
 *
 * What may be lost all the same, and is never counted twice:
 *
 *   - what only nodes knew that have ended, or what nodes have forgotten (MAX_CELLS, MAX_HASHES)
 *   - a part that was sent and not confirmed before Redis lost its data, because Redis may have told it to other nodes: at
 *     most what a site has counted in 5 s
 *   - after Redis came back with old data: what a node adds before the first node notices that. All nodes look as soon as
 *     Redis is back
 *   - what nodes have not restored when Redis loses its data again, or when the day ends: they restore it within 3 s
 *
 * A node that starts for the first time in the 3 s after Redis lost the day's secret counts today's visitors once more.
 */

import { LRUCache } from "lru-cache";
import {
  DAY_SECONDS,
  type DayTotals,
  messageOf,
  OTHER_PAGES,
  type SiteTotals,
  storedPageName,
  type TotalsStore,
  type ViewSum,
  type VisitorEntry,
} from "./engine.ts";
import { isTemporary, type Link } from "./link.ts";
import { keyOf, type Options } from "./options.ts";
import { VIEWS, VISITORS } from "./scripts.ts";
import { limitsOf, type UnlistedSites } from "./unlisted.ts";

/** A part of the views of a site, as it is sent. */
interface ViewPart {
  readonly site: string;
  /** Whether the site is in SITES. */
  readonly isListed: boolean;
  /** Grows from part to part. */
  readonly number: number;
  readonly views: readonly ViewSum[];
  /** The epoch in which the part was sent for the first time; undefined when it was not sent yet. */
  readonly sentIn: string | undefined;
}

/** Entries of a part that were not added, and why. */
export interface Refusal {
  readonly entries: number;
  readonly reason: string;
}

/** A number as Redis answered it last. */
interface KnownCell {
  readonly site: string;
  readonly name: string;
  readonly value: number;
  readonly epoch: string;
}

/** The numbers of visitors as Redis answered them last. */
interface KnownVisitors {
  readonly epoch: string;
  readonly lastDay: number;
  readonly earlier: number;
  readonly newcomers: number;
}

/** What this node knows of a site. */
interface KnownSite {
  /** Whether the site is in SITES. */
  isListed: boolean;
  /** The epoch that Redis named last. */
  epoch: string | undefined;
  visitors: KnownVisitors | undefined;
  /** The last part that Redis has confirmed, in which epoch, and when. */
  confirmed: { readonly number: number; readonly epoch: string | undefined; readonly at: number } | undefined;
  /** Visitors of today whom this node has counted: hash → whether the visitor is new today. */
  readonly hashes: Map<string, boolean>;
}

type ViewsReply = [epoch: string, isOfPastEpoch: number, refused: number, reason: string, values: number[]];
type VisitorsReply = [epoch: string, lastDay: number, earlier: number, newcomers: number, visitors: number];

const MAX_SITES = 1_000;
const MAX_CELLS = 50_000; // about 10 MB
const MAX_HASHES = 100_000; // of all sites; about 10 MB
const CHUNK = 500; // cells or visitors in one script: 2,000 arguments, and about 2 ms of Redis
/** How long Redis remembers the last part of a node. */
export const MARK_TTL_SECONDS = DAY_SECONDS;
/** Then the node does not insist that Redis remembers its last part. */
const MARK_TRUSTED_MS = (MARK_TTL_SECONDS / 2) * 1_000;
/** How long after the beginning of an epoch a node can come late without a loss. */
const BASE_TTL_SECONDS = 3_600;
/** A day of 25 hours, and an hour for nodes that are late. */
export const DAY_TTL_SECONDS = 26 * 3_600;
const MAX_RESTORES = 10; // of one site, without success

const TOTAL = "t";
const viewsCell = (day: number) => `d${day}v`;
const visitorsCell = (day: number) => `d${day}u`;
const pageCell = (page: string) => `p${page}`;

export class RedisTotals implements TotalsStore {
  readonly #link: Link;
  readonly #options: Required<Options>;
  /** The mark of this node's last part. */
  readonly #mark: string;
  readonly #unlisted: UnlistedSites;
  readonly #sites = new LRUCache<string, KnownSite>({
    max: MAX_SITES,
    dispose: ({ hashes }) => (this.#hashCount -= hashes.size),
  });
  readonly #cells = new LRUCache<string, KnownCell>({ max: MAX_CELLS });
  /** The day of all hashes that are kept, and their number. */
  #day = -Infinity;
  #hashCount = 0;
  /** Sites whose epoch is a new one, and how often it was tried to restore them. */
  readonly #lost = new Map<string, number>();
  #isRestoring = false;

  /** @param mark the name of the key with this node's last part, in each site */
  constructor(link: Link, options: Required<Options>, mark: string, unlisted: UnlistedSites) {
    this.#link = link;
    this.#unlisted = unlisted;
    this.#options = options;
    this.#mark = mark;
  }

  // Views

  /** The epoch of a site as far as this node knows it. */
  epochOf(site: string): string | undefined {
    return this.#site(site).epoch;
  }

  /** Adds a part. Parts of a site must come in order. @throws {Error} when Redis does not answer, or refuses all of it */
  async addViews({ site, isListed, number, views, sentIn }: ViewPart): Promise<Refusal> {
    this.#site(site).isListed = isListed;
    const adds = new Map([[TOTAL, 0]]);
    for (const { page, day, views: count } of views)
      for (const cell of [TOTAL, viewsCell(day), pageCell(storedPageName(page))])
        adds.set(cell, (adds.get(cell) ?? 0) + count);
    const [, isOfPastEpoch, refused, reason] = await this.#change(site, adds, number, sentIn);
    this.confirm(site, number);
    if (isOfPastEpoch === 1) return { entries: views.length, reason: "Redis lost its data while it added them" };
    return { entries: refused, reason };
  }

  /** Redis has confirmed a part of this node. */
  confirm(site: string, number: number): void {
    this.#site(site).confirmed = { number, epoch: this.epochOf(site), at: performance.now() };
  }

  /** Adds numbers to cells, and tells what this node knows of these cells. */
  async #change(
    site: string,
    adds: ReadonlyMap<string, number>,
    number: number,
    sentIn: string | undefined,
  ): Promise<ViewsReply> {
    const { confirmed, isListed } = this.#site(site);
    const expected = confirmed !== undefined && performance.now() < confirmed.at + MARK_TRUSTED_MS;
    const keys = [this.#mark, "counts", "days", "views", "base"].map((name) => this.#key(site, name));
    const { maxPages, ttlSeconds } = limitsOf(isListed);
    const limits = [MARK_TTL_SECONDS, maxPages, OTHER_PAGES, BASE_TTL_SECONDS, ttlSeconds];
    const last = expected ? [confirmed.number, confirmed.epoch ?? ""] : [0, ""];
    const args: (string | number)[] = [number, ...last, sentIn ?? "", ...limits];
    for (const [name, add] of adds) {
      const known = this.#cells.get(cellKey(site, name));
      args.push(name, add, known?.value ?? 0, known?.epoch ?? "");
    }
    const reply = (await this.#link.run(VIEWS, keys, args)) as ViewsReply;
    const [epoch, , , , values] = reply;
    for (const [index, name] of [...adds.keys()].entries()) this.#learn(site, name, values[index] ?? -1, epoch);
    this.#meet(site, epoch);
    return reply;
  }

  // Visitors

  /** @param unlistedSites those of the sites that are not in SITES. Visitors of the first few of them are counted */
  async countVisitors(entries: readonly VisitorEntry[], unlistedSites: ReadonlySet<string> = new Set()): Promise<void> {
    const groups = Map.groupBy(entries, ({ site, day }) => `${day} ${site}`);
    for (const group of groups.values()) {
      const isListed = !unlistedSites.has(group[0]!.site);
      for (let from = 0; from < group.length; from += CHUNK)
        await this.#countChunk(group.slice(from, from + CHUNK), isListed);
    }
  }

  /** Counts visitors of one site and day. A refusal that does not pass hinders no other site. */
  async #countChunk(entries: readonly VisitorEntry[], isListed: boolean): Promise<void> {
    const { site, day } = entries[0]!;
    const hashes = entries.map(({ hash, isFirstDay }) => [hash, isFirstDay] as const);
    try {
      this.#site(site).isListed = isListed;
      if (!(await this.#isKept(site))) return;
      await this.#enter(site, day, hashes, false);
      this.#rememberHashes(site, day, hashes);
    } catch (error) {
      if (isTemporary(error)) throw error;
      this.#options.log("error", "Redis refuses visitors of a site, who are not counted", {
        site,
        visitors: entries.length,
        message: messageOf(error),
      });
    }
  }

  /** Enters visitors into the set of a day, and tells what this node knows. */
  async #enter(
    site: string,
    day: number,
    hashes: readonly (readonly [string, boolean])[],
    restores: boolean,
  ): Promise<void> {
    const { isListed, visitors: known } = this.#site(site);
    const ofDay = this.#cells.get(cellKey(site, visitorsCell(day)));
    const keys = ["counts", "days", `day:${day}`].map((name) => this.#key(site, name));
    const args: (string | number)[] = [day, DAY_TTL_SECONDS, restores ? 1 : 0, ofDay?.value ?? 0, ofDay?.epoch ?? ""];
    args.push(known?.lastDay ?? 0, known?.earlier ?? 0, known?.newcomers ?? 0, known?.epoch ?? "");
    args.push(limitsOf(isListed).ttlSeconds);
    for (const [hash, isFirstDay] of hashes) args.push(isFirstDay ? 1 : 0, hash);
    const reply = (await this.#link.run(VISITORS, keys, args)) as VisitorsReply;
    const [epoch, lastDay, earlier, newcomers, visitors] = reply;
    this.#site(site).visitors = { epoch, lastDay, earlier, newcomers };
    this.#learn(site, visitorsCell(day), visitors, epoch);
    this.#meet(site, epoch);
  }

  #rememberHashes(site: string, day: number, hashes: readonly (readonly [string, boolean])[]): void {
    if (day > this.#day) this.#forgetHashes(day);
    if (day !== this.#day) return;
    const ofSite = this.#site(site).hashes;
    for (const [hash, isFirstDay] of hashes) {
      if (this.#hashCount >= MAX_HASHES || ofSite.has(hash)) continue;
      ofSite.set(hash, isFirstDay);
      this.#hashCount += 1;
    }
  }

  /** Nobody is remembered for longer than a day. */
  #forgetHashes(day: number): void {
    this.#day = day;
    this.#hashCount = 0;
    for (const { hashes } of this.#sites.values()) hashes.clear();
  }

  // Reading

  async siteTotals(site: string, day: number): Promise<SiteTotals> {
    const [counts, today] = await this.#link.ask((client) =>
      Promise.all([
        client.hmget(this.#key(site, "counts"), "epoch", "total", "earlier", "newcomers"),
        client.hget(this.#key(site, "days"), `${day}u`),
      ]),
    );
    const [epoch, total, earlier, newcomers] = counts;
    this.#meet(site, epoch ?? undefined);
    const { visitors: known } = this.#site(site);
    const isKnown = known !== undefined && known.epoch !== epoch;
    const visitors = Math.max(Number(earlier) + Number(newcomers), isKnown ? known.earlier + known.newcomers : 0);
    return {
      total: this.#atLeastKnown(site, TOTAL, total),
      visitors: Math.min(visitors, Number.MAX_SAFE_INTEGER), // an import may come near it
      today: this.#atLeastKnown(site, visitorsCell(day), today),
    };
  }

  async pageViews(site: string, pages: readonly string[]): Promise<number[]> {
    if (pages.length === 0) return [];
    const names = pages.map(storedPageName);
    const views = await this.#link.ask((client) => client.hmget(this.#key(site, "views"), ...names));
    return names.map((page, index) => this.#atLeastKnown(site, pageCell(page), views[index]));
  }

  async days(site: string, fromDay: number): Promise<DayTotals[]> {
    const fields = await this.#link.ask((client) => client.hgetall(this.#key(site, "days")));
    const days = new Map<number, { day: number; views: number; visitors: number }>();
    for (const [field, value] of Object.entries(fields)) {
      const day = parseInt(field);
      if (day < fromDay) continue;
      const totals = days.get(day) ?? { day, views: 0, visitors: 0 };
      totals[field.endsWith("v") ? "views" : "visitors"] = Number(value);
      days.set(day, totals);
    }
    return [...days.values()].toSorted((a, b) => a.day - b.day);
  }

  /** What Redis answered or, while this node knows more than a younger Redis, what this node knows. */
  #atLeastKnown(site: string, name: string, answer: string | null | undefined): number {
    const known = this.#cells.get(cellKey(site, name));
    const isLost = known !== undefined && known.epoch !== this.epochOf(site);
    return Math.max(Number(answer ?? 0), isLost ? known.value : 0);
  }

  // Restoring

  /** Redis is back: looks whether it still has what it has confirmed to this node. Never rejects. */
  async check(): Promise<void> {
    const known = Array.from(this.#sites.entries(), ([site, { epoch }]) => ({ site, isCounted: epoch !== undefined }));
    try {
      for (const { site, isCounted } of known)
        if (isCounted && (await this.#isKept(site))) await this.#change(site, new Map(), 0, undefined);
    } catch {
      return; // deliberate: Redis is away again, and the link reports that
    }
    await this.restore();
  }

  /** Tells Redis what it has lost. Never rejects: the next beat tries again. */
  async restore(): Promise<void> {
    if (this.#isRestoring) return;
    this.#isRestoring = true;
    for (const site of this.#lost.keys()) if (!(await this.#tryToRestore(site))) break;
    this.#isRestoring = false;
  }

  /** False when Redis takes nothing now. */
  async #tryToRestore(site: string): Promise<boolean> {
    try {
      const epoch = this.epochOf(site);
      if (await this.#isKept(site)) await this.#restoreSite(site);
      if (this.epochOf(site) === epoch) this.#lost.delete(site); // else Redis has lost its data once more
      return true;
    } catch (error) {
      if (isTemporary(error)) return false;
      const tries = (this.#lost.get(site) ?? 0) + 1;
      this.#lost.set(site, tries);
      if (tries < MAX_RESTORES) return true;
      this.#lost.delete(site);
      this.#options.log("error", "totals that Redis has lost cannot be restored", { site, message: messageOf(error) });
      return true;
    }
  }

  async #restoreSite(site: string): Promise<void> {
    const { epoch, visitors, hashes } = this.#site(site);
    const day = this.#day; // another day may begin while this waits
    const entries = [...hashes];
    const names = Array.from(this.#cells.values(), (cell) => cell)
      .filter((cell) => cell.site === site && cell.epoch !== epoch && cell.name !== visitorsCell(day))
      .map(({ name }) => name);
    for (let from = 0; from < names.length; from += CHUNK)
      await this.#change(site, new Map(names.slice(from, from + CHUNK).map((name) => [name, 0])), 0, undefined);
    if (visitors !== undefined && visitors.epoch !== epoch) await this.#enter(site, visitors.lastDay, [], true);
    for (let from = 0; from < entries.length; from += CHUNK)
      await this.#enter(site, day, entries.slice(from, from + CHUNK), true);
  }

  /** Whether the site is in SITES, or one of the first few others. */
  async #isKept(site: string): Promise<boolean> {
    return this.#site(site).isListed || (await this.#unlisted.admit([site])).has(site);
  }

  /** Redis named the epoch of a site; undefined when it has none. */
  #meet(site: string, epoch: string | undefined): void {
    const known = this.#site(site);
    if (known.epoch === epoch) return;
    const isFirst = known.epoch === undefined;
    known.epoch = epoch;
    if (!isFirst) this.#lost.set(site, 0);
  }

  /** Redis answered the value of a cell. -1: the cell has no value of its own. */
  #learn(site: string, name: string, value: number, epoch: string): void {
    const key = cellKey(site, name);
    if (value < 0) this.#cells.delete(key);
    else this.#cells.set(key, { site, name, value, epoch });
  }

  #site(site: string): KnownSite {
    const found = this.#sites.get(site);
    if (found !== undefined) return found;
    const isNew = { isListed: true, epoch: undefined, visitors: undefined, confirmed: undefined };
    const known: KnownSite = { ...isNew, hashes: new Map() };
    this.#sites.set(site, known);
    return known;
  }

  #key(site: string, name: string): string {
    return keyOf(this.#options.prefix, site, name);
  }
}

const cellKey = (site: string, name: string) => `${site} ${name}`;
