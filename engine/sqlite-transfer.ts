/** Export and import of the SQLite file. Each function works inside a transaction of its caller. */

import type { DatabaseSync } from "node:sqlite";
import {
  type DayTotals,
  type ImportedTotals,
  type KeptEntry,
  OTHER_PAGES,
  type Peak,
  type ReadingSum,
  type SecretKind,
} from "./engine.ts";
import { addExactly, differenceOf, type KeptSite, readingsByPage, sorted } from "./kept.ts";
import { daysSince, siteTotals } from "./sqlite-totals.ts";

/** What was imported from which source, so it can be replaced and is never added twice. */
export const IMPORTS_SCHEMA = `
  CREATE TABLE imports (site TEXT NOT NULL, source TEXT NOT NULL, total INTEGER NOT NULL, visitors INTEGER NOT NULL,
    PRIMARY KEY (site, source)) STRICT, WITHOUT ROWID;
  CREATE TABLE imported_pages (site TEXT NOT NULL, source TEXT NOT NULL, page TEXT NOT NULL, views INTEGER NOT NULL,
    PRIMARY KEY (site, source, page)) STRICT, WITHOUT ROWID;`;

const SQL = {
  sites: ["totals", "views", "days", "day_visitors", "readings", "history", "highest", "imports"]
    .map((table) => `SELECT site FROM ${table}`)
    .join(" UNION "),
  secrets: "SELECT kind, name, value FROM secrets ORDER BY kind",
  views: "SELECT page, views FROM views WHERE site = ?",
  readings: "SELECT site, page, bucket, views, seconds FROM readings WHERE site = ?",
  history: "SELECT minute, peak FROM history WHERE site = ? ORDER BY minute",
  highest: "SELECT minute, peak FROM highest WHERE site = ?",
  imports: "SELECT source, total, visitors FROM imports WHERE site = ?",
  importedPages: "SELECT page, views FROM imported_pages WHERE site = ? AND source = ?",
  hashes: `SELECT day, hash FROM day_visitors WHERE site = ?1
    AND day = (SELECT max(day) FROM day_visitors WHERE site = ?1)`,
  putSecret: "INSERT OR REPLACE INTO secrets VALUES (?, ?, ?)",
  putTotals: "INSERT OR REPLACE INTO totals VALUES (?, ?, ?)",
  putViews: "INSERT OR REPLACE INTO views VALUES (?, ?, ?)",
  putPage: "INSERT OR IGNORE INTO pages VALUES (?, ?)",
  putReading: "INSERT OR REPLACE INTO readings VALUES (?, ?, ?, ?, ?)",
  putDay: "INSERT OR REPLACE INTO days VALUES (?, ?, ?, ?)",
  putHistory: "INSERT OR REPLACE INTO history VALUES (?, ?, ?)",
  putHighest: "INSERT OR REPLACE INTO highest VALUES (?, ?, ?)",
  putHash: "INSERT OR IGNORE INTO day_visitors VALUES (?, ?, ?)",
  putImport: "INSERT OR REPLACE INTO imports VALUES (?, ?, ?, ?)",
  putImportedPage: "INSERT OR REPLACE INTO imported_pages VALUES (?, ?, ?, ?)",
  dropImportedPages: "DELETE FROM imported_pages WHERE site = ? AND source = ?",
  totals: "SELECT total, visitors FROM totals WHERE site = ?",
  viewsOfPage: "SELECT views FROM views WHERE site = ? AND page = ?",
};

// ── Reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

export const keptSites = (database: DatabaseSync): string[] =>
  sorted(database.prepare(SQL.sites).all().map(({ site }) => String(site))); // oxfmt-ignore

export const keptSecrets = (database: DatabaseSync): KeptEntry[] =>
  database
    .prepare(SQL.secrets)
    .all()
    .map(({ kind, name, value }) => ({ secret: kind as SecretKind, name: String(name), value: String(value) }));

