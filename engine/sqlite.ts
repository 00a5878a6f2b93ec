/**
 * The engine of a single node: one SQLite file.
 *
 * A full or broken disk costs statistics, never a count. Spent tokens stay in memory, because a token that was minted
 * before this process started is refused anyway.
 */

import { chmodSync, existsSync, mkdirSync, renameSync } from "node:fs";
import { dirname, join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import {
  type DayTotals,
  type Engine,
  type ImportedTotals,
  type KeptEntry,
  HISTORY_DAYS,
  DAY_MINUTES,
  ImportRefusal,
  type Log,
  MAX_PAGES_PER_SITE,
  type Member,
  messageOf,
  MINUTE_MS,
  newSecret,
  OTHER_PAGES,
  type Peak,
  type ReadingSum,
  SpentNonces,
  type SiteTotals,
  type StatsEntries,
  type VisitorEntry,
} from "./engine.ts";
import { entriesOf } from "./kept.ts";
import { addViews, countVisitors, daysSince, pageViews, siteTotals, TOTALS_SCHEMA } from "./sqlite-totals.ts";
import * as transfer from "./sqlite-transfer.ts";

export interface Options {
  /** The folder of `headcount.db`, made where need be. `:memory:` keeps nothing. */
  readonly folder: string;
  readonly tokenTtlMs: number;
  readonly log: Log;
}

// ── Schema ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** One entry per version of the file. `PRAGMA user_version` says how many were applied. Add entries, never change one. */
const MIGRATIONS = [
  `CREATE TABLE secrets (kind TEXT PRIMARY KEY, name TEXT NOT NULL, value TEXT NOT NULL) STRICT;
   CREATE TABLE held (site TEXT NOT NULL, page TEXT, visitor TEXT NOT NULL, stopped_at INTEGER NOT NULL) STRICT;
   CREATE TABLE pages (site TEXT NOT NULL, page TEXT NOT NULL, PRIMARY KEY (site, page)) STRICT, WITHOUT ROWID;
   CREATE TABLE readings (site TEXT NOT NULL, page TEXT NOT NULL, bucket INTEGER NOT NULL, views INTEGER NOT NULL,
     seconds REAL NOT NULL, PRIMARY KEY (site, page, bucket)) STRICT, WITHOUT ROWID;
   CREATE TABLE history (site TEXT NOT NULL, minute INTEGER NOT NULL, peak INTEGER NOT NULL,
     PRIMARY KEY (site, minute)) STRICT, WITHOUT ROWID;
   CREATE TABLE highest (site TEXT PRIMARY KEY, minute INTEGER NOT NULL, peak INTEGER NOT NULL) STRICT, WITHOUT ROWID;`,
  TOTALS_SCHEMA,
  transfer.IMPORTS_SCHEMA,
];

const SQL = {
  putSecret: `INSERT INTO secrets VALUES (?1, ?2, ?3)
    ON CONFLICT DO UPDATE SET name = ?2, value = ?3 WHERE name <> ?2`,
  getSecret: "SELECT value FROM secrets WHERE kind = ?",
  hold: "INSERT INTO held VALUES (?, ?, ?, ?)",
  held: "SELECT site, page, visitor FROM held WHERE stopped_at > ?",
  addReading: `INSERT INTO readings VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET views = views + excluded.views, seconds = seconds + excluded.seconds`,
  raisePeak: `INSERT INTO history VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET peak = excluded.peak WHERE excluded.peak > peak`,
  raiseHighest: `INSERT INTO highest VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET minute = excluded.minute, peak = excluded.peak WHERE excluded.peak > peak`,
  readings: "SELECT site, page, bucket, views, seconds FROM readings WHERE site = ?",
  pageReadings: "SELECT site, page, bucket, views, seconds FROM readings WHERE site = ? AND page = ?",
  history: `SELECT minute - minute % ?3 AS minute, max(peak) AS peak FROM history
    WHERE site = ?1 AND minute >= ?2 GROUP BY 1 ORDER BY 1`,
  highest: "SELECT minute, peak FROM highest WHERE site = ?",
  isKnownPage: "SELECT 1 FROM pages WHERE site = ? AND page = ?",
  countPages: "SELECT count(*) AS pages FROM pages WHERE site = ?",
  addPage: "INSERT INTO pages VALUES (?, ?)",
};

// ── Engine ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** After a longer stop, visitors have given up or are counted anew: nobody is held any more. */
const RESTART_MS = 120_000;
/** The journal tries again later. A longer wait for a lock would delay everybody's counts. */
const LOCK_WAIT_MS = 50;
const FORGET_EVERY_MINUTES = 60;

export class SqliteEngine implements Engine {
  readonly name = "embedded";
  readonly cluster = undefined;
  failures = 0;
  readonly lostEntries = 0;
  readonly #file: string;
  readonly #tokenTtlMs: number;
  readonly #log: Log;
  readonly #spent: SpentNonces;
  /** Tokens that were minted earlier may have been spent before this process started. */
  #acceptsTokensFrom = Date.now();
  /** undefined until it is first used, and after a failure: the next use opens the file again. */
  #database: DatabaseSync | undefined;
  /** Whether the file was checked, and nothing has happened since that makes another check necessary. */
  #isChecked = false;
  #oldestMinute = 0;

  constructor({ folder, tokenTtlMs, log }: Options) {
    this.#file = folder === ":memory:" ? folder : join(folder, "headcount.db");
    this.#tokenTtlMs = tokenTtlMs;
    this.#log = log;
    this.#spent = new SpentNonces(tokenTtlMs);
  }

  wallClock(): number {
    return Date.now();
  }

  async secret(kind: string, name: string): Promise<string> {
    const secret = newSecret();
    try {
      return this.#transact((database) => {
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
    this.#transact((database) => {
      const insert = database.prepare(SQL.hold);
      for (const { site, page, visitor } of members) insert.run(site, page ?? null, visitor, Date.now());
    });
  }

  async held(): Promise<Member[]> {
    return this.#transact((database) => {
      const rows = database.prepare(SQL.held).all(Date.now() - RESTART_MS) as {
        site: string;
        page: string | null;
        visitor: string;
      }[];
      database.exec("DELETE FROM held");
      return rows.map(({ site, page, visitor }) => ({ site, page: page ?? undefined, visitor }));
    });
  }

  async record({ readings, peaks, views }: StatsEntries): Promise<void> {
    this.#transact((database) => {
      const addReading = database.prepare(SQL.addReading);
      const storedName = pageNamer(database);
      for (const { site, page, bucket, views: count, seconds } of readings)
        addReading.run(site, storedName(site, page), bucket, count, seconds);
      addViews(database, views, storedName);
      for (const statement of [database.prepare(SQL.raisePeak), database.prepare(SQL.raiseHighest)])
        for (const { site, minute, peak } of peaks) statement.run(site, minute, peak);
      this.#forgetOldHistory(database);
    });
  }

  async readings(site: string, page?: string): Promise<ReadingSum[]> {
    return this.#transact((database) =>
      page === undefined
        ? database.prepare(SQL.readings).all(site)
        : database.prepare(SQL.pageReadings).all(site, page),
    ) as unknown as ReadingSum[];
  }

  async history(site: string, fromMinute: number, step: number): Promise<Peak[]> {
    return this.#transact((database) => database.prepare(SQL.history).all(site, fromMinute, step)) as unknown as Peak[];
  }

  async highest(site: string): Promise<Peak | undefined> {
    return this.#transact((database) => database.prepare(SQL.highest).get(site)) as Peak | undefined;
  }

  async countVisitors(entries: readonly VisitorEntry[]): Promise<void> {
    this.#transact((database) => countVisitors(database, entries));
  }

  async siteTotals(site: string, day: number): Promise<SiteTotals> {
    return this.#transact((database) => siteTotals(database, site, day));
  }

  async pageViews(site: string, pages: readonly string[]): Promise<number[]> {
    return this.#transact((database) => pageViews(database, site, pages));
  }

  async days(site: string, fromDay: number): Promise<DayTotals[]> {
    return this.#transact((database) => daysSince(database, site, fromDay));
  }

  async keptSites(): Promise<string[]> {
    return this.#transact(transfer.keptSites);
  }

  async keptEntries(site: string, withVisitors: boolean): Promise<KeptEntry[]> {
    const kept = this.#transact((database) => transfer.keptSite(database, site));
    return [...entriesOf(withVisitors ? kept : { ...kept, today: undefined })];
  }

  async keptSecrets(): Promise<KeptEntry[]> {
    return this.#transact(transfer.keptSecrets);
  }

  async restore(_id: string, sites: readonly string[], entries: Iterable<KeptEntry>): Promise<void> {
    this.#transact((database) => {
      const kept = transfer.keptSites(database).find((site) => sites.includes(site));
      if (kept !== undefined) throw new ImportRefusal(`${kept} has numbers already`);
      const restore = transfer.restorer(database);
      for (const entry of entries) restore(entry);
    });
  }

  async imported(site: string, source: string): Promise<ImportedTotals | undefined> {
    return this.#transact((database) => transfer.imported(database, site, source));
  }

  async importTotals(site: string, source: string, totals: ImportedTotals): Promise<void> {
    this.#transact((database) => transfer.importTotals(database, site, source, totals, pageNamer(database)));
  }

  async close(): Promise<void> {
    this.#database?.close();
    this.#database = undefined;
  }

  #forgetOldHistory(database: DatabaseSync): void {
    const oldest = Math.floor(Date.now() / MINUTE_MS) - HISTORY_DAYS * DAY_MINUTES;
    if (oldest < this.#oldestMinute + FORGET_EVERY_MINUTES) return;
    this.#oldestMinute = oldest;
    database.prepare("DELETE FROM history WHERE minute < ?").run(oldest);
  }

  /** Does the work in one transaction. @throws {Error} when the file cannot be used; then nothing was changed */
  #transact<Result>(work: (database: DatabaseSync) => Result): Result {
    try {
      this.#database ??= openDatabase(this.#file, this.#isChecked, this.#log);
      this.#isChecked = true;
      this.#database.exec("BEGIN");
      const result = work(this.#database);
      this.#database.exec("COMMIT");
      return result;
    } catch (error) {
      if (error instanceof ImportRefusal) {
        this.#database?.exec("ROLLBACK");
        throw error;
      }
      this.failures += 1;
      this.#isChecked &&= /locked|full/.test(messageOf(error)); // these say nothing about the file itself
      this.#database?.close(); // rolls back
      this.#database = undefined;
      throw new Error(`Cannot use ${this.#file}: ${messageOf(error)}`, { cause: error });
    }
  }
}

