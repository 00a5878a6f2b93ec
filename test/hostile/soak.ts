/**
 * Ordinary traffic of many pages, for minutes: `npm run soak -- --minutes 5 --pages 2000 [--runtime deno]`. Visitors come,
 * open more tabs, reload, walk to other pages, leave, lose their link and are refused. At the end the service counts exactly
 * those who are there, and needs no more memory than when everybody had come.
 */
import { parseArgs } from "node:util";
import { ask, type Connection, type Visitor } from "../support/client.ts";
import { memoryOf, openFilesOf } from "../support/process.ts";
import { endServices, type Runtime, type Service } from "../support/service.ts";
import { Target, times } from "../support/target.ts";
import { sleep, until } from "../support/waiting.ts";

/** A visitor, and the connections of the pages that they have open. */
type Person = { visitor: Visitor; connections: Connection[] };

const paths = Array.from({ length: 50 }, (_, at) => `/article/${at}`);
const any = <T>(from: readonly T[]): T => from[Math.floor(Math.random() * from.length)]!;

/** Everybody on the site, and what they do. Their number stays the same: for each who leaves, somebody new comes. */
class Crowd {
  readonly target: Target;
  readonly people: Person[] = [];
  /** How often each thing was done. */
  readonly done: Record<string, number> = {};
  /** Connections whose link is dead, of which the service has not been told. */
  dead: Connection[] = [];

  constructor(target: Target) {
    this.target = target;
  }

  async join(): Promise<void> {
    const visitor = this.target.visitor();
    this.people.push({ visitor, connections: [await visitor.open(any(paths))] });
    this.#note("joined");
  }

  /** Lets one person do one thing. */
  async act(): Promise<void> {
    const person = any(this.people);
    const dice = Math.random();
    if (dice < 0.2) await this.#replace(person, (connection) => connection.close());
    else if (dice < 0.25) await this.#replace(person, (connection) => connection.vanish());
    else if (dice < 0.28) await this.#replace(person, (connection) => this.#die(connection));
    else if (dice < 0.4 && person.connections.length < 4) await this.#openTab(person, "opened a tab");
    else if (dice < 0.6) await this.#reload(person);
    else if (dice < 0.7) await this.#beRefused(person);
    else await this.#walk(person);
  }

  /** Ends all connections of a person, and lets somebody new come. */
  async #replace(person: Person, end: (connection: Connection) => unknown): Promise<void> {
    const at = this.people.indexOf(person);
    if (at < 0) return; // another act has just replaced them
    this.people.splice(at, 1);
    for (const connection of person.connections.splice(0)) await end(connection);
    this.#note("left");
    await this.join();
  }

  #die(connection: Connection): void {
    connection.silent = true;
    connection.stopReading();
    this.dead.push(connection);
    this.#note("died silently");
  }

  async #openTab(person: Person, what: string): Promise<void> {
    const connection = await person.visitor.open(any(paths));
    if (this.people.includes(person)) person.connections.push(connection);
    else connection.vanish();
    this.#note(what);
  }

  async #reload(person: Person): Promise<void> {
    person.connections.pop()?.vanish();
    await this.#openTab(person, "reloaded");
  }

  async #walk(person: Person): Promise<void> {
    person.connections.at(-1)?.send({ page: any(paths) });
    person.connections.at(-1)?.send({ active: Math.random() < 0.5 });
    await sleep(1);
    this.#note("walked");
  }

  async #beRefused({ visitor }: Person): Promise<void> {
    const { status } = await visitor.upgrade("no token");
    if (status !== 403) throw new Error(`a bad token got ${status}`);
    const { status: bad } = await visitor.token("no JSON");
    if (bad !== 400) throw new Error(`a bad body got ${bad}`);
    this.#note("were refused");
  }

  #note(what: string): void {
    this.done[what] = (this.done[what] ?? 0) + 1;
  }
}

/** Lets people act for some minutes. Returns the peak of the service's memory in MB. */
async function live(crowd: Crowd, minutes: number, actsPerSecond: number): Promise<number> {
  const { target } = crowd;
  const { pid } = target.service;
  const began = performance.now();
  const end = began + minutes * 60_000;
  const workers = 8;
  const act = async (): Promise<void> => {
    for (let next = performance.now(); next < end; next += (workers * 1_000) / actsPerSecond) {
      await sleep(Math.max(0, next - performance.now()));
      await crowd.act();
    }
  };
  let peak = memoryOf(pid);
  let reportAt = began + 30_000;
  const watch = async (): Promise<void> => {
    for (; performance.now() < end; await sleep(1_000)) {
      peak = Math.max(peak, memoryOf(pid));
      if (performance.now() < reportAt) continue;
      reportAt += 30_000;
      const time = ((performance.now() - began) / 60_000).toFixed(1);
      const { site } = await target.count();
      print(`  ${time} min: ${memoryOf(pid).toFixed(0)} MB, ${openFilesOf(pid)} files, count ${site}`);
    }
  };
  await Promise.all([watch(), ...Array.from({ length: workers }, act)]);
  return peak;
}

async function soak(runtime: Runtime, minutes: number, population: number, rate: number): Promise<void> {
  const target = await Target.start(runtime, { HEARTBEAT_SECONDS: 10 });
  const { service } = target;
  const crowd = new Crowd(target);
  await times(population, 16, () => crowd.join());
  const full = memoryOf(service.pid);
  const peak = await live(crowd, minutes, rate);

  const expected = crowd.people.length + 1; // and the watcher
  let counted = -1;
  const isExact = async (): Promise<boolean> => (counted = (await target.count()).site) === expected;
  await until("the count is exact", isExact, 60_000).catch(() => {}); // reported below
  const shown = target.watcher.now.site ?? -1;
  const acts = Object.entries(crowd.done).map(([what, times]) => `${times} ${what}`);
  const [before, ...memory] = [target.memoryBefore, full, peak, memoryOf(service.pid)].map((mb) => mb.toFixed(0));
  print(`soak (${runtime}): ${minutes} min, ${population} visitors: ${acts.join(", ")}`);
  print(`  drift ${counted - expected} (expected ${expected}, /count ${counted}, the watcher shows ${shown})`);
  print(`  memory ${before} MB empty, ${memory[0]} full, ${memory[1]} highest, ${memory[2]} at the end`);

  for (const { connections } of crowd.people) for (const connection of connections) connection.vanish();
  for (const connection of crowd.dead) connection.vanish();
  await target.survives(0, 60_000);
  print(`  everybody gone: ${memoryOf(service.pid).toFixed(0)} MB, ${openFilesOf(service.pid)} files`);
  if (counted !== expected || shown !== expected) throw new Error("the count has drifted");
  await throwOnErrors(service);
}

async function throwOnErrors({ url, logs }: Service): Promise<void> {
  const { status } = await ask(url, "GET /healthz");
  const error = logs.find(({ level }) => level === "error");
  if (status !== 200 || error)
    throw new Error(`/healthz is ${status}, and the service logged ${JSON.stringify(error)}`);
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

const { values } = parseArgs({
  args: process.argv.slice(2),
  options: {
    minutes: { type: "string", default: "5" },
    pages: { type: "string", default: "2000" },
    rate: { type: "string", default: "60" },
    runtime: { type: "string", default: "bun" },
  },
});
await soak(values.runtime as Runtime, Number(values.minutes), Number(values.pages), Number(values.rate));
endServices();
process.exit(0);
