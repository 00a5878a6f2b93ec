/** What an enemy of the service has, and what is asserted after each of its attacks. */
import { expect } from "bun:test";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { ask, encodeFrame, type Page, Visitor } from "./client.ts";
import { atTheEnd } from "./leftovers.ts";
import { memoryOf } from "./process.ts";
import type { Runtime, Service, Settings } from "./service.ts";
import { sleep, until } from "./waiting.ts";

// -------------------------------------------------------------------------------------------------------- invariant

/** Collectors are lazy and allocators keep what they have: what may stay of an attack. A leak shows as much more. */
const slackMb = 64;
const graceSeconds = 1;

/** No limit is in the way of one machine that plays many. */
export const unlimited: Settings = {
  GRACE_SECONDS: graceSeconds,
  MAX_TOKENS_PER_IP: 1_000_000,
  MAX_VISITORS_PER_IP: 1_000_000,
  MAX_PAGES_PER_IP: 1_000_000,
};

/** Memory of each service when it had served somebody, and before it was attacked. */
const memoryBefore = new WeakMap<Service, number>();

/** One site of a service with one page on it that watches, and what must be true after an attack. */
export class Ordeal {
  readonly service: Service;
  readonly url: string;
  readonly site: string;
  readonly watcher: Page;

  private constructor(service: Service, site: string, url: string, watcher: Page) {
    this.service = service;
    this.url = url;
    this.site = site;
    this.watcher = watcher;
  }

  /** @param url where its visitors find it, when that is not the service's own address */
  static async begin(service: Service, site: string, url = service.url): Promise<Ordeal> {
    if (!memoryBefore.has(service)) {
      memoryBefore.set(service, memoryOf(service.pid));
      for (let round = 0; round < 10; round++) {
        const headers = { "x-forwarded-for": `203.0.113.${round}` }; // for services with low limits
        await (await new Visitor(url, `https://${site}`, { headers }).open("/warm")).close();
      }
      await Promise.all(Array.from({ length: 100 }, () => ask(url, "GET /count")));
      memoryBefore.set(service, memoryOf(service.pid));
    }
    const watcher = await new Visitor(url, `https://${site}`).open("/watched");
    return new Ordeal(service, site, url, watcher);
  }

  get memoryBefore(): number {
    return memoryBefore.get(this.service) ?? 0;
  }

  visitor(headers = {}): Visitor {
    return new Visitor(this.url, `https://${this.site}`, { headers });
  }

  async token(body?: object): Promise<string> {
    return (await this.visitor().token(body)).json.token;
  }

  async count(): Promise<number> {
    return (await ask(this.url, `GET /count?site=${this.site}`)).json.site;
  }

  /** The three things: it is alive, it counts the watcher and `others` as /count and the watcher's page say, and memory. */
  async survives(others = 0, ms = 20_000, slack = slackMb): Promise<void> {
    expect((await ask(this.url, "GET /healthz")).status).toBe(200);
    const expected = 1 + others;
    let last = -1;
    await until(
      `/count of ${this.site} says ${expected}`,
      async () => (last = await this.count()) === expected,
      ms,
    ).catch((error: unknown) => {
      throw new Error(`the count is ${last}`, { cause: error });
    });
    await this.watcher.shows({ site: expected }, ms);
    expect(this.watcher.frames.every(({ site = 0 }) => Number.isInteger(site) && site >= 0)).toBe(true);
    const bound = this.memoryBefore + slack;
    await until(`memory is back under ${bound.toFixed(0)} MB`, () => this.#memoryIsBack(bound), 60_000).catch(
      (error: unknown) => {
        throw new Error(`${memoryOf(this.service.pid).toFixed(0)} MB are held`, { cause: error });
      },
    );
  }

  /** Collectors run when something happens: ordinary requests are what happens. */
  async #memoryIsBack(bound: number): Promise<boolean> {
    if (memoryOf(this.service.pid) <= bound) return true;
    await Promise.all(Array.from({ length: 20 }, () => ask(this.url, "GET /healthz")));
    await sleep(200);
    return false;
  }
}

/** Takes errors that a test provoked out of a service's log, so that `endServices` complains of all others only. */
export function forgive(service: Service, event: RegExp): void {
  service.logs = service.logs.filter((line) => line.level !== "error" || !event.test(line.event));
}

/** Something measured, for whoever reads along. */
export function figure(runtime: Runtime, text: string): void {
  process.stderr.write(`measured (${runtime}): ${text}\n`);
}

/** `work` for each, `width` of them at a time. */
export async function crowd<T, R>(items: Iterable<T>, width: number, work: (item: T) => Promise<R>): Promise<R[]> {
  const queue = [...items].entries();
  const results: R[] = [];
  const worker = async (): Promise<void> => {
    for (const [at, item] of queue) results[at] = await work(item);
  };
  await Promise.all(Array.from({ length: width }, worker));
  return results;
}

// -------------------------------------------------------------------------------------------------------- raw bytes

export type Heard = { text: string; statuses: number[]; closed: boolean; ms: number };
export type Manner = {
  /** Sent again and again, every so many milliseconds. */
  drip?: string;
  every?: number;
  /** How long to listen, unless it is closed before. */
  ms?: number;
};

