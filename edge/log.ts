/** The log: one line per event, and one reporter for every failure that has no caller. */

import process from "node:process";
import { LRUCache } from "lru-cache";
import { type Log, messageOf } from "../engine/engine.ts";

/** Writes one line: words on a terminal, JSON elsewhere. Values are escaped, so nobody can forge a line. */
export const log: Log = (level, event, fields = {}) => {
  const words = Object.entries(fields).map(([key, value]) => ` ${key}=${JSON.stringify(value)}`);
  const line = process.stdout.isTTY
    ? `${level === "info" ? "" : `${level}: `}${event}${words.join("")}`
    : JSON.stringify({ time: new Date().toISOString(), level, event, ...fields });
  process.stdout.write(`${line}\n`);
};

const REPORT_AGAIN_MS = 10_000; // visitors can cause some failures, so the same one is logged once in this time
const recentReports = new LRUCache<string, true>({ max: 100, ttl: REPORT_AGAIN_MS });

/** The one reporter of failures that have no caller. */
export function report(error: unknown): void {
  const message = messageOf(error);
  if (recentReports.has(message)) return;
  recentReports.set(message, true);
  log("error", "unexpected error", { message, stack: error instanceof Error ? error.stack : "" });
}

/** Wraps a callback of a timer or socket. Without it, an exception in the callback would end the process on Deno. */
export function guarded<Args extends unknown[]>(callback: (...args: Args) => void): (...args: Args) => void {
  return (...args) => {
    try {
      callback(...args);
    } catch (error) {
      report(error);
    }
  };
}
