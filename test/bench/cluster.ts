/**
 * What counting on several nodes costs: `bun test/bench/cluster.ts`, about a minute.
 *
 * Two nodes of this process (engine and rooms, without sockets, which cost the same with any engine) on a Redis of their
 * own. Commands are what travels; Redis' CPU is what `INFO` says it has used. Every visitor opens one of 50 pages; the
 * token that it takes is measured by itself. What Redis needs at rest is taken off.
 */

/* oxlint-disable no-await-in-loop -- one thing is measured at a time */

import { RedisEngine } from "../../redis.ts";
import { type OpenPage, Rooms } from "../../server.ts";
import { removeLeftovers } from "../support/leftovers.ts";
import { RedisServer } from "../support/redis.ts";
import { sleep, until } from "../support/waiting.ts";

interface Node {
  readonly rooms: Rooms;
  readonly engine: RedisEngine;
  readonly pages: OpenPage[];
  stale: boolean;
}

/** Counters of Redis. */
interface Cost {
  commands: number;
  cpuMs: number;
  bytes: number;
}

const SITE = "shop.example";
const PAGES = 50;
const PACES = [50, 1_000, 5_000]; // joins a second
const MANY = 100_000;
const IDLE_S = 12;
/** What nodes send; everything else that Redis counts is done by scripts. */
const SENT = ["evalsha", "eval", "mget", "hgetall", "smembers"];

let visitors = 0;
let nonces = 0;

async function open(redis: RedisServer): Promise<Node> {
  const engine = await RedisEngine.open(redis.url, { tokenTtlMs: 30_000, log: () => {} });
  const rooms: Rooms = new Rooms(
    0,
    engine.share({
      total: (room, total) => rooms.setTotal(room, total, performance.now()),
      stale: (stale) => (node.stale = stale),
    }),
  );
  setInterval(() => rooms.tick(performance.now()), 50).unref();
  const node: Node = { rooms, engine, pages: [], stale: false };
  return node;
}

function join({ rooms, pages }: Node): void {
  visitors += 1;
  const visitor = `visitor-${visitors}`.padEnd(22, "x"); // as long as a real one
  pages.push(rooms.open(visitor, SITE, `/articles/${visitors % PAGES}`, "", performance.now()));
}

function spend({ engine }: Node): Promise<boolean> {
  nonces += 1;
  return engine.spend({ visitor: "", page: "/", expires: Date.now() + 30_000, nonce: nonces }, Date.now());
}

function leave({ rooms, pages }: Node): void {
  const page = pages.pop();
  if (page !== undefined) rooms.close(page, performance.now());
}

async function cost(redis: RedisServer): Promise<Cost> {
  const info = await redis.client.info("everything");
  const figure = (name: string) => Number(new RegExp(`^${name}:([\\d.]+)`, "m").exec(info)?.[1] ?? 0);
  const calls = (name: string) => Number(new RegExp(`^cmdstat_${name}:calls=(\\d+)`, "m").exec(info)?.[1] ?? 0);
  return {
    commands: SENT.reduce((sum, name) => sum + calls(name), 0),
    cpuMs: (figure("used_cpu_user") + figure("used_cpu_sys")) * 1_000,
    bytes: figure("used_memory"),
  };
}

/** What the work has cost Redis. */
async function costOf(redis: RedisServer, work: () => Promise<unknown>): Promise<Cost> {
  const before = await cost(redis);
  await work();
  const after = await cost(redis);
  return {
    commands: after.commands - before.commands,
    cpuMs: after.cpuMs - before.cpuMs,
    bytes: after.bytes - before.bytes,
  };
}

/** Does it so often, evenly spread over the time, alternately on each node. */
async function paced(nodes: Node[], times: number, perSecond: number, what: (node: Node) => unknown): Promise<void> {
  const start = performance.now();
  const running: unknown[] = [];
  for (let done = 0; done < times;) {
    const due = Math.min(times, Math.ceil(((performance.now() - start) / 1_000) * perSecond));
    for (; done < due; done += 1) running.push(what(nodes[done % nodes.length]!));
    await sleep(1);
  }
  await Promise.all(running);
}

