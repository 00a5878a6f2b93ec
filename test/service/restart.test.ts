/** SIGTERM, SIGINT and what comes after: pages are closed in order, and nobody who comes back was ever missing. */
import { expect, test } from "bun:test";
import { createServer } from "node:net";
import { ask, type Connection, type Visitor } from "../support/client.ts";
import { withoutRepeats } from "../support/expect.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { type Runtime, Service, type Settings } from "../support/service.ts";
import { graceSeconds, TestSite, unlimited } from "../support/site.ts";
import { printMeasurement, Target, times } from "../support/target.ts";
import { alone, sleep, until } from "../support/waiting.ts";

const exitBoundMs = 10_000;

/** The restart with many pages. */
const population = 2_000;
/** How many do not come back. */
const leavers = 100;
/** How long a restarted service counts visitors who were online before. */
const heldSeconds = 15;
/** How many reconnects a node takes in a second: the window of 1012 follows from it. */
const reconnectsPerSecond = 2_500;

onBothRuntimes("restart", (runtime) => {
  const start = async (settings: Settings = {}): Promise<TestSite> => {
    const all = { ...unlimited, GRACE_SECONDS: graceSeconds, SITES: "a.example", ...settings };
    return new TestSite(await Service.start(runtime, all), "a.example");
  };

  for (const signal of ["SIGTERM", "SIGINT"] as const)
    test(`${signal} closes pages with 1012 and a window in seconds, and ends with 0 within 10 s`, async () => {
      const site = await start();
      const connections = await times(3, 1, () => site.open());
      const began = performance.now();
      const ended = site.service.stop(signal);
      for (const connection of connections) {
        const { code, reason } = await connection.ends(exitBoundMs);
        expect(code).toBe(1012);
        expect(reason).toMatch(/^\d+(\.\d+)?$/);
        expect(Number(reason)).toBeGreaterThan(0);
        expect(Number(reason)).toBeLessThanOrEqual(8);
      }
      expect(await ended).toBe(0);
      expect(performance.now() - began).toBeLessThan(exitBoundMs);
    });

  test("a restart has no dip: who was online counts until they are back, or for 15 s", async () => {
    const site = await start({ DATA: temporaryFolder() });
    const visitors = [1, 2, 3].map(() => site.visitor());
    for (const visitor of visitors) await visitor.open();
    await site.service.stop("SIGTERM");
    await site.service.start();
    const began = performance.now();
    const observer = await site.open("/", { observe: true });
    expect(observer.frames[0]).toMatchObject({ site: 3, page: 3 });
    const back = await visitors[0]!.open();
    expect(back.frames[0]).toMatchObject({ site: 3, page: 3 });
    await observer.shows({ site: 1, page: 1 }, 17_000);
    expect(performance.now() - began).toBeGreaterThan(13_000);
    expect(withoutRepeats(observer.frames.flatMap(({ site }) => site ?? []))).toEqual([3, 1]);
  });

  test("after a restart with another SECRET nobody is held, since each browser is a new visitor", async () => {
    const folder = temporaryFolder();
    const before = await start({ DATA: folder, SECRET: "one secret of the service" });
    const visitor = before.visitor();
    await visitor.open();
    await before.service.stop("SIGTERM");
    const after = await start({ DATA: folder, SECRET: "another secret of the service" });
    const watcher = await after.open("/", { observe: true });
    expect(watcher.frames[0]).toMatchObject({ site: 0 });
    expect((await after.visitor().open()).frames[0]).toMatchObject({ site: 1 });
  });

  test("a page that answers nothing holds the stop up for less than 10 s, and newcomers get 503 meanwhile", async () => {
    const site = await start();
    const watcher = await site.open();
    const deaf = await site.open();
    deaf.silent = true;
    deaf.stopReading();
    const began = performance.now();
    const stopped = site.service.stop();
    await watcher.ends();
    if (runtime === "deno") {
      // Only Deno waits for the page that does not answer. Bun ends within some milliseconds, and answers nobody meanwhile.
      const ready = await ask(site.url, "GET /readyz");
      const token = await site.visitor().token();
      expect([ready.status, token.status, Number(token.headers.get("retry-after")) > 0]).toEqual([503, 503, true]);
    }
    expect(await stopped).toBe(0);
    expect(performance.now() - began).toBeLessThan(exitBoundMs);
  });

  test("a second SIGTERM changes nothing, and a start that fails loses no visitor who is held", async () => {
    const site = await start({ DATA: temporaryFolder() });
    const { service } = site;
    const connections = await times(4, 1, () => site.open());
    expect((await site.count()).site).toBe(4);
    const stopped = service.stop();
    process.kill(service.pid, "SIGTERM");
    expect(await stopped).toBe(0);
    for (const connection of connections) connection.vanish();

    const otherServer = createServer().listen(Number(new URL(site.url).port), "0.0.0.0");
    await new Promise((resolve) => otherServer.once("listening", resolve));
    expect(await service.start().catch(String)).toContain("Cannot listen on");
    await new Promise((resolve) => otherServer.close(resolve));
    await service.start();
    expect((await site.count()).site).toBe(4);
    const watcher = await site.open();
    await watcher.shows({ site: 1 }, 20_000);
  });

  test("after a restart with 2,000 pages each comes back within the window of its 1012, and nobody sees a dip", async () => {
    // Only the storms run one after the other. The time in which visitors are held passes for both runtimes at once.
    const { target, observed, back, late } = await alone(() => openAndRestart(runtime));
    const { counts } = observed;
    const present = population - leavers + 1; // with the observer; the first watcher has not come back
    await until("those who left are gone", () => counts.at(-1) === present, 30_000);
    expect(Math.min(...counts.slice(counts.indexOf(population + 2)))).toBeWithin(present - late, present + 1);
    await observed.stop();
    for (const connection of back) connection.vanish();
    await (await target.again()).survives(0, 30_000);
  }, 120_000);
});

