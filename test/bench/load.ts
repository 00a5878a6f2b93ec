/**
 * The visitors of the benchmark: one process that holds up to 18,000 open pages, each a raw TCP connection with the
 * least HTTP and WebSocket that a server accepts, so that the server is what the figures are about. `bench.ts` starts
 * it, sends orders over IPC and gets one report for each.
 *
 * Every visitor names an address of their own in X-Forwarded-For, as a proxy would. As from a proxy, too, `share`
 * visitors in turn come over one kept-alive connection for token requests, from an address of 127.0.0.0/8.
 */

/* oxlint-disable no-await-in-loop -- the visitors of a lane come one after the other */

import type { Socket, SocketHandler, TCPSocketConnectOptions } from "bun";

/** Whom to visit, and how. */
export interface Visit {
  /** Base URL of the server, `http://127.0.0.1:41234/`. */
  url: string;
  /** Hosts of the sites, visited over https; visitor number n is on site n modulo their number. */
  hosts: string[];
  /** Ask `POST /token` first and upgrade at `/ws?token=`; otherwise upgrade at `/?uid=`, as the floor wants it. */
  tokens: boolean;
  /** In a storm, one visitor in five opens a second page. */
  secondPages: boolean;
  /** Different page paths that visitors read. */
  paths: number;
  /** Visitors whose token requests come over one connection. */
  share: number;
  /** Visitors that arrive at the same time, each after the answer to the one before. */
  lanes: number;
}

/** One thing to do, answered with one {@link Report}. */
export type Order =
  /**
   * Open so many more pages as fast as the lanes allow, and wait until every page shows how many visitors its site has,
   * with those that come from another generator.
   */
  | { do: "join"; pages: number; elsewhere?: number }
  /** The same, but one page every `everyMs`, whatever the others are waiting for. */
  | { do: "trickle"; pages: number; everyMs: number }
  /** After two quiet seconds open one page more, and time the change on every other page of its site. */
  | { do: "fanout" }
  /** Watch. */
  | { do: "idle"; seconds: number }
  /** Close all pages but those of so many visitors, and wait until the rest show that number. */
  | { do: "leave"; keep: number }
  /** Wait until the server has closed all pages. */
  | { do: "part" };

/** What an order took. */
export interface Report {
  /** Wall time in milliseconds. */
  ms: number;
  /** Share of one core that this generator used meanwhile. */
  busy: number;
  /** Text frames received, and bytes of everything received. */
  frames: number;
  bytes: number;
  pings: number;
  /** Milliseconds from the joiner's upgrade request to the new number on the other pages. */
  fanout?: { first: number; p50: number; p99: number; last: number };
}

/** How long one order may take, beyond what it waits by itself. */
const PATIENCE_MS = 300_000; // 90,000 pages on two cores need it
const QUIET_MS = 2_000;

/** A browser by its headers: a service that refuses robots must not refuse the benchmark. */
const BROWSER = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0\r\n";
const UPGRADE =
  "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/** Masked with zeros, so payloads are sent as they are: an empty pong, and a close with status 1001. */
const PONG = Uint8Array.of(0x8a, 0x80, 0, 0, 0, 0);
const CLOSE = Uint8Array.of(0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9);

const END_OF_HEAD = "\r\n\r\n";

// State: the open pages, the number that each site's pages should show, and how many of them do.

/** Somebody who comes with one page, or with two. */
interface Visitor {
  number: number;
  pages: number;
  /** What the server has set; "" before the first token. */
  cookie: string;
}

interface Page {
  visitor: Visitor;
  site: number;
  socket: Socket<Page> | undefined;
  /** The upgrade request, until it is sent. */
  head: string;
  /** When the upgrade was requested. */
  askedAt: number;
  upgraded: boolean;
  /** The number that the page shows; -1 before the first frame. */
  shown: number;
  /** Bytes of a frame, or of the answer's head, that is not complete yet. */
  rest: Buffer | undefined;
  joined: PromiseWithResolvers<void>;
}

const visit: Visit = JSON.parse(process.argv[2] ?? "{}");
const { hostname, port, host } = new URL(visit.url);
const pages = new Set<Page>();
const goals: number[] = visit.hosts.map(() => 0);
const seen = { frames: 0, bytes: 0, pings: 0 };
let visitors = 0;
let right = 0;
let leaving = false;
/** Called whenever a page comes to show its goal, and when a page is gone. */
let onRight: (page: Page) => void = ignore;
let addresses = 0;

