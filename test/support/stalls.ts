/** Finds out for how long the event loop of a service stands still, as a module that runs inside of the service says. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "./leftovers.ts";
import type { Launch, Settings } from "./service.ts";

/** A stall in milliseconds of wall clock, and what CPU time the process used meanwhile. A busy machine stalls without it. */
export type Stall = { ms: number; cpuMs: number };

export class StallProbe {
  readonly #file = join(temporaryFolder(), "stalls");
  #from = 0;

  /** For the start of a service that is to be watched. */
  readonly launch: Launch = { preload: new URL("loop-sampler.ts", import.meta.url).pathname };
  readonly settings: Settings = { STALLS_FILE: this.#file };

  /** Forgets the stalls so far. */
  reset(): void {
    this.#from = this.#lines().length;
  }

  /** The longest stall since then, in milliseconds, as far as the service itself worked meanwhile. */
  longestMs(): number {
    return workMs(this.longest());
  }

  /** The stall since then in which the service itself worked for the longest time. */
  longest(): Stall {
    const longer = (a: Stall, b: Stall) => (workMs(b) > workMs(a) ? b : a);
    return this.stalls().reduce(longer, { ms: 0, cpuMs: 0 });
  }

  /** All stalls since then. */
  stalls(): Stall[] {
    return this.#lines().slice(this.#from).map(parse);
  }

  #lines(): string[] {
    return existsSync(this.#file) ? readFileSync(this.#file, "utf8").split("\n").slice(0, -1) : [];
  }
}

const workMs = ({ ms, cpuMs }: Stall): number => Math.min(ms, cpuMs);

function parse(line: string): Stall {
  const [ms = 0, cpuMs = 0] = line.split(" ").map(Number);
  return { ms, cpuMs };
}
