/**
 * A visitor's browser, reduced to what the service sees of it. It speaks HTTP and WebSocket over plain TCP, so a test can
 * send any header from any address, and can do what no browser does: stay silent, break frames, use a token twice.
 */
import { BufferedSocket } from "./socket.ts";
import { PATIENCE_MS, sleep, within } from "./waiting.ts";

/** An ordinary browser; the service refuses crawlers and headless browsers by name. */
export const userAgent = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";

/** The Authorization header of the operator who knows this password. */
export const authorizationOf = (password: string): string => `Basic ${btoa(`admin:${password}`)}`;

export type RequestHeaders = Record<string, string | undefined>;
export type RequestOptions = {
  headers?: RequestHeaders;
  body?: string | Uint8Array | undefined;
  from?: string | undefined;
};

export type Answer = {
  status: number;
  headers: Headers;
  bytes: Uint8Array;
  text: string;
  /** The body as JSON, untyped: tests look into it. */
  json: any;
};

// ------------------------------------------------------------------------------------------------------------- HTTP

function requestHead(route: string, url: string, headers: RequestHeaders): string {
  const all: RequestHeaders = { host: new URL(url).host, "user-agent": userAgent, ...headers };
  const lines = Object.entries(all).flatMap(([name, value]) => (value === undefined ? [] : `${name}: ${value}`));
  return [`${route} HTTP/1.1`, ...lines, "", ""].join("\r\n");
}

async function readHead(socket: BufferedSocket): Promise<{ status: number; headers: Headers }> {
  const head = await socket.takeUntil("\r\n\r\n");
  if (head === undefined) throw new Error("the connection ended without an answer");
  const [first = "", ...lines] = head.split("\r\n");
  const headers = new Headers();
  for (const line of lines) headers.append(line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trim());
  return { status: Number(first.split(" ")[1]), headers };
}

async function readBody(socket: BufferedSocket, status: number, headers: Headers): Promise<Uint8Array> {
  if (status === 304 || status === 204) return new Uint8Array();
  const length = headers.get("content-length");
  if (length !== null) return (await socket.take(Number(length))) ?? new Uint8Array();
  if (headers.get("transfer-encoding") !== "chunked") return socket.takeAll();
  const chunks: Uint8Array[] = [];
  for (;;) {
    const size = parseInt((await socket.takeUntil("\r\n")) ?? "0", 16);
    if (size) chunks.push((await socket.take(size)) ?? new Uint8Array());
    await socket.takeUntil("\r\n");
    if (!size) return Buffer.concat(chunks);
  }
}

