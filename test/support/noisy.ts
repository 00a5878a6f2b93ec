/** A process that logs far more than a pipe holds, then says on standard error what became of the lines. */
import process from "node:process";
import { droppedLines, flushLog, log } from "../../edge/log.ts";

const LINES = 20_000;
const startedAt = performance.now();
for (let line = 0; line < LINES; line += 1) log("info", "noise", { line, filler: "x".repeat(100) });
const longestTurnMs = performance.now() - startedAt;
await flushLog(500);
process.stderr.write(`${JSON.stringify({ dropped: droppedLines(), longestTurnMs })}\n`);
process.exit(0);
