import { describe, expect, test } from "bun:test";
import { setImmediate } from "node:timers/promises";
import * as fc from "fast-check";
import { MAX_UNLISTED_SITES, type TotalsStore } from "../../engine/engine.ts";
import { isTimeZone } from "../../edge/settings.ts";
import { createCalendar, dateOf } from "../../shared/calendar.ts";
import { RecordedSites } from "../../stats/live.ts";
import { Totals } from "../../stats/totals.ts";
import { sqlite } from "../support/unit.ts";

const SITE = "example.com";

/** Totals over a real engine. `day` and `now` are in the test's hand; an id such as "ann-100" was minted on day 100. */
function setUp(engine = sqlite(), store: TotalsStore = engine) {
  const clock = { day: 100, now: 0 };
  const failures: unknown[] = [];
  const totals = new Totals({
    store,
    secrets: engine,
    today: () => clock.day,
    mintedOn: (visitor) => Number(visitor.split("-")[1] ?? NaN),
    sites: new RecordedSites(new Set([SITE])),
    log: (level) => failures.push(level),
  });
  /** What happens every 5 s. @param halfWay called when the engine has half of the views, and again when it has all */
  const record = async (halfWay: () => unknown = () => {}) => {
    const views = totals.takeViews();
    const half = Math.ceil(views.length / 2);
    for (const some of [views.slice(0, half), views.slice(half)]) {
      await engine.record({ readings: [], peaks: [], views: some });
      await halfWay();
    }
    totals.viewsStored(views);
    await totals.countWaiting();
  };
  /** What a page is told in its first frame. */
  const numbers = async (page = "/", site = SITE) => {
    clock.now += 10_000;
    await totals.refresh(site, page, clock.now);
    return totals.numbers(site, page);
  };
  return { engine, totals, clock, failures, record, numbers };
}

/** The engine, with some of its methods replaced. */
const storeOf = (engine: TotalsStore, replaced: Partial<TotalsStore>): TotalsStore => ({
  countVisitors: (entries) => engine.countVisitors(entries),
  siteTotals: (site, day) => engine.siteTotals(site, day),
  pageViews: (site, pages) => engine.pageViews(site, pages),
  days: (site, fromDay) => engine.days(site, fromDay),
  ...replaced,
});

