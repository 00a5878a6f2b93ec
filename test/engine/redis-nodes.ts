/** Several nodes in this process, each with its own cable to one Redis, and everything that can happen to them. */
import * as fc from "fast-check";
import { RedisEngine } from "../../engine/redis.ts";
import { Rooms } from "../../server.ts";
import { Cable, type RedisServer } from "../support/redis.ts";
import { quiet } from "../support/unit.ts";
import { sleep } from "../support/waiting.ts";
import { act, closeAll, Model, type PeopleStep, SITES, type TestNode, tick } from "./model.ts";

/** Short, so that a history of minutes takes seconds. */
export const LEASE_MS = 400;
export const NODES = 3;

type RedisFault = "flush" | "forget scripts" | "photograph" | "roll back" | "deafen";

type FaultStep =
  | { do: "stop" | "kill" | "expire" | "cut" | "mend"; node: number }
  | { do: "evict"; key: string; site: string }
  | { do: RedisFault | "restart" }
  | { do: "wait"; ms: number };

export type Step = PeopleStep | FaultStep;

interface RedisNode extends TestNode {
  readonly cable: Cable;
  stale: boolean;
}

/** A key as it was when Redis was photographed. */
interface SavedKey {
  readonly key: string;
  readonly value: Buffer;
  readonly ttlMs: number;
}

const node = fc.nat(NODES - 1);

export const faults: fc.WeightedArbitrary<Step>[] = [
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom("stop" as const, "kill" as const), node }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("expire" as const), node }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom("cut" as const, "mend" as const), node }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("evict" as const),
      key: fc.constantFrom("nodes", "meta", "refs", "totals", "dirty"),
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

export class RedisNodes {
  readonly model = new Model();
  readonly nodes: RedisNode[] = [];
  /** Totals that must never be reported, not even for a moment: negative, no number, or less than the node has itself. */
  readonly nonsense: string[] = [];
  readonly #redis: RedisServer;
  #photograph: SavedKey[] = [];

  private constructor(redis: RedisServer) {
    this.#redis = redis;
  }

  static async start(redis: RedisServer): Promise<RedisNodes> {
    const nodes = new RedisNodes(redis);
    await redis.client.flushall();
    for (let index = 0; index < NODES; index += 1) await nodes.#start(index);
    return nodes;
  }

  async do(step: Step): Promise<void> {
    if (step.do === "enter" || step.do === "leave" || step.do === "move") act(step, this.model, this.nodes);
    else if (step.do === "wait") await sleep(step.ms);
    else if (step.do === "stop" || step.do === "kill") await this.#replace(step.node, step.do);
    else if (step.do === "cut") this.nodes[step.node]!.cable.cut();
    else if (step.do === "mend") this.nodes[step.node]!.cable.mend();
    else if (step.do === "expire") await this.#expireLeases();
    else if (step.do === "evict") await this.#redis.client.del(`headcount:{${step.site}}:${step.key}`);
    else if (step.do === "restart") {
      await this.#redis.kill();
      await this.#redis.begin();
    } else await this.#break(step.do);
  }

  mendAll(): void {
    for (const { cable } of this.nodes) cable.mend();
  }

  /** What the nodes and Redis say where it differs from the model; "" when nothing does. */
  async difference(): Promise<string> {
    for (const index of this.nodes.keys()) {
      const difference = this.#differenceOfNode(index);
      if (difference !== "") return difference;
    }
    return this.#differenceOfRedis();
  }

  async end(): Promise<void> {
    for (const { engine, cable } of this.nodes) {
      await engine.close();
      cable.remove();
    }
  }

  async #break(fault: RedisFault): Promise<void> {
    const { client } = this.#redis;
    if (fault === "flush") await client.flushall();
    else if (fault === "forget scripts") await client.script("FLUSH");
    else if (fault === "deafen") await client.call("CLIENT", "KILL", "TYPE", "pubsub");
    else if (fault === "photograph") this.#photograph = await this.#dump();
    else await this.#restore();
  }

  /** The lease of one node of each site expires, as if that node had been frozen. */
  async #expireLeases(): Promise<void> {
    const { client } = this.#redis;
    for (const site of SITES) {
      const key = `headcount:{${site}}:nodes`;
      const [name] = await client.zrange(key, "0", "0");
      if (name !== undefined) await client.zadd(key, "XX", "1", name);
    }
  }

  async #dump(): Promise<SavedKey[]> {
    const { client } = this.#redis;
    const keys = await client.keys("*");
    const all = keys.map(async (key) => ({ key, value: await client.dumpBuffer(key), ttlMs: await client.pttl(key) }));
    return (await Promise.all(all)).filter((one) => one.value !== null && one.ttlMs !== -2);
  }

  /** A replica takes over that has not received the last writes. */
  async #restore(): Promise<void> {
    const commands = this.#redis.client.multi().flushall();
    for (const { key, value, ttlMs } of this.#photograph) commands.restore(key, Math.max(0, ttlMs), value);
    await commands.exec();
  }

  async #start(index: number): Promise<void> {
    const cable = await Cable.lay(this.#redis.port);
    const engine = await RedisEngine.open(cable.url, { tokenTtlMs: 30_000, log: quiet, leaseMs: LEASE_MS });
    const rooms = new Rooms(0, engine.cluster);
    const self: RedisNode = { rooms, connections: [], engine, cable, stale: false };
    engine.cluster.listen({
      count: (room, count) => {
        if (!(count >= room.members.size)) this.nonsense.push(`${room.site} ${room.page ?? ""} = ${count}`);
        rooms.setCount(room, count);
      },
      stale: (stale) => (self.stale = stale),
    });
    this.nodes[index] = self;
  }

  /** SIGTERM, or SIGKILL; then a new process takes the place, as a supervisor would have it. */
  async #replace(index: number, how: "stop" | "kill"): Promise<void> {
    const self = this.nodes[index]!;
    if (how === "stop") {
      await self.engine.hold(self.rooms.members(), "signer");
      closeAll(self);
    }
    await self.engine.close();
    self.cable.remove();
    this.model.forget(index);
    await this.#start(index);
  }

  #differenceOfNode(index: number): string {
    const { rooms, stale } = this.nodes[index]!;
    tick(rooms);
    if (stale) return `node ${index} is stale`;
    for (const { room, pages } of rooms.sites())
      for (const { site, page, count } of [room, ...pages.values()]) {
        const right = this.model.count(site, page);
        if (count !== right) return `node ${index} says ${count} for ${site} ${page ?? ""}, and it is ${right}`;
      }
    return "";
  }

  async #differenceOfRedis(): Promise<string> {
    const found: Record<string, number> = {};
    for (const site of SITES) {
      const [totals, refs] = await Promise.all(
        ["totals", "refs"].map((key) => this.#redis.client.hgetall(`headcount:{${site}}:${key}`)),
      );
      for (const [page, total] of Object.entries(totals!)) if (page !== "\n") found[`${site} ${page}`] = Number(total);
      const { "\n": _epoch, ...members } = refs!;
      const expected = this.model.refs(site);
      if (!Bun.deepEquals(members, expected))
        return `Redis has ${JSON.stringify(members)}, not ${JSON.stringify(expected)} on ${site}`;
    }
    const { counts } = this.model;
    return Bun.deepEquals(found, counts) ? "" : `Redis says ${JSON.stringify(found)}, not ${JSON.stringify(counts)}`;
  }
}
