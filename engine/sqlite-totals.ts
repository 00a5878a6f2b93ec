/** Views and visitors in the SQLite file. Each function works inside a transaction of its caller. */

import type { DatabaseSync } from "node:sqlite";
import { type DayTotals, type SiteTotals, storedPageName, type ViewSum, type VisitorEntry } from "./engine.ts";
import { inPortions } from "./portions.ts";
import { type Names, SITE_ID } from "./sqlite-names.ts";
import { statement } from "./sqlite-statements.ts";

/** A larger number would not be exact. An import may come near it. */
const MOST = Number.MAX_SAFE_INTEGER;

const SQL = {
  addPageViews: `UPDATE pages SET views = min(views + ?2, ${MOST}) WHERE id = ?1`,
  addSiteViews: `UPDATE sites SET total = min(total + ?2, ${MOST}) WHERE id = ?1`,
  addVisitors: `UPDATE sites SET visitors = min(visitors + ?2, ${MOST}) WHERE id = ?1`,
  addDay: `INSERT INTO days VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET views = min(views + excluded.views, ${MOST}),
      visitors = min(visitors + excluded.visitors, ${MOST})`,
  enter: "INSERT INTO day_visitors VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
  forgetDays: "DELETE FROM day_visitors WHERE day < ?",
  siteTotals: `SELECT total, visitors, coalesce((SELECT visitors FROM days WHERE site = sites.id AND day = ?2), 0) AS today
    FROM sites WHERE name = ?1`,
  pageViews: `SELECT views FROM pages WHERE site = ${SITE_ID} AND name = ?2`,
  days: `SELECT day, views, visitors FROM days WHERE site = ${SITE_ID} AND day >= ?2 ORDER BY day`,
};

export async function addPageViews(database: DatabaseSync, names: Names, sums: readonly ViewSum[]): Promise<void> {
  const ofPage = statement(database, SQL.addPageViews);
  const ofSite = statement(database, SQL.addSiteViews);
  const ofDay = statement(database, SQL.addDay);
  await inPortions(sums, ({ site: name, page, day, views }) => {
    const site = names.site(name);
    if (site === undefined) return;
    ofPage.run(names.page(site, page), views);
    ofSite.run(site.id, views);
    ofDay.run(site.id, day, views, 0);
  });
}

/** Enters visitors into the set of their day. The sets of earlier days are thrown away. */
export function countVisitors(database: DatabaseSync, names: Names, entries: readonly VisitorEntry[]): void {
  const enter = statement(database, SQL.enter);
  const ofSite = statement(database, SQL.addVisitors);
  const ofDay = statement(database, SQL.addDay);
  /** By site and day: most of a batch belongs to one site. */
  const sums = new Map<string, { readonly site: number; readonly day: number; ofDay: number; ever: number }>();
  let newestDay = -Infinity;
  for (const { site: name, day, hash, isFirstDay } of entries) {
    newestDay = Math.max(newestDay, day);
    const site = names.site(name);
    if (site === undefined || enter.run(day, site.id, hash).changes === 0) continue;
    const key = `${site.id} ${day}`;
    const sum = sums.get(key) ?? { site: site.id, day, ofDay: 0, ever: 0 };
    sum.ofDay += 1;
    sum.ever += isFirstDay ? 1 : 0;
    sums.set(key, sum);
  }
  for (const sum of sums.values()) {
    ofDay.run(sum.site, sum.day, 0, sum.ofDay);
    ofSite.run(sum.site, sum.ever);
  }
  statement(database, SQL.forgetDays).run(newestDay);
}

export function siteTotals(database: DatabaseSync, site: string, day: number): SiteTotals {
  const row = statement(database, SQL.siteTotals).get(site, day) as SiteTotals | undefined;
  return row === undefined ? { total: 0, visitors: 0, today: 0 } : { ...row };
}

export function pageViews(database: DatabaseSync, site: string, pages: readonly string[]): number[] {
  const views = statement(database, SQL.pageViews);
  return pages.map((page) => Number(views.get(site, storedPageName(page))?.["views"] ?? 0));
}

export const daysSince = (database: DatabaseSync, site: string, fromDay: number): DayTotals[] =>
  statement(database, SQL.days).all(site, fromDay) as unknown as DayTotals[];
