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
  type Log,
  type Member,
  messageOf,
  newSecret,
  type PageReading,
  type Peak,
  type Reading,
  SpentNonces,
  type SiteTotals,
  type StatsEntries,
  type VisitorEntry,
} from "./engine.ts";
import { inPortions } from "./portions.ts";
import { SqliteFile } from "./sqlite-file.ts";
import { Names } from "./sqlite-names.ts";
import { SqliteStatistics } from "./sqlite-statistics.ts";
import { countVisitors, daysSince, pageViews, siteTotals } from "./sqlite-totals.ts";

export interface Options {
  /** The folder of `headcount.db`, made where need be. `:memory:` keeps nothing. */
  readonly folder: string;
  readonly tokenTtlMs: number;
  readonly log: Log;
}

const SQL = {
  putSecret: `INSERT INTO secrets VALUES (?1, ?2, ?3)
    ON CONFLICT DO UPDATE SET name = ?2, value = ?3 WHERE name <> ?2`,
  getSecret: "SELECT value FROM secrets WHERE kind = ?",
  hold: "INSERT INTO held VALUES (?, ?, ?, ?)",
  held: "SELECT site, page, visitor FROM held WHERE stopped_at > ?",
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

  /** @throws {Error} when a newer version of the service wrote the file. Any other failure of the file costs statistics only */
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

  async secret(kind: string, name: string): Promise<string> {
    const secret = newSecret();
    try {
      return await this.#file.write((database) => {
        database.prepare(SQL.putSecret).run(kind, name, secret);
        return String(database.prepare(SQL.getSecret).get(kind)?.["value"]);
      });
    } catch (error) {
      const message = messageOf(error);
      this.#log("error", "secrets cannot be kept: after a restart, every visitor will be a new one", { message });
      return secret;
    }
  }

  async spend({ nonce, expires }: { nonce: number; expires: number }, now: number): Promise<boolean> {
    const clockWasPutBack = now < this.#acceptsTokensFrom;
    if (clockWasPutBack) this.#acceptsTokensFrom = now - this.#tokenTtlMs;
    const mintedAt = expires - this.#tokenTtlMs;
    return mintedAt >= this.#acceptsTokensFrom && this.#spent.spend(nonce, now);
  }

  async hold(members: Iterable<Member>): Promise<void> {
    await this.#file.write((database) => {
      const insert = database.prepare(SQL.hold);
      return inPortions(members, ({ site, page, visitor }) => insert.run(site, page ?? null, visitor, Date.now()));
    });
  }

  async held(): Promise<Member[]> {
    return this.#file.write((database) => {
      const rows = database.prepare(SQL.held).all(Date.now() - RESTART_MS) as {
        site: string;
        page: string | null;
        visitor: string;
      }[];
      database.exec("DELETE FROM held");
      return rows.map(({ site, page, visitor }) => ({ site, page: page ?? undefined, visitor }));
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

  close(): Promise<void> {
    return this.#file.close();
  }
}
