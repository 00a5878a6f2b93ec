/**
 * A visitor's browser, reduced to what reaches the service, over raw TCP: it can send any header from any address, and
 * do what a browser never would: be silent, break frames, reuse tokens.
 */
import { createConnection, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { sleep, within } from "./waiting.ts";

/** An ordinary browser; the service refuses crawlers and headless browsers by name. */
export const userAgent = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";

/** What a browser sends once the operator has given it their password. */
export const authorizationOf = (password: string): string => `Basic ${btoa(`admin:${password}`)}`;

export type Headers_ = Record<string, string | undefined>;
export type Request_ = { headers?: Headers_; body?: string | Uint8Array | undefined; from?: string | undefined };

export type Answer = {
  status: number;
  headers: Headers;
  bytes: Uint8Array;
  text: string;
  /** The body as JSON, untyped: tests look into it. */
  json: any;
};

// ------------------------------------------------------------------------------------------------------------- wire

/** One TCP or TLS connection, with what has arrived and was not read yet. */
class Wire {
  readonly socket: Socket;
  #arrived: Uint8Array[] = [];
  #length = 0;
  #over = false;
  #wake: () => void = () => {};

  constructor(socket: Socket) {
    this.socket = socket;
    const end = (): void => {
      this.#over = true;
      this.#wake();
    };
    socket.on("data", (bytes: Uint8Array) => {
      this.#arrived.push(bytes);
      this.#length += bytes.length;
      this.#wake();
    });
    socket.on("error", end).on("end", end).on("close", end);
  }

  static open(url: string, from?: string): Promise<Wire> {
    const { hostname, port, protocol } = new URL(url);
    const secure = protocol === "https:";
    const where = { host: hostname, port: Number(port) || (secure ? 443 : 80), ...(from && { localAddress: from }) };
    const { promise, resolve, reject } = Promise.withResolvers<Wire>();
    const socket = secure ? connectTls({ ...where, rejectUnauthorized: false }) : createConnection(where);
    socket.once("error", reject);
    socket.once(secure ? "secureConnect" : "connect", () => resolve(new Wire(socket)));
    return within(20_000, `a connection to ${url}`, promise);
  }

  /** Exactly `count` bytes, or undefined when the connection ended before. */
  async take(count: number): Promise<Uint8Array | undefined> {
    while (this.#length < count) {
      if (this.#over) return undefined;
      await this.#more();
    }
    const all = this.#join();
    this.#keep(all.subarray(count));
    return all.subarray(0, count);
  }

  /** The text up to and without `end`, or undefined. */
  async takeUntil(end: string): Promise<string | undefined> {
    for (;;) {
      const all = this.#join();
      const at = Buffer.from(all.buffer, all.byteOffset, all.length).indexOf(end);
      if (at >= 0) {
        this.#keep(all.subarray(at + end.length));
        return new TextDecoder().decode(all.subarray(0, at));
      }
      if (this.#over) return undefined;
      await this.#more();
    }
  }

  async takeAll(): Promise<Uint8Array> {
    while (!this.#over) await this.#more();
    const all = this.#join();
    this.#keep(new Uint8Array());
    return all;
  }

  #join(): Uint8Array {
    const all = this.#arrived.length === 1 ? this.#arrived[0]! : Buffer.concat(this.#arrived);
    this.#arrived = [all];
    return all;
  }

  #keep(rest: Uint8Array): void {
    this.#arrived = rest.length ? [rest] : [];
    this.#length = rest.length;
  }

  #more(): Promise<void> {
    return new Promise((wake) => (this.#wake = wake));
  }
}

// ------------------------------------------------------------------------------------------------------------- HTTP

function requestHead(route: string, url: string, headers: Headers_): string {
  const all: Headers_ = { host: new URL(url).host, "user-agent": userAgent, ...headers };
  const lines = Object.entries(all).flatMap(([name, value]) => (value === undefined ? [] : `${name}: ${value}`));
  return [`${route} HTTP/1.1`, ...lines, "", ""].join("\r\n");
}

async function readHead(wire: Wire): Promise<{ status: number; headers: Headers }> {
  const head = await wire.takeUntil("\r\n\r\n");
  if (head === undefined) throw new Error("the connection ended without an answer");
  const [first = "", ...lines] = head.split("\r\n");
  const headers = new Headers();
  for (const line of lines) headers.append(line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim());
  return { status: Number(first.split(" ")[1]), headers };
}

async function readBody(wire: Wire, status: number, headers: Headers): Promise<Uint8Array> {
  if (status === 304 || status === 204) return new Uint8Array();
  const length = headers.get("content-length");
  if (length !== null) return (await wire.take(Number(length))) ?? new Uint8Array();
  if (headers.get("transfer-encoding") !== "chunked") return wire.takeAll();
  const chunks: Uint8Array[] = [];
  for (;;) {
    const size = parseInt((await wire.takeUntil("\r\n")) ?? "0", 16);
    if (size) chunks.push((await wire.take(size)) ?? new Uint8Array());
    await wire.takeUntil("\r\n");
    if (!size) return Buffer.concat(chunks);
  }
}

async function readAnswer(wire: Wire, { status, headers }: { status: number; headers: Headers }): Promise<Answer> {
  const bytes = await readBody(wire, status, headers);
  wire.socket.destroy();
  const text = new TextDecoder().decode(bytes);
  return {
    status,
    headers,
    bytes,
    text,
    get json() {
      return JSON.parse(text) as unknown;
    },
  };
}

/** One request on its own connection: `ask(url, "GET /count?site=a.example")`. */
export async function ask(url: string, route: string, { headers = {}, body, from }: Request_ = {}): Promise<Answer> {
  const wire = await Wire.open(url, from);
  const length = body === undefined ? undefined : String(Buffer.byteLength(body));
  wire.socket.write(requestHead(route, url, { connection: "close", "content-length": length, ...headers }));
  if (body !== undefined) wire.socket.write(body);
  const answer = async (): Promise<Answer> => readAnswer(wire, await readHead(wire));
  return within(30_000, `an answer to ${route}`, answer());
}

// -------------------------------------------------------------------------------------------------------- WebSocket

export type Frame = { site?: number; page?: number; peak?: number; read?: number; stale?: boolean };
export type Closed = { code: number; reason: string };

const text = 1;
const close = 8;
const ping = 9;
const pong = 10;

/** A frame as a client sends it, masked; `first` overrides the byte of FIN, RSV and opcode. */
export function encodeFrame(
  opcode: number,
  payload: Uint8Array,
  { masked = true, first = 0x80 | opcode } = {},
): Buffer {
  const size = payload.length;
  const head = size < 126 ? [size] : size < 65_536 ? [126, size >> 8, size & 255] : [127, 0, 0, 0, 0, ...big(size)];
  head[0]! |= masked ? 0x80 : 0;
  const mask = masked ? [0x12, 0x34, 0x56, 0x78] : [];
  const body = masked ? payload.map((byte, at) => byte ^ mask[at % 4]!) : payload;
  return Buffer.concat([Buffer.from([first, ...head, ...mask]), body]);
}

const big = (size: number): number[] => [size >>> 24, (size >>> 16) & 255, (size >>> 8) & 255, size & 255];

/** An open page: one WebSocket, all that it was told, and how it ended. */
export class Page {
  /** The newest value of everything that the service has said. */
  now: Frame = {};
  /** All frames, in order. */
  frames: Frame[] = [];
  pings = 0;
  /** A peer whose link is dead: it answers nothing, and TCP does not tell. */
  silent = false;
  readonly closed: Promise<Closed>;
  #wire: Wire;
  #ended = false;
  #heard: (() => void)[] = [];

  constructor(wire: Wire) {
    this.#wire = wire;
    this.closed = this.#read().catch(() => ({ code: 1006, reason: "" }));
    void this.closed.then(() => {
      this.#ended = true;
      this.#wire.socket.destroy();
      return this.#tell();
    });
  }

  get open(): boolean {
    return !this.#ended;
  }

  /** Resolves as soon as the newest values are the expected ones. */
  shows(expected: Frame, ms?: number): Promise<void> {
    const fits = (): boolean => Bun.deepMatch(expected, this.now);
    return this.#awaits(`a page shows ${JSON.stringify(expected)}`, fits, ms);
  }

  /** Resolves as soon as it was told `count` frames in all. */
  hears(count: number, ms?: number): Promise<void> {
    return this.#awaits(`a page hears ${count} frames`, () => this.frames.length >= count, ms);
  }

  /** How it ends, within the time. */
  ends(ms = 5000): Promise<Closed> {
    return within(ms, () => `the page is closed: ${this.#story()}`, this.closed);
  }

  send(message: string | object): void {
    const words = typeof message === "string" ? message : JSON.stringify(message);
    this.write(encodeFrame(text, Buffer.from(words)));
  }

  /** Any bytes, valid or not. */
  write(bytes: Uint8Array): void {
    if (!this.#ended) this.#wire.socket.write(bytes);
  }

  /** What a browser does when the page is closed. */
  async close(code = 1001): Promise<void> {
    this.write(encodeFrame(close, Buffer.from([code >> 8, code & 255])));
    await Promise.race([this.closed, sleep(500)]); // Deno may keep its half open
    this.vanish();
  }

  /** What an operating system does when the browser was killed. */
  vanish(): void {
    this.#ended = true;
    this.#wire.socket.destroy();
  }

  /** No byte is read any more, so the service's buffers fill. */
  stopReading(): void {
    this.#wire.socket.pause();
  }

  /** The port at this end, by which a firewall knows the link. */
  get port(): number {
    return this.#wire.socket.localPort ?? 0;
  }

  async #awaits(what: string, holds: () => boolean, ms = 5000): Promise<void> {
    const arrived = async (): Promise<void> => {
      while (!holds()) {
        if (this.#ended) throw new Error(`closed before ${what}: ${this.#story()}`);
        await new Promise<void>((wake) => this.#heard.push(wake));
      }
    };
    await within(ms, () => `${what}: ${this.#story()}`, arrived());
  }

  #story(): string {
    const end = this.#ended ? " (closed)" : "";
    return `${this.frames.length} frames, the last ones ${JSON.stringify(this.frames.slice(-5))}${end}`;
  }

  #tell(): void {
    for (const wake of this.#heard.splice(0)) wake();
  }

  async #read(): Promise<Closed> {
    for (;;) {
      const head = await this.#wire.take(2);
      if (!head) return { code: 1006, reason: "" };
      const short = head[1]! & 127;
      const long = short < 126 ? undefined : await this.#wire.take(short === 126 ? 2 : 8);
      const size = long ? long.reduce((sum, byte) => sum * 256 + byte, 0) : short;
      const payload = await this.#wire.take(size);
      if (!payload) return { code: 1006, reason: "" };
      const ended = this.#hear(head[0]! & 15, payload);
      if (ended) return ended;
    }
  }

  #hear(opcode: number, payload: Uint8Array): Closed | undefined {
    if (opcode === ping) {
      this.pings++;
      if (!this.silent) this.write(encodeFrame(pong, payload));
    } else if (opcode === text) {
      const frame: Frame = JSON.parse(new TextDecoder().decode(payload));
      this.frames.push(frame);
      Object.assign(this.now, frame);
      this.#tell();
    } else if (opcode === close) {
      if (this.silent) return undefined;
      this.write(encodeFrame(close, payload.subarray(0, 2)));
      const code = payload.length < 2 ? 1005 : payload[0]! * 256 + payload[1]!;
      return { code, reason: new TextDecoder().decode(payload.subarray(2)) };
    }
    return undefined;
  }
}

export type Upgrade = Answer & { page?: Page };

/** The upgrade as given; its answer, and the page when that is 101. */
export async function upgrade(url: string, token: string | undefined, request: Request_ = {}): Promise<Upgrade> {
  const route = `GET /ws${token === undefined ? "" : `?token=${encodeURIComponent(token)}`}`;
  const wire = await Wire.open(url, request.from);
  const handshake = {
    connection: "Upgrade",
    upgrade: "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
  };
  wire.socket.write(requestHead(route, url, { ...handshake, ...request.headers }));
  const answer = async (): Promise<Upgrade> => {
    const head = await readHead(wire);
    if (head.status !== 101) return readAnswer(wire, head);
    return { ...head, bytes: new Uint8Array(), text: "", json: undefined, page: new Page(wire) };
  };
  return within(30_000, `an answer to ${route}`, answer());
}

// ---------------------------------------------------------------------------------------------------------- visitor

/** One browser on one site: it keeps its cookies, and opens pages as the widget does. */
export class Visitor {
  readonly url: string;
  readonly origin: string;
  /** More headers with each request, such as X-Forwarded-For. */
  headers: Headers_;
  from: string | undefined;
  readonly cookies = new Map<string, string>();

  constructor(url: string, origin: string, { headers = {}, from }: { headers?: Headers_; from?: string } = {}) {
    this.url = url;
    this.origin = origin;
    this.headers = headers;
    this.from = from;
  }

  get request(): Request_ {
    const cookie = [...this.cookies].map(([name, value]) => `${name}=${value}`).join("; ");
    return { headers: { origin: this.origin, cookie: cookie || undefined, ...this.headers }, from: this.from };
  }

  /** `POST /token`, keeping the cookie as a browser does. A string body is sent as it is. */
  async token(body?: object | string): Promise<Answer> {
    const sent = body === undefined || typeof body === "string" ? body : JSON.stringify(body);
    const { headers = {}, from } = this.request;
    const request = { headers: { "content-type": "text/plain", ...headers }, body: sent ?? "", from };
    const answer = await ask(this.url, "POST /token", request);
    for (const line of answer.headers.getSetCookie()) {
      const [pair = ""] = line.split(";");
      this.cookies.set(pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1));
    }
    return answer;
  }

  upgrade(token: string | undefined): Promise<Upgrade> {
    return upgrade(this.url, token, this.request);
  }

  /** A page as the widget opens it: token, upgrade, first frame. */
  async open(page = "/", more: object = {}): Promise<Page> {
    const answer = await this.token({ page, ...more });
    if (answer.status !== 200) throw new Error(`no token for ${this.origin}${page}: ${answer.status} ${answer.text}`);
    const { status, text: problem, page: opened } = await this.upgrade(answer.json.token);
    if (!opened) throw new Error(`no upgrade for ${this.origin}${page}: ${status} ${problem}`);
    await opened.hears(1);
    return opened;
  }
}
