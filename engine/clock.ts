/**
 * The clock of Redis, as this node knows it. All nodes go by it, so the clocks of their machines do not matter.
 *
 * Redis tells the time, and the time between question and answer bounds the error. Between two measurements the node's
 * monotonic clock carries the time on, also while Redis is away.
 */

import type { Link } from "./link.ts";
import { CLOCK } from "./scripts.ts";

export interface Measurement {
  /** What Redis' clock said: milliseconds since 1970 … */
  readonly wallMs: number;
  /** … at this time of the monotonic clock (`performance.now()`), … */
  readonly monotonicMs: number;
  /** … and by how much it may be wrong. */
  readonly errorMs: number;
}

/** How far two clocks drift apart in a millisecond, at most. Quartz clocks differ by less than 100 millionths. */
const MAX_DRIFT = 0.000_2;
/** A starting node asks this often for an answer: without one it must go by its own clock until the first beat. */
const FIRST_ATTEMPTS = 3;

export class RedisClock {
  readonly #link: Link;
  readonly #key: string;
  /** Until Redis has been asked, the clock of this machine is the best guess. */
  #best: Measurement = { wallMs: Date.now(), monotonicMs: performance.now(), errorMs: Infinity };

  constructor(link: Link, prefix: string) {
    this.#link = link;
    this.#key = `${prefix}clock`;
  }

  /** Milliseconds since 1970, by Redis' clock. */
  now(): number {
    return Math.round(wallClockAt(this.#best, performance.now()));
  }

  async start(): Promise<void> {
    for (let attempt = 0; attempt < FIRST_ATTEMPTS && this.#best.errorMs === Infinity; attempt += 1)
      await this.measure();
  }

  /** Asks Redis for the time. Never rejects: without an answer the last measurement stays. */
  async measure(): Promise<void> {
    const asked = performance.now();
    const reply = await this.#link.run(CLOCK, [this.#key], []).catch(() => undefined); // the link reports failures
    const answered = performance.now();
    if (!Array.isArray(reply)) return;
    const [seconds, microseconds] = reply.map(Number) as [number, number];
    this.#best = better(this.#best, {
      wallMs: seconds * 1_000 + microseconds / 1_000,
      monotonicMs: (asked + answered) / 2,
      errorMs: (answered - asked) / 2,
    });
  }
}

const wallClockAt = ({ wallMs, monotonicMs }: Measurement, now: number) => wallMs + now - monotonicMs;

/**
 * The measurement to go by. A late answer (a busy node, a slow network) is worth less than an exact one of some time ago,
 * unless the two contradict each other: then the clock of Redis was set, or another server took over.
 */
export function better(last: Measurement, next: Measurement): Measurement {
  const lastErrorMs = last.errorMs + (next.monotonicMs - last.monotonicMs) * MAX_DRIFT;
  const differenceMs = Math.abs(wallClockAt(last, next.monotonicMs) - next.wallMs);
  return next.errorMs <= lastErrorMs || differenceMs > next.errorMs + lastErrorMs ? next : last;
}
