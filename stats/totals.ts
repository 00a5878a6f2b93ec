/**
 * Totals: how often pages were viewed, and by how many visitors, ever and today.
 *
 * Nobody is remembered for longer than a day. The id of a visitor carries the day on which it was minted. The engine keeps
 * one set of keyed hashes per site and day: whoever is not in it yet is new today, and whoever is new today on the day of
 * their minting is new altogether. The key and the set are thrown away when the day is over.
 *
 * Views are summed up here, and the journal gives them to the engine every 5 s. Visitors go to the engine at once, in
 * batches, so a visitor's own first frame includes them.
 */

import { createHmac } from "node:crypto";
import { setImmediate, setTimeout } from "node:timers/promises";
import {
  type Log,
  messageOf,
  type SecretStore,
  type SiteTotals,
  type TotalsStore,
  type ViewSum,
  type VisitorEntry,
} from "../engine/engine.ts";
import { NumberSet } from "../engine/number-set.ts";
import { Memo } from "../shared/memo.ts";
import type { RecordedSites } from "./live.ts";

/** What pages show. A number that is not known yet is undefined. */
export interface TotalNumbers {
  /** Views of the page. */
  readonly views: number | undefined;
  /** Views of all pages of the site. */
  readonly total: number | undefined;
  readonly visitors: number | undefined;
  readonly today: number | undefined;
}

interface TotalsOptions {
  readonly store: TotalsStore;
  readonly secrets: SecretStore;
  /** The day that it is now. */
  readonly today: () => number;
  /** The day on which the id of a visitor was minted; undefined when the id does not tell, and the visitor is not new. */
  readonly mintedOn: (visitor: string) => number | undefined;
  readonly sites: RecordedSites;
  readonly log: Log;
}

/** A visitor whom the engine has not counted yet. */
interface WaitingVisitor {
  readonly site: string;
  readonly visitor: string;
  readonly day: number;
  /** Called when the visitor is counted, or the engine is away. */
  readonly done: () => void;
}

/** A number of the engine. */
interface Cached<Value> {
  stored: Value | undefined;
  expiresAt: number;
  /** While the engine is asked. */
  reading: Promise<void> | undefined;
}

/** What the engine answered. Not exact: it may hold a part of the views that were on their way to the engine meanwhile. */
interface Answer<Value> {
  readonly value: Value;
  readonly isExact: boolean;
}

/** How a number is read. */
interface Question<Value> {
  /** The page or the site whose views the number holds. */
  readonly key: string;
  readonly ask: () => Promise<Value>;
  /** The number that is known, with what can be believed of an answer that is not exact. */
  readonly keepViews: (known: Value, answer: Value) => Value;
}

const CACHE_MS = 5_000; // other nodes count as well
const MAX_PAGES = 50_000;
const MAX_SITES = 10_000;
const MAX_SEEN = 100_000; // visitors of today who need no look into the engine
const MAX_WAITING = 50_000; // visitors who wait for an engine that is away
const BATCH = 500; // about 5 ms of the engine
const BATCH_GAP_MS = 5; // a transaction costs as much as thirty visitors
const HASH_LENGTH = 16; // 96 bits in base64url

const pageKey = (site: string, page: string) => `${site} ${page}`;

export class Totals {
  /** How often the engine could not count visitors. */
  failures = 0;
  readonly #options: TotalsOptions;
  #day: number;
  /** Views of the day that the engine has not taken yet, by page, and those of earlier days. */
  #views = new Map<string, ViewSum>();
  #earlierViews: ViewSum[] = [];
  readonly #pages = new Memo<Cached<number>>(notRead, MAX_PAGES);
  readonly #sites = new Memo<Cached<SiteTotals>>(notRead, MAX_SITES);
  /** How many views of each page, and of each site, the engine has not taken yet. */
  readonly #unstored = new Map<string, number>();
  /** How many writes of views are under way, and how many have ended. */
  #writing = 0;
  #written = 0;
  #nextWritten = Promise.withResolvers<void>();
  /** Hashes of the visitors whom the engine has counted today, or is about to. No two sites have a visitor id in common. */
  readonly #seenToday = new NumberSet();
  /** The keys of the hashes, by day: that of today, and those of earlier days while visitors of these days wait. */
  readonly #secrets = new Map<number, string>();
  #waiting: WaitingVisitor[] = [];
  #counting: Promise<void> | undefined;
  #isFailing = false;

  constructor(options: TotalsOptions) {
    this.#options = options;
    this.#day = options.today();
  }

