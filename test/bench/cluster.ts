/**
 * What counting on several nodes costs Redis: `npm run bench -- cluster`, about two minutes.
 *
 * One node, then three, of this process (engine and rooms, without sockets, which cost the same with any engine) on a
 * Redis of their own; `--nodes 20,50` asks for others. A join is a token that is claimed and a visitor who opens one of
 * 50 pages; joins and leaves come at random times, spread over the nodes. Sent is what clients send; what scripts do
 * inside Redis is counted by itself. What Redis needs at rest is taken off. At the end, the figures that the design asks for.
 */

/* oxlint-disable no-await-in-loop -- one thing is measured at a time */

import { RedisEngine } from "../../engine/redis.ts";
import { Rooms, type Viewer } from "../../server.ts";
import { RedisServer } from "../support/redis.ts";
import { viewer } from "../support/unit.ts";
import { sleep, until } from "../support/waiting.ts";

interface Node {
  readonly rooms: Rooms;
  readonly engine: RedisEngine;
  readonly connections: Viewer[];
  stale: boolean;
}

/** What Redis has done. */
interface Cost {
  /** Commands that clients sent, and commands that scripts ran. */
  readonly sent: number;
  readonly inside: number;
  readonly cpuMs: number;
}

const SITE = "shop.example";
const PAGES = 50;
const LOW = { perSecond: 50, seconds: 12 };
const HIGH = { perSecond: 2_000, seconds: 5 };
const MANY = 100_000;
const REBUILT = 10_000;
const IDLE_S = 15;
/** What nodes send; everything else in Redis' statistics is done by scripts, or by this file. */
const SENT = new Set(["evalsha", "eval", "get"]);
const OWN = new Set(["info", "flushall"]);

let visitors = 0;
let nonces = 0;

async function open(redis: RedisServer): Promise<Node> {
  const engine = await RedisEngine.open(redis.url, { tokenTtlMs: 30_000, log: () => {} });
  await engine.secret("signing", "");
  const rooms = new Rooms(0, engine.cluster);
  const node: Node = { rooms, engine, connections: [], stale: false };
  engine.cluster.listen({
    count: (room, count) => rooms.setCount(room, count),
    stale: (stale) => (node.stale = stale),
  });
  setInterval(() => rooms.tick(performance.now()), 50).unref();
  return node;
}

function enter({ rooms, connections }: Node): void {
  visitors += 1;
  const connection = viewer(`visitor-${visitors}`.padEnd(22, "x")); // as long as a real one
  rooms.open(connection, SITE, `/articles/${visitors % PAGES}`, performance.now());
  connections.push(connection);
}

function leave({ rooms, connections }: Node): void {
  const connection = connections.pop();
  if (connection !== undefined) rooms.close(connection, performance.now());
}

const waits: number[] = [];

async function join(node: Node): Promise<void> {
  nonces += 1;
  const from = performance.now();
  await node.engine.spend({ site: SITE, expires: Date.now() + 30_000, nonce: nonces }, Date.now());
  waits.push(performance.now() - from);
  enter(node);
}

async function cost(redis: RedisServer): Promise<Cost> {
  const info = await redis.client.info("everything");
  const figure = (name: string) => Number(new RegExp(`^${name}:([\\d.]+)`, "m").exec(info)?.[1] ?? 0);
  const all = Array.from(info.matchAll(/^cmdstat_([^:]+):calls=(\d+)/gm), ([, name = "", calls]) => ({
    name,
    calls: Number(calls),
  }));
  const sum = (of: (name: string) => boolean) =>
    all.reduce((total, { name, calls }) => total + (of(name) ? calls : 0), 0);
  return {
    sent: sum((name) => SENT.has(name)),
    inside: sum((name) => !SENT.has(name) && !OWN.has(name)),
    cpuMs: (figure("used_cpu_user") + figure("used_cpu_sys")) * 1_000,
  };
}

const memory = async ({ client }: RedisServer) =>
  Number(/^used_memory:(\d+)/m.exec(await client.info("memory"))?.[1] ?? 0);

/** What some work has cost Redis, beyond what the same time costs at rest. */
async function costOf(redis: RedisServer, work: () => Promise<unknown>, restMsPerSecond = 0): Promise<Cost> {
  const from = performance.now();
  const before = await cost(redis);
  await work();
  const after = await cost(redis);
  const rest = ((performance.now() - from) / 1_000) * restMsPerSecond;
  return {
    sent: after.sent - before.sent,
    inside: after.inside - before.inside,
    cpuMs: Math.max(0, after.cpuMs - before.cpuMs - rest),
  };
}

/** Does it so often, at random times, on one node after the other. */
async function paced(nodes: Node[], times: number, perSecond: number, what: (node: Node) => unknown): Promise<void> {
  const running: unknown[] = [];
  let due = performance.now();
  for (let done = 0; done < times; done += 1) {
    due -= (Math.log(1 - Math.random()) / perSecond) * 1_000;
    const wait = due - performance.now();
    if (wait > 0) await sleep(wait);
    running.push(what(nodes[done % nodes.length]!));
  }
  await Promise.all(running);
}

