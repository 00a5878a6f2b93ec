/** The file of the SQLite engine: who may read it, what older and newer versions wrote, and what it costs to use. */
import type { Subprocess } from "bun";
import { describe, expect, spyOn, test } from "bun:test";
import { chmodSync, copyFileSync, existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { DAY_MINUTES, MAX_MOST_READ, MAX_STORED_NAME_LENGTH, MINUTE_MS, OTHER_PAGES } from "../../engine/engine.ts";
import { adopt, temporaryFolder } from "../support/leftovers.ts";
import { bytesRead } from "../support/process.ts";
import { refuseToStart, type Runtime, runtimes } from "../support/service.ts";
import { sqlite } from "../support/unit.ts";
import { until } from "../support/waiting.ts";
import { writeOldFile } from "./old-file.ts";

const ROOT = join(import.meta.dir, "../..");
const commands: Record<Runtime, string[]> = {
  bun: ["node_modules/.bin/bun"],
  deno: ["node_modules/.bin/deno", "run", "--allow-all"],
};
const site = "own.example";
const minute = Math.floor(Date.now() / MINUTE_MS);

const readings = (length: number, end = "") =>
  Array.from({ length }, (_, index) => ({ site, page: `/page/${index}${end}`, bucket: 3, views: 1, seconds: 2 }));

const run = (command: string[]) =>
  adopt(Bun.spawn(command, { cwd: ROOT, stdin: "pipe", stdout: "pipe", stderr: "inherit" }));

const startProgram = (runtime: Runtime, ...args: string[]) =>
  run([...commands[runtime], "test/engine/sqlite-program.ts", ...args]);

/** What a program prints, once its standard input and the program have ended. */
async function resultOf(program: Subprocess<"pipe", "pipe", "inherit">): Promise<any> {
  void program.stdin.end();
  const text = await new Response(program.stdout).text();
  expect(await program.exited).toBe(0);
  return JSON.parse(text.slice(text.indexOf("{")));
}

describe.each(runtimes)("sqlite file (%s)", (runtime) => {
  test("sqlite: the files were readable by their owner only at every instant, in an open folder too", async () => {
    const folder = temporaryFolder();
    chmodSync(folder, 0o755);
    const marker = join(temporaryFolder(), "watching");
    const watcher = run([...commands.bun, "test/engine/file-modes.ts", folder, marker]);
    await until("it watches", () => existsSync(marker), 10_000);
    const program = startProgram(runtime, "keep", folder);
    await until("the file is written", () => existsSync(join(folder, "headcount.db-wal")), 10_000);
    await Bun.sleep(100); // the watcher sees all files
    await resultOf(program);
    const modes: Record<string, number> = await resultOf(watcher);
    expect(Object.keys(modes)).toEqual(
      expect.arrayContaining(["headcount.db", "headcount.db-shm", "headcount.db-wal"]),
    );
    for (const [name, mode] of Object.entries(modes)) expect([name, mode & 0o077]).toEqual([name, 0]);
  });

  test("sqlite: restored files become private when the service opens them", async () => {
    const folder = temporaryFolder();
    const original = sqlite(folder);
    await original.record({ readings: readings(3), peaks: [] });
    const copy = temporaryFolder();
    for (const name of readdirSync(folder)) copyFileSync(join(folder, name), join(copy, name));
    await original.close();
    for (const name of readdirSync(copy)) chmodSync(join(copy, name), 0o644);
    expect(readdirSync(copy).length).toBe(3);
    const program = startProgram(runtime, "keep", copy);
    const modes = () => readdirSync(copy).map((name) => statSync(join(copy, name)).mode & 0o777);
    await until("they are private", () => modes().length === 3 && modes().every((mode) => mode === 0o600), 10_000);
    await resultOf(program);
  });

  test("sqlite: a file of version 1 is brought to the newest version, and nothing of it is lost", async () => {
    const folder = temporaryFolder();
    const long = `/long/${"x".repeat(1_000)}`;
    writeOldFile(folder, {
      secrets: [["signing", "", "the secret"]],
      readings: [
        [site, "/", 13, 3, 31],
        [site, "/", 0, 1, 0.5],
        [site, "/", 20, 0, 0],
        [site, long, 20, 1, 36],
        [site, OTHER_PAGES, 1, 7, 9],
        ["other.example", "/", 1, 1, 1],
      ],
      history: [[site, minute, 7]],
      highest: [[site, minute - 100 * DAY_MINUTES, 50]],
    });
    const { secret, highest, history, mostRead, pages } = await resultOf(startProgram(runtime, "read", folder));
    expect([secret, highest]).toEqual(["the secret", { minute: minute - 100 * DAY_MINUTES, peak: 50 }]);
    expect(history).toEqual([{ minute, peak: 7 }]);
    expect(mostRead.map(({ page, ...figures }: any) => [page.length, figures])).toEqual([
      [MAX_STORED_NAME_LENGTH, { views: 1, seconds: 36, median: 35, p90: 35 }],
      [1, { views: 4, seconds: 32, median: 10, p90: 10 }],
      [OTHER_PAGES.length, { views: 7, seconds: 9, median: 1, p90: 1 }],
    ]);
    expect(pages.map(({ views }: any) => views)).toEqual([1, 4, 7]);
    const engine = sqlite(folder);
    await engine.record({ readings: [{ site, page: long, bucket: 20, views: 1, seconds: 36 }], peaks: [] });
    expect(await engine.reading(site, long)).toEqual({ views: 2, seconds: 72, median: 35, p90: 35 });
    await engine.close();
  });

  test("sqlite: a file of a newer version stops the start with a message that names both versions", async () => {
    const folder = temporaryFolder();
    await sqlite(folder).close();
    const database = new DatabaseSync(join(folder, "headcount.db"));
    const known = Number(database.prepare("PRAGMA user_version").get()?.["user_version"]);
    database.exec("PRAGMA user_version = 99");
    database.close();
    const { code, stderr } = await refuseToStart(runtime, { DATA: folder, SECRET: "x".repeat(40) });
    expect(code).toBe(1);
    expect(stderr).toContain(join(folder, "headcount.db"));
    expect(stderr).toContain(`version 99; this Headcount knows versions up to ${known}`);
  });

  test("sqlite: a list of the most read pages costs a few milliseconds, with 10,000 pages of 40 buckets too", async () => {
    const folder = temporaryFolder();
    const buckets = Array.from({ length: 10_000 * 40 }, (_, index) => {
      const [page, bucket] = [Math.floor(index / 40), index % 40];
      return [site, `/posts/a-page-with-a-name/${page}`, bucket, 1 + (page % 5), 1.2 ** bucket] as const;
    });
    writeOldFile(folder, { readings: buckets });
    const { cpuMs } = await resultOf(startProgram(runtime, "list", folder));
    expect(cpuMs).toBeLessThan(40); // 3 to 6 ms; 200 to 700 ms when all buckets were read
  }, 60_000);
});

describe("sqlite file", () => {
  test("sqlite: what was kept is there after it was opened again", async () => {
    const folder = temporaryFolder();
    const first = sqlite(folder);
    const secret = await first.secret("signing", "");
    await first.record({ readings: readings(3), peaks: [] });
    await first.hold([{ site, page: undefined, visitor: "ann" }], "signer");
    await first.close();
    const second = sqlite(folder);
    expect(await second.secret("signing", "")).toBe(secret);
    expect(await second.mostRead(site)).toHaveLength(3);
    expect(await second.held("signer")).toEqual([{ site, page: undefined, visitor: "ann" }]);
    expect(await second.held("signer")).toEqual([]);
    await second.close();
  });

  test("sqlite: a large file of version 2 gets room for totals without being copied", async () => {
    const folder = temporaryFolder();
    const before = sqlite(folder);
    await before.record({ readings: readings(10_000, "x".repeat(200)), peaks: [] });
    await before.close();
    const database = new DatabaseSync(join(folder, "headcount.db"));
    database.exec(`DROP TABLE days; DROP TABLE day_visitors; ALTER TABLE sites DROP COLUMN total;
      ALTER TABLE sites DROP COLUMN visitors; ALTER TABLE pages DROP COLUMN views; ALTER TABLE held DROP COLUMN signer;
      DROP TABLE imports; DROP TABLE imported_pages; DROP TABLE secrets;
      CREATE TABLE secrets (kind TEXT PRIMARY KEY, name TEXT NOT NULL, value TEXT NOT NULL) STRICT;
      INSERT INTO secrets VALUES ('signing', '', 'the secret'), ('day', '100', 'the key');
      PRAGMA user_version = 2`);
    database.close();
    const bytesBefore = bytesRead();
    const engine = sqlite(folder);
    const { size } = statSync(join(folder, "headcount.db"));
    expect(bytesRead() - bytesBefore).toBeLessThan(2 * size); // SQLite checks the rows of a table that gets a column
    expect(await engine.siteTotals(site, 0)).toEqual({ total: 0, visitors: 0, today: 0 });
    expect([await engine.secret("signing", ""), await engine.secret("day", "100")]).toEqual(["the secret", "the key"]);
    expect(await engine.mostRead(site)).toHaveLength(MAX_MOST_READ);
    await engine.close();
  });

  test("sqlite: a start reads a small part of a large file", async () => {
    const folder = temporaryFolder();
    const engine = sqlite(folder);
    const pages = readings(10_000, "x".repeat(200));
    await engine.record({ readings: pages, peaks: [] });
    await engine.close();
    const before = bytesRead();
    const again = sqlite(folder);
    await again.secret("signing", "");
    await again.held("signer");
    const read = bytesRead() - before;
    expect(statSync(join(folder, "headcount.db")).size).toBeGreaterThan(4_000_000);
    expect(read).toBeLessThan(500_000);
    await again.close();
  });

  // --------------------------------------------------------------------------------------------------------- copies

  test("sqlite: a copy of headcount.db alone has what was kept a minute ago, and what was kept before the end", async () => {
    const folder = temporaryFolder();
    const file = join(folder, "headcount.db");
    const engine = sqlite(folder);
    const secret = await engine.secret("signing", "");
    const pagesInCopy = async () => {
      const copy = temporaryFolder();
      copyFileSync(file, join(copy, "headcount.db"));
      const opened = sqlite(copy);
      expect(await opened.secret("signing", "")).toBe(secret);
      const { length } = await opened.mostRead(site);
      await opened.close();
      return length;
    };
    expect(await pagesInCopy()).toBe(0);
    const clock = spyOn(performance, "now").mockReturnValue(performance.now() + 61_000);
    await engine.record({ readings: readings(7), peaks: [] });
    clock.mockRestore();
    expect(await pagesInCopy()).toBe(7);
    await engine.record({ readings: readings(9), peaks: [] });
    await engine.close();
    expect(await pagesInCopy()).toBe(9);
    expect(readdirSync(folder)).toEqual(["headcount.db"]);
  });
});
