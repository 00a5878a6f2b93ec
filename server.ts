/**
 * Headcount: how many people are on this site right now?
 *
 * A page that carries the script tag opens one WebSocket to this service. The service counts the visitors behind those
 * sockets and writes the number back into every page as it changes. This file does the counting.
 *
 * The words, smallest first:
 *
 *   visitor      a browser, known by a random id that this service has signed; never a tab, a socket or an address
 *   page         a name on a site, such as "/about"
 *   connection   one open tab and its socket: one visitor on one page
 *   site         an entry of SITES, chosen by the Origin header, which a browser does not let its pages forge
 *   room         whatever has a number of its own: a site, or one page of it. Its members are visitors, each there once,
 *                however many connections they have. Its audience is the connections that show its number
 *   token        a signed, single-use ticket from `POST /token` to `GET /ws`. A page can read the answer of `/token`, so
 *                every check happens there first
 *   engine       keeps what must outlive this process or be agreed upon by several nodes (engine/)
 *   journal      what owners look at afterwards: reading times and peaks (stats/)
 *
 * How a number travels: a connection is admitted → `Rooms` counts its visitor → `tick` returns what has changed →
 * `Connections` sends it. With several nodes, `Rooms` tells the cluster who came or left, and the cluster reports the
 * count of all nodes to `Rooms`; from there the way is the same.
 *
 * Who owns what: `Rooms` owns who is counted and which numbers are published; nothing else can change a number.
 * `Connections` owns the sockets, `Guard` the limits, `Journal` the past. Each receives objects under an interface that
 * shows only its own fields as changeable. Time is an argument wherever it matters.
 *
 * Deliberately absent: a time window ("in the last 5 minutes"), polling, one timer per visitor, buffering for slow
 * readers (they are closed and reconnect), and trust in anything a page says about itself except its name.
 *
 *   1. Rooms          who is counted: the core
 *   2. Connections    sockets: admission, frames, heartbeat, drain
 *   3. Routes         HTTP
 *   4. Service        how the parts are put together, and main
 *
 * Four folders stand beside this file. `edge/` is where the world outside comes in: the settings, both runtimes, what
 * strangers send, and their refusal. `engine/` keeps what outlives the process, and `stats/` what owners look at afterwards.
 * `shared/` has small tools for all of them.
 */

import process from "node:process";
import { type Context, Hono } from "hono";
import { isbot } from "isbot";
import * as v from "valibot";
import { announce, warnOfUnusedData } from "./edge/announce.ts";
import { readBody } from "./edge/body.ts";
import { allowAllOrigins, answerPreflight, crossOriginHeaders } from "./edge/cross-origin.ts";
import { createFileCheck, Guard, openFilesLimit, operatorOnly, problem, type Reason, REFUSALS } from "./edge/guard.ts";
import { createHints } from "./edge/hints.ts";
import { createIdentify, OBSERVER, visitorCookie } from "./edge/identity.ts";
import { droppedLines, flushLog, guarded, log, report } from "./edge/log.ts";
import {
  AllowedSites,
  clientAddress,
  hostOf,
  isSecure,
  isTooLong,
  isValidHost,
  limitKey,
  memoOfHeaders,
  originOf,
  pageName,
  paramsOf,
  tokenOf,
  userAgentOf,
} from "./edge/names.ts";
import { addCheckRoute, addOwnPages, type Assets, readAssets, readVersion } from "./edge/pages.ts";
import { createEmbedderLookup, createSiteQuestions, type EmbedderOf } from "./edge/request-site.ts";
import { listen, SEND_PORTION_MS, type RequestEnv, type Socket, type SocketEvents } from "./edge/runtimes.ts";
import { readSettings, type Settings, sharedSettings } from "./edge/settings.ts";
import { type Claims, mintedOn, newNonce, Signer } from "./edge/tokens.ts";
import { type Cluster, type Engine, type Member, messageOf, MINUTE_MS, parseJson } from "./engine/engine.ts";
import { inPortions } from "./engine/portions.ts";
import { createCalendar } from "./shared/calendar.ts";
import { type EngineOptions, readCommand, runCommand } from "./stats/command.ts";
import { Journal, type View } from "./stats/journal.ts";
import { RecordedSites } from "./stats/live.ts";
import { createMetrics, type Metrics } from "./stats/metrics.ts";
import { addPublicRoutes } from "./stats/public-routes.ts";
import { addStatsRoutes } from "./stats/routes.ts";
import { type TotalNumbers, Totals } from "./stats/totals.ts";

// ── 1. Rooms ─────────────────────────────────────────────────────────────────────────────────────────────────────────
// The core: who is counted, and which numbers are published to whom. No clock, no socket, no I/O: `now` is an argument,
// in milliseconds that never decrease. A visitor in grace is a member like any other. Members leave only in `tick`, as
// time passes; therefore a reload changes nothing at all.

/** How many connections a visitor has in a room or, when none is left, the departure that waits for the end of grace. */
type Presence = number | Departure;

/** The time at which a visitor leaves a room, unless the visitor comes back first. */
interface Departure {
  readonly site: SiteState;
  readonly room: RoomState;
  readonly visitor: string;
  readonly at: number;
}

/** A site, or one page of a site. Everybody may read a room; only `Rooms` changes one. */
export interface Room {
  readonly site: string;
  /** The name of the page; undefined for the room of the whole site. */
  readonly page: string | undefined;
  readonly members: ReadonlyMap<string, Presence>;
  /** For a page: the connections that show it, observers included. */
  readonly audience: readonly Viewer[];
  /** How many visitors the room has: on this node or, in a cluster, on all nodes. Undefined until the cluster has told. */
  readonly count: number | undefined;
  /** The number that was sent to the audience last. */
  readonly published: number | undefined;
}

/** A site with the rooms of its pages. They are published together: one frame can carry the numbers of page and site. */
export interface Site {
  readonly room: Room;
  readonly pages: ReadonlyMap<string, Room>;
  /** How many connections show the site, observers included. */
  readonly audience: number;
  /** Since when a number differs from the published one. */
  readonly dirtySince: number;
}

/** A connection, as `Rooms` sees it. `Rooms` sets the fields that are not readonly. */
export interface Viewer {
  /** "" for an observer, who is not counted. */
  readonly visitor: string;
  site: Site;
  /** The room of the page that the connection shows. */
  room: Room;
  /** Where the connection stands in the audience of that room. */
  place: number;
}

/** New numbers for the audience of a page: that of the site, that of the page, or both. */
export interface Publication {
  readonly site: Site;
  readonly page: Room;
  readonly siteChanged: boolean;
  readonly pageChanged: boolean;
  /** When the first of the changes happened. */
  readonly changedAt: number;
}

interface RoomState extends Room {
  readonly members: Map<string, Presence>;
  /** In no order. An array, because a set takes ten times as much memory per connection. */
  readonly audience: Viewer[];
  count: number | undefined;
  published: number | undefined;
  /** Whether a connection was told a count that was not published. */
  isAhead: boolean;
  /** Since `takePeaks` was called last. */
  highestCount: number;
}

