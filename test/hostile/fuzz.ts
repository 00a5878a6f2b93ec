/**
 * Random attacks from a seed: `npm run fuzz -- --seed 7 --seconds 120 [--runtime deno] [--engine redis]`. At the end nobody is
 * online but the watcher, the process is alive, memory is back, the event loop never stood still, no failure repeats itself,
 * and nobody has forged readings. What it found has tests in this folder.
 */
import { parseArgs } from "node:util";
import { ask } from "../support/client.ts";
import { Dice } from "../support/dice.ts";
import { canRun } from "../support/needs.ts";
import { memoryOf } from "../support/process.ts";
import { endRedis, RedisServer } from "../support/redis.ts";
import { endServices, type Runtime, runtimes } from "../support/service.ts";
import { StallProbe } from "../support/stalls.ts";
import { ownSite, Target } from "../support/target.ts";
import { sleep, until } from "../support/waiting.ts";
import { attacks, crowd, forgedPage } from "./fuzz-attacks.ts";

/** For how long the event loop may stand still. The costliest honest turn takes 15 ms, and more on a busy machine. */
const maxStallMs = 100;
/** The same while 700 visitors make 40,000 moves in one instant. */
const maxCrowdStallMs = 350;
/** A view is recorded from this length on, so nobody has more of them in a given time. */
const minViewMs = 1_000;
const attackers = 8;

export type FuzzOptions = {
  seed: number;
  seconds: number;
  /** How many visitors walk about as fast as they may after that. */
  walkers?: number;
};

/** A service under attack, and what has been done to it. */
export class Fuzz {
  readonly target: Target;
  readonly probe: StallProbe;
  attacked = 0;
  /** The longest stalls so far, in milliseconds: under attack, and while the visitors walked. */
  stalledMs = 0;
  crowdStalledMs = 0;
  #startedAt = 0;

  private constructor(target: Target, probe: StallProbe) {
    this.target = target;
    this.probe = probe;
  }

  static async start(runtime: Runtime, settings = {}): Promise<Fuzz> {
    const probe = new StallProbe();
    return new Fuzz(await Target.start(runtime, { ...probe.settings, ...settings }, probe.launch), probe);
  }

  /** Attacks for some seconds, eight at a time. */
  async run({ seed, seconds, walkers = 0 }: FuzzOptions): Promise<void> {
    process.stderr.write(`fuzz (${this.target.service.runtime}): seed ${seed}, ${seconds} s\n`);
    this.#startedAt = performance.now();
    this.probe.reset();
    const end = this.#startedAt + seconds * 1_000;
    const attacker = async (number: number): Promise<void> => {
      const dice = new Dice(seed * 64 + number);
      while (performance.now() < end) {
        await dice.pick(attacks)(this.target, dice);
        this.attacked += 1;
      }
    };
    await Promise.all(Array.from({ length: attackers }, (_, number) => attacker(number)));
    this.stalledMs = this.probe.longestMs();
    this.probe.reset();
    for (const name of ["walk", "run"]) if (walkers > 0) await crowd(this.target, walkers, name);
    this.crowdStalledMs = this.probe.longestMs();
  }

  /** Asserts that nothing of it is left. Tells everything that is wrong. */
  async expectSound(): Promise<void> {
    const problems: string[] = [];
    if (this.stalledMs > maxStallMs) problems.push(`the event loop stood still for ${this.stalledMs} ms`);
    if (this.crowdStalledMs > maxCrowdStallMs)
      problems.push(`the event loop stood still for ${this.crowdStalledMs} ms while visitors walked about`);
    for (const check of [
      () => this.target.survives(),
      () => this.#expectNoRepeatedFailure(),
      () => this.#expectNoForgedViews(),
    ])
      await check().catch((error: unknown) => problems.push(String(error)));
    if (problems.length > 0) throw new Error(problems.join("\n"));
  }

  /** What failed during the attacks must not go on failing: the journal is written every 5 s. */
  async #expectNoRepeatedFailure(): Promise<void> {
    const { service } = this.target;
    const isStale = async () => (await service.metric("headcount_stale")) === 1;
    await until("numbers are live", async () => !(await isStale()), 15_000);
    const failures = async () =>
      (await service.metric("headcount_journal_errors_total")) +
      (await service.metric("headcount_engine_errors_total"));
    const before = await failures();
    for (let waited = 0; waited < 70; waited++) {
      if (await isStale()) throw new Error("numbers are stale again, although nothing is wrong any more");
      await sleep(100);
    }
    const more = (await failures()) - before;
    if (more > 0) throw new Error(`the engine failed ${more} more times, although nothing is wrong any more`);
  }

  /** Each attacker is one visitor at a time, who can add one view per second. */
  async #expectNoForgedViews(): Promise<void> {
    const { url, name } = this.target;
    const { views = 0 } = (await ask(url, `GET /reading?site=${name}&page=${forgedPage}`)).json;
    const most = (attackers * (performance.now() - this.#startedAt)) / minViewMs;
    if (views > most)
      throw new Error(`${views} views of ${forgedPage} are recorded, where ${most.toFixed(0)} are possible`);
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    args: process.argv.slice(2),
    options: {
      seed: { type: "string", default: String(Date.now() % 1_000_000) },
      seconds: { type: "string", default: "60" },
      walkers: { type: "string", default: "700" },
      runtime: { type: "string" },
      engine: { type: "string" },
    },
  });
  const engines = values.engine === undefined ? ["sqlite", "redis"] : [values.engine];
  const options = { seed: Number(values.seed), seconds: Number(values.seconds), walkers: Number(values.walkers) };
  for (const runtime of values.runtime === undefined ? runtimes : [values.runtime as Runtime])
    for (const engine of engines)
      if (engine === "sqlite" || canRun("redis-server")) await fuzzAndPrint(runtime, engine, options);
  await endRedis();
  process.exit(0);
}

async function fuzzAndPrint(runtime: Runtime, engine: string, options: FuzzOptions): Promise<void> {
  const settings = engine === "redis" ? { REDIS_URL: (await RedisServer.start()).url } : {};
  const fuzz = await Fuzz.start(runtime, settings);
  const { target } = fuzz;
  await fuzz.run(options);
  const peak = memoryOf(target.service.pid);
  await fuzz.expectSound();
  const memory = [target.memoryBefore, peak, memoryOf(target.service.pid)].map((mb) => mb.toFixed(0));
  const { text } = await ask(target.url, `GET /count?site=${ownSite}`);
  process.stdout.write(
    `fuzz (${runtime}, ${engine}): ${fuzz.attacked} attacks, memory ${memory.join(" → ")} MB, stalls of ${fuzz.stalledMs} ms and ${fuzz.crowdStalledMs} ms, count ${text}\n`,
  );
  endServices(); // fails when the service died or logged an error
}

if (import.meta.main) await main();
