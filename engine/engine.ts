/**
 * What an engine promises, and the constants and small tools that both engines and their users share.
 *
 * An engine keeps what must outlive this process, or be agreed upon by several nodes: secrets, spent tokens, the visitors
 * who are held over a restart, and the statistics. `sqlite.ts` is the engine of a single node, `redis.ts` the one of
 * several nodes. This file imports nothing of the project, so everybody may import it.
 */

import { createHash, randomBytes } from "node:crypto";

export const MINUTE_MS = 60_000;
export const DAY_MINUTES = 1_440;
export const DAY_SECONDS = 86_400;
export const DAY_MS = 86_400_000;
/** For how many days the highest count of each minute is kept. */
export const HISTORY_DAYS = 90;
/** How many pages of a site in SITES have statistics of their own. Further pages share the name OTHER_PAGES. */
export const MAX_PAGES_PER_SITE = 10_000;
export const OTHER_PAGES = "(other)";
/** How many sites have statistics that are not in SITES, and how many pages of such a site. A Host header invents them. */
export const MAX_UNLISTED_SITES = 20;
export const MAX_PAGES_PER_UNLISTED_SITE = 1_000;
/** In characters. A longer name of a page is stored shortened. */
export const MAX_STORED_NAME_LENGTH = 256;
/** No site has more visitors at a time, because the history keeps numbers of 32 bits. */
export const MAX_ONLINE = 2 ** 32 - 1;
/** How many pages the list of the most read pages has at most. */
export const MAX_MOST_READ = 1_000;

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

/** How a page was read. `seconds` is the sum over all views; `median` and `p90` are seconds of one view, within 10 %. */
export interface Reading {
  readonly views: number;
  readonly seconds: number;
  readonly median: number;
  readonly p90: number;
}

export interface PageReading extends Reading {
  readonly page: string;
}

/** The highest count of a site in a minute (since 1970), or in a longer time that begins with that minute. */
export interface Peak {
  readonly minute: number;
  readonly peak: number;
}

/** How often a page was viewed on a day since last time. Days are numbers that grow by one at the owner's midnight. */
export interface ViewSum {
  readonly site: string;
  readonly page: string;
  readonly day: number;
  views: number;
}

export interface StatsEntries {
  readonly readings: readonly ReadingSum[];
  readonly peaks: readonly (Peak & { readonly site: string })[];
  readonly views?: readonly ViewSum[];
  /** Those of the sites that are not in SITES. Fewer of them, and fewer of their pages, are kept. */
  readonly unlistedSites?: ReadonlySet<string>;
}

/** A visitor who came to a site on a day. */
export interface VisitorEntry {
  readonly site: string;
  readonly day: number;
  /** A hash of the visitor's id, by a key that is thrown away after the day. */
  readonly hash: string;
  /** Whether the visitor's id was minted on that day: who is new on the day is then new altogether. */
  readonly isFirstDay: boolean;
}

/** Numbers of a site: views of all its pages, and its visitors ever and on one day. */
export interface SiteTotals {
  readonly total: number;
  readonly visitors: number;
  readonly today: number;
}

export interface DayTotals {
  readonly day: number;
  readonly views: number;
  readonly visitors: number;
}

/** What a secret is for: signing visitors and tokens, IDENTITY=hash, the visitors of a day, the operator's password. */
export const SECRET_KINDS = ["signing", "salt", "day", "admin"] as const;
export type SecretKind = (typeof SECRET_KINDS)[number];

/** Keeps the secrets of the service. */
export interface SecretStore {
  /**
   * A random secret, made when it is first asked for. There is one per kind: asking for another `name` replaces it. Of kind
   * "day" there is one per day, because a clock may be put back for a while: the name is a day, asking for a day throws the
   * earlier ones away (on Redis after two hours), and later ones stay for two days.
   */
  secret(kind: SecretKind, name: string): Promise<string>;
}

/** A token that somebody wants to use. */
export interface SpentToken {
  readonly site: string;
  readonly nonce: number;
  /** When the token expires, in milliseconds since 1970. */
  readonly expires: number;
}

/** Makes tokens single use. */
export interface TokenStore {
  /**
   * Claims the nonce of a token. False when the nonce was claimed before, or may have been.
   * @param now milliseconds since 1970
   */
  spend(token: SpentToken, now: number): Promise<boolean>;
}

/** Keeps the visitors of this node counted while it restarts. */
interface HandOver {
  /** Keeps who is online. The node stops now. @param signer the fingerprint of the secret that signed these visitors */
  hold(members: Iterable<Member>, signer: string): Promise<void>;
  /**
   * Who was online here when the node stopped, if that was a moment ago and no other node counts them. Empties itself.
   * @param signer visitors whom another secret signed are not returned: they come back with new ids, and would count twice
   */
  held(signer: string): Promise<Member[]>;
}

/** Keeps reading times and peaks. */
export interface StatsStore {
  /** How many entries were accepted and could not be kept after all. */
  readonly lostEntries: number;
  /** Adds entries, all or nothing. @throws {Error} when they cannot be kept now; the caller tries again later */
  record(entries: StatsEntries): Promise<void>;
  /** How a page was read. `views` is 0 when nobody has read it. */
  reading(site: string, page: string): Promise<Reading>;
  /** The pages of a site that were read for the longest time in all, at most MAX_MOST_READ, longest first. */
  mostRead(site: string): Promise<PageReading[]>;
  /** The highest counts since a minute, one for every `step` minutes in which anybody was there, oldest first. */
  history(site: string, fromMinute: number, step: number): Promise<Peak[]>;
  /** The highest count ever, if there was any. */
  highest(site: string): Promise<Peak | undefined>;
  /** The first minute in which anybody was there, of those that are kept: the last HISTORY_DAYS, and the highest ever. */
  firstMinute(site: string): Promise<number | undefined>;
}

