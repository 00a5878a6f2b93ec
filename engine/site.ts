/**
 * One site as this node shares it with other nodes: what Redis must still be told, and which totals Redis has answered.
 *
 * One sync of a site is under way at a time. Changes that happen meanwhile go with the next sync, and so do the claims of
 * tokens. The rooms themselves are the memory from which everything can be told again.
 */

import { randomBytes } from "node:crypto";
import { type ClusterRoom, type Log, messageOf } from "./engine.ts";
import { type Link, sendAt } from "./link.ts";
import { type Message, MessageWatch, totalsOf } from "./messages.ts";
import { type Claimer, claimKeyOf, type Durations, keyOf } from "./options.ts";
import { SyncSchedule } from "./schedule.ts";
import { REAP, REPAIR, SYNC } from "./scripts.ts";

/** What all sites of a node have in common. */
export interface SiteContext {
  readonly link: Pick<Link, "run" | "isAway" | "answeringMs">;
  readonly durations: Durations;
  readonly log: Log;
  readonly prefix: string;
  readonly claimer: Claimer;
  /** The Pub/Sub channel for totals that changed. */
  readonly channel: string;
}

export interface SiteListener {
  /** The room has so many visitors on all nodes. */
  total(room: ClusterRoom, total: number): void;
  /** `SharedSite.isStale` changed. */
  staleChanged(site: SharedSite): void;
  /** Messages do not arrive, although the subscription seems to be alive. */
  messagesMissing(): void;
  /** The site has no rooms any more, and Redis knows so. */
  emptied(site: SharedSite): void;
}

/** Where the totals that this node reports come from. */
type Confidence =
  /** Redis has said them. */
  | "live"
  /** They are the last known ones plus local changes. Redis is away, or does not know all visitors yet. */
  | "estimating"
  /** They are still estimates. Redis knows all visitors, and is being asked for all totals. */
  | "confirming";

/** A room of this node, and its total. */
interface SharedRoom {
  readonly room: ClusterRoom;
  /** The total that Redis said last, and the epoch and version that it belongs to. */
  known: number | undefined;
  epoch: number;
  version: number;
  /** The total that was reported to the node last. */
  reported: number | undefined;
}

/** A nonce that must be claimed before its page is let in. */
interface Claim {
  readonly key: string;
  /** Called with undefined when Redis has not said whether the nonce is free. */
  readonly resolve: (isFree: boolean | undefined) => void;
}

interface Batch {
  readonly claims: readonly Claim[];
  /** Members, with "+" (has come) or "-" (has left) before them. */
  readonly changes: readonly string[];
  /** Pages whose totals are asked for. */
  readonly pages: readonly string[];
}

interface SyncAnswer {
  readonly epoch: number;
  /** How long ago Redis began to count on this site. */
  readonly ageMs: number;
  readonly version: number;
  /** The version of the last message. */
  readonly published: number;
  /** In how many milliseconds a sync can publish later versions; 0 when there are none. */
  readonly waitMs: number;
  readonly expiredNodes: readonly string[];
  readonly totals: ReadonlyMap<string, number>;
}

// ── Members ─────────────────────────────────────────────────────────────────────────────────────────────────────────
// Redis knows a member of a room as "visitor" on the site and as "visitor /page" on a page. Visitor ids hold no space.

/** How many members, pages or claims go into one script. A thousand take Redis about 3 ms. */
const MAX_BATCH = 1_000;

const memberOf = (visitor: string, page: string) => (page === "" ? visitor : `${visitor} ${page}`);
const pageOf = (member: string) => (member.includes(" ") ? member.slice(member.indexOf(" ") + 1) : "");
const pageOfRoom = (room: ClusterRoom) => room.page ?? "";

/** A random name. */
export const newNodeName = (): string => randomBytes(9).toString("base64url");

/** What SYNC answers: for each claim 1 when it was free, and nothing else when the node must begin anew. */
type SyncReply =
  | [claimed: number[]]
  | [
      claimed: number[],
      epoch: string,
      ageMs: number,
      version: number,
      published: number,
      waitMs: number,
      expired: string[],
      totals: unknown[],
    ];