export function keptSite(database: DatabaseSync, site: string): KeptSite {
  const all = <Row>(sql: string) => database.prepare(sql).all(site) as Row[];
  const { total, visitors } = siteTotals(database, site, 0);
  const sources = all<{ source: string }>(SQL.imports).map(({ source }) => source);
  const hashes = all<{ day: number; hash: string }>(SQL.hashes);
  return {
    site,
    total,
    visitors,
    views: new Map(all<{ page: string; views: number }>(SQL.views).map(({ page, views }) => [page, views])),
    readings: readingsByPage(all<ReadingSum>(SQL.readings)),
    days: daysSince(database, site, 0) satisfies DayTotals[],
    peaks: all<Peak>(SQL.history),
    highest: database.prepare(SQL.highest).get(site) as Peak | undefined,
    imports: new Map(sources.map((source) => [source, imported(database, site, source)!])),
    today: hashes[0] && { day: hashes[0].day, hashes: hashes.map(({ hash }) => hash) },
  };
}

export function imported(database: DatabaseSync, site: string, source: string): ImportedTotals | undefined {
  const row = database.prepare(`${SQL.imports} AND source = ?`).get(site, source);
  if (row === undefined) return undefined;
  const pages = database.prepare(SQL.importedPages).all(site, source);
  return {
    total: Number(row["total"]),
    visitors: Number(row["visitors"]),
    pages: new Map(pages.map(({ page, views }) => [String(page), Number(views)])),
  };
}

// ── Writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Returns a function that brings one entry back. */
export function restorer(database: DatabaseSync): (entry: KeptEntry) => void {
  const put = Object.fromEntries(
    Object.entries(SQL).flatMap(([name, sql]) => (name.startsWith("put") ? [[name, database.prepare(sql)]] : [])),
  );
  const run = (name: keyof typeof SQL, ...values: (string | number)[]) => void put[name]!.run(...values);
  const putPage = (site: string, page: string) => page !== OTHER_PAGES && run("putPage", site, page);
  return (entry) => {
    if ("secret" in entry) return run("putSecret", entry.secret, entry.name, entry.value);
    const { site } = entry;
    if ("histogram" in entry) {
      putPage(site, entry.page);
      for (const [index, [bucket, views]] of entry.histogram.entries())
        run("putReading", site, entry.page, bucket, views, index === 0 ? entry.seconds : 0); // only their sum is shown
      return;
    }
    if ("peaks" in entry) return entry.peaks.forEach(([minute, peak]) => run("putHistory", site, minute, peak));
    if ("highest" in entry) return run("putHighest", site, ...entry.highest);
    if ("hashes" in entry) return entry.hashes.forEach((hash) => run("putHash", entry.day, site, hash));
    if ("day" in entry) return run("putDay", site, entry.day, entry.views, entry.visitors);
    if ("source" in entry && "page" in entry)
      return run("putImportedPage", site, entry.source, entry.page, entry.views);
    if ("source" in entry) return run("putImport", site, entry.source, entry.total, entry.visitors);
    if ("total" in entry) return run("putTotals", site, entry.total, entry.visitors);
    putPage(site, entry.page);
    run("putViews", site, entry.page, entry.views);
  };
}

/** @param storedName finds the name under which a page is kept */
export function importTotals(
  database: DatabaseSync,
  site: string,
  source: string,
  totals: ImportedTotals,
  storedName: (site: string, page: string) => string,
): void {
  const difference = differenceOf(imported(database, site, source), totals);
  const known = database.prepare(SQL.totals).get(site);
  const total = addExactly(Number(known?.["total"] ?? 0), difference.total, `the total of ${site}`);
  const visitors = addExactly(Number(known?.["visitors"] ?? 0), difference.visitors, `the visitors of ${site}`);
  database.prepare(SQL.putTotals).run(site, total, visitors);
  const viewsOf = database.prepare(SQL.viewsOfPage);
  const putViews = database.prepare(SQL.putViews);
  for (const [page, views] of difference.pages) {
    const name = storedName(site, page);
    putViews.run(
      site,
      name,
      addExactly(Number(viewsOf.get(site, name)?.["views"] ?? 0), views, `the views of ${page}`),
    );
  }
  database.prepare(SQL.dropImportedPages).run(site, source);
  database.prepare(SQL.putImport).run(site, source, totals.total, totals.visitors);
  const putPage = database.prepare(SQL.putImportedPage);
  for (const [page, views] of totals.pages) putPage.run(site, source, page, views);
}
