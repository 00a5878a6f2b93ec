/**
 * `npm test`: runs the test files beside each other, since most tests wait for time to pass, and names at the end what this
 * machine could not run. What follows on the command line goes to `bun test`:
 *
 *     npm test -- test/unit/log.test.ts   one file
 *     npm test -- --parallel=2            so many files at a time
 *     npm test -- --update-timings        writes down how long each file took
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sleep } from "./support/waiting.ts";

/** So many files at a time keep two cores busy. */
const FILES_AT_ONCE = 6;
/** So many are not too much for slow machines either. */
const MIN_FILES_AT_ONCE = 3;
/** How long a few processes take to start together on a machine that FILES_AT_ONCE are not too much for. */
const START_MS = 60;
const CLEANING_MS = 10_000;

const folder = mkdtempSync(join(tmpdir(), "headcount-run-"));
const skippedFile = join(folder, "skipped");
const options = [`--parallel=${await filesAtOnce()}`, "--timings=test/timings.json", "--no-orphans"]; // the longest file first
const child = Bun.spawn([process.execPath, "test", ...options, ...process.argv.slice(2)], {
  cwd: join(import.meta.dir, ".."),
  env: { ...process.env, HEADCOUNT_SKIPPED: skippedFile },
  stdio: ["inherit", "inherit", "inherit"],
  detached: true, // Ctrl-C comes here only
});

/**
 * How many files to run at a time. Tests start processes all the time, and run out of time where too many start together.
 * Virtual machines differ most in this: starting a process takes some of them three times as long.
 */
async function filesAtOnce(): Promise<number> {
  const start = () => Bun.spawn([process.execPath, "--eval", "0"]).exited;
  await start(); // from now on the program is in memory
  const began = performance.now();
  await Promise.all(Array.from({ length: FILES_AT_ONCE }, start));
  const share = Math.min(1, START_MS / (performance.now() - began));
  return Math.max(MIN_FILES_AT_ONCE, Math.floor(FILES_AT_ONCE * share));
}

const output = (...command: string[]): string => Bun.spawnSync(command).stdout.toString();

/**
 * Lets the workers remove what their tests have made. Their parent is stopped meanwhile, because it would kill them or start
 * new ones.
 */
async function stop(): Promise<void> {
  try {
    child.kill("SIGSTOP");
    const workers = output("pgrep", "-P", String(child.pid)).split("\n").filter(Boolean);
    output("kill", ...workers);
    const states = (): string => output("ps", "-o", "stat=", "-p", workers.join(","));
    const areRunning = (): boolean => /^[^Z\s]/m.test(states()); // Z: ended, and the stopped parent has not noticed
    const end = performance.now() + CLEANING_MS;
    while (areRunning() && performance.now() < end) await sleep(100);
  } finally {
    child.kill("SIGTERM");
    child.kill("SIGCONT");
  }
}

let stopped: Promise<void> | undefined;
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.on(signal, () => {
    stopped ??= stop(); // npm repeats the signal of Ctrl-C
  });
const code = await child.exited;
if (existsSync(skippedFile)) process.stderr.write(readFileSync(skippedFile));
rmSync(folder, { recursive: true });
process.exit(code);
