/**
 * Both engines against one naive model: random histories of people and faults. After each history, once everything is
 * quiet, every node and Redis itself show what the model shows.
 *
 *     HISTORIES=2000 SEED=1 bun test test/engine/histories.test.ts
 */
import { afterAll, describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { Rooms } from "../../server.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { suite } from "../support/needs.ts";
import { endRedis, RedisServer } from "../support/redis.ts";
import { sqlite } from "../support/unit.ts";
import { sleep } from "../support/waiting.ts";
import { act, hold, Model, PAGES, people, type PeopleStep, SITES, type TestNode, tick } from "./model.ts";
import { faults, NODES, RedisNodes, type Step } from "./redis-nodes.ts";

const HISTORIES = Number(process.env["HISTORIES"] ?? 24);
const SEED = Number(process.env["SEED"] ?? 1); // the same histories every time, unless others are asked for
const WORKERS = 4; // histories at a time, each with a Redis of its own
/** How many looks until all must be quiet. A look that a busy machine delays is still one look. */
const LOOKS = 500;
const LOOK_MS = 20;
const LENGTH = { minLength: 5, maxLength: 60 };

process.stderr.write(`engine: ${HISTORIES} histories, SEED=${SEED}\n`);
afterAll(endRedis);

/**
 * Waits until nothing differs from the model. Commands may take 36 ms here: whenever the machine holds this process up for
 * longer, a node rightly finds that Redis is away. So looks are counted, and not the time.
 */
async function lastDifference(nodes: RedisNodes): Promise<string> {
  for (let look = 1; ; look += 1) {
    const difference = await nodes.difference();
    if (difference === "" || look === LOOKS) return difference;
    await sleep(LOOK_MS);
  }
}

async function onRedis(steps: Step[], redis: RedisServer): Promise<void> {
  const nodes = await RedisNodes.start(redis);
  try {
    for (const step of steps) await nodes.do(step);
    nodes.mendAll();
    expect(await lastDifference(nodes)).toBe("");
    expect(nodes.nonsense).toEqual([]);
  } finally {
    await nodes.end();
  }
}

/** Without the nodes of a cluster, a service is stopped or killed and started again on the same file. */
type SqliteStep = PeopleStep | { do: "stop" } | { do: "kill" };

async function onSqlite(steps: SqliteStep[]): Promise<void> {
  const folder = temporaryFolder();
  const model = new Model();
  const start = async (): Promise<TestNode> => {
    const node = { engine: sqlite(folder), rooms: new Rooms(0), connections: [] };
    await hold(node, 15_000);
    return node;
  };
  let node = await start();
  for (const step of steps) {
    if (step.do === "stop" || step.do === "kill") {
      if (step.do === "stop") await node.engine.hold(node.rooms.members(), "signer");
      await node.engine.close();
      model.forget(0);
      node = await start();
    } else act(step, model, [node]);
  }
  tick(node.rooms, 20_000);
  tick(node.rooms);
  for (const site of SITES)
    for (const page of [undefined, ...PAGES]) expect(node.rooms.count(site, page) ?? 0).toBe(model.count(site, page));
  await node.engine.close();
}

suite("redis histories", ["redis-server"], () => {
  const history = fc.array(fc.oneof(...people(NODES), ...faults), LENGTH);

  test(
    "redis: after any history, every node shows what a naive model shows",
    async () => {
      const runs = Array.from({ length: WORKERS }, async (_, worker) => {
        const redis = await RedisServer.start();
        const property = fc.asyncProperty(history, (steps) => onRedis(steps, redis));
        const numRuns = Math.ceil(HISTORIES / WORKERS);
        await fc.assert(property, { seed: SEED + worker, numRuns, endOnFailure: numRuns < 100 });
        await redis.stop();
      });
      await Promise.all(runs);
    },
    60_000 + HISTORIES * 5_000,
  );
});

describe("sqlite histories", () => {
  const restarts = { weight: 1, arbitrary: fc.record({ do: fc.constantFrom("stop" as const, "kill" as const) }) };
  const history = fc.array(fc.oneof(...people(1), restarts), LENGTH);

  test(
    "sqlite: after any history with restarts, the node shows what a naive model shows",
    async () => {
      await fc.assert(fc.asyncProperty(history, onSqlite), { seed: SEED, numRuns: HISTORIES });
    },
    60_000 + HISTORIES * 100,
  );
});
