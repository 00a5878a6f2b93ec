/** Loaded before all tests (bunfig.toml): leaves no process behind, and says at the end what was not run. */
import { afterAll } from "bun:test";
import { skippedSuites } from "./support/needs.ts";
import { killServices } from "./support/service.ts";

afterAll(() => {
  killServices();
  for (const suite of skippedSuites) process.stderr.write(`skipped: ${suite}\n`);
});