interface SiteState extends Site {
  readonly room: RoomState;
  readonly pages: Map<string, RoomState>;
  audience: number;
  dirtySince: number;
  /** Rooms whose count may differ from the published one. */
  readonly dirty: Set<RoomState>;
  nextPublishAt: number;
}

/** `Rooms` created every room and site, so it may change what others may only read. */
const ownRoom = (room: object) => room as RoomState;
const ownSite = (site: Site) => site as SiteState;

const SCAN_MS = 50; // how often departures and waiting sites are looked at
const MAX_DEPARTURES = 4_000; // per scan: those of 20,000 visitors who close their page at once take half a second
const MIN_INTERVAL_MS = 100;
const MAX_INTERVAL_MS = 750; // plus the time of a broadcast to 20,000 connections, this is within the promised second
/**
 * A frame costs about 10 µs (measured). Broadcasts may take a fortieth of the time, hence 400 µs per connection. Above 1,875
 * connections MAX_INTERVAL_MS holds, and they take more: a quarter with 18,000.
 */
const INTERVAL_MS_PER_CONNECTION = 0.4;

export class Rooms {
  readonly #sites = new Map<string, SiteState>();
  readonly #graceMs: number;
  readonly #cluster: Cluster | undefined;
  /** Visitors in grace, in the order in which they leave. A departure whose visitor came back is skipped when due. */
  readonly #grace = new Set<Departure>();
  /** Visitors who were online before a restart and are expected back. */
  readonly #held = new Set<Departure>();
  /** Dirty sites that may be published at the next tick, and those that were published a moment ago. */
  readonly #ready = new Set<SiteState>();
  readonly #waiting = new Set<SiteState>();
  /** Counts that the cluster has reported and that were not applied yet. */
  readonly #reportedCounts = new Map<RoomState, number>();
  #nextScan = 0;
  #connections = 0;

  /** @param cluster undefined where this node counts alone */
  constructor(graceMs: number, cluster?: Cluster) {
    this.#graceMs = graceMs;
    this.#cluster = cluster;
  }

  /** The sites of this node, in no order. */
  sites(): Iterable<Site> {
    return this.#sites.values();
  }

  site(name: string): Site | undefined {
    return this.#sites.get(name);
  }

  /** How many connections all sites have. */
  get connections(): number {
    return this.#connections;
  }

  /** Calls `work` for each connection, which `work` may close. */
  forEachViewer(work: (viewer: Viewer) => void): void {
    for (const { pages } of this.#sites.values())
      for (const { audience } of pages.values())
        for (let left = audience.length; left > 0; left -= 1) work(audience[left - 1]!);
  }

  /** Everybody who is counted on this node. */
  *members(): Generator<Member> {
    for (const { room, pages } of this.#sites.values())
      for (const { site, page, members } of [room, ...pages.values()])
        for (const visitor of members.keys()) yield { site, page, visitor };
  }

  /** How many visitors a site has, or one page of it; undefined for a room that this node does not have. */
  count(name: string, page?: string): number | undefined {
    const site = this.#sites.get(name);
    return (page === undefined ? site?.room : site?.pages.get(page))?.count;
  }

  /** How many connections a visitor has on a site. */
  connectionsOf(site: string, visitor: string): number {
    const presence = this.#sites.get(site)?.room.members.get(visitor);
    return typeof presence === "number" ? presence : 0;
  }

  /** Whether the visitor has no other connection on the same page. */
  isOnlyConnection({ visitor, room }: Viewer): boolean {
    return room.members.get(visitor) === 1;
  }

  /**
   * The counts to tell one connection now. Where a count is newer than the published one, the room is published again even
   * when its count has changed back by then: otherwise this connection would keep the number.
   */
  tellCounts({ site, room }: Viewer): { site: number | undefined; page: number | undefined } {
    for (const told of [ownRoom(site.room), ownRoom(room)]) told.isAhead ||= told.count !== told.published;
    return { site: site.room.count, page: room.count };
  }

  /** The highest count of each site since the last call. */
  takePeaks(): { site: string; peak: number }[] {
    return Array.from(this.#sites.values(), ({ room }) => {
      const peak = room.highestCount;
      room.highestCount = room.count ?? 0;
      return { site: room.site, peak };
    });
  }

  /** Whether `tick` may have something to publish at once. */
  get isDirty(): boolean {
    return this.#ready.size > 0 || this.#reportedCounts.size > 0;
  }

  /** A connection opens: it joins the audience of its page and, unless it only observes, its visitor is counted. */
  open(viewer: Viewer, siteName: string, page: string, now: number): void {
    const site = this.#openSite(siteName);
    const room = this.#openRoom(site, page);
    viewer.site = site;
    site.audience += 1;
    this.#connections += 1;
    this.#enter(viewer, site.room, now);
    this.#joinPage(viewer, room, now);
    if (site.audience === 1) site.room.published = site.room.count; // the first frame tells it
  }

  /** The connection now shows another page of its site. The number of the site cannot change. */
  move(viewer: Viewer, page: string, now: number): void {
    this.#leaveAudience(viewer);
    this.#leave(viewer, ownRoom(viewer.room), now);
    this.#joinPage(viewer, this.#openRoom(ownSite(viewer.site), page), now);
  }

  /** The connection closed. Called once for each connection that was opened. */
  close(viewer: Viewer, now: number): void {
    const site = ownSite(viewer.site);
    site.audience -= 1;
    this.#connections -= 1;
    this.#leaveAudience(viewer);
    this.#leave(viewer, ownRoom(viewer.room), now);
    this.#leave(viewer, site.room, now);
  }

  /** Counts a visitor who was online before a restart, until they are back or the time is over. */
  hold(member: Member, until: number, now: number): void {
    const site = this.#openSite(member.site);
    const room = member.page === undefined ? site.room : this.#openRoom(site, member.page);
    if (room.members.has(member.visitor)) return;
    const departure = { site, room, visitor: member.visitor, at: until };
    room.members.set(member.visitor, departure);
    this.#held.add(departure);
    this.#memberChanged(site, room, member.visitor, true, now);
  }

  /** Takes the count of a room from the cluster: that of all nodes. It is applied later, since the cluster may report inside of `open`. */
  setCount(room: { readonly site: string }, count: number): void {
    this.#reportedCounts.set(ownRoom(room), count);
  }

  /** Lets the members leave whose grace is over, and returns what is to be published now. */
  tick(now: number): Publication[] {
    this.#applyReportedCounts(now);
    if (now >= this.#nextScan) {
      this.#nextScan = now + SCAN_MS;
      this.#expire(this.#grace, now);
      this.#expire(this.#held, now);
      this.#applyReportedCounts(now);
      for (const site of this.#waiting) if (now >= site.nextPublishAt) this.#ready.add(site);
    }
    const ready = [...this.#ready];
    this.#ready.clear();
    for (const site of ready) this.#waiting.delete(site);
    return ready.flatMap((site) => this.#publish(site, now));
  }

  /** Publishes the dirty rooms of a site: to all its pages when the site's number changed, else to the changed pages. */
  #publish(site: SiteState, now: number): Publication[] {
    const changed = new Set([...site.dirty].filter((room) => room.isAhead || room.count !== room.published));
    const changedAt = site.dirtySince;
    site.dirty.clear();
    if (changed.size === 0) return [];
    site.nextPublishAt = now + this.#intervalMs();
    for (const room of changed) {
      room.published = room.count;
      room.isAhead = false;
    }
    const siteChanged = changed.has(site.room);
    const pages = siteChanged ? [...site.pages.values()] : [...changed];
    return pages
      .filter((page) => page.audience.length > 0)
      .map((page) => ({ site, page, siteChanged, pageChanged: changed.has(page), changedAt }));
  }

  /** How long a site that was published rests. The time grows with the number of connections of this node. */
  #intervalMs(): number {
    return Math.min(MAX_INTERVAL_MS, Math.max(MIN_INTERVAL_MS, this.#connections * INTERVAL_MS_PER_CONNECTION));
  }

  #openSite(name: string): SiteState {
    const found = this.#sites.get(name);
    if (found !== undefined) return found;
    const room = this.#newRoom(name, undefined);
    const site = { room, pages: new Map(), audience: 0, dirty: new Set<RoomState>(), dirtySince: 0, nextPublishAt: 0 };
    this.#sites.set(name, site);
    this.#cluster?.opened(room);
    return site;
  }

  #openRoom(site: SiteState, page: string): RoomState {
    const found = site.pages.get(page);
    if (found !== undefined) return found;
    const room = this.#newRoom(site.room.site, page);
    site.pages.set(page, room);
    this.#cluster?.opened(room);
    return room;
  }

  #newRoom(site: string, page: string | undefined): RoomState {
    const count = this.#cluster === undefined ? 0 : undefined;
    return { site, page, members: new Map(), audience: [], count, published: count, isAhead: false, highestCount: 0 };
  }

  /** The connection joins the audience of a page, and its visitor is counted there. */
  #joinPage(viewer: Viewer, room: RoomState, now: number): void {
    viewer.room = room;
    viewer.place = room.audience.push(viewer) - 1;
    this.#enter(viewer, room, now);
    this.#applyReportedCounts(now);
    if (room.audience.length === 1) room.published = room.count; // the first frame tells it
  }

