/** What statistics may see of who is here now. The counting service implements these interfaces. */

import { MAX_UNLISTED_SITES, type RoomName } from "../engine/engine.ts";

export interface LiveRoom extends RoomName {
  /** How many visitors the room has; undefined until that is known. */
  readonly count: number | undefined;
}

export interface LiveSite {
  readonly room: LiveRoom;
  readonly pages: ReadonlyMap<string, LiveRoom>;
  /** How many connections show the site on this node, observers included. */
  readonly audience: number;
}

export interface LiveSites {
  sites(): Iterable<LiveSite>;
  site(name: string): LiveSite | undefined;
  /** The number of visitors of a site, or of one page of it; undefined for a room that this node does not have. */
  count(site: string, page?: string): number | undefined;
  /** The highest count of each site since the last call; the next time begins now. */
  takePeaks(): Iterable<{ readonly site: string; readonly peak: number }>;
}

export interface LiveConnections {
  readonly size: number;
  /** True while the engine is away and numbers may be old. */
  readonly stale: boolean;
  /** What has happened since the start. */
  readonly counters: {
    readonly frames: number;
    readonly pings: number;
    readonly silent: number;
    readonly slow: number;
  };
}

/**
 * The sites that statistics are kept of: the sites of SITES, and of the others, which a Host header can invent, the first
 * few.
 */
export class RecordedSites {
  readonly listed: ReadonlySet<string>;
  readonly #unlisted = new Set<string>();

  constructor(listed: ReadonlySet<string>) {
    this.listed = listed;
  }

  /** The recorded sites that are not in SITES. */
  get unlisted(): ReadonlySet<string> {
    return this.#unlisted;
  }

  /** Whether the site is recorded. Of unlisted sites, the first ones that are asked about are. */
  admits(site: string): boolean {
    if (this.listed.has(site) || this.#unlisted.has(site)) return true;
    if (this.#unlisted.size >= MAX_UNLISTED_SITES) return false;
    this.#unlisted.add(site);
    return true;
  }
}

/** Every further site would be one more label in every metric, and one more row on the dashboard. */
export const MAX_SHOWN_SITES = 100;

/** The sites with the most visitors, largest first. Sites of SITES come before sites that a Host header invented. */
export function largestSites(live: LiveSites, listedSites: ReadonlySet<string>): LiveSite[] {
  const rank = ({ room }: LiveSite) => (room.count ?? 0) + (listedSites.has(room.site) ? 1e9 : 0);
  return [...live.sites()].toSorted((a, b) => rank(b) - rank(a)).slice(0, MAX_SHOWN_SITES);
}