// ------------------------------------------------------------------------------------------------ many pages

/** Opens all pages, restarts the service, and lets all visitors but the leavers come back. */
async function openAndRestart(runtime: Runtime) {
  const target = await Target.start(runtime, { DATA: temporaryFolder() });
  const visitors = await times(population, 32, async () => {
    const visitor = target.visitor();
    return { visitor, connection: await visitor.open() };
  });
  await target.watcher.shows({ site: population + 1 }, 20_000);
  const observed = observe(target.visitor());
  await until("the observer is counted", () => observed.counts.includes(population + 2), 10_000);

  const stoppedAt = performance.now();
  const restarted = restart(target);
  const ends = await Promise.all(visitors.map(({ connection }) => connection.ends(10_000)));
  const windowSeconds = Math.ceil((population + 2) / reconnectsPerSecond);
  expect(new Set(ends.map(({ code, reason }) => `${code} ${reason}`))).toEqual(new Set([`1012 ${windowSeconds}`]));

  const arrivals: number[] = [];
  const back = await Promise.all(
    visitors.slice(leavers).map(async ({ visitor }) => {
      await sleep(Math.random() * windowSeconds * 1_000);
      const connection = await comeBack(visitor);
      arrivals.push((performance.now() - stoppedAt) / 1_000);
      return connection;
    }),
  );
  const exitMs = await restarted;
  expect(exitMs).toBeLessThan(10_000);
  const seconds = `window ${windowSeconds} s, back after ${quartiles(arrivals)} s (quartiles)`;
  printMeasurement(runtime, `${population} pages: exit in ${exitMs.toFixed(0)} ms, ${seconds}`);
  const late = arrivals.filter((arrival) => arrival > heldSeconds).length; // a slow machine opens some pages too late
  return { target, observed, back, late };
}

/** Stops and starts the service of a target; resolves with the time that it took to end, in milliseconds. */
async function restart({ service }: Target): Promise<number> {
  const began = performance.now();
  expect(await service.stop()).toBe(0);
  const ms = performance.now() - began;
  await service.start();
  return ms;
}

/** What the widget does after a close: a token, a socket, and again after a backoff while there is none. */
async function comeBack(visitor: Visitor): Promise<Connection> {
  for (let attempt = 0; ; attempt++) {
    const connection = await visitor.open().catch(() => undefined);
    if (connection) return connection;
    await sleep(Math.max(250, Math.random() * Math.min(60_000, 1_000 * 2 ** attempt)));
  }
}

/** A visitor who comes back after each close, and collects every count of the site that their page shows. */
function observe(visitor: Visitor): { counts: number[]; stop: () => Promise<void> } {
  const counts: number[] = [];
  const abort = new AbortController();
  const { signal } = abort;
  const observing = (async () => {
    let connection: Connection | undefined;
    while (!signal.aborted) {
      connection = await comeBack(visitor);
      let read = 0;
      while (connection.open && !signal.aborted) {
        for (const { site } of connection.frames.slice(read)) if (site !== undefined) counts.push(site);
        read = connection.frames.length;
        await sleep(10);
      }
    }
    connection?.vanish();
  })();
  const stop = (): Promise<void> => {
    abort.abort();
    return observing;
  };
  return { counts, stop };
}

const quartiles = (values: number[]): string => {
  const sorted = values.toSorted((a, b) => a - b);
  return [0, 0.25, 0.5, 0.75, 1].map((share) => sorted[Math.round(share * (sorted.length - 1))]?.toFixed(1)).join(" ");
};