  #enter({ visitor, site }: Viewer, room: RoomState, now: number): void {
    if (visitor === "") return;
    const presence = room.members.get(visitor);
    room.members.set(visitor, typeof presence === "number" ? presence + 1 : 1);
    if (presence === undefined) this.#memberChanged(ownSite(site), room, visitor, true, now);
  }

  /** The connection leaves the audience of its page. The last one of the audience takes its place. */
  #leaveAudience({ room, place }: Viewer): void {
    const { audience } = ownRoom(room);
    const last = audience.pop();
    if (last === undefined || place === audience.length) return;
    audience[place] = last;
    last.place = place;
  }

  #leave(viewer: Viewer, room: RoomState, now: number): void {
    const { visitor } = viewer;
    const site = ownSite(viewer.site);
    const presence = room.members.get(visitor);
    if (visitor === "") this.#forgetIfEmpty(site, room);
    else if (typeof presence === "number" && presence > 1) room.members.set(visitor, presence - 1);
    else {
      const departure = { site, room, visitor, at: now + this.#graceMs };
      room.members.set(visitor, departure);
      this.#grace.add(departure);
    }
  }

  #expire(departures: Set<Departure>, now: number): void {
    let left = MAX_DEPARTURES;
    for (const departure of departures) {
      const { site, room, visitor, at } = departure;
      if (at > now || left === 0) return;
      left -= 1;
      departures.delete(departure);
      if (room.members.get(visitor) !== departure) continue; // the visitor came back
      room.members.delete(visitor);
      this.#memberChanged(site, room, visitor, false, now);
      this.#forgetIfEmpty(site, room);
    }
  }

  /** A visitor entered or left a room: this node knows the new count itself, or tells the cluster. */
  #memberChanged(site: SiteState, room: RoomState, visitor: string, isHere: boolean, now: number): void {
    if (this.#cluster === undefined) this.#setCount(site, room, room.members.size, now);
    else this.#cluster.changed(room, visitor, isHere);
  }

  #applyReportedCounts(now: number): void {
    for (const [room, count] of this.#reportedCounts) {
      const site = this.#sites.get(room.site);
      if (site !== undefined) this.#setCount(site, room, count, now);
    }
    this.#reportedCounts.clear();
  }

  #setCount(site: SiteState, room: RoomState, count: number, now: number): void {
    room.count = count;
    room.highestCount = Math.max(room.highestCount, count);
    if (site.dirty.size === 0) {
      site.dirtySince = now;
      (now >= site.nextPublishAt ? this.#ready : this.#waiting).add(site);
    }
    site.dirty.add(room);
  }

  /** Forgets a room, and then its site, when it has neither members nor an audience. */
  #forgetIfEmpty(site: SiteState, room: RoomState): void {
    if (room.page !== undefined && room.members.size === 0 && room.audience.length === 0) {
      site.pages.delete(room.page);
      this.#cluster?.closed(room);
    }
    if (site.audience > 0 || site.pages.size > 0 || site.room.members.size > 0) return;
    this.#sites.delete(site.room.site);
    this.#cluster?.closed(site.room);
  }
}

// ── 2. Connections ───────────────────────────────────────────────────────────────────────────────────────────────────
// The open sockets: admission, frames in and out, heartbeat, drain. A connection has no timer and no closure of its own:
// one sweep twice a second looks after all of them.

/** One open tab and its socket. `Rooms` and `Journal` change their fields through `Viewer` and `View`. */
export class Connection implements Viewer, View {
  readonly visitor: string;
  /** Set by `Rooms.open`. */
  declare readonly site: Site;
  declare readonly room: Room;
  readonly place: number = 0;

  readonly beganAt: number = 0;
  readonly activeSince: number | undefined = undefined;
  readonly activeMs: number = 0;
  readonly recordedSeconds: number | undefined = undefined;
  readonly isRecorded: boolean = false;

  /** The key by which the limits of its address are counted. */
  readonly addressKey: string;
  /** Whether the view of this connection was counted before, and has only lost its socket. */
  readonly isContinued: boolean;
  isOpen = true;
  /** undefined until the upgrade is complete */
  socket: Socket | undefined = undefined;
  lastHeardAt: number;
  pingAt: number;
  awaitsPong = false;
  repeatAt: number;
  /** The "theoretical arrival time" of the generic cell rate algorithm: each message moves it on by a second. */
  rateLimitedUntil: number;

  constructor(visitor: string, addressKey: string, isContinued: boolean, now: number) {
    this.visitor = visitor;
    this.addressKey = addressKey;
    this.isContinued = isContinued;
    this.lastHeardAt = now;
    this.pingAt = now;
    this.repeatAt = now;
    this.rateLimitedUntil = now;
  }
}

