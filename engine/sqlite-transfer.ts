/** Export and import of the SQLite file. Each function works inside a transaction of its caller. */

import type { DatabaseSync } from "node:sqlite";
import {
  type DayTotals,
  type ImportedTotals,
  ImportRefusal,
  type KeptEntry,
  type KeptSecret,
  OTHER_PAGES,
  type Peak,
  storedPageName,
} from "./engine.ts";
import { addExactly, differenceOf, type KeptSite, sorted, withStoredNames } from "./kept.ts";
import { type Histogram, parseHistogram, readingOf } from "./reading.ts";
import { Names, type SiteRow } from "./sqlite-names.ts";
import { allSecrets, replaceSecret } from "./sqlite-secrets.ts";
import { statement } from "./sqlite-statements.ts";

const SQL = {
  sites: "SELECT name FROM sites",
  site: "SELECT id, is_listed, total, visitors FROM sites WHERE name = ?",
  views: "SELECT name, views FROM pages WHERE site = ?",
  readings: `SELECT name, seconds, histogram FROM readings JOIN pages ON pages.id = readings.page
    WHERE readings.site = ?`,
  days: "SELECT day, views, visitors FROM days WHERE site = ? ORDER BY day",
  history: "SELECT minute, peak FROM history WHERE site = ? ORDER BY minute",
  highest: "SELECT minute, peak FROM highest WHERE site = ?",
  dayVisitors: "SELECT day, hash FROM day_visitors WHERE site = ?",
  imports: "SELECT id, source, total, visitors FROM imports WHERE site = ?",
  importedPages: "SELECT page, views FROM imported_pages WHERE import = ?",

  setTotals: "UPDATE sites SET total = ?2, visitors = ?3 WHERE id = ?1",
  findPage: "SELECT id, views FROM pages WHERE site = ? AND name = ?",
  viewsOfPage: "SELECT views FROM pages WHERE id = ?",
  setViews: "UPDATE pages SET views = ?2 WHERE id = ?1",
  addImport: `INSERT INTO imports (site, source, total, visitors) VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET total = excluded.total, visitors = excluded.visitors RETURNING id`,
  findImport: "SELECT id FROM imports WHERE site = ? AND source = ?",
  forgetImportedPages: "DELETE FROM imported_pages WHERE import = ?",
  addImportedPage: "INSERT OR REPLACE INTO imported_pages VALUES (?, ?, ?)",

  unlist: "UPDATE sites SET is_listed = 0 WHERE id = ?",
  addPage: "INSERT INTO pages (site, name) VALUES (?, ?)",
  countPages: "UPDATE sites SET page_count = (SELECT count(*) FROM pages WHERE site = sites.id)",
  putReading: "INSERT OR REPLACE INTO readings VALUES (?, ?, ?, ?, ?, ?, ?)",
  putDay: "INSERT OR REPLACE INTO days VALUES (?, ?, ?, ?)",
  putPeak: "INSERT OR REPLACE INTO history VALUES (?, ?, ?)",
  putHighest: "INSERT OR REPLACE INTO highest VALUES (?, ?, ?)",
  putVisitor: "INSERT OR IGNORE INTO day_visitors VALUES (?, ?, ?)",
};

// ── Reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

export const keptSites = (database: DatabaseSync): string[] =>
  sorted(database.prepare(SQL.sites).all().map(({ name }) => String(name))); // oxfmt-ignore

export const keptSecrets = (database: DatabaseSync): KeptSecret[] =>
  allSecrets(database).map(({ kind, name, value }) => ({ secret: kind, name, value }));

export function keptSite(database: DatabaseSync, site: string): KeptSite {
  const row = database.prepare(SQL.site).get(site);
  const id = Number(row?.["id"]);
  const all = <Row>(sql: string) => database.prepare(sql).all(id) as Row[];
  const visitors = Map.groupBy(all<{ day: number; hash: string }>(SQL.dayVisitors), ({ day }) => day);
  return {
    site,
    isListed: row?.["is_listed"] !== 0,
    total: Number(row?.["total"] ?? 0),
    visitors: Number(row?.["visitors"] ?? 0),
    views: new Map(all<{ name: string; views: number }>(SQL.views).map(({ name, views }) => [name, views])),
    readings: new Map(
      all<{ name: string; seconds: number; histogram: string }>(SQL.readings).map(({ name, seconds, histogram }) => {
        return [name, { seconds, histogram: parseHistogram(histogram) }];
      }),
    ),
    days: all<DayTotals>(SQL.days),
    peaks: all<Peak>(SQL.history),
    highest: database.prepare(SQL.highest).get(id) as Peak | undefined,
    imports: importsOf(database, id),
    dayVisitors: new Map(Array.from(visitors, ([day, rows]) => [day, rows.map(({ hash }) => hash)])),
  };
}

export function imported(database: DatabaseSync, site: string, source: string): ImportedTotals | undefined {
  return importsOf(database, Number(database.prepare(SQL.site).get(site)?.["id"])).get(source);
}

