/**
 * Both engines against one naive model: random histories of people and faults, and after each of them, once it is quiet,
 * every node and Redis itself show what the model shows. Leases are short here, so that minutes take no time.
 *
 *     HISTORIES=2000 SEED=1 bun test test/engine.test.ts
 */
import { afterAll, describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { RedisEngine } from "../redis.ts";
import { type Claims, EmbeddedEngine, type Engine, type OpenPage, Rooms } from "../server.ts";
import { suite } from "./support/needs.ts";
import { Cable, endRedis, RedisServer } from "./support/redis.ts";
import { temporaryFolder } from "./support/leftovers.ts";
import { once, sleep, until } from "./support/waiting.ts";

const HISTORIES = Number(process.env["HISTORIES"] ?? 24);
const SEED = Number(process.env["SEED"] ?? 1); // the same histories every time, unless others are asked for
const WORKERS = 4; // histories at a time, each with a Redis of its own
const LEASE_MS = 400;
const NODES = 3;
const SITES = ["a.example", "b.example"];
const PAGES = ["/", "/two", "/drei ß"];
const VISITORS = ["ann", "ben", "cid", "dan", "eve"];
const QUIET_MS = 10_000;
const MINUTE = Math.floor(Date.now() / 60_000);

process.stderr.write(`engine: ${HISTORIES} histories, SEED=${SEED}\n`);
afterAll(endRedis);

const quiet = () => {};

// ------------------------------------------------------------------------------------------------------------ model

/** Who has which pages open on which node, and nothing else. */
class Model {
  readonly open: { node: number; visitor: string; site: string; page: string }[] = [];

  count(site: string, page?: string): number {
    const there = this.open.filter((one) => one.site === site && (page === undefined || one.page === page));
    return new Set(there.map(({ visitor }) => visitor)).size;
  }

  forget(node: number): void {
    for (const one of this.open.filter((other) => other.node === node)) this.open.splice(this.open.indexOf(one), 1);
  }

  /** On how many nodes each member of a site is, as Redis keeps it. */
  refs(site: string): Record<string, string> {
    const nodes = new Map<string, Set<number>>();
    for (const one of this.open.filter((other) => other.site === site))
      for (const member of [one.visitor, `${one.visitor} ${one.page}`])
        nodes.set(member, (nodes.get(member) ?? new Set()).add(one.node));
    return Object.fromEntries(Array.from(nodes, ([member, on]) => [member, String(on.size)]));
  }

  get numbers(): Record<string, number> {
    const all = SITES.flatMap((site) =>
      [undefined, ...PAGES].map((page) => [`${site} ${page ?? ""}`, this.count(site, page)] as const),
    );
    return Object.fromEntries(all.filter(([, count]) => count > 0));
  }
}

/** A node without sockets: its rooms and the pages that are open there. */
interface TestNode {
  rooms: Rooms;
  readonly pages: OpenPage[];
  engine: Engine;
}

let clock = 1_000;

/** Time for the rooms: without grace, who leaves is gone at the next tick. */
function tick(rooms: Rooms, ms = 51): void {
  clock += ms;
  rooms.tick(clock);
}

// ---------------------------------------------------------------------------------------------------------- history

type Step =
  | { do: "enter"; node: number; visitor: string; site: string; page: string }
  | { do: "leave" | "move"; which: number; page: string }
  | { do: "stop" | "kill" | "expire" | "cut" | "mend"; node: number }
  | { do: "evict"; key: string; site: string }
  | { do: "flush" | "forget scripts" | "restart" | "photograph" | "roll back" | "deafen" }
  | { do: "wait"; ms: number };

const node = fc.nat(NODES - 1);
const people: fc.WeightedArbitrary<Step>[] = [
  {
    weight: 12,
    arbitrary: fc.record({
      do: fc.constant("enter" as const),
      node,
      visitor: fc.constantFrom(...VISITORS),
      site: fc.constantFrom(...SITES),
      page: fc.constantFrom(...PAGES),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constantFrom("leave" as const, "leave" as const, "move" as const),
      which: fc.nat(99),
      page: fc.constantFrom(...PAGES),
    }),
  },
];
const faults: fc.WeightedArbitrary<Step>[] = [
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom("stop" as const, "kill" as const), node }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("expire" as const), node }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom("cut" as const, "mend" as const), node }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("evict" as const),
      key: fc.constantFrom("nodes", "meta", "refs", "totals"),
      site: fc.constantFrom(...SITES),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constantFrom("flush", "forget scripts", "restart", "photograph", "roll back", "deafen"),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constant("wait" as const), ms: fc.constantFrom(0, 1, 5, 30, 100, LEASE_MS * 1.5) }),
  },
];

