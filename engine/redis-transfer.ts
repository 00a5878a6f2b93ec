/**
 * Export and import in Redis. A site has these keys for it, beside those that `redis-totals.ts` and `statistics.ts` have:
 *
 *     imports             set      sources from which totals were imported
 *     import:<source>     hash     what was imported from the source (see IMPORT in `scripts.ts`)
 *     importing:<source>  hash     the same, until all of it is there; expires
 *     restoring:<name>    any      what will be the key <name> once all of an export is there; expires
 *     restored            string   the id of the export that takes the place of the keys of the site; expires
 *
 * In the end an export takes effect site by site, each site at once. After an interruption, import the same file again.
 *
 * When Redis loses its data, nodes restore totals, and not what was imported from where: the same import would then be added
 * once more. After a restore, visitors of the day count as visitors of earlier days. Should Redis lose its data on the same
 * day, those of them who were new on it and have come again are counted once more.
 */

import { Cluster } from "ioredis";
import {
  DAY_MINUTES,
  DAY_SECONDS,
  type Engine,
  HISTORY_DAYS,
  type ImportedTotals,
  ImportRefusal,
  type KeptEntry,
  type KeptSecret,
  type KeptSiteEntry,
  MAX_PAGES_PER_SITE,
  OTHER_PAGES,
  type SecretKind,
  type StatsStore,
  type TotalsStore,
  type TransferStore,
} from "./engine.ts";
import { entriesOf, type KeptReading, type KeptSite, sorted, withStoredNames } from "./kept.ts";
import type { Client, Link } from "./link.ts";
import { keyOf, type Options, secretKey, siteOfKey, ttlOfSecret } from "./options.ts";
import { parseHistogram } from "./reading.ts";
import { DAY_TTL_SECONDS } from "./redis-totals.ts";
import { IMPORT } from "./scripts.ts";
import { BYTES_PER_MINUTE } from "./statistics.ts";
import { limitsOf, type UnlistedSites } from "./unlisted.ts";

const SCAN_COUNT = "1000";
/** Keys that exist only where something is kept of a site. */
const KEPT = /^(counts|days|views|readings|mostread|highest|imports)$/;
const FIELDS_PER_CALL = 1_000;
const ENTRIES_AT_A_TIME = 100;
/** How long the pieces of an import may wait for its end. */
const STAGING_SECONDS = DAY_SECONDS;

/** A site that is being restored. */
interface StagedSite {
  isListed: boolean;
  /** Name of a key → when it expires, in seconds since 1970; undefined: as the site's other numbers do. */
  readonly keys: Map<string, number | undefined>;
}

/** What the engine keeps, and the time of Redis. */
type Store = StatsStore & TotalsStore & Pick<Engine, "wallClock">;

export class RedisTransfer implements TransferStore {
  readonly #link: Link;
  readonly #options: Required<Options>;
  readonly #store: Store;
  readonly #unlisted: UnlistedSites;

  constructor(link: Link, options: Required<Options>, store: Store, unlisted: UnlistedSites) {
    this.#link = link;
    this.#options = options;
    this.#store = store;
    this.#unlisted = unlisted;
  }

  // Reading

