/**
 * Preloaded into a service by a test: each stall of the event loop is a line `wall milliseconds, CPU milliseconds of the thread`
 * in STALLS_FILE. Before the port is open, nobody waits for the service, and nothing is a stall.
 */
import { appendFileSync } from "node:fs";
import process from "node:process";
import { setInterval } from "node:timers";

const SAMPLE_MS = 5;
const MIN_STALL_MS = 10;
const file = process.env["STALLS_FILE"] ?? "";
const cpuMs = () => {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1_000;
};

function watch(): void {
  let [wall, cpu] = [performance.now(), cpuMs()];
  setInterval(() => {
    const stalledMs = performance.now() - wall - SAMPLE_MS;
    if (stalledMs > MIN_STALL_MS) appendFileSync(file, `${stalledMs.toFixed(1)} ${(cpuMs() - cpu).toFixed(1)}\n`);
    [wall, cpu] = [performance.now(), cpuMs()];
  }, SAMPLE_MS).unref(); // Deno would wait for the timer to end before it stops
}

const runtime: { serve: (...args: never[]) => unknown } = typeof Deno === "undefined" ? Bun : Deno;
const { serve } = runtime;
runtime.serve = (...args) => {
  watch();
  return serve(...args);
};
