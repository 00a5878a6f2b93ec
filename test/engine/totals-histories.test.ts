/**
 * Views and visitors over two nodes and a Redis that goes through everything, against a naive model.
 *
 *     HISTORIES=2000 SEED=1 bun test test/engine/totals-histories.test.ts
 */
import { afterAll, expect, test } from "bun:test";
import * as fc from "fast-check";
import { messageOf } from "../../engine/engine.ts";
import { suite } from "../support/needs.ts";
import { endRedis, RedisServer } from "../support/redis.ts";
import { until } from "../support/waiting.ts";
import { onAll, onNode, TotalsHistory, type TotalsStep, views } from "./totals-nodes.ts";

const HISTORIES = Number(process.env["HISTORIES"] ?? 24);
const SEED = Number(process.env["SEED"] ?? 1); // the same histories every time, unless others are asked for
const WORKERS = 4; // histories at a time, each with a Redis of its own
const QUIET_MS = 20_000;

afterAll(endRedis);

/** Whether two answers are not the same, at any depth. */
const isDifferent = (shown: unknown, expected: unknown): boolean => !Bun.deepEquals(shown, expected);

/** Whether any number is larger than expected, or negative. */
function isTooMuch(shown: unknown, expected: unknown): boolean {
  if (Array.isArray(shown)) {
    const days = new Map((expected as { day: number }[]).map((day) => [day.day, day]));
    return shown.some((one: { day: number }) => isTooMuch(one, days.get(one.day)));
  }
  const [numbers, limits] = [shown, expected] as Record<string, number>[];
  return Object.entries(numbers!).some(([name, value]) => !(value >= 0 && value <= (limits?.[name] ?? 0)));
}

/** Takes histories through `compare`, several at a time. @param beforeLoss called before Redis loses data or a day ends */
async function run(
  steps: fc.WeightedArbitrary<TotalsStep>[],
  compare: (history: TotalsHistory) => Promise<void>,
  beforeLoss: (history: TotalsHistory) => Promise<void> = async () => {},
): Promise<void> {
  const histories = fc.array(fc.oneof(...steps), { minLength: 5, maxLength: 40 });
  const workers = Array.from({ length: WORKERS }, async (_, worker) => {
    const redis = await RedisServer.start();
    const property = fc.asyncProperty(histories, async (history) => {
      const nodes = await TotalsHistory.start(redis);
      try {
        for (const step of history) {
          if (["flush", "empty", "midnight"].includes(step.do)) await beforeLoss(nodes);
          await nodes.do(step);
        }
        await nodes.heal();
        await compare(nodes);
      } finally {
        await nodes.end();
      }
    });
    const numRuns = Math.ceil(HISTORIES / WORKERS);
    await fc.assert(property, { seed: SEED + worker, numRuns, endOnFailure: numRuns < 100 });
    await redis.stop();
  });
  await Promise.all(workers);
}

/** Soon every number is that of the model. */
async function isExact(history: TotalsHistory): Promise<void> {
  let differences: unknown[] = [];
  const check = async () => {
    differences = await history.differences(isDifferent).catch((error: unknown) => [messageOf(error)]);
    return differences.length === 0;
  };
  await until("all numbers are exact", check, QUIET_MS).catch(() => expect(differences).toEqual([]));
}

suite("redis totals histories", ["redis-server"], () => {
  const time = 60_000 + HISTORIES * 5_000;

  test(
    "redis totals: after any history in which Redis keeps its data, all numbers are those of a naive model",
    async () => {
      const faults = onAll(3, "midnight", "freeze", "thaw", "kill", "begin");
      await run([views, onNode(4, "record"), onNode(4, "cut", "mend", "restart", "yesterday"), faults], isExact);
    },
    time,
  );

  test(
    "redis totals: when Redis has lost everything that living nodes have counted, all numbers are exact again",
    async () => {
      // What nodes have not restored before the next loss, or before the day ends, may stay lost.
      const restored = async (history: TotalsHistory) => {
        await history.heal();
        await isExact(history);
      };
      await run([views, onNode(6, "record"), onAll(3, "midnight", "flush", "empty")], isExact, restored);
    },
    time,
  );

  test(
    "redis totals: whatever Redis loses, whoever is cut off or restarted meanwhile, nothing counts twice",
    async () => {
      const losses = onAll(5, "midnight", "freeze", "thaw", "flush", "empty", "save", "old", "old");
      await run([views, onNode(6, "record"), onNode(4, "cut", "mend", "restart"), losses], async (history) => {
        expect(await history.differences(isTooMuch)).toEqual([]);
      });
    },
    time,
  );
});