/** Undefined when the node must begin anew. */
function syncAnswerOf(reply: SyncReply): SyncAnswer | undefined {
  if (reply.length === 1) return undefined;
  const [, epoch, ageMs, version, published, waitMs, expiredNodes, totals] = reply;
  return { epoch: Number(epoch), ageMs, version, published, waitMs, expiredNodes, totals: totalsOf(totals) };
}

// ── Site ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** How often in a row a node begins anew at once. After that, the node waits for the next tick. */
const MAX_RESTARTS = 3;

export class SharedSite {
  readonly name: string;
  readonly #context: SiteContext;
  readonly #listener: SiteListener;
  /** Page → room. "" is the room of the site itself. */
  readonly #rooms = new Map<string, SharedRoom>();
  readonly #watch: MessageWatch;
  readonly #schedule = new SyncSchedule();

  #confidence: Confidence = "live";
  /** From this time on all living nodes have told Redis about their visitors. */
  #settledAt = 0;
  /** When Redis began to count on this site. Undefined until this node knows. */
  #epoch: number | undefined;

  /** This node's name in Redis. It is never used again when Redis may know something else about it than this node. */
  #node = newNodeName();
  #batchNumber = 0;
  /** Names that this node had before, and whose members it must still remove. */
  readonly #formerNodes = new Set<string>();
  #restarts = 0;

  #claims: Claim[] = [];
  /** Member → true: has come, false: has left. A member that came and left again is not in here. */
  readonly #changes = new Map<string, boolean>();
  /** Pages whose totals must be asked for. */
  readonly #pagesToAsk = new Set<string>();
  /** The batch that was sent and not answered. It is sent again as it was. */
  #unanswered: Batch | undefined;

  #syncing: Promise<void> | undefined;
  #isReaping = false;
  /** The time of the timer that syncs. */
  #wakesAt = Infinity;
  #isStopped = false;
  #leaseMs: number;
  /** At this time the site syncs even if nothing has changed. */
  #nextBeatAt = 0;

  constructor(name: string, context: SiteContext, listener: SiteListener) {
    this.name = name;
    this.#context = context;
    this.#listener = listener;
    this.#watch = new MessageWatch(context.durations.beatMs);
    this.#leaseMs = context.durations.leaseMs;
  }

  /** True while totals are only estimates. */
  get isStale(): boolean {
    return this.#confidence !== "live";
  }