/** What people do, on any kind of node. */
function act(step: Step, model: Model, nodes: TestNode[]): void {
  if (step.do === "enter") {
    const { node: index, visitor, site, page } = step;
    const { rooms, pages } = nodes[index]!;
    pages.push(rooms.open(visitor, site, page, "", clock));
    model.open.push({ node: index, visitor, site, page });
    tick(rooms);
  } else if (step.do === "leave" || step.do === "move") {
    if (model.open.length === 0) return;
    const one = model.open[step.which % model.open.length]!;
    const { rooms, pages } = nodes[one.node]!;
    const page = pages.find(
      (other) =>
        other.visitor === one.visitor && other.site.room.site === one.site && other.page.page === one.page && other,
    )!;
    if (step.do === "move" && step.page !== one.page) {
      rooms.move(page, step.page, clock);
      one.page = step.page;
    } else if (step.do === "leave") {
      rooms.close(page, clock);
      pages.splice(pages.indexOf(page), 1);
      model.open.splice(model.open.indexOf(one), 1);
    }
    tick(rooms);
  }
}

// ------------------------------------------------------------------------------------------------------------ Redis

/** Several nodes in this process, each with its own cable to one Redis. */
class Cluster {
  readonly model = new Model();
  readonly nodes: (TestNode & { cable: Cable; engine: RedisEngine; stale: boolean })[] = [];
  readonly #redis: RedisServer;
  #photograph: { key: string; value: Buffer; ttl: number }[] = [];
  /** Negative, not a number, or less than are here: what must never be told, not even in the middle of things. */
  readonly nonsense: string[] = [];

  constructor(redis: RedisServer) {
    this.#redis = redis;
  }

  static async start(redis: RedisServer): Promise<Cluster> {
    const cluster = new Cluster(redis);
    await redis.client.flushall();
    for (let index = 0; index < NODES; index += 1) await cluster.#begin(index);
    return cluster;
  }

  async do(step: Step): Promise<void> {
    if (step.do === "enter" || step.do === "leave" || step.do === "move") act(step, this.model, this.nodes);
    else if (step.do === "wait") await sleep(step.ms);
    else if (step.do === "stop" || step.do === "kill") await this.#end(step.node, step.do);
    else if (step.do === "cut") this.nodes[step.node]!.cable.cut();
    else if (step.do === "mend") this.nodes[step.node]!.cable.mend();
    else if (step.do === "expire") await this.#expire();
    else if (step.do === "evict") await this.#redis.client.del(`headcount:{${step.site}}:${step.key}`);
    else if (step.do === "restart") {
      await this.#redis.kill();
      await this.#redis.begin();
    } else await this.#command(step.do);
  }

