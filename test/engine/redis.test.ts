/** What the Redis engine promises beside the contract of both engines: agreement of nodes, and memory of what Redis loses. */
import { afterAll, describe, expect, test } from "bun:test";
import { MINUTE_MS } from "../../engine/engine.ts";
import { RedisEngine } from "../../engine/redis.ts";
import { Rooms } from "../../server.ts";
import { suite } from "../support/needs.ts";
import { endRedis, RedisServer } from "../support/redis.ts";
import { quiet } from "../support/unit.ts";
import { once, sleep, until } from "../support/waiting.ts";
import { contract } from "./contract.ts";
import { open as openPage } from "./model.ts";
import { totalsContract } from "./totals-contract.ts";
import { transferContract } from "./transfer-contract.ts";

const MINUTE = Math.floor(Date.now() / MINUTE_MS);
/** Commands may take 9 % of a lease: long enough for a busy machine. */
const LEASE_MS = 2_000;
const options = { tokenTtlMs: 30_000, log: quiet };

afterAll(endRedis);

suite("redis engine", ["redis-server"], () => {
  const server = once(() => RedisServer.start());
  const open = async () => RedisEngine.open((await server()).url, options);

  let empty = 0;
  const openEmpty = async () => {
    empty += 1;
    return RedisEngine.open((await server()).url, { ...options, prefix: `empty-${empty}:` });
  };

  describe("contract", () => contract("redis", open, openEmpty));
  describe("totals contract", () => totalsContract("redis", open));
  describe("transfer contract", () => transferContract("redis", open, openEmpty));

  test("redis: two engines agree on secrets, tokens, peaks and the time", async () => {
    const [one, two] = await Promise.all([open(), open()]);
    const secrets = await Promise.all([one.secret("signing", ""), two.secret("signing", "")]);
    expect(new Set(secrets).size).toBe(1);
    const token = { site: "shared.example", expires: Date.now() + 30_000, nonce: 99 };
    const spent = await Promise.all([one.spend(token, Date.now()), two.spend(token, Date.now())]);
    expect(spent.filter(Boolean)).toHaveLength(1);
    const site = "shared.example";
    await one.record({ readings: [], peaks: [{ site, minute: MINUTE, peak: 7 }], views: [] });
    await two.record({ readings: [], peaks: [{ site, minute: MINUTE, peak: 5 }], views: [] });
    expect(await two.history(site, MINUTE, 1)).toEqual([{ minute: MINUTE, peak: 7 }]);
    expect(Math.abs(one.wallClock() - two.wallClock())).toBeLessThan(200);
    await Promise.all([one.close(), two.close()]);
  });

  test("redis: a secret that Redis lost is put back by the nodes that have it", async () => {
    const redis = await server();
    const engine = await RedisEngine.open(redis.url, { ...options, leaseMs: LEASE_MS, prefix: "lost:" });
    const secret = await engine.secret("signing", "");
    await redis.client.del("lost:secret:signing");
    await until("it is back", async () => (await redis.client.get("lost:secret:signing")) === secret);
    await engine.close();
  });

  test("redis: the key of a day is thrown away two hours after the day, and a salt at once", async () => {
    const engine = await RedisEngine.open((await server()).url, { ...options, prefix: "past:" });
    for (const day of ["20345", "20346"]) await engine.secret("day", day);
    for (const day of ["2026-01-01", "2026-01-02"]) await engine.secret("salt", day);
    const { client } = await server();
    const lives = ["day:20345", "day:20346", "salt:2026-01-01", "salt:2026-01-02"].map((key) =>
      client.ttl(`past:secret:${key}`),
    );
    const [pastDay, day, pastSalt, salt] = await Promise.all(lives);
    expect(pastDay).toBeGreaterThan(0);
    expect(pastDay).toBeLessThanOrEqual(7_200);
    expect(pastSalt).toBe(-2); // there is no such key
    for (const life of [day, salt]) expect(life).toBeGreaterThan(86_400);
    await engine.close();
  });

  test("redis: a node that counts late gets the key of the day before, also when Redis has lost it", async () => {
    const { url, client } = await server();
    const engine = await RedisEngine.open(url, { ...options, leaseMs: LEASE_MS, prefix: "late:" });
    const key = await engine.secret("day", "20345");
    await client.del("late:secret:day:20345");
    await engine.secret("day", "20346");
    const late = await RedisEngine.open(url, { ...options, prefix: "late:" });
    expect(await late.secret("day", "20345")).toBe(key);
    await client.del("late:secret:day:20345");
    await until("it is back", async () => (await client.get("late:secret:day:20345")) === key);
    await Promise.all([engine.close(), late.close()]);
  });

  test("redis: a node that was cut off over midnight has the key of the others, also when Redis has lost it", async () => {
    const redis = await RedisServer.start();
    const [one, late] = await Promise.all([0, 1].map(() => RedisEngine.open(redis.url, options)));
    const yesterday = await Promise.all([one!, late!].map((engine) => engine.secret("day", "20345")));
    const today = await one!.secret("day", "20346");
    await redis.client.flushall();
    expect(await late!.secret("day", "20346")).toBe(today);
    expect(new Set([...yesterday, today]).size).toBe(2);
    await Promise.all([one!.close(), late!.close()]);
    await redis.stop();
  });

  test("redis: while Redis is away, all nodes make the same next salt from the last one", async () => {
    const redis = await RedisServer.start();
    const engines = await Promise.all([0, 1].map(() => RedisEngine.open(redis.url, options)));
    const salts = (name: string) => Promise.all(engines.map((engine) => engine.secret("salt", name)));
    const [monday] = await salts("monday");
    await redis.kill();
    const tuesday = await salts("tuesday");
    expect(tuesday[0]).toBe(tuesday[1]);
    expect(tuesday[0]).not.toBe(monday);
    expect(
      await engines[0]!.secret("signing", "").then(
        () => "",
        (error: unknown) => String(error),
      ),
    ).toContain("Cannot keep the signing secret in Redis");
    await Promise.all(engines.map((engine) => engine.close()));
    await redis.stop();
  });

  test("redis: a node warns at its start when Redis may evict keys, and only then", async () => {
    const redis = await server();
    const lines: string[] = [];
    const log = (_level: string, event: string) => void lines.push(event);
    const start = async () => (await RedisEngine.open(redis.url, { ...options, log })).close();
    await start();
    expect(lines).toEqual([]);
    await redis.client.config("SET", "maxmemory-policy", "allkeys-lru");
    await start();
    expect(lines).toEqual([expect.stringContaining("noeviction")]);
  });
});

