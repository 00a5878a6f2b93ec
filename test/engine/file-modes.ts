/**
 * A program for `sqlite-file.test.ts`: looks at the files of a folder as often as it can. It makes the file MARKER when it
 * begins. When standard input ends, it prints the widest mode that each of the files had.
 */
import { readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const [folder = "", marker = ""] = process.argv.slice(2);
const modes: Record<string, number> = {};
const state = { isOver: false };
process.stdin.on("end", () => (state.isOver = true)).resume();
writeFileSync(marker, "");
while (!state.isOver) {
  const end = performance.now() + 20;
  while (performance.now() < end)
    for (const name of readdirSync(folder)) {
      const mode = statSync(join(folder, name), { throwIfNoEntry: false })?.mode ?? 0;
      modes[name] = (modes[name] ?? 0) | (mode & 0o777);
    }
  await new Promise((wake) => setImmediate(wake)); // hears the end of standard input
}
process.stdout.write(JSON.stringify(modes));