/** What a frame tells. Numbers that are not known are left out. */
type Numbers = Partial<Record<"site" | "page" | "peak" | "read" | keyof TotalNumbers, number | undefined>> & {
  stale?: boolean;
};

/** Where time and chance come from. */
export interface Clock {
  /** Milliseconds that never decrease. */
  now(): number;
  sleep(ms: number): Promise<unknown>;
  /** From 0 to 1. */
  random(): number;
}

const systemClock: Clock = {
  now: () => performance.now(),
  sleep: (ms) => new Promise((wake) => setTimeout(wake, ms)),
  random: Math.random,
};

export interface ConnectionsOptions {
  readonly rooms: Rooms;
  readonly guard: Guard;
  readonly journal: Journal;
  readonly totals: Totals;
  readonly heartbeatMs: number;
  /** Is told how long a change waited until it had been sent to the whole audience of a page, in milliseconds. */
  readonly onBroadcast?: (delayMs: number) => void;
  readonly clock?: Clock;
}

/** A frame that is on its way to an audience. */
interface Broadcast {
  readonly audience: readonly Viewer[];
  readonly frame: string;
  readonly changedAt: number;
  /** How many connections, from the start of the audience on, have not got the frame yet. */
  left: number;
}

/** `Connections` created every viewer. */
const ownConnection = (viewer: Viewer) => viewer as Connection;

const OPEN = 1; // WebSocket.OPEN
const CLOSE = { goingAway: 1001, policy: 1008, tooBig: 1009, restart: 1012 } as const;
const UPGRADE_TIMEOUT_MS = 5_000; // a client that resets in mid-upgrade may cause no event at all
const REPEAT_MS = 30_000;
const MAX_FRAME_BYTES = 1_024;
const MAX_BUFFERED_BYTES = 65_536;
const MAX_MESSAGES_PER_MINUTE = 60;
const MAX_WINDOW_SECONDS = 8;
const RECONNECTS_PER_SECOND = 2_500; // a node takes as many with ease
const DRAIN_MS = 8_000;
const HOLD_MS = 15_000; // how long a restarted node counts the visitors who were online before
const RECORD_MS = 5_000; // how much of the statistics a crash may lose
const SWEEP_INTERVAL_MS = 500; // of 18,000 connections, 360 are pinged in this time, and their numbers are read again
const MAX_REFRESHES = 100; // per scan: each asks the engine for a median

const PageFrame = v.pipe(
  v.strictObject({ page: v.optional(v.string()), active: v.optional(v.boolean()) }),
  v.check((frame) => frame.page !== undefined || frame.active !== undefined),
);

export class Connections implements SocketEvents<Connection> {
  /** What has happened since the start. */
  readonly counters = { frames: 0, pings: 0, silent: 0, slow: 0 };
  /** Connections that have moved to another page: those that wait for its numbers, and those that wait for its median. */
  readonly #moved = new Set<Connection>();
  readonly #toRefresh = new Set<Connection>();
  readonly #rooms: Rooms;
  readonly #guard: Guard;
  readonly #journal: Journal;
  readonly #totals: Totals;
  readonly #heartbeatMs: number;
  readonly #onBroadcast: (delayMs: number) => void;
  readonly #clock: Clock;
  #isStale = false;
  /** What is to be broadcast, in no order. */
  readonly #publications: Publication[] = [];
  /** The broadcast that has begun. */
  #broadcast: Broadcast | undefined;
  #willSendPortion = false;
  #willFlush = false;
  #recording: Promise<void> | undefined;
  #holding: Promise<void> | undefined;
  #sweptAt = Infinity;
  /** Once the node stops: the time in seconds in which pages are to reconnect. */
  #reconnectWindow: string | undefined;

  constructor(options: ConnectionsOptions) {
    this.#rooms = options.rooms;
    this.#guard = options.guard;
    this.#journal = options.journal;
    this.#totals = options.totals;
    this.#heartbeatMs = options.heartbeatMs;
    this.#onBroadcast = options.onBroadcast ?? (() => {});
    this.#clock = options.clock ?? systemClock;
  }

  get isDraining(): boolean {
    return this.#reconnectWindow !== undefined;
  }

  /** Whether numbers may be old because the engine is away. */
  get stale(): boolean {
    return this.#isStale;
  }

  /** How many connections are open or about to be. */
  get size(): number {
    return this.#rooms.connections;
  }

  /**
   * Resolves when the visitors from before a restart are counted. Requests wait for it, since numbers are too small until
   * then. Undefined after the start.
   */
  get holding(): Promise<void> | undefined {
    return this.#holding;
  }

  /** Counts the visitors who were online before a restart, until they are back or the time is over. */
  hold(held: Promise<readonly Member[]>): Promise<void> {
    this.#holding = this.#holdAll(held)
      .catch(report) // a dip is better than no service
      .finally(() => {
        this.#holding = undefined;
      });
    return this.#holding;
  }

  async #holdAll(held: Promise<readonly Member[]>): Promise<void> {
    const now = this.#clock.now();
    await inPortions(await held, (member) => this.#rooms.hold(member, now + HOLD_MS, now));
  }

