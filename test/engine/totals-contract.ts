/** What every engine promises about views and visitors, as tests that run on each of them. */
import { expect, test } from "bun:test";
import { type Engine, MAX_PAGES_PER_SITE, OTHER_PAGES, type ViewSum, type VisitorEntry } from "../../engine/engine.ts";

const DAY = 20_345;

/** Views of one day as they are recorded. */
export const viewsOf = (site: string, pages: Record<string, number>, day = DAY): ViewSum[] =>
  Object.entries(pages).map(([page, views]) => ({ site, page, day, views }));

export const recordViews = (engine: Engine, views: ViewSum[]): Promise<void> =>
  engine.record({ readings: [], peaks: [], views });

/** Visitors of one day; a name with "+" is new on that day. */
export const visitorsOf = (site: string, names: string[], day = DAY): VisitorEntry[] =>
  names.map((name) => ({ site, day, hash: name.replace("+", "").padEnd(16, "_"), isFirstDay: name.endsWith("+") }));

/** @param open makes an engine that is like new for the sites of this file */
export function totalsContract(name: string, open: () => Promise<Engine>): void {
  test(`${name}: views are added up by page, by site and by day`, async () => {
    const engine = await open();
    const site = "views.example";
    await recordViews(engine, [...viewsOf(site, { "/a": 2, "/b": 1 }), ...viewsOf("views.other", { "/a": 50 })]);
    await recordViews(engine, [...viewsOf(site, { "/a": 1 }), ...viewsOf(site, { "/a": 4 }, DAY + 1)]);
    expect(await engine.pageViews(site, ["/none", "/b", "/a", "/b"])).toEqual([0, 1, 7, 1]);
    expect(await engine.pageViews(site, [])).toEqual([]);
    expect(await engine.siteTotals(site, DAY)).toEqual({ total: 8, visitors: 0, today: 0 });
    expect(await engine.siteTotals("views.none", DAY)).toEqual({ total: 0, visitors: 0, today: 0 });
    expect(await engine.days(site, DAY)).toEqual([
      { day: DAY, views: 4, visitors: 0 },
      { day: DAY + 1, views: 4, visitors: 0 },
    ]);
    expect(await engine.days(site, DAY + 1)).toHaveLength(1);
    await engine.close();
  });

  test(`${name}: a visitor counts once a day, and as a new one on the day of the minting only`, async () => {
    const engine = await open();
    const site = "visitors.example";
    await engine.countVisitors([...visitorsOf(site, ["ann+", "ben"]), ...visitorsOf("visitors.other", ["ann+"])]);
    await engine.countVisitors(visitorsOf(site, ["ann+", "ben", "cid+", "cid+"]));
    expect(await engine.siteTotals(site, DAY)).toEqual({ total: 0, visitors: 2, today: 3 });
    await engine.countVisitors(visitorsOf(site, ["ann", "dan+"], DAY + 1));
    expect(await engine.siteTotals(site, DAY + 1)).toEqual({ total: 0, visitors: 3, today: 2 });
    await recordViews(engine, viewsOf(site, { "/": 9 }, DAY + 1));
    expect(await engine.days(site, 0)).toEqual([
      { day: DAY, views: 0, visitors: 3 },
      { day: DAY + 1, views: 9, visitors: 2 },
    ]);
    expect(await engine.siteTotals("visitors.other", DAY)).toEqual({ total: 0, visitors: 1, today: 1 });
    await engine.close();
  });

  test(`${name}: visitors who waited over midnight count on their own day, and once`, async () => {
    const engine = await open();
    const site = "midnight.example";
    await engine.countVisitors(visitorsOf(site, ["ann+"]));
    await engine.countVisitors([...visitorsOf(site, ["ben+"], DAY + 1), ...visitorsOf(site, ["ann+", "cid+", "dan"])]);
    expect(await engine.siteTotals(site, DAY + 1)).toEqual({ total: 0, visitors: 3, today: 1 });
    expect((await engine.siteTotals(site, DAY)).today).toBe(3);
    await engine.close();
  });

  test(`${name}: nobody of today is counted again after the clock was put back for a while`, async () => {
    const engine = await open();
    const site = "put-back.example";
    const come = async (names: string[], day: number) => {
      await engine.secret("day", String(day));
      await engine.countVisitors(visitorsOf(site, names, day));
    };
    await come(["ann+", "ben"], DAY);
    await come(["cid", "ann"], DAY - 3);
    await come(["ann+", "ben", "dan+"], DAY);
    expect(await engine.siteTotals(site, DAY)).toEqual({ total: 0, visitors: 2, today: 3 });
    await engine.close();
  });

  test(`${name}: many visitors in one call are all counted, and the same call again changes nothing`, async () => {
    const engine = await open();
    const site = "crowd.example";
    const names = Array.from({ length: 3_001 }, (_, index) => (index % 3 === 0 ? `${index}` : `${index}+`));
    for (let time = 0; time < 2; time += 1) {
      await engine.countVisitors(visitorsOf(site, names));
      expect(await engine.siteTotals(site, DAY)).toEqual({ total: 0, visitors: 2_000, today: 3_001 });
    }
    await engine.close();
  });

  test(`${name}: views of pages beyond the limit of a site are summed up under one name`, async () => {
    const engine = await open();
    const site = "pages.example";
    const pages = Object.fromEntries(Array.from({ length: MAX_PAGES_PER_SITE + 5 }, (_, index) => [`/${index}`, 1]));
    await recordViews(engine, viewsOf(site, pages));
    await recordViews(engine, viewsOf(site, { "/3": 1, [`/${MAX_PAGES_PER_SITE + 4}`]: 1 }));
    const asked = ["/3", `/${MAX_PAGES_PER_SITE - 1}`, `/${MAX_PAGES_PER_SITE}`, OTHER_PAGES];
    expect(await engine.pageViews(site, asked)).toEqual([2, 1, 0, 6]);
    expect((await engine.siteTotals(site, DAY)).total).toBe(MAX_PAGES_PER_SITE + 7);
    expect(engine.lostEntries).toBe(0);
    await engine.close();
  });

  test(`${name}: pages may be called like anything that the engine keeps beside them`, async () => {
    const engine = await open();
    const site = "names.example";
    const pages = { t: 1, total: 2, "20345v": 3, d20345v: 4, __proto__x: 5, "": 6, "é {x}": 7 };
    await recordViews(engine, viewsOf(site, pages));
    expect(await engine.pageViews(site, Object.keys(pages))).toEqual(Object.values(pages));
    expect(await engine.siteTotals(site, DAY)).toEqual({ total: 28, visitors: 0, today: 0 });
    await engine.close();
  });

  test(`${name}: numbers are exact up to 2^53`, async () => {
    const engine = await open();
    const site = "large-numbers.example";
    await recordViews(engine, viewsOf(site, { "/": Number.MAX_SAFE_INTEGER - 2 }));
    await recordViews(engine, viewsOf(site, { "/": 1 }));
    await recordViews(engine, viewsOf(site, { "/": 1 }));
    expect(await engine.pageViews(site, ["/"])).toEqual([Number.MAX_SAFE_INTEGER]);
    expect((await engine.siteTotals(site, DAY)).total).toBe(Number.MAX_SAFE_INTEGER);
    await engine.close();
  });
}
