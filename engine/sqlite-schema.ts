/** The tables of the SQLite file, and how a file of an older version is brought to the newest one. */

import type { DatabaseSync } from "node:sqlite";
import { storedPageName } from "./engine.ts";
import { parseHistogram, readingOf } from "./reading.ts";

type Migration = (database: DatabaseSync) => void;

const createTables: Migration = (database) =>
  database.exec(`
    CREATE TABLE secrets (kind TEXT PRIMARY KEY, name TEXT NOT NULL, value TEXT NOT NULL) STRICT;
    CREATE TABLE held (site TEXT NOT NULL, page TEXT, visitor TEXT NOT NULL, stopped_at INTEGER NOT NULL) STRICT;
    CREATE TABLE pages (site TEXT NOT NULL, page TEXT NOT NULL, PRIMARY KEY (site, page)) STRICT, WITHOUT ROWID;
    CREATE TABLE readings (site TEXT NOT NULL, page TEXT NOT NULL, bucket INTEGER NOT NULL, views INTEGER NOT NULL,
      seconds REAL NOT NULL, PRIMARY KEY (site, page, bucket)) STRICT, WITHOUT ROWID;
    CREATE TABLE history (site TEXT NOT NULL, minute INTEGER NOT NULL, peak INTEGER NOT NULL,
      PRIMARY KEY (site, minute)) STRICT, WITHOUT ROWID;
    CREATE TABLE highest (site TEXT PRIMARY KEY, minute INTEGER NOT NULL, peak INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  `);

/**
 * Sites and pages get ids, so no row repeats a name. All reading times of a page are one row: its histogram, and the
 * figures that follow from the histogram, so the list of the most read pages needs no histograms.
 */
const giveIds: Migration = (database) => {
  const tables = ["pages", "readings", "history", "highest"];
  for (const table of tables) database.exec(`ALTER TABLE ${table} RENAME TO old_${table}`);
  database.exec(`
    CREATE TABLE sites (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, is_listed INTEGER NOT NULL,
      page_count INTEGER NOT NULL) STRICT;
    CREATE TABLE pages (id INTEGER PRIMARY KEY, site INTEGER NOT NULL, name TEXT NOT NULL, UNIQUE (site, name)) STRICT;
    CREATE TABLE readings (page INTEGER PRIMARY KEY, site INTEGER NOT NULL, views INTEGER NOT NULL,
      seconds REAL NOT NULL, median INTEGER NOT NULL, p90 INTEGER NOT NULL, histogram TEXT NOT NULL) STRICT;
    CREATE INDEX most_read ON readings (site, seconds DESC);
    CREATE TABLE history (site INTEGER NOT NULL, minute INTEGER NOT NULL, peak INTEGER NOT NULL,
      PRIMARY KEY (site, minute)) STRICT, WITHOUT ROWID;
    CREATE TABLE highest (site INTEGER PRIMARY KEY, minute INTEGER NOT NULL, peak INTEGER NOT NULL) STRICT;

    INSERT INTO sites (name, is_listed, page_count)
      SELECT site, 1, 0 FROM old_readings UNION SELECT site, 1, 0 FROM old_highest;
    INSERT INTO history SELECT id, minute, peak FROM old_history JOIN sites ON name = site;
    INSERT INTO highest SELECT id, minute, peak FROM old_highest JOIN sites ON name = site;
  `);
  moveReadings(database);
  database.exec("UPDATE sites SET page_count = (SELECT count(*) FROM pages WHERE site = sites.id)");
  for (const table of tables) database.exec(`DROP TABLE old_${table}`);
};