/** The next unused address: 127.1.0.1, 127.1.0.2 and so on. */
function nextAddress(): string {
  addresses += 1;
  return `127.${1 + (addresses >> 16)}.${(addresses >> 8) & 255}.${addresses & 255}`;
}

/** `Bun.connect` from an address of our own; Bun 1.4.5 takes `localAddress`, but its types do not know it. */
async function connect<Data>(localAddress: string, socket: SocketHandler<Data>, data: Data): Promise<Socket<Data>> {
  const options = { hostname, port: Number(port), localAddress, socket, data };
  return Bun.connect<Data>(options as TCPSocketConnectOptions<Data>);
}

function ignore(): void {}

// Pages

/** Puts a number on a page, and keeps `right` true. */
function show(page: Page, count: number): void {
  if (page.shown === count) return;
  const goal = goals[page.site];
  if (page.shown === goal) right -= 1;
  page.shown = count;
  if (count !== goal) return;
  right += 1;
  onRight(page);
}

/** From now on each page should show how many of the first `count` visitors are on its site. */
function aim(count: number): void {
  for (let site = 0; site < goals.length; site++) goals[site] = Math.ceil((count - site) / goals.length);
  right = 0;
  for (const page of pages) if (page.shown === goals[page.site]) right += 1;
}

/** The number after `"site":` in a frame, -1 when the frame has none. */
function siteCount(bytes: Uint8Array, from: number, end: number): number {
  for (let at = from; at < end - 7; at++) {
    const isSite = bytes[at] === 0x22 && bytes[at + 1] === 0x73 && bytes[at + 6] === 0x3a;
    if (!isSite) continue;
    let count = 0;
    for (at += 7; at < end; at++) {
      const digit = bytes[at]! - 0x30;
      if (digit < 0 || digit > 9) break;
      count = count * 10 + digit;
    }
    return count;
  }
  return -1;
}

/** Takes one whole frame; a server's frames are never masked. */
function receive(page: Page, opcode: number, bytes: Uint8Array, from: number, end: number): void {
  if (opcode === 0x1) {
    seen.frames += 1;
    const count = siteCount(bytes, from, end);
    if (count >= 0) show(page, count);
  } else if (opcode === 0x9) {
    seen.pings += 1;
    page.socket?.write(PONG);
  } else if (opcode === 0x8) page.socket?.end(CLOSE);
}

/** Cuts what arrived into frames; the start of an incomplete one waits in `page.rest`. */
function receiveAll(page: Page, chunk: Buffer): void {
  const bytes = page.rest ? Buffer.concat([page.rest, chunk]) : chunk;
  page.rest = undefined;
  let at = 0;
  while (at < bytes.length) {
    const short = bytes[at + 1]! & 0x7f;
    const from = at + (short === 126 ? 4 : 2);
    const end = from + (short === 126 && from <= bytes.length ? bytes.readUInt16BE(at + 2) : short);
    if (!(end <= bytes.length)) {
      page.rest = bytes.subarray(at);
      return;
    }
    receive(page, bytes[at]! & 0xf, bytes, from, end);
    at = end;
  }
}

/** Reads the answer to the upgrade; frames may follow in the same chunk. */
function receiveHead(page: Page, chunk: Buffer): void {
  const bytes = page.rest ? Buffer.concat([page.rest, chunk]) : chunk;
  const end = bytes.indexOf(END_OF_HEAD);
  page.rest = end < 0 ? bytes : undefined;
  if (end < 0) return;
  const status = bytes.toString("latin1", 9, 12);
  if (status !== "101") return page.joined.reject(new Error(`upgrade refused: ${bytes.toString("latin1")}`));
  page.upgraded = true;
  page.joined.resolve();
  receiveAll(page, bytes.subarray(end + END_OF_HEAD.length));
}

const pageHandler: SocketHandler<Page> = {
  open(socket) {
    const page = socket.data;
    page.socket = socket;
    page.askedAt = performance.now();
    socket.write(page.head);
    page.head = "";
  },
  data(socket, chunk) {
    seen.bytes += chunk.length;
    if (socket.data.upgraded) receiveAll(socket.data, chunk);
    else receiveHead(socket.data, chunk);
  },
  close({ data: page }) {
    page.joined.reject(new Error("closed before the answer to the upgrade"));
    pages.delete(page);
    if (page.shown === goals[page.site]) right -= 1;
    if (!leaving) fail(new Error(`a page was closed by the server, ${pages.size} are left`));
    onRight(page);
  },
  error(_socket, error) {
    fail(error);
  },
};

