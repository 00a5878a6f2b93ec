/**
 * The engine for several nodes: all that share one Redis (or Valkey) count together and are one service.
 *
 * A node never asks another node, and never adds up what nodes have counted: a visitor with pages on two of them is one.
 * Redis holds, for each site, which nodes count there and whom each of them has:
 *
 *     headcount:{example.com}:nodes      sorted set   node → when its lease ends, in milliseconds by Redis' own clock
 *     headcount:{example.com}:meta       hash         epoch, version, and node → number of its last batch, size of its set
 *     headcount:{example.com}:n:<node>   set          whom the node has: "visitor" on the site, "visitor /page" on a page
 *     headcount:{example.com}:refs       hash         the same member → how many nodes have it
 *     headcount:{example.com}:totals     hash         page ("" is the site) → how many members it has: the number shown
 *
 * A handful of keys a site, whatever its pages and visitors, all with one hash tag (so Redis Cluster keeps them together),
 * all touched by scripts alone (so they never disagree), and all with an expiry that a living node pushes back: when
 * the last node is gone, so are they. What stays is the secret that signs visitors, and the journal.
 *
 * One script does nearly everything. `SYNC` says who came and went on this node since it was last called, renews the
 * node's lease, and answers with the totals that this changed or that were asked for. It runs when something changes, at
 * most every 20 ms a site, and every 3 s when nothing does. Totals that changed go to the other nodes by Pub/Sub.
 *
 * What each failure does:
 *
 *   a node dies            its lease runs out (10 s); whichever node syncs next reaps its set, in batches that can be resumed
 *   a node freezes         it was reaped, and learns it from its next sync: it begins anew, under a new name, from memory
 *   an answer is lost      the same batch is sent again; batches are numbered, and count once
 *   a message is lost      messages are numbered; a gap, or a sync that knows of a later one, makes the node ask for all
 *   Redis does not answer  commands fail within 0.9 s, then at once. Totals are the last known ones plus local changes
 *                          (`guessing`), pages are told that they are stale, tokens are single use per node
 *   Redis forgot all       the site has a new `epoch`: every node begins anew from memory, and keeps guessing until the
 *                          epoch is 4 s old, since before that not all nodes have come back and the total would dip
 *   Redis forgot a little  (a replica took over) the batch number is not what the node believes: it begins anew
 *   Redis dropped a key    keys carry marks, and sizes are known: what does not fit is thrown away, as if Redis had forgotten all
 *
 * Clocks of nodes do not matter: leases are counted by Redis' clock, everything else by elapsed time. After an outage nobody
 * reaps for 4 s, because all leases ran out together and every living node is about to renew its own.
 */

import { createHash, randomBytes } from "node:crypto";
import { Cluster, Redis, type RedisOptions, ReplyError } from "ioredis";
import { LRUCache } from "lru-cache";
import type * as Server from "./server.ts";
import type { Claims, Engine, JournalEntries, Member, Membership, Peak, ReadingSum, Room } from "./server.ts";

// ── Settings ────────────────────────────────────────────────────────────────────────────────────────────────────────
// One duration rules: the lease. All others are shares of it, so a test with short leases runs the same story faster.

export interface Options {
  readonly tokenTtlMs: number;
  readonly log: typeof Server.log;
  /** @default {10_000} */
  readonly leaseMs?: number;
  /** @default {"headcount:"} */
  readonly prefix?: string;
}

const timesOf = (leaseMs: number) => ({
  lease: leaseMs,
  hold: leaseMs * 1.5, // of a node that stops and expects its visitors to be back somewhere
  keep: leaseMs * 2, // how long keys outlive the last node: longer than any lease
  beat: leaseMs * 0.3, // two beats may fail before a lease runs out
  settle: leaseMs * 0.4, // in this time every living node has synced once
  timeout: leaseMs * 0.09, // of a command: below a second
  tick: leaseMs * 0.05, // how often this node looks whether something is due
});

const GAP_MS = 20; // between two syncs of a site, or two claims: at 20 nodes, a thousand messages a second at the worst
const BATCH = 1_000; // members in one script: about 3 ms of Redis
const CLAIMS = 32; // that wait together: so many, and no token waits for the gap to end
const CONNECT_MS = 30_000; // how long a starting node waits for Redis
const RETRY_MAX_MS = 500;
const MARK_SECONDS = 86_400; // how long a part of the journal may be repeated
const SALT_SECONDS = 2 * 86_400;
const DAY_MINUTES = 1_440;
const MAX_KNOWN = 10_000; // totals of rooms that this node has not

// What the journal keeps: values of server.ts, checked by their types.
const MAX_PAGES_A_SITE: typeof Server.MAX_PAGES_A_SITE = 10_000;
const OTHER_PAGES: typeof Server.OTHER_PAGES = "(other)";
const HISTORY_DAYS = 90;

// ── Scripts ─────────────────────────────────────────────────────────────────────────────────────────────────────────
// All that is done to the keys of a site. A script runs alone, whole or (out of memory) not at all. Every key it touches
// is handed to it.

interface Script {
  readonly lua: string;
  readonly sha: string;
}

const script = (lua: string): Script => ({ lua, sha: createHash("sha1").update(lua).digest("hex") });