const totalIs = (redis: RedisServer, total: number) =>
  until(
    `Redis counts ${total}`,
    async () => Number(await redis.client.hget(`headcount:{${SITE}}:totals`, "")) === total,
    60_000,
  );

function printIdle(what: string, { commands, cpuMs }: Cost): void {
  const figures = `${(commands / IDLE_S).toFixed(1).padStart(9)} commands ${(cpuMs / IDLE_S).toFixed(1).padStart(8)} ms`;
  process.stdout.write(`${what.padEnd(28)}${figures} of Redis a second\n`);
}

function print(what: string, { commands, cpuMs }: Cost, per: number, unit: string): void {
  const share = 1_000 / per;
  const figures = `${(commands * share).toFixed(1).padStart(9)} commands ${(cpuMs * share).toFixed(1).padStart(8)} ms`;
  process.stdout.write(`${what.padEnd(28)}${figures} of Redis per 1,000 ${unit}\n`);
}

export async function cluster(): Promise<void> {
  const redis = await RedisServer.start();
  const nodes = [await open(redis), await open(redis)];
  join(nodes[0]!);
  join(nodes[1]!);
  await sleep(1_000);
  const atRest = await costOf(redis, () => sleep(IDLE_S * 1_000));
  printIdle("idle, two visitors", atRest);
  const measure = async (what: string, pace: number, act: (node: Node) => unknown, change: number) => {
    const times = Math.min(5_000, pace * 6);
    const total = nodes.reduce((sum, { pages }) => sum + pages.length, 0) + change * times;
    const from = performance.now();
    const spent = await costOf(redis, async () => {
      await paced(nodes, times, pace, act);
      await totalIs(redis, total);
    });
    const cpuMs = Math.max(0, spent.cpuMs - (atRest.cpuMs / IDLE_S) * ((performance.now() - from) / 1_000));
    print(`${what}, ${pace} a second`, { ...spent, cpuMs }, times, what);
  };
  for (const pace of PACES) {
    await measure("joins", pace, join, 1);
    await measure("leaves", pace, leave, -1);
    await measure("tokens", pace, spend, 0);
  }
  const { bytes: before } = await cost(redis);
  await paced(nodes, MANY, 20_000, join);
  await totalIs(redis, MANY + 2);
  printIdle(`idle, ${MANY} visitors`, await costOf(redis, () => sleep(IDLE_S * 1_000)));
  const bytes = (await cost(redis)).bytes - before;
  const each = Math.round(bytes / MANY);
  process.stdout.write(`memory of ${MANY} visitors: ${(bytes / 1e6).toFixed(1)} MB, ${each} bytes each\n`);
  for (const node of nodes) while (node.pages.length > 5_000) leave(node);
  await totalIs(redis, 10_000);
  await nodes[1]!.engine.close();
  while (nodes[0]!.pages.length < 10_000) join(nodes[0]!);
  await totalIs(redis, 15_000);
  await totalIs(redis, 10_000); // the other node is reaped
  await redis.client.flushall();
  const from = performance.now();
  await until("it has noticed", () => nodes[0]!.stale, 10_000);
  const noticed = performance.now();
  await totalIs(redis, 10_000);
  const rebuilt = performance.now();
  await until("it is sure", () => !nodes[0]!.stale, 20_000);
  process.stdout.write(
    `10,000 visitors after FLUSHALL: noticed after ${Math.round(noticed - from)} ms, told again in ${Math.round(rebuilt - noticed)} ms, exact after ${Math.round(performance.now() - from)} ms\n`,
  );
  await nodes[0]!.engine.close();
  await redis.stop();
}

if (import.meta.main) {
  await cluster();
  removeLeftovers();
}
