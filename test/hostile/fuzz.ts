/**
 * Random requests, handshakes and frames, from a seed: `npm run fuzz -- --seed 7 --seconds 120 [--runtime deno]`. At the end
 * nobody is online but the watcher, the process is alive and memory is back. What it found has tests in this folder.
 */
import { connect } from "node:net";
import { parseArgs } from "node:util";
import { ask, type Connection, encodeFrame, upgrade } from "../support/client.ts";
import { memoryOf } from "../support/process.ts";
import { handshake, reset, textFrame } from "../support/raw.ts";
import { endServices, type Runtime, runtimes } from "../support/service.ts";
import { Target } from "../support/target.ts";
import { sleep } from "../support/waiting.ts";

/** A random number generator with a seed: mulberry32, which gives the same numbers on every machine. */
class Dice {
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

  /** Changes, removes, adds or doubles some of the bytes. */
  corrupt(bytes: Buffer): Buffer {
    const corrupted = [...bytes];
    for (let times = 1 + this.below(4); times > 0; times--) {
      const at = this.below(corrupted.length + 1);
      const what = this.below(4);
      if (what === 0) corrupted[at] = this.below(256);
      else if (what === 1) corrupted.splice(at, 1 + this.below(8));
      else if (what === 2) corrupted.splice(at, 0, ...this.bytes(20));
      else corrupted.splice(at, 0, ...corrupted.slice(at, at + this.below(200)));
    }
    return Buffer.from(corrupted);
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
const oddValues = [
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
const headerNames = [
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

/** One TCP connection of an attacker, from its first byte to its last. */
type Attack = (target: Target, dice: Dice) => Promise<unknown>;

/** A request, with or without a body, which may be corrupted or cut off. */
const request: Attack = async (target, dice) => {
  const { host } = new URL(target.url);
  const query = dice.chance(0.5)
    ? `?${dice.pick(["site", "page", "token", "range", "x"])}=${encodeURIComponent(dice.pick(oddValues))}`
    : "";
  const lines = Array.from({ length: dice.below(6) }, () => `${dice.pick(headerNames)}: ${dice.pick(oddValues)}`);
  const body = dice.pick(bodies);
  const length = dice.chance(0.5) ? [`Content-Length: ${Buffer.byteLength(body)}`] : [];
  const first = `${dice.pick(["GET", "POST", "HEAD", "OPTIONS", "PUT", "é"])} ${dice.pick(routes)}${query} HTTP/1.1`;
  const whole = Buffer.from(
    [first, `Host: ${host}`, `Origin: https://${target.name}`, ...lines, ...length, "", body].join("\r\n"),
    "latin1",
  );
  await sendCut(target, dice.chance(0.5) ? dice.corrupt(whole) : whole, dice);
};

/** Random bytes. */
const noise: Attack = (target, dice) => sendCut(target, dice.bytes(3000), dice);

/** A token that is corrupted, used twice, or of another origin. */
const token: Attack = async (target, dice) => {
  const good = await target.token({ page: dice.pick(["/", "/a", "/b"]), observe: dice.chance(0.2) });
  const text = dice.chance(0.6) ? dice.corrupt(Buffer.from(good)).toString("latin1") : good;
  const origin = dice.chance(0.8) ? `https://${target.name}` : dice.pick(["null", "https://evil.example"]);
  const twice = await Promise.all(
    [1, 2].map(() => upgrade(target.url, text, { headers: { origin } }).catch(() => undefined)),
  );
  await sleep(dice.below(50));
  for (const answer of twice) answer?.connection?.vanish();
};

/** A handshake that is corrupted, or reset after any byte. */
const shake: Attack = async (target, dice) => {
  const whole = handshake(target.url, `https://${target.name}`, await target.token());
  if (dice.chance(0.5)) return reset(target.url, whole.slice(0, dice.below(whole.length + 1)), dice.below(20));
  return sendCut(target, Buffer.concat([dice.corrupt(Buffer.from(whole)), dice.bytes(200)]), dice);
};

/** A page that opens as it should, and then sends anything. */
const talk: Attack = async (target, dice) => {
  const connection = await target.open(dice.pick(["/", "/a", "/b", "/c"]));
  connection.silent = dice.chance(0.2);
  for (let steps = dice.below(12); steps > 0 && connection.open; steps--) {
    connection.write(anyFrame(dice));
    if (dice.chance(0.3)) await sleep(dice.below(30));
  }
  await leave(connection, dice);
};

function anyFrame(dice: Dice): Buffer {
  const valid = textFrame(dice.pick(messages));
  const what = dice.below(8);
  if (what < 3) return valid;
  if (what === 3) return dice.corrupt(valid);
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

async function leave(connection: Connection, dice: Dice): Promise<void> {
  const code = dice.pick([0, 1000, 1001, 1005, 1006, 1012, 2999, 3000, 4999, 65_535]);
  if (dice.chance(0.5))
    connection.write(encodeFrame(8, Buffer.concat([Buffer.from([code >> 8, code & 255]), dice.bytes(130)])));
  if (dice.chance(0.5)) await sleep(dice.below(100));
  connection.vanish();
}

const attacks = [request, request, noise, token, shake, talk, talk] as const;

/** Sends bytes, cuts them off anywhere in three cases of ten, and closes or resets the connection a moment later. */
function sendCut({ url }: Target, bytes: Buffer, dice: Dice): Promise<void> {
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

/** Attacks for some seconds, eight at a time. The caller asserts that the target survives. */
export async function fuzz(target: Target, { seed, seconds }: { seed: number; seconds: number }): Promise<number> {
  process.stderr.write(`fuzz (${target.service.runtime}): seed ${seed}, ${seconds} s\n`);
  const end = performance.now() + seconds * 1_000;
  let attacked = 0;
  const attacker = async (number: number): Promise<void> => {
    const dice = new Dice(seed * 64 + number);
    while (performance.now() < end) {
      await dice.pick(attacks)(target, dice);
      attacked += 1;
    }
  };
  await Promise.all(Array.from({ length: 8 }, (_, number) => attacker(number)));
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
    const target = await Target.start(runtime);
    const { service } = target;
    const attacked = await fuzz(target, { seed: Number(values.seed), seconds: Number(values.seconds) });
    const peak = memoryOf(service.pid);
    await target.survives();
    const answers = await ask(service.url, "GET /count", { headers: { origin: target.origin } });
    const after = memoryOf(service.pid);
    process.stdout.write(
      `fuzz (${runtime}): ${attacked} attacks, memory ${target.memoryBefore.toFixed(0)} → ${peak.toFixed(0)} → ${after.toFixed(0)} MB, count ${answers.text}\n`,
    );
    endServices(); // fails when the service died or logged an error
  }
  process.exit(0);
}

if (import.meta.main) await main();
