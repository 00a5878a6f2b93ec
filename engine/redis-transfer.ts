/**
 * Export and import in Redis. A site has these keys for it, beside those that `redis-totals.ts` and `statistics.ts` have:
 *
 *     imports           set      sources from which totals were imported
 *     import:<source>   hash     what was imported from the source (see IMPORT in `scripts.ts`)
 *     restoring         string   the id of the export that is being restored, until all of it is there
 *
 * When Redis loses its data, nodes restore totals, and not what was imported from where: the same import would then be added
 * once more.
 */

import { Cluster } from "ioredis";
import {
  DAY_MINUTES,
  HISTORY_DAYS,
  type ImportedTotals,
  ImportRefusal,
  type KeptEntry,
  MAX_PAGES_PER_SITE,
  OTHER_PAGES,
  type SecretKind,
  type StatsStore,
  type TotalsStore,
  type TransferStore,
} from "./engine.ts";
import { entriesOf, type KeptSite, readingsByPage, sorted } from "./kept.ts";
import type { Client, Link } from "./link.ts";
import { keyOf, type Options, siteOfKey } from "./options.ts";
import { DAY_TTL_SECONDS } from "./redis-totals.ts";
import { IMPORT } from "./scripts.ts";

const SCAN_COUNT = "1000";
/** Keys that exist only where something is kept of a site. */
const KEPT = /^(counts|days|views|pages|highest|imports)$/;
const FIELDS_PER_CALL = 1_000;
const ENTRIES_AT_A_TIME = 100;
const DAY_SECONDS = 86_400;
const BYTES_PER_MINUTE = 4;
/** How long a new ledger may wait for its import to end. */
const STAGING_SECONDS = 600;
const DAILY_SECRET_SECONDS = 2 * DAY_SECONDS;

export class RedisTransfer implements TransferStore {
  readonly #link: Link;
  readonly #options: Required<Options>;
  readonly #store: StatsStore & TotalsStore;

