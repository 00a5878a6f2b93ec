/**
 * When a site syncs. Each sync is a command to Redis, and everything that waits goes with it.
 *
 * A quiet site syncs at once. It has credit for some syncs, which grows with time, and each sync takes one. A busy site
 * has no credit left: it syncs when a gap after the last sync is over, and gathers what comes meanwhile.
 */

/** How long a page may wait whose token must be claimed, or whose number is not known yet. */
const URGENT_GAP_MS = 70;
/** How long changes may wait that only others must hear of. */
const CHANGE_GAP_MS = 120;
/** A newcomer to a quiet site needs two syncs: one claims the token, the other tells who came. */
const MAX_CREDIT = 3;
/** The credit grows by one in this time. */
const CREDIT_MS = 500;
/** So many tokens are claimed at once. */
const MANY_CLAIMS = 32;
/** What one sync left unpublished, the next sync of any node publishes. Only when none comes, some node looks after it. */
const CHECK_MS = 40;
/** Nodes that wait for the same message look after it at different times. The first one to do so publishes it. */
const SPREAD_MS = 60;

/** What waits for a sync, in numbers. */
export interface Waiting {
  /** Tokens to claim. */
  readonly claims: number;
  /** Pages whose totals are asked for. */
  readonly pages: number;
  readonly changes: number;
}

/** All times are milliseconds of a monotonic clock. */
export class SyncSchedule {
  readonly #random: () => number;
  #syncedAt = -Infinity;
  #credit = MAX_CREDIT;
  /** The version that a sync left unpublished, and when the next sync can publish it. */
  #unpublished: { readonly version: number; readonly at: number } | undefined;

  /** @param random a number from 0 to 1 */
  constructor(random: () => number = Math.random) {
    this.#random = random;
  }

  /** A sync is sent. */
  synced(now: number): void {
    const grown = Math.min(MAX_CREDIT, this.#credit + (now - this.#syncedAt) / CREDIT_MS);
    this.#credit = Math.max(0, grown - 1);
    this.#syncedAt = now;
    this.#unpublished = undefined;
  }

  /** Redis has changed totals up to a version, and can publish them in so many milliseconds, with a sync of any node. */
  leftUnpublished(version: number, waitMs: number, now: number): void {
    this.#unpublished = { version, at: now + waitMs + CHECK_MS + this.#random() * SPREAD_MS };
  }

  /** A message came that tells all totals up to a version. */
  published(version: number): void {
    if (this.#unpublished !== undefined && version >= this.#unpublished.version) this.#unpublished = undefined;
  }

  /** When the next sync is due; Infinity when there is no need of one. The time may be over. */
  dueAt(waiting: Waiting): number {
    return Math.min(this.#unpublished?.at ?? Infinity, this.#dueAtOf(waiting));
  }

  #dueAtOf({ claims, pages, changes }: Waiting): number {
    if (claims + pages + changes === 0) return Infinity;
    if (claims >= MANY_CLAIMS) return this.#syncedAt;
    const gapMs = claims + pages > 0 ? URGENT_GAP_MS : CHANGE_GAP_MS;
    const untilCreditMs = Math.max(0, 1 - this.#credit) * CREDIT_MS;
    return this.#syncedAt + Math.min(gapMs, untilCreditMs);
  }
}