/** Bytes over TCP as they are, and what comes back until the connection ends or `ms` have passed. */
export function raw(url: string, bytes: string | Uint8Array, { drip, every = 2_000, ms = 5_000 }: Manner = {}) {
  const { hostname, port } = new URL(url);
  const began = performance.now();
  const { promise, resolve } = Promise.withResolvers<Heard>();
  const parts: Buffer[] = [];
  const socket = connect({ host: hostname, port: Number(port) });
  const end = (closed: boolean): void => {
    clearTimeout(timer);
    clearInterval(dripping);
    socket.destroy();
    const text = Buffer.concat(parts).toString("latin1");
    const statuses = [...text.matchAll(/HTTP\/1\.[01] (\d+)/g)].map(([, status]) => Number(status));
    resolve({ text, statuses, closed, ms: performance.now() - began });
  };
  const timer = setTimeout(() => end(false), ms);
  const dripping = drip === undefined ? undefined : setInterval(() => socket.write(drip), every);
  socket.on("data", (data: Buffer) => parts.push(data));
  socket
    .on("error", () => end(true))
    .on("end", () => end(true))
    .on("close", () => end(true));
  socket.write(bytes);
  return promise;
}

/** The handshake as text, to be sent with what should not be in it. */
export const handshake = (url: string, origin: string, token: string, more = ""): string =>
  [
    `GET /ws?token=${token} HTTP/1.1`,
    `Host: ${new URL(url).host}`,
    `Origin: ${origin}`,
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    `Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==`,
    `${more}\r\n`,
  ].join("\r\n") + (more ? "\r\n" : "");

/** Goes away by RST, in the middle of whatever it was. */
export async function reset(url: string, bytes: string, afterMs = 0): Promise<void> {
  const { hostname, port } = new URL(url);
  const socket = connect({ host: hostname, port: Number(port) });
  socket.on("error", () => {});
  await new Promise((resolve) => socket.once("connect", resolve).once("close", resolve));
  socket.write(bytes);
  if (afterMs) await sleep(afterMs);
  socket.resetAndDestroy();
}

export const textFrame = (text: string): Buffer => encodeFrame(1, Buffer.from(text));

// ------------------------------------------------------------------------------------------------------------ links

const options = { stdin: "ignore", stdout: "ignore", stderr: "ignore" } as const;
/** Not in sync: under load a dozen of these take seconds, in which all other tests would stand still. */
const run = async (...command: string[]): Promise<boolean> => (await Bun.spawn(command, options).exited) === 0;

/** A way to a service that can be cut for one page, so that nobody is told: neither FIN nor RST. */
export interface Link {
  /** What the service has to be started inside of, and the address that it has there. */
  readonly inside: string[];
  readonly host: string;
  readonly name: string;
  /** The URL for visitors of a service that listens at `url`. */
  to(url: string): Promise<string>;
  cut(page: Page): Promise<void>;
}

let namespaces = 0;

/** A network namespace with iptables in it, where this user may make one, else a TCP proxy. */
export async function makeLink(): Promise<Link> {
  const id = `hc${process.pid % 1_000_000}x${namespaces++}`;
  const net = `10.${200 + Math.floor(Math.random() * 50)}.${Math.floor(Math.random() * 256)}`;
  const [here, there] = [`${net}.1`, `${net}.2`];
  const inside = ["ip", "netns", "exec", id];
  const steps = [
    `ip netns add ${id}`,
    `ip link add ${id} type veth peer name up0 netns ${id}`,
    `ip addr add ${here}/30 dev ${id}`,
    `ip link set ${id} up`,
    `ip -n ${id} addr add ${there}/30 dev up0`,
    `ip -n ${id} link set up0 up`,
    `ip -n ${id} link set lo up`,
    `ip netns exec ${id} iptables -L -n`,
  ];
  atTheEnd(() => Bun.which("ip", { PATH: toolPath }) && Bun.spawnSync(["ip", "netns", "del", id], options));
  if (Bun.which("ip", { PATH: toolPath }) === null) return new StallingProxy();
  for (const step of steps) if (!(await run(...step.split(" ")))) return new StallingProxy();
  const drop = async (...packets: string[]): Promise<void> => {
    if (!(await run(...inside, "iptables", "-A", ...packets, "-j", "DROP"))) throw new Error("Cannot drop packets");
  };
  return {
    inside,
    host: there,
    name: "packets dropped both ways in a network namespace",
    to: (url) => Promise.resolve(url),
    cut: async ({ port }) => {
      // On this link only: behind it, nginx may talk to the service from a port of the same number.
      await drop("INPUT", "-i", "up0", "-p", "tcp", "--sport", String(port));
      await drop("OUTPUT", "-o", "up0", "-p", "tcp", "--dport", String(port));
    },
  };
}

const toolPath = [process.env["PATH"], "/usr/sbin", "/sbin"].join(":");

/** Forwards bytes until a page is cut off; then neither side hears anything any more, and both stay connected. */
class StallingProxy implements Link {
  readonly inside = [];
  readonly host = "127.0.0.1";
  readonly name = "a TCP proxy that stops forwarding";
  readonly #server: Server = createServer({ allowHalfOpen: true });
  readonly #pairs = new Map<number, [Socket, Socket]>();

  async to(url: string): Promise<string> {
    const { protocol, hostname, port } = new URL(url);
    this.#server.on("connection", (near: Socket) => {
      const far = connect({ host: hostname, port: Number(port) });
      this.#pairs.set(near.remotePort ?? 0, [near, far]);
      near.pipe(far).pipe(near);
      near.on("error", () => far.destroy());
      far.on("error", () => near.destroy());
    });
    atTheEnd(() => this.#server.close());
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `${protocol}//127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async cut({ port }: Page): Promise<void> {
    const [near, far] = this.#pairs.get(port) ?? [];
    if (!near || !far) throw new Error("Cannot find the link to cut");
    near.unpipe(far).pause();
    far.unpipe(near).pause();
  }
}
