/** When a site syncs, by a clock of the test's own. */
import { describe, expect, test } from "bun:test";
import { SyncSchedule, type Waiting } from "../../engine/schedule.ts";

const NOTHING: Waiting = { claims: 0, pages: 0, changes: 0 };
const CLAIM = { ...NOTHING, claims: 1 };
const CHANGE = { ...NOTHING, changes: 1 };
const PAGE = { ...NOTHING, pages: 1 };
const START = 10_000;

/** A schedule after so many syncs at the start. */
function setUp(syncs = 0): SyncSchedule {
  const schedule = new SyncSchedule(() => 0.5);
  for (let sync = 0; sync < syncs; sync += 1) schedule.synced(START);
  return schedule;
}

/** How often a site syncs in ten seconds in which something waits all the time. */
function syncsOfBusySite(waiting: Waiting): number {
  const schedule = setUp();
  let syncs = 0;
  for (let now = START; now < START + 10_000; now += 1) {
    if (now < schedule.dueAt(waiting)) continue;
    schedule.synced(now);
    syncs += 1;
  }
  return syncs;
}

describe("schedule", () => {
  test("schedule: a site with nothing to tell has no sync", () => {
    expect(setUp().dueAt(NOTHING)).toBe(Infinity);
    expect(setUp(5).dueAt(NOTHING)).toBe(Infinity);
  });

  test("schedule: a quiet site syncs at once, with the claim of a newcomer and again with the change", () => {
    const schedule = setUp();
    for (const waiting of [CLAIM, CHANGE, PAGE]) {
      expect(schedule.dueAt(waiting)).toBeLessThanOrEqual(START);
      schedule.synced(START);
    }
  });

  test("schedule: a busy site gathers, and changes wait longer than what a page waits for", () => {
    const due = (waiting: Waiting) => setUp(10).dueAt(waiting) - START;
    expect(due(CLAIM)).toBeGreaterThan(20);
    expect(due(PAGE)).toBe(due(CLAIM));
    expect(due({ claims: 1, pages: 1, changes: 1 })).toBe(due(CLAIM));
    expect(due(CHANGE)).toBeGreaterThan(due(CLAIM));
    expect(due(CHANGE)).toBeLessThanOrEqual(150); // the promised second is for everything
  });

  test("schedule: a busy site syncs some times a second, however much waits", () => {
    expect(syncsOfBusySite(CLAIM)).toBeLessThan(180);
    expect(syncsOfBusySite(CHANGE)).toBeLessThan(110);
  });

  test("schedule: many claims do not wait for the gap", () => {
    expect(setUp(10).dueAt({ ...NOTHING, claims: 32 })).toBe(START);
    expect(setUp(10).dueAt({ ...NOTHING, claims: 31 })).toBeGreaterThan(START);
  });

  test("schedule: a site that was busy is quiet again after two seconds", () => {
    const schedule = setUp(10);
    const later = START + 2_000;
    for (let sync = 0; sync < 3; sync += 1) {
      expect(schedule.dueAt(CHANGE)).toBeLessThanOrEqual(later);
      schedule.synced(later);
    }
    expect(schedule.dueAt(CHANGE)).toBeGreaterThan(later);
  });

  test("schedule: what was left unpublished is looked after, unless a message tells it or a sync is sent before", () => {
    const leave = () => {
      const schedule = setUp(10);
      schedule.leftUnpublished(7, 30, START);
      return schedule;
    };
    const schedule = leave();
    expect(schedule.dueAt(NOTHING)).toBeGreaterThan(START + 30);
    expect(schedule.dueAt(NOTHING)).toBeLessThan(START + 200);
    expect(schedule.dueAt(CLAIM)).toBeLessThan(START + 200);
    schedule.published(6);
    expect(schedule.dueAt(NOTHING)).not.toBe(Infinity);
    schedule.published(7);
    expect(schedule.dueAt(NOTHING)).toBe(Infinity);
    const other = leave();
    other.synced(START + 10);
    expect(other.dueAt(NOTHING)).toBe(Infinity);
  });
});