/** What was imported from which source. */
function importsOf(database: DatabaseSync, site: number): Map<string, ImportedTotals> {
  const pagesOf = database.prepare(SQL.importedPages);
  const imports = new Map<string, ImportedTotals>();
  for (const { id, source, total, visitors } of database.prepare(SQL.imports).all(site)) {
    const pages = new Map(pagesOf.all(Number(id)).map(({ page, views }) => [String(page), Number(views)]));
    imports.set(String(source), { total: Number(total), visitors: Number(visitors), pages });
  }
  return imports;
}

// ── Totals from elsewhere ───────────────────────────────────────────────────────────────────────────────────────────

export function importTotals(database: DatabaseSync, site: string, source: string, totals: ImportedTotals): void {
  const next = withStoredNames(totals);
  const difference = differenceOf(imported(database, site, source), next);
  const names = new Names(database, new Set());
  const row = names.site(site)!; // a listed one always has room
  const known = database.prepare(SQL.site).get(site);
  const total = addExactly(Number(known?.["total"]), difference.total, `the total of ${site}`);
  const visitors = addExactly(Number(known?.["visitors"]), difference.visitors, `the visitors of ${site}`);
  database.prepare(SQL.setTotals).run(row.id, total, visitors);
  changeViews(database, names, row, difference.pages);
  const id = Number(database.prepare(SQL.addImport).get(row.id, source, next.total, next.visitors)?.["id"]);
  database.prepare(SQL.forgetImportedPages).run(id);
  const addPage = database.prepare(SQL.addImportedPage);
  for (const [page, views] of next.pages) addPage.run(id, page, views);
}

/** @param pages page → what is added to its views, which may be negative */
function changeViews(database: DatabaseSync, names: Names, site: SiteRow, pages: ReadonlyMap<string, number>): void {
  const find = database.prepare(SQL.findPage);
  const viewsOf = database.prepare(SQL.viewsOfPage);
  const setViews = database.prepare(SQL.setViews);
  for (const [page, views] of pages) {
    const wasFolded = views < 0 && find.get(site.id, page) === undefined; // when it was imported, the site was full
    const id = names.page(site, wasFolded ? OTHER_PAGES : page);
    setViews.run(id, addExactly(Number(viewsOf.get(id)?.["views"]), views, `the views of ${page}`));
  }
}

// ── Restoring ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** @throws {ImportRefusal} when anything is kept already of one of the sites */
export function restore(database: DatabaseSync, sites: readonly string[], entries: Iterable<KeptEntry>): void {
  const kept = keptSites(database).find((site) => sites.includes(site));
  if (kept !== undefined) throw new ImportRefusal(`${kept} has numbers already`);
  const restorer = new Restorer(database);
  for (const entry of entries) restorer.restore(entry);
  database.exec(SQL.countPages);
}

/** Brings entries back as they are, whatever the limits of pages and sites are. */
class Restorer {
  readonly #database: DatabaseSync;
  readonly #names: Names;

  constructor(database: DatabaseSync) {
    this.#database = database;
    this.#names = new Names(database, new Set());
  }

  restore(entry: KeptEntry): void {
    if ("secret" in entry) {
      replaceSecret(this.#database, { kind: entry.secret, name: entry.name, value: entry.value });
      return;
    }
    const { id } = this.#names.site(entry.site)!; // a listed one always has room
    if ("histogram" in entry) this.#restoreReading(id, entry.page, entry.seconds, Object.fromEntries(entry.histogram));
    else if ("peaks" in entry) for (const [minute, peak] of entry.peaks) this.#run("putPeak", id, minute, peak);
    else if ("highest" in entry) this.#run("putHighest", id, ...entry.highest);
    else if ("hashes" in entry) for (const hash of entry.hashes) this.#run("putVisitor", entry.day, id, hash);
    else if ("day" in entry) this.#run("putDay", id, entry.day, entry.views, entry.visitors);
    else if ("source" in entry && "page" in entry)
      this.#run("addImportedPage", this.#import(id, entry.source), entry.page, entry.views);
    else if ("source" in entry) this.#run("addImport", id, entry.source, entry.total, entry.visitors);
    else if ("page" in entry) this.#run("setViews", this.#page(id, entry.page), entry.views);
    else {
      this.#run("setTotals", id, entry.total, entry.visitors);
      if (entry.unlisted === true) this.#run("unlist", id);
    }
  }

  #restoreReading(site: number, page: string, seconds: number, histogram: Histogram): void {
    const { views, median, p90 } = readingOf(histogram, seconds);
    this.#run("putReading", this.#page(site, page), site, views, seconds, median, p90, JSON.stringify(histogram));
  }

  #page(site: number, page: string): number {
    const name = storedPageName(page);
    const known = this.#statement("findPage").get(site, name)?.["id"];
    return Number(known ?? this.#statement("addPage").run(site, name).lastInsertRowid);
  }

  #import(site: number, source: string): number {
    const known = this.#statement("findImport").get(site, source)?.["id"];
    return Number(known ?? this.#statement("addImport").get(site, source, 0, 0)?.["id"]);
  }

  #run(name: keyof typeof SQL, ...values: (string | number)[]): void {
    this.#statement(name).run(...values);
  }

  #statement(name: keyof typeof SQL) {
    return statement(this.#database, SQL[name]);
  }
}
