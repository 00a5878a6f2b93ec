/**
 * Headcount: how many people are on this site right now?
 *
 * A page that carries the script tag opens one WebSocket to this service. The service counts the people behind those
 * sockets and writes the number back into every page as it changes. This file is that service, whole.
 *
 * The ideas, smallest first:
 *
 *   visitor   a browser, known by a random id that this service has signed. Never a tab, a socket or an address.
 *   page      a name on a site ("/about"). An open page is one tab showing it: one visitor, one socket.
 *   site      an entry of SITES, chosen by the Origin header, which a browser does not let its pages forge.
 *   room      whatever has a number of its own: a site, or one page of it. Its members are visitors, each there once,
 *             however many pages they hold open. Its audience are the open pages that show its number.
 *   token     a signed, single-use ticket from `POST /token` to `GET /ws`, so that every refusal can be read by the page
 *             as an HTTP answer, and nobody opens sockets without having been weighed.
 *   engine    what must outlive this process, or be agreed upon by several: secrets, spent tokens, the journal's sums.
 *   journal   how long pages are read, and how many people were online when.
 *
 * Who owns what: `Rooms` owns who is counted and what is to be told, and nothing else can change a number. `Pages` owns
 * the sockets, `Guard` the limits, `Journal` the past. Time is an argument wherever it matters: a test of a minute takes
 * none.
 *
 * Deliberately absent: a window ("in the last 5 minutes"), polling, timers of single visitors, buffering for slow readers
 * (they are closed and come back), and trust in anything that a page says about itself other than its name.
 */

import { createHash, createHmac, createSecretKey, type KeyObject, randomBytes, timingSafeEqual } from "node:crypto";
import { chmodSync, closeSync, existsSync, mkdirSync, openSync, readFileSync, renameSync } from "node:fs";
import { devNull } from "node:os";
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

// ── Log and files ───────────────────────────────────────────────────────────────────────────────────────────────────
// What any part may do: write a line, survive a failure, and know whether there are still files to open.