/** What SYNC and REAP share: the clock, leaving, and telling. */
const COMMON = `
local nodes, meta, refs, totals, members = unpack(KEYS)
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local touched = {}

local function page_of(member) return string.match(member, " (.*)") or "" end

local function drop(member) -- which is no longer in the set of its node
  local left = redis.call("HINCRBY", refs, member, -1)
  if left > 0 then return end
  redis.call("HDEL", refs, member)
  if left < 0 then return end
  local page = page_of(member)
  touched[page] = redis.call("HINCRBY", totals, page, -1)
  if touched[page] <= 0 then redis.call("HDEL", totals, page) end
end

local function note_size(node) redis.call("HSET", meta, node .. " size", redis.call("SCARD", members)) end
local function is_whole(node) return redis.call("SCARD", members) == tonumber(redis.call("HGET", meta, node .. " size") or 0) end

local function append_touched(list)
  for page, total in pairs(touched) do
    list[#list + 1] = page
    list[#list + 1] = math.max(0, total)
  end
  return list
end

local function tell(channel, site, epoch) -- in the order of events: a later message has a higher version
  if next(touched) == nil then return tonumber(redis.call("HGET", meta, "version") or 0) end
  local version = redis.call("HINCRBY", meta, "version", 1)
  redis.call("PUBLISH", channel, cjson.encode(append_touched({site, epoch, version})))
  return version
end
`;

/**
 * Brings a node's changes to Redis, renews its lease, and answers {epoch, age of it, version, nodes whose lease is over,
 * {page, total, …}}; or {} when the node is not known (any more) as it believes, and must begin anew.
 * The same batch sent again changes nothing.
 */
const SYNC = script(`${COMMON}
local node, batch, lease, keep, channel, site, changes = unpack(ARGV, 1, 7)
batch = tonumber(batch)
local epoch = redis.call("HGET", meta, "epoch")
if not epoch then
  redis.call("UNLINK", nodes, refs, totals)
  epoch = string.format("%.0f", now)
  redis.call("HSET", meta, "epoch", epoch)
  redis.call("ZADD", nodes, "+inf", "\\n") -- marks, under a name that nothing has
  for _, key in ipairs({refs, totals}) do redis.call("HSET", key, "\\n", epoch) end
  for _, key in ipairs({nodes, meta, refs, totals}) do redis.call("PEXPIRE", key, keep) end
end
local ends = tonumber(redis.call("ZSCORE", nodes, node) or 0) -- 0: not there, below it: being reaped
local heard = tonumber(redis.call("HGET", meta, node) or 0)
local again = heard == batch and ends > 0
local next_one = heard == batch - 1 and (ends > 0) == (batch > 1)
local has_marks = redis.call("ZSCORE", nodes, "\\n") and redis.call("HGET", refs, "\\n") == epoch
  and redis.call("HGET", totals, "\\n") == epoch
if not has_marks or (again or next_one) and not is_whole(node) then -- no script leaves it so: a key was evicted
  redis.call("UNLINK", nodes, meta, refs, totals)
  return {}
end
if ends < 0 or not again and not next_one then -- it was reaped, or writes were lost: versions may be used a second time
  redis.call("HINCRBY", meta, "version", 1000000) -- so that all notice a gap, and ask
  return {}
end

local first = 7 -- arguments before the changes
redis.call("HSET", meta, node, batch) -- before all else: out of memory, it is what fails
for i = first + 1, first + (again and 0 or changes) do
  local member = string.sub(ARGV[i], 2)
  if string.sub(ARGV[i], 1, 1) == "-" then
    if redis.call("SREM", members, member) == 1 then drop(member) end
  elseif redis.call("SADD", members, member) == 1 and redis.call("HINCRBY", refs, member, 1) == 1 then
    local page = page_of(member)
    touched[page] = redis.call("HINCRBY", totals, page, 1)
  end
end
note_size(node)
redis.call("ZADD", nodes, now + lease, node)
for _, key in ipairs({nodes, meta, refs, totals}) do redis.call("PEXPIRE", key, keep) end
redis.call("PEXPIRE", members, 2 * keep) -- outlives what counts it: whoever reaps must find it

local version = tell(channel, site, epoch)
local answers = append_touched({})
for i = first + changes + 1, #ARGV do
  if not touched[ARGV[i]] then
    answers[#answers + 1] = ARGV[i]
    answers[#answers + 1] = tonumber(redis.call("HGET", totals, ARGV[i]) or 0)
  end
end
local over = redis.call("ZRANGEBYSCORE", nodes, "-inf", now, "LIMIT", 0, 100)
return {epoch, now - epoch, version, over, answers}
`);

/** Takes up to a batch of members from a node whose lease is over (or that says so itself), and answers how many are left. */
const REAP = script(`${COMMON}
local node, is_own, batch, keep, channel, site = unpack(ARGV)
local epoch = redis.call("HGET", meta, "epoch")
local ends = tonumber(redis.call("ZSCORE", nodes, node) or 0)
if not epoch or ends == 0 or (ends > now and is_own == "0") then return 0 end
if not is_whole(node) then -- evicted, or expired: nobody knows any more whom to take away
  redis.call("UNLINK", nodes, meta, refs, totals)
  return 0
end
redis.call("ZADD", nodes, -1, node) -- from here on it must begin anew, even when the reaper dies
for _, member in ipairs(redis.call("SPOP", members, batch)) do drop(member) end
tell(channel, site, epoch)
local left = redis.call("SCARD", members)
if left == 0 then
  redis.call("ZREM", nodes, node)
  redis.call("HDEL", meta, node, node .. " size")
else
  note_size(node)
  redis.call("PEXPIRE", members, 2 * keep)
end
return left
`);

/** Answers the total of a room, and how many milliseconds ago counting began on its site; -1 where nobody has counted. */
const COUNT = script(`
local time = redis.call("TIME")
local epoch = redis.call("HGET", KEYS[1], "\\n")
local age = epoch and time[1] * 1000 + math.floor(time[2] / 1000) - epoch or -1
return {math.max(0, tonumber(redis.call("HGET", KEYS[1], ARGV[1]) or 0)), age}
`);

/** Claims nonces: answers 1 for each that nobody had claimed. */
const CLAIM = script(`
local free = {}
for i, key in ipairs(KEYS) do free[i] = redis.call("SET", key, "1", "NX", "PX", ARGV[1]) and 1 or 0 end
return free
`);

/**
 * Adds a batch to the journal of one site, unless it is there already. Pages beyond the limit fall into the second page key.
 * A day of history is a string of 32-bit numbers, one a minute.
 */
