/**
 * Random nonsense and half-sense at every layer, from a seed: `npm run fuzz -- --seed 7 --seconds 120 [--runtime deno]`.
 * At the end nobody is online but the watcher, the process is alive and memory is back. What it has found are tests in
 * hostile.test.ts.
 */
import { connect } from "node:net";
import { parseArgs } from "node:util";
import { ask, encodeFrame, type Page, upgrade } from "./support/client.ts";
import { handshake, Ordeal, reset, textFrame, unlimited } from "./support/hostile.ts";
import { memoryOf } from "./support/process.ts";
import { endServices, type Runtime, runtimes, Service } from "./support/service.ts";
import { sleep } from "./support/waiting.ts";

/** mulberry32: small, and the same everywhere. */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  chance(share: number): boolean {
    return this.next() < share;
  }

  pick<T>(choices: readonly [T, ...T[]]): T {
    return choices[this.below(choices.length)] ?? choices[0];
  }

  bytes(limit: number): Buffer {
    return Buffer.from(Array.from({ length: this.below(limit) }, () => this.below(256)));
  }

  /** Some of its bytes are others, missing, or there twice. */
  spoil(bytes: Buffer): Buffer {
    const spoilt = [...bytes];
    for (let times = 1 + this.below(4); times > 0; times--) {
      const at = this.below(spoilt.length + 1);
      const what = this.below(4);
      if (what === 0) spoilt[at] = this.below(256);
      else if (what === 1) spoilt.splice(at, 1 + this.below(8));
      else if (what === 2) spoilt.splice(at, 0, ...this.bytes(20));
      else spoilt.splice(at, 0, ...spoilt.slice(at, at + this.below(200)));
    }
    return Buffer.from(spoilt);
  }
}

const routes = [
  "/",
  "/token",
  "/ws",
  "/count",
  "/badge.svg",
  "/reading",
  "/dashboard",
  "/dashboard/history",
  "/metrics",
  "/healthz",
  "/readyz",
  "/widget.js",
  "/check",
  "/check/request",
  "/nothing",
] as const;
const odd = [
  "",
  "null",
  "https://own.example",
  "http://[::1",
  "a, b",
  "\u001b[31m",
  "é",
  "%",
  "%00",
  "..",
  "Basic YTpi",
  "websocket",
  "0",
  "-1",
  "1e999",
  "chunked",
  "x".repeat(3000),
] as const;
const names = [
  "Host",
  "Origin",
  "Referer",
  "Cookie",
  "Authorization",
  "Upgrade",
  "Connection",
  "Content-Length",
  "Transfer-Encoding",
  "X-Forwarded-For",
  "Accept-Encoding",
  "If-None-Match",
  "Expect",
  "Range",
  "Sec-WebSocket-Key",
  "Sec-WebSocket-Version",
  "User-Agent",
  "Content-Type",
] as const;
const bodies = [
  "",
  "{}",
  '{"page":"/fuzz"}',
  '{"page":1}',
  '{"observe":true}',
  '{"visitor":"a.b"}',
  '{"page":"\\ud800"}',
  "[",
  "null",
  '{"__proto__":1}',
  '{"page":"%"}',
  `{"page":"/${"x".repeat(3000)}"}`,
  "x".repeat(5000),
] as const;
const messages = [
  '{"page":"/a"}',
  '{"page":"/b"}',
  '{"active":true}',
  '{"active":false}',
  '{"page":""}',
  '{"page":"%"}',
  '{"page":"/%F0%9F%98%80"}',
  "{}",
  "[]",
  "nonsense",
  '{"page":"/a","active":true}',
  '{"__proto__":{}}',
  `{"page":"/${"y".repeat(1000)}"}`,
] as const;

/** One connection of an enemy, from its first byte to its last. */
type Attack = (it: Ordeal, dice: Dice) => Promise<unknown>;

/** A request, perhaps with a body, perhaps spoilt, perhaps cut off. */
const request: Attack = async (it, dice) => {
  const { host } = new URL(it.url);
  const query = dice.chance(0.5)
    ? `?${dice.pick(["site", "page", "token", "range", "x"])}=${encodeURIComponent(dice.pick(odd))}`
    : "";
  const lines = Array.from({ length: dice.below(6) }, () => `${dice.pick(names)}: ${dice.pick(odd)}`);
  const body = dice.pick(bodies);
  const length = dice.chance(0.5) ? [`Content-Length: ${Buffer.byteLength(body)}`] : [];
  const first = `${dice.pick(["GET", "POST", "HEAD", "OPTIONS", "PUT", "é"])} ${dice.pick(routes)}${query} HTTP/1.1`;
  const whole = Buffer.from(
    [first, `Host: ${host}`, `Origin: https://${it.site}`, ...lines, ...length, "", body].join("\r\n"),
    "latin1",
  );
  await throwAt(it, dice.chance(0.5) ? dice.spoil(whole) : whole, dice);
};

/** Nothing that ever was HTTP. */
const noise: Attack = (it, dice) => throwAt(it, dice.bytes(3000), dice);