describe("totals", () => {
  test("a visitor's own first frame includes the view and the visitor", async () => {
    const { totals, numbers } = setUp();
    await totals.countVisitor(SITE, "ann-100");
    totals.countView(SITE, "/");
    expect(await numbers()).toEqual({ views: 1, total: 1, visitors: 1, today: 1 });
  });

  test("views are counted each time, visitors once a day, and as new on the day of their minting only", async () => {
    const { totals, clock, record, numbers } = setUp();
    for (let i = 0; i < 3; i += 1) {
      await totals.countVisitor(SITE, "ann-100");
      totals.countView(SITE, "/");
    }
    await totals.countVisitor(SITE, "old-42");
    totals.countView(SITE, "/two");
    expect(await numbers()).toEqual({ views: 3, total: 4, visitors: 1, today: 2 });
    await record();
    expect(await numbers("/two")).toEqual({ views: 1, total: 4, visitors: 1, today: 2 });
    clock.day = 101;
    await totals.countVisitor(SITE, "ann-100");
    await totals.countVisitor(SITE, "new-101");
    expect(await numbers()).toEqual({ views: 3, total: 4, visitors: 2, today: 2 });
  });

  test("numbers are right before, while and after views are stored", async () => {
    const engine = sqlite();
    const gate = Promise.withResolvers<void>();
    const store = storeOf(engine, {
      siteTotals: async (site, day) => {
        const answer = await engine.siteTotals(site, day);
        await gate.promise; // crosses the views that are stored meanwhile
        return answer;
      },
    });
    const { totals, record, numbers } = setUp(engine, store);
    totals.countView(SITE, "/");
    const asked = numbers();
    await record();
    gate.resolve();
    await asked;
    expect(await numbers()).toMatchObject({ views: 1, total: 1 });
    await record();
    expect(await numbers()).toMatchObject({ views: 1, total: 1 });
  });

  test("first numbers that are read while views are written are complete and right", async () => {
    const { totals, numbers, record } = setUp();
    for (const page of ["/", "/two"]) totals.countView(SITE, page);
    const asked: Promise<unknown>[] = [];
    await record(() => {
      asked.push(numbers("/"), numbers("/two"), numbers("/three"), totals.viewsOf(SITE, ["/two", "/three"]));
      totals.countView(SITE, "/");
    });
    const numbersOf = (views: number) => ({ views, total: 4, visitors: 0, today: 0 });
    const expected = [numbersOf(3), numbersOf(1), numbersOf(0), [1, 0]];
    expect(await Promise.all(asked)).toEqual([...expected, ...expected]);
  });

  test("first numbers that are read while a write of views fails are complete and right", async () => {
    const { totals, numbers } = setUp();
    totals.countView(SITE, "/");
    const views = totals.takeViews();
    const asked = numbers();
    await setImmediate(); // the engine has answered
    totals.giveBackViews(views);
    expect(await asked).toMatchObject({ views: 1, total: 1 });
  });

  test("visitors who come while views are written are in their own first numbers", async () => {
    const { totals, numbers, record } = setUp();
    totals.countView(SITE, "/");
    await record();
    expect(await numbers()).toEqual({ views: 1, total: 1, visitors: 0, today: 0 });
    totals.countView(SITE, "/");
    totals.takeViews();
    await totals.countVisitor(SITE, "ann-100");
    expect(await numbers()).toEqual({ views: 2, total: 2, visitors: 1, today: 1 });
  });

  test("numbers are right, before and after views are stored, when more pages have views than are kept in memory", async () => {
    const { totals, numbers, record } = setUp();
    for (let page = 0; page < 60_000; page += 1) totals.countView(SITE, `/${page}`);
    const expected = { views: 1, total: 50_000, visitors: 0, today: 0 };
    expect(await numbers("/1")).toEqual(expected);
    await record();
    expect(await numbers("/1")).toEqual(expected);
  });

  test("views that the engine does not take are kept, and counted once", async () => {
    const { totals, clock, record, numbers } = setUp();
    totals.countView(SITE, "/");
    totals.giveBackViews(totals.takeViews());
    totals.countView(SITE, "/");
    expect(await numbers()).toMatchObject({ views: 2 });
    const views = totals.takeViews();
    clock.day = 101;
    totals.countView(SITE, "/");
    totals.giveBackViews(views);
    await record();
    expect(await numbers()).toMatchObject({ views: 3, total: 3 });
  });

  test("views before midnight belong to the day before", async () => {
    const { engine, totals, clock, record } = setUp();
    totals.countView(SITE, "/");
    clock.day = 101;
    totals.countView(SITE, "/");
    totals.countView(SITE, "/");
    await record();
    expect(await engine.days(SITE, 0)).toEqual([
      { day: 100, views: 1, visitors: 0 },
      { day: 101, views: 2, visitors: 0 },
    ]);
  });

  test("a clock that is put back by days for a while makes nobody of today new again", async () => {
    const { engine, totals, clock, numbers } = setUp();
    const come = (visitor: string) => totals.countVisitor(SITE, visitor);
    await come("ann-100");
    clock.day = 97;
    await come("ann-100");
    const restarted = setUp(engine);
    for (const day of [97, 98, 100]) {
      restarted.clock.day = day;
      await restarted.totals.countVisitor(SITE, "ann-100");
      await restarted.totals.countVisitor(SITE, "ben-1");
    }
    clock.day = 100;
    await come("ann-100");
    expect(await numbers()).toMatchObject({ visitors: 1, today: 2 });
  });

  test("a clock that is put back over midnight does not begin the old day again", async () => {
    const { totals, clock, numbers } = setUp();
    clock.day = 101;
    await totals.countVisitor(SITE, "ann-101");
    clock.day = 100;
    await totals.countVisitor(SITE, "ann-101");
    clock.day = 101;
    await totals.countVisitor(SITE, "ann-101");
    expect(await numbers()).toMatchObject({ visitors: 1, today: 1 });
  });

  test("while the engine is away visitors wait, and are counted once it is back", async () => {
    const engine = sqlite();
    const state = { isAway: true };
    const store = storeOf(engine, {
      countVisitors: async (entries) => {
        if (state.isAway) throw new Error("away");
        await engine.countVisitors(entries);
      },
    });
    const { totals, record, numbers, failures } = setUp(engine, store);
    await Promise.all(["a-100", "b-100", "c-1"].map(async (visitor) => totals.countVisitor(SITE, visitor)));
    expect(failures).toEqual(["warn"]);
    state.isAway = false;
    await record();
    expect(await numbers()).toMatchObject({ visitors: 2, today: 3 });
  });

  test("a visitor who comes in the moment in which a batch ends is counted at once, as everybody is", async () => {
    for (let turns = 0; turns < 40; turns += 1) {
      const batches: (() => void)[] = [];
      const store = storeOf(sqlite(), { countVisitors: () => new Promise((resolve) => batches.push(resolve)) });
      const { totals } = setUp(undefined, store);
      void totals.countVisitor(SITE, "ann-100");
      while (batches.length < 1) await setImmediate();
      batches[0]!();
      for (let turn = 0; turn < turns; turn += 1) await Promise.resolve();
      void totals.countVisitor(SITE, "ben-100");
      for (let turn = 0; turn < 20 && batches.length < 2; turn += 1) await setImmediate();
      expect({ turns, batches: batches.length }).toEqual({ turns, batches: 2 });
      batches[1]!();
    }
  });

  test("sites that a Host header invents are counted in small number", async () => {
    const { totals, record, engine } = setUp();
    for (let i = 0; i < 300; i += 1) totals.countView(`invented${i}.example`, "/");
    await record();
    const kept = await Promise.all(Array.from({ length: 300 }, (_, i) => engine.siteTotals(`invented${i}.example`, 0)));
    expect(kept.filter(({ total }) => total > 0)).toHaveLength(MAX_UNLISTED_SITES);
  });

  test("any history gives the numbers of a naive model, over restarts, midnights and clocks", async () => {
    const visitor = fc.tuple(fc.constantFrom("ann", "ben", "cid"), fc.integer({ min: 99, max: 103 }));
    const step = fc.oneof(
      fc.record({ do: fc.constant("view" as const), visitor, page: fc.constantFrom("/a", "/b") }),
      fc.record({
        do: fc.constantFrom<"record" | "restart" | "midnight" | "yesterday">(
          "record",
          "restart",
          "midnight",
          "yesterday",
        ),
      }),
    );
    await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 40 }), agreesWithModel), { numRuns: 300 });
  }, 60_000);
});

