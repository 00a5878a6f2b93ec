/** Preloaded into a service by a test: the clock of its machine is wrong by CLOCK_OFFSET_MS. */
import process from "node:process";

const offsetMs = Number(process.env["CLOCK_OFFSET_MS"] ?? 0);
const rightNow = Date.now;
Date.now = () => rightNow() + offsetMs;
globalThis.Date = new Proxy(Date, {
  construct: (date, args: []) => (args.length === 0 ? new date(date.now()) : new date(...args)),
});
