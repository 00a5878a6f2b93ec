/** What every engine promises, as tests that run on each of them. */
import { expect, test } from "bun:test";
import {
  DAY_MINUTES,
  type Engine,
  MAX_MOST_READ,
  MAX_PAGES_PER_SITE,
  MAX_PAGES_PER_UNLISTED_SITE,
  MAX_STORED_NAME_LENGTH,
  MAX_UNLISTED_SITES,
  MINUTE_MS,
  OTHER_PAGES,
  type ViewSum,
} from "../../engine/engine.ts";
import { sleep } from "../support/waiting.ts";

const MINUTE = Math.floor(Date.now() / MINUTE_MS);

/**
 * @param open makes an engine that is like new for the sites and nonces of this file
 * @param openEmpty makes an empty engine
 */
export function contract(name: string, open: () => Promise<Engine>, openEmpty: () => Promise<Engine>): void {
  const token = (nonce: number) => ({ site: "spent.example", nonce, expires: Date.now() + 30_000 });

  test(`${name}: a secret is made once, and another name replaces a salt`, async () => {
    const engine = await open();
    const secret = await engine.secret("signing", "");
    expect(secret.length).toBeGreaterThan(40);
    expect(await engine.secret("signing", "")).toBe(secret);
    const monday = await engine.secret("salt", "monday");
    expect(await engine.secret("salt", "monday")).toBe(monday);
    expect(await engine.secret("salt", "tuesday")).not.toBe(monday);
    expect(await engine.secret("salt", "monday")).not.toBe(monday);
    await engine.close();
  });

  test(`${name}: the key of a day stays while the clock is put back, and each day has a key of its own`, async () => {
    const engine = await openEmpty();
    const [today, earlier, tomorrow] = ["20345", "20340", "20346"];
    const key = await engine.secret("day", today);
    const otherKey = await engine.secret("day", earlier);
    expect(otherKey).not.toBe(key);
    expect(await engine.secret("day", earlier)).toBe(otherKey);
    expect(await engine.secret("day", today)).toBe(key);
    expect(await engine.secret("day", tomorrow)).not.toBe(key);
    await engine.close();
  });

  test(`${name}: a token is spent once, however many try at the same time`, async () => {
    const engine = await open();
    await sleep(2); // an engine may refuse tokens that were minted before it started
    const spent = await Promise.all(Array.from({ length: 50 }, () => engine.spend(token(1), Date.now())));
    expect(spent.filter(Boolean)).toHaveLength(1);
    expect(await engine.spend(token(2), Date.now())).toBe(true);
    await engine.close();
  });

  test(`${name}: the wall clock tells the time`, async () => {
    const engine = await open();
    const before = engine.wallClock();
    expect(Number.isInteger(before)).toBe(true);
    expect(Math.abs(before - Date.now())).toBeLessThan(500); // all engines of these tests are on one machine
    await sleep(50);
    expect(engine.wallClock()).toBeGreaterThan(before);
    await engine.close();
  });

  test(`${name}: readings are added up, and the highest count of a minute is kept`, async () => {
    const engine = await open();
    const site = "journal.example";
    const reading = { site, page: "/", bucket: 3, views: 1, seconds: 1.5 };
    const peaks = [4, 9, 2].map((peak) => ({ site, minute: MINUTE, peak }));
    await engine.record({ readings: [reading, { ...reading, page: "/two", bucket: 0 }], peaks });
    await engine.record({ readings: [{ ...reading, views: -1, seconds: -1.5 }], peaks: [] });
    await engine.record({ readings: [{ ...reading, bucket: 5, seconds: 3.25 }], peaks: [] });
    await engine.record({ readings: [], peaks: [{ site, minute: MINUTE - DAY_MINUTES - 1, peak: 12 }] });
    const bucket5 = { views: 1, seconds: 3, median: 2, p90: 2 };
    const bucket0 = { views: 1, seconds: 2, median: 0, p90: 0 };
    expect(await engine.mostRead(site)).toEqual([
      { page: "/", ...bucket5 },
      { page: "/two", ...bucket0 },
    ]);
    expect(await engine.reading(site, "/")).toEqual(bucket5);
    expect(await engine.reading(site, "/two")).toEqual(bucket0);
    expect(await engine.reading(site, "/none")).toEqual({ views: 0, seconds: 0, median: 0, p90: 0 });
    expect(await engine.mostRead("other.example")).toEqual([]);
    expect(await engine.history(site, MINUTE - 1_500, 1)).toEqual([
      { minute: MINUTE - DAY_MINUTES - 1, peak: 12 },
      { minute: MINUTE, peak: 9 },
    ]);
    expect(await engine.history(site, MINUTE - DAY_MINUTES, 1)).toEqual([{ minute: MINUTE, peak: 9 }]);
    expect(await engine.history(site, MINUTE - 10, 60)).toEqual([{ minute: MINUTE - (MINUTE % 60), peak: 9 }]);
    expect(await engine.history(site, 0, 1)).toHaveLength(2); // however long ago it is asked for
    expect(await engine.highest(site)).toEqual({ minute: MINUTE - DAY_MINUTES - 1, peak: 12 });
    expect(await engine.highest("other.example")).toBeUndefined();
    expect(await engine.firstMinute(site)).toBe(MINUTE - DAY_MINUTES - 1);
    expect(await engine.firstMinute("other.example")).toBeUndefined();
    await engine.record({ readings: [], peaks: [{ site, minute: MINUTE - DAY_MINUTES - 3, peak: 1 }] });
    expect(await engine.firstMinute(site)).toBe(MINUTE - DAY_MINUTES - 3);
    await engine.close();
  });

  test(`${name}: pages beyond the limit of a site are summed up under one name`, async () => {
    const engine = await open();
    const site = "large.example";
    const readings = Array.from({ length: MAX_PAGES_PER_SITE + 5 }, (_, index) => ({
      site,
      page: `/${index}`,
      bucket: 1,
      views: 1,
      seconds: 2,
    }));
    await engine.record({ readings, peaks: [] });
    await engine.record({ readings: [readings[3]!, readings.at(-1)!], peaks: [] });
    expect(await engine.reading(site, "/3")).toMatchObject({ views: 2, seconds: 4 });
    expect(await engine.reading(site, `/${MAX_PAGES_PER_SITE - 1}`)).toMatchObject({ views: 1 });
    expect(await engine.reading(site, `/${MAX_PAGES_PER_SITE}`)).toMatchObject({ views: 0 });
    expect(await engine.reading(site, OTHER_PAGES)).toMatchObject({ views: 6, seconds: 12 });
    const list = await engine.mostRead(site);
    expect(list).toHaveLength(MAX_MOST_READ);
    expect(list.slice(0, 2).map(({ page }) => page)).toEqual([OTHER_PAGES, "/3"]);
    expect(engine.lostEntries).toBe(0);
    await engine.close();
  });

  test(`${name}: a long name of a page is stored shortened, and stays another page than its neighbour`, async () => {
    const engine = await open();
    const site = "names.example";
    const pages = ["a", "b"].map((end) => `/${"x".repeat(1_000)}${end}`);
    const readings = pages.map((page) => ({ site, page, bucket: 1, views: 1, seconds: 1 }));
    await engine.record({ readings: [...readings, readings[0]!], peaks: [] });
    expect(await engine.reading(site, pages[0]!)).toMatchObject({ views: 2 });
    expect(await engine.reading(site, pages[1]!)).toMatchObject({ views: 1 });
    const names = (await engine.mostRead(site)).map(({ page }) => page);
    expect(names.map((stored) => stored.length)).toEqual([MAX_STORED_NAME_LENGTH, MAX_STORED_NAME_LENGTH]);
    expect(names[0]).toStartWith("/xxx");
    await engine.close();
  });

  test(`${name}: of sites that are not in SITES, the first few are kept, with fewer pages`, async () => {
    const engine = await open();
    const sites = Array.from({ length: 2 * MAX_UNLISTED_SITES }, (_, index) => `invented${index}.example`);
    const unlistedSites = new Set(sites);
    const reading = (site: string, page = "/") => ({ site, page, bucket: 1, views: 1, seconds: 1 });
    await engine.record({
      readings: [reading("listed.example"), ...sites.map((site) => reading(site))],
      peaks: sites.map((site) => ({ site, minute: MINUTE, peak: 1 })),
      unlistedSites,
    });
    const highest = await Promise.all(sites.map((site) => engine.highest(site)));
    expect(highest.filter((peak) => peak !== undefined)).toHaveLength(MAX_UNLISTED_SITES);
    const read = await Promise.all(sites.map((site) => engine.reading(site, "/")));
    expect(read.filter(({ views }) => views === 1)).toHaveLength(MAX_UNLISTED_SITES);
    const pages = Array.from({ length: MAX_PAGES_PER_UNLISTED_SITE + 5 }, (_, index) =>
      reading(sites[0]!, `/${index}`),
    );
    await engine.record({ readings: pages, peaks: [], unlistedSites });
    expect(await engine.reading(sites[0]!, OTHER_PAGES)).toMatchObject({ views: 6 }); // "/" is there too
    await engine.record({ readings: pages.slice(-1), peaks: [] }); // SITES lists it now
    expect(await engine.reading(sites[0]!, pages.at(-1)!.page)).toMatchObject({ views: 1 });
    expect(engine.lostEntries).toBe(0);
    await engine.close();
  });

  test(`${name}: of sites that are not in SITES, views and visitors of the first few are kept, with fewer pages`, async () => {
    const engine = await openEmpty();
    const day = 20_345;
    const sites = Array.from({ length: 2 * MAX_UNLISTED_SITES }, (_, index) => `invented${index}.example`);
    const unlistedSites = new Set(sites);
    const visitor = (site: string) => ({ site, day, hash: "0123456789abcdef", isFirstDay: true });
    const view = (site: string, page: string) => ({ site, page, day, views: 1 });
    const peaks = sites.map((site) => ({ site, minute: MINUTE, peak: 1 }));
    const recordViews = (views: ViewSum[], unlisted = unlistedSites) =>
      engine.record({ readings: [], peaks, views, unlistedSites: unlisted });
    const counted = async () => {
      const totals = await Promise.all(sites.map((site) => engine.siteTotals(site, day)));
      const numberOf = (kind: "total" | "visitors" | "today") => totals.filter((ofSite) => ofSite[kind] > 0).length;
      return [numberOf("total"), numberOf("visitors"), numberOf("today")];
    };
    await engine.countVisitors([visitor("listed.example"), ...sites.map(visitor)], unlistedSites);
    expect(await counted()).toEqual([0, MAX_UNLISTED_SITES, MAX_UNLISTED_SITES]);
    await recordViews([view("listed.example", "/"), ...sites.map((site) => view(site, "/"))]);
    expect(await counted()).toEqual([MAX_UNLISTED_SITES, MAX_UNLISTED_SITES, MAX_UNLISTED_SITES]);
    expect(await engine.siteTotals("listed.example", day)).toEqual({ total: 1, visitors: 1, today: 1 });

    const [site = ""] = sites;
    const pages = Array.from({ length: MAX_PAGES_PER_UNLISTED_SITE + 5 }, (_, index) => `/${index}`);
    await recordViews(pages.map((page) => view(site, page)));
    expect(await engine.pageViews(site, [OTHER_PAGES, "/0", pages.at(-1)!])).toEqual([6, 1, 0]); // "/" is there too
    expect((await engine.siteTotals(site, day)).total).toBe(pages.length + 1);
    await recordViews([view(site, pages.at(-1)!)], new Set(sites.slice(1))); // SITES lists it now
    expect(await engine.pageViews(site, [pages.at(-1)!])).toEqual([1]);
    expect(engine.lostEntries).toBe(0);
    await engine.close();
  });
}