  async #command(what: "flush" | "forget scripts" | "photograph" | "roll back" | "deafen"): Promise<void> {
    const { client } = this.#redis;
    if (what === "flush") await client.flushall();
    else if (what === "forget scripts") await client.script("FLUSH");
    else if (what === "deafen") await client.call("CLIENT", "KILL", "TYPE", "pubsub");
    else if (what === "photograph") this.#photograph = await this.#dump();
    else await this.#restore();
  }

  /** Every node's lease runs out, as if all had been frozen for long, and the survivors had not. */
  async #expire(): Promise<void> {
    const { client } = this.#redis;
    for (const site of SITES) {
      const key = `headcount:{${site}}:nodes`;
      const [one] = await client.zrange(key, "0", "0");
      if (one !== undefined) await client.zadd(key, "XX", "1", one);
    }
  }

  async #dump(): Promise<{ key: string; value: Buffer; ttl: number }[]> {
    const { client } = this.#redis;
    const keys = await client.keys("*");
    const all = keys.map(async (key) => ({ key, value: await client.dumpBuffer(key), ttl: await client.pttl(key) }));
    return (await Promise.all(all)).filter((one) => one.value !== null && one.ttl !== -2);
  }

  /** A replica takes over that had not received the last writes. */
  async #restore(): Promise<void> {
    const commands = this.#redis.client.multi().flushall();
    for (const { key, value, ttl } of this.#photograph) commands.restore(key, Math.max(0, ttl), value);
    await commands.exec();
  }

  async #begin(index: number): Promise<void> {
    const cable = await Cable.lay(this.#redis.port);
    const options = { tokenTtlMs: 30_000, log: quiet, leaseMs: LEASE_MS };
    const engine = await RedisEngine.open(cable.url, options);
    const rooms: Rooms = new Rooms(
      0,
      engine.share({
        total: (room, total) => {
          if (!(total >= room.members.size)) this.nonsense.push(`${room.site} ${room.page ?? ""} = ${total}`);
          rooms.setTotal(room, total, clock);
        },
        stale: (stale) => (self.stale = stale),
      }),
    );
    const self = { rooms, pages: [], engine, cable, stale: false };
    this.nodes[index] = self;
  }

  /** SIGTERM, or SIGKILL; then a new process in its place, as a supervisor would have it. */
  async #end(index: number, how: "stop" | "kill"): Promise<void> {
    const { engine, rooms, pages, cable } = this.nodes[index]!;
    if (how === "stop") await engine.hold(rooms.members());
    if (how === "stop") for (const page of pages) rooms.close(page, clock);
    tick(rooms);
    await engine.close();
    cable.remove();
    this.model.forget(index);
    await this.#begin(index);
  }

  /** What Redis and the nodes say, where it differs from the model; "" when all is well. */
  async difference(): Promise<string> {
    const expected = this.model.numbers;
    for (const [index, { rooms, stale }] of this.nodes.entries()) {
      tick(rooms);
      if (stale) return `node ${index} is stale`;
      for (const { room, pages } of rooms.sites())
        for (const { site, page, total } of [room, ...pages.values()]) {
          const count = this.model.count(site, page);
          if (total !== count) return `node ${index} says ${total} for ${site} ${page ?? ""}, and it is ${count}`;
        }
    }
    const found: Record<string, number> = {};
    for (const site of SITES) {
      const [totals, refs] = await Promise.all(
        ["totals", "refs"].map((key) => this.#redis.client.hgetall(`headcount:{${site}}:${key}`)),
      );
      for (const [page, total] of Object.entries(totals!)) if (page !== "\n") found[`${site} ${page}`] = Number(total);
      const { "\n": _epoch, ...members } = refs!;
      if (!Bun.deepEquals(members, this.model.refs(site)))
        return `Redis has ${JSON.stringify(members)}, not ${JSON.stringify(this.model.refs(site))} on ${site}`;
    }
    return Bun.deepEquals(found, expected)
      ? ""
      : `Redis says ${JSON.stringify(found)}, not ${JSON.stringify(expected)}`;
  }

  async end(): Promise<void> {
    for (const { engine, cable } of this.nodes) {
      await engine.close();
      cable.remove();
    }
  }
}

