/**
 * The engine for several nodes. All nodes that share one Redis (or Valkey) count together and are one service.
 *
 * A node never asks another node, and never adds up what nodes have counted: a visitor with pages on two nodes is one
 * visitor. For each site, Redis holds which nodes count there and which members each node has:
 *
 *     headcount:{example.com}:nodes      sorted set   node → when its lease ends, in milliseconds of Redis' own clock
 *     headcount:{example.com}:meta       hash         epoch, versions, and node → number of its last batch, size of its set
 *     headcount:{example.com}:n:<node>   set          members of the node: "visitor" on the site, "visitor /page" on a page
 *     headcount:{example.com}:refs       hash         member → how many nodes have it
 *     headcount:{example.com}:totals     hash         page ("" is the site) → how many members it has: the number shown
 *     headcount:{example.com}:dirty      set          pages whose totals changed since the last message
 *     headcount:{example.com}:spent:…    string       a token that was used, and the node that let it in
 *
 * Apart from the tokens of the last minute, a site has a handful of keys, however many pages and visitors it has. They
 * share one hash tag, so Redis Cluster keeps them together. Only scripts (`scripts.ts`) change them, so they always agree. Each key has an expiry that living nodes
 * extend, so the keys disappear after the last node. The secret that signs visitor ids, the statistics and the totals stay.
 *
 * One script does nearly all the work. `SYNC` claims the tokens of pages that want to come in, tells Redis who came and left
 * on this node since the last sync, renews the lease of the node, and answers with the totals that changed or were asked
 * for. A quiet site syncs at once, a busy one gathers changes (`schedule.ts`). Without changes it syncs every 3 s.
 *
 * Redis tells the nodes by Pub/Sub which totals changed. It gathers the changes of all nodes: a message tells everything
 * that changed since the message before, at once on a quiet site and every 60 ms on a busy one. The script that makes a
 * change publishes it, or leaves it to the next sync of any node. The node of the last change looks after that.
 *
 * What happens after each failure:
 *
 *   a node dies            its lease expires (10 s). The node that syncs next removes its members, in batches that another
 *                          node can continue
 *   a node freezes         others remove its members. Its next sync says so, and it begins anew from memory, under a new name
 *   an answer is lost      the same batch is sent again. Batches are numbered and count once
 *   a message is lost      a message names the version of the message before. The node notices a gap, or a sync answers that
 *                          there was a later message, and the node asks for all totals
 *   changes are left       (their node died before it looked after them) the next sync of any node publishes them
 *   Redis does not answer  commands fail within 0.9 s, later ones at once. Totals are the last known ones plus local changes
 *                          (the site is "estimating"), pages learn that numbers are stale, tokens are single use per node
 *   Redis lost all data    the site gets a new epoch. Every node begins anew from memory, and estimates until the epoch is
 *                          4 s old: before that some nodes may not have told their visitors, and totals would dip
 *   Redis lost some data   (a replica took over) the batch number is not the expected one. The node begins anew
 *   Redis evicted a key    keys carry marks and sizes. Keys that do not fit together are deleted, as if all data were lost.
 *                          Without `dirty` the next message shows a gap
 *   somebody else writes   keys of a wrong type are deleted, and Redis then "lost some data". A message is believed until the
 *                          next answer of Redis, and not when its numbers are impossible
 *
 * The clocks of nodes do not matter. Leases and tokens follow the clock of Redis (`clock.ts`), everything else follows
 * elapsed time. After an outage no node is reaped for 4 s, because all leases have expired together and every living node
 * is about to renew its own.
 *
 *   link.ts         the connection to Redis, and whether Redis answers
 *   clock.ts        the time that all nodes agree on
 *   site.ts         one site: its syncs, its state, its totals
 *   schedule.ts     when a site syncs
 *   messages.ts     messages from other nodes, and whether some were lost
 *   cluster.ts      all sites of this node, and the subscription to messages
 *   agreement.ts    notices nodes with other settings
 *   statistics.ts   reading times and peaks, and the way of everything that the journal records
 *   redis-totals.ts views and visitors
 *   unlisted.ts     sites that are not in SITES
 *   redis-transfer.ts export and import
 *   options.ts      options, durations, names of keys
 */