  /** Why this visitor may not open one more connection now; undefined when they may. */
  refusal(site: string, visitor: string, addressKey: string): Reason | undefined {
    if (this.isDraining) return "draining";
    return this.#guard.checkNewConnection(addressKey, {
      isObserver: visitor === "",
      ofVisitor: this.#rooms.connectionsOf(site, visitor),
      ofAll: this.size,
    });
  }

  /** Counts a connection from now on. Its socket must follow within 5 s. */
  admit(site: string, { visitor, page, isContinued }: Claims, addressKey: string): Connection {
    const now = this.#clock.now();
    const connection = new Connection(visitor, addressKey, isContinued, now);
    connection.pingAt += this.#clock.random() * this.#heartbeatMs; // spread, so that pings do not come all at once
    connection.repeatAt += REPEAT_MS;
    this.#rooms.open(connection, site, page, now);
    this.#journal.beginView(connection, { isOnlyView: this.#rooms.isOnlyConnection(connection), isContinued }, now);
    this.#guard.connectionOpened(addressKey);
    this.flushSoon();
    return connection;
  }

  /** The upgrade is complete. */
  opened(connection: Connection, socket: Socket): void {
    if (!connection.isOpen) return socket.close(CLOSE.goingAway, ""); // the upgrade took too long
    connection.socket = socket;
    connection.lastHeardAt = this.#clock.now();
    if (!connection.isContinued) this.#countView(connection);
    if (this.#reconnectWindow === undefined) this.#sendAll(connection);
    else socket.close(CLOSE.restart, this.#reconnectWindow); // it was not there when the drain began
  }

  /** A ping or a pong came. The pong that answers our ping is free; other control frames count as messages. */
  heard(connection: Connection): void {
    const now = this.#clock.now();
    connection.lastHeardAt = now;
    if (connection.awaitsPong) connection.awaitsPong = false;
    else if (connection.isOpen && this.#isOverRate(connection, now)) this.#closeForRate(connection);
  }

  received(connection: Connection, data: unknown): void {
    if (!connection.isOpen) return;
    const now = this.#clock.now();
    connection.lastHeardAt = now;
    if (this.#isOverRate(connection, now)) return this.#closeForRate(connection);
    if (typeof data !== "string") return this.#close(connection, CLOSE.policy, "not text");
    if (Buffer.byteLength(data) > MAX_FRAME_BYTES) return this.#close(connection, CLOSE.tooBig, "message too big");
    const frame = v.safeParse(PageFrame, parseJson(data));
    if (!frame.success) return this.#close(connection, CLOSE.policy, "not understood");
    const { page, active } = frame.output;
    const name = page === undefined ? undefined : pageName(page);
    if (page !== undefined && name === undefined) return this.#close(connection, CLOSE.policy, "not understood");
    if (name !== undefined) this.#move(connection, name, now);
    if (active !== undefined) this.#journal.setActive(connection, active, now);
  }

  /** The socket is gone. Idempotent, because Deno fires `close` twice after a timeout. */
  closed(connection: Connection): void {
    if (!connection.isOpen) return;
    connection.isOpen = false;
    const now = this.#clock.now();
    connection.socket = undefined;
    this.#moved.delete(connection);
    this.#toRefresh.delete(connection);
    this.#guard.connectionClosed(connection.addressKey);
    this.#journal.endView(connection, true, now);
    this.#rooms.close(connection, now);
  }

  /** Sends what has changed. Called every 50 ms, and by `flushSoon`. */
  flush(): void {
    for (const connection of this.#moved) {
      this.#sendAll(connection);
      this.#toRefresh.add(connection);
    }
    this.#moved.clear();
    if (this.#willSendPortion) return; // what changes during a broadcast waits
    const now = this.#clock.now();
    for (const publication of this.#rooms.tick(now)) this.#publications.push(publication);
    this.#sendPortion(now + SEND_PORTION_MS);
  }

  /** Goes on with the broadcasts. A frame costs about 10 µs, so a large audience gets its frames in several turns. */
  #sendPortion(pauseAt: number): void {
    this.#broadcast ??= this.#nextBroadcast();
    while (this.#broadcast !== undefined) {
      if (!this.#sendBroadcast(this.#broadcast, pauseAt)) {
        this.#willSendPortion = true;
        setImmediate(this.#sendNextPortion);
        return;
      }
      this.#broadcast = this.#nextBroadcast();
    }
    this.flushSoon();
  }

  readonly #sendNextPortion = guarded(() => {
    this.#willSendPortion = false;
    this.#sendPortion(this.#clock.now() + SEND_PORTION_MS);
  });

  /** All connections, as they are now. They may close and move while the result is read. */
  #all(): Connection[] {
    const all: Connection[] = [];
    this.#rooms.forEachViewer((viewer) => all.push(ownConnection(viewer)));
    return all;
  }

  /** Sends something to each connection, or closes it, and lets everything else have a turn in between. */
  #inPortions(connections: readonly Connection[], work: (connection: Connection) => void): Promise<void> {
    return inPortions(connections, work, SEND_PORTION_MS, () => this.#clock.now());
  }

  #nextBroadcast(): Broadcast | undefined {
    const publication = this.#publications.pop();
    if (publication === undefined) return undefined;
    const { page, changedAt } = publication;
    return {
      audience: page.audience,
      frame: this.#publicationFrame(publication),
      left: page.audience.length,
      changedAt,
    };
  }

  /**
   * Sends a frame to an audience until it is time to pause. The whole audience gets the same numbers, even if they change
   * meanwhile; the next broadcast tells the new ones. Audiences are read from the end: whoever comes meanwhile has the
   * number from the first frame, and whoever takes the place of a connection that has closed comes from the end, so nobody
   * is left out.
   * @returns whether the whole audience has the frame
   */
  #sendBroadcast(broadcast: Broadcast, pauseAt: number): boolean {
    const { audience, frame, changedAt } = broadcast;
    while (broadcast.left > 0) {
      if (this.#clock.now() >= pauseAt) return false;
      broadcast.left = Math.min(broadcast.left, audience.length) - 1; // some may have gone
      if (broadcast.left >= 0) this.#send(ownConnection(audience[broadcast.left]!), frame);
    }
    this.#onBroadcast(this.#clock.now() - changedAt);
    return true;
  }

  #publicationFrame({ site, page, siteChanged, pageChanged }: Publication): string {
    const count = site.room.published;
    const isNewPeak = siteChanged && this.#journal.dayPeak(site.room) === count; // or the old one, reached again
    return this.#frame({
      site: siteChanged ? count : undefined,
      page: pageChanged ? page.published : undefined,
      peak: isNewPeak ? count : undefined,
    });
  }

  /** Flushes at the end of this turn of the event loop, so that everything that happens in one turn is in one frame. */
  flushSoon(): void {
    if (this.#willFlush || (!this.#rooms.isDirty && this.#moved.size === 0)) return;
    this.#willFlush = true;
    setImmediate(this.#flushNow);
  }

  readonly #flushNow = guarded(() => {
    this.#willFlush = false;
    this.flush();
  });

  /**
   * Counts the visitor of today, and brings peak, median and totals up to date. A new peak or median, and totals that were
   * not known, are sent to this connection now, and to others when their numbers are repeated.
   * @returns undefined when all is up to date, as it is for most connections
   */
  countAndRefresh(connection: Connection): Promise<void> | undefined {
    const { visitor, room } = connection;
    const counting = visitor === "" ? undefined : this.#totals.countVisitor(room.site, visitor);
    return counting === undefined ? this.#readNumbers(connection) : counting.then(() => this.#readNumbers(connection));
  }

  /** Brings the numbers of those up to date who have moved to another page: some now, the others next time. */
  refreshMoved(): void {
    for (const connection of [...this.#toRefresh].slice(0, MAX_REFRESHES)) {
      this.#toRefresh.delete(connection);
      this.countAndRefresh(connection)?.catch(report);
    }
  }

  /** Frees connections that never opened, closes silent ones, pings and repeats when it is time. */
  sweep(): void {
    const now = this.#clock.now();
    const processWasFrozen = now - this.#sweptAt > this.#heartbeatMs; // then nothing could be heard
    this.#sweptAt = now;
    const due: Connection[] = [];
    this.#rooms.forEachViewer((viewer) => {
      const connection = ownConnection(viewer);
      const { socket, lastHeardAt, pingAt, repeatAt } = connection;
      if (processWasFrozen) connection.lastHeardAt = now;
      const isSilent = socket === undefined || now - lastHeardAt > 2 * this.#heartbeatMs;
      if (isSilent || now >= pingAt || now >= repeatAt) due.push(connection);
    });
    // All pages that came in one storm are due together.
    this.#inPortions(due, (connection) => this.#lookAfter(connection, now)).catch(report);
  }

  #lookAfter(connection: Connection, now: number): void {
    if (!connection.isOpen) return; // it closed during an earlier portion
    const silentMs = now - connection.lastHeardAt;
    const { socket } = connection;
    if (socket === undefined) {
      if (silentMs > UPGRADE_TIMEOUT_MS) this.closed(connection);
    } else if (silentMs > 2 * this.#heartbeatMs && socket.ping !== undefined) {
      this.counters.silent += 1; // Deno finds silent peers by itself: see edge/runtimes.ts
      this.#terminate(connection);
    } else if (now >= connection.pingAt || now >= connection.repeatAt) this.#pingAndRepeat(connection, socket, now);
  }

  /** Gives the journal's sums to the engine, and forgets addresses that have asked for nothing lately. A call during another one waits for that one. */
  record(): Promise<void> {
    this.#recording ??= this.#recordOnce().finally(() => {
      this.#recording = undefined;
    });
    return this.#recording;
  }

  async #recordOnce(): Promise<void> {
    await this.#journal.record(this.#all(), this.#clock.now());
    await this.#totals.countWaiting(); // those whom the engine did not take before
    this.#guard.forgetIdle();
  }

  /** Starts the timers that drive all of this. @returns a function that stops them */
  start(): () => void {
    const record = () => this.record().catch(report);
    const timers = [
      setInterval(
        guarded(() => {
          this.flush();
          this.refreshMoved();
        }),
        SCAN_MS,
      ),
      setInterval(
        guarded(() => this.sweep()),
        Math.min(SWEEP_INTERVAL_MS, this.#heartbeatMs / 4),
      ),
      setInterval(record, RECORD_MS),
    ];
    return () => timers.forEach(clearInterval);
  }

  /** The engine went away or came back: every page is told that its number may be old, or is exact again. */
  setStale(stale: boolean): void {
    if (stale === this.#isStale) return;
    this.#isStale = stale;
    const tell = (connection: Connection) => this.#sendAll(connection, { stale: this.#isStale });
    this.#inPortions(this.#all(), tell).catch(report);
  }

  /** Closes all connections with a time to reconnect in. Resolves when all are gone, or after 8 s. */
  async drain(): Promise<void> {
    const seconds = Math.min(MAX_WINDOW_SECONDS, Math.ceil(this.size / RECONNECTS_PER_SECOND));
    const reconnectWindow = String(seconds);
    this.#reconnectWindow = reconnectWindow;
    const deadline = this.#clock.now() + DRAIN_MS;
    await this.#inPortions(this.#all(), ({ socket }) => socket?.close(CLOSE.restart, reconnectWindow));
    while (this.size > 0 && this.#clock.now() < deadline) await this.#clock.sleep(20);
  }

  /** The tab shows another page: a new view begins, with a first frame of its own. */
  #move(connection: Connection, page: string, now: number): void {
    if (page === connection.room.page) return;
    this.#journal.endView(connection, false, now);
    this.#rooms.move(connection, page, now);
    const isOnlyView = this.#rooms.isOnlyConnection(connection);
    this.#journal.beginView(connection, { isOnlyView, isContinued: false }, now);
    this.#countView(connection);
    this.#moved.add(connection); // a tab that moves many times in one turn gets one frame
    this.flushSoon();
  }

  /** Pings, and repeats the numbers. Those that are due before the next ping go with this one: both are then one write. */
  #pingAndRepeat(connection: Connection, socket: Socket, now: number): void {
    const pings = now >= connection.pingAt;
    const repeats = connection.repeatAt <= (pings ? now + this.#heartbeatMs : now);
    const write = () => {
      if (pings) socket.ping?.();
      if (repeats) this.#sendAll(connection);
    };
    if (socket.cork === undefined) write();
    else socket.cork(write);
    if (pings) {
      connection.pingAt = now + this.#heartbeatMs; // on Deno too, which pings by itself, so that repeats keep their time
      connection.awaitsPong = true;
      if (socket.ping !== undefined) this.counters.pings += 1;
    }
    if (repeats) {
      connection.repeatAt = now + REPEAT_MS;
      this.countAndRefresh(connection)?.catch(report);
    }
  }

  #readNumbers(connection: Connection): Promise<void> | undefined {
    const { site, room } = connection;
    const now = this.#clock.now();
    const ofJournal = this.#journal.refresh(site.room, room, now);
    const ofTotals = this.#totals.refresh(room.site, room.page ?? "", now);
    if (ofJournal === undefined && ofTotals === undefined) return undefined;
    const read = async () => {
      const changes = await Promise.all([ofJournal, ofTotals]);
      if (changes.includes(true)) this.#sendAll(connection);
    };
    return read();
  }

  #countView({ visitor, room }: Connection): void {
    if (visitor !== "") this.#totals.countView(room.site, room.page ?? "");
  }

  /** Sends all numbers that the connection may show. */
  #sendAll(connection: Connection, more: Numbers = {}): void {
    const { site, room } = connection;
    const peak = this.#journal.dayPeak(site.room);
    const read = this.#journal.median(room);
    const totals = this.#totals.numbers(room.site, room.page ?? "");
    this.#send(connection, this.#frame({ ...this.#rooms.tellCounts(connection), peak, read, ...totals, ...more }));
  }

  #frame(numbers: Numbers): string {
    return JSON.stringify(this.#isStale ? { ...numbers, stale: true } : numbers);
  }

  #send(connection: Connection, text: string): void {
    const { socket } = connection;
    if (socket?.readyState !== OPEN) return;
    this.counters.frames += 1;
    socket.send(text);
    // There is no queue for slow readers: who leaves 64 KiB unread is closed and reconnects. Bun does that by itself.
    if ((socket.bufferedAmount ?? 0) > MAX_BUFFERED_BYTES) {
      this.counters.slow += 1;
      this.#terminate(connection);
    }
  }

  /** Counts one more message. A minute of messages may come at once, since `rateLimitedUntil` may be a minute ahead. */
  #isOverRate(connection: Connection, now: number): boolean {
    connection.rateLimitedUntil = Math.max(connection.rateLimitedUntil, now) + MINUTE_MS / MAX_MESSAGES_PER_MINUTE;
    return connection.rateLimitedUntil > now + MINUTE_MS;
  }

  #closeForRate(connection: Connection): void {
    this.#close(connection, CLOSE.policy, "too many messages");
  }

  #close(connection: Connection, code: number, reason: string): void {
    connection.socket?.close(code, reason);
    this.closed(connection);
  }

  /** Ends a socket whose peer would not answer a close frame. */
  #terminate(connection: Connection): void {
    if (connection.socket?.terminate !== undefined) connection.socket.terminate();
    else connection.socket?.close(CLOSE.policy, "too slow");
    this.closed(connection);
  }
}

