/** What the SQLite engine promises beside the contract of both engines: its file, and what happens when that breaks. */
import { describe, expect, test } from "bun:test";
import { appendFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { DAY_MINUTES, HISTORY_DAYS, MAX_PAGES_PER_SITE, OTHER_PAGES, type StatsEntries } from "../../engine/engine.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { sqlite } from "../support/unit.ts";
import { contract } from "./contract.ts";
import { totalsContract } from "./totals-contract.ts";
import { transferContract } from "./transfer-contract.ts";

const MINUTE = 60_000;

describe("sqlite engine", () => {
  const TTL = 30_000;
  const engine = sqlite();
  const claims = (nonce: number, minted: number) => ({ visitor: "", page: "/", nonce, expires: minted + TTL });

  describe("contract", () => contract("sqlite", async () => sqlite()));
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

describe("sqlite file", () => {
  const site = "example.com";
  const minute = Math.floor(Date.now() / MINUTE);
  const entries = (from: number, to: number): StatsEntries => ({
    readings: Array.from({ length: to - from }, (_, i) => ({
      site,
      page: `/${from + i}`,
      bucket: 3,
      views: 1,
      seconds: 2,
    })),
    peaks: [],
    views: [],
  });

  test("sqlite: the 10,001st page of a site is summed up with the others", async () => {
    const engine = sqlite();
    await engine.record(entries(0, MAX_PAGES_PER_SITE - 10));
    await engine.record(entries(MAX_PAGES_PER_SITE - 20, MAX_PAGES_PER_SITE + 30));
    const sums = await engine.readings(site);
    expect(new Set(sums.map((sum) => sum.page)).size).toBe(MAX_PAGES_PER_SITE + 1);
    expect(await engine.readings(site, OTHER_PAGES)).toMatchObject([{ views: 30, seconds: 60 }]);
    expect(await engine.readings(site, "/5")).toMatchObject([{ views: 1 }]);
  });

  test("sqlite: history is the highest of each step, and old minutes are deleted", async () => {
    const engine = sqlite();
    const start = minute - (minute % 10) - 60;
    const peaks = [3, 9, 4, 2].map((peak, i) => ({ site, minute: start + i * 5, peak }));
    const old = { site, minute: minute - (HISTORY_DAYS + 1) * DAY_MINUTES, peak: 50 };
    await engine.record({ readings: [], peaks: [old, ...peaks, { site, minute: start, peak: 2 }], views: [] });
    expect(await engine.history(site, 0, 10)).toEqual([
      { minute: start, peak: 9 },
      { minute: start + 10, peak: 4 },
    ]);
    expect(await engine.highest(site)).toEqual({ minute: old.minute, peak: 50 });
  });

  test("sqlite: what was kept is there after it was opened again, and only its owner can read it", async () => {
    const folder = temporaryFolder();
    const first = sqlite(folder);
    const secret = await first.secret("signing", "");
    await first.record(entries(0, 3));
    await first.hold([{ site, page: undefined, visitor: "ann" }]);
    await first.close();
    const second = sqlite(folder);
    expect(await second.secret("signing", "")).toBe(secret);
    expect(await second.readings(site)).toHaveLength(3);
    expect(await second.held()).toEqual([{ site, page: undefined, visitor: "ann" }]);
    expect(await second.held()).toEqual([]);
    expect(statSync(join(folder, "headcount.db")).mode & 0o077).toBe(0);
    await second.close();
  });

  test("sqlite: a broken one is set aside, and the work goes on", async () => {
    for (const breakIt of [
      (file: string) => writeFileSync(file, "this is not a database, and long enough to be looked at ".repeat(100)),
      (file: string) => {
        const database = new DatabaseSync(file);
        database.exec("CREATE TABLE big (x); INSERT INTO big VALUES (zeroblob(100000)); PRAGMA journal_mode = DELETE");
        database.close();
        writeFileSync(file, Buffer.alloc(20_000, 7), { flag: "r+" });
      },
    ]) {
      const folder = temporaryFolder();
      breakIt(join(folder, "headcount.db"));
      const engine = sqlite(folder);
      await engine.record(entries(0, 3));
      expect(await engine.readings(site)).toHaveLength(3);
      expect(readdirSync(folder).filter((name) => name.includes(".broken-")).length).toBeGreaterThan(0);
      await engine.close();
    }
  });

  test("sqlite: a locked one fails at once, loses nothing of what was asked again, and counts the failure", async () => {
    const folder = temporaryFolder();
    const engine = sqlite(folder);
    await engine.record(entries(0, 1));
    const other = new DatabaseSync(join(folder, "headcount.db"));
    other.exec("BEGIN EXCLUSIVE");
    expect(engine.record(entries(1, 2))).rejects.toThrow(/Cannot use .*headcount\.db: .*locked/);
    expect(engine.failures).toBe(1);
    other.exec("ROLLBACK");
    other.close();
    await engine.record(entries(1, 2));
    expect(await engine.readings(site)).toHaveLength(2);
    await engine.close();
  });

  test("sqlite: a write-ahead log that was cut off in mid-write loses its last transaction only", async () => {
    const folder = temporaryFolder();
    const engine = sqlite(folder);
    await engine.record(entries(0, 3));
    appendFileSync(join(folder, "headcount.db-wal"), Buffer.alloc(2_000, 9));
    const copy = sqlite(folder);
    expect(await copy.readings(site)).toHaveLength(3);
    await copy.close();
    await engine.close();
  });

  test("sqlite: the reading time of one page is found without a look at the 10,000 others", async () => {
    const engine = sqlite();
    const page = (at: number): string => `/${at}/${"x".repeat(900)}`;
    const reading = (at: number) => ({ site, page: page(at), bucket: 3, views: 1, seconds: 1 });
    await engine.record({ readings: Array.from({ length: 10_000 }, (_, at) => reading(at)), peaks: [], views: [] });
    const before = process.cpuUsage();
    for (let at = 0; at < 500; at += 1) expect(await engine.readings(site, page(at))).toHaveLength(1);
    expect(process.cpuUsage(before).user / 1_000).toBeLessThan(1_000); // a scan each took four times as long as that
  });
});
