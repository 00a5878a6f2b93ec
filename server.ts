/**
 * Headcount: how many people are on this site right now?
 *
 * A page that carries the script tag opens one WebSocket to this service. The service counts the people behind those
 * sockets and writes the number back into every page as it changes. This file is that service, whole.
 *
 * The ideas, smallest first:
 *
 *   visitor   a browser, known by a random id that this service has signed. Never a tab, a socket or an address.
 *   page      a name on a site ("/about"). An OpenPage is one tab showing it: one socket, one visitor, one page.
 *   site      an entry of SITES, chosen by the Origin header, which a browser does not let its pages forge.
 *   room      whatever has a number of its own: a site, or one page of it. Its members are visitors, and each is there
 *             once, however many pages they hold open. Its audience are the open pages that show its number.
 *   token     a signed, single-use ticket from `POST /token` to `GET /ws`, so that every refusal can be read by the page
 *             as an HTTP answer, and nobody opens sockets without having been weighed.
 *   engine    what must outlive this process, or be agreed upon by several: secrets and spent tokens.
 *
 * Who owns what: `Rooms` owns who is counted and what is to be published, and nothing else can change a number. `Pages`
 * owns the sockets. `Guard` owns the limits. Time is an argument wherever it matters, and so a test of a minute takes none.
 *
 * Deliberately absent: a window ("in the last 5 minutes"), polling, per-visitor timers, buffering for slow readers (they
 * are closed and come back), and any trust in what a page says about itself other than its name.
 */

import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { DatabaseSync } from "node:sqlite";
import { URL } from "node:url";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { type Context, Hono, type MiddlewareHandler } from "hono";
import { bodyLimit } from "hono/body-limit";
import { getCookie, setCookie } from "hono/cookie";
import { etag } from "hono/etag";
import ipaddr from "ipaddr.js";
import { isbot } from "isbot";
import { LRUCache } from "lru-cache";
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import * as v from "valibot";

// ── Settings ────────────────────────────────────────────────────────────────────────────────────────────────────────
// The environment, read once at the start. All that is wrong is said at once, then the program does not start.

const integer = (min: number, max: number, expected: string) =>
  v.pipe(
    v.string(),
    v.regex(/^\d{1,9}$/, expected),
    v.transform(Number),
    v.minValue(min, expected),
    v.maxValue(max, expected),
  );
/** A list, by commas or spaces, each entry read by `parse`, which answers undefined to what it cannot read. */
const listOf = <T>(parse: (entry: string) => T | undefined, expected: string) =>
  v.pipe(
    v.string(),
    v.transform((text) =>
      text
        .split(/[\s,]+/)
        .filter(Boolean)
        .map(parse),
    ),
    v.check((entries) => !entries.includes(undefined), expected),
    v.transform((entries) => entries.filter((entry) => entry !== undefined)),
  );

const SITES = "a list of sites such as example.com, https://example.com:8443 or *.example.com";
const BLOCKS = "a list of addresses and CIDR blocks such as 192.0.2.1 or 2001:db8::/32";

const Environment = v.object({
  PORT: v.optional(integer(0, 65_535, "a port (0–65535)"), "3000"),
  HOST: v.optional(v.string(), "0.0.0.0"),
  SITES: v.optional(listOf((entry) => parseSite(entry), SITES)),
  SECRET: v.optional(v.pipe(v.string(), v.minLength(16, "a secret of at least 16 characters"))),
  TRUST_PROXY: v.optional(integer(0, 16, "the number of proxies in front (0–16)"), "0"),
  DENY: v.optional(
    listOf((entry) => parseBlock(entry), BLOCKS),
    "",
  ),
  DATA: v.optional(v.string(), "./data"),
  REDIS_URL: v.optional(v.pipe(v.string(), v.regex(/^rediss?:\/\/./, "a URL such as redis://:password@host:6379/0"))),
  ADMIN_PASSWORD: v.optional(v.pipe(v.string(), v.minLength(8, "a password of at least 8 characters"))),
  GRACE_SECONDS: v.optional(integer(0, 3_600, "a number of seconds (0–3600)"), "5"),
  HEARTBEAT_SECONDS: v.optional(integer(1, 120, "a number of seconds (1–120)"), "25"), // two periods < nginx's 60 s
  TOKEN_TTL_SECONDS: v.optional(integer(1, 3_600, "a number of seconds (1–3600)"), "30"),
  MAX_PAGES_PER_VISITOR: v.optional(integer(1, 1_000_000, "a number of pages (1–1000000)"), "20"),
  MAX_PAGES_PER_IP: v.optional(integer(1, 1_000_000, "a number of pages (1–1000000)"), "200"),
  MAX_TOKENS_PER_IP: v.optional(integer(1, 1_000_000, "a number of tokens a minute (1–1000000)"), "120"),
  MAX_VISITORS_PER_IP: v.optional(integer(1, 1_000_000, "a number of visitors a minute (1–1000000)"), "60"),
  MAX_CONNECTIONS: v.optional(integer(1, 10_000_000, "a number of connections (1–10000000)")),
  IDENTITY: v.optional(v.picklist(["cookie", "hash"], "cookie or hash"), "cookie"),
  COUNT_BOTS: v.optional(v.picklist(["true", "false"], "true or false"), "false"),
});

export type Settings = v.InferOutput<typeof Environment> & { MAX_CONNECTIONS: number };

/**
 * Reads the settings from an environment; an empty value is an unset one.
 * @throws {Error} whose message has a line for each wrong setting: `Cannot read PORT: "80a" is not a port (0–65535)`
 */
export function readSettings(environment: Record<string, string | undefined>): Settings {
  const given = Object.fromEntries(Object.entries(environment).filter(([, value]) => value !== ""));
  const result = v.safeParse(Environment, given);
  if (result.success)
    return { ...result.output, MAX_CONNECTIONS: result.output.MAX_CONNECTIONS ?? Math.floor(openFilesLimit() * 0.9) };
  const wrong = new Map(result.issues.map((issue) => [v.getDotPath(issue)?.split(".")[0] ?? "", issue.message]));
  throw new Error(
    [...wrong]
      .map(([name, expected]) => `Cannot read ${name}: ${shown(name, given[name])} is not ${expected}`)
      .join("\n"),
  );
}

/** A value as it may stand in a log: quoted and escaped, and nothing of a secret but its length. */
const shown = (name: string, value = "") =>
  /SECRET|PASSWORD|URL/.test(name) ? `a value of ${value.length} characters` : JSON.stringify(value);

/** How many files this process may open; where the system does not tell (macOS, Deno without --allow-all), 10,000. */
function openFilesLimit(): number {
  try {
    return Number(/Max open files\s+(\d+)/.exec(readFileSync("/proc/self/limits", "utf8"))?.[1] ?? 10_000);
  } catch {
    return 10_000; // deliberately quiet: a guess serves, and running out of files is survived anyway
  }
}

type Level = "info" | "warn" | "error";

