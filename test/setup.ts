/**
 * Loaded before all tests (bunfig.toml): gives a busy machine time, removes what tests leave behind, and prints which suites
 * were skipped.
 */
import { afterAll, setDefaultTimeout } from "bun:test";
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
  for (const suite of skippedSuites) process.stderr.write(`skipped: ${suite}\n`);
});
