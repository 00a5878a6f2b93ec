/**
 * What this machine can run. A suite that needs a program which is not installed is skipped, and named with its reason
 * at the end of the run (see ../setup.ts). With HEADCOUNT_REQUIRE_ALL=1, as in CI, it fails instead.
 */
import { describe, test } from "bun:test";

export type Program = "chromium" | "nginx" | "openssl" | "redis-server";

const names: Record<Program, string[]> = {
  chromium: ["chromium", "chromium-browser", "google-chrome"],
  nginx: ["nginx"],
  openssl: ["openssl"],
  "redis-server": ["redis-server", "valkey-server"],
};

/** Daemons often live where the PATH of an ordinary user does not look. */
const path = [process.env["PATH"], "/usr/sbin", "/usr/local/sbin"].join(":");

export const skippedSuites: string[] = [];

function find(program: Program): string | undefined {
  return names[program].map((name) => Bun.which(name, { PATH: path })).find((found) => found !== null) ?? undefined;
}

/** The program's path, for the body of a suite that said it needs it. */
export function pathOf(program: Program): string {
  const found = find(program);
  if (!found) throw new Error(`${program} is not installed`);
  return found;
}

/** A `describe` that runs where the machine has what it needs: `suite("proxy", ["nginx"], () => { … })`. */
export function suite(name: string, needs: Program[], body: () => void): void {
  const missing = needs.filter((need) => !find(need));
  if (missing.length === 0) return describe(name, body);
  const why = `${missing.join(" and ")} ${missing.length > 1 ? "are" : "is"} not installed`;
  if (process.env["HEADCOUNT_REQUIRE_ALL"] === "1")
    return test(`${name}: can run on this machine`, () => {
      throw new Error(`Cannot run "${name}": ${why}, and HEADCOUNT_REQUIRE_ALL=1`);
    });
  skippedSuites.push(`${name} (${why})`);
  describe.skip(name, body);
}
