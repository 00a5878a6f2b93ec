/**
 * A program for `sqlite-file.test.ts`, so that what a runtime does with the file is tested on both of them. It opens the
 * file of a folder and prints one JSON line.
 *
 * `keep FOLDER`: writes to the file, and stays until standard input ends · `read FOLDER`: prints what the file says of
 * own.example · `list FOLDER`: prints how many milliseconds of CPU one list of the most read pages costs.
 */
import process from "node:process";
import { SqliteEngine } from "../../engine/sqlite.ts";

const SITE = "own.example";
const LISTS = 5;

const [command, folder] = process.argv.slice(2);
if (folder === undefined) throw new Error("Usage: sqlite-program.ts keep|read|list FOLDER");
const engine = SqliteEngine.open({ folder, tokenTtlMs: 30_000, log: () => {} });

const commands: Record<string, () => Promise<unknown>> = {
  async keep() {
    await engine.record({ readings: [{ site: SITE, page: "/", bucket: 1, views: 1, seconds: 1 }], peaks: [] });
    return { secret: await engine.secret("signing", "") };
  },
  async read() {
    const mostRead = await engine.mostRead(SITE);
    const pages = await Promise.all(mostRead.map(({ page }) => engine.reading(SITE, page)));
    const [secret, highest] = [await engine.secret("signing", ""), await engine.highest(SITE)];
    return { secret, highest, history: await engine.history(SITE, 0, 1), mostRead, pages };
  },
  async list() {
    await engine.mostRead(SITE); // the first list loads the pages of the file
    const before = process.cpuUsage();
    for (let list = 0; list < LISTS; list += 1) await engine.mostRead(SITE);
    const { user, system } = process.cpuUsage(before);
    return { cpuMs: (user + system) / 1_000 / LISTS };
  },
};

process.stdout.write(`${JSON.stringify(await commands[command ?? ""]?.())}\n`);
if (command === "keep") for await (const _ of process.stdin);
await engine.close();
process.exit(0);
