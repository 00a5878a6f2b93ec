/**
 * The connection to Redis, and the knowledge whether Redis answers.
 *
 * A command fails within the timeout. After such a timeout Redis is away: further commands fail at once, until a probe is
 * answered. The client never repeats or queues commands by itself; whoever sent a command decides what to do.
 */

import { Cluster, Redis, type RedisOptions, ReplyError } from "ioredis";
import { type Log, messageOf } from "./engine.ts";
import type { Script } from "./scripts.ts";

/** One Redis, or a Redis Cluster. */
export type Client = Redis | Cluster;

interface LinkListener {
  /** Redis cannot be reached or does not answer. */
  away(reason: string): void;
  /** Redis answers again. */
  back(): void;
}

interface ClientEvents {
  readonly close?: () => void;
  readonly ready?: () => void;
  readonly error: (error: unknown) => void;
}

// ── Link ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Calls are split into batches well below this limit. V8 throws at about 129,000 arguments. */
const MAX_SCRIPT_ARGUMENTS = 10_000;

export class Link {
  readonly #client: Client;
  readonly #listener: LinkListener;
  readonly #prober: ReturnType<typeof setInterval>;
  #failures = 0;
  #isAway = false;
  #isProbing = false;
  #isClosed = false;
  #answersSince = performance.now();

  constructor(client: Client, probeMs: number, listener: LinkListener) {
    this.#client = client;
    this.#listener = listener;
    this.#prober = setInterval(() => void this.#probe(), probeMs);
    listenTo(client, {
      close: () => this.#lose("the connection is closed"),
      error: (error) => this.#lose(messageOf(error)),
      ready: () => void this.#probe(),
    });
  }

  /** True while commands fail at once. */
  get isAway(): boolean {
    return this.#isAway;
  }

  /** For how long Redis has been answering without a break. */
  get answeringMs(): number {
    return this.#isAway ? 0 : performance.now() - this.#answersSince;
  }

  /** How many commands have failed. */
  get failures(): number {
    return this.#failures;
  }

  /** The number of the database. A Redis Cluster has one only. */
  get database(): number {
    return this.#client instanceof Redis ? (this.#client.options.db ?? 0) : 0;
  }

  /** Another connection to the same Redis. */
  duplicate(): Client {
    const client: { duplicate(): Client } = this.#client; // what both kinds of clients have in common
    return client.duplicate();
  }

