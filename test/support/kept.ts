/** An engine that keeps something of everything, and what it exports. */
import { DAY_MINUTES, type Engine, type KeptEntry, MINUTE_MS, OTHER_PAGES } from "../../engine/engine.ts";

export const DAY = 20_345;
export const SITES = ["a.example", "odd{%}.example"];
const MINUTE = Math.floor(Date.now() / MINUTE_MS);

/** Fills an engine. Numbers of the sites differ, and the second one is not in SITES. */
export async function fill(engine: Engine): Promise<void> {
  const unlistedSites = new Set([SITES[1]!]);
  await engine.secret("signing", "");
  await engine.secret("salt", "2026-11-24");
  await engine.secret("day", String(DAY));
  await engine.secret("admin", "");
  for (const [index, site] of SITES.entries()) {
    const imported = new Map([["/", 100 + index], ["/old", 7]]); // oxfmt-ignore
    const pages = ["/", "/é", "/😀 ｆ", OTHER_PAGES, "__proto__"];
    const views = pages.map((page, at) => ({ site, page, day: DAY - (at % 2), views: 10 * at + index + 1 }));
    const readings = pages.flatMap((page, at) => [
      { site, page, bucket: 3, views: at + 1, seconds: 1.25 * (at + 1) },
      { site, page, bucket: 11, views: 1, seconds: 7.001 },
      { site, page, bucket: 2, views: 0, seconds: 0 },
    ]);
    const peaks = [0, 1, 70, DAY_MINUTES + 5].map((ago) => ({ site, minute: MINUTE - ago, peak: ago + index + 1 }));
    await engine.importTotals(site, "busuanzi", { total: 1_000 + index, visitors: 50, pages: imported });
    await engine.importTotals(site, "totals of 2019.json", { total: 5, visitors: 0, pages: new Map() });
    await engine.record({ readings, peaks, views, unlistedSites });
    const visitor = (name: string, isFirstDay: boolean) => ({ site, day: DAY, hash: name.padEnd(16, "_"), isFirstDay });
    const visitors = [visitor("ann", true), visitor("ben", false), visitor("cid", index === 0)];
    await engine.countVisitors(visitors, unlistedSites);
  }
}

/** The lines of everything that an engine keeps, its secrets and visitors included. */
export async function linesOf(engine: Engine): Promise<string[]> {
  const entries: KeptEntry[] = await engine.keptSecrets();
  for (const site of await engine.keptSites()) entries.push(...(await engine.keptEntries(site, true)));
  return entries.map((entry) => JSON.stringify(entry));
}
