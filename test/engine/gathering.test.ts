/** Nodes on a real Redis that gathers their changes and claims: what others see and when, and that a token works once. */
import { afterAll, expect, test } from "bun:test";
import { claimKeyOf } from "../../engine/options.ts";
import { RedisEngine } from "../../engine/redis.ts";
import { Rooms } from "../../server.ts";
import { suite } from "../support/needs.ts";
import { Cable, endRedis, RedisServer } from "../support/redis.ts";
import { quiet } from "../support/unit.ts";
import { sleep, until } from "../support/waiting.ts";
import { open as openPage } from "./model.ts";
import { ScriptCalls } from "./script-calls.ts";

const SITE = "a.example";
const LEASE_MS = 20_000; // a beat is 6 s
const NONCES = 40;

afterAll(endRedis);

suite("redis nodes that gather", ["redis-server"], () => {
  /** A node with a listener that remembers the last total of the site. */
  async function startNode(url: string, leaseMs = LEASE_MS) {
    const engine = await RedisEngine.open(url, { tokenTtlMs: 30_000, log: quiet, leaseMs });
    const rooms = new Rooms(0, engine.cluster);
    const node = {
      engine,
      rooms,
      connections: [],
      count: 0,
      enter: (visitor: string) => openPage(node, visitor, SITE, "/"),
      spend: (nonce: number) =>
        engine.spend({ site: SITE, nonce, expires: engine.wallClock() + 30_000 }, engine.wallClock()),
    };
    engine.cluster.listen({
      count: (room, count) => {
        rooms.setCount(room, count);
        if (room.page === undefined) node.count = count;
      },
      stale: quiet,
    });
    return node;
  }
  type Node = Awaited<ReturnType<typeof startNode>>;

  const closeAll = (nodes: Node[]) => Promise.all(nodes.map(({ engine }) => engine.close()));

  /** Two nodes with a visitor each, who see both. */
  async function startTwo(redis: RedisServer) {
    const nodes = [await startNode(redis.url), await startNode(redis.url)] as const;
    for (const [index, node] of nodes.entries()) node.enter(`visitor${index}`);
    await until("both are counted", () => nodes.every(({ count }) => count === 2));
    return nodes;
  }

  test("redis: while many come, others are told of all of them in few messages and commands, the last one soon", async () => {
    const redis = await RedisServer.start();
    const [one, two] = await startTwo(redis);
    const messages = await new ScriptCalls(redis.client, SITE).listen();
    const commands = async () =>
      Number(/cmdstat_evalsha:calls=(\d+)/.exec(await redis.client.info("commandstats"))?.[1] ?? 0);
    const before = await commands();
    for (let index = 0; index < 200; index += 1) {
      one.enter(`newcomer${index}`);
      await sleep(2);
    }
    await until("the other node shows all", () => two.count === 202, 3_000); // long before a beat
    expect(messages.length).toBeLessThan(50);
    expect((await commands()) - before).toBeLessThan(50);
    await closeAll([one, two]);
    await redis.stop();
  });

  test("redis: the last change of a busy site is told, though nothing happens afterwards", async () => {
    const redis = await RedisServer.start();
    const [one, two] = await startTwo(redis);
    const calls = new ScriptCalls(redis.client, SITE);
    for (let index = 0; index < 5; index += 1) {
      await calls.beBusy();
      one.enter(`newcomer${index}`);
      await until("the other node shows it", () => two.count === 3 + index, 3_000);
    }
    await closeAll([one, two]);
    await redis.stop();
  });

  test("redis: what a node left unpublished when it died, the next sync of another one publishes", async () => {
    const redis = await RedisServer.start();
    const node = await startNode(redis.url, 2_000); // a beat is 600 ms
    node.enter("ann");
    await until("ann is counted", () => node.count === 1);
    const calls = new ScriptCalls(redis.client, SITE);
    const { sent } = await calls.syncUntilWaiting("dies", 1, (index) => `+visitor${index}`); // for 10 s, if it lived
    await until("the other node shows it", () => node.count === 1 + sent, 4_000);
    await node.engine.close();
    await redis.stop();
  });

  test("redis: a page that a node left unpublished is told, even if Redis evicted the list of such pages", async () => {
    const redis = await RedisServer.start();
    const node = await startNode(redis.url, 2_000);
    node.enter("ann");
    await until("ann is counted", () => node.count === 1);
    const calls = new ScriptCalls(redis.client, SITE);
    const { sent } = await calls.syncUntilWaiting("other", 1, (index) => `+visitor${index}`);
    await redis.client.del(calls.key("dirty"));
    await until("the node shows it", () => node.count === 1 + sent, 4_000);
    await node.engine.close();
    await redis.stop();
  });

  test("redis: of two nodes that claim a token in the same instant one gets it, with rooms of the site or without", async () => {
    const redis = await RedisServer.start();
    const nodes = [...(await startTwo(redis)), await startNode(redis.url)];
    for (let nonce = 1; nonce <= NONCES; nonce += 1) {
      const claims = await Promise.all([...nodes, ...nodes].map((node) => node.spend(nonce)));
      expect(claims.filter(Boolean)).toHaveLength(1);
    }
    const many = Array.from({ length: 300 }, (_, index) => 1_000 + index);
    const claims = await Promise.all(nodes.flatMap((node) => many.map((nonce) => node.spend(nonce))));
    expect(claims.filter(Boolean)).toHaveLength(many.length);
    await closeAll(nodes);
    await redis.stop();
  });

  test("redis: while keys of the site have a wrong type, a token works once all the same", async () => {
    const redis = await RedisServer.start();
    const nodes = await startTwo(redis);
    for (const [nonce, name] of ["totals", "dirty", "meta", "refs"].entries()) {
      await redis.client.set(new ScriptCalls(redis.client, SITE).key(name), "not this");
      const claims = await Promise.all(nodes.map((node) => node.spend(nonce)));
      expect(claims.filter(Boolean)).toHaveLength(1);
    }
    await closeAll([...nodes]);
    await redis.stop();
  });

  test("redis: a node that gets no answer lets a token in, and claims it for all nodes once Redis answers", async () => {
    const redis = await RedisServer.start();
    const cable = await Cable.lay(redis.port);
    const [cutOff, other] = [await startNode(cable.url, 4_000), await startNode(redis.url)];
    cutOff.enter("ann");
    await until("ann is counted", () => cutOff.count === 1);
    cable.cut();
    expect(await cutOff.spend(7)).toBe(true);
    expect(await cutOff.spend(7)).toBe(false);
    expect(await cutOff.spend(8)).toBe(true); // Redis is away, so nothing is sent
    cable.mend();
    const key = claimKeyOf("headcount:", SITE, 7);
    await until("the token is claimed", async () => (await redis.client.exists(key)) === 1);
    expect(await other.spend(7)).toBe(false);
    expect(await other.spend(8)).toBe(true); // single use per node, as long as Redis is away
    await closeAll([cutOff, other]);
    cable.remove();
    await redis.stop();
  });
});