// ── 3. Routes ────────────────────────────────────────────────────────────────────────────────────────────────────────
// Each refusal is a problem document (RFC 9457) that a page on another origin can read.

type App = RequestEnv<Connection>;
type Refuse = (c: Context, reason: Reason, detail?: string) => Response;

export interface AppOptions {
  readonly settings: Settings;
  readonly allowedSites: AllowedSites;
  readonly signer: Signer;
  readonly guard: Guard;
  readonly rooms: Rooms;
  readonly connections: Connections;
  readonly journal: Journal;
  readonly totals: Totals;
  readonly engine: Engine;
  readonly metrics: Metrics;
  readonly clock: Clock;
  readonly assets: Assets;
  readonly version: string;
  /** The day that it is now, on the calendar of TZ. */
  readonly today: () => number;
  /** The password of the user `admin`. */
  readonly password: string;
}

const TokenRequest = v.pipe(
  v.custom<object>((body) => !Array.isArray(body)), // valibot takes an array for an object
  v.object({
    page: v.optional(v.string()),
    visitor: v.optional(v.string()),
    observe: v.optional(v.boolean()),
    again: v.optional(v.boolean()),
  }),
);
const TOKEN_HEADERS = { "Content-Type": "application/json", "Cache-Control": "no-store" };
const PRIVATE_PATH = /^\/(dashboard|metrics)/; // other sites must not read these with the operator's password

