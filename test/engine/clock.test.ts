/** The clock that all nodes share: they go by that of Redis. */
import { afterAll, describe, expect, test } from "bun:test";
import { better, type Measurement } from "../../engine/clock.ts";
import { RedisEngine } from "../../engine/redis.ts";
import { suite } from "../support/needs.ts";
import { endRedis, RedisServer } from "../support/redis.ts";
import { quiet } from "../support/unit.ts";
import { sleep } from "../support/waiting.ts";

afterAll(endRedis);

describe("better measurement", () => {
  const measurement = (wallMs: number, monotonicMs: number, errorMs: number): Measurement => ({
    wallMs,
    monotonicMs,
    errorMs,
  });
  const exact = measurement(1_000_000, 0, 1);

  test("clock: an exact measurement replaces a vague one", () => {
    const next = measurement(1_000_110, 100, 1);
    expect(better(measurement(1_000_000, 0, 50), next)).toBe(next);
  });

  test("clock: a vague measurement does not replace an exact one that it agrees with", () => {
    expect(better(exact, measurement(1_003_100, 3_000, 400))).toBe(exact);
  });

  test("clock: an exact measurement that is old enough to have drifted gives way", () => {
    const next = measurement(1_000_000 + 3_600_000, 3_600_000, 20);
    expect(better(exact, next)).toBe(next);
  });

  test("clock: a measurement that contradicts the last one replaces it, however vague it is", () => {
    const next = measurement(1_063_000, 3_000, 400);
    expect(better(exact, next)).toBe(next);
  });
});

suite("redis clock", ["redis-server"], () => {
  for (const offsetMs of [-45_000, 45_000])
    test(`redis: a machine whose clock is ${offsetMs / 1_000} s off goes by the clock of Redis`, async () => {
      const redis = await RedisServer.start();
      const { now } = Date;
      Date.now = () => now() + offsetMs;
      const engine = await RedisEngine.open(redis.url, { tokenTtlMs: 30_000, log: quiet }).finally(
        () => (Date.now = now),
      );
      expect(Math.abs(engine.wallClock() - Date.now())).toBeLessThan(200);
      await redis.kill(); // the node's own monotonic clock carries the time on
      await sleep(500);
      expect(Math.abs(engine.wallClock() - Date.now())).toBeLessThan(200);
      await engine.close();
      await redis.stop();
    });
});
