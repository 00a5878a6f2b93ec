import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import type { Cluster } from "../../engine/engine.ts";
import { Rooms, type Viewer } from "../../server.ts";
import { viewer } from "../support/unit.ts";

const GRACE = 5_000;
const SCAN = 50;

/** A room with a clock of its own, so that a test reads as a timeline. */
function setUp(graceMs = GRACE) {
  const rooms = new Rooms(graceMs);
  const clock = { now: 1_000 };
  const published: string[] = [];
  return {
    rooms,
    open: (visitor: string, page = "/", site = "example.com"): Viewer => {
      const opened = viewer(visitor);
      rooms.open(opened, site, page, clock.now);
      return opened;
    },
    close: (opened: Viewer) => rooms.close(opened, clock.now),
    move: (opened: Viewer, page: string) => rooms.move(opened, page, clock.now),
    /** Ticks now, or lets the time pass in steps as the service does. Returns what was published. */
    tick: (ms = 0) => {
      const end = clock.now + ms;
      for (;;) {
        for (const { site, page, siteChanged, pageChanged } of rooms.tick(clock.now)) {
          const numbers = [siteChanged ? `site ${site.room.count}` : "", pageChanged ? `page ${page.count}` : ""];
          published.push(`${page.page}: ${numbers.filter(Boolean).join(", ")}`);
        }
        if (clock.now >= end) return published.splice(0).toSorted();
        clock.now = Math.min(end, clock.now + SCAN);
      }
    },
  };
}

