/** A site under attack, and what must still be true of its service afterwards. */
import { expect } from "bun:test";
import { ask, type Connection, Visitor } from "./client.ts";
import { memoryOf } from "./process.ts";
import { type Launch, type Runtime, Service, type Settings } from "./service.ts";
import { graceSeconds, TestSite, unlimited } from "./site.ts";
import { sleep, until } from "./waiting.ts";

/** How much memory may remain: collectors are lazy, and allocators keep pages. A leak shows as much more than this. */
const slackMb = 64;

/** The name of the site where a service has only one. */
export const ownSite = "own.example";

/** Memory of each service in MB, after it had served some visitors and before it was attacked. */
const memoryBefore = new WeakMap<Service, number>();

/** A site with a watcher: a page that is open all the time and sees each count. */
export class Target extends TestSite {
  readonly watcher: Connection;

  private constructor({ service, name, url }: TestSite, watcher: Connection) {
    super(service, name, url);
    this.watcher = watcher;
  }

  /** Takes a site as a target. The service serves some visitors first, so that its memory before the attack is known. */
  static async on(site: TestSite): Promise<Target> {
    const { service, url, origin } = site;
    if (!memoryBefore.has(service)) {
      memoryBefore.set(service, memoryOf(service.pid));
      for (let round = 0; round < 10; round++) {
        const headers = { "x-forwarded-for": `203.0.113.${round}` }; // the service may have low limits
        await (await new Visitor(url, origin, { headers }).open("/warm")).close();
      }
      await Promise.all(Array.from({ length: 100 }, () => ask(url, "GET /count")));
      memoryBefore.set(service, memoryOf(service.pid));
    }
    return new Target(site, await new Visitor(url, origin).open("/watched"));
  }

  /** Starts a service with one site, for attacks that would disturb other tests. */
  static async start(runtime: Runtime, settings: Settings = {}, launch: Launch = {}): Promise<Target> {
    const all = { ...unlimited, GRACE_SECONDS: graceSeconds, SITES: ownSite, ...settings };
    return Target.on(new TestSite(await Service.start(runtime, all, launch), ownSite));
  }

  /** The same site after a restart of its service, which closed the watcher. */
  again(): Promise<Target> {
    return Target.on(new TestSite(this.service, this.name));
  }

  get memoryBefore(): number {
    return memoryBefore.get(this.service) ?? 0;
  }

  /** How many WebSockets the service holds, according to its metrics. */
  connections(): Promise<number> {
    return this.service.metric("headcount_connections");
  }

  /** How many views of the site the journal has written. */
  async recordedViews(): Promise<number> {
    const { pages = [] } = (await ask(this.url, `GET /reading?site=${this.name}`)).json ?? {};
    return pages.reduce((sum: number, { views }: { views: number }) => sum + views, 0);
  }

  /**
   * Asserts that the service is alive, that `GET /count` and the watcher say `others` visitors and the watcher, and that
   * memory is back where it was.
   */
  async survives(others = 0, ms = 20_000, slack = slackMb): Promise<void> {
    expect((await ask(this.url, "GET /healthz")).status).toBe(200);
    const expected = 1 + others;
    let last = -1;
    const isCounted = async (): Promise<boolean> => (last = (await this.count()).site) === expected;
    await until(`/count of ${this.name} says ${expected}`, isCounted, ms).catch((error: unknown) => {
      throw new Error(`the count is ${last}`, { cause: error });
    });
    await this.watcher.shows({ site: expected }, ms);
    expect(this.watcher.frames.every(({ site = 0 }) => Number.isInteger(site) && site >= 0)).toBe(true);
    const bound = this.memoryBefore + slack;
    const memoryIsBack = () => this.#memoryIsBack(bound);
    await until(`memory is back under ${bound.toFixed(0)} MB`, memoryIsBack, 60_000).catch((error: unknown) => {
      throw new Error(`${memoryOf(this.service.pid).toFixed(0)} MB are held`, { cause: error });
    });
  }

  /** Collectors run when something happens, so this makes ordinary requests. */
  async #memoryIsBack(bound: number): Promise<boolean> {
    if (memoryOf(this.service.pid) <= bound) return true;
    await Promise.all(Array.from({ length: 20 }, () => ask(this.url, "GET /healthz")));
    await sleep(200);
    return false;
  }
}

/** Takes errors that a test provoked out of the log of a service, so that `endServices` reports only the others. */
export function ignoreErrors(service: Service, event: RegExp): void {
  service.logs = service.logs.filter((line) => line.level !== "error" || !event.test(line.event));
}

/** Prints a measurement for whoever reads the output. */
export function printMeasurement(runtime: Runtime, text: string): void {
  process.stderr.write(`measured (${runtime}): ${text}\n`);
}

/** Runs `work` for each item, at most `limit` of them at a time. */
export async function mapConcurrently<T, R>(
  items: Iterable<T>,
  limit: number,
  work: (item: T) => Promise<R>,
): Promise<R[]> {
  const queue = [...items].entries();
  const results: R[] = [];
  const worker = async (): Promise<void> => {
    for (const [at, item] of queue) results[at] = await work(item);
  };
  await Promise.all(Array.from({ length: limit }, worker));
  return results;
}

/** Runs `work` so many times with the numbers from 0, at most `limit` of them at a time. */
export const times = <R>(count: number, limit: number, work: (number: number) => Promise<R>): Promise<R[]> =>
  mapConcurrently(Array.from({ length: count }).keys(), limit, work);
