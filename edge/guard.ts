/**
 * The guard: who is refused, and how that is said. Every table has a fixed maximum size: a flood costs its sender, not
 * this service's memory.
 */

import { createHash, timingSafeEqual } from "node:crypto";
import { closeSync, openSync, readFileSync } from "node:fs";
import { devNull } from "node:os";
import type { Context, MiddlewareHandler } from "hono";
import ipaddr from "ipaddr.js";
import { messageOf, MINUTE_MS } from "../engine/engine.ts";
import { Memo, putLast } from "../shared/memo.ts";
import { log } from "./log.ts";
import { type AddressBlock, coarseAddress, limitBlocks, type LimitBlock } from "./names.ts";

// ── Refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Every reason to refuse: status, title, detail for whoever runs the page, and the seconds to wait where waiting helps. */
export const REFUSALS = {
  address: [403, "Address denied", "This address is on the deny list (DENY), or sent far too many requests", 600],
  bot: [403, "Crawlers are not counted", "The User-Agent is that of a crawler or a headless browser (COUNT_BOTS)"],
  origin: [403, "Origin not allowed", "The request has no Origin that SITES allows"],
  token: [403, "Token not valid", "The token is missing, forged, expired, used, or of another origin"],
  body: [400, "Body not valid", 'The body must be JSON such as {"page":"/path","visitor":"…","observe":true}'],
  page: [400, "Page name not valid", "A page name has 1 to 1,024 characters, none of them a control character"],
  pages: [400, "Too many pages", "One request may ask for at most 100 pages"],
  range: [400, "Range not valid", "range must be hour, day, week or quarter; by day it must be month, year or all"],
  badge: [
    400,
    "Badge not valid",
    "number must be site, page, peak, read, views, total, visitors or today; color a CSS name or 3 or 6 hexadecimal " +
      "digits; label at most 40 characters",
  ],
  host: [400, "Host not valid", "The Host header must be a name or an address, with or without a port"],
  handshake: [400, "Handshake not valid", "The WebSocket handshake is broken"],
  password: [401, "Password needed", "This page is for the operator: user admin, password ADMIN_PASSWORD"],
  unknown: [404, "Not found", "There is nothing at this address"],
  site: [404, "Site not found", "This site is not one of the SITES of this service"],
  url: [414, "Address too long", "The address that is asked for may have at most 16,384 characters"],
  size: [413, "Body too large", "The body may have at most 4,096 bytes"],
  upgrade: [426, "Upgrade required", "This route is for WebSockets, or a proxy dropped the Upgrade header"],
  guesses: [429, "Too many wrong passwords", "This address sent ten wrong passwords in a minute", 60],
  tokens: [429, "Too many token requests", "This address asked for too many tokens (MAX_TOKENS_PER_IP)", 60],
  visitors: [429, "Too many new visitors", "This address brought too many new visitors (MAX_VISITORS_PER_IP)", 60],
  visitor_pages: [429, "Too many open pages", "This visitor has too many open pages (MAX_PAGES_PER_VISITOR)", 30],
  address_pages: [429, "Too many open pages", "This address has too many open pages (MAX_PAGES_PER_IP)", 30],
  numbers: [503, "Not available", "The numbers cannot be read at the moment", 30],
  error: [500, "Internal error", "Something went wrong; the service has logged it"],
  full: [503, "Full", "This service has as many open pages or files as it may have (MAX_CONNECTIONS)", 30],
  draining: [503, "Restarting", "This service is about to restart", 5],
} as const satisfies Record<string, readonly [status: number, title: string, detail: string, retryAfter?: number]>;

/** Why a request is refused. */
export type Reason = keyof typeof REFUSALS;

