/**
 * Messages by which nodes hear of totals that changed, and what is noticed when some of them are lost.
 *
 * Each change of totals gives a site a new version. A message tells all totals that changed since the message before, and
 * names the version of both.
 */

import { MAX_ONLINE } from "./engine.ts";

/** Totals of a site that changed. */
export interface Message {
  readonly site: string;
  readonly epoch: number;
  /** The totals are those of this version … */
  readonly version: number;
  /** … and the message before had those of this one. */
  readonly previous: number;
  /** Page ("" is the site itself) → total. */
  readonly totals: ReadonlyMap<string, number>;
}

// ── Text ────────────────────────────────────────────────────────────────────────────────────────────────────────────

const isTotal = (value: unknown) => Number.isSafeInteger(value) && Number(value) >= 0 && Number(value) <= MAX_ONLINE;

/** Reads `[page, total, page, total, …]`. */
export function totalsOf(list: readonly unknown[]): Map<string, number> {
  const totals = new Map<string, number>();
  for (let i = 0; i + 1 < list.length; i += 2) totals.set(String(list[i]), Number(list[i + 1]));
  return totals;
}

/** Reads a message of SYNC or REAP: `[site, epoch, version, previous, page, total, …]`. @throws {Error} when it is something else */
export function parseMessage(text: string): Message {
  const list: unknown = JSON.parse(text);
  if (!Array.isArray(list)) throw new TypeError("not a list");
  const [site, epochText, version, previous, ...rest] = list as unknown[];
  const epoch = typeof epochText === "string" ? Number(epochText) : NaN;
  const areTotals = rest.every((value, index) => (index % 2 === 0 ? typeof value === "string" : isTotal(value)));
  const areVersions = [epoch, version, previous].every((number) => Number.isSafeInteger(number) && Number(number) >= 0);
  if (typeof site !== "string" || !areVersions || !areTotals)
    throw new TypeError("not [site, epoch, version, previous, page, total, …]");
  return { site, epoch, version: Number(version), previous: Number(previous), totals: totalsOf(rest) };
}

// ── Message watch ───────────────────────────────────────────────────────────────────────────────────────────────────
// Versions only grow, unless Redis lost writes.

type Finding =
  | "nothing missing"
  /** Redis lost writes, and gives out versions a second time. Or a message with a later version was forged. */
  | "versions went back"
  /** A message that was sent a beat ago has not arrived. */
  | "messages missing";

/** Notices that messages were lost. Times are milliseconds of a monotonic clock. */
export class MessageWatch {
  readonly #beatMs: number;
  /** The version of the last message. */
  #received = 0;
  /** The version of the last message before the sync that is under way. The answer cannot be lower. */
  #receivedBeforeSync = 0;
  /** The version that the last sync answered. */
  #answered = 0;
  /** The version of the last message, as a sync answered it at `#checkedAt`. The message must arrive within a beat. */
  #due = 0;
  #checkedAt = 0;

  constructor(beatMs: number) {
    this.#beatMs = beatMs;
  }

  /** All totals up to this version are known, or will be asked for. */
  skipTo(version: number): void {
    this.#received = version;
    this.#due = version;
  }

  /** The site has a new epoch or this node a new name: versions start here. */
  restart(version: number): void {
    this.skipTo(version);
    this.#answered = version;
  }

  /** A message came. Returns true when messages before it are missing. */
  receive({ version, previous }: Pick<Message, "version" | "previous">): boolean {
    const isGap = previous > this.#received;
    this.#received = Math.max(this.#received, version);
    return isGap;
  }

  /** A sync is sent. */
  syncSent(): void {
    this.#receivedBeforeSync = this.#received;
  }

  /** A sync answered the version of the totals, and that of the last message. Returns what these show. */
  check(version: number, published: number, now: number): Finding {
    const isCheckDue = now >= this.#checkedAt + this.#beatMs;
    const finding = this.#compare(version, isCheckDue);
    if (finding !== "nothing missing") this.skipTo(version);
    this.#answered = version;
    if (isCheckDue) {
      this.#due = published;
      this.#checkedAt = now;
    }
    return finding;
  }

  #compare(version: number, isCheckDue: boolean): Finding {
    if (version < Math.max(this.#answered, this.#receivedBeforeSync)) return "versions went back";
    return isCheckDue && this.#received < this.#due ? "messages missing" : "nothing missing";
  }
}
