/**
 * Ordinary life with many pages, for minutes: `npm run soak -- --minutes 5 --pages 2000 [--runtime deno]`. People come,
 * open more tabs, reload, walk, leave, die without a word and are refused. At the end the service counts exactly those
 * who are there, and needs no more memory than when everybody had come.
 */
import { parseArgs } from "node:util";
import { ask, type Page, type Visitor } from "./support/client.ts";
import { crowd, Ordeal, unlimited } from "./support/hostile.ts";
import { memoryOf, openFilesOf } from "./support/process.ts";
import { endServices, type Runtime, Service } from "./support/service.ts";
import { sleep, until } from "./support/waiting.ts";

/** Somebody with a browser, and the pages that they have open in it. */
type Person = { visitor: Visitor; pages: Page[] };

const paths = Array.from({ length: 50 }, (_, at) => `/article/${at}`);
const any = <T>(from: readonly T[]): T => from[Math.floor(Math.random() * from.length)]!;

class Town {
  readonly it: Ordeal;
  readonly people: Person[] = [];
  readonly done: Record<string, number> = {};
  /** Pages whose link is dead, and that nobody has told the service about. */
  dying: Page[] = [];

  constructor(it: Ordeal) {
    this.it = it;
  }

  async join(): Promise<void> {
    const visitor = this.it.visitor();
    this.people.push({ visitor, pages: [await visitor.open(any(paths))] });
    this.#did("joined");
  }

  /** One thing that somebody does. */
  async act(): Promise<void> {
    const person = any(this.people);
    const dice = Math.random();
    if (dice < 0.2) await this.#replace(person, () => this.#end(person, (page) => page.close()));
    else if (dice < 0.25) await this.#replace(person, () => this.#end(person, (page) => page.vanish()));
    else if (dice < 0.28) await this.#replace(person, () => this.#end(person, (page) => this.#die(page)));
    else if (dice < 0.4 && person.pages.length < 4) await this.#another(person, "opened a tab");
    else if (dice < 0.6) await this.#reload(person);
    else if (dice < 0.7) await this.#refused(person);
    else await this.#walk(person);
  }

  /** Somebody goes, and somebody new comes for them. */
  async #replace(person: Person, leave: () => Promise<void>): Promise<void> {
    const at = this.people.indexOf(person);
    if (at < 0) return; // somebody else has just shown them out
    this.people.splice(at, 1);
    await leave();
    await this.join();
  }

  async #end({ pages }: Person, how: (page: Page) => unknown): Promise<void> {
    for (const page of pages.splice(0)) await how(page);
    this.#did("left");
  }

  #die(page: Page): void {
    page.silent = true;
    page.stopReading();
    this.dying.push(page);
    this.#did("died silently");
  }

  async #another(person: Person, what: string): Promise<void> {
    const page = await person.visitor.open(any(paths));
    if (this.people.includes(person)) person.pages.push(page);
    else page.vanish();
    this.#did(what);
  }

  async #reload(person: Person): Promise<void> {
    person.pages.pop()?.vanish();
    await this.#another(person, "reloaded");
  }

  async #walk(person: Person): Promise<void> {
    person.pages.at(-1)?.send({ page: any(paths) });
    person.pages.at(-1)?.send({ active: Math.random() < 0.5 });
    await sleep(1);
    this.#did("walked");
  }

  async #refused({ visitor }: Person): Promise<void> {
    const { status } = await visitor.upgrade("no token");
    if (status !== 403) throw new Error(`a bad token got ${status}`);
    const { status: bad } = await visitor.token("no JSON");
    if (bad !== 400) throw new Error(`a bad body got ${bad}`);
    this.#did("were refused");
  }

  #did(what: string): void {
    this.done[what] = (this.done[what] ?? 0) + 1;
  }
}

async function soak(runtime: Runtime, minutes: number, population: number, rate: number): Promise<void> {
  const service = await Service.start(runtime, { ...unlimited, SITES: "own.example", HEARTBEAT_SECONDS: 10 });
  const it = await Ordeal.begin(service, "own.example");
  const town = new Town(it);
  await crowd(Array.from({ length: population }), 16, () => town.join());
  const full = memoryOf(service.pid);
  const began = performance.now();
  const end = began + minutes * 60_000;
  let report = began + 30_000;
  let highest = full;
  const life = async (): Promise<void> => {
    for (let next = performance.now(); next < end; next += 8_000 / rate) {
      await sleep(Math.max(0, next - performance.now()));
      await town.act();
    }
  };
  const watch = async (): Promise<void> => {
    for (; performance.now() < end; await sleep(1_000)) {
      highest = Math.max(highest, memoryOf(service.pid));
      if (performance.now() < report) continue;
      report += 30_000;
      process.stdout.write(
        `  ${((performance.now() - began) / 60_000).toFixed(1)} min: ${memoryOf(service.pid).toFixed(0)} MB, ${openFilesOf(service.pid)} files, count ${await it.count()}\n`,
      );
    }
  };
  await Promise.all([watch(), ...Array.from({ length: 8 }, life)]);
  const expected = town.people.length + 1; // and the one who watches
  let counted = -1;
  await until("drift is 0", async () => (counted = await it.count()) === expected, 60_000).catch(() => {});
  const after = memoryOf(service.pid);
  const shown = it.watcher.now.site ?? -1;
  const acts = Object.entries(town.done).map(([what, times]) => `${times} ${what}`);
  process.stdout.write(`soak (${runtime}): ${minutes} min, ${population} visitors: ${acts.join(", ")}\n`);
  process.stdout.write(
    `  drift ${counted - expected} (expected ${expected}, /count ${counted}, a page shows ${shown})\n`,
  );
  process.stdout.write(
    `  memory ${it.memoryBefore.toFixed(0)} MB empty, ${full.toFixed(0)} full, ${highest.toFixed(0)} highest, ${after.toFixed(0)} at the end\n`,
  );
  for (const { pages } of town.people) for (const page of pages) page.vanish();
  for (const page of town.dying) page.vanish();
  await it.survives(0, 60_000);
  process.stdout.write(`  everybody gone: ${memoryOf(service.pid).toFixed(0)} MB, ${openFilesOf(service.pid)} files\n`);
  if (counted !== expected || shown !== expected) throw new Error("the count has drifted");
  expectNoErrors(await ask(service.url, "GET /healthz"), service);
}

function expectNoErrors({ status }: { status: number }, { logs }: Service): void {
  const errors = logs.filter(({ level }) => level === "error");
  if (status !== 200 || errors.length > 0) throw new Error(`the service is not well: ${JSON.stringify(errors[0])}`);
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