const allShow = (nodes: Node[], total: number) =>
  until(`all nodes show ${total}`, () => nodes.every(({ rooms }) => rooms.count(SITE) === total), 60_000);

const print = (...cells: (string | number)[]) => process.stdout.write(`| ${cells.join(" | ")} |\n`);

function printCost(nodes: number, what: string, { sent, inside, cpuMs }: Cost, share: number): void {
  print(nodes, what, ...[sent, inside, cpuMs].map((figure) => (figure * share).toFixed(1)));
}

/** The figures of the design for one number of nodes. */
interface Summary {
  readonly nodes: number;
  /** Commands for a join, at 50 joins a second. */
  readonly commands: number;
  /** Redis' CPU in milliseconds for a join and a leave, at 2,000 of each a second. */
  readonly cpuMs: number;
}

async function measure(count: number): Promise<Summary> {
  const redis = await RedisServer.start();
  const nodes: Node[] = [];
  while (nodes.length < count) nodes.push(await open(redis));
  for (const node of nodes) enter(node);
  await allShow(nodes, count);
  const rest = (await costOf(redis, () => sleep(IDLE_S * 1_000))).cpuMs / IDLE_S;

  const summary = { nodes: count, commands: 0, cpuMs: 0 };
  for (const { perSecond, seconds } of [LOW, HIGH]) {
    const times = perSecond * seconds;
    waits.length = 0;
    const change = async (what: (node: Node) => unknown, total: number) =>
      costOf(
        redis,
        async () => {
          await paced(nodes, times, perSecond, what);
          await allShow(nodes, total);
        },
        rest,
      );
    const [joins, leaves] = [await change(join, count + times), await change(leave, count)];
    printCost(count, `1,000 joins, ${perSecond} a second`, joins, 1_000 / times);
    printCost(count, `1,000 leaves, ${perSecond} a second`, leaves, 1_000 / times);
    if (perSecond === LOW.perSecond) summary.commands = joins.sent / times;
    else summary.cpuMs = (joins.cpuMs + leaves.cpuMs) / times;
    const sorted = waits.toSorted((a, b) => a - b);
    const [mean, p99] = [sorted.reduce((sum, ms) => sum + ms, 0) / times, sorted[Math.floor(times * 0.99)]!];
    process.stderr.write(
      `${count} nodes, ${perSecond} joins a second: a token waits ${mean.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms\n`,
    );
  }

  const before = await memory(redis);
  for (let n = 0; n < MANY; n += 1) {
    enter(nodes[n % count]!);
    if (n % 1_000 === 0) await sleep(20);
  }
  await allShow(nodes, MANY + count);
  await sleep(1_000);
  const bytes = (await memory(redis)) - before;
  const idle = await costOf(redis, () => sleep(IDLE_S * 1_000));
  printCost(count, `1,000 of ${MANY} idle visitors, a minute`, idle, (60 / IDLE_S) * (1_000 / MANY));
  process.stderr.write(
    `${count} nodes: ${Math.round(bytes / MANY)} bytes of Redis a visitor, ${(bytes / 1e6).toFixed(1)} MB in all\n`,
  );

  if (count === 1) await rebuild(redis, nodes[0]!);
  for (const { engine } of nodes) await engine.close();
  await redis.stop();
  return summary;
}

async function rebuild(redis: RedisServer, node: Node): Promise<void> {
  while (node.connections.length > REBUILT) leave(node);
  await allShow([node], REBUILT);
  await redis.client.flushall();
  const from = performance.now();
  const since = () => `${((performance.now() - from) / 1_000).toFixed(1)} s`;
  await until("the node has noticed", () => node.stale, 10_000);
  const noticed = since();
  const key = `headcount:{${SITE}}:totals`;
  await until("Redis knows all", async () => Number(await redis.client.hget(key, "")) === REBUILT, 10_000);
  const told = since();
  await until("the node is sure", () => !node.stale && node.rooms.count(SITE) === REBUILT, 20_000);
  process.stderr.write(
    `${REBUILT} visitors after FLUSHALL: noticed after ${noticed}, in Redis after ${told}, live after ${since()}\n`,
  );
}

/** Prints the table, for each of these numbers of nodes. */
export async function cluster(counts: number[]): Promise<void> {
  print("nodes", "what", "commands sent", "commands inside scripts", "Redis CPU, ms");
  print("---:", "---", "---:", "---:", "---:");
  const summaries: Summary[] = [];
  for (const count of counts) summaries.push(await measure(count));
  process.stdout.write("\n");
  print("nodes", "commands per join, 50 joins a second", "Redis CPU for a join and a leave, 2,000 a second");
  print("---:", "---:", "---:");
  for (const { nodes, commands, cpuMs } of summaries) print(nodes, commands.toFixed(2), `${cpuMs.toFixed(3)} ms`);
}
