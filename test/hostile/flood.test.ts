/** Floods over open connections and of invented names: bounded, without a stall, and without memory that stays. */
import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { join } from "node:path";
import { MAX_MOST_READ, MAX_UNLISTED_SITES } from "../../engine/engine.ts";
import { ask, encodeFrame, upgrade } from "../support/client.ts";
import { differences } from "../support/differences.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { memoryOf, openFilesOf } from "../support/process.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { ownSite, Target, times } from "../support/target.ts";
import { sqlite } from "../support/unit.ts";
import { alone, sleep, until } from "../support/waiting.ts";

const repeated = (count: number, frame: Buffer): Buffer => Buffer.concat(Array.from({ length: count }, () => frame));

onBothRuntimes("hostile flood", (runtime) => {
  test("a reader that stops reading, and pings, is closed or held back, and memory stays", async () => {
    const target = await Target.start(runtime, { HEARTBEAT_SECONDS: 3 });
    const reader = await target.open();
    reader.stopReading();
    const pings = repeated(500, encodeFrame(9, Buffer.alloc(125)));
    let peak = 0;
    for (const began = performance.now(); performance.now() - began < 4_000; await sleep(2)) {
      if ((await target.connections()) <= 1) break;
      for (let bursts = 0; bursts < 20; bursts++) reader.write(pings);
      peak = Math.max(peak, memoryOf(target.service.pid));
    }
    expect(peak).toBeLessThan(target.memoryBefore + 48);
    if (differences.closesPingFloods[runtime])
      await until("it is closed", async () => (await target.connections()) === 1, 10_000);
    reader.vanish();
    await target.survives();
  });

  test("floods of pongs, empty fragments and moves are bounded and cost no memory", async () => {
    const folder = temporaryFolder();
    const target = await Target.start(runtime, { DATA: folder });
    const reader = await target.open("/read");
    const pongs = await target.open();
    for (let burst = 0; burst < 100; burst++) pongs.write(repeated(500, encodeFrame(10, Buffer.from([1]))));
    const empty = await target.open();
    empty.write(encodeFrame(1, Buffer.alloc(0), { first: 1 }));
    for (let burst = 0; burst < 100; burst++) empty.write(repeated(500, encodeFrame(0, Buffer.alloc(0), { first: 0 })));
    const walkers = await times(100, 10, async (at) => {
      const walker = await target.open(`/walk/${at}`);
      for (let step = 0; step < 58; step++) walker.send({ page: `/walk/${at}/${step}/${"x".repeat(900)}` });
      await walker.shows({ page: 1 });
      return walker;
    });
    expect(walkers.every(({ open }) => open)).toBe(true);
    expect((await pongs.ends()).code).toBeOneOf([1008, 1006]); // or reset
    await sleep(1_100); // a view of less than a second is not recorded
    for (const connection of [reader, pongs, empty, ...walkers]) connection.vanish();
    await target.survives();
    const readings = async () => (await ask(target.url, `GET /reading?site=${ownSite}`)).json.pages;
    await until("the reading of /read is recorded", async () => (await readings()).some(isRead), 45_000);
    expect((await readings()).length).toBeLessThan(1_000); // of 5,800 pages, those that were read for a second
    expect(await target.service.metric("headcount_pages_online")).toBe(1);
  });

  test("sites invented by Host and Origin are let go, and the journal keeps few of them", async () => {
    const folder = temporaryFolder();
    const target = await Target.start(runtime, { DATA: folder });
    const connections = await times(400, 16, async (at) => {
      const headers = { host: `invented-${at}.example`, origin: `http://invented-${at}.example` };
      const { json } = await ask(target.url, "POST /token", { headers, body: "" });
      return (await upgrade(target.url, json.token, { headers })).connection!;
    });
    await sleep(6_000); // the journal is written every 5 s
    const sites = async () => (await target.service.metrics()).match(/headcount_visitors_online\{/g)?.length;
    expect(await sites()).toBeLessThanOrEqual(100);
    for (const connection of connections) connection.vanish();
    await target.survives();
    await until("the sites are let go", async () => (await sites()) === 1, 10_000);
    expect(readNumber(folder, "count(DISTINCT site)", "history")).toBeLessThanOrEqual(MAX_UNLISTED_SITES + 1);
  });

  test("connections whose peers never answer a close do not pile up", async () => {
    const target = await Target.start(runtime);
    const { pid } = target.service;
    const before = openFilesOf(pid);
    const deaf = await times(20, 4, async () => {
      const connection = await target.open();
      connection.silent = true;
      connection.stopReading();
      connection.send("nonsense");
      return connection;
    });
    await target.survives();
    const filesAreClosed = () => until("their files are closed", () => openFilesOf(pid) <= before + 2, 10_000);
    if (differences.closesWithoutAnswer[runtime]) await filesAreClosed();
    for (const connection of deaf) connection.vanish();
    await filesAreClosed();
  });

  test("reading times of 10,000 pages can be asked for all the time without stalling new pages", () =>
    alone(async () => {
      const folder = temporaryFolder();
      const target = await Target.start(runtime, { DATA: folder });
      await target.service.stop();
      await writeReadings(folder);
      await target.service.start();
      const again = await target.again();
      const state = { over: false };
      const asking = times(36, 6, () => ask(again.url, `GET /reading?site=${ownSite}`));
      void asking.finally(() => (state.over = true));
      let slowestMs = 0;
      while (!state.over) {
        const began = performance.now();
        const connection = await again.open();
        slowestMs = Math.max(slowestMs, performance.now() - began);
        connection.vanish();
      }
      for (const { status, json } of await asking) expect([status, json.pages.length]).toEqual([200, MAX_MOST_READ]);
      expect(slowestMs).toBeLessThan(3_000);
      await again.survives(0, 30_000);
    }));
});

const isRead = ({ page }: { page: string }) => page === "/read";

/** A number from the journal's file. */
function readNumber(folder: string, number: string, table: string): number {
  using database = new Database(join(folder, "headcount.db"), { readonly: true });
  return Number(database.query(`SELECT ${number} FROM ${table}`).values()[0]?.[0]);
}

/** Writes reading times of 10,000 pages, in three buckets each, into the file of a service that is stopped. */
async function writeReadings(folder: string): Promise<void> {
  const engine = sqlite(folder);
  const readings = Array.from({ length: 30_000 }, (_, at) => {
    return { site: ownSite, page: `/a/page/${Math.floor(at / 3)}`, bucket: [3, 9, 20][at % 3]!, views: 5, seconds: 50 };
  });
  await engine.record({ readings, peaks: [] });
  await engine.close();
}