async function live(steps: Step[], redis: RedisServer): Promise<void> {
  const cluster = await Cluster.start(redis);
  try {
    for (const step of steps) await cluster.do(step);
    for (const { cable } of cluster.nodes) cable.mend();
    let difference = "";
    await until(
      "all is quiet",
      async () => ((difference = await cluster.difference()) === "" ? true : sleep(20).then(() => false)),
      QUIET_MS,
    ).catch(() => {
      throw new Error(difference);
    });
    expect(cluster.nonsense).toEqual([]);
  } finally {
    await cluster.end();
  }
}

suite("engine: Redis", ["redis-server"], () => {
  const history = fc.array(fc.oneof(...people, ...faults), { minLength: 5, maxLength: 60 });

  test(
    "engine: after any history, every node shows what a naive model shows",
    async () => {
      const runs = Array.from({ length: WORKERS }, async (_, worker) => {
        const redis = await RedisServer.start();
        const property = fc.asyncProperty(history, (steps) => live(steps, redis));
        const numRuns = Math.ceil(HISTORIES / WORKERS);
        await fc.assert(property, { seed: SEED + worker, numRuns, endOnFailure: numRuns < 100 });
        await redis.stop();
      });
      await Promise.all(runs);
    },
    60_000 + HISTORIES * 5_000,
  );
});

// --------------------------------------------------------------------------------------------------------- embedded

describe("engine: embedded", () => {
  test(
    "engine: after any history of one node, it shows what the same model shows",
    async () => {
      const onOneNode: fc.WeightedArbitrary<Step>[] = [
        ...people,
        {
          weight: 1,
          arbitrary: fc.record({ do: fc.constantFrom("stop" as const, "kill" as const), node: fc.constant(0) }),
        },
      ];
      const history = fc.array(fc.oneof(...onOneNode), { minLength: 5, maxLength: 60 });
      const property = fc.asyncProperty(history, async (steps) => {
        const folder = temporaryFolder();
        const model = new Model();
        const begin = async (): Promise<TestNode> => {
          const engine = new EmbeddedEngine(folder, 30_000);
          const rooms = new Rooms(0);
          for (const member of await engine.held()) rooms.hold(member, clock + 15_000, clock);
          return { engine, rooms, pages: [] };
        };
        let only = await begin();
        for (const step of steps) {
          if ("node" in step) step.node = 0;
          act(step, model, [only]);
          if (step.do !== "stop" && step.do !== "kill") continue;
          if (step.do === "stop") await only.engine.hold(only.rooms.members());
          await only.engine.close();
          model.forget(0);
          only = await begin();
        }
        tick(only.rooms, 20_000);
        tick(only.rooms);
        for (const site of SITES)
          for (const page of [undefined, ...PAGES])
            expect(only.rooms.count(site, page) ?? 0).toBe(model.count(site, page));
        await only.engine.close();
      });
      await fc.assert(property, { seed: SEED, numRuns: HISTORIES });
    },
    60_000 + HISTORIES * 100,
  );
});

// --------------------------------------------------------------------------------------------------------- contract