  /** @throws {Error} when Redis is away, does not answer in time, or refuses */
  async ask<Reply>(command: (client: Client) => Promise<Reply>): Promise<Reply> {
    if (this.#isAway) throw new Error("Redis is away");
    try {
      return await command(this.#client);
    } catch (error) {
      this.#failures += 1;
      if (isConnectionError(error)) this.#lose(messageOf(error));
      throw error;
    }
  }

  /** Runs a script. Sends its text where Redis does not know it yet, or has forgotten it. */
  run({ lua, sha }: Script, keys: readonly string[], args: readonly (string | number)[]): Promise<unknown> {
    return this.ask(async (client) => {
      if (keys.length + args.length > MAX_SCRIPT_ARGUMENTS)
        throw new RangeError(`Cannot send ${keys.length + args.length} arguments: ${MAX_SCRIPT_ARGUMENTS} are allowed`);
      try {
        return await client.evalsha(sha, keys.length, ...keys, ...args);
      } catch (error) {
        if (!messageOf(error).startsWith("NOSCRIPT")) throw error;
        return client.eval(lua, keys.length, ...keys, ...args);
      }
    });
  }

  close(): void {
    this.#isClosed = true;
    clearInterval(this.#prober);
    this.#client.disconnect();
  }

  /** While Redis is away: looks whether it can be written to again. */
  async #probe(): Promise<void> {
    if (!this.#isAway || this.#isProbing || this.#isClosed) return;
    this.#isProbing = true;
    try {
      await this.#client.set("headcount:probe", "1", "PX", 1_000);
      this.#isAway = false;
      this.#answersSince = performance.now();
      this.#listener.back();
    } catch {
      // deliberate: Redis was away and still is
    } finally {
      this.#isProbing = false;
    }
  }

  #lose(reason: string): void {
    if (this.#isAway) return;
    this.#isAway = true;
    if (!this.#isClosed) this.#listener.away(reason);
  }
}

/** Connections that fail in the client, by the words of ioredis; it has no classes for most of them. */
const CONNECTION_PROBLEM =
  /^Redis is away$|timed out|timeout|connection is|connection close|not writeable|isn't writeable|isn't ready|disconnect|startup nodes|redirections|slots cache|max retries/i;

/**
 * True for an error which says that Redis cannot be reached or does not answer. All other errors are about the command:
 * Redis refused it (`ReplyError`), or it could not even be sent (`RangeError`).
 */
export function isConnectionError(error: unknown): boolean {
  if (!(error instanceof Error) || error instanceof ReplyError) return false;
  if (error instanceof RangeError || error instanceof TypeError) return false;
  const code = "code" in error ? String(error.code) : "";
  return /^E[A-Z]+$/.test(code) || CONNECTION_PROBLEM.test(error.message); // ECONNRESET and its like
}

/** Refusals of any command that writes. They say nothing about the command, and pass. */
const NOT_NOW =
  /^(OOM|READONLY|MISCONF|LOADING|BUSY|CLUSTERDOWN|TRYAGAIN|MASTERDOWN|NOREPLICAS|NOAUTH|NOPERM|MOVED|ASK)\b/;

/** True for an error after which the same command may succeed later. */
export const isTemporary = (error: unknown): boolean =>
  isConnectionError(error) || (error instanceof ReplyError && NOT_NOW.test(messageOf(error)));

/** Calls the listeners of a client's events. */
export function listenTo(client: Client, { close, ready, error }: ClientEvents): void {
  if (close !== undefined) client.on("close", close);
  if (ready !== undefined) client.on("ready", ready);
  client.on("error", error);
}

/** Sends at a time (by `performance.now()`), or at the end of this turn of the event loop when that time has passed. */
export function sendAt(time: number, send: () => void): void {
  const waitMs = time - performance.now();
  if (waitMs > 0) setTimeout(send, waitMs);
  else setImmediate(send);
}

// ── Connecting ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** Options that make commands fail soon. */
type FailFast = Required<Pick<RedisOptions, "commandTimeout" | "socketTimeout" | "maxRetriesPerRequest">>;

const CONNECT_MS = 30_000; // how long a starting node waits for Redis
const CONNECT_POLL_MS = 50;
const FIRST_WARNING_MS = 1_000;
const WARNING_INTERVAL_MS = 5_000;
const MAX_RECONNECT_MS = 500;
/** Refusals that waiting does not change. */
const REFUSED = /^(WRONGPASS|NOAUTH|NOPERM|ERR)/;

const reconnectMs = (attempt: number) => Math.min(50 * attempt, MAX_RECONNECT_MS);

/** Connects, and finds out what kind of Redis this is. @throws {Error} when Redis refuses, or is not there within 30 s */
export async function connect(url: string, commandTimeoutMs: number, log: Log): Promise<Client> {
  const failFast: FailFast = {
    commandTimeout: commandTimeoutMs,
    socketTimeout: commandTimeoutMs * 2, // a connection that falls silent in the middle of an answer is given up
    maxRetriesPerRequest: 0, // commands that were under way when the connection broke have failed
  };
  const client = new Redis(url, {
    ...failFast,
    enableOfflineQueue: false,
    autoResubscribe: false,
    retryStrategy: reconnectMs,
    reconnectOnError: (error) => error.message.startsWith("READONLY"), // another server is the primary now
  });
  const info = await firstAnswer(client, log);
  checkMemoryPolicy(info, log);
  if (!info.includes("redis_mode:cluster")) return client;
  client.disconnect();
  const cluster = connectCluster(client.options, failFast);
  await firstAnswer(cluster, log);
  return cluster;
}

function connectCluster(options: RedisOptions, failFast: FailFast): Cluster {
  const { host = "localhost", port = 6379, username, password, tls } = options;
  return new Cluster([{ host, port }], {
    enableOfflineQueue: false,
    maxRedirections: 4,
    clusterRetryStrategy: reconnectMs,
    redisOptions: {
      ...failFast,
      ...(username && { username }),
      ...(password && { password }),
      ...(tls && { tls: { servername: host, ...tls } }), // members name each other by address, certificates name hosts
    },
  });
}

/** Waits for Redis, unless Redis refuses. Answers what Redis says about itself. */
async function firstAnswer(client: Client, log: Log): Promise<string> {
  let reason = "no answer";
  client.on("error", (error: unknown) => (reason = messageOf(error)));
  const start = performance.now();
  let nextWarningAt = start + FIRST_WARNING_MS;
  for (let now = start; !REFUSED.test(reason) && now < start + CONNECT_MS; now = performance.now()) {
    if (client.status === "ready")
      try {
        return await client.info();
      } catch (error) {
        reason = messageOf(error);
      }
    if (now >= nextWarningAt) {
      log("warn", "waiting for Redis", { message: reason });
      nextWarningAt = now + WARNING_INTERVAL_MS;
    }
    await new Promise((resolve) => setTimeout(resolve, CONNECT_POLL_MS));
  }
  client.disconnect();
  throw new Error(`Cannot use REDIS_URL: ${reason}`);
}

/** Redis must not evict keys: counts would be wrong until a node notices. */
function checkMemoryPolicy(info: string, log: Log): void {
  const policy = /maxmemory_policy:(\S+)/.exec(info)?.[1];
  if (policy !== undefined && policy !== "noeviction")
    log("warn", "Redis may evict keys, which makes counts wrong: set maxmemory-policy to noeviction", { policy });
}
