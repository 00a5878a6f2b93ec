/**
 * A disk that is full, locked, read-only or gone, a database file that is broken, and SIGKILL: counting goes on, a metric
 * rises, the journal writes again, and at most 5 s are lost.
 */
import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ask, Visitor } from "../support/client.ts";
import { fillDisk, mountSmallDisk } from "../support/disk.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { skippedSuites } from "../support/needs.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { refuseToStart, Service } from "../support/service.ts";
import { ignoreErrors, ownSite, Target, times } from "../support/target.ts";
import { sleep, until } from "../support/waiting.ts";

const journalErrors = ({ service }: Target): Promise<number> => service.metric("headcount_journal_errors_total");

const mayMount = mountSmallDisk("probe", "64k") !== undefined;
if (!mayMount) skippedSuites.push("full and read-only disks (this user may not mount a file system)");

onBothRuntimes("hostile disk", (runtime) => {
  /** Asserts that a service whose disk is broken counts, answers, and raises the metric, and that it writes after `mend`. */
  const expectToOutlive = async (target: Target, mend: () => unknown): Promise<void> => {
    const before = await journalErrors(target);
    const connection = await target.open("/while-broken");
    await until("the metric rises", async () => (await journalErrors(target)) > before, 15_000);
    const routes = ["/count", `/count?site=${ownSite}&page=/x`, `/badge.svg?site=${ownSite}`, "/healthz", "/readyz"];
    for (const route of routes) {
      const { status } = await ask(target.url, `GET ${route}`, { headers: { origin: target.origin } });
      expect([route, status]).toEqual([route, 200]);
    }
    expect((await ask(target.url, "GET /readyz")).text).toBe("ok, statistics cannot be written");
    await target.survives(1);
    await mend();
    await until("it writes again", async () => (await target.recordedViews()) > 0, 15_000);
    connection.vanish();
    await target.survives();
    expect(target.service.logs.filter(({ level }) => level === "error").length).toBeLessThan(8); // logged, not repeated
    ignoreErrors(target.service, /journal|unexpected error|secrets|database|cannot|Cannot/);
  };

  test("a file locked by another process", async () => {
    const folder = temporaryFolder();
    const target = await Target.start(runtime, { DATA: folder });
    const other = new Database(join(folder, "headcount.db"));
    other.run("BEGIN IMMEDIATE");
    await expectToOutlive(target, () => {
      other.run("ROLLBACK");
      other.close();
    });
  });

  test.skipIf(!mayMount)("a disk that is full, before the start and while the service runs", async () => {
    const folder = mountSmallDisk("full", "1m")!;
    const ballast = join(folder, "ballast");
    fillDisk(ballast);
    const target = await Target.start(runtime, { DATA: join(folder, "data") });
    await expectToOutlive(target, () => rmSync(ballast));
    fillDisk(ballast);
    const pageOf = (at: number, step: number | string): string => `/filling/${at}/${step}/${"x".repeat(900)}`;
    const walkers = await times(20, 4, (at) => target.open(pageOf(at, "first")));
    const before = await journalErrors(target);
    for (let step = 0; step < 50; step++)
      for (const [at, walker] of walkers.entries()) walker.send({ page: pageOf(at, step) });
    await until("the metric rises", async () => (await journalErrors(target)) > before, 15_000);
    await target.survives(20);
    rmSync(ballast);
    ignoreErrors(target.service, /journal/);
    for (const walker of walkers) walker.vanish();
    await target.survives();
  });

  test.skipIf(!mayMount)("a disk that may not be written stops the start with one clear line", async () => {
    const folder = mountSmallDisk("read-only", "4m", "ro")!;
    const { code, stderr } = await refuseToStart(runtime, { DATA: folder });
    expect(code).toBe(1);
    expect(stderr.trim()).toStartWith(`Cannot use ${folder}/headcount.db: `);
    expect(stderr.trim().split("\n")).toHaveLength(1);
  });

  test("a folder that is deleted while the service runs; a restart makes it anew", async () => {
    const folder = join(temporaryFolder(), "data");
    const target = await Target.start(runtime, { DATA: folder });
    rmSync(folder, { recursive: true });
    const connection = await target.open();
    await sleep(6_000); // the journal is written every 5 s
    await target.survives(1);
    ignoreErrors(target.service, /journal|database was deleted/);
    expect(await target.service.stop()).toBe(0);
    connection.vanish();
    await target.service.start();
    await (await target.again()).survives(0, 30_000);
  });

  // --------------------------------------------------------------------------------------------- crashes, broken files

  test("killed while it writes, and with its file cut off, it starts again and counts", async () => {
    const folder = temporaryFolder();
    const target = await Target.start(runtime, { DATA: folder });
    const { service } = target;
    for (let round = 0; round < 4; round++) {
      const connections = await times(30, 8, (at) => target.open(`/${round}/${at}/${"x".repeat(800)}`));
      await sleep(round * 1_300); // the journal is written every 5 s
      await service.stop("SIGKILL");
      for (const connection of connections) connection.vanish();
      if (round === 2) truncateSync(join(folder, "headcount.db-wal"), 5_000);
      if (round === 3) truncateSync(join(folder, "headcount.db"), 9_000);
      await service.start();
    }
    const again = await target.again();
    await until("it writes", async () => (await again.recordedViews()) > 0, 15_000);
    await again.survives();
    ignoreErrors(service, /journal|database was broken/); // the damage may be found at the start or at a write
  });

  test("a file that is no database is set aside, at the start and while the service runs", async () => {
    const folder = temporaryFolder();
    const file = join(folder, "headcount.db");
    writeFileSync(file, "garbage ".repeat(1_000));
    const target = await Target.start(runtime, { DATA: folder });
    ignoreErrors(target.service, /database was broken/);
    const connection = await target.open("/");
    await until("it writes", async () => (await target.recordedViews()) > 0, 15_000);
    const { size } = statSync(file);
    writeFileSync(file, Buffer.alloc(size, "garbage "), { flag: "r+" });
    const other = await target.open("/other");
    await target.survives(2);
    await sleep(11_000); // two more writes
    await target.survives(2);
    expect((await ask(target.url, `GET /count?site=${ownSite}`)).status).toBe(200);
    ignoreErrors(target.service, /database|journal|unexpected error/);
    for (const each of [connection, other]) each.vanish();
    await target.survives();
  });

  test("SIGKILL loses 5 s of reading time at most, of a view that goes on and of one that is over", async () => {
    const service = await Service.start(runtime, { DATA: temporaryFolder() });
    const [one, other] = [1, 2].map(() => new Visitor(service.url, "http://localhost"));
    const began = performance.now();
    const open = await one!.open("/open");
    const over = await other!.open("/over");
    await sleep(3000);
    over.vanish();
    await sleep(6000);
    const readSeconds = Math.round((performance.now() - began) / 1000);
    await service.stop("SIGKILL");
    open.vanish();
    await service.start();
    const expectKept = async (page: string, seconds: number, lost: number): Promise<void> => {
      const kept = (await ask(service.url, `GET /reading?site=localhost&page=${page}`)).json;
      expect([page, kept.views]).toEqual([page, 1]);
      expect(kept.seconds).toBeGreaterThanOrEqual(seconds - lost);
      expect(kept.seconds).toBeLessThanOrEqual(seconds + 1);
    };
    await expectKept("/open", readSeconds, 5 + 1); // both are rounded
    await expectKept("/over", 3, 1);
  });
});
