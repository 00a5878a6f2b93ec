import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { MAX_UNLISTED_SITES, type Reading, type StatsEntries, type StatsStore } from "../../engine/engine.ts";
import { Connection, Rooms } from "../../server.ts";
import { Journal } from "../../stats/journal.ts";
import { RecordedSites } from "../../stats/live.ts";
import { Totals } from "../../stats/totals.ts";
import { quiet, sqlite } from "../support/unit.ts";

const MINUTE = 60_000;

/** A journal over a real engine, with both clocks in the test's hand. */
function setUp(change: (engine: StatsStore) => StatsStore = (engine) => engine) {
  const engine = sqlite();
  const rooms = new Rooms(5_000);
  const clock = { now: 0, wall: Date.now() };
  const sites = new RecordedSites(new Set(["example.com"]));
  const store = change(engine);
  const today = () => 20_000;
  const totals = new Totals({ store: engine, secrets: engine, today, mintedOn: today, sites, log: quiet });
  const journal = new Journal({ store, live: rooms, totals, sites, wallClock: () => clock.wall, log: quiet });
  const open = (visitor: string, page = "/", site = "example.com", isContinued = false) => {
    const connection = new Connection(visitor, "192.0.2.1", false, clock.now);
    rooms.open(connection, site, page, clock.now);
    journal.beginView(connection, { isOnlyView: rooms.isOnlyConnection(connection), isContinued }, clock.now);
    return connection;
  };
  const pass = (seconds: number) => {
    clock.now += seconds * 1_000;
    clock.wall += seconds * 1_000;
  };
  const reading = (page = "/") => engine.reading("example.com", page);
  return { engine, rooms, journal, clock, open, pass, reading };
}

/** How a page was read when these reading times have been recorded. */
async function recorded(seconds: readonly number[]): Promise<Reading> {
  const { engine, journal, open, clock } = setUp();
  for (const [index, length] of seconds.entries()) {
    const page = open(`v${index}`);
    journal.endView(page, false, clock.now + length * 1_000);
  }
  await journal.record([], clock.now);
  return engine.reading("example.com", "/");
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
    journal.endView(page, false, clock.now);
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
    journal.endView(page, false, clock.now);
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

  test("journal: a view under a second is no reading, and one visitor has one reading of a page at a time", async () => {
    const { journal, open, pass, clock, reading } = setUp();
    const views = Array.from({ length: 20 }, () => open("ann"));
    for (const view of views.slice(10)) journal.endView(view, false, clock.now + 999);
    pass(60);
    for (const view of views.slice(0, 10)) journal.endView(view, false, clock.now);
    await journal.record([], clock.now);
    expect(await reading()).toMatchObject({ views: 1, seconds: 60 });
  });

  test("journal: the reading time of a view that reconnects within two minutes continues", async () => {
    const { journal, rooms, open, pass, clock, reading } = setUp();
    const first = open("ann");
    pass(20);
    journal.endView(first, true, clock.now);
    rooms.close(first, clock.now);
    pass(10);
    const second = open("ann", "/", "example.com", true);
    pass(15);
    await journal.record([second], clock.now);
    expect(await reading()).toMatchObject({ views: 1, seconds: 35 });
    journal.endView(second, true, clock.now);
    rooms.close(second, clock.now);
    const reloaded = open("ann");
    pass(5);
    await journal.record([reloaded], clock.now);
    expect(await reading()).toMatchObject({ views: 2, seconds: 40 });
  });

  test("journal: a connection that shows another page begins a second view, whose time starts at 0", async () => {
    const { journal, rooms, open, pass, clock, reading } = setUp();
    const connection = open("ann", "/one");
    pass(10);
    journal.endView(connection, false, clock.now);
    rooms.move(connection, "/two", clock.now);
    journal.beginView(connection, { isOnlyView: true, isContinued: false }, clock.now);
    pass(20);
    await journal.record([connection], clock.now);
    expect(await reading("/one")).toMatchObject({ views: 1, seconds: 10 });
    expect(await reading("/two")).toMatchObject({ views: 1, seconds: 20 });
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
        const { median, p90, views } = await recorded(times);
        expect(views).toBe(times.length);
        expect(Math.abs(median - exact(0.5))).toBeLessThanOrEqual(0.1 * exact(0.5) + 0.5); // rounded to seconds
        expect(Math.abs(p90 - exact(0.9))).toBeLessThanOrEqual(0.1 * exact(0.9) + 0.5);
      }),
      { numRuns: 100 },
    );
  });

  test("journal: what the engine does not take is kept, and given again once", async () => {
    const disk = { full: true };
    const { engine, journal, open, reading } = setUp((store) => {
      const record = async (entries: StatsEntries) => {
        if (disk.full) throw new Error("disk full");
        await store.record(entries);
      };
      return Object.assign(Object.create(store), { record });
    });
    const page = open("ann");
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
    expect(kept.reduce((sum, one) => sum + one, 0)).toBe(MAX_UNLISTED_SITES);
    expect(await engine.highest("example.com")).toMatchObject({ peak: 1 });
  });

  test("journal: pages are told a peak and a median that are a minute old at most, and a peak never below the total", async () => {
    const { engine, journal, clock, open } = setUp();
    const ann = open("ann");
    const { site, room } = ann;
    expect([journal.dayPeak(site.room), journal.median(room)]).toEqual([undefined, undefined]);
    expect(await journal.refresh(site.room, room, clock.now)).toBe(true);
    expect([journal.dayPeak(site.room), journal.median(room)]).toEqual([1, undefined]);
    open("ben");
    expect(journal.dayPeak(site.room)).toBe(2);
    const reading = { site: "example.com", page: "/", bucket: 13, views: 1, seconds: 10 };
    await engine.record({ readings: [reading], peaks: [], views: [] });
    expect(journal.refresh(site.room, room, clock.now + MINUTE - 1)).toBeUndefined();
    expect(await journal.refresh(site.room, room, clock.now + MINUTE)).toBe(true);
    expect(journal.median(room)).toBe(10);
  });

  test("journal: while the engine is away, the median that was known stays", async () => {
    const engine = { isAway: false };
    const { journal, clock, open } = setUp((store) => ({
      ...store,
      history: () => store.history("example.com", 0, 1),
      reading: async () => {
        if (engine.isAway) throw new Error("away");
        return { views: 1, seconds: 10, median: 10, p90: 10 };
      },
    }));
    const { site, room } = open("ann");
    await journal.refresh(site.room, room, clock.now);
    engine.isAway = true;
    await journal.refresh(site.room, room, clock.now + MINUTE);
    expect(journal.median(room)).toBe(10);
  });
});