  constructor(link: Link, options: Required<Options>, store: StatsStore & TotalsStore) {
    this.#link = link;
    this.#options = options;
    this.#store = store;
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

  async keptEntries(site: string, withVisitors: boolean): Promise<KeptEntry[]> {
    return [...entriesOf(await this.#keptSite(site, withVisitors))];
  }

  async #keptSite(site: string, withVisitors: boolean): Promise<KeptSite> {
    const { total, visitors } = await this.#store.siteTotals(site, 0);
    const [views, day, sources] = await this.#link.ask((client) =>
      Promise.all([
        client.hgetall(this.#key(site, "views")),
        client.hget(this.#key(site, "counts"), "day"),
        client.smembers(this.#key(site, "imports")),
      ]),
    );
    const imports = new Map<string, ImportedTotals>();
    for (const source of sources) {
      const totals = await this.imported(site, source);
      if (totals !== undefined) imports.set(source, totals);
    }
    return {
      site,
      total,
      visitors,
      views: new Map(Object.entries(views).map(([page, count]) => [page, Number(count)])),
      readings: readingsByPage(await this.#store.readings(site)),
      days: await this.#store.days(site, 0),
      peaks: await this.#store.history(site, 0, 1),
      highest: await this.#store.highest(site),
      imports,
      today: withVisitors && day !== null ? await this.#visitorsOf(site, Number(day)) : undefined,
    };
  }

  async #visitorsOf(site: string, day: number): Promise<KeptSite["today"]> {
    const hashes = await this.#link.ask((client) => client.zrange(this.#key(site, `day:${day}`), "0", "-1"));
    return { day, hashes };
  }

  async keptSecrets(): Promise<KeptEntry[]> {
    const start = `${this.#options.prefix}secret:`;
    const newest = new Map<string, string>(); // kind → the last of its names
    for (const key of sorted(await this.#scan(`${start}*`))) {
      const [kind = "", name = ""] = key.slice(start.length).split(":");
      newest.set(kind, name);
    }
    const entries: KeptEntry[] = [];
    for (const [kind, name] of newest) {
      const value = await this.#link.ask((client) => client.get(`${start}${kind}${name && `:${name}`}`));
      if (value !== null) entries.push({ secret: kind as SecretKind, name, value });
    }
    return entries;
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
    const keys: string[] = [];
    const scanOne = async (client: Exclude<Client, Cluster>) => {
      let cursor = "0";
      do {
        const [next, found] = await client.scan(cursor, "MATCH", pattern, "COUNT", SCAN_COUNT);
        for (const key of found) keys.push(key);
        cursor = next;
      } while (cursor !== "0");
    };
    await this.#link.ask(async (client) => {
      for (const member of client instanceof Cluster ? client.nodes("master") : [client]) await scanOne(member);
    });
    return keys;
  }

  // Writing

  async importTotals(site: string, source: string, { total, visitors, pages }: ImportedTotals): Promise<void> {
    const staging = this.#key(site, `importing:${source}`);
    const cells: [string, number][] = [["t", total], ["u", visitors]]; // oxfmt-ignore
    for (const [page, views] of pages) cells.push([`p${page}`, views]);
    await this.#link.ask((client) => client.del(staging));
    await this.#putFields(staging, cells);
    await this.#link.ask((client) => client.expire(staging, STAGING_SECONDS));
    const keys = [staging, ...[`import:${source}`, "imports", "counts", "views"].map((name) => this.#key(site, name))];
    const tooLarge = await this.#link.run(IMPORT, keys, [
      source,
      MAX_PAGES_PER_SITE,
      OTHER_PAGES,
      Number.MAX_SAFE_INTEGER,
    ]);
    if (typeof tooLarge !== "string") return;
    const what = { t: "the total", u: "the visitors" }[tooLarge] ?? `the views of ${tooLarge.slice(1)}`;
    throw new ImportRefusal(`Cannot import ${source}: ${what} of ${site} would be above ${Number.MAX_SAFE_INTEGER}`);
  }

  async restore(id: string, sites: readonly string[], entries: Iterable<KeptEntry>): Promise<void> {
    const kept = new Set(await this.keptSites());
    for (const site of sites) {
      const restoring = await this.#link.ask((client) => client.get(this.#key(site, "restoring")));
      if (kept.has(site) && restoring !== id) throw new ImportRefusal(`${site} has numbers already`);
    }
    for (const site of sites) await this.#link.ask((client) => client.set(this.#key(site, "restoring"), id));
    let underWay: Promise<unknown>[] = [];
    for (const entry of entries) {
      underWay.push(this.#restoreEntry(entry));
      if (underWay.length < ENTRIES_AT_A_TIME) continue;
      await Promise.all(underWay);
      underWay = [];
    }
    await Promise.all(underWay);
    for (const site of sites) await this.#link.ask((client) => client.del(this.#key(site, "restoring")));
  }

  /** Every entry is brought back by absolute numbers, so it may be brought back twice. */
  async #restoreEntry(entry: KeptEntry): Promise<unknown> {
    if ("secret" in entry) return this.#restoreSecret(entry.secret, entry.name, entry.value);
    const key = (name: string) => this.#key(entry.site, name);
    if ("histogram" in entry) return this.#restoreReading(entry.site, entry.page, entry.seconds, entry.histogram);
    if ("peaks" in entry) return this.#restorePeaks(entry.site, entry.peaks);
    if ("highest" in entry)
      return this.#putFields(key("highest"), [["minute", entry.highest[0]], ["peak", entry.highest[1]]]); // oxfmt-ignore
    if ("hashes" in entry) return this.#restoreVisitors(entry.site, entry.day, entry.hashes);
    if ("day" in entry)
      return this.#putFields(key("days"), [[`${entry.day}v`, entry.views], [`${entry.day}u`, entry.visitors]]); // oxfmt-ignore
    if ("source" in entry) {
      const cells: [string, number][] =
        "page" in entry ? [[`p${entry.page}`, entry.views]] : [["t", entry.total], ["u", entry.visitors]]; // oxfmt-ignore
      await this.#link.ask((client) => client.sadd(key("imports"), entry.source));
      return this.#putFields(key(`import:${entry.source}`), cells);
    }
    if ("total" in entry)
      return this.#putFields(key("counts"), [["total", entry.total], ["earlier", entry.visitors]]); // oxfmt-ignore
    return this.#putFields(key("views"), [[entry.page, entry.views]]);
  }

  async #restoreSecret(kind: SecretKind, name: string, value: string): Promise<void> {
    const key = `${this.#options.prefix}secret:${kind}${name && `:${name}`}`;
    await this.#link.ask((client) =>
      name === "" ? client.set(key, value) : client.set(key, value, "EX", DAILY_SECRET_SECONDS),
    );
  }

  async #restoreReading(
    site: string,
    page: string,
    seconds: number,
    histogram: readonly (readonly [number, number])[],
  ): Promise<void> {
    const fields: [string, number][] = histogram.map(([bucket, views]) => [String(bucket), views]);
    fields.push([`${histogram[0]?.[0] ?? 0}ms`, Math.round(seconds * 1_000)]); // only the sum of a page is shown
    if (page !== OTHER_PAGES) await this.#link.ask((client) => client.sadd(this.#key(site, "pages"), page));
    await this.#putFields(this.#key(site, `read:${page}`), fields);
  }

  /** The peaks of one day. */
  async #restorePeaks(site: string, peaks: readonly (readonly [minute: number, peak: number])[]): Promise<void> {
    const day = Math.floor((peaks[0]?.[0] ?? 0) / DAY_MINUTES);
    const bytes = Buffer.alloc(DAY_MINUTES * BYTES_PER_MINUTE);
    for (const [minute, peak] of peaks) bytes.writeUInt32BE(peak, (minute % DAY_MINUTES) * BYTES_PER_MINUTE);
    const expires = (day + 1 + HISTORY_DAYS) * DAY_SECONDS;
    const key = this.#key(site, `history:${day}`);
    await this.#link.ask(async (client) => {
      await client.set(key, bytes);
      await client.expireat(key, expires); // an older day is gone at once
    });
  }

  async #restoreVisitors(site: string, day: number, hashes: readonly string[]): Promise<void> {
    const key = this.#key(site, `day:${day}`);
    const members = hashes.flatMap((hash) => ["0", hash]); // they are among the visitors before the day, also the new ones
    await this.#link.ask(async (client) => {
      await client.zadd(key, "NX", ...members);
      await client.expire(key, DAY_TTL_SECONDS);
      await client.hset(this.#key(site, "counts"), "day", day, "newcomers", 0);
    });
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
