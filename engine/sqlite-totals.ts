/** Views and visitors in the SQLite file. Each function works inside a transaction of its caller. */

import type { DatabaseSync } from "node:sqlite";
import type { DayTotals, SiteTotals, ViewSum, VisitorEntry } from "./engine.ts";

export const TOTALS_SCHEMA = `
  CREATE TABLE totals (site TEXT PRIMARY KEY, total INTEGER NOT NULL, visitors INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE views (site TEXT NOT NULL, page TEXT NOT NULL, views INTEGER NOT NULL, PRIMARY KEY (site, page))
    STRICT, WITHOUT ROWID;
  CREATE TABLE days (site TEXT NOT NULL, day INTEGER NOT NULL, views INTEGER NOT NULL, visitors INTEGER NOT NULL,
    PRIMARY KEY (site, day)) STRICT, WITHOUT ROWID;
  CREATE TABLE day_visitors (day INTEGER NOT NULL, site TEXT NOT NULL, hash TEXT NOT NULL,
    PRIMARY KEY (day, site, hash)) STRICT, WITHOUT ROWID;`;

const SQL = {
  addTotals: `INSERT INTO totals VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET total = total + excluded.total, visitors = visitors + excluded.visitors`,
  addViews: "INSERT INTO views VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET views = views + excluded.views",
  addDay: `INSERT INTO days VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET views = views + excluded.views, visitors = visitors + excluded.visitors`,
  enter: "INSERT INTO day_visitors VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
  forgetDays: "DELETE FROM day_visitors WHERE day < ?",
  siteTotals: `SELECT coalesce(max(total), 0) AS total, coalesce(max(visitors), 0) AS visitors,
    (SELECT coalesce(max(visitors), 0) FROM days WHERE site = ?1 AND day = ?2) AS today FROM totals WHERE site = ?1`,
  views: "SELECT views FROM views WHERE site = ? AND page = ?",
  days: "SELECT day, views, visitors FROM days WHERE site = ? AND day >= ? ORDER BY day",
};

/** @param storedName finds the name under which a page is kept */
export function addViews(
  database: DatabaseSync,
  sums: readonly ViewSum[],
  storedName: (site: string, page: string) => string,
): void {
  const ofPage = database.prepare(SQL.addViews);
  const ofSite = database.prepare(SQL.addTotals);
  const ofDay = database.prepare(SQL.addDay);
  for (const { site, page, day, views } of sums) {
    ofPage.run(site, storedName(site, page), views);
    ofSite.run(site, views, 0);
    ofDay.run(site, day, views, 0);
  }
}

/** Enters visitors into the set of their day; the sets of earlier days are thrown away. */
export function countVisitors(database: DatabaseSync, entries: readonly VisitorEntry[]): void {
  const enter = database.prepare(SQL.enter);
  const ofSite = database.prepare(SQL.addTotals);
  const ofDay = database.prepare(SQL.addDay);
  let newestDay = -Infinity;
  for (const { site, day, hash, isFirstDay } of entries) {
    newestDay = Math.max(newestDay, day);
    if (enter.run(day, site, hash).changes === 0) continue;
    ofDay.run(site, day, 0, 1);
    if (isFirstDay) ofSite.run(site, 0, 1);
  }
  database.prepare(SQL.forgetDays).run(newestDay);
}

export const siteTotals = (database: DatabaseSync, site: string, day: number): SiteTotals =>
  ({ ...database.prepare(SQL.siteTotals).get(site, day) }) as unknown as SiteTotals;

export function pageViews(database: DatabaseSync, site: string, pages: readonly string[]): number[] {
  const views = database.prepare(SQL.views);
  return pages.map((page) => Number(views.get(site, page)?.["views"] ?? 0));
}

export const daysSince = (database: DatabaseSync, site: string, fromDay: number): DayTotals[] =>
  database.prepare(SQL.days).all(site, fromDay) as unknown as DayTotals[];