  /** The day that counts now. It does not go back when a clock is put back a little, because the last set is gone. */
  get day(): number {
    const today = this.#options.today();
    if (today > this.#day || today < this.#day - 1) this.#beginDay(today);
    return this.#day;
  }

  /** A page was shown to a visitor. */
  countView(site: string, page: string): void {
    if (!this.#options.sites.admit(site)) return;
    const { day } = this;
    const key = pageKey(site, page);
    const sum = this.#views.get(key);
    if (sum !== undefined) sum.views += 1;
    else if (this.#views.size < MAX_PAGES) this.#views.set(key, { site, page, day, views: 1 });
    else return;
    this.#addUnstored(key, 1);
    this.#addUnstored(site, 1);
  }

  /**
   * A visitor is on a site today. Resolves when the engine has counted the visitor, or is away; undefined when there is
   * nothing to wait for.
   */
  countVisitor(site: string, visitor: string): Promise<void> | undefined {
    if (!this.#options.sites.admit(site)) return undefined;
    const { day } = this;
    const hash = hashOf(visitor);
    if (this.#seenToday.has(hash) || this.#waiting.length >= MAX_WAITING) return undefined; // the next page tries again
    if (this.#seenToday.size >= MAX_SEEN) this.#seenToday.clear(); // the engine knows them, and counts nobody twice
    this.#seenToday.add(hash);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push({ site, visitor, day, done: resolve });
    void this.countWaiting();
    return promise;
  }

  /**
   * Gives the waiting visitors to the engine. Those that it does not take wait for the next call. Also asks for the key of a
   * new day before anybody comes, so all nodes have the same one when the engine goes away or loses it.
   */
  countWaiting(): Promise<void> {
    this.#counting ??= this.#countInTurns();
    return this.#counting;
  }

  /** Takes the views that the engine does not have yet. `viewsStored` or `giveBackViews` follows. */
  takeViews(): ViewSum[] {
    const views = [...this.#earlierViews, ...this.#views.values()];
    this.#earlierViews = [];
    this.#views = new Map();
    this.#writing += 1;
    return views;
  }

  viewsStored(sums: readonly ViewSum[]): void {
    for (const { site, page, views } of sums) {
      const key = pageKey(site, page);
      this.#addUnstored(key, -views);
      this.#addUnstored(site, -views);
      const ofPage = this.#pages.peek(key);
      const ofSite = this.#sites.peek(site);
      if (ofPage?.stored !== undefined) ofPage.stored += views;
      if (ofSite?.stored !== undefined) ofSite.stored = { ...ofSite.stored, total: ofSite.stored.total + views };
    }
    this.#writeEnded();
  }

  giveBackViews(sums: readonly ViewSum[]): void {
    for (const sum of sums) {
      const again = this.#views.get(pageKey(sum.site, sum.page));
      if (sum.day !== this.#day) this.#earlierViews.push(sum);
      else if (again !== undefined) again.views += sum.views;
      else this.#views.set(pageKey(sum.site, sum.page), sum);
    }
    this.#writeEnded();
  }

  /**
   * Reads numbers again where they are old.
   *
   * @param now milliseconds of a monotonic clock
   * @returns true when all numbers are known now, and were not before; undefined when there is nothing to read
   */
  refresh(site: string, page: string, now: number): Promise<boolean> | undefined {
    const ofSite = this.#sites.get(site);
    const ofPage = this.#pages.get(pageKey(site, page));
    if (now >= ofSite.expiresAt) ofSite.reading = this.#read(ofSite, now, this.#siteQuestion(site));
    if (now >= ofPage.expiresAt) ofPage.reading = this.#read(ofPage, now, this.#pageQuestion(site, page));
    return ofSite.reading === undefined && ofPage.reading === undefined ? undefined : whenKnown(ofSite, ofPage);
  }

  /** The numbers for a page, as far as they are known. */
  numbers(site: string, page: string): TotalNumbers {
    const key = pageKey(site, page);
    const views = this.#pages.get(key).stored;
    const { total, visitors, today } = this.#sites.get(site).stored ?? {};
    return {
      views: views === undefined ? undefined : views + this.#unstoredOf(key),
      total: total === undefined ? undefined : total + this.#unstoredOf(site),
      visitors,
      today,
    };
  }

  /** Numbers of several pages, read from the engine now. */
  async viewsOf(site: string, pages: readonly string[]): Promise<number[]> {
    const keys = pages.map((page) => pageKey(site, page));
    const { value: stored } = await this.#askForExact(keys, () => this.#options.store.pageViews(site, pages));
    return keys.map((key, index) => (stored[index] ?? 0) + this.#unstoredOf(key));
  }

  #beginDay(day: number): void {
    this.#earlierViews.push(...this.#views.values());
    this.#views = new Map();
    this.#seenToday.clear();
    this.#day = day;
    this.#forgetSecrets();
    for (const site of this.#sites.values()) site.expiresAt = 0;
  }

  #unstoredOf(key: string): number {
    return this.#unstored.get(key) ?? 0;
  }

  #addUnstored(key: string, views: number): void {
    const sum = this.#unstoredOf(key) + views;
    if (sum === 0) this.#unstored.delete(key);
    else this.#unstored.set(key, sum);
  }

  #writeEnded(): void {
    this.#writing -= 1;
    this.#written += 1;
    this.#nextWritten.resolve();
    this.#nextWritten = Promise.withResolvers();
  }

  #siteQuestion(site: string): Question<SiteTotals> {
    return {
      key: site,
      ask: () => this.#options.store.siteTotals(site, this.day),
      keepViews: ({ total }, answer) => ({ ...answer, total }),
    };
  }

  #pageQuestion(site: string, page: string): Question<number> {
    return {
      key: pageKey(site, page),
      ask: async () => (await this.#options.store.pageViews(site, [page]))[0] ?? 0,
      keepViews: (known) => known,
    };
  }

  async #read<Value>(entry: Cached<Value>, now: number, { key, ask, keepViews }: Question<Value>): Promise<void> {
    entry.expiresAt = now + CACHE_MS; // before the answer, so that it is asked for once
    const isKnown = entry.stored !== undefined;
    const answer = await (isKnown ? this.#ask([key], ask) : this.#askForExact([key], ask)).catch(() => undefined);
    entry.reading = undefined;
    if (answer?.isExact !== true) entry.expiresAt = 0; // it is read again next time
    if (answer === undefined) return; // while the engine is away, the last numbers stay
    if (answer.isExact) entry.stored = answer.value;
    else if (entry.stored !== undefined) entry.stored = keepViews(entry.stored, answer.value);
  }

  /** Asks the engine, and once more after the write of views that the answer has crossed. */
  async #askForExact<Value>(keys: readonly string[], ask: () => Promise<Value>): Promise<Answer<Value>> {
    const answer = await this.#ask(keys, ask);
    if (answer.isExact) return answer;
    if (this.#writing > 0) await this.#nextWritten.promise;
    return this.#ask(keys, ask);
  }

  /** Asks the engine. */
  async #ask<Value>(keys: readonly string[], ask: () => Promise<Value>): Promise<Answer<Value>> {
    const written = this.#written;
    const value = await ask();
    const mayCross = this.#writing > 0 && keys.some((key) => this.#unstored.has(key));
    return { value, isExact: !mayCross && written === this.#written };
  }

  async #countInTurns(): Promise<void> {
    try {
      await this.#secretOf(this.day);
      while (this.#waiting.length > 0) {
        await setImmediate(); // whoever comes in the same turn is in the same batch
        const counted = await this.#countBatch();
        if (counted > 1) await setTimeout(BATCH_GAP_MS); // whoever comes meanwhile is in the next batch
      }
      this.#isFailing = false;
      this.#forgetSecrets();
    } catch (error) {
      this.#noteFailure(error);
      for (const { done } of this.#waiting) done(); // nobody waits for an engine that is away
    } finally {
      // Not in a `.finally` of the caller: whoever came before it ran would wait for the next call.
      this.#counting = undefined;
    }
  }

  #noteFailure(error: unknown): void {
    this.failures += 1;
    const message = messageOf(error);
    if (!this.#isFailing)
      this.#options.log("warn", "visitors cannot be counted for the totals, and are counted later", { message });
    this.#isFailing = true;
  }

  async #countBatch(): Promise<number> {
    const { store, sites } = this.#options;
    const batch = this.#waiting.slice(0, BATCH);
    for (const day of new Set(batch.map((waiting) => waiting.day))) await this.#secretOf(day);
    const entries = batch.map((waiting) => this.#entryOf(waiting));
    await store.countVisitors(entries, sites.unlisted);
    this.#waiting.splice(0, batch.length); // others may have come meanwhile, behind these
    for (const { site, done } of batch) {
      this.#sites.get(site).expiresAt = 0;
      done();
    }
    return batch.length;
  }

  #entryOf({ site, visitor, day }: WaitingVisitor): VisitorEntry {
    const hmac = createHmac("sha256", this.#secrets.get(day)!).update(`${site} ${visitor}`);
    const hash = hmac.digest("base64url").slice(0, HASH_LENGTH);
    return { site, day, hash, isFirstDay: this.#options.mintedOn(visitor) === day };
  }

  async #secretOf(day: number): Promise<void> {
    if (!this.#secrets.has(day)) this.#secrets.set(day, await this.#options.secrets.secret("day", String(day)));
  }

  /** Keys of earlier days are thrown away, unless visitors of these days still wait. */
  #forgetSecrets(): void {
    if (this.#waiting.length > 0) return;
    for (const day of this.#secrets.keys()) if (day !== this.#day) this.#secrets.delete(day);
  }
}

/**
 * A hash of 48 bits: half of FNV-1a, half of the hash that Java uses. Ids are random and signed, so a fast hash is enough.
 * Beside MAX_SEEN others, one visitor in three billion has the hash of another one and is not counted.
 */
function hashOf(visitor: string): number {
  let low = 0x811c9dc5;
  let high = 0;
  for (let at = 0; at < visitor.length; at += 1) {
    const code = visitor.charCodeAt(at);
    low = Math.imul(low ^ code, 0x01000193);
    high = (Math.imul(high, 31) + code) | 0;
  }
  return (low >>> 0) + (high >>> 16) * 2 ** 32;
}

/** @returns true when both are known after they were read, and were not before */
async function whenKnown(ofSite: Cached<SiteTotals>, ofPage: Cached<number>): Promise<boolean> {
  const areKnown = () => ofSite.stored !== undefined && ofPage.stored !== undefined;
  const wereKnown = areKnown();
  await ofSite.reading; // neither is ever rejected
  await ofPage.reading;
  return !wereKnown && areKnown();
}

const notRead = <Value>(): Cached<Value> => ({ stored: undefined, expiresAt: 0, reading: undefined });