/** Returns a function that finds the name under which a page is stored: its own, or OTHER_PAGES when the site is full. */
function pageNamer(database: DatabaseSync): (site: string, page: string) => string {
  const isKnown = database.prepare(SQL.isKnownPage);
  const countPages = database.prepare(SQL.countPages);
  const addPage = database.prepare(SQL.addPage);
  const counts = new Map<string, number>();
  return (site, page) => {
    if (isKnown.get(site, page) !== undefined) return page;
    const pages = counts.get(site) ?? Number(countPages.get(site)?.["pages"]);
    counts.set(site, Math.min(MAX_PAGES_PER_SITE, pages + 1));
    if (pages >= MAX_PAGES_PER_SITE) return OTHER_PAGES;
    addPage.run(site, page);
    return page;
  };
}

// ── File ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Opens the file and brings it to the newest version. A file that is no sound database is set aside for a new one. */
function openDatabase(file: string, isChecked: boolean, log: Log): DatabaseSync {
  if (file !== ":memory:") mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  const database = new DatabaseSync(file);
  try {
    database.exec(`PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = ${LOCK_WAIT_MS}`);
    if (!isChecked) checkDatabase(database);
    migrate(database);
    if (file !== ":memory:") chmodSync(file, 0o600); // it holds the secret that signs visitors
    return database;
  } catch (error) {
    database.close();
    if (file === ":memory:" || !/malformed|not a database/.test(messageOf(error))) throw error;
    setAside(file, messageOf(error), log);
    return openDatabase(file, false, log);
  }
}

/** Reads all of the file. */
function checkDatabase(database: DatabaseSync): void {
  const result = String(database.prepare("PRAGMA quick_check(1)").get()?.["quick_check"]);
  if (result !== "ok") throw new Error(`database disk image is malformed: ${result}`);
}

function migrate(database: DatabaseSync): void {
  const version = Number(database.prepare("PRAGMA user_version").get()?.["user_version"]);
  for (const [index, migration] of MIGRATIONS.entries())
    if (index >= version) database.exec(`BEGIN; ${migration} PRAGMA user_version = ${index + 1}; COMMIT`);
}

function setAside(file: string, message: string, log: Log): void {
  const aside = `${file}.broken-${Date.now()}`;
  for (const suffix of ["", "-wal", "-shm"]) if (existsSync(file + suffix)) renameSync(file + suffix, aside + suffix);
  log("error", "the database was broken and is set aside; a new one begins", { aside, message });
}
