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

/** With so many, two cores are busy, but not so busy that tests run out of time, on slow machines either. */
const FILES_AT_ONCE = 4;
const CLEANING_MS = 10_000;

const folder = mkdtempSync(join(tmpdir(), "headcount-run-"));
const skippedFile = join(folder, "skipped");
const options = [`--parallel=${FILES_AT_ONCE}`, "--timings=test/timings.json", "--no-orphans"]; // the longest file first
const child = Bun.spawn([process.execPath, "test", ...options, ...process.argv.slice(2)], {
  cwd: join(import.meta.dir, ".."),
  env: { ...process.env, HEADCOUNT_SKIPPED: skippedFile },
  stdio: ["inherit", "inherit", "inherit"],
  detached: true, // Ctrl-C comes here only
});

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