/** A refusal as a problem document. */
export function problem(c: Context, reason: Reason, detail?: string): Response {
  const [status, title, usualDetail, retryAfter] = REFUSALS[reason];
  if (retryAfter !== undefined) c.header("Retry-After", String(retryAfter));
  if (reason === "full") c.header("Connection", "close"); // frees the file of this connection
  if (status === 426) c.header("Upgrade", "websocket");
  // Not for a script: while a browser asks for the password, the `fetch` of the page waits.
  const isForScript = c.req.header("sec-fetch-dest") === "empty";
  if (status === 401 && !isForScript) c.header("WWW-Authenticate", 'Basic realm="Headcount", charset="UTF-8"');
  const body = { type: `urn:headcount:problem:${reason}`, title, status, detail: detail ?? usualDetail };
  return c.json(body, status, { "Content-Type": "application/problem+json" });
}

// ── Open files ──────────────────────────────────────────────────────────────────────────────────────────────────────

const MAX_PROBED_FILES = 10_000; // opening them takes a tenth of a second

/** How many files this process may open; Infinity where that is unknown. */
export function openFilesLimit(): number {
  try {
    const limits = readFileSync("/proc/self/limits", "utf8");
    return Number(/Max open files\s+(\d+)/.exec(limits)?.[1] ?? Infinity);
  } catch {
    return probeOpenFiles(); // macOS, or Deno without --allow-all
  }
}

/** Opens files until none is left. A process that can open 10,000 is taken to have no limit. */
function probeOpenFiles(): number {
  const files: number[] = [];
  try {
    while (files.length < MAX_PROBED_FILES) files.push(openSync(devNull, "r"));
    return Infinity;
  } catch (error) {
    return saysOutOfFiles(error) ? (files.at(-1) ?? 0) + 1 : Infinity;
  } finally {
    files.forEach((file) => closeSync(file));
  }
}

const saysOutOfFiles = (error: unknown) => /EMFILE|ENFILE/.test(messageOf(error));

/**
 * Returns a function that tells whether no file is left for a connection. The system hands out the lowest free number, so a
 * high number means that all below it are taken. Opening a file costs 5 to 10 µs, so one answer serves several calls.
 * @param openFiles how many files this process may open
 */
export function createFileCheck(openFiles: number): () => boolean {
  // The last 5 % (but at least 50 files or a quarter) are for answers to visitors who cannot come in.
  const forConnections = Math.min(openFiles * 0.95, Math.max(openFiles - 50, openFiles * 0.75));
  const callsPerAnswer = openFiles === Infinity ? 1 : (openFiles - forConnections) / 50; // they use 2 % of that reserve
  let callsLeft = 0;
  return () => {
    callsLeft -= 1;
    if (callsLeft > 0) return false;
    const isOut = isLowestFreeFileAtLeast(forConnections);
    callsLeft = isOut ? 0 : callsPerAnswer;
    return isOut;
  };
}

function isLowestFreeFileAtLeast(number: number): boolean {
  try {
    const file = openSync(devNull, "r");
    closeSync(file);
    return file >= number;
  } catch (error) {
    return saysOutOfFiles(error);
  }
}

// ── Limits ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const BAN_MS = 10 * MINUTE_MS;
const BAN_FACTOR = 10; // times the token limit
const MAX_WRONG_PASSWORDS = 10; // per minute and address
const MAX_IDLE_BLOCKS = 50_000; // about 10 MB
const MAX_BANS = 50_000;

/** What the addresses of a block have open, and what they have asked for in the current minute. */
interface Block {
  connections: number;
  tokenRequests: number;
  newVisitors: number;
  wrongPasswords: number;
  /** By the clock of the guard. The next minute begins with the next request. */
  minuteEndsAt: number;
}

/** A connection that wants to open. To users the limits say "pages", since a connection is one open page. */
interface NewConnection {
  readonly isObserver: boolean;
  /** How many connections the visitor has on the site. */
  readonly ofVisitor: number;
  /** How many connections everybody has. */
  readonly ofAll: number;
}