  /**
   * Claims the nonce of a token with the next sync. Undefined when the site cannot do that now, or when Redis has not said
   * whether the nonce is free.
   */
  async claim(nonce: number): Promise<boolean | undefined> {
    if (this.isStale || this.#isStopped) return undefined;
    const { promise, resolve } = Promise.withResolvers<boolean | undefined>();
    this.#claims.push({ key: claimKeyOf(this.#context.prefix, this.name, nonce), resolve });
    this.#syncSoon();
    return promise;
  }

  // What the rooms of this node say

  opened(room: ClusterRoom): void {
    const page = pageOfRoom(room);
    this.#rooms.set(page, { room, known: undefined, epoch: 0, version: 0, reported: undefined });
    this.#pagesToAsk.add(page);
    this.#syncSoon();
  }

  changed(room: ClusterRoom, visitor: string, isHere: boolean): void {
    const page = pageOfRoom(room);
    const member = memberOf(visitor, page);
    const isUndone = this.#changes.delete(member); // the opposite change was not sent yet
    if (!isUndone) this.#changes.set(member, isHere);
    const shared = this.#rooms.get(page);
    if (shared !== undefined && this.isStale) this.#adjust(shared, isHere);
    else if (shared?.known !== undefined) this.#report(shared, shared.known);
    this.#syncSoon();
  }

  /** Returns the total that was reported last, if the room was open and had one. */
  closed(room: ClusterRoom): number | undefined {
    const page = pageOfRoom(room);
    const shared = this.#rooms.get(page);
    if (shared?.room !== room) return undefined;
    this.#rooms.delete(page);
    this.#pagesToAsk.delete(page);
    this.#syncSoon(); // the site ends after the sync when this was its last room
    return shared.reported;
  }

  // What the cluster says

  /** Looks whether a sync is due. @param now by `performance.now()` */
  tick(now: number): void {
    if (this.isStale || now >= this.#nextBeatAt) void this.sync();
  }

  received(message: Message): void {
    const { epoch, version, totals } = message;
    if (this.#isStopped) return;
    if (this.#epoch !== undefined && epoch !== this.#epoch) {
      if (epoch > this.#epoch) this.#nextBeatAt = 0; // Redis has begun anew, so this node must tell all again
      return;
    }
    this.#schedule.published(version);
    const isGap = this.#watch.receive(message);
    if (isGap && this.#epoch !== undefined) this.askForAll();
    for (const [page, total] of totals) this.#learn(page, total, version, epoch);
  }

  /** Messages may have been missed: asks for the totals of all rooms. */
  askForAll(): void {
    for (const page of this.#rooms.keys()) this.#pagesToAsk.add(page);
    this.#syncSoon();
  }

  /** From now on totals are the last known ones, plus the changes that Redis has not answered, plus further changes. */
  estimate(): void {
    if (this.#confidence === "estimating") return;
    const wasLive = this.#confidence === "live";
    this.#confidence = "estimating";
    if (!wasLive) return;
    this.#giveUpClaims();
    for (const change of this.#unanswered?.changes ?? []) this.#adjustRoomOf(change.slice(1), change.startsWith("+"));
    for (const [member, isHere] of this.#changes) this.#adjustRoomOf(member, isHere);
    this.#listener.staleChanged(this);
  }

  /** Sends all changes, and keeps the lease for as long as visitors may take to come back. A second call renews that lease. */
  async hold(): Promise<void> {
    this.#isStopped = true;
    this.#leaseMs = this.#context.durations.holdLeaseMs;
    await this.#syncing; // this sync still has the old lease
    await this.sync();
  }

  stop(): void {
    this.#isStopped = true;
    this.#giveUpClaims();
  }

  /** Syncs until nothing is left that cannot wait. Never rejects: what could not be sent is sent at a later tick. */
  sync(): Promise<void> {
    this.#syncing ??= this.#syncAll().finally(() => this.#afterSync());
    return this.#syncing;
  }

  // Syncing

  /** Syncs when the schedule says so. */
  #syncSoon(): void {
    if (this.#syncing !== undefined || this.#context.link.isAway || this.#isStopped) return;
    const dueAt = this.#dueAt();
    if (dueAt >= this.#wakesAt) return;
    this.#wakesAt = dueAt;
    sendAt(dueAt, () => this.#wake(dueAt));
  }

  #wake(wakesAt: number): void {
    if (wakesAt !== this.#wakesAt) return; // an earlier timer has taken its place
    this.#wakesAt = Infinity;
    if (performance.now() < this.#dueAt()) this.#syncSoon();
    else if (!this.#isStopped) void this.sync();
  }

  #dueAt(): number {
    const isLeft = this.#rooms.size === 0 ? 1 : 0; // the site ends with a sync
    return this.#schedule.dueAt({
      claims: this.#claims.length,
      pages: this.#pagesToAsk.size,
      changes: this.#changes.size + isLeft,
    });
  }

  async #syncAll(): Promise<void> {
    const { link, log } = this.#context;
    this.#schedule.synced(performance.now());
    try {
      do await this.#syncOnce();
      while (this.#mustSyncAgain());
    } catch (error) {
      if (!this.isStale && !link.isAway)
        log("warn", "Redis refuses to count", { site: this.name, message: messageOf(error) });
      for (const { resolve } of this.#unanswered?.claims ?? []) resolve(undefined);
      this.estimate();
      await this.#repair(this.#node, error);
    }
  }

  #mustSyncAgain(): boolean {
    if (this.#restarts > MAX_RESTARTS) return false;
    const isFull = this.#changes.size >= MAX_BATCH || this.#pagesToAsk.size >= MAX_BATCH;
    return isFull || (this.isStale && this.#isSettled());
  }

  #afterSync(): void {
    this.#syncing = undefined;
    if (this.#rooms.size === 0 && this.#changes.size === 0) {
      this.stop();
      this.#listener.emptied(this);
    } else if (!this.isStale) this.#syncSoon();
  }

  async #syncOnce(): Promise<void> {
    const { link, durations, channel, claimer } = this.#context;
    this.#unanswered ??= this.#takeBatch();
    const { claims, changes, pages } = this.#unanswered;
    const keys = [...this.#keys(this.#node), ...claims.map(({ key }) => key)];
    const times = [this.#leaseMs, durations.keyTtlMs];
    const names = [channel, this.name, claimer.name, claimer.ttlMs];
    const args = [this.#node, this.#batchNumber, ...times, ...names, changes.length, ...changes, ...pages];
    this.#watch.syncSent();
    const reply = (await link.run(SYNC, keys, args)) as SyncReply;
    for (const [index, { resolve }] of claims.entries()) resolve(reply[0][index] === 1);
    const answer = syncAnswerOf(reply);
    if (answer === undefined) this.#beginAnew();
    else this.#accept(answer);
  }

  #takeBatch(): Batch {
    this.#batchNumber += 1;
    const changes = this.#takeChanges();
    if (this.#confidence === "estimating" && this.#changes.size === 0 && this.#isSettled()) {
      this.#confidence = "confirming";
      for (const page of this.#rooms.keys()) this.#pagesToAsk.add(page);
    }
    return { claims: this.#claims.splice(0, MAX_BATCH), changes, pages: this.#takePages() };
  }

  #giveUpClaims(): void {
    for (const { resolve } of this.#claims.splice(0)) resolve(undefined);
  }

  #takeChanges(): string[] {
    const changes: string[] = [];
    for (const [member, isHere] of this.#changes) {
      if (changes.length === MAX_BATCH) break;
      changes.push((isHere ? "+" : "-") + member);
      this.#changes.delete(member);
    }
    return changes;
  }

  #takePages(): string[] {
    const pages: string[] = [];
    for (const page of this.#pagesToAsk) {
      if (pages.length === MAX_BATCH) break;
      pages.push(page);
      this.#pagesToAsk.delete(page);
    }
    return pages;
  }

  #accept(answer: SyncAnswer): void {
    const { epoch, ageMs, version, published, waitMs, expiredNodes, totals } = answer;
    const { beatMs, settleMs } = this.#context.durations;
    const now = performance.now();
    this.#unanswered = undefined;
    this.#restarts = 0;
    if (epoch !== this.#epoch) this.#enterEpoch(epoch);
    this.#settledAt = now + settleMs - ageMs;
    this.#nextBeatAt = now + beatMs;
    if (waitMs > 0) this.#schedule.leftUnpublished(version, waitMs, now);
    this.#checkMessages(version, published, now);
    for (const [page, total] of totals) this.#learn(page, total, version, epoch);
    if (this.#confidence === "confirming") this.#confirm();
    void this.#reap(expiredNodes);
  }

  /** Totals of other epochs are worth nothing, later ones included: their messages were forged. */
  #enterEpoch(epoch: number): void {
    this.#epoch = epoch;
    for (const shared of this.#rooms.values()) {
      if (shared.epoch === epoch) continue;
      shared.epoch = epoch;
      shared.version = 0;
    }
  }

  /** Ends the estimating when Redis has answered for all rooms. */
  #confirm(): void {
    if (!this.#isSettled()) this.#confidence = "estimating"; // Redis has begun anew meanwhile
    if (this.#confidence !== "confirming" || this.#pagesToAsk.size > 0) return;
    this.#confidence = "live";
    for (const shared of this.#rooms.values()) if (shared.known !== undefined) this.#report(shared, shared.known);
    this.#listener.staleChanged(this);
  }

  /** Redis does not know this node as the node knows itself. All is told again from memory, under a new name. */
  #beginAnew(): void {
    this.estimate();
    this.#restarts += 1;
    this.#formerNodes.add(this.#node);
    this.#node = newNodeName();
    this.#batchNumber = 0;
    this.#unanswered = undefined;
    this.#epoch = undefined;
    this.#settledAt = 0;
    this.#changes.clear();
    for (const [page, shared] of this.#rooms) {
      shared.epoch = 0;
      shared.version = 0;
      for (const visitor of shared.room.members.keys()) this.#changes.set(memberOf(visitor, page), true);
    }
  }

  #isSettled(): boolean {
    return performance.now() >= this.#settledAt;
  }

  // Totals

  #checkMessages(version: number, published: number, now: number): void {
    if (this.#batchNumber === 1) {
      this.#watch.restart(version);
      return;
    }
    const finding = this.#watch.check(version, published, now);
    if (finding === "nothing missing") return;
    if (finding === "versions went back") for (const shared of this.#rooms.values()) shared.version = 0;
    else this.#listener.messagesMissing();
    this.askForAll();
  }

  #learn(page: string, total: number, version: number, epoch: number): void {
    const shared = this.#rooms.get(page);
    if (shared === undefined) return;
    const isOld = epoch < shared.epoch || (epoch === shared.epoch && version < shared.version);
    if (isOld) return;
    shared.known = total;
    shared.epoch = epoch;
    shared.version = version;
    if (!this.isStale) this.#report(shared, total);
  }

  #adjustRoomOf(member: string, isHere: boolean): void {
    const shared = this.#rooms.get(pageOf(member));
    if (shared !== undefined) this.#adjust(shared, isHere);
  }

  #adjust(shared: SharedRoom, isHere: boolean): void {
    this.#report(shared, (shared.reported ?? 0) + (isHere ? 1 : -1));
  }

  /** Reports a total, but never less than the visitors on this node: they may still be on their way to Redis. */
  #report(shared: SharedRoom, total: number): void {
    const atLeast = Math.max(total, shared.room.members.size);
    if (atLeast === shared.reported) return;
    shared.reported = atLeast;
    this.#listener.total(shared.room, atLeast);
  }

  // Reaping

  /** Removes the members of nodes whose lease has expired, and of this node's former names. */
  async #reap(expiredNodes: readonly string[]): Promise<void> {
    const nodes = this.#nodesToReap(expiredNodes);
    if (this.#isReaping || nodes.length === 0) return;
    this.#isReaping = true;
    try {
      for (const node of nodes) {
        while ((await this.#reapBatch(node)) > 0); // a dead node is removed batch by batch
        this.#formerNodes.delete(node);
      }
    } catch (error) {
      // The link reports failures, and the next sync names the same nodes again.
      for (const node of nodes) await this.#repair(node, error);
    } finally {
      this.#isReaping = false;
    }
  }

  #nodesToReap(expiredNodes: readonly string[]): string[] {
    const isAllTold = this.#changes.size === 0; // until then, visitors here are counted by the former names
    const own = isAllTold ? [...this.#formerNodes] : [];
    // After an outage all leases have expired together, and every living node is about to renew its own.
    const { link, durations } = this.#context;
    const others = link.answeringMs >= durations.settleMs ? expiredNodes : [];
    return [...own, ...others.filter((node) => !this.#formerNodes.has(node))];
  }

  /** Returns how many members are left. */
  async #reapBatch(node: string): Promise<number> {
    const { link, durations, channel } = this.#context;
    const isOwn = this.#formerNodes.has(node) ? 1 : 0;
    const args = [node, isOwn, MAX_BATCH, durations.keyTtlMs, channel, this.name];
    const [left, waitMs] = (await link.run(REAP, this.#keys(node), args)) as [number, number];
    if (waitMs > 0) {
      this.#schedule.leftUnpublished(Infinity, waitMs, performance.now());
      this.#syncSoon();
    }
    return left;
  }

  /** Deletes keys that somebody else has replaced by keys of another type. Never rejects: the next sync fails alike. */
  async #repair(node: string, error: unknown): Promise<void> {
    if (!messageOf(error).includes("WRONGTYPE")) return;
    const { link, log } = this.#context;
    const deleted = await link.run(REPAIR, this.#keys(node), []).catch(() => 0); // the link reports failures
    if (Number(deleted) > 0)
      log("warn", "keys in Redis had a wrong type, and are made anew", { site: this.name, deleted });
  }

  #keys(node: string): string[] {
    const names = ["nodes", "meta", "refs", "totals", "dirty", `n:${node}`];
    return names.map((name) => keyOf(this.#context.prefix, this.name, name));
  }
}