/** Builds the routes. The `fetch` of the result wants a `Client` beside each request. */
export function createApp(options: AppOptions): Hono<App> {
  const { settings, allowedSites, guard, rooms: live, connections, journal, totals, engine, metrics, assets } = options;
  const hints = createHints(settings.TRUST_PROXY, allowedSites);
  const refuse: Refuse = (c, reason, detail) => {
    metrics.refused(reason, reason === "origin" ? originOf(c) : undefined);
    if (reason === "origin") hints.originRefused(originOf(c));
    return problem(c, reason, detail ?? hints.detailOf(c, reason));
  };
  const forSite = createSiteQuestions({ trustProxy: settings.TRUST_PROXY, allowedSites, connections, refuse });
  const embedderOf = createEmbedderLookup(allowedSites);
  const validHosts = memoOfHeaders(isValidHost);
  const app = new Hono<App>();

  app.use(async (c, next) => {
    if (connections.holding !== undefined) await connections.holding;
    const address = clientAddress(c.env, c.req.header("x-forwarded-for"), settings.TRUST_PROXY);
    c.set("address", address);
    c.set("addressKey", limitKey(address));
    hints.lookAt(c);
    const refused = isTooLong(c.req.url)
      ? "url"
      : (guard.checkAddress(address) ?? (validHosts.get(hostOf(c)) ? undefined : "host"));
    if (refused !== undefined) c.res = refuse(c, refused);
    else await next();
    if (c.res.status !== 101 && !PRIVATE_PATH.test(c.req.path)) allowAllOrigins(c); // Deno's 101 must stay as it is
  });
  addTokenRoute(app, options, embedderOf, refuse);
  addSocketRoute(app, options, embedderOf, refuse);
  const now = () => options.clock.now();
  addPublicRoutes(app, { journal, totals, engine, live, connections, now, forSite, pageName, paramsOf, refuse });
  addStatsRoutes(app, {
    journal,
    totals,
    engine,
    live,
    listedSites: allowedSites.names,
    connections,
    metrics,
    version: options.version,
    maxConnections: settings.MAX_CONNECTIONS,
    operatorOnly: operatorOnly(guard, options.password, refuse),
    isPublic: settings.PUBLIC_DASHBOARD === "true",
    forSite,
    refuse,
    titleOf: (reason) => REFUSALS[reason as Reason][1],
  });
  addOwnPages(app, assets, settings.TRUST_PROXY);
  addCheckRoute(app, settings, allowedSites);
  addHealthRoutes(app, connections, journal, refuse);
  app.options("*", answerPreflight);
  app.notFound((c) => refuse(c, "unknown"));
  app.onError((error, c) => {
    const clientLeft = c.req.raw.signal.aborted || /^(Http|BadResource)$/.test(error.name); // on Bun, and on Deno
    if (!clientLeft) report(error);
    return refuse(c, "error");
  });
  return app;
}

/** A service whose numbers are stale, or whose statistics cannot be written, still takes visitors. */
function addHealthRoutes(app: Hono<App>, connections: Connections, journal: Journal, refuse: Refuse): void {
  app.get("/healthz", (c) => c.text("ok"));
  app.get("/readyz", (c) => {
    if (connections.isDraining) return refuse(c, "draining");
    const troubles = [connections.stale && "stale", journal.isFailing && "statistics cannot be written"];
    return c.text(["ok", ...troubles.filter((trouble) => trouble !== false)].join(", "));
  });
}

const refuseOrigin = (c: Context, refuse: Refuse) =>
  refuse(c, "origin", `${originOf(c) || "A request without Origin"} is not one of the SITES of this service`);

/** `POST /token`: weighs a visitor and hands out a ticket for the socket. */
function addTokenRoute(
  app: Hono<App>,
  { settings, signer, guard, connections, engine, metrics, today }: AppOptions,
  embedderOf: EmbedderOf,
  refuse: Refuse,
): void {
  const identify = createIdentify({ settings, signer, secrets: engine, today });
  const bots = memoOfHeaders((userAgent) => isbot(userAgent));
  const isCrawler = (c: Context) => bots.get(userAgentOf(c));

  app.post("/token", async (c) => {
    const addressKey = c.get("addressKey");
    const { origin, site } = embedderOf(c);
    if (site === undefined) return refuseOrigin(c, refuse); // counts against no limit: any page can make its readers ask
    const limited = guard.checkBan(addressKey) ?? guard.checkTokenRequest(addressKey);
    if (limited !== undefined) return refuse(c, limited);
    if (settings.COUNT_BOTS === "false" && isCrawler(c)) return refuse(c, "bot");
    const text = await readBody(c.req.raw).catch(() => "cut off"); // which is not JSON, and therefore refused
    if (text === undefined) return refuse(c, "size");
    const body = v.safeParse(TokenRequest, text === "" ? {} : parseJson(text));
    if (!body.success) return refuse(c, "body");
    const { page: rawPage = "/", visitor: stored, observe = false, again = false } = body.output;
    const page = pageName(rawPage);
    if (page === undefined) return refuse(c, "page");
    const { visitor, isNew, signed } = observe ? OBSERVER : await identify(c, c.get("address"), site, stored);
    const refused =
      (isNew ? guard.checkNewVisitor(addressKey) : undefined) ?? connections.refusal(site, visitor, addressKey);
    if (refused !== undefined) return refuse(c, refused);
    const expires = engine.wallClock() + settings.TOKEN_TTL_SECONDS * 1_000;
    const token = signer.signToken(origin, { visitor, page, expires, nonce: newNonce(), isContinued: again });
    metrics.counters.tokens += 1;
    const headers: Record<string, string> = { ...TOKEN_HEADERS, ...crossOriginHeaders(c) };
    if (signed !== undefined) headers["Set-Cookie"] = visitorCookie(site, signed, isSecure(c, settings.TRUST_PROXY));
    return new Response(JSON.stringify({ token, visitor: signed }), { headers });
  });
}