/** What the interface promises, whoever keeps it. */
function contract(name: string, open: () => Promise<Engine>): void {
  const claims = (nonce: number): Claims => ({ visitor: "ann", page: "/", expires: Date.now() + 30_000, nonce });

  test(`engine: ${name}: a secret is made once, and another name replaces a salt`, async () => {
    const engine = await open();
    const secret = await engine.secret("signing", "");
    expect(secret.length).toBeGreaterThan(40);
    expect(await engine.secret("signing", "")).toBe(secret);
    const monday = await engine.secret("salt", "monday");
    expect(await engine.secret("salt", "monday")).toBe(monday);
    expect(await engine.secret("salt", "tuesday")).not.toBe(monday);
    await engine.close();
  });

  test(`engine: ${name}: a token is spent once, however many try at the same time`, async () => {
    const engine = await open();
    await sleep(2);
    const spent = await Promise.all(Array.from({ length: 50 }, () => engine.spend(claims(1), Date.now())));
    expect(spent.filter(Boolean)).toHaveLength(1);
    expect(await engine.spend(claims(2), Date.now())).toBe(true);
    await engine.close();
  });

  test(`engine: ${name}: the journal adds up readings, and keeps the highest count of a minute`, async () => {
    const engine = await open();
    const site = "journal.example";
    const reading = { site, page: "/", bucket: 3, views: 1, seconds: 1.5 };
    const peaks = [4, 9, 2].map((peak) => ({ site, minute: MINUTE, peak }));
    await engine.record({ readings: [reading, { ...reading, page: "/two", bucket: 0 }], peaks });
    await engine.record({ readings: [{ ...reading, views: -1, seconds: -1.5 }], peaks: [] });
    await engine.record({ readings: [{ ...reading, bucket: 5, seconds: 3.25 }], peaks: [] });
    await engine.record({ readings: [], peaks: [{ site, minute: MINUTE - 1_441, peak: 12 }] });
    const sums = (await engine.readings(site)).toSorted((a, b) => a.page.localeCompare(b.page) || a.bucket - b.bucket);
    expect(sums).toEqual([
      { site, page: "/", bucket: 3, views: 0, seconds: 0 },
      { site, page: "/", bucket: 5, views: 1, seconds: 3.25 },
      { site, page: "/two", bucket: 0, views: 1, seconds: 1.5 },
    ]);
    expect(await engine.readings(site, "/two")).toEqual([{ site, page: "/two", bucket: 0, views: 1, seconds: 1.5 }]);
    expect(await engine.readings(site, "/none")).toEqual([]);
    expect(await engine.history(site, MINUTE - 1_500, 1)).toEqual([
      { minute: MINUTE - 1_441, peak: 12 },
      { minute: MINUTE, peak: 9 },
    ]);
    expect(await engine.history(site, MINUTE - 1_440, 1)).toEqual([{ minute: MINUTE, peak: 9 }]);
    expect(await engine.history(site, MINUTE - 10, 60)).toEqual([{ minute: MINUTE - (MINUTE % 60), peak: 9 }]);
    expect(await engine.highest(site)).toEqual({ minute: MINUTE - 1_441, peak: 12 });
    expect(await engine.highest("other.example")).toBeUndefined();
    await engine.close();
  });

  test(`engine: ${name}: beyond 10,000 pages of a site, readings are summed up as (other)`, async () => {
    const engine = await open();
    const site = "large.example";
    const readings = Array.from({ length: 10_005 }, (_, n) => ({
      site,
      page: `/${n}`,
      bucket: 1,
      views: 1,
      seconds: 2,
    }));
    await engine.record({ readings, peaks: [] });
    await engine.record({ readings: [{ ...readings[3]! }, { ...readings[10_004]! }], peaks: [] });
    const sums = await engine.readings(site);
    expect(new Set(sums.map(({ page }) => page)).size).toBe(10_001);
    expect(sums.find(({ page }) => page === "/3")?.views).toBe(2);
    expect(await engine.readings(site, "(other)")).toEqual([
      { site, page: "(other)", bucket: 1, views: 6, seconds: 12 },
    ]);
    await engine.close();
  });
}

describe("engine: embedded", () => contract("embedded", async () => new EmbeddedEngine(":memory:", 30_000)));

