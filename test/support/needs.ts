/**
 * What this machine can run. A suite that needs something which is not installed is skipped, and named with its reason
 * at the end of the run (see ../setup.ts). With HEADCOUNT_REQUIRE_ALL=1, as in CI, it fails instead.
 */
import { describe, test } from "bun:test";
import { existsSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";

export type Need =
  | "chromium"
  | "firefox-esr"
  | "webkit2gtk-driver"
  | "xvfb"
  | "nginx"
  | "openssl"
  | "redis-server"
  | "npm's HTML documentation";

/** Daemons are often installed outside the PATH of an ordinary user. */
const path = [process.env["PATH"], "/usr/sbin", "/usr/local/sbin"].join(":");

const program = (...names: string[]): string | undefined =>
  names.map((name) => Bun.which(name, { PATH: path })).find((found) => found !== null) ?? undefined;

/** npm's own HTML pages: pages that this project did not write, on each machine that has npm. */
function documentation(): string | undefined {
  const npm = [process.env["npm_execpath"], program("npm")].filter((file) => file !== undefined);
  const folders = npm.map((file) => join(dirname(realpathSync(file)), "../docs/output"));
  return folders.find((folder) => existsSync(join(folder, "commands/npm-ls.html")));
}

/** Finds the path of each need, if the machine has it. */
const find: Record<Need, () => string | undefined> = {
  chromium: () => program("chromium", "chromium-browser", "google-chrome"),
  "firefox-esr": () => program("firefox-esr", "firefox"),
  "webkit2gtk-driver": () => program("WebKitWebDriver"),
  xvfb: () => program("Xvfb"),
  nginx: () => program("nginx"),
  openssl: () => program("openssl"),
  "redis-server": () => program("redis-server", "valkey-server"),
  "npm's HTML documentation": documentation,
};

export const skippedSuites: string[] = [];

/** The path of a need, for a suite that runs only where the machine has it. */
export function pathOf(need: Need): string {
  const found = find[need]();
  if (!found) throw new Error(`${need} is not installed`);
  return found;
}

/** Whether the machine has all of these, for a part of a suite or a program. */
export const canRun = (...needs: Need[]): boolean => needs.every((need) => find[need]() !== undefined);

/** A `describe` that runs where the machine has what it needs: `suite("proxy", ["nginx"], () => { … })`. */
export function suite(name: string, needs: Need[], body: () => void): void {
  const missing = needs.filter((need) => !canRun(need));
  if (missing.length === 0) return describe(name, body);
  const why = `${missing.join(" and ")} ${missing.length > 1 ? "are" : "is"} not installed`;
  if (process.env["HEADCOUNT_REQUIRE_ALL"] === "1")
    return test(`${name}: can run on this machine`, () => {
      throw new Error(`Cannot run "${name}": ${why}, and HEADCOUNT_REQUIRE_ALL=1`);
    });
  skippedSuites.push(`${name} (${why})`);
  describe.skip(name, body);
}