/** `GET /ws`: takes the token and opens the connection. */
function addSocketRoute(
  app: Hono<App>,
  { signer, guard, connections, engine, metrics, clock }: AppOptions,
  embedderOf: EmbedderOf,
  refuse: Refuse,
): void {
  app.get("/ws", async (c) => {
    if (c.req.header("upgrade")?.toLowerCase() !== "websocket") return refuse(c, "upgrade");
    const { origin, site } = embedderOf(c);
    if (site === undefined) return refuseOrigin(c, refuse);
    const claims = signer.readToken(origin, tokenOf(c.req.url), engine.wallClock());
    if (claims === undefined) return refuse(c, "token");
    const claimedAt = clock.now();
    const isUnspent = await engine.spend({ ...claims, site }, engine.wallClock());
    metrics.claimDuration.observe((clock.now() - claimedAt) / 1_000);
    if (!isUnspent) return refuse(c, "token");
    const addressKey = c.get("addressKey");
    const refused = guard.checkBan(addressKey) ?? connections.refusal(site, claims.visitor, addressKey);
    if (refused !== undefined) return refuse(c, refused);
    const connection = connections.admit(site, claims, addressKey);
    await connections.countAndRefresh(connection); // so that peak and reading time are in the first frame
    const response = c.env.upgrade(connection);
    if (response === undefined) {
      connections.closed(connection);
      return refuse(c, "handshake");
    }
    metrics.counters.upgrades += 1;
    return response;
  });
}

// ── 4. Service ───────────────────────────────────────────────────────────────────────────────────────────────────────
// How the parts are put together. `main` and the tests use the same function.

const GENERATED_PASSWORD_LENGTH = 16; // 96 bits

export interface ServiceOptions {
  readonly settings: Settings;
  readonly engine: Engine;
  readonly assets: Assets;
  /** @default {"development"} */
  readonly version?: string;
  readonly clock?: Clock;
  /** How many files this process may open; Infinity where that is unknown. */
  readonly openFiles?: number;
}

export interface Service extends AppOptions {
  readonly app: Hono<App>;
}

/** Builds the service. Nothing runs, and nobody is counted, before `startService`. */
export async function createService(options: ServiceOptions): Promise<Service> {
  const { settings, engine, assets, version = "development", clock = systemClock, openFiles = Infinity } = options;
  const metrics = createMetrics();
  const signer = new Signer(settings.SECRET ?? (await engine.secret("signing", "")));
  const allowedSites = new AllowedSites(settings.SITES);
  const guard = new Guard(settings, createFileCheck(openFiles), () => clock.now());
  const rooms = new Rooms(settings.GRACE_SECONDS * 1_000, engine.cluster);
  const listedSites = allowedSites.names;
  const wallClock = () => engine.wallClock();
  const sites = new RecordedSites(listedSites);
  const calendar = createCalendar(settings.TZ);
  const today = () => calendar(engine.wallClock());
  const dayOfMinting = settings.IDENTITY === "hash" ? today : mintedOn; // a hash lasts a day
  const totals = new Totals({ store: engine, secrets: engine, today, mintedOn: dayOfMinting, sites, log });
  const journal = new Journal({ store: engine, live: rooms, totals, sites, wallClock, log });
  const heartbeatMs = settings.HEARTBEAT_SECONDS * 1_000;
  const onBroadcast = (delayMs: number) => metrics.broadcastDelay.observe(delayMs / 1_000);
  const connections = new Connections({ rooms, guard, journal, totals, heartbeatMs, onBroadcast, clock });
  metrics.watch({ live: rooms, listedSites, connections, journal, totals, engine, droppedLines, version });
  engine.cluster?.listen({
    count: (room, count) => {
      rooms.setCount(room, count);
      connections.flushSoon();
    },
    stale: (stale) => connections.setStale(stale),
  });
  engine.cluster?.share(sharedSettings(settings, allowedSites, signer.fingerprint));
  const password = settings.ADMIN_PASSWORD ?? (await engine.secret("admin", "")).slice(0, GENERATED_PASSWORD_LENGTH);
  const parts = {
    settings,
    allowedSites,
    signer,
    guard,
    rooms,
    connections,
    engine,
    clock,
    assets,
    version,
    password,
    journal,
    totals,
    today,
    metrics,
  };
  return { ...parts, app: createApp(parts) };
}

/**
 * Counts the visitors who were online before a restart, and starts the timers.
 * @returns a function that stops the service: it hands over, sends all pages away, and writes everything
 */
export async function startService({ engine, signer, rooms, connections }: Service): Promise<() => Promise<void>> {
  await connections.hold(engine.held(signer.fingerprint));
  const stopTimers = connections.start();
  return async () => {
    await engine.hold(rooms.members(), signer.fingerprint).catch(report); // before any page leaves
    await connections.drain();
    stopTimers();
    await connections.record();
    await engine.close();
  };
}

/** Loads the engine that the settings ask for, and only that one. */
export async function openEngine(settings: Settings, more: Partial<EngineOptions> = {}): Promise<Engine> {
  const options = { tokenTtlMs: settings.TOKEN_TTL_SECONDS * 1_000, log, ...more };
  if (settings.REDIS_URL === undefined) {
    const { SqliteEngine } = await import("./engine/sqlite.ts");
    return SqliteEngine.open({ folder: settings.DATA, ...options });
  }
  const { RedisEngine } = await import("./engine/redis.ts");
  return RedisEngine.open(settings.REDIS_URL, options);
}

const untilSignal = (...signals: NodeJS.Signals[]) =>
  new Promise((resolve) => signals.forEach((signal) => process.on(signal, resolve)));

const LAST_LINES_MS = 500;

/** Serves, or does what the command line says instead. */
async function main(): Promise<void> {
  const command = readCommand(process.argv.slice(2));
  if (command.name === "serve") await runService();
  else
    await runCommand(command, readVersion, async (options) => {
      const settings = readSettings(process.env);
      const sites = new AllowedSites(settings.SITES);
      const store = await openEngine(settings, options);
      return { store, siteName: (name) => sites.forImport(name), pageName };
    });
  process.exit(0);
}

/** @returns the number of the port */
const openPort = ({ app, connections, settings }: Service): number =>
  listen<Connection>({
    hostname: settings.HOST,
    port: settings.PORT,
    fetch: app.fetch,
    events: connections,
    maxFrameBytes: MAX_FRAME_BYTES,
    maxBufferedBytes: MAX_BUFFERED_BYTES,
    idleSeconds: 2 * settings.HEARTBEAT_SECONDS,
  });

/** Serves until a signal comes. */
async function runService(): Promise<void> {
  const openFiles = openFilesLimit();
  const settings = readSettings(process.env, openFiles);
  warnOfUnusedData(settings);
  const engine = await openEngine(settings);
  const service = await createService({ settings, engine, assets: readAssets(), version: readVersion(), openFiles });
  const port = openPort(service); // first: a node that cannot listen must not take over
  const stop = await startService(service);
  announce(settings, port, service.version, service.password);
  await untilSignal("SIGINT", "SIGTERM", "SIGHUP");
  log("info", "stopping", { pages: service.connections.size });
  await stop();
  await flushLog(LAST_LINES_MS);
}

if (import.meta.main) {
  main().catch((error: unknown) => {
    process.stderr.write(`${messageOf(error)}\n`);
    process.exit(1);
  });
}