type Step =
  | { do: "view"; visitor: [string, number]; page: string }
  | { do: "record" | "restart" | "midnight" | "yesterday" };

/** Counts with lists that remember everybody for ever, and compares after every step. */
async function agreesWithModel(steps: Step[]): Promise<void> {
  const engine = sqlite();
  let { totals, clock, record, numbers } = setUp(engine);
  let day = 100; // the latest day that was reached
  const views: string[] = [];
  const seen = new Map<number, Set<string>>();
  const newcomers = new Set<string>();
  const compare = async () => {
    for (const page of ["/a", "/b"])
      expect(await numbers(page)).toEqual({
        views: views.filter((viewed) => viewed === page).length,
        total: views.length,
        visitors: newcomers.size,
        today: seen.get(day)?.size ?? 0,
      });
  };
  for (const step of steps) {
    if (step.do === "view") {
      const [name, mintedOn] = step.visitor;
      const id = `${name}-${mintedOn}`;
      await totals.countVisitor(SITE, id);
      totals.countView(SITE, step.page);
      views.push(step.page);
      seen.set(day, (seen.get(day) ?? new Set()).add(id));
      if (mintedOn === day) newcomers.add(id);
    }
    if (step.do === "record") await record(compare);
    if (step.do === "midnight") day += 1;
    if (step.do === "restart") {
      await record(); // SIGTERM writes everything
      const { now } = clock;
      ({ totals, clock, record, numbers } = setUp(engine));
      clock.now = now;
    }
    clock.day = step.do === "yesterday" ? day - 1 : day;
    if (step.do === "restart") expect(totals.day).toBe(day); // a node starts on the right day
    await compare();
  }
}

describe("calendar", () => {
  test("a day begins at midnight of the zone, also when clocks are changed", () => {
    const berlin = createCalendar("Europe/Berlin");
    const day = (text: string) => dateOf(berlin(Date.parse(text)));
    expect(day("2026-11-24T22:59:59Z")).toBe("2026-11-24");
    expect(day("2026-11-24T23:00:00Z")).toBe("2026-11-25");
    expect(day("2026-07-01T21:59:00Z")).toBe("2026-07-01");
    expect(day("2026-07-01T22:00:00Z")).toBe("2026-07-02");
    expect(dateOf(createCalendar("UTC")(Date.parse("2026-01-01T00:00:00Z")))).toBe("2026-01-01");
  });

  test("only time zones are time zones", () => {
    for (const name of ["UTC", "Europe/Berlin", "Asia/Shanghai"]) expect(isTimeZone(name)).toBe(true);
    for (const name of ["Mars", "Europe/", "12"]) expect(isTimeZone(name)).toBe(false);
  });
});