/** Writes a line for an event: words on a terminal, JSON elsewhere. Values are escaped, so that nobody forges a line. */
export function log(level: "info" | "warn" | "error", event: string, fields: Record<string, unknown> = {}): void {
  const words = Object.entries(fields).map(([key, value]) => ` ${key}=${JSON.stringify(value)}`);
  const line = process.stdout.isTTY
    ? `${level === "info" ? "" : `${level}: `}${event}${words.join("")}`
    : JSON.stringify({ time: new Date().toISOString(), level, event, ...fields });
  process.stdout.write(`${line}\n`);
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

const reported = new LRUCache<string, true>({ max: 100, ttl: 10_000 });

/** The one place where failures without a caller end up. The same one is said once in 10 s: anybody may cause some. */
export function report(error: unknown): void {
  const message = messageOf(error);
  if (reported.has(message)) return;
  reported.set(message, true);
  log("error", "unexpected error", { message, stack: error instanceof Error ? error.stack : "" });
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

const TRIED_FILES = 10_000; // which takes a tenth of a second

/** How many files this process may open, as the system tells or as is found out; Infinity when that is unknown. */
function openFilesLimit(): number {
  try {
    return Number(/Max open files\s+(\d+)/.exec(readFileSync("/proc/self/limits", "utf8"))?.[1] ?? Infinity);
  } catch {
    return tryFiles(); // macOS, Deno without --allow-all
  }
}

/** Whoever may open 10,000 may, for all that is known, open more. */
function tryFiles(): number {
  const files: number[] = [];
  try {
    while (files.length < TRIED_FILES) files.push(openSync(devNull, "r"));
    return Infinity;
  } catch (error) {
    return noFileLeft(error) ? (files.at(-1) ?? 0) + 1 : Infinity;
  } finally {
    files.forEach((file) => closeSync(file));
  }
}

const noFileLeft = (error: unknown) => /EMFILE|ENFILE/.test(messageOf(error));
const OPEN_FILES = openFilesLimit();
/** 95 % for pages, but for few files: the others are for answers to those who cannot come in. */
const FILES_FOR_PAGES = Math.min(OPEN_FILES * 0.95, Math.max(OPEN_FILES - 50, OPEN_FILES * 0.75));

/**
 * True when no file is left for a page. The system gives out the lowest free number, so a high one tells that all below
 * it are taken: to ask costs 4 µs, however many they are.
 */
function isOutOfFiles(): boolean {
  try {
    const file = openSync(devNull, "r");
    closeSync(file);
    return file >= FILES_FOR_PAGES;
  } catch (error) {
    return noFileLeft(error);
  }
}

// ── Names and addresses ─────────────────────────────────────────────────────────────────────────────────────────────
// Pure functions that decide which site, page and address a request is about. Nothing a client sends is used as it is.

/** One entry of SITES. `name` is what the site is called everywhere; all origins that match are counted together. */
export interface SiteRule {
  readonly name: string;
  matches(origin: URL): boolean;
}

/**
 * `example.com` → http and https on their default ports (any port for localhost) · `https://example.com:8443` → exactly
 * that · `*.example.com` → the apex and every subdomain · anything else → undefined
 */
export function parseSite(entry: string): SiteRule | undefined {
  const wildcard = entry.startsWith("*.");
  const exact = entry.includes("://");
  const url = webUrl(exact ? entry : `http://${wildcard ? entry.slice(2) : entry}`);
  if (url === undefined || url.href !== `${url.origin}/` || url.host.includes("*")) return undefined; // a path, a user …
  const name = url.hostname;
  if (exact) return { name: url.origin, matches: (origin) => origin.origin === url.origin };
  if (url.port !== "") return undefined;
  if (wildcard)
    return {
      name: entry.toLowerCase(),
      matches: ({ port, hostname }) => port === "" && `.${hostname}`.endsWith(`.${name}`),
    };
  return { name, matches: ({ port, hostname }) => hostname === name && (port === "" || name === "localhost") };
}

/** An Origin or Referer as a URL; undefined where it is missing, `null`, or not of the web. */
function webUrl(text: string | undefined): URL | undefined {
  const url = text === undefined ? null : URL.parse(text);
  return url?.protocol === "https:" || url?.protocol === "http:" ? url : undefined;
}

const LOOPBACK = new Set(["localhost", "127.0.0.1", "[::1]"]);
/** The site while SITES is unset: the same machine, so that it works out of the box and is closed to everybody else. */
const LOCALHOST: SiteRule = { name: "localhost", matches: ({ hostname }) => LOOPBACK.has(hostname) };

/** Finds sites by origin or name. SITES come first, then the service's own origin, then (with SITES unset) localhost. */
export class Sites {
  /** The names of the entries of SITES; the service's own site has none. */
  readonly names: ReadonlySet<string>;
  readonly #entries: readonly SiteRule[];
  readonly #fallback: readonly SiteRule[];

  /** @param entries SITES, or undefined where that is unset */
  constructor(entries: readonly SiteRule[] | undefined) {
    this.#entries = entries ?? [];
    this.#fallback = entries === undefined ? [LOCALHOST] : [];
    this.names = new Set(this.#entries.concat(this.#fallback).map(({ name }) => name));
  }

  /** The name of the site that an origin belongs to; `host` is the Host header of the same request. */
  byOrigin(origin: URL | undefined, host: string): string | undefined {
    if (origin === undefined) return undefined;
    const isIt = (site: SiteRule) => site.matches(origin);
    const isOwn = origin.host === URL.parse(`${origin.protocol}//${host}`)?.host; // whatever the case and default port
    return this.#entries.find(isIt)?.name ?? (isOwn ? origin.host : this.#fallback.find(isIt)?.name);
  }

  /** The site of this name, if there is one. A host that an entry covers names that entry's site. */
  byName(name: string, host: string): string | undefined {
    if (this.names.has(name) || name === host) return name;
    return this.byOrigin(webUrl(`https://${name}`), host);
  }
}

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
  const isIPv6 = entry.includes(":");
  const cidr = entry.includes("/") ? entry : `${entry}/${isIPv6 ? 128 : 32}`;
  if (!(isIPv6 ? ipaddr.IPv6.isValidCIDR(cidr) : ipaddr.IPv4.isValidCIDRFourPartDecimal(cidr))) return undefined;
  const [address, bits] = ipaddr.parseCIDR(cidr);
  const isMapped = address instanceof ipaddr.IPv6 && address.isIPv4MappedAddress() && bits >= 96;
  return isMapped ? [address.toIPv4Address(), bits - 96] : [address, bits];
}

/**
 * The client's address: the socket's, or the `hops`-th entry from the right of X-Forwarded-For, which is what the
 * outermost trusted proxy wrote. Whatever stands further left is the client's own invention.
 */
export function clientAddress(socket: string, forwardedFor: string | undefined, hops: number): string {
  if (hops === 0 && /^[\d.]+$/.test(socket)) return socket; // as nearly always, and canonical already
  const entry = hops > 0 ? forwardedFor?.split(",").at(-hops)?.trim() : undefined;
  const claimed = entry?.replace(/^\[(.*)\](?::\d+)?$|^([\d.]+):\d+$/, "$1$2"); // some proxies write the port too
  const address = claimed !== undefined && ipaddr.isValid(claimed) ? claimed : socket;
  return ipaddr.isValid(address) ? ipaddr.process(address).toString() : "0.0.0.0";
}

/** Whether it can be a Host header. None at all (`""`, HTTP/1.0) can. */
const isHost = (host: string) => host === "" || (/^[\w.:[\]-]{1,300}$/.test(host) && URL.canParse(`http://${host}`));

/** What limits are counted by: an IPv4 address as it is, an IPv6 one by its /64, since one household owns all of that. */
export function limitKey(address: string): string {
  return address.includes(":") ? `${ipaddr.IPv6.networkAddressFromCIDR(`${address}/64`).toString()}/64` : address;
}

/** The address of a `limitKey` for a log line: enough to see a pattern, too little to name a household. */
const coarse = (key: string) =>
  key.includes(":")
    ? `${ipaddr.IPv6.networkAddressFromCIDR(key.replace("/64", "/48")).toString()}/48`
    : key.replace(/\.\d+$/, ".x");

// ── Settings ────────────────────────────────────────────────────────────────────────────────────────────────────────
// The environment, read once at the start. All that is wrong is said at once, and then the program does not start.

const integer = (min: number, max: number, what = "a number") => {
  const expected = `${what} (${min}–${max})`;
  return v.pipe(
    v.string(),
    v.regex(/^\d+$/, expected),
    v.transform(Number),
    v.minValue(min, expected),
    v.maxValue(max, expected),
  );
};
const limit = integer(1, 10_000_000);

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
const SITE_LIST = "a list of sites such as example.com, https://example.com:8443 or *.example.com";
const BLOCK_LIST = "a list of addresses and CIDR blocks such as 192.0.2.1 or 2001:db8::/32";

const Environment = v.object({
  PORT: v.optional(integer(0, 65_535, "a port"), "3000"),
  HOST: v.optional(v.string(), "0.0.0.0"),
  SITES: v.optional(listOf(parseSite, SITE_LIST)),
  SECRET: v.optional(v.pipe(v.string(), v.minLength(16, "a secret of at least 16 characters"))),
  TRUST_PROXY: v.optional(integer(0, 16, "the number of proxies in front"), "0"),
  DENY: v.optional(listOf(parseBlock, BLOCK_LIST), ""),
  DATA: v.optional(v.string(), "./data"),
  REDIS_URL: v.optional(v.pipe(v.string(), v.regex(/^rediss?:\/\/./, "a URL such as redis://:password@host:6379/0"))),
  ADMIN_PASSWORD: v.optional(v.pipe(v.string(), v.minLength(8, "a password of at least 8 characters"))),
  GRACE_SECONDS: v.optional(integer(0, 3_600, "a number of seconds"), "5"),
  HEARTBEAT_SECONDS: v.optional(integer(1, 120, "a number of seconds"), "25"), // two of them < 60 s, nginx's patience
  TOKEN_TTL_SECONDS: v.optional(integer(1, 3_600, "a number of seconds"), "30"),
  MAX_PAGES_PER_VISITOR: v.optional(limit, "20"),
  MAX_PAGES_PER_IP: v.optional(limit, "200"), // an office, or a school
  MAX_TOKENS_PER_IP: v.optional(limit, "120"),
  MAX_VISITORS_PER_IP: v.optional(limit, "60"),
  MAX_CONNECTIONS: v.optional(limit),
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
  const { success, output, issues } = v.safeParse(Environment, given);
  const most = Math.floor((OPEN_FILES === Infinity ? TRIED_FILES : OPEN_FILES) * 0.9);
  if (success) return { ...output, MAX_CONNECTIONS: output.MAX_CONNECTIONS ?? most };
  const wrong = new Map(issues.map((issue) => [v.getDotPath(issue)?.split(".")[0] ?? "", issue.message]));
  throw new Error(
    [...wrong].map(([name, what]) => `Cannot read ${name}: ${shown(name, given[name])} is not ${what}`).join("\n"),
  );
}

/** A value as it may stand in a log: quoted and escaped, and nothing of a secret but its length. */
const shown = (name: string, value = "") =>
  /SECRET|PASSWORD|URL/.test(name) ? `a value of ${value.length} characters` : JSON.stringify(value);

// ── Visitors and tokens ─────────────────────────────────────────────────────────────────────────────────────────────
// Both are plain text with an HMAC-SHA256 over all they mean, so that nothing about them has to be remembered here.

/** What a token promises about the socket that it opens. `visitor` is "" for a page that only observes. */
export interface Claims {
  readonly visitor: string;
  readonly page: string;
  /** When it stops being good: milliseconds since 1970. */
  readonly expires: number;
  /** Makes the token one of its kind. It is unique, not secret: nobody gains by guessing it. */
  readonly nonce: number;
}

/** What is inside a token; the signature vouches for its shape. */
type Payload = [visitor: string, page: string, expires: number, nonce: number];

export class Signer {
  readonly #key: KeyObject;

  constructor(secret: string) {
    this.#key = createSecretKey(Buffer.from(secret));
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

  /** The token is bound to the origin by its signature: whoever presents it must send the same Origin again. */
  signToken(origin: string, { visitor, page, expires, nonce }: Claims): string {
    const payload = Buffer.from(JSON.stringify([visitor, page, expires, nonce])).toString("base64url");
    return `${payload}.${this.#sign("token", origin, payload)}`;
  }

  /** The claims, or undefined for a token that is forged, of another origin, or past its time. */
  readToken(origin: string, token: string, now: number): Claims | undefined {
    const [payload = "", signature = "", ...rest] = token.split(".");
    if (rest.length > 0 || !this.#verify(signature, "token", origin, payload)) return undefined;
    const [visitor, page, expires, nonce] = JSON.parse(Buffer.from(payload, "base64url").toString()) as Payload;
    return expires > now ? { visitor, page, expires, nonce } : undefined;
  }

  /** The first 128 bits of the HMAC over a list of texts; a list, so that no two meanings share one signature. */
  #sign(...parts: string[]): string {
    return hmac(this.#key, parts);
  }

  #verify(signature: string, ...parts: string[]): boolean {
    const given = Buffer.from(signature);
    const right = Buffer.from(this.#sign(...parts));
    return given.length === right.length && timingSafeEqual(given, right);
  }
}

const hmac = (key: KeyObject | string, parts: string[]) =>
  createHmac("sha256", key).update(JSON.stringify(parts)).digest("base64url").slice(0, 22);
const digest = (text: string) => createHash("sha256").update(text).digest("base64url").slice(0, 22);

/** A visitor for IDENTITY=hash: the same browser gives the same id for a day, and nothing is kept in it. */
export function hashVisitor(salt: string, site: string, address: string, userAgent: string): string {
  return hmac(salt, [site, limitKey(address), userAgent]);
}

/** 48 random bits: with a million tokens alive, one newcomer in 280 million meets a namesake, and asks again. */
const newNonce = () => randomBytes(6).readUIntBE(0, 6);
const newVisitor = () => randomBytes(16).toString("base64url");
const newSecret = () => randomBytes(32).toString("base64url");

// ── Guard ───────────────────────────────────────────────────────────────────────────────────────────────────────────
// Who is turned away, and how it is said. Every table has a fixed upper size: a flood costs its sender, not this memory.

/** Every reason to refuse: status, title, what it means to whoever runs the page, and the seconds to wait if that helps. */
const REFUSALS = {
  address: [403, "Address denied", "This address is on the deny list (DENY), or asked far too often", 600],
  bot: [403, "Crawlers are not counted", "The User-Agent is that of a crawler or a headless browser (COUNT_BOTS)"],
  origin: [403, "Origin not allowed", "The request has no Origin that SITES names"],
  token: [403, "Token not valid", "The token is missing, forged, expired, used, or of another origin"],
  body: [400, "Request not understood", 'The body must be JSON such as {"page":"/path","visitor":"…","observe":true}'],
  page: [400, "Page name not valid", "A page's name has 1 to 1,024 characters, none of them control characters"],
  host: [400, "Host not valid", "The Host header must be a name or an address, perhaps with a port"],
  handshake: [400, "Handshake not valid", "The WebSocket handshake is broken"],
  password: [401, "Password needed", "This is for the operator: the user is admin, the password ADMIN_PASSWORD"],
  unknown: [404, "Not found", "There is nothing here by this name"],
  site: [404, "Site not found", "This is none of the SITES of this service"],
  size: [413, "Request too large", "The body may have 4,096 bytes"],
  upgrade: [426, "Upgrade required", "This is for WebSockets; or else a proxy in between dropped the Upgrade header"],
  guesses: [429, "Too many wrong passwords", "This address gave ten wrong passwords in a minute", 60],
  tokens: [429, "Too many token requests", "This address asked more often than it may (MAX_TOKENS_PER_IP)", 60],
  visitors: [429, "Too many new visitors", "This address brought more of them than it may (MAX_VISITORS_PER_IP)", 60],
  visitor_pages: [429, "Too many open pages", "This visitor has all the pages open it may (MAX_PAGES_PER_VISITOR)", 30],
  address_pages: [429, "Too many open pages", "This address has all the pages open it may (MAX_PAGES_PER_IP)", 30],
  journal: [503, "Not available now", "The journal cannot be read at this moment", 30],
  error: [500, "Internal error", "The service has noted what went wrong"],
  full: [503, "Full", "This service has all the pages or files open that it may (MAX_CONNECTIONS)", 30],
  draining: [503, "Restarting", "This service is about to restart", 5],
} as const satisfies Record<string, readonly [status: number, title: string, detail: string, retryAfter?: number]>;

/** Why somebody was turned away. */
export type Reason = keyof typeof REFUSALS;

const MINUTE = 60_000;
const TABLE_SIZE = 50_000; // addresses a table remembers; about 4 MB when full
const MAX_GUESSES = 10; // wrong passwords a minute and address

/** Counts by key in windows that begin with a key's first event. */
const windows = (ttl: number) => new LRUCache<string, number>({ max: TABLE_SIZE, ttl });

/** Counts one more and returns how many that makes in this window. */
function hit(counts: LRUCache<string, number>, key: string): number {
  const count = (counts.get(key) ?? 0) + 1;
  counts.set(key, count, { noUpdateTTL: true });
  return count;
}

export class Guard {
  readonly #settings: Settings;
  readonly #tokens = windows(MINUTE);
  readonly #visitors = windows(MINUTE);
  readonly #guesses = windows(MINUTE);
  readonly #bans = windows(10 * MINUTE);
  readonly #openPages = new Map<string, number>(); // bounded by MAX_CONNECTIONS

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  /** The deny list and the temporary bans; asked before anything else. */
  address(address: string): Reason | undefined {
    if (this.#bans.has(limitKey(address))) return "address";
    if (this.#settings.DENY.length === 0) return undefined;
    const parsed = ipaddr.process(address);
    const isIn = ([block, bits]: Block) => block.kind() === parsed.kind() && parsed.match(block, bits);
    return this.#settings.DENY.some(isIn) ? "address" : undefined;
  }

  /** A token request. Ten times over the limit is no mistake any more: the address is denied for ten minutes. */
  tokenRequest(key: string): Reason | undefined {
    const requests = hit(this.#tokens, key);
    if (requests > this.#settings.MAX_TOKENS_PER_IP * 10 && hit(this.#bans, key) === 1)
      log("warn", "address denied for ten minutes", { address: coarse(key), requests });
    return requests > this.#settings.MAX_TOKENS_PER_IP ? "tokens" : undefined;
  }

  newVisitor(key: string): Reason | undefined {
    return hit(this.#visitors, key) > this.#settings.MAX_VISITORS_PER_IP ? "visitors" : undefined;
  }

  /** Somebody gave a password. Who was wrong ten times in a minute is not even listened to. */
  password(key: string, given: string | undefined, right: string): Reason | undefined {
    if ((this.#guesses.get(key) ?? 0) >= MAX_GUESSES) return "guesses";
    if (given !== undefined && timingSafeEqual(Buffer.from(digest(given)), Buffer.from(digest(right))))
      return undefined;
    if (given !== undefined) hit(this.#guesses, key);
    return "password";
  }

  /** Whether one more page may open: `pages` are the visitor's open ones, `connections` everybody's. */
  onePageMore(key: string, pages: number, connections: number): Reason | undefined {
    if (connections >= this.#settings.MAX_CONNECTIONS || isOutOfFiles()) return "full";
    if (pages >= this.#settings.MAX_PAGES_PER_VISITOR) return "visitor_pages";
    return (this.#openPages.get(key) ?? 0) >= this.#settings.MAX_PAGES_PER_IP ? "address_pages" : undefined;
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

/** A site, or one page of it: whatever has a number of its own. */
export class Room {
  readonly site: string;
  /** The page's name; undefined for the room of the whole site. */
  readonly page: string | undefined;
  /** Visitor → open pages in this room; below zero, none any more: minus the time at which grace ends. */
  readonly members = new Map<string, number>();
  /** Of a page: the open pages that show it, those that only observe included. */
  readonly audience = new Set<OpenPage>();
  /** How many visitors it has: here or, with a shared engine, on all nodes. Undefined until that engine has said it. */
  total: number | undefined;
  /** The number that its audience was told last. */
  told: number | undefined;
  /** The highest total since the journal looked last. */
  highest = 0;
  /** What else is shown: of a site the peak of 24 hours, of a page the median reading time; and when to ask for it anew. */
  figure: number | undefined;
  figureUntil = 0;

  constructor(site: string, page: string | undefined, total: number | undefined) {
    this.site = site;
    this.page = page;
    this.total = total;
    this.told = total;
  }
}

/** A site with all its rooms. They are told together, so that one frame can carry the number of a page and of its site. */
export interface Site {
  readonly room: Room;
  readonly pages: Map<string, Room>;
  /** How many open pages show it. */
  audience: number;
  /** The rooms whose number changed since they were told it, since when, and the time before which nobody is told. */
  readonly changed: Set<Room>;
  changedAt: number;
  quietUntil: number;
}

/** One tab that shows one page, by one socket. Each part of this file touches its own fields only, named in this order. */
export class OpenPage {
  /** "" when the page only observes. */
  readonly visitor: string;
  readonly site: Site;
  page: Room;

  /** Journal: since when its reader is active (undefined: not now), the time before that, the seconds recorded of it. */
  activeSince: number | undefined;
  readMs = 0;
  recorded: number | undefined = undefined;

  /** Pages: what its address is limited by, and its socket, once the upgrade is complete. */
  readonly key: string;
  wire: Wire | undefined = undefined;
  heardAt: number;
  pingAt: number;
  repeatAt: number;
  /** When its messages so far would all have been allowed at one a second: a leaky bucket in one number. */
  paidUntil: number;

  constructor(visitor: string, site: Site, page: Room, key: string, now: number) {
    this.visitor = visitor;
    this.site = site;
    this.page = page;
    this.activeSince = now;
    this.key = key;
    this.heardAt = now;
    this.pingAt = now;
    this.repeatAt = now;
    this.paidUntil = now;
  }
}

/** What both runtimes' sockets have in common. `bufferedAmount` exists on Deno, all else that may be missing on Bun. */
export interface Wire {
  readonly readyState: number;
  readonly bufferedAmount?: number;
  send(text: string): unknown;
  close(code: number, reason: string): void;
  ping?(): unknown;
  /** Sends all that the callback sends in one write. */
  cork?(callback: () => void): unknown;
  terminate?(): void;
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

/** The audience of a page is to be told a new number: that of the site, or of the page, or both. */
export interface Publication {
  readonly site: Site;
  readonly page: Room;
  readonly siteChanged: boolean;
  readonly pageChanged: boolean;
}

/** A visitor who leaves a room at a time, unless they come back before it. */
interface Leaving {
  readonly site: Site;
  readonly room: Room;
  readonly visitor: string;
  readonly until: number;
}

const SCAN_MS = 50; // how often grace and waiting sites are looked at
const MIN_INTERVAL_MS = 100;
const MAX_INTERVAL_MS = 750; // with the time a broadcast to 20,000 pages takes, still within the promised second
/** A frame to one page costs about 10 µs (measured); broadcasts may take an eighth of the time, hence 80 µs a page. */
const INTERVAL_MS_PER_PAGE = 0.08;

export class Rooms {
  readonly #sites = new Map<string, Site>();
  readonly #graceMs: number;
  readonly #shared: Membership | undefined;
  /** Who is in grace, soonest to leave first, since grace is the same for all. Who came back is skipped when due. */
  readonly #grace = new Set<Leaving>();
  /** Who was online before a restart, and is expected back. */
  readonly #held = new Set<Leaving>();
  /** Sites with changed rooms: those that may be told at the next tick, and those that were told only just now. */
  readonly #ready = new Set<Site>();
  readonly #waiting = new Set<Site>();
  #nextScan = 0;
  #openPages = 0;

  /** @param shared where several nodes count together; without it this node counts alone */
  constructor(graceMs: number, shared?: Membership) {
    this.#graceMs = graceMs;
    this.#shared = shared;
  }

  /** The sites of this node, in no order. */
  sites(): Iterable<Site> {
    return this.#sites.values();
  }

  site(name: string): Site | undefined {
    return this.#sites.get(name);
  }

  /** Everybody who is counted here. */
  *members(): Generator<Member> {
    for (const { room, pages } of this.#sites.values())
      for (const { site, page, members } of [room, ...pages.values()])
        for (const visitor of members.keys()) yield { site, page, visitor };
  }

  /** The number of distinct visitors on a site, or on one page of it; undefined for a room that this node has not. */
  count(name: string, page?: string): number | undefined {
    const site = this.#sites.get(name);
    return (page === undefined ? site?.room : site?.pages.get(page))?.total;
  }

  /** How many pages of a site a visitor has open. */
  pagesOf(site: string, visitor: string): number {
    return Math.max(0, this.#sites.get(site)?.room.members.get(visitor) ?? 0);
  }

  /** True when a tick would have something to tell at once. */
  get pending(): boolean {
    return this.#ready.size > 0;
  }

  /** A page opens: it joins the audience of its page and, unless it only observes, its visitor is counted. */
  open(visitor: string, on: string, shows: string, key: string, now: number): OpenPage {
    const site = this.#site(on);
    const page = new OpenPage(visitor, site, this.#page(site, shows), key, now);
    site.audience += 1;
    this.#openPages += 1;
    this.#enter(page, site.room, now);
    this.#enter(page, page.page, now);
    if (site.audience === 1) site.room.told = site.room.total; // its first frame tells it
    return page;
  }

  /** The open page now shows another page of its site: the site's number cannot change. */
  move(page: OpenPage, to: string, now: number): void {
    this.#leave(page, page.page, now);
    page.page = this.#page(page.site, to);
    this.#enter(page, page.page, now);
  }

  /** The page closed. Called once for each page that was opened. */
  close(page: OpenPage, now: number): void {
    page.site.audience -= 1;
    this.#openPages -= 1;
    this.#leave(page, page.page, now);
    this.#leave(page, page.site.room, now);
  }

  /** Counts a visitor who was online before a restart, until they are back, or until their time is over. */
  hold(member: Member, until: number, now: number): void {
    const site = this.#site(member.site);
    const room = member.page === undefined ? site.room : this.#page(site, member.page);
    if (room.members.has(member.visitor)) return;
    room.members.set(member.visitor, -until);
    this.#held.add({ site, room, visitor: member.visitor, until });
    this.#changed(site, room, member.visitor, true, now);
  }

  /** A room's number, as a shared engine knows it. */
  setTotal(room: Room, total: number, now: number): void {
    const site = this.#sites.get(room.site);
    if (site !== undefined) this.#setTotal(site, room, total, now);
  }

  /** Ends the grace of those whose time has come, and returns what is to be told now. */
  tick(now: number): Publication[] {
    if (now >= this.#nextScan) {
      this.#nextScan = now + SCAN_MS;
      this.#expire(this.#grace, now);
      this.#expire(this.#held, now);
      for (const site of this.#waiting) if (now >= site.quietUntil) this.#ready.add(site);
    }
    const publications: Publication[] = [];
    for (const site of this.#ready) {
      this.#waiting.delete(site);
      this.#publish(site, now, publications);
    }
    this.#ready.clear();
    return publications;
  }

  /** Tells the changed rooms of a site: to all its open pages when its own number changed, else to the changed pages'. */
  #publish(site: Site, now: number, publications: Publication[]): void {
    const told = new Set([...site.changed].filter((room) => room.total !== room.told));
    site.changed.clear();
    if (told.size === 0) return;
    site.quietUntil = now + this.#intervalMs();
    for (const room of told) room.told = room.total;
    const siteChanged = told.has(site.room);
    for (const page of siteChanged ? site.pages.values() : told)
      if (page.audience.size > 0) publications.push({ site, page, siteChanged, pageChanged: told.has(page) });
  }

  /** The first change after a quiet time is told at once; the time to the next one grows with all there is to tell. */
  #intervalMs(): number {
    return Math.min(MAX_INTERVAL_MS, Math.max(MIN_INTERVAL_MS, this.#openPages * INTERVAL_MS_PER_PAGE));
  }

  #site(name: string): Site {
    const found = this.#sites.get(name);
    if (found !== undefined) return found;
    const room = this.#newRoom(name, undefined);
    const site = { room, pages: new Map(), audience: 0, changed: new Set<Room>(), changedAt: 0, quietUntil: 0 };
    this.#sites.set(name, site);
    this.#shared?.opened(room);
    return site;
  }

  #page(site: Site, name: string): Room {
    const found = site.pages.get(name);
    if (found !== undefined) return found;
    const room = this.#newRoom(site.room.site, name);
    site.pages.set(name, room);
    this.#shared?.opened(room);
    return room;
  }

  #newRoom(site: string, page: string | undefined): Room {
    return new Room(site, page, this.#shared === undefined ? 0 : undefined);
  }

  #enter(page: OpenPage, room: Room, now: number): void {
    if (page.visitor !== "") {
      const before = room.members.get(page.visitor);
      room.members.set(page.visitor, Math.max(0, before ?? 0) + 1);
      if (before === undefined) this.#changed(page.site, room, page.visitor, true, now);
    }
    if (room === page.site.room) return;
    room.audience.add(page);
    if (room.audience.size === 1) room.told = room.total; // its first frame tells it
  }

  #leave(page: OpenPage, room: Room, now: number): void {
    const { visitor, site } = page;
    room.audience.delete(page);
    const left = (room.members.get(visitor) ?? 0) - 1;
    const until = now + this.#graceMs;
    if (visitor === "") this.#forget(site, room);
    else if (left > 0) room.members.set(visitor, left);
    else {
      room.members.set(visitor, -until);
      this.#grace.add({ site, room, visitor, until });
    }
  }

  #expire(queue: Set<Leaving>, now: number): void {
    for (const leaving of queue) {
      const { site, room, visitor, until } = leaving;
      if (until > now) return;
      queue.delete(leaving);
      if (room.members.get(visitor) !== -until) continue; // came back, and perhaps left again since
      room.members.delete(visitor);
      this.#changed(site, room, visitor, false, now);
      this.#forget(site, room);
    }
  }

  #changed(site: Site, room: Room, visitor: string, here: boolean, now: number): void {
    if (this.#shared === undefined) this.#setTotal(site, room, room.members.size, now);
    else this.#shared.changed(room, visitor, here);
  }

  #setTotal(site: Site, room: Room, total: number, now: number): void {
    room.total = total;
    room.highest = Math.max(room.highest, total);
    if (site.changed.size === 0) {
      site.changedAt = now;
      (now >= site.quietUntil ? this.#ready : this.#waiting).add(site);
    }
    site.changed.add(room);
  }

  /** Rooms that nobody is in, and nobody looks at, are let go. */
  #forget(site: Site, room: Room): void {
    if (room.page !== undefined && room.members.size === 0 && room.audience.size === 0) {
      site.pages.delete(room.page);
      this.#shared?.closed(room);
    }
    if (site.audience > 0 || site.pages.size > 0 || site.room.members.size > 0) return;
    this.#sites.delete(site.room.site);
    this.#shared?.closed(site.room);
  }
}

// ── Engine ──────────────────────────────────────────────────────────────────────────────────────────────────────────
// What must outlive this process, or be agreed upon by several: secrets, spent tokens, who is held over a restart, and
// the journal's sums. The embedded engine is one SQLite file; a broken or full disk costs history, never a count.

export interface Engine {
  /** How many of its calls have failed. */
  readonly failures: number;
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

/** The highest count of a site in a minute (since 1970), or in a longer time that begins with it. */
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
const SQL = {
  secret: `INSERT INTO secrets VALUES (?1, ?2, ?3)
    ON CONFLICT DO UPDATE SET name = ?2, value = ?3 WHERE name <> ?2`,
  add: `INSERT INTO readings VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET views = views + excluded.views, seconds = seconds + excluded.seconds`,
  raise: `INSERT INTO history VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET peak = excluded.peak WHERE excluded.peak > peak`,
  raiseHighest: `INSERT INTO highest VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET minute = excluded.minute, peak = excluded.peak WHERE excluded.peak > peak`,
  readings: "SELECT site, page, bucket, views, seconds FROM readings WHERE site = ?",
  history: `SELECT minute - minute % ?3 AS minute, max(peak) AS peak FROM history
    WHERE site = ?1 AND minute >= ?2 GROUP BY 1 ORDER BY 1`,
};
const RESTART_MS = 120_000; // whoever was online before a longer stop has given up, or come to another number
export const MAX_PAGES_A_SITE = 10_000; // further ones are summed up as OTHER_PAGES
export const OTHER_PAGES = "(other)";
const HISTORY_MINUTES = 90 * 24 * 60;

export class EmbeddedEngine implements Engine {
  failures = 0;
  readonly #file: string;
  readonly #tokenTtlMs: number;
  #openedAt = Date.now();
  /** Undefined until it is first used, and after a failure: the next use opens it anew. */
  #database: DatabaseSync | undefined;
  #isSound = false;
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
    const secret = newSecret();
    try {
      return this.#transact((database) => {
        database.prepare(SQL.secret).run(kind, name, secret);
        return String(database.prepare("SELECT value FROM secrets WHERE kind = ?").get(kind)?.["value"]);
      });
    } catch (error) {
      log("error", "secrets cannot be kept: visitors will be new ones after a restart", { message: messageOf(error) });
      return secret;
    }
  }

  async spend({ nonce, expires }: Claims, now: number): Promise<boolean> {
    const mintedAt = expires - this.#tokenTtlMs;
    if (now < this.#openedAt) this.#openedAt = now - this.#tokenTtlMs; // the machine's clock was put back
    if (mintedAt < this.#openedAt) return false; // perhaps spent before the restart; the page asks for another
    if (this.#spent.has(nonce) || this.#spentBefore.has(nonce)) return false;
    if (now >= this.#turnAt || now < this.#turnAt - this.#tokenTtlMs) {
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
      const query = "SELECT site, page, visitor FROM held WHERE stopped_at > ?";
      const rows = database.prepare(query).all(Date.now() - RESTART_MS) as {
        site: string;
        page: string | null;
        visitor: string;
      }[];
      database.exec("DELETE FROM held");
      return rows.map(({ site, page, visitor }) => ({ site, page: page ?? undefined, visitor }));
    });
  }

  async record({ readings, peaks }: JournalEntries): Promise<void> {
    this.#transact((database) => {
      const add = database.prepare(SQL.add);
      const kept = keptPages(database);
      for (const { site, page, bucket, views, seconds } of readings)
        add.run(site, kept(site, page), bucket, views, seconds);
      for (const statement of [database.prepare(SQL.raise), database.prepare(SQL.raiseHighest)])
        for (const { site, minute, peak } of peaks) statement.run(site, minute, peak);
      this.#forgetOldHistory(database);
    });
  }

  async readings(site: string, page?: string): Promise<ReadingSum[]> {
    return this.#transact((database) => {
      if (page === undefined) return database.prepare(SQL.readings).all(site);
      return database.prepare(`${SQL.readings} AND page = ?`).all(site, page); // with OR it would scan all of the site
    }) as unknown as ReadingSum[];
  }

  async history(site: string, fromMinute: number, step: number): Promise<Peak[]> {
    return this.#transact((database) => database.prepare(SQL.history).all(site, fromMinute, step)) as unknown as Peak[];
  }

  async highest(site: string): Promise<Peak | undefined> {
    const query = "SELECT minute, peak FROM highest WHERE site = ?";
    return this.#transact((database) => database.prepare(query).get(site)) as Peak | undefined;
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
    try {
      this.#database ??= openDatabase(this.#file, this.#isSound);
      this.#isSound = true;
      this.#database.exec("BEGIN");
      const result = work(this.#database);
      this.#database.exec("COMMIT");
      return result;
    } catch (error) {
      this.failures += 1;
      this.#isSound &&= /locked|full/.test(messageOf(error));
      this.#database?.close(); // rolls back
      this.#database = undefined;
      throw new Error(`Cannot use ${this.#file}: ${messageOf(error)}`, { cause: error });
    }
  }
}

/** Finds the name that a page is kept under: its own, or OTHER_PAGES once its site has as many pages as one may. */
function keptPages(database: DatabaseSync): (site: string, page: string) => string {
  const known = database.prepare("SELECT 1 FROM pages WHERE site = ? AND page = ?");
  const count = database.prepare("SELECT count(*) AS pages FROM pages WHERE site = ?");
  const learn = database.prepare("INSERT INTO pages VALUES (?, ?)");
  const counts = new Map<string, number>();
  return (site, page) => {
    if (known.get(site, page) !== undefined) return page;
    const pages = counts.get(site) ?? Number(count.get(site)?.["pages"]);
    counts.set(site, Math.min(MAX_PAGES_A_SITE, pages + 1));
    if (pages >= MAX_PAGES_A_SITE) return OTHER_PAGES;
    learn.run(site, page);
    return page;
  };
}

/** Opens the file, made or migrated where need be. One that is no sound database is set aside, and a new one begun. */
function openDatabase(file: string, isSound: boolean): DatabaseSync {
  if (file !== ":memory:") mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  const database = new DatabaseSync(file);
  try {
    // Hardly any waiting for locks: it would hold up everybody's counts, and the journal tries again anyway.
    database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 50");
    const check = isSound ? "ok" : database.prepare("PRAGMA quick_check(1)").get()?.["quick_check"]; // reads all of it
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
    return openDatabase(file, false);
  }
}

// ── Journal ─────────────────────────────────────────────────────────────────────────────────────────────────────────
// How long pages are read, and how many were online when. It keeps sums until the engine has taken them, and never what
// a single visitor did: a view ends up as one more in a bucket of its page's histogram.

/** How a page was read: `seconds` is the sum over all views; `median` and `p90` are seconds of one view, within 10 %. */
export interface Reading {
  readonly views: number;
  readonly seconds: number;
  readonly median: number;
  readonly p90: number;
}

const RECORD_MS = 5_000; // what a crash may lose
const MAX_VIEW_SECONDS = 3_600;
const DAY_MINUTES = 1_440;
const FIGURE_MS = 60_000; // how old the peak and the median may be when they are shown
const MAX_SUMS = 50_000; // what is kept for a disk that cannot take it
const MAX_OWN_SITES = 100; // a site that is not in SITES is named by a Host header, and those can be invented

/** Buckets grow by a fifth: all in one is within 9.1 % of its middle (DDSketch, Masson, Rim and Lee, VLDB 2019). */
const GROWTH = 1.2;
const bucketOf = (seconds: number) => (seconds < 1 ? 0 : 1 + Math.floor(Math.log(seconds) / Math.log(GROWTH)));
const middleOf = (bucket: number) => (bucket === 0 ? 0 : (2 * GROWTH ** bucket) / (GROWTH + 1));

/** The sums of a page, or of several pages as if they were one, as figures. */
export function readingOf(sums: readonly ReadingSum[]): Reading {
  const ascending = sums.toSorted((a, b) => a.bucket - b.bucket);
  const views = sums.reduce((total, sum) => total + sum.views, 0);
  const seconds = sums.reduce((total, sum) => total + sum.seconds, 0);
  const quantile = (share: number) => {
    let rank = share * (views - 1);
    return Math.round(middleOf(ascending.find((sum) => (rank -= sum.views) < 0)?.bucket ?? 0));
  };
  return { views, seconds: Math.round(seconds), median: quantile(0.5), p90: quantile(0.9) };
}

export class Journal {
  /** How often the engine could not take what was to be kept. */
  failures = 0;
  readonly #engine: Engine;
  readonly #rooms: Rooms;
  readonly #sites: Sites;
  readonly #wallClock: () => number;
  /** What the engine has not taken yet, by page and bucket, and the last peak of each site that it has or will. */
  #sums = new Map<Room, Map<number, ReadingSum>>();
  #kept = 0; // so many of them
  readonly #peaks = new Map<string, Peak & { site: string; taken: boolean }>();
  readonly #ownSites = new Set<string>();
  #failing = false;

  constructor(engine: Engine, rooms: Rooms, sites: Sites, wallClock: () => number = Date.now) {
    this.#engine = engine;
    this.#rooms = rooms;
    this.#sites = sites;
    this.#wallClock = wallClock;
  }

  /** The reader went away from the page, or came back to it. */
  setActive(page: OpenPage, active: boolean, now: number): void {
    if (page.activeSince !== undefined) page.readMs += now - page.activeSince;
    page.activeSince = active ? now : undefined;
  }

  /** The view is over. The tab may begin another one, of another page. */
  endView(page: OpenPage, now: number): void {
    this.#measure(page, now);
    page.activeSince = now;
    page.readMs = 0;
    page.recorded = undefined;
  }

  /** Gives everything to the engine, views that still go on included. What it does not take is kept and tried again. */
  async record(openPages: Iterable<OpenPage>, now: number): Promise<void> {
    for (const page of openPages) this.#measure(page, now);
    this.#notePeaks();
    const sums = this.#sums;
    const readings = [...sums.values()].flatMap((buckets) => Array.from(buckets.values()));
    const peaks = [...this.#peaks.values()].filter((peak) => !peak.taken);
    if (readings.length === 0 && peaks.length === 0) return;
    this.#sums = new Map();
    this.#kept = 0;
    try {
      await this.#engine.record({ readings, peaks });
      for (const peak of peaks) peak.taken = true;
      this.#failing = false;
    } catch (error) {
      for (const [room, buckets] of sums)
        for (const { bucket, views, seconds } of buckets.values()) this.#add(room, bucket, views, seconds);
      this.failures += 1;
      if (!this.#failing)
        log("error", "the journal cannot be written, and is tried again", { message: messageOf(error) });
      this.#failing = true;
    }
  }

  /** Brings the peak of a site's room, or the median of a page's, up to date. True when it has changed. */
  async refresh(room: Room, now: number): Promise<boolean> {
    room.figureUntil = now + FIGURE_MS;
    const before = room.figure;
    room.figure = room.page === undefined ? await this.peak(room.site) : await this.#median(room, room.page);
    return room.figure !== before;
  }

  /** The highest count of a site in the last 24 hours, now included. */
  async peak(site: string): Promise<number> {
    const from = Math.floor(this.#wallClock() / MINUTE) - DAY_MINUTES;
    const past = await this.#engine.history(site, from, DAY_MINUTES).catch(() => []); // then what is known here
    const { minute = 0, peak: noted = 0 } = this.#peaks.get(site) ?? {};
    return Math.max(this.#rooms.count(site) ?? 0, minute < from ? 0 : noted, ...past.map(({ peak }) => peak));
  }

  /** The median reading time of a page; while the engine is away, the one known before. */
  async #median(room: Room, page: string): Promise<number | undefined> {
    const sums = await this.#engine.readings(room.site, page).catch(() => undefined);
    if (sums === undefined) return room.figure;
    const { views, median } = readingOf(sums);
    return views === 0 ? undefined : median;
  }

  /** Moves a view to the bucket that it has reached by now. */
  #measure(page: OpenPage, now: number): void {
    const { page: room, recorded } = page;
    const running = page.activeSince === undefined ? 0 : now - page.activeSince;
    const seconds = Math.min(MAX_VIEW_SECONDS, (page.readMs + running) / 1_000);
    if (page.visitor === "" || seconds === recorded || !this.#keeps(room.site)) return;
    const bucket = bucketOf(seconds);
    if (recorded !== undefined && bucketOf(recorded) === bucket) this.#add(room, bucket, 0, seconds - recorded);
    else {
      if (recorded !== undefined) this.#add(room, bucketOf(recorded), -1, -recorded);
      this.#add(room, bucket, 1, seconds);
    }
    page.recorded = seconds;
  }

  #add(room: Room, bucket: number, views: number, seconds: number): void {
    const sums = this.#sums.get(room) ?? new Map<number, ReadingSum>();
    const sum = sums.get(bucket);
    if (sum !== undefined) {
      sum.views += views;
      sum.seconds += seconds;
    } else if (this.#kept < MAX_SUMS) {
      this.#kept += 1;
      this.#sums.set(room, sums.set(bucket, { site: room.site, page: room.page ?? "", bucket, views, seconds }));
    }
  }

  /** Notes for each site the highest count since the last time, in the minute that it is now. */
  #notePeaks(): void {
    const minute = Math.floor(this.#wallClock() / MINUTE);
    for (const { room } of this.#rooms.sites()) {
      const { site, highest: peak } = room;
      room.highest = room.total ?? 0;
      const noted = this.#peaks.get(site);
      if (peak === 0 || (noted?.minute === minute && noted.peak >= peak) || !this.#keeps(site)) continue;
      this.#peaks.set(site, { site, minute, peak, taken: false });
    }
  }

  #keeps(site: string): boolean {
    if (this.#sites.names.has(site) || this.#ownSites.has(site)) return true;
    return this.#ownSites.size < MAX_OWN_SITES && this.#ownSites.add(site).has(site);
  }
}

// ── Pages ───────────────────────────────────────────────────────────────────────────────────────────────────────────
// The open sockets: admission, frames in and out, heartbeat, drain. A page has no timer and no closure of its own: one
// sweep a second looks after all of them.

/** What a frame tells; what is not known (yet) is left out. */
type Numbers = Partial<Record<"site" | "page" | "peak" | "read", number | undefined>> & { stale?: boolean };

const OPEN = 1; // WebSocket.OPEN
const CLOSE = { goingAway: 1001, policy: 1008, tooBig: 1009, restart: 1012 } as const;
const UPGRADE_MS = 5_000; // a client that resets in mid-upgrade may never be heard of again
const REPEAT_MS = 30_000;
const EARLY_MS = 10_000; // how much sooner a page may be told its number again, to have it with a ping
const MAX_FRAME_BYTES = 1_024;
const MAX_BUFFERED_BYTES = 65_536;
const MESSAGES_A_MINUTE = 60;
const MAX_WINDOW_SECONDS = 8;
const PAGES_A_SECOND = 2_500; // reconnects that a node takes with ease
const DRAIN_MS = 8_000;

const Frame = v.pipe(
  v.strictObject({ page: v.optional(v.string()), active: v.optional(v.boolean()) }),
  v.check((frame) => frame.page !== undefined || frame.active !== undefined),
);

export class Pages {
  /** What has happened since the start. */
  readonly stats = { frames: 0, pings: 0, silent: 0, slow: 0 };
  /** Is told how long each change waited until all had been sent it, in milliseconds. */
  onBroadcast: (delayMs: number) => void = () => {};
  stale = false;
  readonly #open = new Set<OpenPage>();
  readonly #rooms: Rooms;
  readonly #guard: Guard;
  readonly #journal: Journal;
  readonly #heartbeatMs: number;
  readonly #now: () => number;
  #flushing = false;
  #sweptAt = Infinity;
  /** Once the node stops: the seconds in which its pages are to come back. */
  #window: string | undefined;

  constructor(rooms: Rooms, guard: Guard, journal: Journal, heartbeatMs: number, now = () => performance.now()) {
    this.#rooms = rooms;
    this.#guard = guard;
    this.#journal = journal;
    this.#heartbeatMs = heartbeatMs;
    this.#now = now;
  }

  get draining(): boolean {
    return this.#window !== undefined;
  }

  /** How many pages are open or about to be. */
  get size(): number {
    return this.#open.size;
  }

  /** Why this visitor may not open one more page now; undefined when they may. */
  refusal(site: string, visitor: string, key: string): Reason | undefined {
    if (this.draining) return "draining";
    return this.#guard.onePageMore(key, this.#rooms.pagesOf(site, visitor), this.#open.size);
  }

  /** Takes a page in, from here on counted. Its socket follows within 5 s, or it is let go again. */
  admit(site: string, { visitor, page }: Claims, key: string): OpenPage {
    const now = this.#now();
    const opened = this.#rooms.open(visitor, site, page, key, now);
    opened.pingAt += Math.random() * this.#heartbeatMs; // spread, so that no instant has to ping everybody
    opened.repeatAt += REPEAT_MS;
    this.#guard.opened(key);
    this.#open.add(opened);
    this.flushSoon();
    return opened;
  }

  opened(page: OpenPage, wire: Wire): void {
    if (!this.#open.has(page)) return wire.close(CLOSE.goingAway, ""); // it took longer than it may
    page.wire = wire;
    page.heardAt = this.#now();
    if (this.#window === undefined) this.#tell(page);
    else wire.close(CLOSE.restart, this.#window); // it was not there when all were told
  }

  /** Any sign of life; a pong has no other meaning. */
  heard(page: OpenPage): void {
    page.heardAt = this.#now();
  }

  received(page: OpenPage, data: unknown): void {
    if (!this.#open.has(page)) return;
    const now = this.#now();
    page.heardAt = now;
    page.paidUntil = Math.max(page.paidUntil, now) + MINUTE / MESSAGES_A_MINUTE;
    if (page.paidUntil > now + MINUTE) return this.#close(page, CLOSE.policy, "too many messages");
    if (typeof data !== "string") return this.#close(page, CLOSE.policy, "not text");
    if (Buffer.byteLength(data) > MAX_FRAME_BYTES) return this.#close(page, CLOSE.tooBig, "message too big");
    const frame = v.safeParse(Frame, parseJson(data));
    const name = frame.success && frame.output.page !== undefined ? pageName(frame.output.page) : "";
    if (!frame.success || name === undefined) return this.#close(page, CLOSE.policy, "not understood");
    if (name !== "") this.#move(page, name, now);
    if (frame.output.active !== undefined) this.#journal.setActive(page, frame.output.active, now);
  }

  /** The socket is gone. Safe to call again: the runtimes do (Deno fires `close` twice after a timeout). */
  closed(page: OpenPage): void {
    if (!this.#open.delete(page)) return;
    page.wire = undefined;
    this.#guard.closed(page.key);
    this.#journal.endView(page, this.#now());
    this.#rooms.close(page, this.#now());
  }

  /** Tells what has changed. Called every 50 ms, and soon after a site that was quiet has changed. */
  flush(): void {
    for (const { site, page, siteChanged, pageChanged } of this.#rooms.tick(this.#now())) {
      const { room } = site;
      const peak = siteChanged && peakOf(room) === room.total ? room.total : undefined; // a new one, or reached again
      const numbers = { site: siteChanged ? room.total : undefined, page: pageChanged ? page.total : undefined, peak };
      const text = this.#frame(numbers);
      for (const one of page.audience) this.#send(one, text);
      this.onBroadcast(this.#now() - site.changedAt);
    }
  }

  /** Flushes at the end of this turn of the event loop: whoever else comes in the same turn is in the same frame. */
  flushSoon(): void {
    if (this.#flushing || !this.#rooms.pending) return;
    this.#flushing = true;
    setImmediate(this.#flushNow);
  }

  readonly #flushNow = contain(() => {
    this.#flushing = false;
    this.flush();
  });

  /** Makes sure that the peak and the median are not old. Whoever asks is told of new ones; the others as they repeat. */
  async refresh(page: OpenPage): Promise<void> {
    const now = this.#now();
    const old = [page.site.room, page.page].filter((room) => now >= room.figureUntil);
    if (old.length === 0) return;
    const changes = await Promise.all(old.map((room) => this.#journal.refresh(room, now)));
    if (changes.includes(true)) this.#tell(page);
  }

  /** Looks after every page: frees those that never opened, closes the silent, pings and repeats when it is time. */
  sweep(): void {
    const now = this.#now();
    const slept = now - this.#sweptAt > this.#heartbeatMs; // this process, and not its peers
    this.#sweptAt = now;
    for (const page of this.#open) {
      if (slept) page.heardAt = now;
      const silentMs = now - page.heardAt;
      if (page.wire === undefined) {
        if (silentMs > UPGRADE_MS) this.closed(page);
      } else if (silentMs > 2 * this.#heartbeatMs && page.wire.ping !== undefined) {
        // Bun re-arms its own idle timeout at every send: a service that talks would never notice a dead peer.
        this.stats.silent += 1;
        this.#drop(page);
      } else if (now >= page.pingAt || now >= page.repeatAt) this.#prod(page, page.wire, now);
    }
  }

  /** Gives the journal what was read until now. */
  record(): Promise<void> {
    return this.#journal.record(this.#open, this.#now());
  }

  /** Starts the clocks that drive all of the above, and returns what stops them. */
  start(): () => void {
    const flush = contain(() => this.flush());
    const sweep = contain(() => this.sweep());
    const record = () => this.record().catch(report);
    const sweepMs = Math.min(1_000, this.#heartbeatMs / 4);
    const timers = [setInterval(flush, SCAN_MS), setInterval(sweep, sweepMs), setInterval(record, RECORD_MS)];
    return () => timers.forEach(clearInterval);
  }

  /** The engine is away (or back): everybody is told that their number may be old (or is exact again). */
  setStale(stale: boolean): void {
    if (stale === this.stale) return;
    this.stale = stale;
    for (const page of this.#open) this.#tell(page, { stale });
  }

  /** Sends everybody away with a time to come back in, and resolves when they are gone, or after 8 s. */
  async drain(): Promise<void> {
    this.#window = String(Math.min(MAX_WINDOW_SECONDS, Math.ceil(this.#open.size / PAGES_A_SECOND)));
    for (const page of this.#open) page.wire?.close(CLOSE.restart, this.#window);
    const deadline = this.#now() + DRAIN_MS;
    while (this.#open.size > 0 && this.#now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20));
  }

  /** The tab shows another page: a new view begins, with a first frame of its own. */
  #move(page: OpenPage, to: string, now: number): void {
    if (to === page.page.page) return;
    this.#journal.endView(page, now);
    this.#rooms.move(page, to, now);
    this.#tell(page);
    this.refresh(page).catch(report);
    this.flushSoon();
  }

  /** Pings, and says the number again: soon the two fall together for each page, and are one write then. */
  #prod(page: OpenPage, wire: Wire, now: number): void {
    const pings = now >= page.pingAt;
    const repeats = page.repeatAt <= (pings ? now + EARLY_MS : now);
    const write = () => {
      if (pings) wire.ping?.();
      if (repeats) this.#tell(page);
    };
    if (wire.cork === undefined) write();
    else wire.cork(write);
    if (pings) {
      page.pingAt = now + this.#heartbeatMs;
      this.stats.pings += 1;
    }
    if (repeats) {
      page.repeatAt = now + REPEAT_MS;
      this.refresh(page).catch(report);
    }
  }

  /** Tells one page all that it may show. */
  #tell(page: OpenPage, news: Numbers = {}): void {
    const { room } = page.site;
    const { total, figure } = page.page;
    this.#send(page, this.#frame({ site: room.total, page: total, peak: peakOf(room), read: figure, ...news }));
  }

  #frame(numbers: Numbers): string {
    return JSON.stringify(this.stale ? { ...numbers, stale: true } : numbers);
  }

  #send(page: OpenPage, text: string): void {
    if (page.wire?.readyState !== OPEN) return;
    this.stats.frames += 1;
    page.wire.send(text);
    // No queue for slow readers: whoever leaves 64 KiB unread is closed, and comes back. Bun does this by itself.
    if ((page.wire.bufferedAmount ?? 0) > MAX_BUFFERED_BYTES) {
      this.stats.slow += 1;
      this.#drop(page);
    }
  }

  #close(page: OpenPage, code: number, reason: string): void {
    page.wire?.close(code, reason);
    this.closed(page);
  }

  /** Ends a socket whose peer would not answer a close frame. */
  #drop(page: OpenPage): void {
    if (page.wire?.terminate !== undefined) page.wire.terminate();
    else page.wire?.close(CLOSE.policy, "too slow");
    this.closed(page);
  }
}

/** The peak of a site, raised by the number it has now; undefined until it is known. */
function peakOf(room: Room): number | undefined {
  if (room.figure !== undefined) room.figure = Math.max(room.figure, room.total ?? 0);
  return room.figure;
}

/** The value, or undefined (which is no JSON value) when the text is not JSON. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // deliberate: the caller says what was wrong, and to whom
  }
}

// ── Metrics ─────────────────────────────────────────────────────────────────────────────────────────────────────────
// For Prometheus. Nearly all are read from the parts at the moment they are asked for.

const MAX_SITE_LABELS = 100; // the largest sites; a label for every site would be a flood of its own

/** The metrics: `text` is what Prometheus reads; the others have no owner but the routes, which feed them. */
function createMetrics(rooms: Rooms, sites: Sites, pages: Pages, journal: Journal, engine: Engine) {
  const registry = new Registry();
  const registers = [registry];
  const reads: (() => void)[] = [];
  const watch = (name: string, help: string, read: () => number) => {
    const metric = new (name.endsWith("_total") ? Counter : Gauge)({ name, help, registers });
    reads.push(() => (metric.reset(), metric.inc(read())));
  };
  const watchSites = (name: string, help: string, read: (site: Site) => number) => {
    const metric = new Gauge({ name, help, labelNames: ["site"], registers });
    reads.push(
      () => (metric.reset(), largest(rooms, sites).forEach((site) => metric.set({ site: site.room.site }, read(site)))),
    );
  };
  const buckets = [0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1, 2];
  const seconds = (name: string, help: string) => new Histogram({ name, help, buckets, registers });

  watchSites("headcount_visitors_online", "Distinct visitors", ({ room }) => room.total ?? 0);
  watchSites("headcount_pages_online", "Open pages on this node, observers included", ({ audience }) => audience);
  watch("headcount_connections", "Open sockets of this node", () => pages.size);
  watch("headcount_stale", "1 while the engine is away", () => Number(pages.stale));
  watch("headcount_frames_sent_total", "Frames sent to pages", () => pages.stats.frames);
  watch("headcount_pings_sent_total", "Pings sent to pages that were due", () => pages.stats.pings);
  watch("headcount_pings_lost_total", "Sockets closed because nothing came back", () => pages.stats.silent);
  watch("headcount_slow_readers_total", "Sockets closed because too much was unread", () => pages.stats.slow);
  watch("headcount_journal_errors_total", "Times the journal could not be written", () => journal.failures);
  watch("headcount_engine_errors_total", "Calls of the engine that failed", () => engine.failures);
  watch("process_resident_memory_bytes", "Resident memory", () => process.memoryUsage.rss());
  watch("process_start_time_seconds", "When this process started", () => performance.timeOrigin / 1_000);
  return {
    broadcast: seconds("headcount_broadcast_delay_seconds", "From a change to its last frame"),
    engine: seconds("headcount_engine_seconds", "Time that the engine took to claim a token"),
    tokens: new Counter({ name: "headcount_tokens_total", help: "Tokens granted", registers }),
    upgrades: new Counter({ name: "headcount_upgrades_total", help: "Sockets opened", registers }),
    refusals: new Counter({ name: "headcount_refusals_total", help: "Refusals", labelNames: ["reason"], registers }),
    text: () => {
      for (const read of reads) read();
      return registry.metrics();
    },
  };
}

/** The sites with the most visitors on this node, the largest first; those of SITES before any that a Host invented. */
function largest(rooms: Rooms, { names }: Sites): Site[] {
  const rank = ({ room }: Site) => (room.total ?? 0) + (names.has(room.site) ? 1e9 : 0);
  return [...rooms.sites()].toSorted((a, b) => rank(b) - rank(a)).slice(0, MAX_SITE_LABELS);
}

// ── App ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
// The routes. Each refusal is a problem document (RFC 9457) that a page on another origin can read.

/** What a runtime knows about a request besides the request itself. */
export interface Client {
  /** The address at the other end of the socket. */
  readonly address: string;
  /** Upgrades the request for this page: a 101, or undefined when the handshake is broken or the client already gone. */
  upgrade(page: OpenPage): Response | undefined;
}

/** Files made by build.ts. The bundled server carries them inside; from source they are read from `dist/`. */
const ASSETS = [
  "widget.js",
  "debug.js",
  "badge.svg",
  "home.html",
  "dashboard.html",
  "check.html",
  "README.md",
] as const;
export type Assets = Record<(typeof ASSETS)[number], string>;

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

type App = { Bindings: Client; Variables: { readonly address: string; readonly key: string } };
type Answer = Response | Promise<Response>;

const TokenRequest = v.pipe(
  v.custom<object>((body) => !Array.isArray(body)), // which valibot would take for an object
  v.object({ page: v.optional(v.string()), visitor: v.optional(v.string()), observe: v.optional(v.boolean()) }),
);
const MAX_BODY_BYTES = 4_096;
const CACHE_SIZE = 1_000; // origins, and browsers' names, that were judged already
const MAX_NAME = 1_000; // characters of them
const COOKIE_SECONDS = 30 * 86_400;
const RANGES = new Map([
  ["hour", 60],
  ["day", DAY_MINUTES],
  ["week", 7 * DAY_MINUTES],
  ["quarter", HISTORY_MINUTES],
]);
const MAX_POINTS = 720; // of a chart
const MAX_LIST_LENGTH = 1_000_000; // characters of 10,000 pages with ordinary names; Deno holds it for each slow reader
const PRIVATE = /^\/(dashboard|metrics)/; // what no other site may read with the operator's password
const CSP =
  "default-src 'none'; script-src 'self' 'nonce-{{nonce}}'; style-src 'nonce-{{nonce}}'; connect-src 'self'; " +
  "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** Builds the routes over the parts; the result's `fetch` wants a `Client` beside each request. */
export function createApp(parts: Parts): Hono<App> {
  const desk = createDesk(parts);
  const { refuse } = desk;
  const app = new Hono<App>();

  app.use(async (c, next) => {
    const address = clientAddress(c.env.address, c.req.header("x-forwarded-for"), parts.settings.TRUST_PROXY);
    c.set("address", address);
    c.set("key", limitKey(address));
    const denied = parts.guard.address(address) ?? (isHost(hostOf(c)) ? undefined : "host");
    if (denied !== undefined) c.res = refuse(c, denied);
    else await next();
    if (c.res.status !== 101 && !PRIVATE.test(c.req.path)) openToAll(c); // Deno's 101 must stay as it is
  });
  app.options("*", (c) => {
    c.header("Access-Control-Allow-Methods", "GET, POST");
    c.header("Access-Control-Max-Age", "86400");
    return c.body(null, 204);
  });
  addVisitorRoutes(app, desk);
  addPublicRoutes(app, desk);
  addOperatorRoutes(app, desk);
  addOwnPages(app, desk);
  app.get("/healthz", (c) => c.text("ok"));
  app.get("/readyz", (c) =>
    parts.pages.draining ? refuse(c, "draining") : c.text(parts.pages.stale ? "ok, stale" : "ok"),
  );
  app.notFound((c) => refuse(c, "unknown"));
  app.onError((error, c) => {
    const hasLeft = c.req.raw.signal.aborted || /^(Http|BadResource)$/.test(error.name); // as Bun says, and Deno
    if (!hasLeft) report(error); // whoever goes away in mid-request is no error of ours
    return refuse(c, "error");
  });
  return app;
}

const hostOf = (c: Context<App>) => c.req.header("host") ?? "";
const originOf = (c: Context<App>) => c.req.header("origin")?.slice(0, MAX_NAME) ?? "";

/** A refusal as an answer. */
function problem(c: Context, reason: Reason, detail?: string): Response {
  const [status, title, meaning, retryAfter] = REFUSALS[reason];
  if (retryAfter !== undefined) c.header("Retry-After", String(retryAfter));
  if (reason === "full") c.header("Connection", "close"); // its file is wanted
  if (status === 426) c.header("Upgrade", "websocket");
  if (status === 401) c.header("WWW-Authenticate", 'Basic realm="Headcount", charset="UTF-8"');
  const body = { type: `urn:headcount:problem:${reason}`, title, status, detail: detail ?? meaning };
  return c.json(body, status, { "Content-Type": "application/problem+json" });
}

type Desk = ReturnType<typeof createDesk>;

/** The parts, and what all routes need to read a request and to refuse it. */
function createDesk(parts: Parts) {
  const { settings, sites, pages } = parts;
  const metrics = createMetrics(parts.rooms, sites, pages, parts.journal, parts.engine);
  pages.onBroadcast = (delayMs) => metrics.broadcast.observe(delayMs / 1_000);

  const refuse = (c: Context, reason: Reason, detail?: string): Response => {
    metrics.refusals.inc({ reason });
    return problem(c, reason, detail);
  };

  const refuseOrigin = (c: Context<App>) =>
    refuse(c, "origin", `${originOf(c) || "A request without Origin"} is not one of the SITES of this service`);

  const isSecure = (c: Context<App>) =>
    settings.TRUST_PROXY > 0 && c.req.header("x-forwarded-proto")?.split(",").at(-1)?.trim() === "https";

  /** The origin of a request and the site that it belongs to; no site unless it may be counted here. */
  const embedder = (c: Context<App>) => embedders.memo(`${originOf(c)}\n${hostOf(c)}`);
  const embedders = new LRUCache<string, { origin: string; site: string | undefined }>({
    max: CACHE_SIZE,
    memoMethod: (key) => {
      const [header, host = ""] = key.split("\n"); // which no header can hold
      const origin = webUrl(header);
      return { origin: origin?.origin ?? "", site: sites.byOrigin(origin, host) };
    },
  });

  /** A question about a site (the named one, else the asking page's, else the service's own) or about a page of it. */
  const about = (answer: (c: Context<App>, site: string, page?: string) => Answer) => async (c: Context<App>) => {
    const { site: name, page: asked } = c.req.query();
    if (name === undefined) c.header("Vary", "Referer");
    const asking = webUrl(c.req.header("origin") ?? c.req.header("referer"));
    const site = name === undefined ? (sites.byOrigin(asking, hostOf(c)) ?? hostOf(c)) : sites.byName(name, hostOf(c));
    if (site === undefined) return refuse(c, "site");
    const page = asked === undefined ? undefined : pageName(asked);
    if (page === undefined && asked !== undefined) return refuse(c, "page");
    try {
      return await answer(c, site, page);
    } catch (error) {
      if (!parts.pages.stale) report(error); // that the engine is away has been said
      return refuse(c, "journal");
    }
  };

  return { ...parts, metrics, refuse, refuseOrigin, isSecure, embedder, about };
}

/** `POST /token` and `GET /ws`: how a page comes in. */
function addVisitorRoutes(app: Hono<App>, desk: Desk): void {
  const { settings, signer, guard, pages, engine, metrics, refuse, refuseOrigin, embedder } = desk;
  const identify = createIdentify(desk);
  const bots = new LRUCache<string, boolean>({ max: CACHE_SIZE, memoMethod: (userAgent) => isbot(userAgent) });
  const readAtMost = bodyLimit({ maxSize: MAX_BODY_BYTES, onError: (c) => refuse(c, "size") });
  /** A body that says its length needs no counting; only a chunked one is read with care. */
  const limitBody: MiddlewareHandler<App> = (c, next) =>
    Number(c.req.header("content-length") ?? Infinity) <= MAX_BODY_BYTES ? next() : readAtMost(c, next);

  app.post("/token", limitBody, async (c) => {
    const key = c.get("key");
    const { origin, site } = embedder(c);
    if (site === undefined) return refuseOrigin(c); // and uses up nothing: any page can make its readers ask
    const limited = guard.tokenRequest(key);
    if (limited !== undefined) return refuse(c, limited);
    if (settings.COUNT_BOTS === "false" && bots.memo(c.req.header("user-agent")?.slice(0, MAX_NAME) ?? ""))
      return refuse(c, "bot");
    const text = await c.req.text().catch(() => "cut off"); // no JSON, and therefore refused
    const body = v.safeParse(TokenRequest, text === "" ? {} : parseJson(text));
    if (!body.success) return refuse(c, "body");
    const { page = "/", visitor: kept, observe = false } = body.output;
    const name = pageName(page);
    if (name === undefined) return refuse(c, "page");
    const { visitor, isNew } = observe ? { visitor: "", isNew: false } : await identify(c, site, kept);
    const refused = (isNew ? guard.newVisitor(key) : undefined) ?? pages.refusal(site, visitor, key);
    if (refused !== undefined) return refuse(c, refused);
    const expires = Date.now() + settings.TOKEN_TTL_SECONDS * 1_000;
    const token = signer.signToken(origin, { visitor, page: name, expires, nonce: newNonce() });
    metrics.tokens.inc();
    c.header("Cache-Control", "no-store");
    if (observe || settings.IDENTITY === "hash") return c.json({ token });
    const signed = signer.signVisitor(site, visitor);
    keepCookie(c, site, signed, desk.isSecure(c));
    return c.json({ token, visitor: signed });
  });

  app.get("/ws", async (c) => {
    if (c.req.header("upgrade")?.toLowerCase() !== "websocket") return refuse(c, "upgrade");
    const { origin, site } = embedder(c);
    if (site === undefined) return refuseOrigin(c);
    const claims = signer.readToken(origin, c.req.query("token") ?? "", Date.now());
    const stopTimer = metrics.engine.startTimer();
    const isGood = claims !== undefined && (await engine.spend(claims, Date.now()));
    stopTimer();
    if (!isGood) return refuse(c, "token");
    const refused = pages.refusal(site, claims.visitor, c.get("key"));
    if (refused !== undefined) return refuse(c, refused);
    const page = pages.admit(site, claims, c.get("key"));
    await pages.refresh(page); // so that the peak and the reading time are in the first frame
    const response = c.env.upgrade(page);
    if (response === undefined) pages.closed(page);
    else metrics.upgrades.inc();
    return response ?? refuse(c, "handshake");
  });
}

/** Finds out who is asking: the visitor of the cookie, of the page's storage, of the hash, or a new one. */
function createIdentify({ settings, signer, engine, isSecure }: Desk) {
  let salt = { day: "", value: "" };
  return async (c: Context<App>, site: string, kept: string | undefined) => {
    if (settings.IDENTITY === "hash") {
      const day = new Date().toISOString().slice(0, 10);
      if (salt.day !== day) salt = { day, value: await engine.secret("salt", day) };
      const visitor = hashVisitor(salt.value, site, c.get("address"), c.req.header("user-agent") ?? "");
      return { visitor, isNew: false };
    }
    const cookie = getCookie(c, cookieName(site, isSecure(c)));
    const known = signer.readVisitor(site, cookie) ?? signer.readVisitor(site, kept);
    return { visitor: known ?? newVisitor(), isNew: known === undefined };
  };
}

/** Third-party cookies must be `Secure` and are partitioned by the embedding site; plain http allows neither. */
function keepCookie(c: Context<App>, site: string, signed: string, secure: boolean): void {
  const common = { path: "/", httpOnly: true, maxAge: COOKIE_SECONDS } as const;
  const crossSite = { ...common, secure, sameSite: "None", partitioned: true } as const;
  setCookie(c, cookieName(site, secure), signed, secure ? crossSite : { ...common, sameSite: "Lax" });
}

/** The numbers for everybody, and the scripts that show them. */
function addPublicRoutes(app: Hono<App>, { rooms, pages, journal, engine, assets, about }: Desk): void {
  const count = async (site: string, page?: string) =>
    rooms.count(site, page) ?? (await engine.count?.(site, page)) ?? 0;

  const answerCount = about(async (c, site, page) => {
    c.header("Cache-Control", "public, max-age=5");
    const [own, its, peak] = await Promise.all([count(site), page && count(site, page), journal.peak(site)]);
    return c.json({ site: own, page: its, peak, stale: pages.stale || undefined });
  });
  app.get("/count", etag(), answerCount);

  const answerBadge = about(async (c, site) => {
    c.header("Cache-Control", "public, max-age=5");
    c.header("Content-Type", "image/svg+xml; charset=utf-8");
    return c.body(assets["badge.svg"].replaceAll("{{count}}", String(await count(site))));
  });
  app.get("/badge.svg", etag(), answerBadge);

  const answerReading = about(async (c, site, page) => {
    if (page !== undefined) return c.json(readingOf(await engine.readings(site, page)));
    return c.body(await allReadings.memo(site), 200, { "Content-Type": "application/json" });
  });
  const readAll = async (site: string): Promise<string> => {
    const byPage = Map.groupBy(await engine.readings(site), (sum) => sum.page).entries();
    const readings = Array.from(byPage, ([name, its]) => Object.assign({ page: name }, readingOf(its)));
    let room = MAX_LIST_LENGTH;
    const mostRead = readings.toSorted((a, b) => b.seconds - a.seconds);
    return JSON.stringify({ pages: mostRead.filter(({ page }) => (room -= page.length + 70) > 0) });
  };
  /** Of 10,000 pages they take a tenth of a second, and anybody may ask: for 2 s everybody is told the same. */
  const allReadings = new LRUCache<string, Promise<string>>({
    max: MAX_OWN_SITES,
    ttl: 2_000,
    ttlAutopurge: true,
    memoMethod: readAll,
  });
  app.get("/reading", answerReading);

  for (const name of ["widget.js", "debug.js"] as const) {
    const { tag, encodings } = precompressed(assets[name]);
    app.get(`/${name}`, (c) => {
      const encoding = preferred(c.req.header("accept-encoding"));
      const headers = { ETag: tag, "Cache-Control": "public, max-age=3600", Vary: "Accept-Encoding" };
      if (c.req.header("if-none-match")?.includes(tag)) return c.body(null, 304, headers);
      if (encoding !== "identity") c.header("Content-Encoding", encoding);
      return c.body(encodings[encoding], 200, { ...headers, "Content-Type": "text/javascript; charset=utf-8" });
    });
  }
}

/** The password in front of the operator's routes, and what the dashboard and Prometheus are fed with. */
function addOperatorRoutes(app: Hono<App>, desk: Desk): void {
  const { settings, sites, guard, rooms, pages, journal, engine, metrics, refuse, about, password } = desk;
  const authorization = `Basic ${Buffer.from(`admin:${password}`).toString("base64")}`;
  const operator: MiddlewareHandler<App> = async (c, next) => {
    const given = c.req.header("authorization");
    const refused = guard.password(c.get("key"), given, authorization);
    if (refused === undefined) return next();
    return (given === undefined ? problem : refuse)(c, refused); // browsers ask first
  };
  app.use("/dashboard/*", operator);
  app.use("/metrics", operator);

  app.get("/metrics", async (c) =>
    c.text(await metrics.text(), 200, { "Content-Type": Registry.PROMETHEUS_CONTENT_TYPE }),
  );

  app.get("/dashboard/state", async (c) => {
    const { values } = await metrics.refusals.get();
    const node = {
      runtime: typeof Bun === "undefined" ? `Deno ${Deno.version.deno}` : `Bun ${Bun.version}`,
      startedAt: Math.round(performance.timeOrigin),
      memory: process.memoryUsage.rss(),
      connections: pages.size,
      maxConnections: settings.MAX_CONNECTIONS,
      engine: settings.REDIS_URL === undefined ? "embedded" : "redis",
      engineErrors: engine.failures,
      journalErrors: journal.failures,
      stale: pages.stale,
    };
    const refusals = Object.fromEntries(values.map(({ labels, value }) => [labels["reason"], value]));
    return c.json({ node, refusals, sites: await Promise.all(shownSites().map(siteState)) });
  });

  /** The largest sites, and those of SITES where nobody is now: they have a past to look at. */
  const shownSites = () => {
    const names = largest(rooms, sites).map(({ room }) => room.site);
    return [...new Set(names.concat(...sites.names))].slice(0, MAX_SITE_LABELS);
  };
  const siteState = async (name: string) => {
    const site = rooms.site(name);
    const itsPages = Array.from(site?.pages.values() ?? [], ({ page, total }) => ({ page, visitors: total ?? 0 }));
    return {
      site: name,
      visitors: site?.room.total ?? (await engine.count?.(name).catch(() => 0)) ?? 0, // not known: the state says stale
      openPages: site?.audience ?? 0,
      peak: await journal.peak(name),
      highest: await engine.highest(name).catch(() => undefined),
      pages: itsPages.toSorted((a, b) => b.visitors - a.visitors).slice(0, MAX_SITE_LABELS),
    };
  };

  const answerHistory = about(async (c, site) => {
    const minutes = RANGES.get(c.req.query("range") ?? "hour");
    if (minutes === undefined) return refuse(c, "unknown");
    const step = Math.ceil(minutes / MAX_POINTS);
    const to = Math.floor(Date.now() / MINUTE);
    const from = (Math.floor((to - minutes) / step) + 1) * step;
    return c.json({ from, to, step, points: await engine.history(site, from, step) });
  });
  app.get("/dashboard/history", answerHistory);
}

/** The pages of the service itself. Nothing runs in them, and nothing is loaded into them, but what came with them. */
function addOwnPages(app: Hono<App>, { settings, sites, assets, isSecure }: Desk): void {
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
  app.get("/docs", (c) => c.body(assets["README.md"], 200, { "Content-Type": "text/plain; charset=utf-8" }));
  app.get("/dashboard", page("dashboard.html"));

  /** What the service sees of a request: the other half of what /check finds out in the browser. */
  app.get("/check/request", (c) => {
    const asked = c.req.query("site") ?? "";
    const host = hostOf(c);
    return c.json({
      address: c.get("address"),
      socketAddress: c.env.address,
      forwardedFor: c.req.header("x-forwarded-for"),
      forwardedProto: c.req.header("x-forwarded-proto"),
      trustProxy: settings.TRUST_PROXY,
      heartbeatSeconds: settings.HEARTBEAT_SECONDS,
      identity: settings.IDENTITY,
      host,
      site: sites.byName(asked, host) ?? sites.byOrigin(webUrl(asked), host),
    });
  });
}

/** Any page may read any answer: what is public is public, and a refusal is of use only if its page can read it. */
function openToAll(c: Context): void {
  const { headers } = c.res;
  headers.set("Access-Control-Allow-Origin", c.req.header("origin") ?? "*");
  headers.set("Access-Control-Allow-Credentials", "true");
  headers.set("Access-Control-Expose-Headers", "Retry-After");
  headers.set("Cross-Origin-Resource-Policy", "cross-origin"); // for pages with COEP
  headers.append("Vary", "Origin");
}

/** One cookie a site, since visitors are not to be followed from one to another. `__Host-` needs https. */
const cookieName = (site: string, secure: boolean) =>
  `${secure ? "__Host-" : ""}headcount-${site.replace(/[^\w-]/g, "_")}`;

const escapeHtml = (text: string) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

/** The best of our encodings that the client accepts (RFC 9110, 12.5.3). */
function preferred(acceptEncoding = ""): "br" | "gzip" | "identity" {
  const accepts = (name: string) =>
    new RegExp(`(^|[\\s,])${name}(?!\\s*;\\s*q=0(\\.0*)?\\s*(,|$))\\b`).test(acceptEncoding);
  return accepts("br") ? "br" : accepts("gzip") ? "gzip" : "identity";
}

function precompressed(text: string) {
  const identity = Buffer.from(text);
  const encodings = { identity, br: brotliCompressSync(identity), gzip: gzipSync(identity, { level: 9 }) };
  return { tag: `"${digest(text)}"`, encodings };
}

// ── Sockets ─────────────────────────────────────────────────────────────────────────────────────────────────────────
// What differs between Bun and Deno, and nothing else.

/** Opens the port and returns its number. */
type Serve = (app: Hono<App>, pages: Pages, settings: Settings) => number;

const serveOnBun: Serve = (app, pages, settings) => {
  const server = Bun.serve<OpenPage>({
    port: settings.PORT,
    hostname: settings.HOST,
    idleTimeout: 10, // of requests; sockets have their own
    fetch: (request, bun) =>
      app.fetch(request, {
        address: bun.requestIP(request)?.address ?? "",
        upgrade: (page) => (bun.upgrade(request, { data: page }) ? SWITCHED : undefined),
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
  return server.port ?? settings.PORT;
};

/** What the app returns once Bun has answered the upgrade by itself. */
const SWITCHED = new Response(null, { status: 101 });

const KEY = /^[\w+/]{22}==$/; // 16 bytes (RFC 6455, 4.1)

const serveOnDeno: Serve = (app, pages, settings) => {
  const idleTimeout = 2 * settings.HEARTBEAT_SECONDS; // pings at half of it, and is not deferred by sends
  const upgrade = (request: Request, page: OpenPage): Response | undefined => {
    try {
      const { headers } = request; // Deno looks at neither of these two
      if (headers.get("sec-websocket-version") !== "13" || !KEY.test(headers.get("sec-websocket-key") ?? ""))
        return undefined;
      const { socket: wire, response } = Deno.upgradeWebSocket(request, { idleTimeout });
      wire.binaryType = "arraybuffer";
      wire.onopen = contain(() => pages.opened(page, wire));
      wire.onmessage = contain((event) => pages.received(page, event.data));
      wire.onclose = contain(() => pages.closed(page));
      wire.onerror = contain(() => pages.closed(page));
      return response;
    } catch {
      return undefined; // deliberate: Deno throws for a broken handshake, which is the client's fault and told to it
    }
  };
  const serve = (port: number): number => {
    const options = { port, hostname: settings.HOST, onListen: () => {} };
    const server = Deno.serve(options, (request, info) =>
      app.fetch(request, { address: info.remoteAddr.hostname, upgrade: (page) => upgrade(request, page) }),
    );
    server.finished.catch((error: unknown) => retry(error, server.addr.port));
    return server.addr.port;
  };
  /** Without a file left for a newcomer Deno stops listening, and would end. Open sockets live on meanwhile. */
  const retry = (error: unknown, port: number) => {
    report(error);
    setTimeout(() => {
      try {
        serve(port);
      } catch (again) {
        retry(again, port);
      }
    }, 100);
  };
  return serve(settings.PORT);
};

/** @throws {Error} that names the address, since the runtimes do not */
const listen: Serve = (app, pages, settings) => {
  try {
    return (typeof Bun === "undefined" ? serveOnDeno : serveOnBun)(app, pages, settings);
  } catch (error) {
    throw new Error(`Cannot listen on ${settings.HOST}:${settings.PORT}: ${messageOf(error)}`, { cause: error });
  }
};

// ── Main ────────────────────────────────────────────────────────────────────────────────────────────────────────────

const HOLD_MS = 15_000; // how long a restarted node counts those who were online before

async function main(): Promise<void> {
  const settings = readSettings(process.env);
  const engine = await openEngine(settings);
  const signer = new Signer(settings.SECRET ?? (await engine.secret("signing", "")));
  const guard = new Guard(settings);
  const listener = { total: changeTotal, stale: (stale: boolean) => pages.setStale(stale) };
  const rooms = new Rooms(settings.GRACE_SECONDS * 1_000, engine.share?.(listener));
  const sites = new Sites(settings.SITES);
  const journal = new Journal(engine, rooms, sites);
  const pages = new Pages(rooms, guard, journal, settings.HEARTBEAT_SECONDS * 1_000);
  const password = settings.ADMIN_PASSWORD ?? randomBytes(12).toString("base64url");
  const parts = { settings, sites, signer, guard, rooms, pages, journal, engine, password, assets: readAssets() };

  function changeTotal(room: Room, total: number) {
    rooms.setTotal(room, total, performance.now());
    pages.flushSoon();
  }

  const port = listen(createApp(parts), pages, settings); // first: who cannot listen must not take what is held
  const now = performance.now();
  const held = await engine.held().catch((error: unknown) => (report(error), [])); // a dip is better than nothing at all
  for (const member of held) rooms.hold(member, now + HOLD_MS, now);
  const stopClocks = pages.start();
  announce(parts, port);
  await new Promise((resolve) => ["SIGINT", "SIGTERM"].forEach((signal) => process.on(signal, resolve)));

  log("info", "stopping", { pages: pages.size });
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

declare const BUNDLED: Assets | undefined;

function readAssets(): Assets {
  if (typeof BUNDLED !== "undefined") return BUNDLED;
  const folder = new URL("dist/", import.meta.url);
  return Object.fromEntries(ASSETS.map((name) => [name, readFileSync(new URL(name, folder), "utf8")])) as Assets;
}

/** Says where the service is and what to paste; on a terminal so that it can be copied from there. */
function announce({ settings, password }: Parts, port: number): void {
  const { HOST, SITES, ADMIN_PASSWORD } = settings;
  const host = HOST === "0.0.0.0" || HOST === "::" ? "localhost" : HOST.includes(":") ? `[${HOST}]` : HOST;
  const url = `http://${host}:${port}/`;
  const snippet = `<span data-headcount>–</span> people here now\n<script async src="${url}widget.js"></script>`;
  const secret = ADMIN_PASSWORD === undefined ? { user: "admin", password } : {};
  if (SITES === undefined)
    log("info", "SITES is not set: only pages on this machine are counted (SITES=example.com opens it)");
  if (!process.stdout.isTTY) return log("info", "ready", { url, snippet, ...secret });
  process.stdout.write(`\nHeadcount is ready: ${url}\n\nPaste this into your pages:\n\n${snippet}\n\n`);
  process.stdout.write(
    `Dashboard: ${url}dashboard${secret.password ? ` (user admin, password ${password}, made for this run)` : ""}\n`,
  );
}

if (import.meta.main) {
  main().catch((error: unknown) => {
    process.stderr.write(`${messageOf(error)}\n`);
    process.exit(1);
  });
}
