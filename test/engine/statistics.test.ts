/** Statistics in Redis: each part is added once, in bounded batches, and a part that fails hinders nothing else. */
import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import { DAY_MINUTES, HISTORY_DAYS, type ReadingSum } from "../../engine/engine.ts";
import { RedisEngine } from "../../engine/redis.ts";
import { adopt } from "../support/leftovers.ts";
import { suite } from "../support/needs.ts";
import { Cable, endRedis, RedisServer } from "../support/redis.ts";
import { type Runtime, runtimes } from "../support/service.ts";
import { quiet } from "../support/unit.ts";
import { once, until } from "../support/waiting.ts";

const ROOT = join(import.meta.dir, "../..");
const commands: Record<Runtime, string[]> = {
  bun: ["node_modules/.bin/bun"],
  deno: ["node_modules/.bin/deno", "run", "--allow-all"],
};

/** Commands may take 9 % of a lease: long enough for a busy machine, and short enough for a test that cuts the link. */
const LEASE_MS = 10_000;

/** What `many.ts` prints. */
interface ManyReport {
  readonly failures: number;
  readonly lostEntries: number;
  readonly views: number;
  readonly roomsWithCount: number;
}

const reading = (site: string, page = "/"): ReadingSum => ({ site, page, bucket: 1, views: 1, seconds: 1 });
const textOf = (promise: Promise<unknown>) => promise.then(() => "", String);

afterAll(endRedis);

