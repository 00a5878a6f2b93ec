/** Messages and claims of the scripts on a real Redis: what goes together, what waits, and what a fault leaves behind. */
import { afterAll, expect, test } from "bun:test";
import { suite } from "../support/needs.ts";
import { endRedis, RedisServer } from "../support/redis.ts";
import { once, until } from "../support/waiting.ts";
import { answerOf, ScriptCalls } from "./script-calls.ts";

const FAR = 1e15; // in the future of any clock

afterAll(endRedis);

suite("redis script messages", ["redis-server"], () => {
  const server = once(() => RedisServer.start());

  /** A site of its own with a first visitor, and its messages from then on. */
  async function setUp() {
    const calls = new ScriptCalls((await server()).client);
    await calls.sync("one", 1, ["+first"]);
    const messages = await calls.listen();
    /** The next message that was not looked at. */
    const nextMessage = () => until("a message", () => messages.shift());
    const { client, site, key, sync, reap, version } = calls;
    return { calls, client, site, key, sync, reap, version, messages, nextMessage };
  }

  test("messages: a change of a quiet site is told at once, with its version and that of the message before", async () => {
    const { sync, site, client, key, version, nextMessage } = await setUp();
    const before = await version();
    await sync("one", 2, ["+ann", "+ben"]);
    const epoch = await client.hget(key("meta"), "epoch");
    expect(await nextMessage()).toEqual([site, epoch, before + 1, before, "", 3]);
  });

  test("messages: changes of a busy site wait, and the next sync of any node tells all of them in one message", async () => {
    const { calls, sync, version, messages, nextMessage } = await setUp();
    const { sent } = await calls.syncUntilWaiting("one", 2, (index) => `+visitor${index} /${index}`);
    await calls.client.hset(calls.key("meta"), "next message", 0); // nothing holds the message back
    messages.splice(0);
    const before = Number(await calls.client.hget(calls.key("meta"), "published"));
    expect(await version()).toBeGreaterThan(before);
    expect(answerOf(await sync("two", 1, ["+ben"]))).toMatchObject({ waitMs: 0 });
    const [, , told, previous, ...totals] = await nextMessage();
    expect([told, previous]).toEqual([await version(), before]);
    expect(totals).toContain(`/${sent - 1}`);
    expect(totals).toContain("");
    expect(await calls.client.exists(calls.key("dirty"))).toBe(0);
    expect(messages).toEqual([]);
  });

  test("messages: a sync tells for how long changes must wait, and which version was told last", async () => {
    const { calls } = await setUp();
    const { version, published, waitMs } = await calls.syncUntilWaiting("one", 2, (index) => `+visitor${index}`);
    expect(published).toBeLessThan(version);
    expect(waitMs).toBeLessThan(100);
  });

  test("messages: a thousand pages do not wait, and no message has more", async () => {
    const { calls, sync, nextMessage } = await setUp();
    const pages = (from: number) => Array.from({ length: 999 }, (_, index) => `+ann /${from + index}`);
    let attempts = 0;
    await until("999 pages must wait", async () => {
      attempts += 1;
      await calls.beBusy();
      return answerOf(await sync(`node${attempts}`, 1, pages(1_000 * attempts))).waitMs > 0;
    });
    await calls.beBusy();
    expect(answerOf(await sync("one", 2, pages(0)))).toMatchObject({ waitMs: 0 });
    let first = await nextMessage();
    while (first.length < 4 + 2 * 1_000) first = await nextMessage(); // an attempt that did not wait
    expect(first.length).toBe(4 + 2 * 1_000);
    const second = await nextMessage();
    expect(second.length).toBe(4 + 2 * 998);
    expect(second[3]).toBe(first[2]); // a node that misses the first one notices
    expect(Number(second[2])).toBeGreaterThan(Number(first[2]));
  });

  test("messages: when the clock of Redis was put back, messages do not wait for the former time", async () => {
    const { calls, sync, nextMessage } = await setUp();
    await calls.client.hset(calls.key("meta"), "next message", FAR);
    expect(answerOf(await sync("one", 2, ["+ann"]))).toMatchObject({ waitMs: 0 });
    expect((await nextMessage()).slice(4)).toEqual(["", 2]);
    expect(Number(await calls.client.hget(calls.key("meta"), "next message"))).toBeLessThan(FAR);
  });

  test("messages: when Redis evicted what waits, the next message leaves a gap, and all nodes ask for all totals", async () => {
    for (const changes of [[], ["+dan"]]) {
      const { calls, sync, version, messages, nextMessage } = await setUp();
      await calls.syncUntilWaiting("one", 2, (index) => `+visitor${index}`);
      await calls.client.del(calls.key("dirty"));
      const known = await version();
      messages.splice(0);
      await calls.client.hset(calls.key("meta"), "next message", 0);
      await sync("two", 1, changes);
      const [, , , previous] = await nextMessage();
      expect(Number(previous)).toBeGreaterThanOrEqual(known);
    }
  });

  test("messages: reaping tells what changes", async () => {
    const { client, key, sync, reap, nextMessage } = await setUp();
    await sync("dies", 1, ["+ann /"]);
    expect((await nextMessage()).slice(4)).toEqual(["/", 1]);
    await client.zadd(key("nodes"), "XX", "1", "dies");
    await client.hset(key("meta"), "next message", 0);
    expect(await reap("dies")).toEqual([0, 0]);
    expect((await nextMessage()).slice(4)).toEqual(["/", 0]);
  });

  test("messages: a dirty of a wrong type fails before anything was written, and is made anew", async () => {
    const { client, key, sync, calls, messages, nextMessage } = await setUp();
    const { sent, version } = await calls.syncUntilWaiting("one", 2, (index) => `+visitor${index}`);
    expect(await calls.repair("one")).toBe(0);
    await client.set(key("dirty"), "not this");
    expect(await sync("one", 2 + sent, ["+ann"]).catch(String)).toContain("WRONGTYPE");
    expect(await client.hget(key("meta"), "one")).toBe(String(1 + sent));
    expect(await calls.repair("one")).toBe(1);
    messages.splice(0);
    await client.hset(key("meta"), "next message", 0);
    await sync("one", 2 + sent, ["+ann"]);
    const [, , , previous, ...totals] = await nextMessage();
    expect(totals).toEqual(["", 2 + sent]);
    expect(Number(previous)).toBeGreaterThanOrEqual(version); // what was in there is lost
  });

  test("claims: the same batch sent again claims the same nonces, and another node gets none of them", async () => {
    const { sync } = await setUp();
    const claimed = async (node: string, batch: number, nonces: string[]) =>
      answerOf(await sync(node, batch, [], [], nonces)).claimed;
    expect(await claimed("one", 2, ["a", "b"])).toEqual([1, 1]);
    expect(await claimed("one", 2, ["a", "b"])).toEqual([1, 1]);
    expect(await claimed("two", 1, ["b", "c"])).toEqual([0, 1]);
    expect(await claimed("two", 1, ["b", "c"])).toEqual([0, 1]);
  });

  test("claims: a node that must begin anew claims all the same, and a claim expires", async () => {
    const { client, key, sync } = await setUp();
    expect(await sync("unknown", 7, [], [], ["a"])).toEqual([[1]]);
    expect(answerOf(await sync("one", 2, [], [], ["a"])).claimed).toEqual([0]);
    expect(await client.pttl(key("spent:a"))).toBeGreaterThan(50_000);
    await client.lpush(key("spent:b"), "not a claim");
    expect(answerOf(await sync("one", 3, [], [], ["b", "c"])).claimed).toEqual([0, 1]);
  });
});
