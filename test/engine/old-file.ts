/** Writes a database file as version 1 of the file had it. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";

type Row = readonly (string | number)[];

const TABLES = `
  CREATE TABLE secrets (kind TEXT PRIMARY KEY, name TEXT NOT NULL, value TEXT NOT NULL) STRICT;
  CREATE TABLE held (site TEXT NOT NULL, page TEXT, visitor TEXT NOT NULL, stopped_at INTEGER NOT NULL) STRICT;
  CREATE TABLE pages (site TEXT NOT NULL, page TEXT NOT NULL, PRIMARY KEY (site, page)) STRICT, WITHOUT ROWID;
  CREATE TABLE readings (site TEXT NOT NULL, page TEXT NOT NULL, bucket INTEGER NOT NULL, views INTEGER NOT NULL,
    seconds REAL NOT NULL, PRIMARY KEY (site, page, bucket)) STRICT, WITHOUT ROWID;
  CREATE TABLE history (site TEXT NOT NULL, minute INTEGER NOT NULL, peak INTEGER NOT NULL,
    PRIMARY KEY (site, minute)) STRICT, WITHOUT ROWID;
  CREATE TABLE highest (site TEXT PRIMARY KEY, minute INTEGER NOT NULL, peak INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  PRAGMA user_version = 1`;

/** @param rows the rows by table: `readings` are site, page, bucket, views, seconds; `history` and `highest` are site, minute, peak */
export function writeOldFile(folder: string, rows: Record<string, readonly Row[]>): void {
  mkdirSync(folder, { recursive: true });
  const database = new DatabaseSync(join(folder, "headcount.db"));
  database.exec(`PRAGMA journal_mode = WAL; ${TABLES}; BEGIN`);
  for (const [table, ofTable] of Object.entries(rows)) {
    const insert = database.prepare(`INSERT INTO ${table} VALUES (${ofTable[0]?.map(() => "?").join()})`);
    for (const row of ofTable) insert.run(...row);
  }
  database.exec("INSERT OR IGNORE INTO pages SELECT DISTINCT site, page FROM readings; COMMIT");
  database.close();
}
