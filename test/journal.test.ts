import { afterAll, describe, expect, test } from "bun:test";
import { appendFileSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import * as fc from "fast-check";
import {
  EmbeddedEngine,
  Journal,
  type JournalEntries,
  MAX_PAGES_A_SITE,
  OTHER_PAGES,
  parseSite,
  type ReadingSum,
  readingOf,
  Rooms,
  Sites,
} from "../server.ts";

const folders: string[] = [];
function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "headcount-"));
  folders.push(folder);
  return folder;
}
afterAll(() => folders.forEach((folder) => rmSync(folder, { recursive: true, force: true })));

const MINUTE = 60_000;

/** A journal over a real engine, with both clocks in the test's hand. */
function setUp(folder = ":memory:") {
  const engine = new EmbeddedEngine(folder, 30_000);
  const rooms = new Rooms(5_000);
  const sites = new Sites([parseSite("example.com")].filter((site) => site !== undefined));
  const clock = { now: 0, wall: Date.now() };
  const journal = new Journal(engine, rooms, sites, () => clock.wall);
  const open = (visitor: string, page = "/", site = "example.com") =>
    rooms.open(visitor, site, page, "192.0.2.1", clock.now);
  const pass = (seconds: number) => {
    clock.now += seconds * 1_000;
    clock.wall += seconds * 1_000;
  };
  const reading = async (page = "/") => readingOf(await engine.readings("example.com", page));
  return { engine, rooms, journal, clock, open, pass, reading };
}

/** A journal's sums as they are when these reading times have been recorded. */
async function recorded(seconds: readonly number[]): Promise<ReadingSum[]> {
  const { engine, journal, open, clock } = setUp();
  for (const [index, length] of seconds.entries()) {
    const page = open(`v${index}`);
    journal.endView(page, clock.now + length * 1_000);
  }
  await journal.record([], clock.now);
  return engine.readings("example.com", "/");
}

describe("journal", () => {
  test("journal: a reader who is active for 20 s of 60 s has read for 20 s", async () => {
    const { journal, open, pass, clock, reading } = setUp();
    const page = open("ann");
    pass(12);
    journal.setActive(page, false, clock.now);
    pass(40);
    journal.setActive(page, true, clock.now);
    pass(8);
    journal.endView(page, clock.now);
    await journal.record([], clock.now);
    const { views, seconds, median } = await reading();
    expect({ views, seconds }).toEqual({ views: 1, seconds: 20 });
    expect(Math.abs(median - 20)).toBeLessThanOrEqual(2);
  });

  test("journal: a view that goes on is recorded again and again, and stays one view", async () => {
    const { journal, open, pass, clock, reading } = setUp();
    const page = open("ann");
    for (let i = 0; i < 24; i += 1) {
      pass(5);
      await journal.record([page], clock.now);
    }
    expect(await reading()).toMatchObject({ views: 1, seconds: 120 });
    journal.endView(page, clock.now);
    await journal.record([], clock.now);
    expect(await reading()).toMatchObject({ views: 1, seconds: 120 });
  });

  test("journal: saying the same twice changes nothing, and an hour is the most that a view has", async () => {
    const { journal, open, pass, clock, reading } = setUp();
    const page = open("ann");
    journal.setActive(page, true, clock.now);
    journal.setActive(page, true, clock.now);
    pass(7_200);
    journal.setActive(page, false, clock.now);
    journal.setActive(page, false, clock.now);
    await journal.record([page], clock.now);
    expect(await reading()).toMatchObject({ views: 1, seconds: 3_600 });
  });

  test("journal: observers are not recorded", async () => {
    const { journal, open, pass, clock, reading } = setUp();
    const page = open("");
    pass(10);
    await journal.record([page], clock.now);
    expect(await reading()).toMatchObject({ views: 0 });
  });

  test("journal: median and p90 are within 10 % of the exact ones, also of skewed times", async () => {
    const skewed = fc.array(
      fc.double({ min: 0, max: 8, noNaN: true }).map((power) => Math.min(3_600, Math.E ** power)),
      { minLength: 1, maxLength: 60 },
    );
    await fc.assert(
      fc.asyncProperty(skewed, async (times) => {
        const ascending = times.toSorted((a, b) => a - b);
        const exact = (share: number) => ascending[Math.floor(share * (ascending.length - 1))] ?? 0;
        const { median, p90, views } = readingOf(await recorded(times));
        expect(views).toBe(times.length);
        expect(Math.abs(median - exact(0.5))).toBeLessThanOrEqual(0.1 * exact(0.5) + 0.5); // rounded to seconds
        expect(Math.abs(p90 - exact(0.9))).toBeLessThanOrEqual(0.1 * exact(0.9) + 0.5);
      }),
      { numRuns: 100 },
    );
  });

  test("journal: what the engine does not take is kept, and given again once", async () => {
    const { engine, rooms, clock, reading } = setUp();
    const disk = { full: true };
    const record = async (entries: JournalEntries) => {
      if (disk.full) throw new Error("disk full");
      await engine.record(entries);
    };
    const sites = new Sites([parseSite("example.com")].filter((site) => site !== undefined));
    const journal = new Journal(Object.assign(Object.create(engine), { record }), rooms, sites, () => clock.wall);
    const page = rooms.open("ann", "example.com", "/", "192.0.2.1", 0);
    await journal.record([page], 10_000);
    await journal.record([page], 20_000);
    expect(journal.failures).toBe(2);
    expect(await reading()).toMatchObject({ views: 0 });
    disk.full = false;
    await journal.record([page], 30_000);
    await journal.record([page], 30_000);
    expect(await reading()).toMatchObject({ views: 1, seconds: 30 });
    expect(await engine.highest("example.com")).toMatchObject({ peak: 1 });
  });

  test("journal: the peak is the highest of 24 hours, and the highest ever keeps its minute", async () => {
    const { engine, rooms, journal, clock, open, pass } = setUp();
    const start = Math.floor(clock.wall / MINUTE);
    const pages = ["ann", "ben", "cid"].map((visitor) => open(visitor));
    await journal.record([], clock.now);
    for (const page of pages.slice(1)) rooms.close(page, clock.now);
    pass(10);
    rooms.tick(clock.now);
    await journal.record([], clock.now);
    expect(await journal.peak("example.com")).toBe(3);
    expect(await engine.highest("example.com")).toEqual({ minute: start, peak: 3 });
    clock.wall += 25 * 60 * MINUTE;
    await journal.record([], clock.now);
    expect(await journal.peak("example.com")).toBe(1);
    expect(await engine.highest("example.com")).toEqual({ minute: start, peak: 3 });
    rooms.close(pages[0]!, clock.now);
    pass(10);
    rooms.tick(clock.now);
    await journal.record([], clock.now);
    clock.wall += 25 * 60 * MINUTE;
    expect(await journal.peak("example.com")).toBe(0);
  });

  test("journal: sites that only a Host header invented are kept in small number", async () => {
    const { engine, journal, clock, open } = setUp();
    for (let i = 0; i < 300; i += 1) open("ann", "/", `invented${i}.example`);
    open("ann");
    await journal.record([], clock.now);
    const kept = await Promise.all(
      Array.from({ length: 300 }, (_, i) => engine.highest(`invented${i}.example`).then((peak) => Number(!!peak))),
    );
    expect(kept.reduce((sum, one) => sum + one, 0)).toBe(100);
    expect(await engine.highest("example.com")).toMatchObject({ peak: 1 });
  });
});

