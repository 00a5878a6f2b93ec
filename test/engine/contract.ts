/** What every engine promises, as tests that run on each of them. */
import { expect, test } from "bun:test";
import { DAY_MINUTES, type Engine, MAX_PAGES_PER_SITE, MINUTE_MS, OTHER_PAGES } from "../../engine/engine.ts";
import { sleep } from "../support/waiting.ts";

const MINUTE = Math.floor(Date.now() / MINUTE_MS);

/** @param open makes an engine that is like new for the sites and nonces of this file */
export function contract(name: string, open: () => Promise<Engine>): void {
  const token = (nonce: number) => ({ nonce, expires: Date.now() + 30_000 });

  test(`${name}: a secret is made once, and another name replaces a salt`, async () => {
    const engine = await open();
    const secret = await engine.secret("signing", "");
    expect(secret.length).toBeGreaterThan(40);
    expect(await engine.secret("signing", "")).toBe(secret);
    const monday = await engine.secret("salt", "monday");
    expect(await engine.secret("salt", "monday")).toBe(monday);
    expect(await engine.secret("salt", "tuesday")).not.toBe(monday);
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
    await engine.record({ readings: [reading, { ...reading, page: "/two", bucket: 0 }], peaks, views: [] });
    await engine.record({ readings: [{ ...reading, views: -1, seconds: -1.5 }], peaks: [], views: [] });
    await engine.record({ readings: [{ ...reading, bucket: 5, seconds: 3.25 }], peaks: [], views: [] });
    await engine.record({ readings: [], peaks: [{ site, minute: MINUTE - DAY_MINUTES - 1, peak: 12 }], views: [] });
    const sums = (await engine.readings(site)).toSorted((a, b) => a.page.localeCompare(b.page) || a.bucket - b.bucket);
    expect(sums).toEqual([
      { site, page: "/", bucket: 3, views: 0, seconds: 0 },
      { site, page: "/", bucket: 5, views: 1, seconds: 3.25 },
      { site, page: "/two", bucket: 0, views: 1, seconds: 1.5 },
    ]);
    expect(await engine.readings(site, "/two")).toEqual([{ site, page: "/two", bucket: 0, views: 1, seconds: 1.5 }]);
    expect(await engine.readings(site, "/none")).toEqual([]);
    expect(await engine.history(site, MINUTE - 1_500, 1)).toEqual([
      { minute: MINUTE - DAY_MINUTES - 1, peak: 12 },
      { minute: MINUTE, peak: 9 },
    ]);
    expect(await engine.history(site, MINUTE - DAY_MINUTES, 1)).toEqual([{ minute: MINUTE, peak: 9 }]);
    expect(await engine.history(site, MINUTE - 10, 60)).toEqual([{ minute: MINUTE - (MINUTE % 60), peak: 9 }]);
    expect(await engine.history(site, 0, 1)).toHaveLength(2); // however long ago it is asked for
    expect(await engine.highest(site)).toEqual({ minute: MINUTE - DAY_MINUTES - 1, peak: 12 });
    expect(await engine.highest("other.example")).toBeUndefined();
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
    await engine.record({ readings, peaks: [], views: [] });
    await engine.record({ readings: [readings[3]!, readings.at(-1)!], peaks: [], views: [] });
    const sums = await engine.readings(site);
    expect(new Set(sums.map(({ page }) => page)).size).toBe(MAX_PAGES_PER_SITE + 1);
    expect(sums.find(({ page }) => page === "/3")?.views).toBe(2);
    expect(await engine.readings(site, OTHER_PAGES)).toEqual([
      { site, page: OTHER_PAGES, bucket: 1, views: 6, seconds: 12 },
    ]);
    expect(engine.lostEntries).toBe(0);
    await engine.close();
  });
}