  async keptSites(): Promise<string[]> {
    const sites = new Set<string>();
    for (const key of await this.#scan(`${this.#options.prefix}{*}:*`)) {
      const { site, name } = siteOfKey(this.#options.prefix, key);
      if (KEPT.test(name)) sites.add(site);
    }
    return sorted(sites);
  }

  async keptEntries(site: string, withVisitors: boolean): Promise<KeptSiteEntry[]> {
    const { total, visitors } = await this.#store.siteTotals(site, 0);
    const views = await this.#link.ask((client) => client.hgetall(this.#key(site, "views")));
    const kept: KeptSite = {
      site,
      isListed: !(await this.#unlisted.has(site)),
      total,
      visitors,
      views: new Map(Object.entries(views).map(([page, count]) => [page, Number(count)])),
      readings: await this.#readingsOf(site),
      days: await this.#store.days(site, 0),
      peaks: await this.#store.history(site, 0, 1),
      highest: await this.#store.highest(site),
      imports: await this.#importsOf(site),
      dayVisitors: withVisitors ? await this.#visitorsOf(site) : new Map(),
    };
    return [...entriesOf(kept)];
  }

  async #readingsOf(site: string): Promise<Map<string, KeptReading>> {
    const [histograms, ranking] = await this.#link.ask((client) =>
      Promise.all([
        client.hgetall(this.#key(site, "readings")),
        client.zrange(this.#key(site, "mostread"), "0", "-1", "WITHSCORES"),
      ]),
    );
    const readings = new Map<string, KeptReading>();
    for (let at = 0; at < ranking.length; at += 2) {
      const page = ranking[at]!; // its milliseconds follow
      const histogram = parseHistogram(Object.hasOwn(histograms, page) ? histograms[page] : undefined);
      readings.set(page, { seconds: Number(ranking[at + 1]) / 1_000, histogram });
    }
    return readings;
  }

  async #importsOf(site: string): Promise<Map<string, ImportedTotals>> {
    const sources = await this.#link.ask((client) => client.smembers(this.#key(site, "imports")));
    const imports = new Map<string, ImportedTotals>();
    for (const source of sources) {
      const totals = await this.imported(site, source);
      if (totals !== undefined) imports.set(source, totals);
    }
    return imports;
  }

  /** Visitors of those days whose key is kept. */
  async #visitorsOf(site: string): Promise<Map<number, string[]>> {
    const days = new Map<number, string[]>();
    for (const { kind, name } of await this.#secretNames())
      if (kind === "day") days.set(Number(name), await this.#membersOf(this.#key(site, `day:${name}`)));
    return days;
  }

  /** The members of a sorted set, which may be large. */
  async #membersOf(key: string): Promise<string[]> {
    const members = new Set<string>();
    let cursor = "0";
    do {
      const [next, found] = await this.#link.ask((client) => client.zscan(key, cursor, "COUNT", SCAN_COUNT));
      for (let at = 0; at < found.length; at += 2) members.add(found[at]!); // each is followed by its score
      cursor = next;
    } while (cursor !== "0");
    return [...members];
  }

  async keptSecrets(): Promise<KeptSecret[]> {
    const entries: KeptSecret[] = [];
    for (const { kind, name } of await this.#secretNames()) {
      const value = await this.#link.ask((client) => client.get(secretKey(this.#options.prefix, kind, name)));
      if (value !== null) entries.push({ secret: kind, name, value });
    }
    return entries;
  }

  /** The secrets in order. There is one of each kind, and one of each day. */
  async #secretNames(): Promise<{ kind: SecretKind; name: string }[]> {
    const start = `${this.#options.prefix}secret:`;
    const newest = new Map<string, { kind: SecretKind; name: string }>();
    for (const key of sorted(await this.#scan(`${start}*`))) {
      const [kind = "", name = ""] = key.slice(start.length).split(":");
      newest.set(kind === "day" ? key : kind, { kind: kind as SecretKind, name });
    }
    return [...newest.values()];
  }

  async imported(site: string, source: string): Promise<ImportedTotals | undefined> {
    const cells = await this.#link.ask((client) => client.hgetall(this.#key(site, `import:${source}`)));
    if (cells["t"] === undefined) return undefined;
    const pages = Object.entries(cells).flatMap(([cell, value]) =>
      cell.startsWith("p") ? [[cell.slice(1), Number(value)] as const] : [],
    );
    return { total: Number(cells["t"]), visitors: Number(cells["u"]), pages: new Map(pages) };
  }

  /** The names of all keys that match, on all members of a Redis Cluster. */
  async #scan(pattern: string): Promise<string[]> {
    const keys = new Set<string>();
    const scanOne = async (client: Exclude<Client, Cluster>) => {
      let cursor = "0";
      do {
        const [next, found] = await client.scan(cursor, "MATCH", pattern, "COUNT", SCAN_COUNT);
        for (const key of found) keys.add(key);
        cursor = next;
      } while (cursor !== "0");
    };
    await this.#link.ask(async (client) => {
      for (const member of client instanceof Cluster ? client.nodes("master") : [client]) await scanOne(member);
    });
    return [...keys];
  }

  // Totals from elsewhere

  async importTotals(site: string, source: string, totals: ImportedTotals): Promise<void> {
    const { total, visitors, pages } = withStoredNames(totals);
    const staging = this.#key(site, `importing:${source}`);
    const cells: [string, number][] = [["t", total], ["u", visitors]]; // oxfmt-ignore
    for (const [page, views] of pages) cells.push([`p${page}`, views]);
    await this.#link.ask((client) => client.unlink(staging));
    await this.#putFields(staging, cells);
    await this.#link.ask((client) => client.expire(staging, STAGING_SECONDS));
    const keys = [staging, ...[`import:${source}`, "imports", "counts", "views"].map((name) => this.#key(site, name))];
    const tooLarge = await this.#link.run(IMPORT, keys, [source, MAX_PAGES_PER_SITE, OTHER_PAGES]);
    if (typeof tooLarge !== "string") return;
    const what = { t: "the total", u: "the visitors" }[tooLarge] ?? `the views of ${tooLarge.slice(1)}`;
    throw new ImportRefusal(`Cannot import ${source}: ${what} of ${site} would be above ${Number.MAX_SAFE_INTEGER}`);
  }

  // Restoring

  async restore(id: string, sites: readonly string[], entries: Iterable<KeptEntry>): Promise<void> {
    const kept = new Set(await this.keptSites());
    for (const site of sites) {
      const restored = await this.#link.ask((client) => client.get(this.#key(site, "restored")));
      if (kept.has(site) && restored !== id) throw new ImportRefusal(`${site} has numbers already`);
    }
    await this.#forgetStaged(sites);
    const { secrets, staged } = await this.#stageAll(entries);
    for (const site of sites)
      await this.#link.ask((client) => client.set(this.#key(site, "restored"), id, "EX", STAGING_SECONDS));
    for (const [site, ofSite] of staged) await this.#moveIntoPlace(site, ofSite);
    for (const secret of secrets) await this.#restoreSecret(secret);
    for (const site of sites) await this.#link.ask((client) => client.unlink(this.#key(site, "restored")));
  }

  /** What an interrupted restore has left. */
  async #forgetStaged(sites: readonly string[]): Promise<void> {
    const ofSites = new Set(sites);
    for (const key of await this.#scan(`${this.#options.prefix}{*}:restoring:*`))
      if (ofSites.has(siteOfKey(this.#options.prefix, key).site)) await this.#link.ask((client) => client.unlink(key));
  }

  /** Writes everything to keys that will take the place of the sites' own. The secrets wait. */
  async #stageAll(entries: Iterable<KeptEntry>): Promise<{ secrets: KeptSecret[]; staged: Map<string, StagedSite> }> {
    const secrets: KeptSecret[] = [];
    const staged = new Map<string, StagedSite>();
    let underWay: Promise<void>[] = [];
    try {
      for (const entry of entries) {
        if ("secret" in entry) secrets.push(entry);
        else {
          const ofSite = staged.get(entry.site) ?? { isListed: true, keys: new Map() };
          staged.set(entry.site, ofSite);
          underWay.push(this.#stage(ofSite, entry));
        }
        if (underWay.length < ENTRIES_AT_A_TIME) continue;
        await Promise.all(underWay);
        underWay = [];
      }
    } finally {
      await Promise.all(underWay);
    }
    return { secrets, staged };
  }

  async #stage(staged: StagedSite, entry: KeptSiteEntry): Promise<void> {
    const newKeys: string[] = [];
    await this.#write(staged, entry, (name, expiresAt) => {
      const key = this.#key(entry.site, `restoring:${name}`);
      if (!staged.keys.has(name)) newKeys.push(key);
      staged.keys.set(name, expiresAt);
      return key;
    });
    for (const key of newKeys) await this.#link.ask((client) => client.expire(key, STAGING_SECONDS));
  }

  /** @param at gives the key to write to, instead of the site's key of this name */
  async #write(
    staged: StagedSite,
    entry: KeptSiteEntry,
    at: (name: string, expiresAt?: number) => string,
  ): Promise<unknown> {
    const put = (name: string, ...fields: [string, number][]) => this.#putFields(at(name), fields);
    if ("histogram" in entry) {
      const { page, seconds } = entry;
      const histogram = JSON.stringify(Object.fromEntries(entry.histogram));
      await this.#link.ask((client) => client.hset(at("readings"), page, histogram));
      return this.#link.ask((client) => client.zadd(at("mostread"), Math.round(seconds * 1_000), page));
    }
    if ("peaks" in entry) return this.#stagePeaks(entry.peaks, at);
    if ("highest" in entry) return put("highest", ["minute", entry.highest[0]], ["peak", entry.highest[1]]);
    if ("hashes" in entry) {
      const members = entry.hashes.flatMap((hash) => ["0", hash]); // among the visitors of earlier days, also the new ones
      const key = at(`day:${entry.day}`, Math.floor(this.#store.wallClock() / 1_000) + DAY_TTL_SECONDS);
      return this.#link.ask((client) => client.zadd(key, ...members));
    }
    if ("day" in entry) return put("days", [`${entry.day}v`, entry.views], [`${entry.day}u`, entry.visitors]);
    if ("source" in entry) {
      await this.#link.ask((client) => client.sadd(at("imports"), entry.source));
      const name = `import:${entry.source}`;
      if ("page" in entry) return put(name, [`p${entry.page}`, entry.views]);
      return put(name, ["t", entry.total], ["u", entry.visitors]);
    }
    if ("page" in entry) return put("views", [entry.page, entry.views]);
    staged.isListed = entry.unlisted !== true;
    return put("counts", ["total", entry.total], ["earlier", entry.visitors]);
  }

  /** Writes the peaks of one day. */
  async #stagePeaks(
    peaks: readonly (readonly [minute: number, peak: number])[],
    at: (name: string, expiresAt: number) => string,
  ): Promise<void> {
    const day = Math.floor((peaks[0]?.[0] ?? 0) / DAY_MINUTES);
    const bytes = Buffer.alloc(DAY_MINUTES * BYTES_PER_MINUTE);
    for (const [minute, peak] of peaks) bytes.writeUInt32BE(peak, (minute % DAY_MINUTES) * BYTES_PER_MINUTE);
    const key = at(`history:${day}`, (day + 1 + HISTORY_DAYS) * DAY_SECONDS);
    await this.#link.ask((client) => client.set(key, bytes));
  }

  /** Makes the staged keys the keys of the site, all at once. */
  async #moveIntoPlace(site: string, { isListed, keys }: StagedSite): Promise<void> {
    const { ttlSeconds } = limitsOf(isListed);
    if (!isListed) await this.#unlisted.restore(site);
    await this.#link.ask(async (client) => {
      const moves = client.multi();
      for (const [name, expiresAt] of keys) {
        const key = this.#key(site, name);
        moves.rename(this.#key(site, `restoring:${name}`), key);
        if (expiresAt !== undefined) moves.expireat(key, expiresAt); // an older day of history is gone at once
        else if (ttlSeconds === "") moves.persist(key);
        else moves.expire(key, ttlSeconds);
      }
      for (const [error] of (await moves.exec()) ?? []) if (error !== null) throw error;
    });
  }

  async #restoreSecret({ secret: kind, name, value }: KeptSecret): Promise<void> {
    const key = secretKey(this.#options.prefix, kind, name);
    const ttlSeconds = ttlOfSecret(kind);
    await this.#link.ask((client) =>
      ttlSeconds === undefined ? client.set(key, value) : client.set(key, value, "EX", ttlSeconds),
    );
  }

  async #putFields(key: string, fields: readonly (readonly [string, number])[]): Promise<void> {
    for (let from = 0; from < fields.length; from += FIELDS_PER_CALL) {
      const some = fields.slice(from, from + FIELDS_PER_CALL).flat();
      await this.#link.ask((client) => client.hset(key, ...some));
    }
  }

  #key(site: string, name: string): string {
    return keyOf(this.#options.prefix, site, name);
  }
}
