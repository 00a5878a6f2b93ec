/**
 * The engine of a single node: one SQLite file.
 *
 * A full or broken disk costs statistics, never a count. Spent tokens stay in memory, because a token that was minted
 * before this process started is refused anyway.
 */

import { join } from "node:path";
import {
  type DayTotals,
  type Engine,
  type ImportedTotals,
  type KeptEntry,
  type KeptSecret,
  type KeptSiteEntry,
  type Log,
  type Member,
  messageOf,
  newSecret,
  type PageReading,
  type Peak,
  type Reading,
  type SecretKind,
  type SiteTotals,
  type StatsEntries,
  type VisitorEntry,
} from "./engine.ts";
import { entriesOf } from "./kept.ts";
import { inPortions } from "./portions.ts";
import { SqliteFile } from "./sqlite-file.ts";
import { Names } from "./sqlite-names.ts";
import { SpentNonces } from "./spent-nonces.ts";
import { keepSecret } from "./sqlite-secrets.ts";
import { SqliteStatistics } from "./sqlite-statistics.ts";
import { countVisitors, daysSince, pageViews, siteTotals } from "./sqlite-totals.ts";
import * as transfer from "./sqlite-transfer.ts";

export interface Options {
  /** The folder of `headcount.db`, made where need be. `:memory:` keeps nothing. */
  readonly folder: string;
  readonly tokenTtlMs: number;
  readonly log: Log;
}

const SQL = {
  hold: "INSERT INTO held VALUES (?, ?, ?, ?, ?)",
  held: "SELECT site, page, visitor FROM held WHERE stopped_at > ? AND (signer = ? OR signer IS NULL)",
};

/** After a longer stop, visitors have given up or are counted anew: nobody is held any more. */
const RESTART_MS = 120_000;

export class SqliteEngine implements Engine {
  readonly name = "embedded";
  readonly cluster = undefined;
  readonly #file: SqliteFile;
  readonly #statistics: SqliteStatistics;
  readonly #tokenTtlMs: number;
  readonly #log: Log;
  readonly #spent: SpentNonces;
  /** Tokens that were minted earlier may have been spent before this process started. */
  #acceptsTokensFrom = Date.now();

  private constructor({ folder, tokenTtlMs, log }: Options) {
    this.#file = SqliteFile.open(folder === ":memory:" ? folder : join(folder, "headcount.db"), log);
    this.#statistics = new SqliteStatistics(this.#file);
    this.#tokenTtlMs = tokenTtlMs;
    this.#log = log;
    this.#spent = new SpentNonces(tokenTtlMs);
  }

  /** @throws {Error} when a newer version of the service wrote the file, or it is not writable. Other failures cost statistics only */
  static open(options: Options): SqliteEngine {
    return new SqliteEngine(options);
  }

  get failures(): number {
    return this.#file.failures;
  }

  get lostEntries(): number {
    return this.#statistics.lostEntries;
  }

  wallClock(): number {
    return Date.now();
  }

  async secret(kind: SecretKind, name: string): Promise<string> {
    const value = newSecret();
    try {
      return await this.#file.write((database) => keepSecret(database, { kind, name, value }, Date.now()));
    } catch (error) {
      const message = messageOf(error);
      this.#log("error", "secrets cannot be kept: after a restart, every visitor will be a new one", { message });
      return value;
    }
  }

  async spend({ nonce, expires }: { nonce: number; expires: number }, now: number): Promise<boolean> {
    const clockWasPutBack = now < this.#acceptsTokensFrom;
    if (clockWasPutBack) this.#acceptsTokensFrom = now - this.#tokenTtlMs;
    const mintedAt = expires - this.#tokenTtlMs;
    return mintedAt >= this.#acceptsTokensFrom && this.#spent.spend(nonce, now);
  }

  async hold(members: Iterable<Member>, signer: string): Promise<void> {
    await this.#file.write((database) => {
      const insert = database.prepare(SQL.hold);
      return inPortions(members, ({ site, page, visitor }) =>
        insert.run(site, page ?? null, visitor, Date.now(), signer),
      );
    });
  }

  async held(signer: string): Promise<Member[]> {
    return this.#file.write(async (database) => {
      const members: Member[] = [];
      await inPortions(database.prepare(SQL.held).iterate(Date.now() - RESTART_MS, signer), (row) => {
        const { site, page, visitor } = row as { site: string; page: string | null; visitor: string };
        members.push({ site, page: page ?? undefined, visitor });
      });
      database.exec("DELETE FROM held");
      return members;
    });
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

  async countVisitors(entries: readonly VisitorEntry[], unlistedSites: ReadonlySet<string> = new Set()): Promise<void> {
    await this.#file.write((database) => countVisitors(database, new Names(database, unlistedSites), entries));
  }

  siteTotals(site: string, day: number): Promise<SiteTotals> {
    return this.#file.read((database) => siteTotals(database, site, day));
  }

  pageViews(site: string, pages: readonly string[]): Promise<number[]> {
    return this.#file.read((database) => pageViews(database, site, pages));
  }

  days(site: string, fromDay: number): Promise<DayTotals[]> {
    return this.#file.read((database) => daysSince(database, site, fromDay));
  }

  keptSites(): Promise<string[]> {
    return this.#file.read(transfer.keptSites);
  }

  async keptEntries(site: string, withVisitors: boolean): Promise<KeptSiteEntry[]> {
    const kept = await this.#file.readAtOnce((database) => transfer.keptSite(database, site));
    return [...entriesOf(withVisitors ? kept : { ...kept, dayVisitors: new Map() })];
  }

  keptSecrets(): Promise<KeptSecret[]> {
    return this.#file.read(transfer.keptSecrets);
  }

  restore(_id: string, sites: readonly string[], entries: Iterable<KeptEntry>): Promise<void> {
    return this.#file.write((database) => transfer.restore(database, sites, entries));
  }

  imported(site: string, source: string): Promise<ImportedTotals | undefined> {
    return this.#file.read((database) => transfer.imported(database, site, source));
  }

  importTotals(site: string, source: string, totals: ImportedTotals): Promise<void> {
    return this.#file.write((database) => transfer.importTotals(database, site, source, totals));
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}