import { createHash } from "node:crypto";
import { RedisClock } from "./clock.ts";
import { RedisCluster } from "./cluster.ts";
import {
  type DayTotals,
  type Engine,
  type ImportedTotals,
  type KeptEntry,
  type KeptSecret,
  type KeptSiteEntry,
  type Member,
  messageOf,
  newSecret,
  type PageReading,
  type Peak,
  type Reading,
  type SecretKind,
  type SecretStore,
  type SiteTotals,
  type SpentToken,
  type StatsEntries,
  type TokenStore,
  type VisitorEntry,
} from "./engine.ts";
import { type Client, connect, Link } from "./link.ts";
import {
  type Claimer,
  claimKeyOf,
  durationsOf,
  type Options,
  secretKey,
  ttlOfSecret,
  withDefaults,
} from "./options.ts";
import { RedisTotals } from "./redis-totals.ts";
import { RedisTransfer } from "./redis-transfer.ts";
import { CLAIM } from "./scripts.ts";
import { newNodeName } from "./site.ts";
import { SpentNonces } from "./spent-nonces.ts";
import { RedisStatistics } from "./statistics.ts";
import { UnlistedSites } from "./unlisted.ts";

// ── Secrets ─────────────────────────────────────────────────────────────────────────────────────────────────────────
// Every node remembers the secrets that it uses, and puts them back when Redis has lost them.

interface Secret {
  readonly key: string;
  readonly name: string;
  readonly value: string;
  /** undefined for a secret that stays */
  readonly ttlSeconds: number | undefined;
}

/** How long the key of the visitors of a day is needed after the day: a node that was cut off over midnight counts late. */
const LATE_SECONDS = 2 * 3_600;

/** Names are dates, or numbers of days. */
const isLater = (name: string, other: string) => name.localeCompare(other, "en", { numeric: true }) > 0;

const sha256 = (text: string) => createHash("sha256").update(text).digest("base64url");

class Secrets implements SecretStore {
  readonly #link: Link;
  readonly #options: Required<Options>;
  /** The last secret of each kind. */
  readonly #last = new Map<SecretKind, Secret>();
  /** The key of the visitors of the day before, and when nobody needs it any more, by `performance.now()`. */
  #dayBefore: { readonly secret: Secret; readonly until: number } | undefined;

  constructor(link: Link, options: Required<Options>) {
    this.#link = link;
    this.#options = options;
  }

  async secret(kind: SecretKind, name: string): Promise<string> {
    const last = this.#last.get(kind);
    const proposal = this.#propose(kind, name, last);
    const value = await this.#store(proposal).catch((error: unknown) => {
      const canWait = kind === "day" && last?.key !== proposal.key; // the visitors of a new day do
      if (last !== undefined && !canWait) return proposal.value;
      throw new Error(`Cannot keep the ${kind} secret in Redis: ${messageOf(error)}`, { cause: error });
    });
    this.#last.set(kind, { ...proposal, value });
    if (last !== undefined && isLater(name, last.name)) await this.#throwAway(kind, last);
    return value;
  }

  /** Puts secrets back that Redis has lost. Never rejects: the next beat tries again. */
  async restore(): Promise<void> {
    for (const [kind, secret] of this.#last)
      try {
        const value = await this.#store(secret);
        if (value === secret.value) continue;
        this.#options.log("error", "this node's secret is not that of the other nodes: restart this node", { kind });
        this.#last.delete(kind);
      } catch {
        return; // deliberate: the link reports that Redis is away
      }
    await this.#restoreDayBefore().catch(() => {}); // deliberate, as above
  }

  async #restoreDayBefore(): Promise<void> {
    if (this.#dayBefore === undefined) return;
    const { secret, until } = this.#dayBefore;
    if (performance.now() < until) await this.#store(secret);
    else this.#dayBefore = undefined;
  }

  /**
   * The secret for the case that Redis has none. It is made from the last one of its kind, so all nodes propose the same one.
   * Nobody can compute the last one from it; but whoever knows one can compute those that follow.
   */
  #propose(kind: SecretKind, name: string, last: Secret | undefined): Secret {
    const key = secretKey(this.#options.prefix, kind, name);
    const ttlSeconds = ttlOfSecret(kind);
    if (last?.key === key) return last;
    if (this.#dayBefore?.secret.key === key) return this.#dayBefore.secret;
    const value = last === undefined ? newSecret() : sha256(last.value + name);
    return { key, name, ttlSeconds, value };
  }

  /** The day of the secret is over. */
  async #throwAway(kind: SecretKind, last: Secret): Promise<void> {
    const isNeededLater = kind === "day";
    if (isNeededLater) {
      const secret = { ...last, ttlSeconds: LATE_SECONDS };
      this.#dayBefore = { secret, until: performance.now() + LATE_SECONDS * 1_000 };
      await this.#restoreDayBefore().catch(() => {}); // deliberate: the next beat tries again
    }
    const seconds = isNeededLater ? LATE_SECONDS : 0;
    await this.#link.ask((client) => client.expire(last.key, seconds)).catch(() => {}); // deliberate: it expires in two days anyway
  }

  /** Stores the secret unless Redis has one. Returns the one that Redis has. */
  #store({ key, value, ttlSeconds }: Secret): Promise<string> {
    return this.#link.ask(async (client) => {
      const found = await client.get(key);
      if (found !== null) return found;
      if (ttlSeconds === undefined) await client.set(key, value, "NX");
      else await client.set(key, value, "EX", ttlSeconds, "NX");
      return (await client.get(key)) ?? value; // another node may have stored its own meanwhile
    });
  }
}