/** The settings that the guard enforces. */
export interface Limits {
  readonly DENY: readonly AddressBlock[];
  readonly MAX_PAGES_PER_VISITOR: number;
  readonly MAX_PAGES_PER_IP: number;
  readonly MAX_TOKENS_PER_IP: number;
  readonly MAX_VISITORS_PER_IP: number;
  readonly MAX_CONNECTIONS: number;
}

/** When a service is as full as this, it admits no more observers: visitors are counted, and come first. */
const FULL_FOR_OBSERVERS = 0.9;

/**
 * Decides who is refused. Keys are `limitKey`s of addresses. Every limit per address also holds, a few times larger, for
 * the IPv6 blocks around it.
 */
export class Guard {
  readonly #limits: Limits;
  readonly #isOutOfFiles: () => boolean;
  readonly #now: () => number;
  /** Blocks with open connections. There are at most MAX_CONNECTIONS for each address length. */
  readonly #connected = new Map<string, Block>();
  /** Blocks without open connections, in the order in which they asked last. The newest ones are kept. */
  readonly #idle = new Map<string, Block>();
  /** Block → when the ban ends. A table of its own, so that a flood of requests cannot push a ban out. */
  readonly #bans = new Map<string, number>();
  /** One visitor's requests ask for the same blocks several times. Those of IPv6 take 4 µs to find. */
  readonly #blocksOf = new Memo(limitBlocks, 1_000);

  /** @param now milliseconds that never decrease */
  constructor(limits: Limits, isOutOfFiles: () => boolean = () => false, now: () => number = () => performance.now()) {
    this.#limits = limits;
    this.#isOutOfFiles = isOutOfFiles;
    this.#now = now;
  }

