/**
 * The benchmark: the service beside two floors, in the same run, one table of medians and ratios.
 *
 *     npm run bench                        5,000 and 18,000 pages, three rounds (about 35 minutes)
 *     npm run bench -- storms              the join storms alone (three minutes)
 *     npm run bench -- memory              the memory per page alone (seven minutes)
 *     npm run bench -- deno                on Deno, against bare Deno
 *     npm run bench -- curve               1k, 5k, 10k and 18k pages
 *     npm run bench -- sites               1, 100 and 10,000 sites with the same 10,000 pages
 *     npm run bench -- stalls              for how long the event loop stands still (add `deno`)
 *     npm run bench -- page                what the tag costs a page that carries it, in Chromium
 *     npm run bench -- cluster             what several nodes cost Redis (2 minutes; --nodes 1,3)
 *     npm run bench -- cluster --pages 90000 --nodes 5         so many pages on all nodes together (--proxy: behind nginx)
 *     npm run bench -- --pages 5000 --rounds 1 --idle 0
 *
 * `floor.ts` has no tokens, `token-floor.ts` has. Every figure of a round comes from a fresh server process, which nobody
 * has visited: all pages join in one storm, stay, hear of further visitors, idle and leave, and a second storm follows.
 * Every visitor has an address of their own, and one in five has two pages. Machines are noisy: read the ratios.
 * Linux only (/proc).
 */

/* oxlint-disable no-await-in-loop -- one thing is measured at a time */

import type { Subprocess } from "bun";
import { dlopen } from "bun:ffi";
import { readFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { adopt, removeLeftovers } from "../support/leftovers.ts";
import { memoryOf } from "../support/process.ts";
import { manyPages } from "./capacity.ts";
import { cluster } from "./cluster.ts";
import { type Figures, median } from "./figures.ts";
import { startGenerator } from "./generator.ts";
import type { Order, Report } from "./load.ts";
import { benchPage } from "./page.ts";
import { stalls } from "./stalls.ts";

/** What a row of the table is about: so many pages, evenly on so many sites. */
interface Case {
  pages: number;
  sites: number;
}

/** A kind of server under test. */
interface Target {
  name: TargetName;
  command: string[];
}

const TARGET_NAMES = ["floor", "token floor", "service"] as const;
type TargetName = (typeof TARGET_NAMES)[number];

/** A running server with the generator that visits it. */
interface Run {
  /** Sends one order and waits for its report; `cpu` is what the server used, in milliseconds. */
  order(order: Order): Promise<Report & { cpu: number }>;
  /** Resident memory of the server in MB. */
  memory(): number;
  stop(): Promise<void>;
}

const HERE = import.meta.dirname;
const ROOT = join(HERE, "../..");
const FANOUTS = 10;
const READY_MS = 20_000;
/** Grace (5 s), a garbage collection or two, and the allocator's own delays. */
const SETTLE_MS = 12_000;
/** After grace, nobody is counted any more. */
const EMPTY_MS = 6_000;
const WARM_UP = { waves: 10, pages: 200 };
const STEADY = { pages: 300, everyMs: 10 };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    pages: { type: "string" },
    rounds: { type: "string", default: "3" },
    /** Seconds of idling at the largest number of pages; 0 leaves it out. */
    idle: { type: "string", default: "60" },
    /** Visitors that arrive at the same time. */
    lanes: { type: "string", default: "64" },
    /** Visitors whose token requests come over one connection, as from a proxy; 1: a connection for each. */
    share: { type: "string", default: "40" },
    /** Different paths that visitors read; 1, everybody on one page, is the dearest. */
    paths: { type: "string", default: "1" },
    /** Such as "token floor,service": those alone. */
    only: { type: "string" },
    /** With `cluster`: on so many nodes, one number after the other. With `--pages` one number. */
    nodes: { type: "string" },
    /** With `cluster --pages`: the pages come through nginx. */
    proxy: { type: "boolean", default: false },
  },
});
const rounds = Number(values.rounds);

// Servers

/** Host names of the sites; 10,000 must fit into one environment variable. */
function hostsOf(sites: number): string[] {
  return sites === 1 ? ["bench.example"] : Array.from({ length: sites }, (_, site) => `s${site}.io`);
}

