/** Preloaded into a service by a test: the clock of its machine is wrong by as many milliseconds as the file CLOCK_FILE says. */
import { readFileSync } from "node:fs";
import process from "node:process";

const file = process.env["CLOCK_FILE"] ?? "";
const rightNow = Date.now;
const offsetMs = () => Number(readFileSync(file, "utf8"));
Date.now = () => rightNow() + offsetMs();
globalThis.Date = new Proxy(Date, {
  construct: (date, args: []) => (args.length === 0 ? new date(date.now()) : new date(...args)),
});
