/** The scripts on a real Redis, called as a node calls them. */
import { afterAll, expect, test } from "bun:test";
import { suite } from "../support/needs.ts";
import { endRedis, RedisServer } from "../support/redis.ts";
import { once } from "../support/waiting.ts";
import { LEASE_MS, ScriptCalls } from "./script-calls.ts";

afterAll(endRedis);

suite("redis scripts", ["redis-server"], () => {
  const server = once(() => RedisServer.start());

  /** A site of its own, and the calls of its nodes. */
  const setUp = async () => new ScriptCalls((await server()).client);

  test("scripts: a visitor on two nodes counts once, and leaves with the second one", async () => {
    const { client, key, sync, total } = await setUp();
    await sync("one", 1, ["+ann", "+ann /"]);
    await sync("two", 1, ["+ann", "+ben"]);
    expect([await total(), await total("/")]).toEqual([2, 1]);
    await sync("one", 2, ["-ann", "-ann /"]);
    expect([await total(), await total("/")]).toEqual([2, 0]);
    await sync("two", 2, ["-ann"]);
    expect(await total()).toBe(1);
    expect((await client.hkeys(key("refs"))).toSorted()).toEqual(["\n", "ben"]);
  });

  test("scripts: the same batch sent again changes nothing, and still answers", async () => {
    const { sync, total, version } = await setUp();
    await sync("one", 1, ["+ann"]);
    await sync("two", 1, ["+ann", "+ben"]);
    const before = await version();
    expect(await sync("two", 1, ["+ann", "+ben"], [""])).toMatchObject({ 7: ["", 2] });
    expect([await total(), await version()]).toEqual([2, before]);
  });

  test("scripts: a batch that is not the next one must begin anew, and leaves a gap between versions", async () => {
    const { sync, total, version } = await setUp();
    await sync("one", 1, ["+ann"]);
    const before = await version();
    expect(await sync("one", 3, ["+ben"])).toEqual([[]]);
    expect(await sync("unknown", 2, ["+ben"])).toEqual([[]]);
    expect(await version()).toBeGreaterThan(before + 1_000_000);
    expect(await total()).toBe(1);
  });

  test("scripts: a node whose lease has expired is reaped in batches, and must begin anew from the first one on", async () => {
    const { client, key, sync, reap, total } = await setUp();
    await sync("lives", 1, ["+ann"]);
    await sync("dies", 1, ["+ann", "+ben", "+cid"]);
    expect(await reap("dies")).toEqual([0, 0]); // its lease has not expired
    expect(await total()).toBe(3);
    await client.zadd(key("nodes"), "XX", "1", "dies");
    expect(await sync("lives", 2, [])).toMatchObject({ 6: ["dies"] });
    expect(await reap("dies", 1)).toMatchObject({ 0: 2 });
    expect(await sync("dies", 2, [])).toEqual([[]]);
    expect(await reap("dies")).toMatchObject({ 0: 0 });
    expect(await total()).toBe(1);
    expect(await client.exists(key("n:dies"))).toBe(0);
  });

  test("scripts: a node reaps its own former name at once", async () => {
    const { sync, reap, total } = await setUp();
    await sync("former", 1, ["+ann"]);
    await sync("new", 1, ["+ben"]);
    expect(await reap("former", 1_000, 1)).toMatchObject({ 0: 0 });
    expect(await total()).toBe(1);
  });

  test("scripts: when a key was evicted, all keys of the site go, and every node begins anew", async () => {
    for (const name of ["nodes", "refs", "totals", "n:one"]) {
      const { client, key, sync } = await setUp();
      await sync("one", 1, ["+ann"]);
      await sync("two", 1, ["+ben"]);
      await client.del(key(name));
      expect(await sync("one", 2, [])).toEqual([[]]);
      expect(await client.exists(...["nodes", "meta", "refs", "totals", "dirty"].map(key))).toBe(0);
      expect(await sync("two", 2, [])).toEqual([[]]);
    }
  });

  test("scripts: members that the node has, or has not, as Redis knows, make all nodes begin anew", async () => {
    for (const changes of [["+ann"], ["-ben"], ["+cid", "-ben"]]) {
      const { client, key, sync } = await setUp();
      await sync("one", 1, ["+ann"]);
      expect(await sync("one", 2, changes)).toEqual([[]]);
      expect(await client.exists(key("meta"))).toBe(0);
    }
  });

  test("scripts: the keys that a node makes anew have an expiry, even if the node must begin anew and dies", async () => {
    const { client, key, sync } = await setUp();
    expect(await sync("one", 7, [])).toEqual([[]]);
    for (const name of ["nodes", "meta", "refs", "totals"])
      expect(await client.pttl(key(name))).toBeGreaterThan(LEASE_MS);
  });

  test("scripts: all keys of a site have an expiry, which every node extends", async () => {
    const calls = await setUp();
    const { client, key, sync } = calls;
    await sync("one", 1, ["+ann", "+ann /"]);
    await calls.syncUntilWaiting("two", 1, (index) => `+visitor${index}`);
    for (const name of ["nodes", "meta", "refs", "totals", "dirty", "n:one", "n:two"])
      expect(await client.pttl(key(name))).toBeGreaterThan(LEASE_MS);
    await client.pexpire(key("refs"), 5_000);
    await client.hset(key("meta"), "extended", Date.now() - 60_000);
    await sync("one", 2, []);
    expect(await client.pttl(key("refs"))).toBeGreaterThan(LEASE_MS);
  });
});
