/** Suites that run the service on both runtimes. */
import { afterAll, describe, setDefaultTimeout } from "bun:test";
import { endServices, type Runtime, runtimes } from "./service.ts";

/** Generous: what has to be quick has a bound of its own, and a busy machine must not fail the other tests. */
const defaultTimeoutMs = 60_000;

/**
 * Registers a suite once for Bun and once for Deno. Its tests run at the same time. After them all services of the file
 * are ended, and the file fails if one of them died or logged an error.
 *
 *     onBothRuntimes("tokens", (runtime) => {
 *       test("…", async () => …);
 *     });
 */
export function onBothRuntimes(
  name: string,
  suite: (runtime: Runtime) => void,
  timeoutMs: number = defaultTimeoutMs,
): void {
  setDefaultTimeout(timeoutMs);
  for (const runtime of runtimes) describe.concurrent(`${name} (${runtime})`, () => suite(runtime));
  afterAll(endServices);
}