describe("engine file", () => {
  const site = "example.com";
  const minute = Math.floor(Date.now() / MINUTE);
  const entries = (from: number, to: number): JournalEntries => ({
    readings: Array.from({ length: to - from }, (_, i) => ({
      site,
      page: `/${from + i}`,
      bucket: 3,
      views: 1,
      seconds: 2,
    })),
    peaks: [],
  });

  test("engine file: the 10,001st page of a site is summed up with the others", async () => {
    const engine = new EmbeddedEngine(":memory:", 30_000);
    await engine.record(entries(0, MAX_PAGES_A_SITE - 10));
    await engine.record(entries(MAX_PAGES_A_SITE - 20, MAX_PAGES_A_SITE + 30));
    const sums = await engine.readings(site);
    expect(new Set(sums.map((sum) => sum.page)).size).toBe(MAX_PAGES_A_SITE + 1);
    expect(await engine.readings(site, OTHER_PAGES)).toMatchObject([{ views: 30, seconds: 60 }]);
    expect(await engine.readings(site, "/5")).toMatchObject([{ views: 1 }]);
  });

  test("engine file: history is the highest of each step, and old minutes are deleted", async () => {
    const engine = new EmbeddedEngine(":memory:", 30_000);
    const start = minute - (minute % 10) - 60;
    const peaks = [3, 9, 4, 2].map((peak, i) => ({ site, minute: start + i * 5, peak }));
    const old = { site, minute: minute - 91 * 24 * 60, peak: 50 };
    await engine.record({ readings: [], peaks: [old, ...peaks, { site, minute: start, peak: 2 }] });
    expect(await engine.history(site, 0, 10)).toEqual([
      { minute: start, peak: 9 },
      { minute: start + 10, peak: 4 },
    ]);
    expect(await engine.highest(site)).toEqual({ minute: old.minute, peak: 50 });
  });

  test("engine file: what was kept is there after it was opened again, and only its owner can read it", async () => {
    const folder = temporaryFolder();
    const first = new EmbeddedEngine(folder, 30_000);
    const secret = await first.secret("signing", "");
    await first.record(entries(0, 3));
    await first.hold([{ site, page: undefined, visitor: "ann" }]);
    await first.close();
    const second = new EmbeddedEngine(folder, 30_000);
    expect(await second.secret("signing", "")).toBe(secret);
    expect(await second.readings(site)).toHaveLength(3);
    expect(await second.held()).toEqual([{ site, page: undefined, visitor: "ann" }]);
    expect(await second.held()).toEqual([]);
    expect(statSync(join(folder, "headcount.db")).mode & 0o077).toBe(0);
    await second.close();
  });

  test("engine file: a broken one is set aside, and the work goes on", async () => {
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
      const engine = new EmbeddedEngine(folder, 30_000);
      await engine.record(entries(0, 3));
      expect(await engine.readings(site)).toHaveLength(3);
      expect(readdirSync(folder).filter((name) => name.includes(".broken-")).length).toBeGreaterThan(0);
      await engine.close();
    }
  });

  test("engine file: a locked one fails at once, loses nothing of what was asked again, and counts the failure", async () => {
    const folder = temporaryFolder();
    const engine = new EmbeddedEngine(folder, 30_000);
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

  test("engine file: a write-ahead log that was cut off in mid-write loses its last transaction only", async () => {
    const folder = temporaryFolder();
    const engine = new EmbeddedEngine(folder, 30_000);
    await engine.record(entries(0, 3));
    appendFileSync(join(folder, "headcount.db-wal"), Buffer.alloc(2_000, 9));
    const copy = new EmbeddedEngine(folder, 30_000);
    expect(await copy.readings(site)).toHaveLength(3);
    await copy.close();
    await engine.close();
  });
});