// ── Tokens ──────────────────────────────────────────────────────────────────────────────────────────────────────────
// A nonce is claimed in Redis, so a token works once on all nodes. While Redis is away, it works once on each node. Claims
// go with the syncs of their site; those of a site that has no room here yet, or is not counted by Redis, go by themselves.

class Tokens implements TokenStore {
  readonly #link: Link;
  readonly #prefix: string;
  readonly #cluster: RedisCluster;
  readonly #claimer: Claimer;
  readonly #spentHere: SpentNonces;

  constructor(link: Link, options: Required<Options>, cluster: RedisCluster, claimer: Claimer) {
    this.#link = link;
    this.#prefix = options.prefix;
    this.#cluster = cluster;
    this.#claimer = claimer;
    this.#spentHere = new SpentNonces(options.tokenTtlMs);
  }

  async spend({ site, nonce }: SpentToken, now: number): Promise<boolean> {
    if (!this.#spentHere.spend(nonce, now)) return false;
    return (await this.#cluster.claim(site, nonce)) ?? this.#claim(site, nonce);
  }

  /** Claims one nonce. The cluster may have claimed it for this node already, without hearing an answer. */
  async #claim(site: string, nonce: number): Promise<boolean> {
    const { name, ttlMs } = this.#claimer;
    const key = claimKeyOf(this.#prefix, site, nonce);
    const claimed = await this.#link.run(CLAIM, [key], [name, ttlMs]).catch(() => undefined);
    return !Array.isArray(claimed) || claimed[0] === 1;
  }
}

// ── Engine ──────────────────────────────────────────────────────────────────────────────────────────────────────────
// Puts the parts together, and tells them when Redis is away or back.

export class RedisEngine implements Engine {
  readonly name = "redis";
  readonly cluster: RedisCluster;
  readonly #options: Required<Options>;
  readonly #link: Link;
  readonly #clock: RedisClock;
  readonly #secrets: Secrets;
  readonly #tokens: Tokens;
  readonly #totals: RedisTotals;
  readonly #statistics: RedisStatistics;
  readonly #transfer: RedisTransfer;
  readonly #beat: ReturnType<typeof setInterval>;

  private constructor(client: Client, options: Required<Options>) {
    const { beatMs, tickMs } = durationsOf(options.leaseMs);
    this.#options = options;
    this.#link = new Link(client, tickMs, {
      away: (reason) => this.#redisIsAway(reason),
      back: () => this.#redisIsBack(),
    });
    this.#clock = new RedisClock(this.#link, options.prefix);
    const claimer = { name: newNodeName(), ttlMs: 2 * options.tokenTtlMs }; // the clock of a node that was cut off may be slow
    this.cluster = new RedisCluster(this.#link, options, claimer);
    this.#secrets = new Secrets(this.#link, options);
    this.#tokens = new Tokens(this.#link, options, this.cluster, claimer);
    const mark = `wrote:${newNodeName()}`;
    const wallClock = () => this.wallClock();
    const unlisted = new UnlistedSites(this.#link, options.prefix, wallClock);
    this.#totals = new RedisTotals(this.#link, options, mark, unlisted);
    this.#statistics = new RedisStatistics(this.#link, options, wallClock, mark, this.#totals, unlisted);
    this.#transfer = new RedisTransfer(this.#link, options, this, unlisted);
    this.#beat = setInterval(() => this.#maintain(), beatMs);
  }

  /**
   * Connects to Redis, Valkey or a Redis Cluster: `redis://:password@host:6379/0`, or `rediss://…` for TLS.
   * @throws {Error} when Redis refuses the password, or is not there within 30 s: without the shared secret a node is useless
   */
  static async open(url: string, options: Options): Promise<RedisEngine> {
    const all = withDefaults(options);
    const client = await connect(url, durationsOf(all.leaseMs).commandTimeoutMs, all.log);
    const engine = new RedisEngine(client, all);
    await engine.#clock.start();
    return engine;
  }

  get failures(): number {
    return this.#link.failures;
  }

  get lostEntries(): number {
    return this.#statistics.lostEntries;
  }

  wallClock(): number {
    return this.#clock.now();
  }

  secret(kind: SecretKind, name: string): Promise<string> {
    return this.#secrets.secret(kind, name);
  }

  spend(token: SpentToken, now: number): Promise<boolean> {
    return this.#tokens.spend(token, now);
  }

  hold(_members: Iterable<Member>): Promise<void> {
    return this.cluster.hold();
  }

  /** Nobody: the other nodes have counted them all the time. */
  async held(): Promise<Member[]> {
    return [];
  }

  record(entries: StatsEntries): Promise<void> {
    return this.#statistics.record(entries);
  }

  reading(site: string, page: string): Promise<Reading> {
    return this.#statistics.reading(site, page);
  }

  mostRead(site: string): Promise<PageReading[]> {
    return this.#statistics.mostRead(site);
  }

  history(site: string, fromMinute: number, step: number): Promise<Peak[]> {
    return this.#statistics.history(site, fromMinute, step);
  }

  highest(site: string): Promise<Peak | undefined> {
    return this.#statistics.highest(site);
  }

  firstMinute(site: string): Promise<number | undefined> {
    return this.#statistics.firstMinute(site);
  }

  countVisitors(entries: readonly VisitorEntry[], unlistedSites?: ReadonlySet<string>): Promise<void> {
    return this.#totals.countVisitors(entries, unlistedSites);
  }

  siteTotals(site: string, day: number): Promise<SiteTotals> {
    return this.#totals.siteTotals(site, day);
  }

  pageViews(site: string, pages: readonly string[]): Promise<number[]> {
    return this.#totals.pageViews(site, pages);
  }

  days(site: string, fromDay: number): Promise<DayTotals[]> {
    return this.#totals.days(site, fromDay);
  }

  keptSites(): Promise<string[]> {
    return this.#transfer.keptSites();
  }

  keptEntries(site: string, withVisitors: boolean): Promise<KeptSiteEntry[]> {
    return this.#transfer.keptEntries(site, withVisitors);
  }

  keptSecrets(): Promise<KeptSecret[]> {
    return this.#transfer.keptSecrets();
  }

  restore(id: string, sites: readonly string[], entries: Iterable<KeptEntry>): Promise<void> {
    return this.#transfer.restore(id, sites, entries);
  }

  imported(site: string, source: string): Promise<ImportedTotals | undefined> {
    return this.#transfer.imported(site, source);
  }

  importTotals(site: string, source: string, totals: ImportedTotals): Promise<void> {
    return this.#transfer.importTotals(site, source, totals);
  }

  async close(): Promise<void> {
    clearInterval(this.#beat);
    await this.cluster.close();
    this.#link.close();
  }

  #redisIsAway(message: string): void {
    this.#options.log("warn", "Redis is away: counts are held, and are right again when it is back", { message });
    this.cluster.away();
  }

  #redisIsBack(): void {
    this.#options.log("info", "Redis is back");
    this.#maintain();
    this.cluster.back();
    void this.#totals.check();
  }

  #maintain(): void {
    if (this.#link.isAway) return;
    void this.#secrets.restore();
    void this.#clock.measure();
    void this.cluster.beat(performance.now());
    void this.#totals.restore();
  }
}
