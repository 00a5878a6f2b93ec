/**
 * Sites that are not in SITES. A Host header invents them, so Redis keeps the numbers of a few of them, and forgets those of a
 * site when nothing was recorded for a long time.
 */

import {
  DAY_SECONDS,
  HISTORY_DAYS,
  MAX_PAGES_PER_SITE,
  MAX_PAGES_PER_UNLISTED_SITE,
  MAX_UNLISTED_SITES,
} from "./engine.ts";
import type { Link } from "./link.ts";
import { ADMIT } from "./scripts.ts";

/** How many pages of a site have numbers of their own, and for how long its keys live ("" for ever). */
export interface Limits {
  readonly maxPages: number;
  readonly ttlSeconds: number | "";
}

const LISTED: Limits = { maxPages: MAX_PAGES_PER_SITE, ttlSeconds: "" };
const UNLISTED: Limits = { maxPages: MAX_PAGES_PER_UNLISTED_SITE, ttlSeconds: HISTORY_DAYS * DAY_SECONDS };

export const limitsOf = (isListed: boolean): Limits => (isListed ? LISTED : UNLISTED);

export class UnlistedSites {
  readonly #link: Link;
  /** A sorted set: site → when something was last recorded, in seconds since 1970. */
  readonly #key: string;
  readonly #wallClock: () => number;

  constructor(link: Link, prefix: string, wallClock: () => number) {
    this.#link = link;
    this.#key = `${prefix}unlisted`;
    this.#wallClock = wallClock;
  }

  /** Those of the sites whose numbers are kept. @throws {Error} when Redis does not answer, or refuses */
  async admit(sites: readonly string[]): Promise<ReadonlySet<string>> {
    if (sites.length === 0) return new Set();
    const nowSeconds = this.#nowSeconds();
    const args = [nowSeconds, nowSeconds - Number(UNLISTED.ttlSeconds), MAX_UNLISTED_SITES, ...sites];
    return new Set((await this.#link.run(ADMIT, [this.#key], args)) as string[]);
  }

  async has(site: string): Promise<boolean> {
    return (await this.#link.ask((client) => client.zscore(this.#key, site))) !== null;
  }

  /** Admits a site that was admitted elsewhere, whatever the limit is. */
  async restore(site: string): Promise<void> {
    await this.#link.ask((client) => client.zadd(this.#key, this.#nowSeconds(), site));
  }

  #nowSeconds(): number {
    return Math.floor(this.#wallClock() / 1_000);
  }
}