function targetsOn(runtime: "bun" | "deno"): Target[] {
  const command = runtime === "bun" ? [process.execPath] : [join(ROOT, "node_modules/.bin/deno"), "run", "-A"];
  const ending = runtime === "bun" ? ".ts" : "-deno.ts";
  return [
    { name: "floor", command: [...command, join(HERE, `floor${ending}`)] },
    { name: "token floor", command: [...command, join(HERE, `token-floor${ending}`)] },
    { name: "service", command: [...command, join(ROOT, "server.ts")] },
  ];
}

/** Starts a server and reads its URL off the ready line; later lines are read and dropped. */
async function startServer(target: Target, hosts: string[]): Promise<{ server: Subprocess; url: string }> {
  const env = {
    DATA: ":memory:",
    MAX_CONNECTIONS: "19900",
    ...process.env,
    HOST: "127.0.0.1",
    PORT: "0",
    TRUST_PROXY: "1",
    SITES: hosts.map((host) => (hosts.length === 1 ? `https://${host}` : host)).join(","),
  };
  const server = adopt(Bun.spawn(target.command, { cwd: ROOT, env, stdout: "pipe", stderr: "inherit" }));
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const timer = setTimeout(() => reject(new Error(`${target.name} is not ready after ${READY_MS / 1000} s`)), READY_MS);
  void (async () => {
    let text = "";
    for await (const chunk of server.stdout.pipeThrough(new TextDecoderStream())) {
      text = (text + chunk).slice(-4096);
      const url = /"event":"ready".*?"url":"([^"]+)"/.exec(text)?.[1];
      if (url) resolve(url);
    }
    reject(new Error(`${target.name} ended before it was ready`));
  })();
  const url = await promise.finally(() => clearTimeout(timer));
  return { server, url };
}

/** Starts a server and its visitors. */
async function start(target: Target, { sites }: Case): Promise<Run> {
  const hosts = hostsOf(target.name === "service" ? sites : 1);
  const { server, url } = await startServer(target, hosts);
  const generator = startGenerator({
    url,
    hosts,
    tokens: target.name !== "floor",
    secondPages: true,
    paths: Number(values.paths),
    share: Number(values.share),
    lanes: Number(values.lanes),
  });
  return {
    async order(order) {
      const before = cpuOf(server.pid);
      const report = await generator.order(order);
      return { ...report, cpu: cpuOf(server.pid) - before };
    },
    memory: () => memoryOf(server.pid),
    async stop() {
      const gone = generator.stop(); // first, or it would complain that its pages were closed
      server.kill("SIGKILL");
      await Promise.all([gone, server.exited]);
    },
  };
}

// Measuring

const libc = dlopen("libc.so.6", { clock_gettime: { args: ["i32", "ptr"], returns: "i32" } });

/** CPU time of a process with all its threads, ended ones too, in milliseconds: /proc/PID/stat, but to the nanosecond. */
function cpuOf(pid: number): number {
  const time = new BigInt64Array(2);
  const PROCESS_CLOCK = 2; // CPUCLOCK_SCHED of include/linux/posix-timers_types.h
  if (libc.symbols.clock_gettime((~pid << 3) | PROCESS_CLOCK, time) !== 0) throw new Error(`process ${pid} is gone`);
  return Number(time[0]) * 1e3 + Number(time[1]) / 1e6;
}

/** Milliseconds of CPU that the machine has spent, and that the benchmark and the processes it started have. */
function cpuOfMachine(): { all: number; own: number } {
  const MS_PER_TICK = 10;
  const [user, nice, system, , , irq, softirq] = numbersIn(readFileSync("/proc/stat", "utf8").split("\n")[0]!);
  const own = numbersIn(readFileSync("/proc/self/stat", "utf8").split(") ")[1]!).slice(10, 14); // utime to cstime
  const sum = (ticks: number[]): number => ticks.reduce((total, tick) => total + tick, 0) * MS_PER_TICK;
  return { all: sum([user!, nice!, system!, irq!, softirq!]), own: sum(own) };
}

const numbersIn = (text: string): number[] => (text.match(/ -?\d+/g) ?? []).map(Number);

