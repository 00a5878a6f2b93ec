/**
 * The rooms of this node, shared with other nodes through Redis. This part owns the sites that the node shares, the
 * subscription to the messages of other nodes, and the ticker that makes sites sync when nothing changes.
 */

import { LRUCache } from "lru-cache";
import { Agreement } from "./agreement.ts";
import {
  type Cluster,
  type ClusterListener,
  type ClusterRoom,
  messageOf,
  MINUTE_MS,
  NotYetKnownError,
  type SharedSettings,
} from "./engine.ts";
import { type Client, type Link, listenTo } from "./link.ts";
import { parseMessage } from "./messages.ts";
import { type Claimer, durationsOf, keyOf, type Options } from "./options.ts";
import { COUNT } from "./scripts.ts";
import { SharedSite, type SiteContext, type SiteListener } from "./site.ts";

/** The last known total of a room that this node does not have. */
interface LastTotal {
  readonly total: number;
  /** When Redis said so, by `performance.now()`. */
  readonly at: number;
}

/** For how many rooms that this node does not have the last total is kept. */
const MAX_LAST_TOTALS = 10_000;
/** The characters of all their names, which anybody may ask for. */
const MAX_LAST_TOTALS_LENGTH = 2_000_000;

const roomKey = (site: string, page: string) => `${site} ${page}`;