function moveReadings(database: DatabaseSync): void {
  const oldReadings = database.prepare(`
    SELECT id AS site, page, sum(seconds) AS seconds,
      json_group_object(bucket, views) FILTER (WHERE views <> 0) AS histogram
    FROM old_readings JOIN sites ON name = site GROUP BY site, page`);
  const addPage = database.prepare("INSERT INTO pages (site, name) VALUES (?, ?)");
  const addReading = database.prepare("INSERT INTO readings VALUES (?, ?, ?, ?, ?, ?, ?)");
  for (const row of oldReadings.iterate()) {
    const { site, page, histogram } = row as { site: number; page: string; histogram: string };
    const seconds = Number(row["seconds"]);
    const { views, median, p90 } = readingOf(parseHistogram(histogram), seconds);
    const { lastInsertRowid } = addPage.run(site, storedPageName(page));
    addReading.run(lastInsertRowid, site, views, seconds, median, p90, histogram);
  }
}

/** Totals: views of pages, sites and days, and visitors of sites and days. `day_visitors` holds hashes of one day. */
const addTotals: Migration = (database) =>
  database.exec(`
    ALTER TABLE sites ADD COLUMN total INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE sites ADD COLUMN visitors INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE pages ADD COLUMN views INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE days (site INTEGER NOT NULL, day INTEGER NOT NULL, views INTEGER NOT NULL, visitors INTEGER NOT NULL,
      PRIMARY KEY (site, day)) STRICT, WITHOUT ROWID;
    CREATE TABLE day_visitors (day INTEGER NOT NULL, site INTEGER NOT NULL, hash TEXT NOT NULL,
      PRIMARY KEY (day, site, hash)) STRICT, WITHOUT ROWID;
  `);

/** There may be keys of several days. `imports` says what was imported from where, so it is never added twice. */
const addImports: Migration = (database) =>
  database.exec(`
    ALTER TABLE secrets ADD COLUMN later_since INTEGER;
    UPDATE secrets SET kind = 'day ' || name WHERE kind = 'day';
    CREATE TABLE imports (id INTEGER PRIMARY KEY, site INTEGER NOT NULL, source TEXT NOT NULL, total INTEGER NOT NULL,
      visitors INTEGER NOT NULL, UNIQUE (site, source)) STRICT;
    CREATE TABLE imported_pages (import INTEGER NOT NULL, page TEXT NOT NULL, views INTEGER NOT NULL,
      PRIMARY KEY (import, page)) STRICT, WITHOUT ROWID;
  `);

/** Held visitors are of no use to a service with another secret. */
const addSigners: Migration = (database) => database.exec("ALTER TABLE held ADD COLUMN signer TEXT");

/** One entry per version of the file. `PRAGMA user_version` says how many were applied. Add entries, never change one. */
const MIGRATIONS = [createTables, giveIds, addTotals, addImports, addSigners];

/** A newer version of the service wrote the file, and this version does not know what the file means. */
export class NewerFileError extends Error {
  constructor(version: number) {
    super(
      `a newer version of Headcount wrote it (database version ${version}; this Headcount knows versions up to ` +
        `${MIGRATIONS.length}). Update Headcount, or restore a backup that is as old as this Headcount`,
    );
  }
}

/**
 * Brings the file to the newest version, one transaction per version.
 * @param onOldFile called before a file that is not empty is changed, which may take minutes
 * @throws {NewerFileError}
 */
export function migrate(database: DatabaseSync, onOldFile: () => void): void {
  const version = Number(database.prepare("PRAGMA user_version").get()?.["user_version"]);
  if (version > MIGRATIONS.length) throw new NewerFileError(version);
  if (version === MIGRATIONS.length) return;
  if (version > 0) onOldFile();
  for (const [index, change] of MIGRATIONS.entries()) {
    if (index < version) continue;
    database.exec("BEGIN IMMEDIATE");
    change(database);
    database.exec(`PRAGMA user_version = ${index + 1}; COMMIT`);
  }
  if (version === 1) shrink(database); // `giveIds` leaves most of the file empty
}

function shrink(database: DatabaseSync): void {
  try {
    database.exec("VACUUM");
  } catch {
    // deliberate: without room for a copy the file stays as large as it was, and its free space is used again
  }
}