describe("rooms", () => {
  test("rooms: several pages of one visitor count once, and only the first is published", () => {
    const { rooms, open, tick } = setUp();
    open("ann");
    open("ben");
    expect(tick(1_000)).toEqual(["/: site 2, page 2"]);
    open("ben");
    open("ben", "/other");
    expect(rooms.count("example.com")).toBe(2);
    expect(rooms.count("example.com", "/other")).toBe(1);
    expect(tick(1_000)).toEqual([]);
  });

  test("rooms: the first change after a quiet time is published at once, the following ones together", () => {
    const { rooms, open, tick } = setUp();
    open("ann");
    tick(1_000);
    open("v0");
    expect(rooms.isDirty).toBe(true);
    expect(tick()).toEqual(["/: site 2, page 2"]);
    for (let i = 1; i < 50; i += 1) open(`v${i}`);
    expect(rooms.isDirty).toBe(false);
    expect(tick()).toEqual([]);
    expect(tick(1_000)).toEqual(["/: site 51, page 51"]);
  });

  test("rooms: a number that came back to the published one is not published again", () => {
    const { open, close, tick } = setUp(0);
    open("ann");
    tick(1_000);
    const ben = open("ben");
    expect(tick()).toEqual(["/: site 2, page 2"]);
    close(ben);
    open("cid");
    expect(tick(1_000)).toEqual([]);
  });

  test("rooms: the time between two broadcasts grows with the open pages of the node, and stays under a second", () => {
    const { open, tick } = setUp();
    for (let i = 0; i < 30_000; i += 1) open(`v${i}`);
    tick(2_000);
    open("x");
    expect(tick()).toHaveLength(1);
    open("y");
    expect(tick(700)).toEqual([]);
    expect(tick(100)).toHaveLength(1);
  });

  test("rooms: the last page of a visitor closes, and after grace they leave", () => {
    const { rooms, open, close, tick } = setUp();
    open("ann");
    const ben = open("ben");
    tick(1_000);
    close(ben);
    expect(tick(GRACE - SCAN)).toEqual([]);
    expect(rooms.count("example.com")).toBe(2);
    expect(tick(SCAN)).toEqual(["/: site 1, page 1"]);
  });

  test("rooms: a reload within grace publishes nothing, however often", () => {
    const { rooms, open, close, tick } = setUp();
    open("ann");
    let ben = open("ben");
    tick(1_000);
    for (let i = 0; i < 10; i += 1) {
      close(ben);
      expect(tick(GRACE - 2 * SCAN)).toEqual([]);
      ben = open("ben");
    }
    expect(tick(3 * GRACE)).toEqual([]);
    expect(rooms.count("example.com")).toBe(2);
  });

  test("rooms: walking to another page changes the pages' numbers and never the site's", () => {
    const { rooms, open, move, tick } = setUp();
    open("ann", "/a");
    const ben = open("ben", "/a");
    tick(1_000);
    move(ben, "/b");
    expect(rooms.count("example.com", "/b")).toBe(1);
    expect(tick(GRACE + SCAN)).toEqual(["/a: page 1"]); // the only page on /b was told by its first frame
    move(ben, "/b");
    expect(tick(GRACE + SCAN)).toEqual([]);
  });

  test("rooms: an observer is sent numbers and not counted", () => {
    const { rooms, open, close, tick } = setUp();
    const observer = open("");
    expect(rooms.count("example.com")).toBe(0);
    expect(rooms.connectionsOf("example.com", "")).toBe(0);
    const ann = open("ann");
    expect(tick()).toEqual(["/: site 1, page 1"]);
    close(ann);
    expect(tick(GRACE + SCAN)).toEqual(["/: site 0, page 0"]);
    close(observer);
    expect(tick(GRACE + SCAN)).toEqual([]);
  });

  test("rooms: sites and pages of like names are kept apart", () => {
    const { rooms, open } = setUp();
    open("ann", "/", "a.example");
    open("ben", "/", "b.example");
    open("ben", "a.example", "b.example");
    expect(rooms.count("a.example")).toBe(1);
    expect(rooms.count("b.example")).toBe(1);
    expect(rooms.count("b.example", "/")).toBe(1);
  });

  test("rooms: 10,000 visitors who leave at once leave in portions, within a second after their grace", () => {
    const { rooms, open, close, tick } = setUp();
    const pages = Array.from({ length: 10_000 }, (_, i) => open(`v${i}`, `/${i}`));
    tick(1_000);
    for (const page of pages) close(page);
    tick(GRACE);
    expect(rooms.count("example.com")).toBe(8_000); // 2,000 visitors have left the site and their page
    tick(1_000);
    expect([...rooms.sites()]).toEqual([]);
  });

  test("rooms: who is held over a restart counts until they are back, or their time is over", () => {
    const { rooms, open, tick } = setUp();
    for (const visitor of ["ann", "ben"]) {
      rooms.hold({ site: "example.com", page: undefined, visitor }, 16_000, 1_000);
      rooms.hold({ site: "example.com", page: "/", visitor }, 16_000, 1_000);
    }
    expect(tick(1_000)).toEqual([]);
    open("ann");
    expect(rooms.count("example.com")).toBe(2);
    expect(tick(13_900)).toEqual([]);
    expect(tick(200)).toEqual(["/: site 1, page 1"]);
    expect(tick(60_000)).toEqual([]);
  });

  test("rooms: in a cluster the count is what the cluster reports, and unknown until then", () => {
    const changes: string[] = [];
    const cluster: Cluster = {
      listen: () => {},
      share: () => {},
      count: async () => 0,
      opened: (room) => changes.push(`open ${room.page ?? room.site}`),
      closed: (room) => changes.push(`shut ${room.page ?? room.site}`),
      changed: (room, visitor, isHere) => changes.push(`${visitor} ${isHere ? "in" : "out"} ${room.page ?? room.site}`),
    };
    const rooms = new Rooms(GRACE, cluster);
    const ann = viewer("ann");
    rooms.open(ann, "example.com", "/", 0);
    expect(changes.splice(0)).toEqual(["open example.com", "open /", "ann in example.com", "ann in /"]);
    expect(ann.site.room.count).toBeUndefined();
    expect(rooms.tick(0)).toEqual([]);
    rooms.setCount(ann.site.room, 7);
    expect(rooms.tick(1)).toMatchObject([{ page: { page: "/" }, siteChanged: true, pageChanged: false, changedAt: 1 }]);
    rooms.close(ann, 2);
    rooms.tick(2 + GRACE);
    expect(changes).toEqual(["ann out /", "shut /", "ann out example.com", "shut example.com"]);
    expect(ann.site.room.count).toBe(7);
  });

  test("rooms: a count that the cluster reports while a visitor enters is in the first frame, and not published again", () => {
    const reports: (() => void)[] = [];
    const rooms: Rooms = new Rooms(GRACE, {
      listen: () => {},
      share: () => {},
      count: async () => 0,
      opened: () => {},
      closed: () => {},
      changed: (room) => {
        rooms.setCount(room, 3); // inside of `open`
        reports.push(() => rooms.setCount(room, 4));
      },
    });
    const ann = viewer("ann");
    rooms.open(ann, "example.com", "/", 0);
    expect([ann.site.room.count, ann.room.count]).toEqual([3, 3]);
    expect(rooms.tick(0)).toEqual([]);
    reports.forEach((report) => report());
    expect(rooms.tick(1_000)).toMatchObject([{ siteChanged: true, pageChanged: true }]);
  });

  test("rooms: the peak since it was taken last is the highest count in between", () => {
    const { rooms, open, close, tick } = setUp(0);
    const ann = open("ann");
    open("ben");
    close(ann);
    tick(SCAN);
    expect(rooms.takePeaks()).toEqual([{ site: "example.com", peak: 2 }]);
    expect(rooms.takePeaks()).toEqual([{ site: "example.com", peak: 1 }]);
  });

  test("rooms: an empty room is forgotten", () => {
    const { rooms, open, close, tick } = setUp();
    const ann = open("ann");
    close(ann);
    tick(GRACE + SCAN);
    expect([...rooms.sites()]).toEqual([]);
    const ben = open("ben");
    expect(ben.site).not.toBe(ann.site);
    expect(rooms.count("example.com")).toBe(1);
  });

  test("rooms: any history gives the distinct visitors online, as a naive model counts them", () => {
    const visitor = fc.constantFrom("ann", "ben", "cid", "");
    const page = fc.constantFrom("/a", "/b");
    const site = fc.constantFrom("x.example", "y.example");
    const index = fc.nat({ max: 9 });
    const step = fc.oneof(
      fc.record({ do: fc.constant("open" as const), visitor, page, site }),
      fc.record({ do: fc.constant("close" as const), index }),
      fc.record({ do: fc.constant("reload" as const), index }),
      fc.record({ do: fc.constant("move" as const), index, page }),
      fc.record({ do: fc.constant("wait" as const), ms: fc.constantFrom(0, 50, 950, 2_500, 4_950, 5_000, 5_050) }),
    );
    fc.assert(fc.property(fc.array(step, { maxLength: 60 }), agreesWithModel), { numRuns: 500 });
  });
});