/** What pages weigh in a process that is warm: waves of pages have come and gone, so its code is compiled. */
async function measureMemory(run: Run, { pages }: Case): Promise<Figures> {
  for (let wave = 0; wave < WARM_UP.waves; wave++) {
    await run.order({ do: "join", pages: WARM_UP.pages });
    await run.order({ do: "leave", keep: 0 });
  }
  await Bun.sleep(EMPTY_MS);
  const before = run.memory();
  await run.order({ do: "join", pages });
  await Bun.sleep(SETTLE_MS);
  return { "memory per page, bytes": ((run.memory() - before) * 2 ** 20) / pages };
}

/** All pages join. @param which "first" after the start, or "second" */
async function measureStorm(run: Run, { pages }: Case, which: "first" | "second"): Promise<Figures> {
  const storm = await run.order({ do: "join", pages });
  return {
    [`${which} storm: server CPU per page, µs`]: (storm.cpu * 1000) / pages,
    [`${which} storm: until all show the number, ms`]: storm.ms,
    [`${which} storm: frames per join`]: storm.frames / pages,
    [`${which} storm: generator busy, %`]: storm.busy * 100,
  };
}

/** Everybody leaves, and comes again. */
async function measureSecondStorm(run: Run, subject: Case): Promise<Figures> {
  await run.order({ do: "leave", keep: 0 });
  await Bun.sleep(EMPTY_MS);
  return measureStorm(run, subject, "second");
}

/** The first change after a quiet time, again and again. */
async function measureFanout(run: Run): Promise<Figures> {
  const reports: Report[] = [];
  for (let i = 0; i < FANOUTS; i++) reports.push(await run.order({ do: "fanout" }));
  const of = (pick: (times: NonNullable<Report["fanout"]>) => number): number =>
    median(reports.map(({ fanout }) => pick(fanout!)));
  return {
    "fan-out: p50, ms": of((times) => times.p50),
    "fan-out: p99, ms": of((times) => times.p99),
    "fan-out: first to last page, ms": of((times) => times.last - times.first),
  };
}

/** Visitors come one by one to the pages that are open. */
async function measureSteady(run: Run): Promise<Figures> {
  const steady = await run.order({ do: "trickle", ...STEADY });
  return {
    "steady joins: server CPU, % of a core": (steady.cpu / steady.ms) * 100,
    "steady joins: frames per join": steady.frames / STEADY.pages,
  };
}

async function measureIdle(run: Run, seconds: number): Promise<Figures> {
  const idle = await run.order({ do: "idle", seconds });
  return {
    "idle: server CPU, % of a core": (idle.cpu / idle.ms) * 100,
    "idle: frames and pings a second": (idle.frames + idle.pings) / seconds,
  };
}

async function measureLeave(run: Run, { pages }: Case): Promise<Figures> {
  const leave = await run.order({ do: "leave", keep: 1 });
  return {
    "leave storm: server CPU per page, µs": (leave.cpu * 1000) / pages,
    "leave storm: until the last one shows it, ms": leave.ms,
    "leave storm: frames per leave": leave.frames / pages,
    "leave storm: generator busy, %": leave.busy * 100,
  };
}

/** Starts a server for one measurement. */
async function withServer(target: Target, subject: Case, work: (run: Run) => Promise<Figures>): Promise<Figures> {
  const run = await start(target, subject);
  try {
    return await work(run);
  } finally {
    await run.stop();
  }
}

async function measureStorms(run: Run, subject: Case): Promise<Figures> {
  return { ...(await measureStorm(run, subject, "first")), ...(await measureSecondStorm(run, subject)) };
}

/** All figures of one round. */
async function measure(target: Target, subject: Case, idleSeconds: number): Promise<Figures> {
  if (positionals.includes("storms")) return withServer(target, subject, (run) => measureStorms(run, subject));
  if (positionals.includes("memory")) return withServer(target, subject, (run) => measureMemory(run, subject));
  const life = await withServer(target, subject, (run) => measureLife(run, subject, idleSeconds));
  return { ...life, ...(await withServer(target, subject, (run) => measureMemory(run, subject))) };
}

/** The whole life of one server. */
async function measureLife(run: Run, subject: Case, idleSeconds: number): Promise<Figures> {
  const storm = await measureStorm(run, subject, "first");
  await Bun.sleep(SETTLE_MS);
  return {
    ...storm,
    ...(await measureFanout(run)),
    ...(idleSeconds > 0 && (await measureIdle(run, idleSeconds))),
    ...(await measureSteady(run)),
    ...(await measureLeave(run, subject)),
    ...(await measureSecondStorm(run, subject)),
  };
}

