/**
 * Loaded before the tests (bunfig.toml), by each of the processes that run files: gives a busy machine time, removes what tests leave behind, and tells
 * which suites were skipped.
 */
import { afterAll, setDefaultTimeout } from "bun:test";
import { appendFileSync } from "node:fs";
import { removeLeftovers } from "./support/leftovers.ts";
import { skippedSuites } from "./support/needs.ts";

setDefaultTimeout(60_000);

for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, () => {
    removeLeftovers();
    process.exit(1);
  });

afterAll(() => {
  removeLeftovers();
  const skipped = skippedSuites.map((suite) => `skipped: ${suite}\n`).join("");
  const file = process.env["HEADCOUNT_SKIPPED"];
  if (file === undefined) process.stderr.write(skipped);
  else appendFileSync(file, skipped); // run.ts prints it at the end
});
