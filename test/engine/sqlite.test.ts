/** What the SQLite engine promises beside the contract of both engines. */
import { describe, expect, spyOn, test } from "bun:test";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import {
  DAY_MINUTES,
  HISTORY_DAYS,
  MAX_PAGES_PER_SITE,
  MAX_UNLISTED_SITES,
  MINUTE_MS,
  OTHER_PAGES,
} from "../../engine/engine.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { sqlite } from "../support/unit.ts";
import { contract } from "./contract.ts";
import { totalsContract } from "./totals-contract.ts";
import { transferContract } from "./transfer-contract.ts";

describe("sqlite engine", () => {
  const TTL = 30_000;
  const engine = sqlite();
  const claims = (nonce: number, minted: number) => ({ visitor: "", page: "/", nonce, expires: minted + TTL });

  describe("contract", () => contract("sqlite", async () => sqlite(), async () => sqlite())); // oxfmt-ignore
  describe("totals contract", () => totalsContract("sqlite", async () => sqlite()));
  describe("transfer contract", () => {
    const open = async () => sqlite();
    transferContract("sqlite", open, open);
  });

  test("sqlite: a secret of one kind is not that of another, and a replaced salt does not come back", async () => {
    const monday = await engine.secret("salt", "monday");
    expect(await engine.secret("signing", "monday")).not.toBe(monday);
    expect(await engine.secret("salt", "tuesday")).not.toBe(monday);
    expect(await engine.secret("salt", "monday")).not.toBe(monday);
  });

  test("sqlite: the key of a day is thrown away when its day is over", async () => {
    const other = sqlite();
    const key = await other.secret("day", "20345");
    await other.secret("day", "20346");
    expect(await other.secret("day", "20345")).not.toBe(key);
    await other.close();
  });

  test("sqlite: the key of today stays when the clock is put back by many days, and is right again", async () => {
    const clock = spyOn(Date, "now");
    const start = Date.now();
    const own = sqlite();
    const key = await own.secret("day", "20345");
    clock.mockReturnValue(start - 30 * 86_400_000);
    await own.secret("day", "20315");
    clock.mockReturnValue(start);
    expect(await own.secret("day", "20345")).toBe(key);
    clock.mockRestore();
    await own.close();
  });

  test("sqlite: the key of a later day, and its visitors, are thrown away two days after the clock was put back", async () => {
    const [site, later, today] = ["later.example", 30_000, 20_345];
    const clock = spyOn(Date, "now");
    const start = Date.now();
    const key = await engine.secret("day", String(later));
    await engine.countVisitors([{ site, day: later, hash: "0123456789abcdef", isFirstDay: false }]);
    const keptOf = async () => {
      const names = (await engine.keptSecrets()).flatMap(({ secret, name }) => (secret === "day" ? [name] : []));
      const visitors = (await engine.keptEntries(site, true)).flatMap((entry) =>
        "hashes" in entry ? [entry.day] : [],
      );
      return [names, visitors];
    };
    for (const days of [0, 1, 1.9]) {
      clock.mockReturnValue(start + days * 86_400_000);
      await engine.secret("day", String(today + Math.floor(days)));
      expect(await keptOf()).toEqual([[String(today + Math.floor(days)), String(later)], [later]]);
    }
    clock.mockReturnValue(start + 2.1 * 86_400_000);
    await engine.secret("day", String(today + 2));
    expect(await keptOf()).toEqual([[String(today + 2)], []]);
    clock.mockRestore();
    expect(await engine.secret("day", String(later))).not.toBe(key);
  });

  test("sqlite: a nonce is spent once as long as its token lives", async () => {
    const start = Date.now();
    for (let second = 0; second < 120; second += 1) {
      const now = start + second * 1_000;
      expect(await engine.spend(claims(second, now), now)).toBe(true);
      for (let age = 0; age < 30 && age <= second; age += 1)
        expect(await engine.spend(claims(second - age, now - age * 1_000), now)).toBe(false);
    }
  });

  test("sqlite: a token from before the start may have been spent, and is refused", async () => {
    const before = Date.now() - 20_000;
    expect(await engine.spend(claims(99_999, before), Date.now())).toBe(false);
  });

  test("sqlite: after the machine's clock went back, tokens are accepted again, each of them once", async () => {
    const fresh = sqlite();
    const anHourAgo = Date.now() - 3_600_000;
    const early = claims(1, anHourAgo);
    expect(await fresh.spend(early, anHourAgo + 5)).toBe(true);
    expect(await fresh.spend(early, anHourAgo + 9)).toBe(false);
    const late = claims(2, anHourAgo + 600_000);
    expect(await fresh.spend(late, anHourAgo + 600_000)).toBe(true);
    expect(await fresh.spend(late, anHourAgo + 600_001)).toBe(false);
  });
});