async function readAnswer(
  socket: BufferedSocket,
  { status, headers }: { status: number; headers: Headers },
): Promise<Answer> {
  const bytes = await readBody(socket, status, headers);
  socket.raw.destroy();
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
export async function ask(
  url: string,
  route: string,
  { headers = {}, body, from }: RequestOptions = {},
): Promise<Answer> {
  const socket = await BufferedSocket.open(url, from);
  const length = body === undefined ? undefined : String(Buffer.byteLength(body));
  socket.raw.write(requestHead(route, url, { connection: "close", "content-length": length, ...headers }));
  if (body !== undefined) socket.raw.write(body);
  const answer = async (): Promise<Answer> => readAnswer(socket, await readHead(socket));
  return within(30_000, `an answer to ${route}`, answer());
}

// -------------------------------------------------------------------------------------------------------- WebSocket

type NumberName = "site" | "page" | "peak" | "read" | "views" | "total" | "visitors" | "today";
export type Frame = Partial<Record<NumberName, number>> & { stale?: boolean };
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

/** The connection of one open page: its WebSocket, the frames that it received, and how it ended. */
export class Connection {
  /** The newest value of each number that the service has sent. */
  now: Frame = {};
  /** All frames, in order. */
  frames: Frame[] = [];
  pings = 0;
  /** When true, pings and close frames get no answer, as after a link has died without a FIN. */
  silent = false;
  readonly closed: Promise<Closed>;
  #socket: BufferedSocket;
  #ended = false;
  #waiting: (() => void)[] = [];

  constructor(socket: BufferedSocket) {
    this.#socket = socket;
    this.closed = this.#read().catch(() => ({ code: 1006, reason: "" }));
    void this.closed.then(() => {
      this.#ended = true;
      this.#socket.raw.destroy();
      return this.#wake();
    });
  }

  get open(): boolean {
    return !this.#ended;
  }

  /** Resolves as soon as the newest values are the expected ones. */
  shows(expected: Frame, ms?: number): Promise<void> {
    const fits = (): boolean => Bun.deepMatch(expected, this.now);
    return this.#awaits(`the connection shows ${JSON.stringify(expected)}`, fits, ms);
  }

  /** Resolves as soon as `count` frames in all have arrived. */
  receives(count: number, ms?: number): Promise<void> {
    return this.#awaits(`the connection receives ${count} frames`, () => this.frames.length >= count, ms);
  }

  /** Resolves with the close code and reason, or fails when the connection is still open after `ms`. */
  ends(ms = PATIENCE_MS): Promise<Closed> {
    return within(ms, () => `the connection is closed: ${this.#history()}`, this.closed);
  }

  send(message: string | object): void {
    const content = typeof message === "string" ? message : JSON.stringify(message);
    this.write(encodeFrame(text, Buffer.from(content)));
  }

  /** Any bytes, valid or not. */
  write(bytes: Uint8Array): void {
    if (!this.#ended) this.#socket.raw.write(bytes);
  }

  /** What a browser does when the page is closed. */
  async close(code = 1001): Promise<void> {
    this.write(encodeFrame(close, Buffer.from([code >> 8, code & 255])));
    await Promise.race([this.closed, sleep(500)]); // Deno may not close its side of the TCP connection
    this.vanish();
  }

  /** What an operating system does when the browser was killed. */
  vanish(): void {
    this.#ended = true;
    this.#socket.raw.destroy();
  }

  /** Reads no further byte, so that the service's send buffer fills. */
  stopReading(): void {
    this.#socket.raw.pause();
  }

  /** How many bytes were written and are not yet in the kernel's hands. */
  get unsentBytes(): number {
    return this.#socket.raw.writableLength;
  }

  /** The port at this end, by which a firewall rule finds the connection. */
  get port(): number {
    return this.#socket.raw.localPort ?? 0;
  }

  async #awaits(what: string, holds: () => boolean, ms = PATIENCE_MS): Promise<void> {
    const arrived = async (): Promise<void> => {
      while (!holds()) {
        if (this.#ended) throw new Error(`closed before ${what}: ${this.#history()}`);
        await new Promise<void>((wake) => this.#waiting.push(wake));
      }
    };
    await within(ms, () => `${what}: ${this.#history()}`, arrived());
  }

  #history(): string {
    const end = this.#ended ? " (closed)" : "";
    return `${this.frames.length} frames, the last ones ${JSON.stringify(this.frames.slice(-5))}${end}`;
  }

  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }

  async #read(): Promise<Closed> {
    for (;;) {
      const head = await this.#socket.take(2);
      if (!head) return { code: 1006, reason: "" };
      const short = head[1]! & 127;
      const long = short < 126 ? undefined : await this.#socket.take(short === 126 ? 2 : 8);
      const size = long ? long.reduce((sum, byte) => sum * 256 + byte, 0) : short;
      const payload = await this.#socket.take(size);
      if (!payload) return { code: 1006, reason: "" };
      const ended = this.#receive(head[0]! & 15, payload);
      if (ended) return ended;
    }
  }

  #receive(opcode: number, payload: Uint8Array): Closed | undefined {
    if (opcode === ping) {
      this.pings++;
      if (!this.silent) this.write(encodeFrame(pong, payload));
    } else if (opcode === text) {
      const frame: Frame = JSON.parse(new TextDecoder().decode(payload));
      this.frames.push(frame);
      Object.assign(this.now, frame);
      this.#wake();
    } else if (opcode === close) {
      if (this.silent) return undefined;
      this.write(encodeFrame(close, payload.subarray(0, 2)));
      const code = payload.length < 2 ? 1005 : payload[0]! * 256 + payload[1]!;
      return { code, reason: new TextDecoder().decode(payload.subarray(2)) };
    }
    return undefined;
  }
}

/** The name under which test/cluster.test.ts knows a connection. */
export type Page = Connection;

export type Upgrade = Answer & { connection?: Connection };

/** Sends a WebSocket handshake; the result has a connection when the answer is 101. */
export async function upgrade(url: string, token: string | undefined, request: RequestOptions = {}): Promise<Upgrade> {
  const route = `GET /ws${token === undefined ? "" : `?token=${encodeURIComponent(token)}`}`;
  const socket = await BufferedSocket.open(url, request.from);
  const handshake = {
    connection: "Upgrade",
    upgrade: "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
  };
  socket.raw.write(requestHead(route, url, { ...handshake, ...request.headers }));
  const answer = async (): Promise<Upgrade> => {
    const head = await readHead(socket);
    if (head.status !== 101) return readAnswer(socket, head);
    return { ...head, bytes: new Uint8Array(), text: "", json: undefined, connection: new Connection(socket) };
  };
  return within(30_000, `an answer to ${route}`, answer());
}

// ---------------------------------------------------------------------------------------------------------- visitor

/** A browser on a site. It keeps its cookies, and opens pages as the widget does. */
export class Visitor {
  readonly url: string;
  readonly origin: string;
  /** Further headers of each request, such as X-Forwarded-For. */
  headers: RequestHeaders;
  from: string | undefined;
  readonly cookies = new Map<string, string>();

  constructor(url: string, origin: string, { headers = {}, from }: { headers?: RequestHeaders; from?: string } = {}) {
    this.url = url;
    this.origin = origin;
    this.headers = headers;
    this.from = from;
  }

  get request(): RequestOptions {
    const cookie = [...this.cookies].map(([name, value]) => `${name}=${value}`).join("; ");
    return { headers: { origin: this.origin, cookie: cookie || undefined, ...this.headers }, from: this.from };
  }

  /** Sends `POST /token` and keeps the cookie. A string body is sent as it is, any other body as JSON. */
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

  /** Opens a page as the widget does: token, upgrade, first frame. */
  async open(page = "/", more: object = {}): Promise<Connection> {
    const answer = await this.token({ page, ...more });
    if (answer.status !== 200) throw new Error(`no token for ${this.origin}${page}: ${answer.status} ${answer.text}`);
    const { status, text: problem, connection } = await this.upgrade(answer.json.token);
    if (!connection) throw new Error(`no upgrade for ${this.origin}${page}: ${status} ${problem}`);
    await connection.receives(1);
    return connection;
  }
}