suite("engine: Redis", ["redis-server"], () => {
  const server = once(() => RedisServer.start());
  const open = async () => RedisEngine.open((await server()).url, { tokenTtlMs: 30_000, log: quiet });

  contract("Redis", open);

  test("engine: Redis: two engines agree on secrets, tokens and peaks", async () => {
    const [one, two] = await Promise.all([open(), open()]);
    const secrets = await Promise.all([one.secret("signing", ""), two.secret("signing", "")]);
    expect(new Set(secrets).size).toBe(1);
    const claims = { visitor: "", page: "/", expires: Date.now() + 30_000, nonce: 99 };
    const spent = await Promise.all([one.spend(claims, Date.now()), two.spend(claims, Date.now())]);
    expect(spent.filter(Boolean)).toHaveLength(1);
    const site = "shared.example";
    await one.record({ readings: [], peaks: [{ site, minute: MINUTE, peak: 7 }] });
    await two.record({ readings: [], peaks: [{ site, minute: MINUTE, peak: 5 }] });
    expect(await two.history(site, MINUTE, 1)).toEqual([{ minute: MINUTE, peak: 7 }]);
    await Promise.all([one.close(), two.close()]);
  });

  test("engine: Redis: a journal batch whose answer was lost is added once", async () => {
    const redis = await server();
    const cable = await Cable.lay(redis.port);
    const engine = await RedisEngine.open(cable.url, { tokenTtlMs: 30_000, log: quiet, leaseMs: LEASE_MS });
    const reading = { site: "once.example", page: "/", bucket: 1, views: 1, seconds: 1 };
    redis.freeze();
    const recorded = engine.record({ readings: [reading], peaks: [] });
    await recorded; // taken: the engine repeats it by itself
    expect(
      await engine.record({ readings: [reading], peaks: [] }).then(
        () => "",
        (error: unknown) => String(error),
      ),
    ).toContain("Redis");
    redis.thaw();
    const record = () => engine.record({ readings: [reading], peaks: [] });
    await until("the engine is back", () => record().then(() => true, () => false)); // oxfmt-ignore
    expect(await engine.readings("once.example", "/")).toEqual([{ ...reading, views: 2, seconds: 2 }]);
    await engine.close();
    cable.remove();
  });

  test("engine: Redis: a total that is asked for is the last known one while Redis is away or has forgotten", async () => {
    const redis = await RedisServer.start();
    const listener = { total: () => {}, stale: () => {} };
    const [has, asks] = await Promise.all(
      [0, 1].map(() => RedisEngine.open(redis.url, { tokenTtlMs: 30_000, log: quiet, leaseMs: LEASE_MS * 2 })),
    );
    const rooms = new Rooms(0, has!.share(listener));
    rooms.open("ann", "a.example", "/", "", clock);
    await until("it counts", async () => (await asks!.count("a.example")) === 1);
    expect(await asks!.count("b.example")).toBe(0);
    const totals: number[] = [];
    const watch = async (until: number) => {
      for (; performance.now() < until; await sleep(5)) totals.push(await asks!.count("a.example"));
    };
    await redis.client.flushall();
    await watch(performance.now() + LEASE_MS * 2);
    await redis.kill();
    await watch(performance.now() + LEASE_MS * 2);
    expect(await asks!.count("never asked").then(String, () => "refused")).toBe("refused");
    await redis.begin();
    await watch(performance.now() + LEASE_MS * 2);
    expect([...new Set(totals)]).toEqual([1]);
    await has!.close();
    await until("nobody is left", async () => (await asks!.count("a.example")) === 0);
    await asks!.close();
    await redis.stop();
  }, 20_000);

  test("engine: Redis: a secret that Redis lost is put back by the nodes that have it", async () => {
    const redis = await server();
    const options = { tokenTtlMs: 30_000, log: quiet, leaseMs: LEASE_MS, prefix: "lost:" };
    const engine = await RedisEngine.open(redis.url, options);
    const secret = await engine.secret("signing", "");
    await redis.client.del("lost:secret:signing");
    await until("it is back", async () => (await redis.client.get("lost:secret:signing")) === secret);
    await engine.close();
  });

  test("engine: Redis: says so when Redis may evict keys, and not when it may not", async () => {
    const redis = await server();
    const lines: string[] = [];
    const log = (_level: string, event: string) => void lines.push(event);
    const start = async () => (await RedisEngine.open(redis.url, { tokenTtlMs: 30_000, log })).close();
    await start();
    expect(lines).toEqual([]);
    await redis.client.config("SET", "maxmemory-policy", "allkeys-lru");
    await start();
    expect(lines).toEqual([expect.stringContaining("noeviction")]);
  });
});