suite("redis totals of rooms elsewhere", ["redis-server"], () => {
  test("redis: a total that is asked for is the last known one while Redis is away or has forgotten", async () => {
    const redis = await RedisServer.start();
    const [has, asks] = await Promise.all(
      [0, 1].map(() => RedisEngine.open(redis.url, { ...options, leaseMs: LEASE_MS })),
    );
    const count = (site: string) => asks!.cluster.count(site);
    has!.cluster.listen({ count: quiet, stale: quiet });
    openPage({ engine: has!, rooms: new Rooms(0, has!.cluster), connections: [] }, "ann", "a.example", "/");
    await until("ann is counted", async () => (await count("a.example")) === 1);
    expect(await count("b.example")).toBe(0);
    const counts: number[] = [];
    const watch = async (end: number) => {
      for (; performance.now() < end; await sleep(5)) counts.push(await count("a.example"));
    };
    await redis.client.flushall();
    await watch(performance.now() + LEASE_MS);
    await redis.kill();
    await watch(performance.now() + LEASE_MS);
    expect(await count("never.example").then(String, () => "refused")).toBe("refused");
    await redis.begin();
    await watch(performance.now() + LEASE_MS);
    expect([...new Set(counts)]).toEqual([1]);
    await has!.close();
    await until("nobody is left", async () => (await count("a.example")) === 0, 4 * LEASE_MS);
    await asks!.close();
    await redis.stop();
  }, 30_000);
});

suite("redis cluster of this node", ["redis-server"], () => {
  /** A node with a listener that remembers the last total of the site. */
  async function startNode(redis: RedisServer, leaseMs: number) {
    const engine = await RedisEngine.open(redis.url, { ...options, leaseMs });
    const rooms = new Rooms(0, engine.cluster);
    const node = { engine, rooms, connections: [], count: 0 };
    engine.cluster.listen({
      count: (room, count) => {
        if (room.page === undefined) node.count = count;
      },
      stale: quiet,
    });
    return node;
  }

  test("redis: what was published while the subscription was broken is asked for at once", async () => {
    const redis = await RedisServer.start();
    const [one, two] = await Promise.all([startNode(redis, 20_000), startNode(redis, 20_000)]); // a beat is 6 s
    openPage(one, "ann", "a.example", "/");
    openPage(two, "ben", "a.example", "/");
    await until("both are counted", () => one.count === 2 && two.count === 2);
    await redis.client.call("CLIENT", "KILL", "TYPE", "pubsub");
    openPage(two, "cid", "a.example", "/");
    await until("the other node knows", () => one.count === 3, 3_000);
    await Promise.all([one.engine.close(), two.engine.close()]);
    await redis.stop();
  });

  test("redis: a node that stops keeps its visitors counted for one and a half leases after its end", async () => {
    const redis = await RedisServer.start();
    const leaseMs = 20_000;
    const node = await startNode(redis, leaseMs);
    openPage(node, "ann", "a.example", "/");
    await until("ann is counted", () => node.count === 1);
    const leaseEnd = async () =>
      Number((await redis.client.zrange("headcount:{a.example}:nodes", "0", "0", "WITHSCORES"))[1]);
    await node.engine.hold(node.rooms.members());
    const held = await leaseEnd();
    expect(held - Date.now()).toBeGreaterThan(leaseMs * 1.4);
    await sleep(100);
    await node.engine.close();
    expect(await leaseEnd()).toBeGreaterThanOrEqual(held + 100);
    expect(await redis.client.hget("headcount:{a.example}:totals", "")).toBe("1");
    await redis.stop();
  });
});