// The table

/** Figures by case and target, one entry a round. */
type Results = Map<Case, Map<TargetName, Figures[]>>;

function caseName({ pages, sites }: Case): string {
  const count = `${pages.toLocaleString("en")} pages`;
  return sites === 1 ? count : `${count}, ${sites.toLocaleString("en")} sites`;
}

function rowsOf(results: Results): string[][] {
  const names = new Set([...results.values()].flatMap((targets) => [...targets.values()].flat().flatMap(Object.keys)));
  const rows = [["measure (medians)", "", ...TARGET_NAMES, "× floor", "× token floor"]];
  for (const name of names) {
    for (const [subject, targets] of results) {
      const medians = TARGET_NAMES.map((target) =>
        median((targets.get(target) ?? []).map((figures) => figures[name] ?? NaN)),
      );
      const [floor, tokenFloor, service] = medians as [number, number, number];
      if (medians.every(Number.isNaN)) continue;
      const cells = [...medians, service / floor, service / tokenFloor].map(short);
      rows.push([name, caseName(subject), ...cells]);
    }
  }
  return rows;
}

/** Three significant digits, as far as they mean something. */
function short(number = NaN): string {
  if (Number.isNaN(number)) return "–";
  return Math.abs(number) >= 100 ? number.toFixed(0) : number.toPrecision(3);
}

function print(results: Results): void {
  const rows = rowsOf(results);
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const lines = rows.map((row) =>
    row.map((cell, column) => (column < 2 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!))).join(" | "),
  );
  lines.splice(1, 0, widths.map((width) => "-".repeat(width)).join("-|-"));
  console.log(lines.map((line) => `| ${line} |`).join("\n"));
}

// Main

function casesOf(modes: string[]): Case[] {
  if (modes.includes("sites"))
    return [1, 100, 10_000].map((sites) => ({ pages: Number(values.pages ?? 10_000), sites }));
  const pages = values.pages ?? (modes.includes("curve") ? "1000,5000,10000,18000" : "5000,18000");
  return pages.split(",").map((count) => ({ pages: Number(count), sites: 1 }));
}

/** Tells how much of the machine was taken by what has nothing to do with the benchmark: that blurs its figures. */
function printDisturbance(before: { all: number; own: number }, ms: number): void {
  const { all, own } = cpuOfMachine();
  const others = (all - before.all - (own - before.own)) / ms;
  console.log(
    `\nOther processes used ${(others * 100).toFixed(0)} % of a core meanwhile; this machine has ${cpus().length}.`,
  );
}

async function main(): Promise<void> {
  const before = cpuOfMachine();
  const startedAt = performance.now();
  const cases = casesOf(positionals);
  const all = targetsOn(positionals.includes("deno") ? "deno" : "bun");
  const targets = all.filter(({ name }) => values.only === undefined || values.only.split(",").includes(name));
  const most = Math.max(...cases.map(({ pages }) => pages));
  const results: Results = new Map(cases.map((subject) => [subject, new Map()]));
  for (let round = 0; round < rounds; round++) {
    for (const subject of cases) {
      for (const target of round % 2 === 0 ? targets : targets.toReversed()) {
        const figures = await measure(target, subject, subject.pages === most ? Number(values.idle) : 0);
        const ofCase = results.get(subject)!;
        ofCase.set(target.name, [...(ofCase.get(target.name) ?? []), figures]);
        console.error(`round ${round + 1}, ${target.name}, ${caseName(subject)}: ${JSON.stringify(figures)}`);
      }
    }
  }
  print(results);
  printDisturbance(before, performance.now() - startedAt);
}

process.on("SIGINT", () => process.exit(130));
process.on("SIGTERM", () => process.exit(143));
process.on("exit", removeLeftovers);

if (positionals.includes("page")) await benchPage(rounds);
else if (positionals.includes("stalls")) await stalls(positionals.includes("deno") ? "deno" : "bun");
else if (!positionals.includes("cluster")) await main();
else if (values.pages === undefined) await cluster((values.nodes ?? "1,3").split(",").map(Number));
else await manyPages(Number(values.pages), Number(values.nodes ?? 2), values.proxy);
process.exit(0);
