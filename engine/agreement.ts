/**
 * Notices nodes that share a Redis and have other settings than this one: each would refuse the tokens and visitors of the
 * other, or count other sites, and nobody would see why.
 */

import type { Log, SharedSettings } from "./engine.ts";
import type { Link } from "./link.ts";
import type { Options } from "./options.ts";

export class Agreement {
  readonly #link: Pick<Link, "ask">;
  readonly #key: string;
  readonly #ttlMs: number;
  readonly #log: Log;
  #settings: string | undefined;
  /** Since when others differ, by `performance.now()`. */
  #differsSince = Infinity;
  #isReported = false;

  constructor(link: Pick<Link, "ask">, { prefix, leaseMs, log }: Required<Options>) {
    this.#link = link;
    this.#key = `${prefix}settings`;
    this.#ttlMs = 2 * leaseMs;
    this.#log = log;
  }

  share(settings: SharedSettings): void {
    this.#settings = JSON.stringify(settings);
  }

  /** Keeps the settings in Redis, or compares them with those that are there. Never rejects: the next beat tries again. */
  async check(now: number): Promise<void> {
    if (this.#settings === undefined) return;
    const others = await this.#exchange(this.#settings).catch(() => undefined); // the link reports failures
    if (others === undefined) return;
    if (others === this.#settings) {
      this.#differsSince = Infinity;
      this.#isReported = false;
      return;
    }
    this.#differsSince = Math.min(this.#differsSince, now);
    // While nodes are restarted one after the other with new settings, the old ones are there for a while.
    if (this.#isReported || now < this.#differsSince + 2 * this.#ttlMs) return;
    this.#isReported = true;
    const settings = differences(this.#settings, others);
    this.#log("error", "nodes that share this Redis have other settings: give all of them the same", { settings });
  }

  /** Returns what Redis keeps: these settings, or those of the node that was there first and still is. */
  #exchange(settings: string): Promise<string> {
    return this.#link.ask(async (client) => {
      await client.set(this.#key, settings, "PX", this.#ttlMs, "NX");
      const found = (await client.get(this.#key)) ?? settings;
      if (found === settings) await client.pexpire(this.#key, this.#ttlMs);
      return found;
    });
  }
}

/** The names of the settings that differ. */
function differences(mine: string, others: string): string[] {
  const [a, b] = [mine, others].map(parse) as [SharedSettings, SharedSettings];
  return [...new Set(Object.keys(a).concat(Object.keys(b)))].filter((name) => a[name] !== b[name]);
}

function parse(text: string): SharedSettings {
  try {
    return (JSON.parse(text) ?? {}) as SharedSettings;
  } catch {
    return {}; // deliberate: what is not JSON is not from a node, and differs in all settings
  }
}
