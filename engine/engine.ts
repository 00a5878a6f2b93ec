/**
 * What an engine promises, and the constants and small tools that both engines and their users share.
 *
 * An engine keeps what must outlive this process, or be agreed upon by several nodes: secrets, spent tokens, the visitors
 * who are held over a restart, and the statistics. `sqlite.ts` is the engine of a single node, `redis.ts` the one of
 * several nodes. This file imports nothing of the project, so everybody may import it.
 */

import { randomBytes } from "node:crypto";

export const MINUTE_MS = 60_000;
export const DAY_MINUTES = 1_440;
/** For how many days the highest count of each minute is kept. */
export const HISTORY_DAYS = 90;
/** How many pages of a site have statistics of their own. Further pages share the name OTHER_PAGES. */
export const MAX_PAGES_PER_SITE = 10_000;
export const OTHER_PAGES = "(other)";

/** Writes one line for an event. */
export type Log = (level: "info" | "warn" | "error", event: string, fields?: Record<string, unknown>) => void;

/** A room by its names: a site, or one page of it. */
export interface RoomName {
  readonly site: string;
  /** undefined for the room of the whole site */
  readonly page: string | undefined;
}

/** A visitor in a room, by names. */
export interface Member extends RoomName {
  readonly visitor: string;
}

/** Views of a page whose reading times fall into one bucket of the histogram, or how that changed since last time. */
export interface ReadingSum {
  readonly site: string;
  readonly page: string;
  readonly bucket: number;
  views: number;
  seconds: number;
}

/** The highest count of a site in a minute (since 1970), or in a longer time that begins with that minute. */
export interface Peak {
  readonly minute: number;
  readonly peak: number;
}

export interface StatsEntries {
  readonly readings: readonly ReadingSum[];
  readonly peaks: readonly (Peak & { readonly site: string })[];
}

/** Keeps the secrets of the service. */
export interface SecretStore {
  /** A random secret, made when it is first asked for. There is one per kind: asking for another `name` replaces it. */
  secret(kind: "signing" | "salt", name: string): Promise<string>;
}

/** Makes tokens single use. */
export interface TokenStore {
  /**
   * Claims the nonce of a token. False when the nonce was claimed before, or may have been.
   * @param expires when the token expires, in milliseconds since 1970
   * @param now milliseconds since 1970
   */
  spend(token: { readonly nonce: number; readonly expires: number }, now: number): Promise<boolean>;
}

/** Keeps the visitors of this node counted while it restarts. */
export interface HandOver {
  /** Keeps who is online. The node stops now. */
  hold(members: Iterable<Member>): Promise<void>;
  /** Who was online here when the node stopped, if that was a moment ago and no other node counts them. Empties itself. */
  held(): Promise<Member[]>;
}

/** Keeps reading times and peaks. */
export interface StatsStore {
  /** How many entries were accepted and could not be kept after all. */
  readonly lostEntries: number;
  /** Adds entries, all or nothing. @throws {Error} when they cannot be kept now; the caller tries again later */
  record(entries: StatsEntries): Promise<void>;
  /** The reading times of a site, or of one page of it. */
  readings(site: string, page?: string): Promise<ReadingSum[]>;
  /** The highest counts since a minute, one for every `step` minutes in which anybody was there, oldest first. */
  history(site: string, fromMinute: number, step: number): Promise<Peak[]>;
  /** The highest count ever, if there was any. */
  highest(site: string): Promise<Peak | undefined>;
}

/** A room as the cluster sees it: its name, and the visitors whom this node has in it. */
export interface ClusterRoom extends RoomName {
  readonly members: ReadonlyMap<string, unknown>;
}

/** What a cluster reports to its node. */
export interface ClusterListener {
  /** The room has so many visitors on all nodes. May be called while `Cluster.changed` still runs. */
  total(room: ClusterRoom, total: number): void;
  /** True while totals are only the last known ones plus local changes. */
  stale(stale: boolean): void;
}

/** Settings that all nodes must have in common, by name. A secret is represented by a fingerprint. */
export type SharedSettings = Readonly<Record<string, string>>;

/** Connects the rooms of this node with the same rooms on other nodes. */
export interface Cluster {
  /** Called once, before everything else. */
  listen(listener: ClusterListener): void;
  /** Logs it when other nodes have other settings. */
  share(settings: SharedSettings): void;
  /** The node has the room from now on and wants its total, whether or not visitors follow. */
  opened(room: ClusterRoom): void;
  /** A visitor came to the room with their first page on this node (`isHere`), or left with their last one. */
  changed(room: ClusterRoom, visitor: string, isHere: boolean): void;
  /** Nobody on this node is in the room or looks at its number any more. */
  closed(room: ClusterRoom): void;
  /** The total of a room that this node does not have. @throws {Error} when it is unknown */
  count(site: string, page?: string): Promise<number>;
}

export interface Engine extends SecretStore, TokenStore, HandOver, StatsStore {
  /** What the engine is called on the dashboard. */
  readonly name: "embedded" | "redis";
  /** How many of its calls have failed. */
  readonly failures: number;
  /** Milliseconds since 1970, the same on all nodes. */
  wallClock(): number;
  /** undefined where this node counts alone */
  readonly cluster: Cluster | undefined;
  close(): Promise<void>;
}

/** A number cannot be told yet. That is no failure: whoever asks again in some seconds gets it. */
export class NotYetKnownError extends Error {}

export const newSecret = (): string => randomBytes(32).toString("base64url");
export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/**
 * The nonces that were spent, kept in two generations for as long as a token lives. One generation fills while the other
 * one ages; after a token's lifetime the older one is dropped.
 */
export class SpentNonces {
  readonly #tokenTtlMs: number;
  #young = new Set<number>();
  #old = new Set<number>();
  #nextTurnAt = 0;

  constructor(tokenTtlMs: number) {
    this.#tokenTtlMs = tokenTtlMs;
  }

  /** False when the nonce was spent before. @param now milliseconds since 1970; the clock may be put back */
  spend(nonce: number, now: number): boolean {
    if (this.#young.has(nonce) || this.#old.has(nonce)) return false;
    const clockWasPutBack = now < this.#nextTurnAt - this.#tokenTtlMs;
    if (now >= this.#nextTurnAt || clockWasPutBack) {
      this.#old = this.#young;
      this.#young = new Set();
      this.#nextTurnAt = now + this.#tokenTtlMs;
    }
    this.#young.add(nonce);
    return true;
  }
}
