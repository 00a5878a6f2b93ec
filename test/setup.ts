/** Loaded before all tests (bunfig.toml): leaves nothing behind, and says at the end what was not run. */
import { afterAll } from "bun:test";
import { removeLeftovers } from "./support/leftovers.ts";
import { skippedSuites } from "./support/needs.ts";

for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.once(signal, () => {
    removeLeftovers();
    process.exit(1);
  });

afterAll(() => {
  removeLeftovers();
  for (const suite of skippedSuites) process.stderr.write(`skipped: ${suite}\n`);
});
