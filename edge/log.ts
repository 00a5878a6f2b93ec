/**
 * The log: one line per event on standard output, and one reporter for every failure that has no caller.
 *
 * Logging never blocks the service and never ends it. Lines wait in a bounded queue while a thread of the runtime writes.
 * When the reader of standard output is slow, or gone, further lines are dropped and counted.
 */

import { write as writeFile } from "node:fs";
import { isatty } from "node:tty";
import { LRUCache } from "lru-cache";
import { type Log, messageOf } from "../engine/engine.ts";

const STDOUT = 1;
const MAX_QUEUED_BYTES = 1_048_576;
const RETRY_MS = 50;

/** Writes a chunk, as `write` of node:fs does. */
type Write = (
  chunk: Uint8Array,
  done: (error: { readonly code?: string } | null | undefined, bytesWritten: number) => void,
) => void;

/** Writes lines one after the other, without waiting for them. */
export class LineWriter {
  /** Lines that were not written: the queue was full, or nobody reads any more. */
  dropped = 0;
  readonly #write: Write;
  readonly #queue: Uint8Array[] = [];
  #queuedBytes = 0;
  #onIdle: (() => void)[] = [];

  constructor(write: Write) {
    this.#write = write;
  }

  add(text: string): void {
    const line = Buffer.from(`${text}\n`);
    if (this.#queuedBytes + line.length > MAX_QUEUED_BYTES) {
      this.dropped += 1;
      return;
    }
    this.#queue.push(line);
    this.#queuedBytes += line.length;
    if (this.#queue.length === 1) this.#writeFirst();
  }

  /** Resolves when all lines are written or dropped, or after the time. */
  idle(maxMs: number): Promise<void> {
    if (this.#queue.length === 0) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#onIdle.push(resolve);
    setTimeout(resolve, maxMs);
    return promise;
  }

  #writeFirst(): void {
    const [line] = this.#queue;
    if (line === undefined) return this.#onIdle.splice(0).forEach((resolve) => resolve());
    this.#write(line, (error, bytesWritten) => {
      if (error?.code === "EAGAIN") return void setTimeout(() => this.#writeFirst(), RETRY_MS); // a full non-blocking pipe
      if (error) this.dropped += 1;
      else if (bytesWritten < line.length) {
        this.#queue[0] = line.subarray(bytesWritten);
        this.#queuedBytes -= bytesWritten;
        return this.#writeFirst();
      }
      this.#queue.shift();
      this.#queuedBytes -= line.length;
      this.#writeFirst();
    });
  }
}

const output = new LineWriter((chunk, done) => writeFile(STDOUT, chunk, done));
let isTerminalKnown: boolean | undefined;
/** Whether somebody reads the log on a terminal. */
export const isTerminal = (): boolean => (isTerminalKnown ??= isatty(STDOUT));

/** How many lines were dropped since the start. */
export const droppedLines = (): number => output.dropped;
/** Prints lines for people. */
export const print = (text: string): void => output.add(text);
/** Waits until everything is written, but not for long: the reader may be gone. */
export const flushLog = (maxMs: number): Promise<void> => output.idle(maxMs);

/** Writes one line: words on a terminal, JSON elsewhere. Values are escaped, so nobody can forge a line. */
export const log: Log = (level, event, fields = {}) => {
  const words = Object.entries(fields).map(([key, value]) => ` ${key}=${JSON.stringify(value)}`);
  output.add(
    isTerminal()
      ? `${level === "info" ? "" : `${level}: `}${event}${words.join("")}`
      : JSON.stringify({ time: new Date().toISOString(), level, event, ...fields }),
  );
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