type Step =
  | { do: "open"; visitor: string; page: string; site: string }
  | { do: "close" | "reload"; index: number }
  | { do: "move"; index: number; page: string }
  | { do: "wait"; ms: number };

/** Replays a history on `Rooms` and on lists that are searched from end to end, and compares after every wait. */
function agreesWithModel(steps: Step[]): void {
  const { rooms, open, close, move, tick } = setUp();
  let now = 0;
  const opened: Viewer[] = [];
  const left: { visitor: string; room: string; at: number }[] = [];
  const keys = ({ room }: Viewer) => [room.site, `${room.site} ${room.page}`];
  const leave = (page: Viewer, rooms: string[]) =>
    left.push(...rooms.map((room) => ({ visitor: page.visitor, room, at: now })));
  const online = (room: string) =>
    new Set([
      ...opened.filter((page) => keys(page).includes(room)).map((page) => page.visitor),
      ...left.filter((entry) => entry.room === room && now - entry.at < GRACE).map((entry) => entry.visitor),
    ]);
  for (const step of [...steps, { do: "wait", ms: 2_500 } as const]) {
    const page = "index" in step ? opened[step.index % Math.max(1, opened.length)] : undefined;
    if (step.do === "open") opened.push(open(step.visitor, step.page, step.site));
    if (step.do === "close" && page !== undefined) {
      opened.splice(opened.indexOf(page), 1);
      leave(page, keys(page));
      close(page);
    }
    if (step.do === "reload" && page !== undefined) {
      tick(GRACE + 1_000); // whatever was still to come of the steps before
      now += GRACE + 1_000;
      const before = rooms.count(page.room.site);
      opened.splice(opened.indexOf(page), 1);
      close(page);
      opened.push(open(page.visitor, String(page.room.page), page.room.site));
      expect(rooms.count(page.room.site)).toBe(before);
      expect(rooms.isDirty).toBe(false);
      expect(tick(2_500)).toEqual([]);
      now += 2_500;
    }
    if (step.do === "move" && page !== undefined && page.room.page !== step.page) {
      leave(page, keys(page).slice(1));
      move(page, step.page);
    }
    if (step.do !== "wait") continue;
    tick(step.ms);
    now += step.ms;
    if (step.ms < SCAN) continue;
    if (step.ms >= 950) for (const page of opened) expect(page.room.published).toBe(page.room.members.size);
    for (const site of ["x.example", "y.example"])
      for (const name of [undefined, "/a", "/b"]) {
        const expected = online(name === undefined ? site : `${site} ${name}`);
        expected.delete("");
        expect(rooms.count(site, name) ?? 0).toBe(expected.size);
      }
  }
}