const RECORD = script(`
local mark, pages, other, highest = unpack(KEYS, 1, 4)
local id, mark_seconds, max_pages, readings = unpack(ARGV, 1, 4)
if redis.call("GET", mark) == id then return 0 end
redis.call("SET", mark, id, "EX", mark_seconds)
local at, key = 5, 5
for _ = 1, readings do
  local page, bucket, views, ms = unpack(ARGV, at, at + 3)
  local sums = KEYS[key]
  if redis.call("SISMEMBER", pages, page) == 0 then
    if redis.call("SCARD", pages) < tonumber(max_pages) then redis.call("SADD", pages, page) else sums = other end
  end
  redis.call("HINCRBY", sums, bucket, views)
  redis.call("HINCRBY", sums, bucket .. "ms", ms)
  at, key = at + 4, key + 1
end
while at < #ARGV do
  local minute, offset, expires, peak = unpack(ARGV, at, at + 3)
  if tonumber(peak) > redis.call("BITFIELD", KEYS[key], "GET", "u32", "#" .. offset)[1] then
    redis.call("BITFIELD", KEYS[key], "SET", "u32", "#" .. offset, peak)
    redis.call("EXPIREAT", KEYS[key], expires)
  end
  if tonumber(peak) > tonumber(redis.call("HGET", highest, "peak") or 0) then
    redis.call("HSET", highest, "peak", peak, "minute", minute)
  end
  at, key = at + 4, key + 1
end
return 1
`);

// ── Link ────────────────────────────────────────────────────────────────────────────────────────────────────────────
// The way to Redis, and the knowledge whether it answers. A command fails within the timeout and, once one has, at
// once, until a probe is answered. The client never repeats or queues commands by itself: whoever sent them decides.

type Client = Redis | Cluster;

class Link {
  readonly client: Client;
  /** How many commands have failed. */
  failures = 0;
  onAway: (reason: string) => void = () => {};
  onBack: () => void = () => {};
  readonly #prober: ReturnType<typeof setInterval>;
  #away = false;
  #answersSince = performance.now();
  #probing = false;

  constructor(client: Client, probeMs: number) {
    this.client = client;
    this.#prober = setInterval(() => void this.#probe(), probeMs);
    listen(client, {
      close: () => this.#lose("the connection is closed"),
      error: (error) => this.#lose(messageOf(error)),
      ready: () => void this.#probe(),
    });
  }

  /** Whether commands fail at once. */
  get away(): boolean {
    return this.#away;
  }

  /** For how long it has been answering without a break. */
  get answeringMs(): number {
    return this.#away ? 0 : performance.now() - this.#answersSince;
  }

