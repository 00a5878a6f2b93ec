/** What every engine promises about export and import, as tests that run on each of them. */
import { expect, test } from "bun:test";
import {
  type Engine,
  type ImportedTotals,
  type KeptEntry,
  MAX_PAGES_PER_SITE,
  OTHER_PAGES,
  type SecretKind,
} from "../../engine/engine.ts";
import { DAY, fill, linesOf, SITES } from "../support/kept.ts";
import { recordViews, viewsOf, visitorsOf } from "./totals-contract.ts";

const totals = (total: number, visitors: number, pages: Record<string, number>): ImportedTotals => ({
  total,
  visitors,
  pages: new Map(Object.entries(pages)),
});

const secretOf = async (engine: Engine, secret: SecretKind): Promise<KeptEntry> => {
  const name = secret === "day" ? String(DAY) : "";
  return { secret, name, value: await engine.secret(secret, name) };
};

/** @param open makes an engine that is like new for the sites of this file @param openEmpty makes an empty engine */
export function transferContract(name: string, open: () => Promise<Engine>, openEmpty: () => Promise<Engine>): void {
  test(`${name}: what was counted elsewhere is added once, however often it is imported`, async () => {
    const engine = await open();
    const site = "once.example";
    await recordViews(engine, viewsOf(site, { "/": 2, "/a": 1 }, DAY));
    await engine.countVisitors(visitorsOf(site, ["ann+"], DAY));
    for (let time = 0; time < 2; time += 1) {
      await engine.importTotals(site, "old", totals(100, 10, { "/": 60, "/b": 5 }));
      expect(await engine.siteTotals(site, DAY)).toEqual({ total: 103, visitors: 11, today: 1 });
      expect(await engine.pageViews(site, ["/", "/a", "/b"])).toEqual([62, 1, 5]);
    }
    await recordViews(engine, viewsOf(site, { "/b": 1 }, DAY));
    await engine.countVisitors(visitorsOf(site, ["ben+"], DAY));
    expect(await engine.siteTotals(site, DAY)).toEqual({ total: 104, visitors: 12, today: 2 });
    expect(await engine.imported(site, "old")).toEqual(totals(100, 10, { "/": 60, "/b": 5 }));
    await engine.close();
  });

  test(`${name}: another import of a source replaces what was imported before, and leaves other sources alone`, async () => {
    const engine = await open();
    const site = "replaced.example";
    await engine.importTotals(site, "one", totals(100, 10, { "/a": 60, "/b": 5 }));
    await engine.importTotals(site, "two", totals(1_000, 0, { "/a": 1 }));
    await engine.importTotals(site, "one", totals(90, 20, { "/a": 50, "/c": 1 }));
    expect(await engine.siteTotals(site, DAY)).toEqual({ total: 1_090, visitors: 20, today: 0 });
    expect(await engine.pageViews(site, ["/a", "/b", "/c"])).toEqual([51, 0, 1]);
    await engine.importTotals(site, "one", totals(0, 0, {}));
    expect(await engine.siteTotals(site, DAY)).toEqual({ total: 1_000, visitors: 0, today: 0 });
    expect(await engine.imported(site, "none")).toBeUndefined();
    await engine.close();
  });

  test(`${name}: an import that would make any number inexact changes nothing at all`, async () => {
    const engine = await open();
    const site = "exact.example";
    const most = Number.MAX_SAFE_INTEGER;
    await engine.importTotals(site, "one", totals(5, 6, { "/a": 7 }));
    for (const wrong of [totals(most - 4, 0, {}), totals(0, most - 5, {}), totals(1, 1, { "/0": 1, "/a": most - 6 })])
      expect(await engine.importTotals(site, "two", wrong).then(() => "", String)).toContain(`above ${most}`);
    expect(await engine.siteTotals(site, DAY)).toEqual({ total: 5, visitors: 6, today: 0 });
    expect(await engine.pageViews(site, ["/a", "/0"])).toEqual([7, 0]);
    expect(await engine.imported(site, "two")).toBeUndefined();
    await engine.importTotals(site, "two", totals(most - 5, most - 6, { "/a": most - 7 }));
    expect(await engine.siteTotals(site, DAY)).toEqual({ total: most, visitors: most, today: 0 });
    await engine.close();
  });

  test(`${name}: a number that an import has made as large as it can be stays there`, async () => {
    const engine = await open();
    const site = "largest.example";
    const most = Number.MAX_SAFE_INTEGER;
    await engine.importTotals(site, "old", totals(most, most, { "/": most }));
    await recordViews(engine, viewsOf(site, { "/": 2 }, DAY));
    await engine.countVisitors(visitorsOf(site, ["ann+", "ben+"], DAY));
    expect(await engine.siteTotals(site, DAY)).toEqual({ total: most, visitors: most, today: 2 });
    expect(await engine.pageViews(site, ["/"])).toEqual([most]);
    await engine.close();
  });

  test(`${name}: an imported long name of a page is the page that is counted`, async () => {
    const engine = await open();
    const site = "long-names.example";
    const [long, other] = ["a", "b"].map((end) => `/${"x".repeat(1_000)}${end}`) as [string, string];
    await recordViews(engine, viewsOf(site, { [long]: 1 }, DAY));
    for (let time = 0; time < 2; time += 1)
      await engine.importTotals(site, "old", totals(10, 0, { [long]: 7, [other]: 3 }));
    expect(await engine.pageViews(site, [long, other])).toEqual([8, 3]);
    await engine.importTotals(site, "old", totals(0, 0, {}));
    expect(await engine.pageViews(site, [long, other])).toEqual([1, 0]);
    await engine.close();
  });

  test(`${name}: pages that are imported beyond the limit of a site are summed up under one name`, async () => {
    const engine = await open();
    const site = "large-import.example";
    await recordViews(engine, viewsOf(site, { "/first": 1 }, DAY));
    const pages = Object.fromEntries(Array.from({ length: MAX_PAGES_PER_SITE }, (_, index) => [`/${index}`, 3]));
    for (let time = 0; time < 2; time += 1) {
      await engine.importTotals(site, "old", totals(3 * MAX_PAGES_PER_SITE, 0, pages));
      const views = await engine.pageViews(site, [...Object.keys(pages), OTHER_PAGES, "/first"]);
      expect(views.reduce((sum, count) => sum + count, 0)).toBe(3 * MAX_PAGES_PER_SITE + 1);
      expect(views.at(-2)).toBe(3);
    }
    await engine.close();
  });

  test(`${name}: everything that is kept is told, and an empty engine can be made the same`, async () => {
    const [from, to] = [await openEmpty(), await openEmpty()];
    await fill(from);
    const lines = await linesOf(from);
    expect(await from.keptSites()).toEqual(SITES);
    for (const part of [
      '"views":',
      '"histogram":',
      '"peaks":',
      '"highest":',
      '"source":',
      '"hashes":',
      '"secret":"admin"',
    ])
      expect(lines.join("\n")).toContain(part);
    expect((await from.keptEntries(SITES[0]!, false)).some((entry) => "hashes" in entry)).toBe(false);
    await to.restore("one", SITES, lines.map((line) => JSON.parse(line))); // oxfmt-ignore
    expect(await linesOf(to)).toEqual(lines);
    expect(lines.filter((line) => line.includes('"unlisted":true'))).toHaveLength(1);
    await Promise.all([from.close(), to.close()]);
  });

  test(`${name}: more pages than a site may have are restored, and the secrets of a service that has begun are replaced`, async () => {
    const [from, to] = [await openEmpty(), await openEmpty()];
    const site = "full.example";
    const numbers = Array.from({ length: MAX_PAGES_PER_SITE }, (_, index) => index);
    const entries: KeptEntry[] = [
      { site, total: 5, visitors: 0 },
      ...numbers.map((index) => ({ site, page: `/viewed${index}`, views: 1 })),
      ...numbers.map((index) => ({ site, page: `/read${index}`, seconds: 2, histogram: [[4, 1]] as const })),
      ...(await Promise.all(["signing", "salt", "day"].map((kind) => secretOf(from, kind as SecretKind)))),
    ];
    for (const { secret, name: secretName } of await from.keptSecrets()) await to.secret(secret, secretName);
    await to.restore("one", [site], entries);
    expect(await to.pageViews(site, ["/viewed0", `/viewed${MAX_PAGES_PER_SITE - 1}`])).toEqual([1, 1]);
    expect(await to.reading(site, `/read${MAX_PAGES_PER_SITE - 1}`)).toMatchObject({ views: 1, seconds: 2 });
    expect(await to.keptSecrets()).toEqual(await from.keptSecrets());
    await Promise.all([from.close(), to.close()]);
  });

  test(`${name}: what was restored goes on counting: nobody of today is counted again`, async () => {
    const [from, to] = [await openEmpty(), await openEmpty()];
    await fill(from);
    const [site = ""] = SITES;
    const before = await from.siteTotals(site, DAY);
    await to.restore("one", SITES, (await linesOf(from)).map((line) => JSON.parse(line))); // oxfmt-ignore
    expect(await to.secret("signing", "")).toBe(await from.secret("signing", ""));
    await to.countVisitors(visitorsOf(site, ["ann+", "ben", "new+"], DAY));
    await recordViews(to, viewsOf(site, { "/": 1 }, DAY));
    const { total, visitors, today } = before;
    expect(await to.siteTotals(site, DAY)).toEqual({ total: total + 1, visitors: visitors + 1, today: today + 1 });
    await to.countVisitors(visitorsOf(site, ["ann", "dan+"], DAY + 1));
    expect(await to.siteTotals(site, DAY + 1)).toEqual({ total: total + 1, visitors: visitors + 2, today: 2 });
    await Promise.all([from.close(), to.close()]);
  });

  test(`${name}: nothing is restored over numbers that are there`, async () => {
    const [from, to] = [await openEmpty(), await openEmpty()];
    await fill(from);
    const entries = (await linesOf(from)).map((line) => JSON.parse(line));
    await recordViews(to, viewsOf(SITES[1]!, { "/": 1 }, DAY));
    const before = await linesOf(to);
    expect(await to.restore("one", SITES, entries).then(() => "", String)).toContain("has numbers already");
    expect(await linesOf(to)).toEqual(before);
    await Promise.all([from.close(), to.close()]);
  });
}