  /** Checks the deny list. */
  checkAddress(address: string): Reason | undefined {
    if (this.#limits.DENY.length === 0) return undefined;
    const parsed = ipaddr.process(address);
    const matches = ([block, bits]: AddressBlock) => block.kind() === parsed.kind() && parsed.match(block, bits);
    return this.#limits.DENY.some(matches) ? "address" : undefined;
  }

  /** Checks the temporary bans. They hold where visitors come in, so that a shared address can still look. */
  checkBan(key: string): Reason | undefined {
    if (this.#bans.size === 0) return undefined;
    return this.#blocksOf.get(key).some(({ name }) => this.#isBanned(name)) ? "address" : undefined;
  }

  /** Counts a token request. A block that asks for ten times its limit is banned for ten minutes. */
  checkTokenRequest(key: string): Reason | undefined {
    const { MAX_TOKENS_PER_IP } = this.#limits;
    let isOverLimit = false;
    for (const { name, factor } of this.#blocksOf.get(key)) {
      const requests = (this.#block(name).tokenRequests += 1);
      if (requests > MAX_TOKENS_PER_IP * factor) isOverLimit = true;
      if (requests > MAX_TOKENS_PER_IP * factor * BAN_FACTOR) this.#ban(name, requests);
    }
    return isOverLimit ? "tokens" : undefined;
  }

  /** Counts a new visitor. */
  checkNewVisitor(key: string): Reason | undefined {
    const { MAX_VISITORS_PER_IP } = this.#limits;
    let isOverLimit = false;
    for (const { name, factor } of this.#blocksOf.get(key)) {
      const visitors = (this.#block(name).newVisitors += 1);
      if (visitors > MAX_VISITORS_PER_IP * factor) isOverLimit = true;
    }
    return isOverLimit ? "visitors" : undefined;
  }

  /** Checks a password. After ten wrong ones in a minute the address is refused unheard. */
  checkPassword(key: string, given: string | undefined, expected: string): Reason | undefined {
    const block = this.#block(key);
    if (block.wrongPasswords >= MAX_WRONG_PASSWORDS) return "guesses";
    if (given === undefined) return "password";
    if (timingSafeEqual(sha256(given), sha256(expected))) return undefined;
    block.wrongPasswords += 1;
    return "password";
  }

  /** Whether one more connection may open. */
  checkNewConnection(key: string, connection: NewConnection): Reason | undefined {
    const { MAX_CONNECTIONS, MAX_PAGES_PER_VISITOR, MAX_PAGES_PER_IP } = this.#limits;
    const places = connection.isObserver ? MAX_CONNECTIONS * FULL_FOR_OBSERVERS : MAX_CONNECTIONS;
    if (connection.ofAll >= places || this.#isOutOfFiles()) return "full";
    if (connection.ofVisitor >= MAX_PAGES_PER_VISITOR) return "visitor_pages";
    const isFull = ({ name, factor }: LimitBlock) =>
      (this.#connected.get(name)?.connections ?? 0) >= MAX_PAGES_PER_IP * factor;
    return this.#blocksOf.get(key).some(isFull) ? "address_pages" : undefined;
  }

  connectionOpened(key: string): void {
    for (const { name } of this.#blocksOf.get(key)) {
      const block = this.#block(name);
      block.connections += 1;
      if (block.connections > 1) continue;
      this.#idle.delete(name);
      this.#connected.set(name, block);
    }
  }

  connectionClosed(key: string): void {
    for (const { name } of this.#blocksOf.get(key)) {
      const block = this.#block(name);
      block.connections -= 1;
      if (block.connections > 0) continue;
      this.#connected.delete(name);
      putLast(this.#idle, name, block, MAX_IDLE_BLOCKS);
    }
  }

  /** How many blocks of addresses are remembered, apart from bans. */
  get size(): number {
    return this.#connected.size + this.#idle.size;
  }

  /** Forgets the addresses that have neither asked for anything in the last minute, nor have anything open, nor are banned. */
  forgetIdle(): void {
    const now = this.#now();
    for (const [name, { minuteEndsAt }] of this.#idle) {
      if (now < minuteEndsAt) break; // the following ones have asked later
      this.#idle.delete(name);
    }
    for (const name of this.#bans.keys()) if (!this.#isBanned(name)) this.#bans.delete(name);
  }

  /** What is known of a block in the current minute. */
  #block(name: string): Block {
    const now = this.#now();
    const connected = this.#connected.get(name);
    const block = connected ?? this.#idle.get(name) ?? newBlock();
    if (connected === undefined) putLast(this.#idle, name, block, MAX_IDLE_BLOCKS);
    if (now < block.minuteEndsAt) return block;
    block.tokenRequests = 0;
    block.newVisitors = 0;
    block.wrongPasswords = 0;
    block.minuteEndsAt = now + MINUTE_MS;
    return block;
  }

  #ban(name: string, requests: number): void {
    if (this.#isBanned(name)) return;
    putLast(this.#bans, name, this.#now() + BAN_MS, MAX_BANS);
    log("warn", "address denied for ten minutes", { address: coarseAddress(name), requests });
  }

  #isBanned(name: string): boolean {
    return this.#now() < (this.#bans.get(name) ?? 0);
  }
}

const newBlock = (): Block => ({
  connections: 0,
  tokenRequests: 0,
  newVisitors: 0,
  wrongPasswords: 0,
  minuteEndsAt: 0,
});

const sha256 = (text: string) => createHash("sha256").update(text).digest();

// ── The operator ────────────────────────────────────────────────────────────────────────────────────────────────────

/** Lets only the operator pass. */
export function operatorOnly(
  guard: Guard,
  password: string,
  refuse: (c: Context, reason: Reason) => Response,
): MiddlewareHandler {
  const authorization = `Basic ${Buffer.from(`admin:${password}`).toString("base64")}`;
  return async (c, next) => {
    const given = c.req.header("authorization");
    const reason = guard.checkPassword(c.get("addressKey"), given, authorization);
    if (reason === undefined) return next();
    return given === undefined ? problem(c, reason) : refuse(c, reason); // every browser asks without one first
  };
}