  /** @throws {Error} when Redis is away, does not answer in time, or refuses */
  async ask<Reply>(command: (client: Client) => Promise<Reply>): Promise<Reply> {
    if (this.#away) throw new Error("Redis is away");
    try {
      return await command(this.client);
    } catch (error) {
      this.failures += 1;
      if (!(error instanceof ReplyError)) this.#lose(messageOf(error)); // a refusal is an answer
      throw error;
    }
  }

  /** Runs a script, and hands it over where Redis has not (any more) got it. */
  run({ lua, sha }: Script, keys: string[], args: (string | number)[]): Promise<unknown> {
    return this.ask(async (client) => {
      try {
        return await client.evalsha(sha, keys.length, ...keys, ...args);
      } catch (error) {
        if (!messageOf(error).startsWith("NOSCRIPT")) throw error;
        return client.eval(lua, keys.length, ...keys, ...args);
      }
    });
  }

  /** While Redis is away: looks whether it can be written to again. */
  async #probe(): Promise<void> {
    if (!this.#away || this.#probing) return;
    this.#probing = true;
    try {
      await this.client.set("headcount:probe", "1", "PX", 1_000);
      this.#away = false;
      this.#answersSince = performance.now();
      this.onBack();
    } catch {
      // deliberate: it was away and still is
    } finally {
      this.#probing = false;
    }
  }

  close(): void {
    clearInterval(this.#prober);
    this.onAway = () => {};
    this.client.disconnect();
  }

  #lose(reason: string): void {
    if (this.#away) return;
    this.#away = true;
    this.onAway(reason);
  }
}

interface Events {
  close?: () => void;
  ready?: () => void;
  error: (error: unknown) => void;
}

function listen(client: Client, events: Events): void {
  for (const [event, listener] of Object.entries(events))
    client.on(event as "error", listener as (error: unknown) => void);
}

const retryMs = (times: number) => Math.min(50 * times, RETRY_MAX_MS);

/** Connects, and finds out what kind of Redis this is. @throws {Error} when it refuses, or is not there within 30 s */
async function connect(url: string, timeoutMs: number, log: Options["log"]): Promise<Client> {
  const failFast = {
    commandTimeout: timeoutMs,
    socketTimeout: timeoutMs * 2, // a connection that is silent in the middle of something is given up
    maxRetriesPerRequest: 0, // what was under way when the connection broke has failed
  } satisfies RedisOptions;
  const client = new Redis(url, {
    ...failFast,
    enableOfflineQueue: false,
    autoResubscribe: false,
    retryStrategy: retryMs,
    reconnectOnError: (error) => error.message.startsWith("READONLY"), // the primary has moved
  });
  const info = await firstAnswer(client, log);
  checkMemoryPolicy(info, log);
  if (!info.includes("redis_mode:cluster")) return client;
  client.disconnect();
  const { host = "localhost", port = 6379, username, password, tls } = client.options;
  const cluster = new Cluster([{ host, port }], {
    enableOfflineQueue: false,
    maxRedirections: 4,
    clusterRetryStrategy: retryMs,
    redisOptions: {
      ...failFast,
      ...(username && { username }),
      ...(password && { password }),
      ...(tls && { tls: { servername: host, ...tls } }), // nodes call each other by address, certificates by name
    },
  });
  await firstAnswer(cluster, log);
  return cluster;
}

/** Waits for Redis, as long as there is hope, and answers what it says about itself. */
async function firstAnswer(client: Client, log: Options["log"]): Promise<string> {
  let reason = "no answer";
  client.on("error", (error: unknown) => (reason = messageOf(error)));
  const deadline = performance.now() + CONNECT_MS;
  for (let tries = 1; !REFUSED.test(reason) && performance.now() < deadline; tries += 1) {
    if (client.status === "ready")
      try {
        return await client.info();
      } catch (error) {
        reason = messageOf(error);
      }
    if (tries % 100 === 20) log("warn", "waiting for Redis", { message: reason });
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  client.disconnect();
  throw new Error(`Cannot use REDIS_URL: ${reason}`);
}

const REFUSED = /^(WRONGPASS|NOAUTH|NOPERM|ERR)/;

/** Redis must never drop keys by itself: a count would be wrong until somebody notices. */
function checkMemoryPolicy(info: string, log: Options["log"]): void {
  const policy = /maxmemory_policy:(\S+)/.exec(info)?.[1];
  if (policy !== undefined && policy !== "noeviction")
    log("warn", "Redis may evict keys, which makes counts wrong: set maxmemory-policy to noeviction", { policy });
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

// ── Membership ──────────────────────────────────────────────────────────────────────────────────────────────────────
// What this node has told Redis about each of its sites, and what it has heard. One sync a site is under way at a time;
// what changes meanwhile goes with the next one. The rooms themselves are the memory from which all can be told again.

/** A room as this node has it, and its total. */
interface Shown {
  readonly room: Room;
  /** The total as Redis has said it, and when that was by Redis' own count of changes. */
  known: number | undefined;
  epoch: number;
  version: number;
  /** The total as it was reported last. */
  told: number | undefined;
}

interface Batch {
  /** Members, with "+" or "-" before them. */
  readonly changes: string[];
  readonly asks: string[];
  /** All that is open here is in it: after its answer nothing needs to be guessed. */
  readonly complete: boolean;
}

interface Site {
  readonly name: string;
  /** Page → room; "" is the room of the site itself. */
  readonly rooms: Map<string, Shown>;
  /** This node's name in `nodes`. It is never used again once its set may differ from what is believed here. */
  node: string;
  /** The number of its last batch. */
  batch: number;
  /** Names it had before and has not cleared away yet. */
  readonly former: Set<string>;
  /** Member → has come, or has gone. A member that came and went in between is not in here. */
  changes: Map<string, boolean>;
  /** Pages whose total must be asked for. */
  asks: Set<string>;
  /** The batch that was sent and not answered. */
  sent: Batch | undefined;
  pumping: Promise<void> | undefined;
  reaping: boolean;
  scheduled: boolean;
  epoch: number | undefined;
  /** Versions: of the last message, of the last answer, and of the answer at `checkedAt`, which must be heard a beat later. */
  heard: number;
  answered: number;
  due: number;
  checkedAt: number;
  /** Totals are the last known ones plus local changes, until a sync after `settledAt` has asked for all. */
  guessing: boolean;
  settledAt: number;
  /** When to sync again though nothing has changed, and when the next change may be told. */
  beatAt: number;
  quietUntil: number;
}

/** `visitor` in the room of the site, `visitor /page` in that of a page; a visitor's id holds no space. */
const memberOf = (visitor: string, page: string) => (page === "" ? visitor : `${visitor} ${page}`);
const pageOf = (member: string) => (member.includes(" ") ? member.slice(member.indexOf(" ") + 1) : "");
const roomName = (site: string, page: string) => `${site} ${page}`;
const newNode = () => randomBytes(9).toString("base64url");

/** What comes first is sent at the end of this turn of the event loop; what follows waits until the gap is over. */
function sendAfter(quietUntil: number, send: () => void): void {
  const wait = quietUntil - performance.now();
  if (wait > 0) setTimeout(send, wait);
  else setImmediate(send);
}

class Sharing implements Membership {
  readonly #link: Link;
  readonly #subscriber: Client;
  readonly #listener: Server.SharedListener;
  readonly #known: Known;
  readonly #times: ReturnType<typeof timesOf>;
  readonly #log: Options["log"];
  readonly #prefix: string;
  readonly #channel: string;
  readonly #sites = new Map<string, Site>();
  readonly #guessing = new Set<Site>();
  readonly #ticker: ReturnType<typeof setInterval>;
  #leaseMs: number;
  #stale = false;
  #stopped = false;

  constructor(link: Link, listener: Server.SharedListener, known: Known, options: Required<Options>) {
    this.#link = link;
    this.#listener = listener;
    this.#known = known;
    this.#log = options.log;
    this.#prefix = options.prefix;
    this.#times = timesOf(options.leaseMs);
    this.#leaseMs = this.#times.lease;
    // Messages ignore the number of the database, which here is what keeps two services apart.
    const database = link.client instanceof Redis ? (link.client.options.db ?? 0) : 0;
    this.#channel = `${options.prefix}${database}`;
    this.#subscriber = this.#subscribe();
    this.#ticker = setInterval(() => this.#tick(), this.#times.tick);
  }

  // Membership: what the rooms say

  opened(room: Room): void {
    const site = this.#site(room.site);
    const page = room.page ?? "";
    site.rooms.set(page, { room, known: undefined, epoch: 0, version: 0, told: undefined });
    site.asks.add(page);
    this.#soon(site);
  }

  changed(room: Room, visitor: string, here: boolean): void {
    if (this.#stopped) return;
    const site = this.#site(room.site);
    const page = room.page ?? "";
    const member = memberOf(visitor, page);
    if (!site.changes.delete(member)) site.changes.set(member, here);
    const shown = site.rooms.get(page);
    if (shown !== undefined && site.guessing) this.#tell(shown, (shown.told ?? 0) + (here ? 1 : -1));
    else if (shown?.known !== undefined) this.#tell(shown, shown.known);
    this.#soon(site);
  }

  closed(room: Room): void {
    const page = room.page ?? "";
    const site = this.#sites.get(room.site);
    const shown = site?.rooms.get(page);
    if (this.#stopped || site === undefined || shown?.room !== room) return;
    if (shown.told !== undefined)
      this.#known.set(roomName(site.name, page), { total: shown.told, at: performance.now() });
    site.rooms.delete(page);
    site.asks.delete(page);
    this.#soon(site); // which lets go of the site when this was its last room
  }

  // Life

  back(): void {
    for (const site of this.#sites.values()) void this.#pump(site);
    this.#reportStale();
  }

  away(): void {
    for (const site of this.#sites.values()) this.#guess(site);
    this.#reportStale();
  }

  /** Says all that is unsaid and keeps the leases for as long as visitors may take to come back; nothing follows. */
  async hold(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#ticker);
    this.#leaseMs = this.#times.hold;
    const sites = [...this.#sites.values()];
    await Promise.all(sites.map(async (site) => site.pumping));
    await Promise.all(sites.map((site) => this.#pump(site)));
  }

  async close(): Promise<void> {
    if (this.#stopped) await this.hold(); // the time to come back begins now
    this.#stopped = true;
    clearInterval(this.#ticker);
    this.#subscriber.disconnect();
  }

  #tick(): void {
    if (this.#link.away) return;
    const now = performance.now();
    for (const site of this.#sites.values()) if (site.guessing || now >= site.beatAt) void this.#pump(site);
  }

  #site(name: string): Site {
    const found = this.#sites.get(name);
    if (found !== undefined) return found;
    const site: Site = {
      name,
      rooms: new Map(),
      node: newNode(),
      batch: 0,
      former: new Set(),
      changes: new Map(),
      asks: new Set(),
      sent: undefined,
      pumping: undefined,
      reaping: false,
      scheduled: false,
      epoch: undefined,
      heard: 0,
      answered: 0,
      due: 0,
      checkedAt: 0,
      guessing: false,
      settledAt: 0,
      beatAt: 0,
      quietUntil: 0,
    };
    this.#sites.set(name, site);
    if (this.#link.away) this.#guess(site);
    return site;
  }

  // Saying

  /** At the end of this turn of the event loop, or when the site has been quiet for long enough. */
  #soon(site: Site): void {
    if (site.scheduled || site.pumping !== undefined || this.#link.away || this.#stopped) return;
    site.scheduled = true;
    const send = () => {
      site.scheduled = false;
      void this.#pump(site);
    };
    sendAfter(site.quietUntil, send);
  }

  /** Syncs until nothing is left that cannot wait. Never fails: what could not be said is said at a later tick. */
  #pump(site: Site): Promise<void> {
    site.pumping ??= this.#pumpNow(site).finally(() => {
      site.pumping = undefined;
      if (site.rooms.size === 0 && site.changes.size === 0) this.#drop(site);
      else if (!site.guessing && (site.changes.size > 0 || site.asks.size > 0)) this.#soon(site);
    });
    return site.pumping;
  }

  async #pumpNow(site: Site): Promise<void> {
    site.quietUntil = performance.now() + GAP_MS;
    try {
      do await this.#sync(site);
      while (site.changes.size >= BATCH || (site.guessing && performance.now() >= site.settledAt));
    } catch (error) {
      if (!site.guessing && !this.#link.away)
        this.#log("warn", "Redis refuses to count", { site: site.name, message: messageOf(error) });
      this.#guess(site);
    }
  }

  async #sync(site: Site): Promise<void> {
    const { changes, asks, complete } = (site.sent ??= this.#takeBatch(site));
    const reply = (await this.#link.run(SYNC, this.#keys(site, site.node), [
      site.node,
      site.batch,
      this.#leaseMs,
      this.#times.keep,
      this.#channel,
      site.name,
      changes.length,
      ...changes,
      ...asks,
    ])) as [] | [epoch: string, ageMs: number, version: number, over: string[], totals: (string | number)[]];
    const now = performance.now();
    if (reply.length === 0) return this.#beginAnew(site);
    const [epoch, ageMs, version, over, totals] = reply;
    site.sent = undefined;
    site.epoch = Number(epoch);
    site.settledAt = now + this.#times.settle - ageMs;
    site.beatAt = now + this.#times.beat;
    this.#checkVersion(site, version, now);
    for (let i = 0; i < totals.length; i += 2) this.#learn(site, String(totals[i]), Number(totals[i + 1]), version);
    if (complete && now >= site.settledAt) this.#stopGuessing(site);
    void this.#reap(site, over);
  }

  #takeBatch(site: Site): Batch {
    site.batch += 1;
    const changes: string[] = [];
    for (const [member, here] of site.changes) {
      if (changes.length === BATCH) break;
      changes.push((here ? "+" : "-") + member);
      site.changes.delete(member);
    }
    const complete = site.guessing && site.changes.size === 0 && performance.now() >= site.settledAt;
    const asks = complete ? [...site.rooms.keys()] : [...site.asks];
    site.asks.clear();
    return { changes, asks, complete };
  }

  /** Redis does not know this node as it knows itself. All is told again from memory, under a new name. */
  #beginAnew(site: Site): void {
    this.#guess(site);
    site.former.add(site.node);
    site.node = newNode();
    site.batch = 0;
    site.sent = undefined;
    site.epoch = undefined;
    site.settledAt = 0;
    site.changes.clear();
    for (const [page, shown] of site.rooms) {
      shown.epoch = 0;
      shown.version = 0;
      for (const visitor of shown.room.members.keys()) site.changes.set(memberOf(visitor, page), true);
    }
  }

  /** Clears away nodes whose lease is over, and what this node left under its former names. */
  async #reap(site: Site, over: string[]): Promise<void> {
    const own = site.changes.size === 0 ? [...site.former] : []; // until all is told again, they count
    const others = this.#link.answeringMs >= this.#times.settle ? over.filter((node) => !site.former.has(node)) : [];
    if (site.reaping || own.length + others.length === 0) return;
    site.reaping = true;
    try {
      for (const node of [...own, ...others]) {
        const args = [node, site.former.has(node) ? 1 : 0, BATCH, this.#times.keep, this.#channel, site.name];
        while (Number(await this.#link.run(REAP, this.#keys(site, node), args)) > 0);
        site.former.delete(node);
      }
    } catch {
      // deliberate: the next answer names the same nodes again
    } finally {
      site.reaping = false;
    }
  }

  #keys(site: Site, node: string): string[] {
    return ["nodes", "meta", "refs", "totals", `n:${node}`].map((name) => keyOf(this.#prefix, site.name, name));
  }

  #drop(site: Site): void {
    this.#sites.delete(site.name);
    this.#guessing.delete(site);
    this.#reportStale();
  }

  // Hearing

  #subscribe(): Client {
    const { client } = this.#link;
    const subscriber = client instanceof Redis ? client.duplicate() : client.duplicate();
    subscriber.on("message", (_channel: string, text: string) => {
      try {
        this.#hear(JSON.parse(text));
      } catch (error) {
        this.#log("warn", "Redis passed on a message that is none of ours", { message: messageOf(error) });
      }
    });
    const subscribe = async () => {
      await subscriber.subscribe(this.#channel);
      for (const site of this.#sites.values()) this.#askAll(site); // for what was said meanwhile
    };
    listen(subscriber, {
      error: () => {}, // the other connection to the same Redis reports it
      ready: () => subscribe().catch(() => subscriber.disconnect(true)),
    });
    return subscriber;
  }

  #hear([name, epochText, version, ...totals]: [string, string, number, ...(string | number)[]]): void {
    const site = this.#sites.get(name);
    if (site === undefined || this.#stopped) return;
    const epoch = Number(epochText);
    if (site.epoch !== undefined && epoch > site.epoch) site.beatAt = 0; // Redis has begun anew: so must this node
    if (site.epoch !== undefined && epoch !== site.epoch) return;
    if (site.epoch !== undefined && version > site.heard + 1) this.#askAll(site);
    site.heard = Math.max(site.heard, version);
    for (let i = 0; i < totals.length; i += 2)
      this.#learn(site, String(totals[i]), Number(totals[i + 1]), version, epoch);
  }

  #learn(site: Site, page: string, total: number, version: number, epoch = site.epoch ?? 0): void {
    const shown = site.rooms.get(page);
    if (shown === undefined || epoch < shown.epoch || (epoch === shown.epoch && version < shown.version)) return;
    shown.known = total;
    shown.epoch = epoch;
    shown.version = version;
    if (!site.guessing) this.#tell(shown, total);
  }

  /** Versions only ever grow, unless Redis lost some; and a message of one beat ago must have been heard by now. */
  #checkVersion(site: Site, version: number, now: number): void {
    if (site.batch === 1) site.heard = version;
    else if (version < site.answered) {
      for (const shown of site.rooms.values()) shown.version = 0;
      this.#heardTo(site, version);
    } else if (now >= site.checkedAt + this.#times.beat && site.heard < site.due) {
      this.#heardTo(site, version);
      if (this.#subscriber.status === "ready") this.#subscriber.disconnect(true); // it may be dead without knowing it
    }
    site.answered = version;
    if (now < site.checkedAt + this.#times.beat) return;
    site.due = version;
    site.checkedAt = now;
  }

  /** What was said up to a version did not reach this node. */
  #heardTo(site: Site, version: number): void {
    site.heard = version;
    site.due = version;
    this.#askAll(site);
  }

  #askAll(site: Site): void {
    for (const page of site.rooms.keys()) site.asks.add(page);
    this.#soon(site);
  }

  // Telling

  /** Whoever is in the room here is surely counted, whatever is on its way to Redis. */
  #tell(shown: Shown, total: number): void {
    const atLeast = Math.max(total, shown.room.members.size);
    if (atLeast === shown.told) return;
    shown.told = atLeast;
    this.#listener.total(shown.room, atLeast);
  }

  /** From here on totals are the last known ones, plus what has changed here and was not answered, plus what changes. */
  #guess(site: Site): void {
    if (site.guessing) return;
    site.guessing = true;
    this.#guessing.add(site);
    const unanswered = [...(site.sent?.changes ?? []), ...[...site.changes].map(([m, here]) => (here ? "+" : "-") + m)];
    for (const change of unanswered) {
      const shown = site.rooms.get(pageOf(change.slice(1)));
      if (shown !== undefined) this.#tell(shown, (shown.told ?? 0) + (change.startsWith("+") ? 1 : -1));
    }
    this.#reportStale();
  }

  #stopGuessing(site: Site): void {
    site.guessing = false;
    this.#guessing.delete(site);
    for (const shown of site.rooms.values()) if (shown.known !== undefined) this.#tell(shown, shown.known);
    this.#reportStale();
  }

  #reportStale(): void {
    const stale = this.#link.away || this.#guessing.size > 0;
    if (stale === this.#stale) return;
    this.#stale = stale;
    this.#listener.stale(stale);
  }
}

/** A key of a site. Braces end a hash tag, and a host name may (by the URL standard) hold them. */
const keyOf = (prefix: string, site: string, name: string) =>
  `${prefix}{${site.replace(/[{}%]/g, encodeURIComponent)}}:${name}`;

// ── Engine ──────────────────────────────────────────────────────────────────────────────────────────────────────────
// The face of all this: secrets, spent tokens, the journal, and the membership above.

interface Secret {
  readonly key: string;
  readonly value: string;
  readonly seconds: number | undefined;
}

/** Seconds of a reading are kept as whole milliseconds, under the bucket's number with this behind it. */
const MS = "ms";

/** Totals of rooms that this node has not, and when they were so. */
type Known = LRUCache<string, { readonly total: number; readonly at: number }>;

/** A part of the journal that was sent to Redis, which has not said whether it arrived. */
interface Unsure {
  readonly id: string;
  readonly site: string;
  readonly entries: JournalEntries;
}

export class RedisEngine implements Engine {
  readonly #link: Link;
  readonly #options: Required<Options>;
  #sharing: Sharing | undefined;
  readonly #known: Known = new LRUCache({ max: MAX_KNOWN });
  #backAt = -Infinity;
  /** The last secret of each kind, to be put back if Redis loses it. */
  readonly #secrets = new Map<string, Secret>();
  readonly #guard: ReturnType<typeof setInterval>;
  /** Nonces spent on this node, in two generations, for the time when Redis is away. */
  #spent = new Set<number>();
  #spentBefore = new Set<number>();
  #turnAt = 0;
  /** Nonces that wait to be claimed, and when the gap after the last claim is over. */
  #claims = new Map<number, (isFree: boolean) => void>();
  #quietUntil = 0;
  /** Journal batches by number and this engine's name; those that may not have arrived go first the next time. */
  readonly #name = newNode();
  #batch = 0;
  #unsure: Unsure[] = [];

  /** How many commands have failed. */
  get failures(): number {
    return this.#link.failures;
  }

  private constructor(client: Client, options: Required<Options>) {
    this.#options = options;
    this.#link = new Link(client, timesOf(options.leaseMs).tick);
    this.#link.onAway = (message) => {
      options.log("warn", "Redis is away: counts are held, and are right again when it is back", { message });
      this.#sharing?.away();
    };
    this.#link.onBack = () => {
      options.log("info", "Redis is back");
      this.#backAt = performance.now();
      void this.#guardSecrets();
      this.#sharing?.back();
    };
    this.#guard = setInterval(() => void this.#guardSecrets(), timesOf(options.leaseMs).beat);
  }

  /**
   * Connects to Redis, Valkey or a cluster of them: `redis://:password@host:6379/0`, `rediss://…` for TLS.
   * @throws {Error} when it refuses the password, or is not there within 30 s: without the shared secret a node is no use
   */
  static async open(url: string, options: Options): Promise<RedisEngine> {
    const full = { leaseMs: 10_000, prefix: "headcount:", ...options };
    const client = await connect(url, timesOf(full.leaseMs).timeout, full.log);
    return new RedisEngine(client, full);
  }

  /** While Redis is away, the next salt is made from the last one: the same on all nodes, and no way leads back. */
  async secret(kind: "signing" | "salt", name: string): Promise<string> {
    const key = `${this.#options.prefix}secret:${kind}${name && `:${name}`}`;
    const last = this.#secrets.get(kind);
    const secret = {
      key,
      seconds: kind === "salt" ? SALT_SECONDS : undefined,
      value: last === undefined ? newSecret() : last.key === key ? last.value : sha256(last.value + name),
    };
    const value = await this.#putSecret(secret).catch((error: unknown) => {
      if (last !== undefined) return secret.value;
      throw new Error(`Cannot keep the ${kind} secret in Redis: ${messageOf(error)}`, { cause: error });
    });
    this.#secrets.set(kind, { ...secret, value });
    return value;
  }

  async spend({ nonce }: Claims, now: number): Promise<boolean> {
    if (this.#spent.has(nonce) || this.#spentBefore.has(nonce)) return false;
    if (now >= this.#turnAt) {
      this.#spentBefore = this.#spent;
      this.#spent = new Set();
      this.#turnAt = now + this.#options.tokenTtlMs;
    }
    this.#spent.add(nonce);
    const { promise, resolve } = Promise.withResolvers<boolean>();
    this.#claims.set(nonce, resolve);
    if (this.#claims.size === 1) sendAfter(this.#quietUntil, () => void this.#claim());
    if (this.#claims.size === CLAIMS) void this.#claim();
    return promise;
  }

  share(listener: Server.SharedListener): Membership {
    this.#sharing = new Sharing(this.#link, listener, this.#known, this.#options);
    return this.#sharing;
  }

  /**
   * The total of a room that this node has not; the last known one while Redis is away or is being told again.
   * @throws {Error} when there is none: better no number than 0 by mistake
   */
  async count(site: string, page = ""): Promise<number> {
    const { settle, keep } = timesOf(this.#options.leaseMs);
    const room = roomName(site, page);
    const last = this.#known.get(room);
    try {
      const [total, ageMs] = (await this.#link.run(COUNT, [this.#key(site, "totals")], [page])) as [number, number];
      const now = performance.now();
      const isForgotten = now < this.#backAt + settle || (last !== undefined && last.total > 0 && now < last.at + keep);
      if (total <= (last?.total ?? 0) && (ageMs < 0 ? isForgotten : ageMs < settle))
        throw new Error("Redis has begun anew, and does not know all yet");
      this.#known.set(room, { total, at: now });
      return total;
    } catch (error) {
      if (last === undefined) throw error;
      return last.total;
    }
  }

  async hold(_members: Iterable<Member>): Promise<void> {
    await this.#sharing?.hold();
  }

  /** Nobody: other nodes went on counting them. */
  async held(): Promise<Member[]> {
    return [];
  }

  async close(): Promise<void> {
    clearInterval(this.#guard);
    await this.#sharing?.close();
    this.#link.close();
  }

  /**
   * Each site's part is all or nothing, and is added once: what was sent and not answered is repeated by this engine, under
   * the same number. It throws only when nothing of the entries was sent.
   */
  async record(entries: JournalEntries): Promise<void> {
    for (const part of this.#unsure.splice(0)) await this.#recordPart(part);
    if (this.#link.away || this.#unsure.length > 0) throw new Error("Redis does not take the journal");
    const id = `${this.#name}${(this.#batch += 1)}`;
    const sites = new Set([...entries.readings, ...entries.peaks].map(({ site }) => site));
    await Promise.all([...sites].map((site) => this.#recordPart({ id, site, entries })));
  }

  async readings(site: string, page?: string): Promise<ReadingSum[]> {
    const known =
      page === undefined ? await this.#link.ask((client) => client.smembers(this.#key(site, "pages"))) : [page];
    if (page === undefined && !known.includes(OTHER_PAGES)) known.push(OTHER_PAGES);
    const sums: ReadingSum[] = [];
    for (let from = 0; from < known.length; from += BATCH) {
      const pages = known.slice(from, from + BATCH);
      const replies = await this.#link.ask((client) =>
        Promise.all(pages.map((name) => client.hgetall(this.#key(site, `read:${name}`)))),
      );
      for (const [index, name] of pages.entries()) sums.push(...readingsOf(site, name, replies[index] ?? {}));
    }
    return sums;
  }

  async history(site: string, fromMinute: number, step: number): Promise<Peak[]> {
    const firstDay = Math.floor(fromMinute / DAY_MINUTES);
    const today = Math.floor(Date.now() / 60_000 / DAY_MINUTES);
    const keys = Array.from({ length: Math.max(1, today + 2 - firstDay) }, (_, day) =>
      this.#dayKey(site, firstDay + day),
    );
    const days = await this.#link.ask((client) => client.mgetBuffer(...keys));
    const peaks = new Map<number, number>();
    for (const [index, day] of days.entries())
      for (let offset = 0; offset < (day?.length ?? 0) / 4; offset += 1) {
        const minute = (firstDay + index) * DAY_MINUTES + offset;
        const peak = day?.readUInt32BE(offset * 4) ?? 0;
        const start = minute - (minute % step);
        if (peak > 0 && minute >= fromMinute) peaks.set(start, Math.max(peak, peaks.get(start) ?? 0));
      }
    return [...peaks].map(([minute, peak]) => ({ minute, peak }));
  }

  async highest(site: string): Promise<Peak | undefined> {
    const { minute, peak } = await this.#link.ask((client) => client.hgetall(this.#key(site, "highest")));
    return peak === undefined ? undefined : { minute: Number(minute), peak: Number(peak) };
  }

  #key(site: string, name: string): string {
    return keyOf(this.#options.prefix, site, name);
  }

  #dayKey(site: string, day: number): string {
    return this.#key(site, `history:${day}`);
  }

  async #claim(): Promise<void> {
    if (this.#claims.size === 0) return; // so many came at once that they did not wait
    const claims = [...this.#claims];
    this.#claims.clear();
    this.#quietUntil = performance.now() + GAP_MS;
    const keys = claims.map(([nonce]) => `${this.#options.prefix}{spent}:${nonce.toString(36)}`);
    // Twice a token's life, since the clocks of nodes may differ by as much.
    const free = await this.#link.run(CLAIM, keys, [2 * this.#options.tokenTtlMs]).catch(() => undefined);
    for (const [index, [, resolve]] of claims.entries()) resolve(!Array.isArray(free) || free[index] === 1);
  }

  async #recordPart(part: Unsure): Promise<void> {
    const { keys, args } = this.#journalArguments(part);
    await this.#link.run(RECORD, keys, args).catch(() => this.#unsure.push(part));
  }

  #journalArguments({ id, site, entries: { readings, peaks } }: Unsure) {
    const key = (name: string) => this.#key(site, name);
    const keys = [key(`wrote:${this.#name}`), key("pages"), key(`read:${OTHER_PAGES}`), key("highest")];
    const args: (string | number)[] = [id, MARK_SECONDS, MAX_PAGES_A_SITE, 0];
    for (const { page, bucket, views, seconds } of readings.filter((reading) => reading.site === site)) {
      keys.push(key(`read:${page}`));
      args.push(page, bucket, views, Math.round(seconds * 1_000));
    }
    args[3] = keys.length - 4;
    for (const { minute, peak } of peaks.filter((entry) => entry.site === site)) {
      const day = Math.floor(minute / DAY_MINUTES);
      keys.push(this.#dayKey(site, day));
      args.push(minute, minute % DAY_MINUTES, (day + 1 + HISTORY_DAYS) * 86_400, peak);
    }
    return { keys, args };
  }

  /** Makes the secret unless there is one, and answers which it is. */
  #putSecret({ key, value, seconds }: Secret): Promise<string> {
    return this.#link.ask(async (client) => {
      if (seconds === undefined) await client.set(key, value, "NX");
      else await client.set(key, value, "EX", seconds, "NX");
      return (await client.get(key)) ?? value;
    });
  }

  /** Secrets live in the nodes as long as one runs, and must outlive a Redis that begins empty. */
  async #guardSecrets(): Promise<void> {
    for (const [kind, secret] of this.#secrets)
      try {
        if ((await this.#link.ask((client) => client.get(secret.key))) === secret.value) continue;
        if ((await this.#putSecret(secret)) === secret.value) continue;
        this.#options.log("error", "this node's secret is not that of the others: restart it", { kind });
        this.#secrets.delete(kind);
      } catch {
        return; // deliberate: that Redis is away has been said, and the next beat tries again
      }
  }
}

const newSecret = () => randomBytes(32).toString("base64url");
const sha256 = (text: string) => createHash("sha256").update(text).digest("base64url");

function readingsOf(site: string, page: string, sums: Record<string, string>): ReadingSum[] {
  return Object.keys(sums)
    .filter((field) => !field.endsWith(MS))
    .map((field) => ({
      site,
      page,
      bucket: Number(field),
      views: Number(sums[field]),
      seconds: Number(sums[field + MS] ?? 0) / 1_000,
    }));
}
