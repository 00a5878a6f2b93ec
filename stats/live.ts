/** What statistics may see of who is here now. The counting service implements these interfaces. */

import { type Engine, MAX_UNLISTED_SITES, type RoomName } from "../engine/engine.ts";

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
  /** The number of visitors of a site, or of one page of it; undefined where this node does not know it. */
  count(site: string, page?: string): number | undefined;
}

/** For the journal alone, because whoever takes the peaks takes them from everybody else. */
export interface PeakSource {
  /** The highest count of each site since the last call. */
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
 * The sites that statistics are kept of: all sites of SITES, and the first few of other sites, because a Host header can
 * invent those.
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

  /** Whether the site is recorded. A site that is not in SITES takes one of the few places, while there are any. */
  admit(site: string): boolean {
    if (this.listed.has(site) || this.#unlisted.has(site)) return true;
    if (this.#unlisted.size >= MAX_UNLISTED_SITES) return false;
    this.#unlisted.add(site);
    return true;
  }
}

/** Every further site would be one more series in every metric, and one more row on the dashboard. */
export const MAX_SHOWN_SITES = 100;

/** The sites with the most visitors, largest first. Sites of SITES come before sites that a Host header invented. */
export function largestSites(live: LiveSites, listedSites: ReadonlySet<string>): LiveSite[] {
  const isListed = ({ room }: LiveSite) => Number(listedSites.has(room.site));
  const compare = (a: LiveSite, b: LiveSite) => isListed(b) - isListed(a) || (b.room.count ?? 0) - (a.room.count ?? 0);
  return [...live.sites()].toSorted(compare).slice(0, MAX_SHOWN_SITES);
}

/**
 * How many visitors are on a site, or on one page of it: on this node or, in a cluster, on all nodes.
 * @throws {Error} when the cluster cannot tell now
 */
export async function onlineCount(
  { live, engine }: { readonly live: LiveSites; readonly engine: Pick<Engine, "cluster"> },
  site: string,
  page?: string,
): Promise<number> {
  return live.count(site, page) ?? (await engine.cluster?.count(site, page)) ?? 0;
}