/** Writes one line for one event: words on a terminal, JSON elsewhere. Values are always escaped, so nobody forges a line. */
export function log(level: Level, event: string, fields: Record<string, unknown> = {}): void {
  const line = process.stdout.isTTY
    ? [
        level === "info" ? "" : `${level}: `,
        event,
        ...Object.entries(fields).map(([key, value]) => ` ${key}=${JSON.stringify(value)}`),
      ].join("")
    : JSON.stringify({ time: new Date().toISOString(), level, event, ...fields });
  process.stdout.write(`${line}\n`);
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

// ── Names and addresses ─────────────────────────────────────────────────────────────────────────────────────────────
// Pure functions that decide which site, page and address a request is about. Nothing a client sends is used as it is.

/** One entry of SITES. `name` is what the site is called everywhere; all origins that match are counted together. */
export interface Site {
  readonly name: string;
  matches(origin: URL): boolean;
}

/**
 * `example.com` → http and https on their default ports (any port for localhost) · `https://example.com:8443` → exactly
 * that · `*.example.com` → the apex and every subdomain · anything else → undefined
 */
export function parseSite(entry: string): Site | undefined {
  if (entry.includes("://")) {
    const url = URL.parse(entry);
    if (
      url === null ||
      !isWeb(url) ||
      url.pathname !== "/" ||
      url.search !== "" ||
      url.hash !== "" ||
      url.username !== ""
    )
      return undefined;
    return { name: url.origin, matches: (origin) => origin.origin === url.origin };
  }
  const wildcard = entry.startsWith("*.");
  const host = URL.parse(`http://${wildcard ? entry.slice(2) : entry}`);
  if (
    host === null ||
    host.host !== host.href.slice("http://".length, -1) ||
    host.port !== "" ||
    host.host.includes("*")
  )
    return undefined;
  const name = host.hostname;
  if (wildcard)
    return { name: `*.${name}`, matches: (origin) => origin.port === "" && `.${origin.hostname}`.endsWith(`.${name}`) };
  return { name, matches: (origin) => origin.hostname === name && (origin.port === "" || name === "localhost") };
}

const isWeb = (url: URL) => url.protocol === "https:" || url.protocol === "http:";

/** An Origin or Referer header as a URL; undefined where it is missing, `null`, or not of the web. */
function webOrigin(header: string | undefined): URL | undefined {
  const url = header === undefined ? null : URL.parse(header);
  return url === null || !isWeb(url) ? undefined : url;
}

/** The site while SITES is unset: the same machine, so that it works out of the box and is closed to everybody else. */
const LOCALHOST: Site = {
  name: "localhost",
  matches: (origin) => ["localhost", "127.0.0.1", "[::1]"].includes(origin.hostname),
};

/** Finds sites by Origin or by name. SITES come first, then the service's own origin, then (with SITES unset) localhost. */
export class Sites {
  readonly #entries: readonly Site[];
  readonly #fallback: readonly Site[];

  /** @param entries SITES, or undefined where that is unset */
  constructor(entries: readonly Site[] | undefined) {
    this.#entries = entries ?? [];
    this.#fallback = entries === undefined ? [LOCALHOST] : [];
  }

  /** The name of the site that an origin belongs to; `host` is the Host header of the same request. */
  byOrigin(origin: URL | undefined, host: string): string | undefined {
    if (origin === undefined) return undefined;
    const matches = (site: Site) => site.matches(origin);
    return (
      this.#entries.find(matches)?.name ??
      (origin.host === ownHost(host, origin) ? origin.host : this.#fallback.find(matches)?.name)
    );
  }

  /** Whether SITES has an entry of this name; the service's own site has none. */
  lists(name: string): boolean {
    return [...this.#entries, ...this.#fallback].some((site) => site.name === name);
  }

  /** The site of this name, if there is one. A host that an entry covers names that entry's site. */
  byName(name: string, host: string): string | undefined {
    if (this.lists(name)) return name;
    return this.byOrigin(webOrigin(`https://${name}`), host) ?? (name === host ? name : undefined);
  }
}

/** The Host header as a URL would write it: lower case, without the default port of the origin's scheme. */
const ownHost = (host: string, origin: URL) => URL.parse(`${origin.protocol}//${host}`)?.host;

const MAX_PAGE_NAME = 1_024;
// oxlint-disable-next-line no-control-regex -- these are what must not be stored, logged or shown
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/u;

/**
 * The one name of a page: `/caf%C3%A9/index.html?x=1` and `/café/` → `/café`. Undefined when it is empty, longer than
 * 1,024 characters, or holds control characters or half a surrogate pair.
 */
export function pageName(text: string): string | undefined {
  let name = text.replace(/\?[^#]*/, "");
  try {
    name = decodeURI(name);
  } catch {
    // deliberate: a lone % is a legal, if odd, name
  }
  name = name.normalize("NFC").replace(/\/(index\.html?)?$/, "") || "/";
  return text === "" || name.length > MAX_PAGE_NAME || CONTROL.test(name) || !name.isWellFormed() ? undefined : name;
}

/** Addresses that share their first `bits` bits. */
type Block = readonly [ipaddr.IPv4 | ipaddr.IPv6, bits: number];

/** `192.0.2.1` or `192.0.2.0/24` or `2001:db8::/32` → a block; anything else → undefined. IPv4-mapped IPv6 is IPv4. */
function parseBlock(entry: string): Block | undefined {
  if (ipaddr.isValidCIDR(entry)) return ipaddr.parseCIDR(entry);
  if (!ipaddr.isValid(entry)) return undefined;
  const address = ipaddr.process(entry);
  return [address, address.kind() === "ipv4" ? 32 : 128];
}

/**
 * The client's address: the socket's, or the `hops`-th entry from the right of X-Forwarded-For, which is what the
 * outermost trusted proxy wrote. Whatever stands further left is the client's own invention.
 */
export function clientAddress(socket: string, forwardedFor: string | undefined, hops: number): string {
  const claimed = hops > 0 ? forwardedFor?.split(",").at(-hops)?.trim() : undefined;
  return canonical(claimed) ?? canonical(socket) ?? "0.0.0.0";
}

function canonical(address: string | undefined): string | undefined {
  if (address === undefined || !ipaddr.isValid(address)) return undefined;
  return ipaddr.process(address).toString();
}

/** An address for a log line: enough to see a pattern, too little to name a household. */
const coarse = (address: string) => address.replace(/\.\d+$/, ".x");

/** What limits are counted by: an IPv4 address as it is, an IPv6 one by its /64, since one household owns all of that. */
export function limitKey(address: string): string {
  return address.includes(":") ? `${ipaddr.IPv6.networkAddressFromCIDR(`${address}/64`).toString()}/64` : address;
}

// ── Visitors and tokens ─────────────────────────────────────────────────────────────────────────────────────────────
// Both are plain text with an HMAC-SHA256 over all they mean, so that nothing about them has to be remembered here.

/** What a token promises about the socket it opens. `visitor` is "" for a page that only observes. */
export interface Claims {
  readonly visitor: string;
  readonly page: string;
  /** When it stops being good: milliseconds since 1970. */
  readonly expires: number;
  /** Makes the token one of its kind. It is unique, not secret: nobody gains by guessing it. */
  readonly nonce: number;
}

const Payload = v.strictTuple([v.string(), v.string(), v.number(), v.number()]);

export class Signer {
  readonly #secret: string;

  constructor(secret: string) {
    this.#secret = secret;
  }

  /** The first 128 bits of the HMAC over a list of texts; a list, so that no two meanings share one signature. */
  #sign(...parts: string[]): string {
    return createHmac("sha256", this.#secret).update(JSON.stringify(parts)).digest("base64url").slice(0, 22);
  }

  #verify(signature: string, ...parts: string[]): boolean {
    const given = Buffer.from(signature);
    const right = Buffer.from(this.#sign(...parts));
    return given.length === right.length && timingSafeEqual(given, right);
  }

  /** `id.signature`: what a browser keeps. The signature covers the site, so an id is worth nothing on another one. */
  signVisitor(site: string, id: string): string {
    return `${id}.${this.#sign("visitor", site, id)}`;
  }

  /** The id inside, when this service signed it for this site. */
  readVisitor(site: string, signed: string | undefined): string | undefined {
    const [id = "", signature = "", ...rest] = signed?.split(".") ?? [];
    return rest.length === 0 && id.length === 22 && this.#verify(signature, "visitor", site, id) ? id : undefined;
  }

  /** The token is bound to the Origin by its signature: whoever presents it must send the same Origin again. */
  signToken(origin: string, claims: Claims): string {
    const payload = Buffer.from(JSON.stringify([claims.visitor, claims.page, claims.expires, claims.nonce])).toString(
      "base64url",
    );
    return `${payload}.${this.#sign("token", origin, payload)}`;
  }

  /** The claims, or undefined for a token that is forged, of another Origin, or past its time. */
  readToken(origin: string, token: string, now: number): Claims | undefined {
    const [payload = "", signature = "", ...rest] = token.split(".");
    if (rest.length > 0 || !this.#verify(signature, "token", origin, payload)) return undefined;
    const [visitor, page, expires, nonce] = v.parse(Payload, JSON.parse(Buffer.from(payload, "base64url").toString()));
    return expires > now ? { visitor, page, expires, nonce } : undefined;
  }
}

/** A visitor for IDENTITY=hash: the same browser gives the same id for a day, and nothing is kept in it. */
export function hashVisitor(salt: string, site: string, address: string, userAgent: string): string {
  return createHmac("sha256", salt)
    .update(JSON.stringify([site, limitKey(address), userAgent]))
    .digest("base64url")
    .slice(0, 22);
}

/** 48 random bits: with a million tokens alive, one newcomer in 280 million meets a namesake, and asks again. */
const newNonce = () => randomBytes(6).readUIntBE(0, 6);
const newVisitor = () => randomBytes(16).toString("base64url");
const newSecret = () => randomBytes(32).toString("base64url");

// ── Guard ───────────────────────────────────────────────────────────────────────────────────────────────────────────
// Who is turned away, and how it is said. Every table has a fixed upper size: a flood costs its sender, not this memory.

/** Every reason to refuse: status, title, what it means to whoever runs the page, and the seconds to wait, if waiting helps. */
const REFUSALS = {
  address: [403, "Address denied", "This address is on the deny list (DENY), or asked far too often", 600],
  bot: [403, "Crawlers are not counted", "The User-Agent is that of a crawler or a headless browser (COUNT_BOTS)"],
  origin: [403, "Origin not allowed", "The request has no Origin that SITES names"],
  token: [403, "Token not valid", "The token is missing, forged, expired, used, or of another origin"],
  body: [400, "Request not understood", 'The body must be JSON such as {"page":"/path","visitor":"…","observe":true}'],
  page: [400, "Page name not valid", "A page's name has 1 to 1,024 characters, none of them control characters"],
  handshake: [400, "Handshake not valid", "The WebSocket handshake is broken"],
  password: [401, "Password needed", "This is for the operator: the user is admin, the password ADMIN_PASSWORD"],
  unknown: [404, "Not found", "There is nothing here by this name"],
  size: [413, "Request too large", "The body may have 4,096 bytes"],
  upgrade: [
    426,
    "Upgrade required",
    "This is for WebSockets. If it was one, a proxy in between dropped its Upgrade header",
  ],
  guesses: [429, "Too many wrong passwords", "This address gave ten wrong passwords in a minute", 60],
  tokens: [429, "Too many token requests", "This address asked more often than it may (MAX_TOKENS_PER_IP)", 60],
  visitors: [
    429,
    "Too many new visitors",
    "This address brought more new visitors than it may (MAX_VISITORS_PER_IP)",
    60,
  ],
  pages_per_visitor: [
    429,
    "Too many open pages",
    "This visitor has all the pages open that one may (MAX_PAGES_PER_VISITOR)",
    30,
  ],
  pages_per_ip: [429, "Too many open pages", "This address has all the pages open that one may (MAX_PAGES_PER_IP)", 30],
  error: [500, "Internal error", "The service has noted what went wrong"],
  full: [503, "Full", "This service has all the pages open that it may (MAX_CONNECTIONS)", 30],
  draining: [503, "Restarting", "This service is about to restart", 5],
} as const satisfies Record<string, readonly [status: number, title: string, detail: string, retryAfter?: number]>;

/** Why somebody was turned away. */
export type Reason = keyof typeof REFUSALS;

const TABLE_SIZE = 50_000; // addresses a table remembers; about 4 MB when full
const MINUTE = 60_000;
const BAN_MS = 10 * MINUTE;
const MAX_GUESSES = 10; // wrong passwords a minute and address

/** Counts events by key in windows that begin with a key's first event. */
class Windows {
  readonly #counts: LRUCache<string, number>;

  constructor(ttl: number) {
    this.#counts = new LRUCache({ max: TABLE_SIZE, ttl });
  }

  /** Counts one more and returns how many that makes in this window. */
  hit(key: string): number {
    const count = this.count(key) + 1;
    this.#counts.set(key, count, { noUpdateTTL: true });
    return count;
  }

  count(key: string): number {
    return this.#counts.get(key) ?? 0;
  }
}

export class Guard {
  readonly #settings: Settings;
  readonly #tokens = new Windows(MINUTE);
  readonly #visitors = new Windows(MINUTE);
  readonly #bans = new Windows(BAN_MS);
  readonly #guesses = new Windows(MINUTE);
  readonly #openPages = new Map<string, number>(); // bounded by MAX_CONNECTIONS

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  /** The deny list and the temporary bans; asked before anything else. */
  address(address: string): Reason | undefined {
    if (this.#bans.count(limitKey(address)) > 0) return "address";
    if (this.#settings.DENY.length === 0) return undefined;
    const parsed = ipaddr.process(address);
    const denied = this.#settings.DENY.some(
      ([block, bits]) => block.kind() === parsed.kind() && parsed.match(block, bits),
    );
    return denied ? "address" : undefined;
  }

  /** A token request. Ten times over the limit is no mistake any more: the address is denied for ten minutes. */
  tokenRequest(key: string): Reason | undefined {
    const requests = this.#tokens.hit(key);
    if (requests > this.#settings.MAX_TOKENS_PER_IP * 10) {
      this.#bans.hit(key);
      log("warn", "address denied for ten minutes", { address: coarse(key), requests });
    }
    return requests > this.#settings.MAX_TOKENS_PER_IP ? "tokens" : undefined;
  }

  newVisitor(key: string): Reason | undefined {
    return this.#visitors.hit(key) > this.#settings.MAX_VISITORS_PER_IP ? "visitors" : undefined;
  }

  /** Somebody gave a password. Who was wrong ten times in a minute is not even listened to. */
  password(key: string, given: string | undefined, right: string): Reason | undefined {
    if (this.#guesses.count(key) >= MAX_GUESSES) return "guesses";
    if (given === undefined) return "password";
    const matches = timingSafeEqual(Buffer.from(digest(given)), Buffer.from(digest(right)));
    if (!matches) this.#guesses.hit(key);
    return matches ? undefined : "password";
  }

  /** Whether one more page may open: `pages` are the visitor's open ones, `connections` everybody's. */
  onePageMore(key: string, pages: number, connections: number): Reason | undefined {
    if (connections >= this.#settings.MAX_CONNECTIONS) return "full";
    if (pages >= this.#settings.MAX_PAGES_PER_VISITOR) return "pages_per_visitor";
    return (this.#openPages.get(key) ?? 0) >= this.#settings.MAX_PAGES_PER_IP ? "pages_per_ip" : undefined;
  }

  opened(key: string): void {
    this.#openPages.set(key, (this.#openPages.get(key) ?? 0) + 1);
  }

  closed(key: string): void {
    const left = (this.#openPages.get(key) ?? 1) - 1;
    if (left > 0) this.#openPages.set(key, left);
    else this.#openPages.delete(key);
  }
}

// ── Rooms ───────────────────────────────────────────────────────────────────────────────────────────────────────────
// The pure heart: who is counted, and what must be told to whom. No clock, no socket, no I/O: `now` is an argument, in
// milliseconds that only ever grow. The surprising fact: a visitor in grace is a member like any other; only time, in
// `tick`, makes members leave, and therefore a reload changes nothing at all.

export interface Room {
  readonly site: string;
  /** The page's name; undefined for the room of the whole site. */
  readonly page: string | undefined;
  /** Visitor → open pages in this room; below zero, none any more: minus the time at which grace ends. */
  readonly members: Map<string, number>;
  /** The open pages that are shown this room's number, those that only observe included. */
  readonly audience: Set<OpenPage>;
  /** How many visitors it has: here or, with a shared engine, on all nodes. Undefined until that engine has said it. */
  total: number | undefined;
  /** The number its audience was told last, and the time before which it is not told again. */
  told: number | undefined;
  quietUntil: number;
  /** When it changed first since then. */
  changedAt: number;
  /** The highest total since the journal looked last. */
  highest: number;
  /** What else its audience is shown: of a site the peak of 24 hours, of a page the median reading time. */
  figure: number | undefined;
  figureUntil: number;
}

/** A visitor in a room, by names. */
export interface Member {
  readonly site: string;
  readonly page: string | undefined;
  readonly visitor: string;
}

/** What a shared engine is told of the rooms of this node. It answers by `Rooms.setTotal`. */
export interface Membership {
  /** The node has the room from now on, and wants its total, whether or not visitors follow. */
  opened(room: Room): void;
  /** A visitor came to the room with their first page on this node (`here`), or went with their last. */
  changed(room: Room, visitor: string, here: boolean): void;
  /** Nobody on this node is in the room or looks at its number any more. */
  closed(room: Room): void;
}

/** One tab that shows one page; the part of it that is counted. `Pages` keeps its socket in the same object. */
export interface OpenPage {
  /** "" when the page only observes. */
  readonly visitor: string;
  site: Room;
  page: Room;
}

/** A visitor who leaves a room at a time, unless they come back before it. */
interface Leaving {
  readonly room: Room;
  readonly visitor: string;
  readonly until: number;
}

const MIN_INTERVAL_MS = 100;
const MAX_INTERVAL_MS = 750; // with the time a broadcast to 20,000 pages takes, still within the promised second
const HOLD_MS = 15_000; // how long a restarted node counts those who were online before
const SCAN_MS = 50; // how often grace and waiting rooms are looked at
/** A frame to one page costs about 10 µs (measured); broadcasts may take a quarter of the time, hence 40 µs a page. */
const INTERVAL_MS_PER_PAGE = 0.04;

export class Rooms {
  readonly #rooms = new Map<string, Room>();
  readonly #graceMs: number;
  readonly #shared: Membership | undefined;
  /** Who is in grace, soonest to leave first, since grace is the same for all. Who came back is skipped when due. */
  readonly #grace = new Set<Leaving>();
  /** Who was online before a restart, and is expected back. */
  readonly #held = new Set<Leaving>();
  /** Rooms whose number changed: those that may tell it at the next tick, and those that have told one just now. */
  readonly #ready = new Set<Room>();
  readonly #waiting = new Set<Room>();
  #nextScan = 0;
  #openPages = 0;

  /** @param shared where several nodes count together; without it this node counts alone */
  constructor(graceMs: number, shared?: Membership) {
    this.#graceMs = graceMs;
    this.#shared = shared;
  }

  /** The number of distinct visitors on a site, or on one page of it; undefined for a room that this node has not. */
  count(site: string, page?: string): number | undefined {
    return this.#rooms.get(roomKey(site, page))?.total;
  }

  /** All rooms of this node, those of whole sites and those of their pages. */
  all(): Iterable<Room> {
    return this.#rooms.values();
  }

  /** Everybody who is counted here. */
  *members(): Generator<Member> {
    for (const { site, page, members } of this.#rooms.values())
      for (const visitor of members.keys()) yield { site, page, visitor };
  }

  /** How many pages of a site a visitor has open. */
  pagesOf(site: string, visitor: string): number {
    return Math.max(0, this.#rooms.get(site)?.members.get(visitor) ?? 0);
  }

  /** True when a tick would have something to tell at once. */
  get pending(): boolean {
    return this.#ready.size > 0;
  }

  /** The room of a site or of one page of it, for a page that is about to open there. */
  room(site: string, page?: string): Room {
    const key = roomKey(site, page);
    const found = this.#rooms.get(key);
    if (found !== undefined) return found;
    const total = this.#shared === undefined ? 0 : undefined;
    const room: Room = {
      site,
      page,
      members: new Map(),
      audience: new Set(),
      total,
      told: total,
      quietUntil: 0,
      changedAt: 0,
      highest: 0,
      figure: undefined,
      figureUntil: 0,
    };
    this.#rooms.set(key, room);
    this.#shared?.opened(room);
    return room;
  }

  /** Counts a visitor who was online before a restart, until they are back, or until their time is over. */
  hold({ site, page, visitor }: Member, until: number, now: number): void {
    const room = this.room(site, page);
    if (room.members.has(visitor)) return;
    room.members.set(visitor, -until);
    this.#held.add({ room, visitor, until });
    this.#changed(room, visitor, true, now);
  }

  /** A room's number as the engine knows it. */
  setTotal(room: Room, total: number, now: number): void {
    room.total = total;
    if (total > room.highest) room.highest = total;
    if (this.#ready.has(room) || this.#waiting.has(room)) return;
    room.changedAt = now;
    (now >= room.quietUntil ? this.#ready : this.#waiting).add(room);
  }

  /** A page opens: it joins the audience of its site and page and, unless it only observes, its visitor is counted. */
  open(page: OpenPage, now: number): void {
    this.#openPages += 1;
    this.#enter(page, page.site, now);
    this.#enter(page, page.page, now);
  }

  /** The open page now shows another page of its site: the site's number cannot change. */
  move(page: OpenPage, to: string, now: number): void {
    if (page.page.page === to) return;
    this.#leave(page, page.page, now);
    page.page = this.room(page.site.site, to);
    this.#enter(page, page.page, now);
  }

  /** The page closed. Called once for each page that was opened. */
  close(page: OpenPage, now: number): void {
    this.#openPages -= 1;
    this.#leave(page, page.page, now);
    this.#leave(page, page.site, now);
  }

  /** Ends the grace of those whose time has come, and returns the rooms whose audience is to be told their total now. */
  tick(now: number): Room[] {
    if (now >= this.#nextScan) {
      this.#nextScan = now + SCAN_MS;
      this.#expire(this.#grace, now);
      this.#expire(this.#held, now);
      for (const room of this.#waiting) if (now >= room.quietUntil) this.#ready.add(room);
    }
    const publications: Room[] = [];
    for (const room of this.#ready) {
      this.#waiting.delete(room);
      const { total } = room;
      if (total === undefined || total === room.told) continue;
      room.told = total;
      room.quietUntil = now + this.#intervalMs();
      if (room.audience.size > 0) publications.push(room);
    }
    this.#ready.clear();
    return publications;
  }

  /** The first change after a quiet time is told at once; the time to the next one grows with all there is to tell. */
  #intervalMs(): number {
    return Math.min(MAX_INTERVAL_MS, Math.max(MIN_INTERVAL_MS, this.#openPages * INTERVAL_MS_PER_PAGE));
  }

  #enter(page: OpenPage, room: Room, now: number): void {
    room.audience.add(page);
    if (page.visitor !== "") {
      const before = room.members.get(page.visitor);
      room.members.set(page.visitor, Math.max(0, before ?? 0) + 1);
      if (before === undefined) this.#changed(room, page.visitor, true, now);
    }
    if (room.audience.size === 1) room.told = room.total; // its first frame tells it
  }

  #leave(page: OpenPage, room: Room, now: number): void {
    room.audience.delete(page);
    const left = (room.members.get(page.visitor) ?? 0) - 1;
    if (page.visitor === "") this.#forget(room);
    else if (left > 0) room.members.set(page.visitor, left);
    else {
      const until = now + this.#graceMs;
      room.members.set(page.visitor, -until);
      this.#grace.add({ room, visitor: page.visitor, until });
    }
  }

  #expire(queue: Set<Leaving>, now: number): void {
    for (const leaving of queue) {
      const { room, visitor, until } = leaving;
      if (until > now) return;
      queue.delete(leaving);
      if (room.members.get(visitor) !== -until) continue; // came back, and perhaps left again since
      room.members.delete(visitor);
      this.#changed(room, visitor, false, now);
      this.#forget(room);
    }
  }

  #changed(room: Room, visitor: string, here: boolean, now: number): void {
    if (this.#shared === undefined) this.setTotal(room, room.members.size, now);
    else this.#shared.changed(room, visitor, here);
  }

  #forget(room: Room): void {
    if (room.members.size > 0 || room.audience.size > 0) return;
    this.#rooms.delete(roomKey(room.site, room.page));
    this.#shared?.closed(room);
  }
}

/** A site's name holds no space, so no site and page are mistaken for another. */
const roomKey = (site: string, page?: string) => (page === undefined ? site : `${site} ${page}`);

// ── Engine ──────────────────────────────────────────────────────────────────────────────────────────────────────────
// What must outlive this process, or be agreed upon by several: secrets, spent tokens, who is held over a restart, and
// the journal's sums. The embedded engine is one SQLite file; a broken or full disk costs history, never a count.

export interface Engine {
  /** A random secret, made when it is first asked for and kept. One a kind: asking for another `name` replaces it. */
  secret(kind: "signing" | "salt", name: string): Promise<string>;
  /** Claims the nonce of a token. False when it was claimed before, or may have been. */
  spend(claims: Claims, now: number): Promise<boolean>;
  /** Keeps who is online over a restart of this node. */
  hold(members: Iterable<Member>): Promise<void>;
  /** Who was online here when the node stopped, if that was just now and nobody else counts them. */
  held(): Promise<Member[]>;
  /** Adds to the journal, all or nothing. */
  record(entries: JournalEntries): Promise<void>;
  /** The reading times of a site, or of one page of it. */
  readings(site: string, page?: string): Promise<ReadingSum[]>;
  /** The highest counts from a minute on, one for every `step` minutes in which anybody was there, oldest first. */
  history(site: string, fromMinute: number, step: number): Promise<Peak[]>;
  /** The highest count ever, if there was any. */
  highest(site: string): Promise<Peak | undefined>;
  /** Only where several nodes count together: the total of a room that this node has not. */
  count?(site: string, page?: string): Promise<number>;
  /** Only where several nodes count together: connects the rooms of this node with those of the others. */
  share?(listener: SharedListener): Membership;
  close(): Promise<void>;
}

/** What a shared engine reports to its node. */
export interface SharedListener {
  total(room: Room, total: number): void;
  /** True while the engine is away and totals are the last known ones plus local changes. */
  stale(stale: boolean): void;
}

/** Views of a page whose reading times fall into one bucket of a histogram, or the change of that since last time. */
export interface ReadingSum {
  readonly site: string;
  readonly page: string;
  readonly bucket: number;
  views: number;
  seconds: number;
}

/** The highest count of a site in a minute (since 1970) or a longer time that begins with it. */
export interface Peak {
  readonly minute: number;
  readonly peak: number;
}

export interface JournalEntries {
  readonly readings: readonly ReadingSum[];
  readonly peaks: readonly (Peak & { readonly site: string })[];
}

/** One entry a version of the file; `PRAGMA user_version` says how many of them it has seen. Never change one: add. */
const MIGRATIONS = [
  `CREATE TABLE secrets (kind TEXT PRIMARY KEY, name TEXT NOT NULL, value TEXT NOT NULL) STRICT;
   CREATE TABLE held (site TEXT NOT NULL, page TEXT, visitor TEXT NOT NULL, stopped_at INTEGER NOT NULL) STRICT;
   CREATE TABLE pages (site TEXT NOT NULL, page TEXT NOT NULL, PRIMARY KEY (site, page)) STRICT, WITHOUT ROWID;
   CREATE TABLE readings (site TEXT NOT NULL, page TEXT NOT NULL, bucket INTEGER NOT NULL, views INTEGER NOT NULL,
     seconds REAL NOT NULL, PRIMARY KEY (site, page, bucket)) STRICT, WITHOUT ROWID;
   CREATE TABLE history (site TEXT NOT NULL, minute INTEGER NOT NULL, peak INTEGER NOT NULL,
     PRIMARY KEY (site, minute)) STRICT, WITHOUT ROWID;
   CREATE TABLE highest (site TEXT PRIMARY KEY, minute INTEGER NOT NULL, peak INTEGER NOT NULL) STRICT, WITHOUT ROWID;`,
];
const RESTART_MS = 120_000; // whoever was online before a longer stop has given up, or come to another number
export const MAX_PAGES_A_SITE = 10_000; // further ones are summed up as OTHER_PAGES
export const OTHER_PAGES = "(other)";
export const HISTORY_MINUTES = 90 * 24 * 60;

export class EmbeddedEngine implements Engine {
  readonly #file: string;
  readonly #tokenTtlMs: number;
  readonly #openedAt = Date.now();
  /** Undefined until it is first used, and after a failure: the next use opens it anew. */
  #database: DatabaseSync | undefined;
  #oldestMinute = 0;
  /** Spent nonces in two generations, one filling and one ageing; after a token's lifetime the older one is dropped. */
  #spent = new Set<number>();
  #spentBefore = new Set<number>();
  #turnAt = 0;

  /** @param folder where `headcount.db` lives; `:memory:` keeps nothing */
  constructor(folder: string, tokenTtlMs: number) {
    this.#file = folder === ":memory:" ? folder : join(folder, "headcount.db");
    this.#tokenTtlMs = tokenTtlMs;
  }

  async secret(kind: string, name: string): Promise<string> {
    const insert =
      "INSERT INTO secrets VALUES (?1, ?2, ?3) ON CONFLICT (kind) DO UPDATE SET name = ?2, value = ?3 WHERE name <> ?2";
    return this.#transact((database) => {
      database.prepare(insert).run(kind, name, newSecret());
      return String(database.prepare("SELECT value FROM secrets WHERE kind = ?").get(kind)?.["value"]);
    });
  }

  async spend({ nonce, expires }: Claims, now: number): Promise<boolean> {
    const mintedAt = expires - this.#tokenTtlMs;
    if (mintedAt < this.#openedAt) return false; // perhaps spent before the restart; the page asks for another
    if (this.#spent.has(nonce) || this.#spentBefore.has(nonce)) return false;
    if (now >= this.#turnAt) {
      this.#spentBefore = this.#spent;
      this.#spent = new Set();
      this.#turnAt = now + this.#tokenTtlMs;
    }
    this.#spent.add(nonce);
    return true;
  }

  async hold(members: Iterable<Member>): Promise<void> {
    this.#transact((database) => {
      const insert = database.prepare("INSERT INTO held VALUES (?, ?, ?, ?)");
      for (const { site, page, visitor } of members) insert.run(site, page ?? null, visitor, Date.now());
    });
  }

  async held(): Promise<Member[]> {
    return this.#transact((database) => {
      const rows = database
        .prepare("SELECT site, page, visitor FROM held WHERE stopped_at > ?")
        .all(Date.now() - RESTART_MS);
      database.exec("DELETE FROM held");
      return rows.map((row) => ({
        site: String(row["site"]),
        page: row["page"]?.toString(),
        visitor: String(row["visitor"]),
      }));
    });
  }

  async record({ readings, peaks }: JournalEntries): Promise<void> {
    this.#transact((database) => {
      const known = database.prepare("SELECT 1 FROM pages WHERE site = ? AND page = ?");
      const count = database.prepare("SELECT count(*) AS pages FROM pages WHERE site = ?");
      const learn = database.prepare("INSERT INTO pages VALUES (?, ?)");
      const add = database.prepare(
        `INSERT INTO readings VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE
         SET views = views + excluded.views, seconds = seconds + excluded.seconds`,
      );
      for (const { site, page, bucket, views, seconds } of readings) {
        let name = page;
        if (known.get(site, page) === undefined) {
          if (Number(count.get(site)?.["pages"]) < MAX_PAGES_A_SITE) learn.run(site, page);
          else name = OTHER_PAGES;
        }
        add.run(site, name, bucket, views, seconds);
      }
      const raise = [
        "history (site, minute, peak) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET",
        "highest (site, minute, peak) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET minute = excluded.minute,",
      ].map((table) => database.prepare(`INSERT INTO ${table} peak = excluded.peak WHERE excluded.peak > peak`));
      for (const { site, minute, peak } of peaks) for (const statement of raise) statement.run(site, minute, peak);
      this.#forgetOldHistory(database);
    });
  }

  async readings(site: string, page?: string): Promise<ReadingSum[]> {
    const query = "SELECT page, bucket, views, seconds FROM readings WHERE site = ?1 AND (?2 IS NULL OR page = ?2)";
    return this.#transact((database) => database.prepare(query).all(site, page ?? null)).map((row) => ({
      site,
      page: String(row["page"]),
      bucket: Number(row["bucket"]),
      views: Number(row["views"]),
      seconds: Number(row["seconds"]),
    }));
  }

  async history(site: string, fromMinute: number, step: number): Promise<Peak[]> {
    const query =
      "SELECT minute - minute % ?3 AS minute, max(peak) AS peak FROM history WHERE site = ?1 AND minute >= ?2 GROUP BY 1 ORDER BY 1";
    return this.#transact((database) => database.prepare(query).all(site, fromMinute, step)).map(readPeak);
  }

  async highest(site: string): Promise<Peak | undefined> {
    const row = this.#transact((database) =>
      database.prepare("SELECT minute, peak FROM highest WHERE site = ?").get(site),
    );
    return row === undefined ? undefined : readPeak(row);
  }

  async close(): Promise<void> {
    this.#database?.close();
    this.#database = undefined;
  }

  /** Once an hour is often enough. */
  #forgetOldHistory(database: DatabaseSync): void {
    const oldest = Math.floor(Date.now() / MINUTE) - HISTORY_MINUTES;
    if (oldest < this.#oldestMinute + 60) return;
    this.#oldestMinute = oldest;
    database.prepare("DELETE FROM history WHERE minute < ?").run(oldest);
  }

  /** Does the work in one transaction. @throws {Error} when the file cannot be used; then nothing of it has happened. */
  #transact<Result>(work: (database: DatabaseSync) => Result): Result {
    const database = (this.#database ??= openDatabase(this.#file));
    try {
      database.exec("BEGIN IMMEDIATE");
      const result = work(database);
      database.exec("COMMIT");
      return result;
    } catch (error) {
      this.#database = undefined;
      database.close(); // rolls back
      throw new Error(`Cannot use ${this.#file}: ${messageOf(error)}`, { cause: error });
    }
  }
}

const readPeak = (row: Record<string, unknown>): Peak => ({ minute: Number(row["minute"]), peak: Number(row["peak"]) });

/** Opens the file, made or migrated where need be. One that is no sound database is set aside, and a new one begun. */
function openDatabase(file: string): DatabaseSync {
  if (file !== ":memory:") mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  const database = new DatabaseSync(file);
  try {
    // No waiting for locks: this would hold up everybody's counts, and the journal tries again anyway.
    database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 50");
    const check = database.prepare("PRAGMA quick_check(1)").get()?.["quick_check"];
    if (check !== "ok") throw new Error(`database disk image is malformed: ${String(check)}`);
    const version = Number(database.prepare("PRAGMA user_version").get()?.["user_version"]);
    for (const [index, migration] of MIGRATIONS.entries())
      if (index >= version) database.exec(`BEGIN; ${migration} PRAGMA user_version = ${index + 1}; COMMIT`);
    if (file !== ":memory:") chmodSync(file, 0o600); // it holds the secret that signs visitors
    return database;
  } catch (error) {
    database.close();
    if (file === ":memory:" || !/malformed|not a database/.test(messageOf(error))) throw error;
    const aside = `${file}.broken-${Date.now()}`;
    for (const suffix of ["", "-wal", "-shm"]) if (existsSync(file + suffix)) renameSync(file + suffix, aside + suffix);
    log("error", "the database was broken and is set aside; a new one begins", { aside, message: messageOf(error) });
    return openDatabase(file);
  }
}

// ── Journal ─────────────────────────────────────────────────────────────────────────────────────────────────────────
// How long pages are read, and how many were online when. It sees every view's clock stop and start, keeps sums until
// the engine has taken them (every 5 s), and never a view's past: what a page cost its reader ends up in a histogram.

/** One view of one page: what an open page is to the journal. All times are milliseconds of the process's own clock. */
export interface View {
  readonly visitor: string;
  readonly site: Room;
  readonly page: Room;
  /** When its reader became active last; undefined while they are not. */
  activeSince: number | undefined;
  /** Reading time before that. */
  readMs: number;
  /** The seconds that were put into the histogram so far; undefined for none. */
  recorded: number | undefined;
}

/** How a page was read: `seconds` is the sum over all views, `median` and `p90` are of one view, within 10 %. */
export interface Reading {
  readonly views: number;
  readonly seconds: number;
  readonly median: number;
  readonly p90: number;
}

const RECORD_MS = 5_000; // what a crash may lose
const MAX_VIEW_SECONDS = 3_600;
const DAY_MINUTES = 1_440;
const FIGURES_MS = 60_000; // how old a room's peak and median may be when they are shown
const MAX_SUMS = 50_000; // what is kept for a disk that cannot take it
const MAX_OWN_SITES = 100; // a site that is not in SITES is named by a Host header, and those can be invented

/** Buckets grow by a fifth, and so the middle of one is within 9.1 % of all in it (DDSketch, Masson et al., VLDB 2019). */
const GROWTH = 1.2;
const bucketOf = (seconds: number) => (seconds < 1 ? 0 : 1 + Math.floor(Math.log(seconds) / Math.log(GROWTH)));
const middleOf = (bucket: number) => (bucket === 0 ? 0 : (2 * GROWTH ** bucket) / (GROWTH + 1));

/** Sums of one page, or of several as if they were one, as figures. */
export function readingOf(sums: readonly ReadingSum[]): Reading {
  const buckets = sums.toSorted((a, b) => a.bucket - b.bucket);
  const views = sums.reduce((total, sum) => total + sum.views, 0);
  const quantile = (share: number) => {
    let rank = share * (views - 1);
    return Math.round(middleOf(buckets.find((sum) => (rank -= sum.views) < 0)?.bucket ?? 0));
  };
  const seconds = Math.round(sums.reduce((total, sum) => total + sum.seconds, 0));
  return { views, seconds, median: quantile(0.5), p90: quantile(0.9) };
}

export class Journal {
  readonly #engine: Engine;
  readonly #rooms: Rooms;
  readonly #sites: Sites;
  readonly #wallClock: () => number;
  /** What the engine has not taken yet. */
  #sums = new Map<string, ReadingSum>();
  readonly #peaks = new Map<string, Peak>();
  readonly #ownSites = new Set<string>();
  #failing = false;
  /** How often the engine could not take what was to be kept, and how long it took the last time that it could. */
  failures = 0;
  writeMs = 0;

  constructor(engine: Engine, rooms: Rooms, sites: Sites, wallClock: () => number = Date.now) {
    this.#engine = engine;
    this.#rooms = rooms;
    this.#sites = sites;
    this.#wallClock = wallClock;
  }

  /** The reader went away from the page, or came back to it. */
  setActive(view: View, active: boolean, now: number): void {
    if (view.activeSince !== undefined) view.readMs += now - view.activeSince;
    view.activeSince = active ? now : undefined;
  }

  /** The view is over; the same object may begin another one. */
  end(view: View, now: number): void {
    this.#record(view, now);
    view.activeSince = now;
    view.readMs = 0;
    view.recorded = undefined;
  }

  /** Gives everything to the engine, views that still go on included. What it does not take is kept and tried again. */
  async flush(views: Iterable<View>, now: number): Promise<void> {
    for (const view of views) this.#record(view, now);
    this.#notePeaks();
    const sums = this.#sums;
    const peaks = [...this.#peaks].map(([site, peak]) => ({ site, ...peak }));
    if (sums.size === 0 && peaks.length === 0) return;
    this.#sums = new Map();
    const start = performance.now();
    try {
      await this.#engine.record({ readings: [...sums.values()], peaks });
      this.writeMs = performance.now() - start;
      for (const { site, minute, peak } of peaks)
        if (this.#peaks.get(site)?.minute === minute && this.#peaks.get(site)?.peak === peak) this.#peaks.delete(site);
      this.#failing = false;
    } catch (error) {
      for (const sum of sums.values()) this.#add(sum);
      this.failures += 1;
      if (!this.#failing)
        log("error", "the journal cannot be written, and is tried again every 5 s", { message: messageOf(error) });
      this.#failing = true;
    }
  }

  /** Brings the peak of a site's room, or the median of a page's, up to date. True when it has changed. */
  async refresh(room: Room, now: number): Promise<boolean> {
    if (now < room.figureUntil) return false;
    room.figureUntil = now + FIGURES_MS;
    const before = room.figure;
    if (room.page === undefined) room.figure = await this.peak(room.site);
    else {
      const { views, median } = readingOf(await this.#engine.readings(room.site, room.page));
      room.figure = views === 0 ? undefined : median;
    }
    return room.figure !== before;
  }

  /** The highest count of a site in the last 24 hours, now included. */
  async peak(site: string): Promise<number> {
    const from = Math.floor(this.#wallClock() / MINUTE) - DAY_MINUTES;
    const past = await this.#engine.history(site, from, DAY_MINUTES);
    return Math.max(this.#rooms.count(site) ?? 0, this.#peaks.get(site)?.peak ?? 0, ...past.map(({ peak }) => peak));
  }

  #record(view: View, now: number): void {
    if (view.visitor === "" || !this.#keeps(view.site.site)) return;
    const running = view.activeSince === undefined ? 0 : now - view.activeSince;
    const seconds = Math.min(MAX_VIEW_SECONDS, (view.readMs + running) / 1_000);
    if (seconds === view.recorded) return;
    const place = { site: view.site.site, page: view.page.page ?? "/" };
    if (view.recorded !== undefined)
      this.#add({ ...place, bucket: bucketOf(view.recorded), views: -1, seconds: -view.recorded });
    this.#add({ ...place, bucket: bucketOf(seconds), views: 1, seconds });
    view.recorded = seconds;
  }

  #add({ site, page, bucket, views, seconds }: ReadingSum): void {
    const key = `${site} ${page} ${bucket}`;
    const sum = this.#sums.get(key);
    if (sum !== undefined) {
      sum.views += views;
      sum.seconds += seconds;
    } else if (this.#sums.size < MAX_SUMS) this.#sums.set(key, { site, page, bucket, views, seconds });
  }

  /** The highest count since the last flush, for each site, in the minute that it is now. */
  #notePeaks(): void {
    const minute = Math.floor(this.#wallClock() / MINUTE);
    for (const room of this.#rooms.all()) {
      if (room.page !== undefined) continue;
      const peak = room.highest;
      room.highest = room.total ?? 0;
      const noted = this.#peaks.get(room.site);
      if (peak > 0 && this.#keeps(room.site) && (noted?.minute !== minute || peak > noted.peak))
        this.#peaks.set(room.site, { minute, peak });
    }
  }

  #keeps(site: string): boolean {
    if (this.#sites.lists(site) || this.#ownSites.has(site)) return true;
    return this.#ownSites.size < MAX_OWN_SITES && this.#ownSites.add(site).has(site);
  }
}

// ── Pages ───────────────────────────────────────────────────────────────────────────────────────────────────────────
// The open sockets: admission, frames in and out, heartbeat, drain. One object a socket, no timer and no closure of its
// own: a single sweep a second looks after all of them.

/** What both runtimes' sockets have in common. `ping` and `terminate` exist on Bun, `bufferedAmount` on Deno. */
interface Wire {
  readonly readyState: number;
  send(text: string): unknown;
  close(code: number, reason: string): void;
  ping?(): unknown;
  terminate?(): void;
  readonly bufferedAmount?: number;
}

/** An open page with the socket it came by. All times are milliseconds of the process's own clock. */
export interface Socket extends OpenPage, View {
  site: Room;
  page: Room;
  /** What its address is limited by. */
  readonly key: string;
  /** Undefined between the upgrade's acceptance and its completion. */
  wire: Wire | undefined;
  heardAt: number;
  pingAt: number;
  repeatAt: number;
  /** When its messages so far would all have been allowed at one a second: a leaky bucket in one number. */
  paidUntil: number;
}

/** What a frame may tell. */
type Numbers = Partial<Record<"site" | "page" | "peak" | "read", number | undefined>>;

const OPEN = 1; // WebSocket.OPEN
const CLOSE = { goingAway: 1001, policy: 1008, tooBig: 1009, restart: 1012 } as const;
const UPGRADE_MS = 5_000; // a client that resets in mid-upgrade may never be heard of again
const REPEAT_MS = 30_000;
const MAX_FRAME_BYTES = 1_024;
const MAX_BUFFERED_BYTES = 65_536;
const MESSAGES_A_MINUTE = 60;
const MAX_WINDOW_SECONDS = 8;
const PAGES_A_SECOND = 2_500; // reconnects that a node takes with ease, three times over
const DRAIN_MS = 8_000;

const Frame = v.pipe(
  v.strictObject({ page: v.optional(v.string()), active: v.optional(v.boolean()) }),
  v.check((frame) => frame.page !== undefined || frame.active !== undefined),
);

export class Pages {
  readonly #open = new Set<Socket>();
  readonly #rooms: Rooms;
  readonly #guard: Guard;
  readonly #journal: Journal;
  readonly #heartbeatMs: number;
  readonly #now: () => number;
  /** What has happened since the start. */
  readonly stats = { frames: 0, pings: 0, silent: 0, slow: 0, restarts: 0 };
  /** Is told how long each change waited until it was sent, in milliseconds. */
  onBroadcast: (delayMs: number) => void = () => {};
  #flushing = false;
  #draining = false;
  #stale = false;

  constructor(
    rooms: Rooms,
    guard: Guard,
    journal: Journal,
    heartbeatMs: number,
    now: () => number = () => performance.now(),
  ) {
    this.#rooms = rooms;
    this.#guard = guard;
    this.#journal = journal;
    this.#heartbeatMs = heartbeatMs;
    this.#now = now;
  }

  /** How many pages are open or about to be. */
  get size(): number {
    return this.#open.size;
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** Why this visitor may not open one more page now; undefined when they may. */
  refusal(site: string, visitor: string, key: string): Reason | undefined {
    if (this.#draining) return "draining";
    return this.#guard.onePageMore(key, this.#rooms.pagesOf(site, visitor), this.#open.size);
  }

  /** Takes a page in, from here on counted. Its socket follows within 5 s, or it is let go again. */
  admit(site: string, claims: Claims, key: string): Socket {
    const now = this.#now();
    const socket: Socket = {
      visitor: claims.visitor,
      site: this.#rooms.room(site),
      page: this.#rooms.room(site, claims.page),
      key,
      wire: undefined,
      heardAt: now,
      pingAt: now + Math.random() * this.#heartbeatMs, // spread, so that no instant has to ping everybody
      repeatAt: now + REPEAT_MS,
      paidUntil: now,
      activeSince: now,
      readMs: 0,
      recorded: undefined,
    };
    this.#guard.opened(key);
    this.#open.add(socket);
    this.#rooms.open(socket, now);
    this.#flushSoon();
    return socket;
  }

  opened(socket: Socket, wire: Wire): void {
    if (!this.#open.has(socket)) return wire.close(CLOSE.goingAway, ""); // it took longer than it may
    socket.wire = wire;
    socket.heardAt = this.#now();
    const { site, page } = socket;
    this.#send(socket, this.#frame({ site: site.total, page: page.total, peak: site.figure, read: page.figure }));
  }

  /** Any sign of life; a pong has no other meaning. */
  heard(socket: Socket): void {
    socket.heardAt = this.#now();
  }

  received(socket: Socket, data: unknown): void {
    if (!this.#open.has(socket)) return;
    const now = this.#now();
    socket.heardAt = now;
    socket.paidUntil = Math.max(socket.paidUntil, now) + MINUTE / MESSAGES_A_MINUTE;
    if (socket.paidUntil > now + MINUTE) return this.#close(socket, CLOSE.policy, "too many messages");
    if (typeof data !== "string") return this.#close(socket, CLOSE.policy, "not text");
    if (Buffer.byteLength(data) > MAX_FRAME_BYTES) return this.#close(socket, CLOSE.tooBig, "message too big");
    const frame = readFrame(data);
    if (frame === undefined) return this.#close(socket, CLOSE.policy, "not understood");
    if (frame.page !== undefined) this.#move(socket, frame.page, now);
    if (frame.active !== undefined) this.#journal.setActive(socket, frame.active, now);
  }

  /** The socket is gone. Safe to call again: the runtimes do (Deno fires `close` twice after a timeout). */
  closed(socket: Socket): void {
    if (!this.#open.delete(socket)) return;
    socket.wire = undefined;
    this.#guard.closed(socket.key);
    this.#journal.end(socket, this.#now());
    this.#rooms.close(socket, this.#now());
  }

  /** Publishes what has changed. Called every 50 ms, and at once when a room that was quiet changes. */
  flush(): void {
    for (const room of this.#rooms.tick(this.#now())) {
      const { page, total, figure } = room;
      if (page !== undefined) this.#publish(room, { page: total });
      else if (total === undefined || figure === undefined || total <= figure) this.#publish(room, { site: total });
      else this.#publish(room, { site: total, peak: (room.figure = total) });
      this.onBroadcast(this.#now() - room.changedAt);
    }
  }

  /** Makes sure that the peak and the median that a page shows are not old; tells its rooms if they were. */
  async refresh({ site, page }: OpenPage): Promise<void> {
    const now = this.#now();
    const [peak, read] = await Promise.all([this.#journal.refresh(site, now), this.#journal.refresh(page, now)]);
    if (peak) this.#publish(site, { peak: site.figure });
    if (read) this.#publish(page, { read: page.figure });
  }

  /** Gives the journal what was read until now. */
  record(): Promise<void> {
    return this.#journal.flush(this.#open, this.#now());
  }

  /** Looks after every socket: frees those that never opened, closes the silent, pings and repeats when it is time. */
  sweep(): void {
    const now = this.#now();
    for (const socket of this.#open) {
      const silent = now - socket.heardAt;
      if (socket.wire === undefined) {
        if (silent > UPGRADE_MS) this.closed(socket);
        continue;
      }
      if (socket.wire.ping !== undefined) {
        // Bun re-arms its own idle timeout at every send, so that a service that talks never notices a dead peer.
        if (silent > 2 * this.#heartbeatMs) {
          this.stats.silent += 1;
          this.#drop(socket);
          continue;
        }
        if (now >= socket.pingAt) {
          socket.pingAt = now + this.#heartbeatMs;
          this.stats.pings += 1;
          socket.wire.ping();
        }
      }
      if (now >= socket.repeatAt) {
        socket.repeatAt = now + REPEAT_MS;
        this.#send(socket, this.#frame({ site: socket.site.total }));
        this.refresh(socket).catch(report);
      }
    }
  }

  /** The engine is away (or back): everybody is told that their number may be old (or is exact again). */
  setStale(stale: boolean): void {
    if (stale === this.#stale) return;
    this.#stale = stale;
    for (const socket of this.#open) this.#send(socket, JSON.stringify({ site: socket.site.total, stale }));
  }

  get stale(): boolean {
    return this.#stale;
  }

  /** Starts the clocks that drive all of the above, and returns what stops them. */
  start(): () => void {
    const flush = contain(() => this.flush());
    const sweep = contain(() => this.sweep());
    const record = () => this.record().catch(report);
    const timers = [
      setInterval(flush, SCAN_MS),
      setInterval(sweep, Math.min(1_000, this.#heartbeatMs / 4)),
      setInterval(record, RECORD_MS),
    ];
    return () => timers.forEach(clearInterval);
  }

  /** Sends everybody away with a time to come back in, and resolves when they are gone, or after 8 s. */
  async drain(): Promise<void> {
    this.#draining = true;
    const window = Math.min(MAX_WINDOW_SECONDS, Math.ceil(this.#open.size / PAGES_A_SECOND));
    for (const socket of this.#open) socket.wire?.close(CLOSE.restart, String(window));
    const deadline = this.#now() + DRAIN_MS;
    while (this.#open.size > 0 && this.#now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20));
  }

  /** Tells at the end of this turn of the event loop: whoever else comes in the same turn is in the same frame. */
  #flushSoon(): void {
    if (this.#flushing || !this.#rooms.pending) return;
    this.#flushing = true;
    setImmediate(
      contain(() => {
        this.#flushing = false;
        this.flush();
      }),
    );
  }

  /** The page of this tab is another one now: a new view begins, with a first frame of its own. */
  #move(socket: Socket, page: string, now: number): void {
    if (page === socket.page.page) return;
    this.#journal.end(socket, now);
    this.#rooms.move(socket, page, now);
    this.#send(socket, this.#frame({ page: socket.page.total, read: socket.page.figure }));
    this.refresh(socket).catch(report);
    this.#flushSoon();
  }

  /** A number that is not known yet is left out. */
  #frame(numbers: Numbers): string {
    return JSON.stringify(this.#stale ? { ...numbers, stale: true } : numbers);
  }

  #publish(room: Room, numbers: Numbers): void {
    const text = this.#frame(numbers);
    for (const socket of room.audience) this.#send(socket as Socket, text); // whoever is in a room came by admit
  }

  #send(socket: Socket, text: string): void {
    if (socket.wire?.readyState !== OPEN) return;
    // No queue for slow readers: whoever leaves 64 KiB unread is closed and comes back. Bun does this by itself.
    if ((socket.wire.bufferedAmount ?? 0) > MAX_BUFFERED_BYTES) {
      this.stats.slow += 1;
      return this.#drop(socket);
    }
    this.stats.frames += 1;
    socket.wire.send(text);
  }

  #close(socket: Socket, code: number, reason: string): void {
    socket.wire?.close(code, reason);
    this.closed(socket);
  }

  /** Ends a socket whose peer would not answer a close frame. */
  #drop(socket: Socket): void {
    if (socket.wire?.terminate !== undefined) socket.wire.terminate();
    else socket.wire?.close(CLOSE.policy, "too slow");
    this.closed(socket);
  }
}

/** `{"page":"/next"}` or `{"active":false}` or both; undefined for anything else. */
function readFrame(text: string): { page?: string; active?: boolean } | undefined {
  const result = v.safeParse(Frame, parseJson(text));
  if (!result.success) return undefined;
  const { page, active } = result.output;
  const name = page === undefined ? undefined : pageName(page);
  if (page !== undefined && name === undefined) return undefined;
  return { ...(name !== undefined && { page: name }), ...(active !== undefined && { active }) };
}

/** The value, or undefined (which is no JSON value) when the text is not JSON. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // deliberate: the caller says what was wrong, and to whom
  }
}

/** Makes a callback of timers and sockets safe: an exception in one of them would end the process on Deno. */
function contain<Args extends unknown[]>(callback: (...args: Args) => void): (...args: Args) => void {
  return (...args) => {
    try {
      callback(...args);
    } catch (error) {
      report(error);
    }
  };
}

/** The one place where failures without a caller end up. */
export function report(error: unknown): void {
  log("error", "unexpected error", {
    message: messageOf(error),
    stack: error instanceof Error ? error.stack : undefined,
  });
}

// ── Metrics ─────────────────────────────────────────────────────────────────────────────────────────────────────────
// For Prometheus. Nearly all are read from the parts at the moment they are asked for.

const MAX_SITE_LABELS = 100; // the largest sites; a label for every site would be a flood of its own

/** The registry, and the few metrics that have no other owner than the routes, which feed them. */
function createMetrics(rooms: Rooms, pages: Pages, journal: Journal) {
  const registers = [new Registry()] as const;
  const gauge = (name: string, help: string, read: () => number) =>
    new Gauge({
      name,
      help,
      registers: [...registers],
      collect() {
        this.set(read());
      },
    });
  const counter = (name: string, help: string, read: () => number) =>
    new Counter({
      name,
      help,
      registers: [...registers],
      collect() {
        this.reset();
        this.inc(read());
      },
    });
  const bySite = (name: string, help: string, read: (room: Room) => number) =>
    new Gauge({
      name,
      help,
      labelNames: ["site"],
      registers: [...registers],
      collect() {
        this.reset();
        for (const room of largestSites(rooms).slice(0, MAX_SITE_LABELS)) this.set({ site: room.site }, read(room));
      },
    });

  bySite("headcount_visitors_online", "Distinct visitors online", (room) => room.total ?? 0);
  bySite("headcount_pages_online", "Open pages on this node, observers included", (room) => room.audience.size);
  gauge("headcount_connections", "Open sockets of this node", () => pages.size);
  gauge("headcount_stale", "1 while the engine is away", () => Number(pages.stale));
  counter("headcount_frames_sent_total", "Frames sent to pages", () => pages.stats.frames);
  counter(
    "headcount_pings_sent_total",
    "Pings sent to pages (on Deno the runtime sends them, uncounted)",
    () => pages.stats.pings,
  );
  counter("headcount_pings_lost_total", "Sockets closed because nothing came back", () => pages.stats.silent);
  counter("headcount_slow_readers_total", "Sockets closed because too much was left unread", () => pages.stats.slow);
  counter("headcount_journal_errors_total", "Times that the journal could not be written", () => journal.failures);
  gauge(
    "headcount_journal_write_seconds",
    "How long the journal took to be written last",
    () => journal.writeMs / 1_000,
  );
  gauge("process_resident_memory_bytes", "Resident memory", () => process.memoryUsage.rss());
  gauge("process_start_time_seconds", "When this process started", () => Math.round(performance.timeOrigin / 1_000));

  const own = { registers: [...registers] };
  const buckets = [0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1, 2];
  return {
    registry: registers[0],
    tokens: new Counter({ name: "headcount_tokens_total", help: "Tokens granted", ...own }),
    upgrades: new Counter({ name: "headcount_upgrades_total", help: "Sockets opened", ...own }),
    refusals: new Counter({
      name: "headcount_refusals_total",
      help: "Requests refused",
      labelNames: ["reason"],
      ...own,
    }),
    broadcast: new Histogram({
      name: "headcount_broadcast_delay_seconds",
      help: "From a change to its last frame",
      buckets,
      ...own,
    }),
    engine: new Histogram({ name: "headcount_engine_seconds", help: "Time to claim a token", buckets, ...own }),
    engineErrors: new Counter({
      name: "headcount_engine_errors_total",
      help: "Tokens that could not be claimed",
      ...own,
    }),
  };
}

const largestSites = (rooms: Rooms) =>
  [...rooms.all()].filter((room) => room.page === undefined).toSorted((a, b) => (b.total ?? 0) - (a.total ?? 0));

// ── App ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
// The routes. Each refusal is a problem document (RFC 9457) that a page on another origin can read.

/** What a runtime knows about a request besides the request itself. */
export interface Client {
  /** The address at the other end of the socket. */
  readonly address: string;
  /** Upgrades the request for this page: a 101, or undefined when the handshake is broken or the client already gone. */
  upgrade(socket: Socket): Response | undefined;
}

/** Files made by build.ts, by name. The bundled server carries them inside; from source they are read from `dist/`. */
export type Assets = Record<(typeof ASSETS)[number], string>;
const ASSETS = ["widget.js", "debug.js", "badge.svg", "home.html", "dashboard.html", "check.html"] as const;

export interface Parts {
  readonly settings: Settings;
  readonly sites: Sites;
  readonly signer: Signer;
  readonly guard: Guard;
  readonly rooms: Rooms;
  readonly pages: Pages;
  readonly journal: Journal;
  readonly engine: Engine;
  readonly assets: Assets;
  /** Of the user `admin`. */
  readonly password: string;
}

interface App {
  Bindings: Client;
  Variables: { readonly key: string; readonly address: string };
}

const TokenRequest = v.pipe(
  v.custom<object>((body) => !Array.isArray(body)), // which valibot would take for an object
  v.object({ page: v.optional(v.string()), visitor: v.optional(v.string()), observe: v.optional(v.boolean()) }),
);

/** Who only looks has no id. */
const OBSERVER = { visitor: "", isNew: false };
const COOKIE_SECONDS = 30 * 86_400;
const RANGES: Record<string, number> = { hour: 60, day: DAY_MINUTES, week: 7 * DAY_MINUTES, quarter: HISTORY_MINUTES };
const MAX_POINTS = 720; // of a chart
const CSP = [
  "default-src 'none'",
  "script-src 'self' 'nonce-{{nonce}}'",
  "style-src 'nonce-{{nonce}}'",
  "connect-src 'self'",
  "img-src 'self' data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** Builds the routes over the parts; the result's `fetch` wants a `Client` beside each request. */
export function createApp(parts: Parts): Hono<App> {
  const { settings, sites, signer, guard, rooms, pages, journal, engine, assets } = parts;
  const app = new Hono<App>();
  const metrics = createMetrics(rooms, pages, journal);
  pages.onBroadcast = (delayMs) => metrics.broadcast.observe(delayMs / 1_000);
  let salt = { day: "", value: "" };

  const hostOf = (c: Context<App>) => c.req.header("host") ?? "";
  const isSecure = (c: Context<App>) =>
    settings.TRUST_PROXY > 0 && c.req.header("x-forwarded-proto")?.split(",").at(-1)?.trim() === "https";

  /** The id of who is asking, new where it must be, or why there is none. */
  const identify = async (
    c: Context<App>,
    site: string,
    kept: string | undefined,
  ): Promise<{ visitor: string; isNew: boolean }> => {
    if (settings.IDENTITY === "hash") {
      const day = new Date().toISOString().slice(0, 10);
      if (salt.day !== day) salt = { day, value: await engine.secret("salt", day) };
      return {
        visitor: hashVisitor(salt.value, site, c.get("address"), c.req.header("user-agent") ?? ""),
        isNew: false,
      };
    }
    const cookie = getCookie(c, cookieName(site, isSecure(c)));
    const known = signer.readVisitor(site, cookie) ?? signer.readVisitor(site, kept);
    return { visitor: known ?? newVisitor(), isNew: known === undefined };
  };

  const keepCookie = (c: Context<App>, site: string, signed: string) => {
    const secure = isSecure(c);
    const common = { path: "/", httpOnly: true, maxAge: COOKIE_SECONDS } as const;
    setCookie(c, cookieName(site, secure), signed, {
      ...common,
      ...(secure ? { secure, sameSite: "None", partitioned: true } : { sameSite: "Lax" }),
    });
  };

  /** A refusal as an answer. */
  const refuse = (c: Context, reason: Reason, detail?: string): Response => {
    const [status, title, meaning, retryAfter] = REFUSALS[reason];
    metrics.refusals.inc({ reason });
    if (retryAfter !== undefined) c.header("Retry-After", String(retryAfter));
    if (status === 426) c.header("Upgrade", "websocket");
    const problem = { type: `urn:headcount:problem:${reason}`, title, status, detail: detail ?? meaning };
    return c.json(problem, status, { "Content-Type": "application/problem+json" });
  };

  /** What the dashboard shows of a site. */
  const siteState = async ({ site, total, audience }: Room) => ({
    site,
    visitors: total,
    openPages: audience.size,
    peak: await journal.peak(site),
    highest: await engine.highest(site),
    pages: [...rooms.all()]
      .filter((room) => room.site === site && room.page !== undefined)
      .map((room) => ({ page: room.page, visitors: room.total }))
      .toSorted((a, b) => (b.visitors ?? 0) - (a.visitors ?? 0))
      .slice(0, MAX_SITE_LABELS),
  });

  /** The origin of a request and the site it belongs to: both undefined unless it is allowed. */
  const origins = (c: Context<App>) => {
    const origin = webOrigin(c.req.header("origin"));
    return { origin: origin?.origin, site: sites.byOrigin(origin, hostOf(c)) };
  };

  /** Claims the token; the engine itself decides what holds while it is away, and so this throws only by mistake. */
  const spend = async (claims: Claims) => {
    const start = performance.now();
    try {
      return await engine.spend(claims, Date.now());
    } catch (error) {
      metrics.engineErrors.inc();
      throw error;
    } finally {
      metrics.engine.observe((performance.now() - start) / 1_000);
    }
  };

  const count = async (site: string, page?: string) =>
    rooms.count(site, page) ?? (await engine.count?.(site, page)) ?? 0;

  /** The site that a public question is about: the one it names, else the asking page's, else the service's own. */
  const siteAskedFor = (c: Context<App>): string | undefined => {
    const name = c.req.query("site");
    const host = hostOf(c);
    if (name !== undefined) return sites.byName(name, host);
    return sites.byOrigin(webOrigin(c.req.header("origin") ?? c.req.header("referer")), host) ?? host;
  };

  app.use(async (c, next) => {
    const address = clientAddress(c.env.address, c.req.header("x-forwarded-for"), settings.TRUST_PROXY);
    c.set("address", address);
    c.set("key", limitKey(address));
    const denied = guard.address(address);
    if (denied !== undefined) c.res = refuse(c, denied);
    else await next();
    if (c.res.status !== 101) allowOrigin(c); // a socket is bound by its token, and Deno's 101 must stay as it is
  });

  app.options("*", (c) => {
    c.header("Access-Control-Allow-Methods", "GET, POST");
    c.header("Access-Control-Max-Age", "86400");
    return c.body(null, 204);
  });

  app.post("/token", bodyLimit({ maxSize: 4_096, onError: (c) => refuse(c, "size") }), async (c) => {
    const key = c.get("key");
    const limited = guard.tokenRequest(key);
    if (limited !== undefined) return refuse(c, limited);
    const { origin, site } = origins(c);
    if (origin === undefined || site === undefined) return refuse(c, "origin", foreign(c));
    if (settings.COUNT_BOTS === "false" && isbot(c.req.header("user-agent"))) return refuse(c, "bot");
    const text = await c.req.text();
    const body = v.safeParse(TokenRequest, text === "" ? {} : parseJson(text));
    if (!body.success) return refuse(c, "body");
    const page = pageName(body.output.page ?? "/");
    if (page === undefined) return refuse(c, "page");
    const { visitor, isNew } = body.output.observe === true ? OBSERVER : await identify(c, site, body.output.visitor);
    const refused = (isNew ? guard.newVisitor(key) : undefined) ?? pages.refusal(site, visitor, key);
    if (refused !== undefined) return refuse(c, refused);
    const expires = Date.now() + settings.TOKEN_TTL_SECONDS * 1_000;
    const token = signer.signToken(origin, { visitor, page, expires, nonce: newNonce() });
    metrics.tokens.inc();
    c.header("Cache-Control", "no-store");
    if (visitor === "" || settings.IDENTITY === "hash") return c.json({ token });
    const signed = signer.signVisitor(site, visitor);
    keepCookie(c, site, signed);
    return c.json({ token, visitor: signed });
  });

  app.get("/ws", async (c) => {
    if (c.req.header("upgrade")?.toLowerCase() !== "websocket") return refuse(c, "upgrade");
    const { origin, site } = origins(c);
    if (origin === undefined || site === undefined) return refuse(c, "origin", foreign(c));
    const claims = signer.readToken(origin, c.req.query("token") ?? "", Date.now());
    if (claims === undefined || !(await spend(claims))) return refuse(c, "token");
    const refused = pages.refusal(site, claims.visitor, c.get("key"));
    if (refused !== undefined) return refuse(c, refused);
    const socket = pages.admit(site, claims, c.get("key"));
    await pages.refresh(socket).catch(report); // so that peak and reading time are in the first frame
    const response = c.env.upgrade(socket);
    if (response === undefined) pages.closed(socket);
    else metrics.upgrades.inc();
    return response ?? refuse(c, "handshake");
  });

  app.get("/count", etag(), async (c) => {
    const site = siteAskedFor(c);
    if (site === undefined) return refuse(c, "unknown", "This site is not one of the SITES of this service");
    const name = c.req.query("page");
    const page = name === undefined ? undefined : pageName(name);
    if (name !== undefined && page === undefined) return refuse(c, "page");
    c.header("Cache-Control", "public, max-age=5");
    return c.json({ site: await count(site), ...(page !== undefined && { page: await count(site, page) }) });
  });

  app.get("/badge.svg", etag(), async (c) => {
    const site = siteAskedFor(c);
    if (site === undefined) return refuse(c, "unknown", "This site is not one of the SITES of this service");
    c.header("Cache-Control", "public, max-age=5");
    return c.body(assets["badge.svg"].replaceAll("{{count}}", String(await count(site))), 200, {
      "Content-Type": "image/svg+xml; charset=utf-8",
    });
  });

  app.get("/reading", async (c) => {
    const site = siteAskedFor(c);
    if (site === undefined) return refuse(c, "unknown", "This site is not one of the SITES of this service");
    const name = c.req.query("page");
    const page = name === undefined ? undefined : pageName(name);
    if (name !== undefined && page === undefined) return refuse(c, "page");
    const sums = await engine.readings(site, page);
    if (page !== undefined) return c.json(readingOf(sums));
    const byPage = [...Map.groupBy(sums, (sum) => sum.page)].map(([of, its]) => ({ page: of, ...readingOf(its) }));
    return c.json({ pages: byPage.toSorted((a, b) => b.seconds - a.seconds) });
  });

  for (const name of ["widget.js", "debug.js"] as const) {
    const script = precompressed(assets[name]);
    app.get(`/${name}`, (c) => {
      const encoding = acceptedEncoding(c.req.header("accept-encoding") ?? "");
      const headers = { ETag: script.etag, "Cache-Control": "public, max-age=3600", Vary: "Accept-Encoding" };
      if (c.req.header("if-none-match")?.includes(script.etag)) return c.body(null, 304, headers);
      if (encoding !== "identity") c.header("Content-Encoding", encoding);
      return c.body(script[encoding], 200, { ...headers, "Content-Type": "text/javascript; charset=utf-8" });
    });
  }

  /** A page of the service's own: nothing runs in it, and nothing is loaded into it, but what came with it. */
  const page = (name: keyof Assets) => (c: Context<App>) => {
    const nonce = randomBytes(16).toString("base64");
    const origin = escapeHtml(`${isSecure(c) ? "https" : "http"}://${hostOf(c)}`);
    c.header("Content-Security-Policy", CSP.replaceAll("{{nonce}}", nonce));
    c.header("X-Content-Type-Options", "nosniff");
    c.header("Cache-Control", "no-store");
    return c.html(assets[name].replaceAll("{{nonce}}", nonce).replaceAll("{{origin}}", () => origin));
  };
  app.get("/", page("home.html"));
  app.get("/check", page("check.html"));

  app.get("/check/request", (c) => {
    const asked = c.req.query("site");
    const { origin } = URL.parse(asked?.includes("://") ? asked : `https://${asked}`) ?? {};
    return c.json({
      address: c.get("address"),
      socketAddress: c.env.address,
      forwardedFor: c.req.header("x-forwarded-for"),
      forwardedProto: c.req.header("x-forwarded-proto"),
      trustProxy: settings.TRUST_PROXY,
      host: hostOf(c),
      site: asked === undefined ? undefined : sites.byName(asked, hostOf(c)),
      suggestion: origin === undefined ? undefined : origin.replace(/^https:\/\//, ""),
      heartbeatSeconds: settings.HEARTBEAT_SECONDS,
      identity: settings.IDENTITY,
    });
  });

  const admin: MiddlewareHandler<App> = async (c, next) => {
    const right = `Basic ${Buffer.from(`admin:${parts.password}`).toString("base64")}`;
    const refused = guard.password(c.get("key"), c.req.header("authorization"), right);
    if (refused === "password") c.header("WWW-Authenticate", 'Basic realm="Headcount", charset="UTF-8"');
    if (refused !== undefined) return refuse(c, refused);
    await next();
  };
  app.use("/dashboard/*", admin);
  app.get("/dashboard", page("dashboard.html"));
  app.get("/dashboard/state", async (c) => {
    const refusals = (await metrics.refusals.get()).values.map(({ labels, value }) => [labels.reason, value]);
    return c.json({
      node: {
        runtime: typeof Bun === "undefined" ? `Deno ${Deno.version.deno}` : `Bun ${Bun.version}`,
        startedAt: new Date(performance.timeOrigin).toISOString(),
        memory: process.memoryUsage.rss(),
        connections: pages.size,
        maxConnections: settings.MAX_CONNECTIONS,
        engine: settings.REDIS_URL === undefined ? "embedded" : "redis",
        stale: pages.stale,
        journalErrors: journal.failures,
      },
      sites: await Promise.all(largestSites(rooms).slice(0, MAX_SITE_LABELS).map(siteState)),
      refusals: Object.fromEntries(refusals),
    });
  });
  app.get("/dashboard/history", async (c) => {
    const minutes = RANGES[c.req.query("range") ?? "hour"];
    const site = siteAskedFor(c);
    if (site === undefined || minutes === undefined) return refuse(c, "unknown");
    const step = Math.ceil(minutes / MAX_POINTS);
    const now = Math.floor(Date.now() / MINUTE);
    const from = now - minutes - ((now - minutes) % step);
    return c.json({ from, to: now, step, points: await engine.history(site, from, step) });
  });
  app.use("/metrics", admin);
  app.get("/metrics", async (c) =>
    c.body(await metrics.registry.metrics(), 200, { "Content-Type": Registry.PROMETHEUS_CONTENT_TYPE }),
  );

  app.get("/healthz", (c) => c.text("ok"));
  app.get("/readyz", (c) => (pages.draining ? refuse(c, "draining") : c.text("ok")));

  app.notFound((c) => refuse(c, "unknown"));
  app.onError((error, c) => {
    report(error);
    return refuse(c, "error");
  });
  return app;
}

/** Any page may read any answer: what is public is public, and a refusal is of use only if its page can read it. */
function allowOrigin(c: Context): void {
  const { headers } = c.res;
  headers.set("Access-Control-Allow-Origin", c.req.header("origin") ?? "*");
  headers.set("Access-Control-Allow-Credentials", "true");
  headers.set("Access-Control-Expose-Headers", "Retry-After");
  headers.set("Cross-Origin-Resource-Policy", "cross-origin"); // for pages with COEP
  headers.append("Vary", "Origin");
}

const foreign = (c: Context) =>
  `${c.req.header("origin")?.slice(0, 255) ?? "A request without Origin"} is not one of the SITES of this service`;

/** One cookie a site, since visitors are not to be followed from one to another. `__Host-` needs https. */
const cookieName = (site: string, secure: boolean) => `${secure ? "__Host-" : ""}headcount-${digest(site)}`;

const digest = (text: string) => createHash("sha256").update(text).digest("base64url").slice(0, 10);

const escapeHtml = (text: string) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

/** The best of the encodings that the client accepts (RFC 9110, 12.5.3). */
function acceptedEncoding(header: string): "br" | "gzip" | "identity" {
  const accepted = header
    .split(",")
    .filter((entry) => !/;\s*q=0(\.0*)?\s*$/.test(entry))
    .map((entry) => entry.split(";")[0]?.trim());
  return (["br", "gzip"] as const).find((encoding) => accepted.includes(encoding)) ?? "identity";
}

function precompressed(text: string) {
  const identity = Buffer.from(text);
  const etag = `"${digest(text)}"`;
  return { identity, br: brotliCompressSync(identity), gzip: gzipSync(identity, { level: 9 }), etag };
}

// ── Sockets ─────────────────────────────────────────────────────────────────────────────────────────────────────────
// What differs between Bun and Deno, and nothing else.

interface Server {
  readonly port: number;
  /** Closes the port and all connections. */
  stop(): Promise<void>;
}

type Serve = (app: Hono<App>, pages: Pages, settings: Settings) => Server;

const serveOnBun: Serve = (app, pages, settings) => {
  const server = Bun.serve<Socket>({
    port: settings.PORT,
    hostname: settings.HOST,
    idleTimeout: 10, // of requests; sockets have their own
    fetch: (request, bun) =>
      app.fetch(request, {
        address: bun.requestIP(request)?.address ?? "",
        upgrade: (socket) => (bun.upgrade(request, { data: socket }) ? SWITCHED : undefined),
      }),
    websocket: {
      idleTimeout: 0, // never fires on a service that sends (Bun 1.4.5): see Pages.sweep
      sendPings: false,
      maxPayloadLength: MAX_FRAME_BYTES,
      backpressureLimit: MAX_BUFFERED_BYTES,
      closeOnBackpressureLimit: true,
      open: contain((wire) => pages.opened(wire.data, wire)),
      message: contain((wire, data) => pages.received(wire.data, data)),
      pong: contain((wire) => pages.heard(wire.data)),
      close: contain((wire) => pages.closed(wire.data)),
    },
  });
  return { port: server.port ?? settings.PORT, stop: () => server.stop(true) };
};

/** What the app returns once Bun has answered the upgrade by itself. */
const SWITCHED = new Response(null, { status: 101 });

const serveOnDeno: Serve = (app, pages, settings) => {
  const idleTimeout = 2 * settings.HEARTBEAT_SECONDS; // pings at half of it, and is not deferred by sends
  const upgrade = (request: Request, socket: Socket): Response | undefined => {
    try {
      const { socket: wire, response } = Deno.upgradeWebSocket(request, { idleTimeout });
      wire.binaryType = "arraybuffer";
      wire.onopen = contain(() => pages.opened(socket, wire));
      wire.onmessage = contain((event) => pages.received(socket, event.data));
      wire.onclose = contain(() => pages.closed(socket));
      wire.onerror = contain(() => pages.closed(socket));
      return response;
    } catch {
      return undefined; // deliberate: Deno throws for a broken handshake, which is the client's fault and told to it
    }
  };
  const server = Deno.serve({ port: settings.PORT, hostname: settings.HOST, onListen: () => {} }, (request, info) =>
    app.fetch(request, { address: info.remoteAddr.hostname, upgrade: (socket) => upgrade(request, socket) }),
  );
  return { port: server.addr.port, stop: () => server.shutdown() };
};

// ── Main ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** @throws {Error} that names the address, since the runtimes do not */
const listen: Serve = (app, pages, settings) => {
  try {
    return (typeof Bun === "undefined" ? serveOnDeno : serveOnBun)(app, pages, settings);
  } catch (error) {
    throw new Error(`Cannot listen on ${settings.HOST}:${settings.PORT}: ${messageOf(error)}`, { cause: error });
  }
};

declare const BUNDLED: Assets | undefined;

function readAssets(): Assets {
  if (typeof BUNDLED !== "undefined") return BUNDLED;
  const read = (name: string) => readFileSync(new URL(`dist/${name}`, import.meta.url), "utf8");
  return Object.fromEntries(ASSETS.map((name) => [name, read(name)])) as Assets;
}

async function main(): Promise<void> {
  const settings = readSettings(process.env);
  const assets = readAssets();
  const password = settings.ADMIN_PASSWORD ?? randomBytes(12).toString("base64url");
  const engine = await openEngine(settings);
  const signer = new Signer(settings.SECRET ?? (await engine.secret("signing", "")));
  const guard = new Guard(settings);
  const rooms = new Rooms(
    settings.GRACE_SECONDS * 1_000,
    engine.share?.({
      total: (room, total) => rooms.setTotal(room, total, performance.now()),
      stale: (stale) => pages.setStale(stale),
    }),
  );
  const sites = new Sites(settings.SITES);
  const journal = new Journal(engine, rooms, sites);
  const pages: Pages = new Pages(rooms, guard, journal, settings.HEARTBEAT_SECONDS * 1_000);
  const start = performance.now();
  for (const member of await engine.held()) rooms.hold(member, start + HOLD_MS, start);
  const app = createApp({ settings, sites, signer, guard, rooms, pages, journal, engine, assets, password });
  const server = listen(app, pages, settings);
  const stopClocks = pages.start();
  announce(settings, server.port, password);
  await new Promise((resolve) => ["SIGINT", "SIGTERM"].forEach((signal) => process.once(signal, resolve)));
  log("info", "stopping");
  await engine.hold(rooms.members()).catch(report); // before any page leaves
  await pages.drain();
  stopClocks();
  await pages.record();
  await engine.close();
  process.exit(0);
}

/** The Redis engine is loaded only where it is wanted; it knows this file by its types alone. */
async function openEngine({ REDIS_URL, DATA, TOKEN_TTL_SECONDS }: Settings): Promise<Engine> {
  if (REDIS_URL === undefined) return new EmbeddedEngine(DATA, TOKEN_TTL_SECONDS * 1_000);
  const { RedisEngine } = await import("./redis.ts");
  return RedisEngine.open(REDIS_URL, { tokenTtlMs: TOKEN_TTL_SECONDS * 1_000, log });
}

/** Says where the service is and what to paste. */
function announce(settings: Settings, port: number, password: string): void {
  const host = ["0.0.0.0", "::"].includes(settings.HOST)
    ? "localhost"
    : settings.HOST.includes(":")
      ? `[${settings.HOST}]`
      : settings.HOST;
  const url = `http://${host}:${port}/`;
  const snippet = `<span data-headcount>–</span> people here now <script async src="${url}widget.js"></script>`;
  if (settings.SITES === undefined)
    log("info", "SITES is not set: only pages on this machine are counted (SITES=example.com opens it)");
  log("info", "ready", { url, snippet, ...(settings.ADMIN_PASSWORD === undefined && { user: "admin", password }) });
}

if (import.meta.main) {
  main().catch((error: unknown) => {
    process.stderr.write(`${messageOf(error)}\n`);
    process.exit(1);
  });
}