/** What every request of a visitor says. */
function headersOf({ number, cookie }: Visitor): string {
  const origin = `https://${visit.hosts[number % visit.hosts.length]}`;
  const address = `10.${number >> 16}.${(number >> 8) & 255}.${number & 255}`;
  const proxy = `X-Forwarded-For: ${address}\r\nX-Forwarded-Proto: https\r\n`;
  return `Host: ${host}\r\nOrigin: ${origin}\r\n${BROWSER}${proxy}${cookie && `Cookie: ${cookie}\r\n`}`;
}

function newPage(visitor: Visitor, token: string): Page {
  const path = visit.tokens ? `/ws?token=${token}` : `/?uid=${visitor.number}`;
  return {
    visitor,
    site: visitor.number % visit.hosts.length,
    socket: undefined,
    head: `GET ${path} HTTP/1.1\r\n${headersOf(visitor)}${UPGRADE}`,
    askedAt: 0,
    upgraded: false,
    shown: -1,
    rest: undefined,
    joined: Promise.withResolvers(),
  };
}

/** Resolves when the upgrade is answered. */
async function openPage(page: Page, address: string): Promise<void> {
  pages.add(page);
  await connect(address, pageHandler, page);
  await page.joined.promise;
}

// Token requests

/** A kept-alive connection for token requests, one at a time. */
interface Line {
  rest: string;
  answered: PromiseWithResolvers<string>;
}

const lineHandler: SocketHandler<Line> = {
  data(socket, chunk) {
    const line = socket.data;
    seen.bytes += chunk.length;
    line.rest += chunk.toString("latin1");
    const end = line.rest.indexOf(END_OF_HEAD);
    if (end < 0) return;
    const length = /content-length: *(\d+)/i.exec(line.rest)?.[1];
    if (length === undefined || line.rest.length < end + END_OF_HEAD.length + Number(length)) return;
    line.answered.resolve(line.rest);
    line.rest = "";
  },
  close({ data: line }) {
    line.answered.reject(new Error(`token connection closed: ${line.rest}`));
  },
  error(_socket, error) {
    fail(error);
  },
};

async function openLine(address: string): Promise<Socket<Line>> {
  const line: Line = { rest: "", answered: Promise.withResolvers() };
  line.answered.promise.catch(ignore); // A line may end between two requests; during one, its sender hears of it.
  return connect(address, lineHandler, line);
}