/** Keeps views and visitors, for good. */
export interface TotalsStore {
  /**
   * Counts each visitor once per site and day, all or nothing. Sets of earlier days are thrown away.
   * @param unlistedSites those of the sites that are not in SITES
   */
  countVisitors(entries: readonly VisitorEntry[], unlistedSites?: ReadonlySet<string>): Promise<void>;
  siteTotals(site: string, day: number): Promise<SiteTotals>;
  /** The views of each of the pages, in the same order. */
  pageViews(site: string, pages: readonly string[]): Promise<number[]>;
  /** The days since a day on which anything was counted, oldest first. */
  days(site: string, fromDay: number): Promise<DayTotals[]>;
}

/** Totals of a site that were counted elsewhere. */
export interface ImportedTotals {
  readonly total: number;
  readonly visitors: number;
  /** Page → views. */
  readonly pages: ReadonlyMap<string, number>;
}

/** A secret, as an export holds it. */
export interface KeptSecret {
  readonly secret: SecretKind;
  readonly name: string;
  readonly value: string;
}

/**
 * One thing that is kept of a site, as an export holds it. Days are numbers as everywhere, minutes are those since 1970, `seconds` are
 * the sum over all views of a page, and `histogram` is [bucket, views] in ascending order. A site that is not in SITES is
 * `unlisted`.
 */
export type KeptSiteEntry =
  | { readonly site: string; readonly total: number; readonly visitors: number; readonly unlisted?: true | undefined }
  | { readonly site: string; readonly page: string; readonly views: number }
  | {
      readonly site: string;
      readonly page: string;
      readonly seconds: number;
      readonly histogram: readonly (readonly [bucket: number, views: number])[];
    }
  | { readonly site: string; readonly day: number; readonly views: number; readonly visitors: number }
  | { readonly site: string; readonly peaks: readonly (readonly [minute: number, peak: number])[] }
  | { readonly site: string; readonly highest: readonly [minute: number, peak: number] }
  | { readonly site: string; readonly source: string; readonly total: number; readonly visitors: number }
  | { readonly site: string; readonly source: string; readonly page: string; readonly views: number }
  | { readonly site: string; readonly day: number; readonly hashes: readonly string[] };

export type KeptEntry = KeptSecret | KeptSiteEntry;

/** At most so many [minute, peak] or hashes are in one entry: those of a day, or about 20 KB. */
export const MAX_PER_ENTRY = DAY_MINUTES;

/** An import that cannot be done, whatever the engine. Nothing was changed. */
export class ImportRefusal extends Error {}

/** Reads everything that is kept, and brings it back. */
export interface TransferStore {
  /** The names of all sites of which anything is kept, in the order of code units. */
  keptSites(): Promise<string[]>;
  /** Everything that is kept of a site, always in the same order. @param withVisitors whether to tell who came today */
  keptEntries(site: string, withVisitors: boolean): Promise<KeptSiteEntry[]>;
  /** The secrets of the service. */
  keptSecrets(): Promise<KeptSecret[]>;
  /**
   * Brings entries back, all or nothing. On Redis that is true of each site; the same entries again complete what was
   * interrupted.
   * @param id tells one export from another
   * @throws {ImportRefusal} when anything is kept already of one of the sites
   */
  restore(id: string, sites: readonly string[], entries: Iterable<KeptEntry>): Promise<void>;
  /** What was imported from a source, if anything was. Long names of pages are shortened, as everywhere. */
  imported(site: string, source: string): Promise<ImportedTotals | undefined>;
  /**
   * Makes what was imported from a source exactly this, all or nothing: the same totals again change nothing.
   * @throws {ImportRefusal} when a number would be too large to be exact
   */
  importTotals(site: string, source: string, totals: ImportedTotals): Promise<void>;
}

/** A room as the cluster sees it: its name, and the visitors whom this node has in it. */
export interface ClusterRoom extends RoomName {
  readonly members: ReadonlyMap<string, unknown>;
}

/** What a cluster reports to its node. */
export interface ClusterListener {
  /** The room has so many visitors on all nodes. May be called while `Cluster.changed` still runs. */
  count(room: ClusterRoom, count: number): void;
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

export interface Engine extends SecretStore, TokenStore, HandOver, StatsStore, TotalsStore, TransferStore {
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

/**
 * The name under which a page is stored. A name of more than MAX_STORED_NAME_LENGTH characters is cut, and ends with a
 * hash of the whole name, so two long names stay two pages.
 */
export function storedPageName(page: string): string {
  if (page.length <= MAX_STORED_NAME_LENGTH) return page;
  const hash = createHash("sha256").update(page).digest("base64url").slice(0, NAME_HASH_LENGTH);
  const start = page.slice(0, MAX_STORED_NAME_LENGTH - hash.length - 1).toWellFormed(); // the cut may split a character
  return `${start}…${hash}`;
}

const NAME_HASH_LENGTH = 16; // 96 bits

// oxlint-disable-next-line no-control-regex -- these characters must not be stored, logged or shown
const CONTROL_CHARACTER = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/u;

/** Whether a text can be a name: without control characters, and without half a surrogate pair. */
export const canBeName = (text: string): boolean => !CONTROL_CHARACTER.test(text) && text.isWellFormed();

/** Parses JSON. undefined, which is no JSON value, when the text is not JSON: the caller knows where the text came from. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // deliberate: the caller reports it
  }
}

/** A number cannot be told yet. That is no failure: whoever asks again in some seconds gets it. */
export class NotYetKnownError extends Error {}

export const newSecret = (): string => randomBytes(32).toString("base64url");
export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
