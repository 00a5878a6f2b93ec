/** The file of the SQLite engine: who may read it, what older and newer versions wrote, and what happens when it breaks. */
import type { Subprocess } from "bun";
import { describe, expect, spyOn, test } from "bun:test";
import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { DAY_MINUTES, MAX_STORED_NAME_LENGTH, MINUTE_MS, OTHER_PAGES, type ReadingSum } from "../../engine/engine.ts";
import { SqliteEngine } from "../../engine/sqlite.ts";
import { adopt, temporaryFolder } from "../support/leftovers.ts";
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

/** An engine, and the lines that it logs. */
function openWithLog(folder: string) {
  const lines: unknown[][] = [];
  const engine = SqliteEngine.open({ folder, tokenTtlMs: 30_000, log: (...line) => void lines.push(line) });
  return { engine, lines };
}

/** How many bytes this process has read. Linux only. */
const bytesRead = (): number => Number(/rchar: (\d+)/.exec(readFileSync("/proc/self/io", "utf8"))?.[1]);

const brokenFilesIn = (folder: string) => readdirSync(folder).filter((name) => /broken-\d+$/.test(name));

/** An entry that makes a record fail. */
const failing: ReadingSum = {
  site,
  page: "/",
  bucket: 1,
  seconds: 1,
  get views(): number {
    throw new Error("an error that nobody knows");
  },
};

/** Overwrites the middle of the file. */
function damage(file: string): void {
  const { size } = statSync(file);
  const bytes = readFileSync(file);
  bytes.fill("garbage ", Math.floor(size * 0.3), Math.floor(size * 0.9));
  writeFileSync(file, bytes);
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
    await first.hold([{ site, page: undefined, visitor: "ann" }]);
    await first.close();
    const second = sqlite(folder);
    expect(await second.secret("signing", "")).toBe(secret);
    expect(await second.mostRead(site)).toHaveLength(3);
    expect(await second.held()).toEqual([{ site, page: undefined, visitor: "ann" }]);
    expect(await second.held()).toEqual([]);
    await second.close();
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
    await again.held();
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

  // --------------------------------------------------------------------------------------------------- broken files

  test("sqlite: a file that is no database is set aside, is private then, and the work goes on", async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, "headcount.db"), "this is not a database, and long enough to be looked at ".repeat(100));
    const { engine, lines } = openWithLog(folder);
    await engine.record({ readings: readings(3), peaks: [] });
    expect(await engine.mostRead(site)).toHaveLength(3);
    const [broken] = brokenFilesIn(folder);
    expect(statSync(join(folder, broken!)).mode & 0o077).toBe(0);
    expect(lines).toEqual([["error", expect.stringContaining("set aside"), expect.anything()]]);
    await engine.close();
  });

  test("sqlite: damage is found when it is read; then a new file begins with the same secrets", async () => {
    const folder = temporaryFolder();
    const before = sqlite(folder);
    const secret = await before.secret("signing", "");
    await before.record({ readings: readings(5_000), peaks: [{ site, minute, peak: 3 }] });
    await before.close();
    damage(join(folder, "headcount.db"));
    const { engine, lines } = openWithLog(folder);
    expect(await engine.secret("signing", "")).toBe(secret);
    expect(brokenFilesIn(folder)).toEqual([]);
    expect(engine.record({ readings: readings(5_000), peaks: [] })).rejects.toThrow(/headcount\.db: .*malformed/);
    await engine.record({ readings: readings(5), peaks: [] });
    expect(await engine.mostRead(site)).toHaveLength(5);
    expect(await engine.secret("signing", "")).toBe(secret);
    expect(brokenFilesIn(folder)).toHaveLength(1);
    expect(lines).toEqual([["error", expect.stringContaining("set aside"), expect.anything()]]);
    await engine.close();
  });

  test("sqlite: a file that breaks again and again is set aside five times, and not copied for ever", async () => {
    const folder = temporaryFolder();
    const engine = sqlite(folder);
    for (let time = 0; time < 8; time += 1) {
      await engine.record({ readings: [failing], peaks: [] }).catch(() => {}); // closes the file
      writeFileSync(join(folder, "headcount.db"), "garbage ".repeat(1_000));
      const recorded = engine.record({ readings: readings(1), peaks: [] });
      if (time < 5) await recorded;
      else expect(recorded).rejects.toThrow(/not a database/);
    }
    expect(brokenFilesIn(folder)).toHaveLength(5);
    await engine.close();
  });

  test("sqlite: after an error the file is opened again, and nothing reads all of it", async () => {
    const folder = temporaryFolder();
    const engine = sqlite(folder);
    const pages = readings(10_000, "x".repeat(200));
    await engine.record({ readings: pages, peaks: [] });
    const before = bytesRead();
    for (let time = 0; time < 5; time += 1) {
      const recorded = engine.record({ readings: [failing], peaks: [] });
      expect(await recorded.catch(String)).toContain("nobody knows");
      await engine.record({ readings: pages.slice(0, 3), peaks: [] });
    }
    expect(bytesRead() - before).toBeLessThan(2_000_000);
    expect(await engine.reading(site, pages[0]!.page)).toMatchObject({ views: 6 });
    expect(engine.failures).toBe(5);
    await engine.close();
  });

  test("sqlite: a locked one fails at once, loses nothing of what was asked again, and counts the failure", async () => {
    const folder = temporaryFolder();
    const engine = sqlite(folder);
    await engine.record({ readings: readings(1), peaks: [] });
    const other = new DatabaseSync(join(folder, "headcount.db"));
    other.exec("BEGIN EXCLUSIVE");
    expect(engine.record({ readings: readings(2), peaks: [] })).rejects.toThrow(/Cannot use .*headcount\.db: .*locked/);
    other.exec("ROLLBACK");
    other.close();
    expect(engine.failures).toBe(1);
    await engine.record({ readings: readings(2), peaks: [] });
    expect((await engine.mostRead(site)).map(({ views }) => views)).toEqual([2, 1]);
    await engine.close();
  });

  test("sqlite: a write-ahead log that was cut off in mid-write loses its last transaction only", async () => {
    const folder = temporaryFolder();
    const engine = sqlite(folder);
    await engine.record({ readings: readings(3), peaks: [] });
    appendFileSync(join(folder, "headcount.db-wal"), Buffer.alloc(2_000, 9));
    const copy = sqlite(folder);
    expect(await copy.mostRead(site)).toHaveLength(3);
    await copy.close();
    await engine.close();
  });

  test("sqlite: a folder that is deleted is noticed, and a new file begins with the same secrets", async () => {
    const folder = join(temporaryFolder(), "data");
    const { engine, lines } = openWithLog(folder);
    const secret = await engine.secret("signing", "");
    rmSync(folder, { recursive: true });
    await engine.record({ readings: readings(3), peaks: [] });
    expect(lines).toEqual([["error", expect.stringContaining("deleted"), expect.anything()]]);
    await engine.close();
    const again = sqlite(folder);
    expect(await again.secret("signing", "")).toBe(secret);
    expect(await again.mostRead(site)).toHaveLength(3);
    await again.close();
  });

  test("sqlite: a file that cannot be opened at the start is used as soon as it can be", async () => {
    const folder = temporaryFolder();
    mkdirSync(join(folder, "headcount.db"));
    const engine = sqlite(folder);
    expect(engine.record({ readings: readings(1), peaks: [] })).rejects.toThrow(/Cannot use/);
    rmSync(join(folder, "headcount.db"), { recursive: true });
    await engine.record({ readings: readings(1), peaks: [] });
    expect(await engine.mostRead(site)).toHaveLength(1);
    await engine.close();
  });
});