async function requestToken(line: Socket<Line>, visitor: Visitor): Promise<string> {
  const body = `{"page":"/${visitor.number % visit.paths || ""}"}`;
  line.data.answered = Promise.withResolvers();
  line.write(
    `POST /token HTTP/1.1\r\n${headersOf(visitor)}` +
      `Content-Type: text/plain;charset=UTF-8\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
  const answer = await line.data.answered.promise;
  const token = /"token":"([^"]+)"/.exec(answer)?.[1];
  if (token === undefined) throw new Error(`no token: ${answer}`);
  visitor.cookie = /set-cookie: *([^;]+)/i.exec(answer)?.[1] ?? visitor.cookie;
  return token;
}

/** Gets a page ready for its upgrade, with a token where one is needed. */
async function prepare(visitor: Visitor, line: Socket<Line> | undefined): Promise<Page> {
  return newPage(visitor, line ? await requestToken(line, visitor) : "");
}

/** Numbers the next visitors, who bring so many pages. */
function nextVisitors(pages: number, secondPages: boolean): Visitor[] {
  const coming: Visitor[] = [];
  for (let left = pages; left > 0; left -= coming.at(-1)!.pages) {
    const hasSecond = secondPages && left > 1 && visitors % 5 === 0;
    coming.push({ number: visitors, pages: hasSecond ? 2 : 1, cookie: "" });
    visitors += 1;
  }
  return coming;
}

/** One after the other, up to `share` of the coming visitors open their pages from one address. */
async function household(coming: Visitor[]): Promise<void> {
  const address = nextAddress();
  const line = visit.tokens ? await openLine(address) : undefined;
  for (let left = visit.share; left > 0; left--) {
    const visitor = coming.pop();
    for (let page = 0; page < (visitor?.pages ?? 0); page++) await openPage(await prepare(visitor!, line), address);
  }
  line?.end();
}

async function lane(coming: Visitor[]): Promise<void> {
  while (coming.length > 0) await household(coming);
}

// Orders

/** Resolves when so many pages are open and all show the right number. */
async function allRight(count: number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  onRight = () => {
    if (pages.size === count && right === count) resolve();
  };
  if (pages.size === count && right === count) resolve();
  await promise;
  onRight = ignore;
}

async function join(count: number, elsewhere = 0): Promise<void> {
  const until = pages.size + count;
  const coming = nextVisitors(count, visit.secondPages).toReversed(); // lanes take from the end
  aim(visitors + elsewhere);
  await Promise.all(Array.from({ length: Math.min(visit.lanes, count) }, () => lane(coming)));
  await allRight(until);
}

async function trickle(count: number, everyMs: number): Promise<void> {
  const until = pages.size + count;
  const coming = nextVisitors(count, false);
  aim(visitors);
  const arrivals: Promise<void>[] = [];
  for (const visitor of coming) {
    arrivals.push(household([visitor]));
    await Bun.sleep(everyMs);
  }
  await Promise.all(arrivals);
  await allRight(until);
}

async function fanout(): Promise<Report["fanout"]> {
  // The phase of the floor's 100 ms tick must not matter: the quiet time ends at random within it.
  await Bun.sleep(QUIET_MS + Math.random() * 100);
  const address = nextAddress();
  const line = visit.tokens ? await openLine(address) : undefined;
  const joiner = await prepare(nextVisitors(1, false)[0]!, line);
  line?.end();
  aim(visitors);
  const audience = [...pages].filter(({ site }) => site === joiner.site).length;
  const arrivals: number[] = [];
  const all = Promise.withResolvers<void>();
  onRight = (page) => {
    if (page !== joiner && arrivals.push(performance.now()) === audience) all.resolve();
  };
  await openPage(joiner, address);
  await all.promise;
  onRight = ignore;
  const at = (share: number): number => arrivals[Math.floor(share * (audience - 1))]! - joiner.askedAt;
  return { first: at(0), p50: at(0.5), p99: at(0.99), last: at(1) };
}

async function leave(keep: number): Promise<void> {
  leaving = true;
  aim(keep);
  const [staying, going] = [[], []] as [Page[], Page[]];
  for (const page of pages) (page.visitor.number < keep ? staying : going).push(page);
  for (const page of going) page.socket?.end(CLOSE);
  await allRight(staying.length);
  visitors = keep;
  leaving = false;
}

async function part(): Promise<void> {
  leaving = true;
  await allRight(0);
  leaving = false;
}

async function obey(order: Order): Promise<Report["fanout"]> {
  if (order.do === "fanout") return fanout();
  if (order.do === "join") await join(order.pages, order.elsewhere);
  else if (order.do === "trickle") await trickle(order.pages, order.everyMs);
  else if (order.do === "leave") await leave(order.keep);
  else if (order.do === "part") await part();
  else await Bun.sleep(order.seconds * 1000);
  return undefined;
}

async function report(order: Order): Promise<Report> {
  const start = performance.now();
  const cpu = process.cpuUsage();
  const before = { ...seen };
  const patience = PATIENCE_MS + (order.do === "idle" ? order.seconds * 1000 : 0);
  const timer = setTimeout(() => {
    fail(new Error(`${order.do}: ${right} of ${pages.size} pages show the right count after ${patience / 1000} s`));
  }, patience);
  const times = await obey(order);
  clearTimeout(timer);
  const ms = performance.now() - start;
  const used = process.cpuUsage(cpu);
  return {
    ms,
    busy: (used.user + used.system) / 1000 / ms,
    frames: seen.frames - before.frames,
    bytes: seen.bytes - before.bytes,
    pings: seen.pings - before.pings,
    ...(times && { fanout: times }),
  };
}

/** A figure is worth nothing when pages are missing: says why, and ends. */
function fail(error: unknown): never {
  console.error(`load: ${error instanceof Error ? error.message : String(error)}`);
  process.exit(1);
}

async function serve(order: Order): Promise<void> {
  process.send?.(await report(order));
}

process.on("message", (order: Order) => {
  serve(order).catch(fail);
});
process.on("disconnect", () => process.exit(0));