describe("sqlite statistics", () => {
  const site = "example.com";
  const minute = Math.floor(Date.now() / MINUTE_MS);
  const reading = (page: string, bucket = 3) => ({ site, page, bucket, views: 1, seconds: 2 });
  const many = (length: number) => Array.from({ length }, (_, index) => reading(`/${index}`));

  test("sqlite: the limit of pages holds over several records", async () => {
    const engine = sqlite();
    const pages = many(MAX_PAGES_PER_SITE + 30);
    await engine.record({ readings: pages.slice(0, MAX_PAGES_PER_SITE - 10), peaks: [] });
    await engine.record({ readings: pages.slice(MAX_PAGES_PER_SITE - 20), peaks: [] });
    expect(await engine.reading(site, OTHER_PAGES)).toMatchObject({ views: 30, seconds: 60 });
    expect(await engine.reading(site, `/${MAX_PAGES_PER_SITE - 1}`)).toMatchObject({ views: 1 });
    expect(await engine.reading(site, `/${MAX_PAGES_PER_SITE}`)).toMatchObject({ views: 0 });
  });

  test("sqlite: history is the highest of each step, and old minutes are deleted", async () => {
    const engine = sqlite();
    const start = minute - (minute % 10) - 60;
    const peaks = [3, 9, 4, 2].map((peak, i) => ({ site, minute: start + i * 5, peak }));
    const old = { site, minute: minute - (HISTORY_DAYS + 1) * DAY_MINUTES, peak: 50 };
    await engine.record({ readings: [], peaks: [old, ...peaks, { site, minute: start, peak: 2 }] });
    expect(await engine.history(site, 0, 10)).toEqual([
      { minute: start, peak: 9 },
      { minute: start + 10, peak: 4 },
    ]);
    expect(await engine.highest(site)).toEqual({ minute: old.minute, peak: 50 });
  });

  test("sqlite: a site that is not listed is forgotten with its last history, which makes room for another", async () => {
    const engine = sqlite();
    const names = Array.from({ length: MAX_UNLISTED_SITES + 1 }, (_, index) => `invented${index}.example`);
    const unlistedSites = new Set(names);
    const old = minute - (HISTORY_DAYS + 1) * DAY_MINUTES;
    const peaks = names.map((name) => ({ site: name, minute: old, peak: 1 }));
    const readings = names.map((name) => ({ ...reading("/"), site: name }));
    await engine.record({ readings, peaks, unlistedSites });
    await engine.record({ readings: readings.slice(-1), peaks: [], unlistedSites });
    expect(await engine.reading(names[0]!, "/")).toMatchObject({ views: 0 });
    expect(await engine.highest(names[0]!)).toBeUndefined();
    expect(await engine.reading(names.at(-1)!, "/")).toMatchObject({ views: 1 });
  });

  test("sqlite: while a long record is written, others have their turn, and nothing gets into its transaction", async () => {
    const folder = temporaryFolder();
    const engine = sqlite(folder);
    const ended: string[] = [];
    const turns = { count: 0 };
    const timer = setInterval(() => (turns.count += 1), 1);
    const recorded = engine.record({ readings: many(9_000), peaks: [] }).then(() => ended.push("record"));
    const held = engine.hold([{ site, page: "/", visitor: "ann" }], "signer").then(() => ended.push("hold"));
    const listed = engine.mostRead(site).then(() => ended.push("list"));
    await Promise.all([recorded, held, listed]);
    clearInterval(timer);
    expect(ended).toEqual(["list", "record", "hold"]);
    expect(turns.count).toBeGreaterThan(0); // without a pause nothing else would have had a turn
    await engine.close();
  });

  test("sqlite: a damaged histogram counts as empty, and does not stop the journal", async () => {
    const folder = temporaryFolder();
    const engine = sqlite(folder);
    await engine.record({ readings: [reading("/")], peaks: [] });
    const other = new DatabaseSync(join(folder, "headcount.db"));
    other.exec("UPDATE readings SET histogram = '{damaged'");
    other.close();
    await engine.record({ readings: [reading("/"), reading("/two")], peaks: [] });
    expect(await engine.reading(site, "/")).toMatchObject({ views: 1, seconds: 4 });
    expect(await engine.reading(site, "/two")).toMatchObject({ views: 1 });
    await engine.close();
  });
});
