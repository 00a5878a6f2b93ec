/** What the fuzzer does to a service: random requests, long texts, handshakes, frames, and visitors who forge readings. */
import { connect } from "node:net";
import { type Connection, encodeFrame, upgrade } from "../support/client.ts";
import type { Dice } from "../support/dice.ts";
import { handshake, reset, textFrame } from "../support/raw.ts";
import { type Target, times } from "../support/target.ts";
import { sleep } from "../support/waiting.ts";

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
export type Attack = (target: Target, dice: Dice) => Promise<unknown>;

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

type Range = readonly [first: number, last: number];

/** Code points from which long texts are made: parsers of Unicode and of hosts treat each of these ranges differently. */
const ranges: [Range, ...Range[]] = [
  [0x20, 0x7e],
  [0x80, 0x24f],
  [0x300, 0x36f],
  [0x370, 0x5ff],
  [0x900, 0xdff],
  [0x1100, 0x11ff],
  [0x1e00, 0x1fff],
  [0x2000, 0x206f],
  [0x4e00, 0x9fff],
  [0xac00, 0xd7a3],
  [0xff00, 0xffef],
  [0x1f300, 0x1f9ff],
];
const separators = ["&", "&a", "%", "%C3", "/", ".", ",", ";", "=", "+", ":"] as const;
const longestUrls = { bun: 15_500, deno: 62_000 }; // Bun refuses longer heads

/** A few characters, percent-encoded or not, repeated up to a length in bytes. */
function longText(dice: Dice, length: number, isEncoded: boolean): string {
  const [from, to] = dice.pick(ranges);
  const characters = Array.from({ length: 1 + dice.below(4) }, () =>
    String.fromCodePoint(from + dice.below(to - from + 1)),
  );
  const piece = dice.chance(0.2) ? dice.pick(separators) : characters.join("");
  const isPlain = /^[!-~]*$/.test(piece);
  const text = (isEncoded && !isPlain ? encodeURIComponent(piece) : piece).replaceAll(/[\s#]/g, "-");
  return text.repeat(Math.ceil(length / Buffer.byteLength(text)));
}

/** A request with a text that is as long as the runtime accepts, where a stranger may put one. */
const long: Attack = async (target, dice) => {
  const most = longestUrls[target.service.runtime];
  const length = dice.chance(0.5) ? most : dice.below(most);
  const inUrl = dice.chance(0.6);
  const text = longText(dice, length, dice.chance(0.5));
  const route = dice.pick(["/count", "/badge.svg", "/reading", "/check/request", "/ws"]);
  const query = dice.pick(["page", "page", "site", "token"]);
  const prefix = dice.pick(["", "https://", "https://own.example/", "[", '"']);
  const url = inUrl ? `${route}?${dice.chance(0.5) ? `site=${target.name}&` : ""}${query}=${prefix}${text}` : route;
  const header = inUrl ? [] : [`${dice.pick(headerNames)}: ${prefix}${text}`];
  const lines = [`GET ${url} HTTP/1.1`, `Host: ${new URL(target.url).host}`, "Connection: close", ...header, "", ""];
  await sendAll(target, Buffer.from(lines.join("\r\n")));
};

/** The page that forgers visit, so that its readings can be looked at. */
export const forgedPage = "/forged";

/** One visitor with many tabs, all of which leave a page and come back to it as often as they may. */
const forge: Attack = async (target, dice) => {
  const visitor = target.visitor();
  const tabs: Connection[] = [];
  while (tabs.length < 20) tabs.push(await visitor.open(forgedPage));
  for (let move = 0; move < 58; move++) {
    for (const tab of tabs) tab.send({ page: move % 2 === 0 ? `/elsewhere/${dice.below(9)}` : forgedPage });
    await sleep(dice.below(30));
  }
  for (const tab of tabs) tab.vanish();
};

/** What attackers pick from. A forger takes long, and so is rare. */
export const attacks = [
  request,
  request,
  request,
  request,
  noise,
  noise,
  token,
  token,
  shake,
  shake,
  talk,
  talk,
  talk,
  talk,
  long,
  long,
  long,
  long,
  long,
  long,
  long,
  long,
  forge,
] as const;

/** Many visitors who walk about as fast as they may, each over pages of their own: a large journal at once. */
export async function crowd(target: Target, visitors: number, name: string): Promise<void> {
  const walkers = await times(visitors, 16, () => target.open("/walk"));
  for (const [number, walker] of walkers.entries())
    walker.write(
      Buffer.concat(
        Array.from({ length: 58 }, (_, step) => textFrame(JSON.stringify({ page: `/${name}/${number}/${step}` }))),
      ),
    );
  await sleep(2_000);
  for (const walker of walkers) walker.vanish();
}

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

/** Sends a whole request, and waits until the connection ends. */
function sendAll({ url }: Target, bytes: Buffer): Promise<void> {
  const { hostname, port } = new URL(url);
  const { promise, resolve } = Promise.withResolvers<void>();
  const socket = connect({ host: hostname, port: Number(port) }).setTimeout(5_000, () => socket.destroy());
  socket
    .on("data", () => {})
    .on("error", () => resolve())
    .on("close", () => resolve());
  socket.write(bytes);
  return promise;
}