export class RedisCluster implements Cluster {
  readonly #link: Link;
  readonly #options: Required<Options>;
  readonly #context: SiteContext;
  readonly #siteListener: SiteListener;
  readonly #sites = new Map<string, SharedSite>();
  readonly #staleSites = new Set<SharedSite>();
  readonly #lastTotals = new LRUCache<string, LastTotal>({
    max: MAX_LAST_TOTALS,
    maxSize: MAX_LAST_TOTALS_LENGTH,
    sizeCalculation: (_, room) => room.length,
  });
  readonly #agreement: Agreement;
  #listener: ClusterListener | undefined;
  #subscriber: Client | undefined;
  #ticker: ReturnType<typeof setInterval> | undefined;
  #isStale = false;
  #isStopped = false;
  /** When Redis came back after it was away, by `performance.now()`. */
  #backAt = -Infinity;
  /** Messages of somebody else since the last warning, and when the next warning may follow. */
  #foreignMessages = 0;
  #nextWarningAt = 0;

  constructor(link: Link, options: Required<Options>, claimer: Claimer) {
    const { leaseMs, log, prefix } = options;
    this.#link = link;
    this.#options = options;
    this.#agreement = new Agreement(link, options);
    // Redis' messages reach all databases, so the channel names the database: it may be what keeps two services apart.
    const channel = `${prefix}${link.database}`;
    this.#context = { link, durations: durationsOf(leaseMs), log, prefix, claimer, channel };
    this.#siteListener = {
      total: (room, total) => this.#listener?.count(room, total),
      staleChanged: (site) => this.#updateStale(site),
      messagesMissing: () => this.#reconnectSubscriber(),
      emptied: (site) => this.#remove(site),
    };
  }

  listen(listener: ClusterListener): void {
    this.#listener = listener;
    this.#subscriber = this.#subscribe();
    this.#ticker = setInterval(() => this.#tick(), this.#context.durations.tickMs);
    this.#reportStale();
  }

  share(settings: SharedSettings): void {
    this.#agreement.share(settings);
  }

  opened(room: ClusterRoom): void {
    if (!this.#isStopped) this.#siteOf(room).opened(room);
  }

  changed(room: ClusterRoom, visitor: string, isHere: boolean): void {
    if (!this.#isStopped) this.#siteOf(room).changed(room, visitor, isHere);
  }

  closed(room: ClusterRoom): void {
    if (this.#isStopped) return;
    const total = this.#sites.get(room.site)?.closed(room);
    if (total === undefined) return;
    this.#lastTotals.set(roomKey(room.site, room.page ?? ""), { total, at: performance.now() });
  }

  /**
   * The total of a room that this node does not have. While Redis is away, or is being told all again, the last known one.
   * @throws {Error} when none is known: no number is better than a wrong 0
   */
  async count(site: string, page = ""): Promise<number> {
    const room = roomKey(site, page);
    const last = this.#lastTotals.get(room);
    try {
      const total = await this.#askTotal(site, page, last);
      this.#lastTotals.set(room, { total, at: performance.now() });
      return total;
    } catch (error) {
      if (last === undefined) throw error;
      return last.total;
    }
  }

  /** Claims the nonce of a token together with what this node tells about the site. Undefined when that cannot be done. */
  async claim(site: string, nonce: number): Promise<boolean | undefined> {
    return this.#sites.get(site)?.claim(nonce);
  }

  // What the engine says

  /** Called with each beat while Redis answers. */
  beat(now: number): Promise<void> {
    return this.#agreement.check(now);
  }

  away(): void {
    for (const site of this.#sites.values()) site.estimate();
    this.#reportStale();
  }

  back(): void {
    this.#backAt = performance.now();
    for (const site of this.#sites.values()) void site.sync();
    this.#reportStale();
  }

  /** Sends all changes, and keeps this node's visitors counted until they are back. Only `close` sends once more. */
  async hold(): Promise<void> {
    this.#stop();
    await Promise.all(Array.from(this.#sites.values(), (site) => site.hold()));
  }

  async close(): Promise<void> {
    if (this.#isStopped) await this.hold(); // the time in which visitors must come back begins now
    this.#stop();
    for (const site of this.#sites.values()) site.stop();
    this.#subscriber?.disconnect();
  }

  #stop(): void {
    this.#isStopped = true;
    clearInterval(this.#ticker);
  }

  // Sites

  #siteOf({ site: name }: ClusterRoom): SharedSite {
    const found = this.#sites.get(name);
    if (found !== undefined) return found;
    const site = new SharedSite(name, this.#context, this.#siteListener);
    this.#sites.set(name, site);
    if (this.#link.isAway) site.estimate();
    return site;
  }

  #remove(site: SharedSite): void {
    if (this.#sites.get(site.name) === site) this.#sites.delete(site.name);
    this.#staleSites.delete(site);
    this.#reportStale();
  }

  #tick(): void {
    if (this.#link.isAway) return;
    const now = performance.now();
    for (const site of this.#sites.values()) site.tick(now);
  }

  #updateStale(site: SharedSite): void {
    if (site.isStale) this.#staleSites.add(site);
    else this.#staleSites.delete(site);
    this.#reportStale();
  }

  #reportStale(): void {
    const isStale = this.#link.isAway || this.#staleSites.size > 0;
    if (isStale === this.#isStale || this.#listener === undefined) return;
    this.#isStale = isStale;
    this.#listener.stale(isStale);
  }

  // Messages

  #subscribe(): Client {
    const subscriber = this.#link.duplicate();
    subscriber.on("message", (_channel: string, text: string) => this.#receive(text));
    const subscribe = async () => {
      await subscriber.subscribe(this.#context.channel);
      for (const site of this.#sites.values()) site.askForAll(); // messages before the subscription are lost
    };
    listenTo(subscriber, {
      ready: () => void subscribe().catch(() => subscriber.disconnect(true)),
      error: () => {}, // deliberate: the link has a connection to the same Redis, and reports the error
    });
    return subscriber;
  }

  #receive(text: string): void {
    try {
      const message = parseMessage(text);
      this.#sites.get(message.site)?.received(message);
    } catch (error) {
      this.#warnOfForeignMessage(messageOf(error));
    }
  }

  #warnOfForeignMessage(message: string): void {
    this.#foreignMessages += 1;
    const now = performance.now();
    if (now < this.#nextWarningAt) return;
    this.#nextWarningAt = now + MINUTE_MS;
    const messages = this.#foreignMessages;
    this.#options.log("warn", "Redis passed on messages that are not from this service", { messages, message });
    this.#foreignMessages = 0;
  }

  /** The connection may be dead without knowing it. */
  #reconnectSubscriber(): void {
    if (this.#subscriber?.status === "ready") this.#subscriber.disconnect(true);
  }

  // Rooms elsewhere

  /** @throws {Error} when Redis does not answer, or has begun anew and does not know all visitors yet */
  async #askTotal(site: string, page: string, last: LastTotal | undefined): Promise<number> {
    const key = keyOf(this.#options.prefix, site, "totals");
    const [total, epochAgeMs] = (await this.#link.run(COUNT, [key], [page])) as [number, number];
    const isLess = total <= (last?.total ?? 0);
    if (isLess && this.#mayHaveForgotten(epochAgeMs, last))
      throw new NotYetKnownError("Redis has begun anew, and does not know all visitors yet");
    return total;
  }

  #mayHaveForgotten(epochAgeMs: number, last: LastTotal | undefined): boolean {
    const { settleMs, keyTtlMs } = this.#context.durations;
    if (epochAgeMs >= 0) return epochAgeMs < settleMs;
    const now = performance.now(); // nobody counts there: everybody has left, or no node has told Redis again
    const wasCountedLately = last !== undefined && last.total > 0 && now < last.at + keyTtlMs;
    return now < this.#backAt + settleMs || wasCountedLately;
  }
}