suite("redis statistics", ["redis-server"], () => {
  const server = once(() => RedisServer.start());
  const open = (url: string, log = quiet) => RedisEngine.open(url, { tokenTtlMs: 30_000, log, leaseMs: LEASE_MS });

  test("redis: entries whose answer was lost are added once", async () => {
    const redis = await server();
    const cable = await Cable.lay(redis.port);
    const engine = await open(cable.url);
    const record = () => engine.record({ readings: [reading("once.example")], peaks: [] });
    redis.freeze();
    await record(); // accepted: the engine sends it again by itself
    expect(await textOf(record())).toContain("Redis");
    redis.thaw();
    await until("the engine is back", () => record().then(() => true, () => false)); // oxfmt-ignore
    expect(await engine.reading("once.example", "/")).toMatchObject({ views: 2, seconds: 2 });
    await engine.close();
    cable.remove();
  });

  test("redis: entries of many parts whose answers were lost are added once", async () => {
    const redis = await server();
    const cable = await Cable.lay(redis.port);
    const engine = await open(cable.url);
    const site = "parts.example";
    const readings = Array.from({ length: 3_000 }, (_, index) => reading(site, `/${index}`));
    const recorded = engine.record({ readings, peaks: [] });
    const pages = `headcount:{${site}}:mostread`;
    await until("some parts have arrived", async () => (await redis.client.zcard(pages)) > 0);
    cable.cut();
    await recorded;
    cable.mend();
    const record = () => engine.record({ readings: [], peaks: [] });
    await until("the engine is back", () => record().then(() => true, () => false)); // oxfmt-ignore
    expect(await redis.client.zcard(pages)).toBe(3_000);
    const read = await Promise.all(readings.map(({ page }) => engine.reading(site, page)));
    expect(read.every(({ views, seconds }) => views === 1 && seconds === 1)).toBe(true);
    await engine.close();
    cable.remove();
  });

  test("redis: a key of a wrong type costs its own entries, which are counted and logged once", async () => {
    const redis = await server();
    const lines: unknown[][] = [];
    const engine = await open(redis.url, (...line) => void lines.push(line));
    const [bad, good] = ["bad.example", "good.example"];
    const day = 700;
    const minute = day * DAY_MINUTES;
    await redis.client.lpush(`headcount:{${bad}}:history:${day}`, "not a string");
    const readings = [reading(bad), reading(good)];
    for (let time = 1; time <= 3; time += 1) {
      const peaks = [minute - 1, minute, minute + DAY_MINUTES].map((at) => ({ site: bad, minute: at, peak: time }));
      await engine.record({ readings, peaks });
      expect(engine.lostEntries).toBe(time);
    }
    for (const site of [bad, good]) expect(await engine.reading(site, "/")).toMatchObject({ views: 3, seconds: 3 });
    expect(await engine.highest(bad)).toEqual({ minute: minute - 1, peak: 3 });
    expect(lines).toEqual([["error", expect.stringContaining("lost"), expect.objectContaining({ site: bad })]]);
    await engine.close();
  });

  test("redis: a damaged histogram counts as empty, and a damaged list of unlisted sites costs no listed site", async () => {
    const redis = await server();
    const engine = await RedisEngine.open(redis.url, { tokenTtlMs: 30_000, log: quiet, prefix: "damaged:" });
    const [listed, unlisted] = ["listed.example", "unlisted.example"];
    await redis.client.hset(`damaged:{${listed}}:readings`, "/", "{damaged");
    await redis.client.set("damaged:unlisted", "not a sorted set");
    const readings = [reading(listed), reading(unlisted)];
    await engine.record({ readings, peaks: [], unlistedSites: new Set([unlisted]) });
    expect(await engine.reading(listed, "/")).toMatchObject({ views: 1, seconds: 1 });
    expect(await engine.reading(unlisted, "/")).toMatchObject({ views: 0 });
    expect(engine.lostEntries).toBe(1);
    await engine.close();
  });

  test("redis: statistics of an unlisted site expire, until SITES lists it", async () => {
    const redis = await server();
    const engine = await open(redis.url);
    const site = "expires.example";
    const ttl = () => redis.client.ttl(`headcount:{${site}}:readings`);
    await engine.record({ readings: [reading(site)], peaks: [], unlistedSites: new Set([site]) });
    expect(await ttl()).toBeGreaterThan(HISTORY_DAYS * 86_400 - 60);
    await engine.record({ readings: [reading(site)], peaks: [] });
    expect(await ttl()).toBe(-1);
    await engine.close();
  });

  test("redis: a part that Redis refuses is tried ten times, given up and counted, and holds up no other site", async () => {
    const redis = await server();
    const lines: unknown[][] = [];
    const prefix = "refused:";
    const log = (...line: unknown[]) => void lines.push(line);
    const engine = await RedisEngine.open(redis.url, { tokenTtlMs: 30_000, log, prefix });
    const [bad, good] = ["bad.example", "good.example"];
    await engine.record({ readings: [reading(bad)], peaks: [] });
    const [mark] = await redis.client.keys(`${prefix}{${bad}}:wrote:*`);
    await redis.client.del(mark!);
    await redis.client.hset(mark!, "not", "a string"); // from now on Redis refuses all parts of this site
    const records = 30;
    for (let time = 0; time < records; time += 1)
      await engine.record({ readings: [reading(bad), reading(good)], peaks: [] });
    expect(await engine.reading(good, "/")).toMatchObject({ views: records });
    expect(engine.lostEntries).toBe(records - 5); // five parts have tries left
    expect(lines).toEqual([["error", expect.stringContaining("lost"), expect.objectContaining({ site: bad })]]);
    await redis.client.del(mark!);
    await engine.record({ readings: [], peaks: [] });
    expect(await engine.reading(bad, "/")).toMatchObject({ views: 1 + 5 });
    await engine.close();
  });

  test("redis: entries are refused, and not lost, while Redis is out of memory", async () => {
    const redis = await RedisServer.start();
    const engine = await open(redis.url);
    const record = () => engine.record({ readings: [reading("full.example")], peaks: [] });
    await record();
    await redis.client.config("SET", "maxmemory", "1");
    await record(); // accepted: the engine sends it again by itself
    for (let time = 0; time < 20; time += 1) expect(await textOf(record())).toContain("OOM");
    await redis.client.config("SET", "maxmemory", "0");
    await record();
    expect(await engine.reading("full.example", "/")).toMatchObject({ views: 3 });
    expect(engine.lostEntries).toBe(0);
    await engine.close();
    await redis.stop();
  });

  for (const runtime of runtimes)
    test(`redis: 35,000 pages in one record, and 150,000 rooms of a site, need no unbounded call on ${runtime}`, async () => {
      const redis = await RedisServer.start();
      const command = [...commands[runtime], "test/engine/many.ts", redis.url];
      const child = adopt(Bun.spawn(command, { cwd: ROOT, stdout: "pipe", stderr: "inherit" }));
      const report = JSON.parse(await new Response(child.stdout).text()) as ManyReport;
      expect(await child.exited).toBe(0);
      expect(report).toEqual({ failures: 0, lostEntries: 0, views: 35_000, roomsWithCount: 150_001 });
      await redis.stop();
    }, 60_000);
});
