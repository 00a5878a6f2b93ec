/** What happens to the file of the SQLite engine when it is damaged, locked or deleted: statistics are lost, never secrets. */
import { describe, expect, test } from "bun:test";
import { appendFileSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { MINUTE_MS, type ReadingSum } from "../../engine/engine.ts";
import { SqliteEngine } from "../../engine/sqlite.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { bytesRead } from "../support/process.ts";
import { sqlite } from "../support/unit.ts";

const site = "own.example";
const minute = Math.floor(Date.now() / MINUTE_MS);

const readings = (length: number, end = "") =>
  Array.from({ length }, (_, index) => ({ site, page: `/page/${index}${end}`, bucket: 3, views: 1, seconds: 2 }));

/** An engine, and the lines that it logs. */
function openWithLog(folder: string) {
  const lines: unknown[][] = [];
  const engine = SqliteEngine.open({ folder, tokenTtlMs: 30_000, log: (...line) => void lines.push(line) });
  return { engine, lines };
}

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

describe("sqlite broken file", () => {
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

  test("sqlite: a file that is locked at the start is used as soon as it can be", async () => {
    const folder = temporaryFolder();
    await sqlite(folder).close();
    const other = new DatabaseSync(join(folder, "headcount.db"));
    other.exec("PRAGMA locking_mode = EXCLUSIVE");
    other.exec("BEGIN EXCLUSIVE");
    const engine = sqlite(folder);
    expect(engine.record({ readings: readings(1), peaks: [] })).rejects.toThrow(/Cannot use/);
    other.exec("ROLLBACK");
    other.close();
    await engine.record({ readings: readings(1), peaks: [] });
    expect(await engine.mostRead(site)).toHaveLength(1);
    await engine.close();
  });

  test("sqlite: a folder that cannot be made, and a file that is none, stop the start", () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, "file"), "");
    expect(() => sqlite(join(folder, "file"))).toThrow(/Cannot use .*file\/headcount\.db: /);
    mkdirSync(join(folder, "data/headcount.db"), { recursive: true });
    expect(() => sqlite(join(folder, "data"))).toThrow(/Cannot use .*data\/headcount\.db: /);
  });
});