/** A token that is none, or used twice, or of somebody else. */
const token: Attack = async (it, dice) => {
  const good = await it.token({ page: dice.pick(["/", "/a", "/b"]), observe: dice.chance(0.2) });
  const text = dice.chance(0.6) ? dice.spoil(Buffer.from(good)).toString("latin1") : good;
  const origin = dice.chance(0.8) ? `https://${it.site}` : dice.pick(["null", "https://evil.example"]);
  const twice = await Promise.all(
    [1, 2].map(() => upgrade(it.url, text, { headers: { origin } }).catch(() => undefined)),
  );
  await sleep(dice.below(50));
  for (const answer of twice) answer?.page?.vanish();
};

/** A handshake that is spoilt, or reset at any byte of it. */
const shake: Attack = async (it, dice) => {
  const whole = handshake(it.url, `https://${it.site}`, await it.token());
  if (dice.chance(0.5)) return reset(it.url, whole.slice(0, dice.below(whole.length + 1)), dice.below(20));
  return throwAt(it, Buffer.concat([dice.spoil(Buffer.from(whole)), dice.bytes(200)]), dice);
};

/** A page that opens well, and then says anything. */
const talk: Attack = async (it, dice) => {
  const page = await it.visitor().open(dice.pick(["/", "/a", "/b", "/c"]));
  page.silent = dice.chance(0.2);
  for (let steps = dice.below(12); steps > 0 && page.open; steps--) {
    page.write(sentence(dice));
    if (dice.chance(0.3)) await sleep(dice.below(30));
  }
  await leave(page, dice);
};

function sentence(dice: Dice): Buffer {
  const valid = textFrame(dice.pick(messages));
  const what = dice.below(8);
  if (what < 3) return valid;
  if (what === 3) return dice.spoil(valid);
  if (what === 4)
    return encodeFrame(dice.below(16), dice.bytes(300), { first: dice.below(256), masked: dice.chance(0.8) });
  if (what === 5) return encodeFrame(dice.pick([9, 10]), dice.bytes(140));
  if (what === 6)
    return Buffer.concat([
      encodeFrame(1, Buffer.from('{"page":'), { first: 1 }),
      encodeFrame(9, dice.bytes(9)),
      encodeFrame(0, Buffer.from('"/f"}')),
    ]);
  return dice.bytes(60);
}

async function leave(page: Page, dice: Dice): Promise<void> {
  const code = dice.pick([0, 1000, 1001, 1005, 1006, 1012, 2999, 3000, 4999, 65_535]);
  if (dice.chance(0.5))
    page.write(encodeFrame(8, Buffer.concat([Buffer.from([code >> 8, code & 255]), dice.bytes(130)])));
  if (dice.chance(0.5)) await sleep(dice.below(100));
  page.vanish();
}

const attacks = [request, request, noise, token, shake, talk, talk] as const;

function throwAt({ url }: Ordeal, bytes: Buffer, dice: Dice): Promise<void> {
  const { hostname, port } = new URL(url);
  const { promise, resolve } = Promise.withResolvers<void>();
  const socket = connect({ host: hostname, port: Number(port) });
  const cut = dice.chance(0.3) ? dice.below(bytes.length + 1) : bytes.length;
  socket
    .on("data", () => {})
    .on("error", () => resolve())
    .on("close", () => resolve());
  socket.write(bytes.subarray(0, cut));
  setTimeout(() => (dice.chance(0.5) ? socket.resetAndDestroy() : socket.destroy()), 20 + dice.below(150));
  return promise;
}

/** Attacks for some seconds, eight at a time; `it.survives()` tells how that went. */
export async function fuzz(it: Ordeal, { seed, seconds }: { seed: number; seconds: number }): Promise<number> {
  process.stderr.write(`fuzz (${it.service.runtime}): seed ${seed}, ${seconds} s\n`);
  const end = performance.now() + seconds * 1_000;
  let attacked = 0;
  const enemy = async (number: number): Promise<void> => {
    const dice = new Dice(seed * 64 + number);
    while (performance.now() < end) {
      await dice.pick(attacks)(it, dice);
      attacked += 1;
    }
  };
  await Promise.all(Array.from({ length: 8 }, (_, number) => enemy(number)));
  return attacked;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    args: process.argv.slice(2),
    options: {
      seed: { type: "string", default: String(Date.now() % 1_000_000) },
      seconds: { type: "string", default: "60" },
      runtime: { type: "string" },
    },
  });
  for (const runtime of values.runtime === undefined ? runtimes : [values.runtime as Runtime]) {
    const service = await Service.start(runtime, { ...unlimited, SITES: "own.example" });
    const it = await Ordeal.begin(service, "own.example");
    const attacked = await fuzz(it, { seed: Number(values.seed), seconds: Number(values.seconds) });
    const peak = memoryOf(service.pid);
    await it.survives();
    const answers = await ask(service.url, "GET /count", { headers: { origin: "https://own.example" } });
    const after = memoryOf(service.pid);
    process.stdout.write(
      `fuzz (${runtime}): ${attacked} attacks, memory ${it.memoryBefore.toFixed(0)} → ${peak.toFixed(0)} → ${after.toFixed(0)} MB, count ${answers.text}\n`,
    );
    endServices(); // fails when it died or logged an error
  }
  process.exit(0);
}

if (import.meta.main) await main();
