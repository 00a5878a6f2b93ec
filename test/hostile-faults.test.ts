/**
 * What the service must survive, part two: faults of the machine around it. Links that die, restarts, disks, and no file
 * left to open. The slow ones run beside each other, since they wait and do little else.
 */
import { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { dirname, join } from "node:path";
import { ask, type Page, type Visitor } from "./support/client.ts";
import { crowd, figure, forgive, makeLink, Ordeal, raw, unlimited } from "./support/hostile.ts";
import { atTheEnd, temporaryFolder } from "./support/leftovers.ts";
import { canRun } from "./support/needs.ts";
import { type Proxy, startNginx } from "./support/nginx.ts";
import { openFilesOf } from "./support/process.ts";
import { endServices, type Launch, type Runtime, runtimes, Service, type Settings } from "./support/service.ts";
import { alone, sleep, until } from "./support/waiting.ts";

setDefaultTimeout(280_000);

const site = "own.example";
const proxies: Proxy[] = [];

afterAll(async () => {
  await Promise.all(proxies.map((proxy) => proxy.stop()));
  endServices();
});

/** Bounds of the accuracy contract, in milliseconds. */
const silentBound = 60_000;
const idleMs = 180_000;

const slowOnes: (() => void)[] = [];
beforeAll(() => slowOnes.forEach((begin) => begin()));

/** All slow scenarios begin with the file, whenever their test has its turn: they pass in the time of the slowest. */
function slow<T>(scenario: () => Promise<T>): () => Promise<T> {
  const { promise, resolve } = Promise.withResolvers<T>();
  promise.catch(() => {}); // seen by the test that awaits it
  slowOnes.push(() => resolve(scenario()));
  return () => promise;
}

for (const runtime of runtimes) describe.concurrent(`hostile (${runtime}):`, () => faults(runtime));

function faults(runtime: Runtime): void {
  const own = async (settings: Settings = {}, launch: Launch = {}): Promise<Ordeal> => {
    const service = await Service.start(runtime, { ...unlimited, SITES: site, ...settings }, launch);
    return Ordeal.begin(service, site);
  };

  // ------------------------------------------------------------------------------------------------------- links

  /** A service with default times, reached over a link that can be cut, through nginx if it is wanted. */
  const afar = async (throughNginx: boolean) => {
    const link = await makeLink();
    const { GRACE_SECONDS: _, ...settings } = unlimited;
    const { inside, host } = link;
    const service = await Service.start(runtime, { ...settings, SITES: site, HOST: host, TRUST_PROXY: 1 }, { inside });
    if (!throughNginx) return { link, service, url: await link.to(service.url) };
    const nginx = await startNginx(service.host, 60, { inside, host });
    proxies.push(nginx);
    return { link, service, url: await link.to(nginx.url) };
  };

  /** Cuts one page's link while others come and go each second; how long it was counted after that, in milliseconds. */
  const cutOff = async (throughNginx: boolean): Promise<number> => {
    const { link, service, url } = await afar(throughNginx);
    const it = await Ordeal.begin(service, site, url);
    await it.survives(); // those of the warm-up are gone
    const dead = await it.visitor().open();
    await it.watcher.shows({ site: 2 });
    const stop = new AbortController();
    const { signal: end } = stop;
    const traffic = (async () => {
      for (; !end.aborted; await sleep(1_000)) (await it.visitor().open("/traffic")).vanish();
    })();
    await sleep(3_000);
    const told = it.watcher.frames.length;
    await link.cut(dead);
    const cutAt = performance.now();
    await sleep(silentBound - 12_000);
    stop.abort(); // whoever came and went has left before the bound: from then on only the dead one is still counted
    await traffic;
    await it.watcher.shows({ site: 1 }, silentBound - (performance.now() - cutAt));
    const ms = performance.now() - cutAt;
    const how = `${throughNginx ? "through nginx, " : ""}${link.name}`;
    figure(runtime, `a cut link was counted for ${(ms / 1_000).toFixed(1)} s (${how})`);
    expect(it.watcher.frames.length - told).toBeGreaterThan(20); // the count did change all the time
    await it.survives();
    return ms;
  };

  const direct = slow(() => cutOff(false));
  test("12. a link that is cut is −1 within 60 s, while the count changes each second", async () => {
    expect(await direct()).toBeLessThan(silentBound);
  });

  const proxied = canRun("nginx", "openssl") ? slow(() => cutOff(true)) : undefined;
  test.skipIf(proxied === undefined)(
    "12. a link that is cut behind nginx with its default timeouts is −1 within 60 s",
    async () => {
      expect(await proxied?.()).toBeLessThan(silentBound);
    },
  );

  const idle = canRun("nginx", "openssl")
    ? slow(async () => {
        const { service, url } = await afar(true);
        const it = await Ordeal.begin(service, site, url);
        await it.survives();
        const { length: told } = it.watcher.frames;
        await sleep(idleMs);
        expect(it.watcher.open).toBe(true);
        expect(it.watcher.frames.slice(told).every(({ site = 1 }) => site === 1)).toBe(true);
        await it.survives();
      })
    : undefined;
  test.skipIf(idle === undefined)(
    "13. an idle page behind nginx with its default timeouts is still open after 3 min",
    async () => {
      await idle?.();
    },
  );

  // ---------------------------------------------------------------------------------------------------- restarts

  test("25. a restart with 2,000 pages: each is told 1012 with a window, comes back within it, and nobody sees a dip", () =>
    alone(async () => {
      const population = 2_000;
      const leavers = 100;
      const it = await own({ DATA: temporaryFolder(), GRACE_SECONDS: 5 });
      const visitors = await crowd(Array.from({ length: population }), 32, async () => {
        const visitor = it.visitor();
        return { visitor, page: await visitor.open() };
      });
      await it.watcher.shows({ site: population + 1 }, 20_000);
      const seen: number[] = [];
      const [watching, stopWatching] = watch(it.visitor(), seen);
      await until("the other visitor watches", () => seen.includes(population + 2), 10_000);

      const stoppedAt = performance.now();
      const stopped = it.service.stop();
      const ends = await Promise.all(visitors.map(({ page }) => page.ends(10_000)));
      const restart = async (): Promise<number> => {
        expect(await stopped).toBe(0);
        const ms = performance.now() - stoppedAt;
        await it.service.start();
        return ms;
      };
      const restarted = restart();
      const window = Math.ceil((population + 2) / 2_500);
      expect(new Set(ends.map(({ code, reason }) => `${code} ${reason}`))).toEqual(new Set([`1012 ${window}`]));
      const arrivals: number[] = [];
      const back = await Promise.all(
        visitors.slice(leavers).map(async ({ visitor }) => {
          await sleep(Math.random() * window * 1_000);
          const page = await comeBack(visitor);
          arrivals.push((performance.now() - stoppedAt) / 1_000);
          return page;
        }),
      );
      const exitMs = await restarted;
      expect(exitMs).toBeLessThan(10_000);
      const present = population - leavers + 1; // with the one who watches; the first watcher has not come back
      await until("those who left are gone", () => seen.at(-1) === present, 30_000);
      expect(Math.min(...seen.slice(seen.indexOf(population + 2)))).toBe(present);
      figure(
        runtime,
        `${population} pages: exit in ${exitMs.toFixed(0)} ms, window ${window} s, back after ${quartiles(arrivals)} s (quartiles), lowest count ${present}`,
      );
      stopWatching();
      await watching;
      for (const page of back) page.vanish();
      const after = await Ordeal.begin(it.service, site);
      await after.survives(0, 30_000);
    }));

  test("25. a second SIGTERM changes nothing, and a start that fails takes nothing of what is held", async () => {
    const folder = temporaryFolder();
    const it = await own({ DATA: folder });
    const pages = await crowd(Array.from({ length: 3 }), 3, () => it.visitor().open());
    await it.survives(3);
    const stopped = it.service.stop();
    process.kill(it.service.pid, "SIGTERM");
    expect(await stopped).toBe(0);
    for (const page of pages) page.vanish();
    const squatter = createServer().listen(Number(new URL(it.url).port), "0.0.0.0");
    await new Promise((resolve) => squatter.once("listening", resolve));
    expect(await it.service.start().catch(String)).toContain("Cannot listen on");
    await new Promise((resolve) => squatter.close(resolve));
    await it.service.start();
    expect(await it.count()).toBe(4); // with the watcher
    const after = await Ordeal.begin(it.service, site);
    await after.survives(0, 30_000);
  });

  test("a service that was frozen for longer than two heartbeats loses none of its pages", async () => {
    const it = await own({ HEARTBEAT_SECONDS: 2 });
    const pages = await crowd(Array.from({ length: 5 }), 5, () => it.visitor().open());
    process.kill(it.service.pid, "SIGSTOP");
    await sleep(6_000);
    process.kill(it.service.pid, "SIGCONT");
    await sleep(3_000);
    await it.survives(5);
    expect(pages.every((page) => page.open)).toBe(true);
    for (const page of pages) page.vanish();
    await it.survives();
  });

  test("25. while it drains readiness is 503 and newcomers are told when to come back; a deaf page cannot hold it up for 10 s", async () => {
    const it = await own();
    const deaf = await it.visitor().open();
    deaf.silent = true;
    deaf.stopReading();
    const before = performance.now();
    const stopped = it.service.stop();
    await it.watcher.ends();
    if (it.service.runtime === "deno") {
      // only Deno waits for the deaf: Bun sends 2,000 pages away in some milliseconds, and answers nobody meanwhile
      const ready = await ask(it.url, "GET /readyz");
      const token = await it.visitor().token();
      expect([ready.status, token.status, Number(token.headers.get("retry-after")) > 0]).toEqual([503, 503, true]);
    }
    expect(await stopped).toBe(0);
    expect(performance.now() - before).toBeLessThan(10_000);
  });

  // -------------------------------------------------------------------------------------------------------- disk

  /** The journal's errors so far. */
  const journalErrors = ({ service }: Ordeal): Promise<number> => service.metric("headcount_journal_errors_total");
  const views = async (it: Ordeal): Promise<number> =>
    (await ask(it.url, `GET /reading?site=${site}`)).json?.pages?.reduce(
      (sum: number, page: any) => sum + page.views,
      0,
    ) ?? 0;

  /** Counts, is heard of, and raises the metric while the disk is broken; counts and writes once it is mended. */
  const outlives = async (it: Ordeal, mend: () => unknown): Promise<void> => {
    const before = await journalErrors(it);
    const page = await it.visitor().open("/while-broken");
    await until("the metric rises", async () => (await journalErrors(it)) > before, 15_000);
    for (const route of [
      "GET /count",
      `GET /count?site=${site}&page=/x`,
      `GET /badge.svg?site=${site}`,
      "GET /healthz",
      "GET /readyz",
    ])
      expect([route, (await ask(it.url, route, { headers: { origin: `https://${site}` } })).status]).toEqual([
        route,
        200,
      ]);
    await it.survives(1);
    await mend();
    await until("it writes again", async () => (await views(it)) > 0, 15_000);
    page.vanish();
    await it.survives();
    expect(it.service.logs.filter(({ level }) => level === "error").length).toBeLessThan(8); // said, not repeated
    forgive(it.service, /journal|unexpected error|secrets|database|cannot|Cannot/);
  };

  test("26. SQLite locked by another process: counting goes on, the metric rises, and it writes again", async () => {
    const folder = temporaryFolder();
    const it = await own({ DATA: folder });
    const other = new Database(join(folder, "headcount.db"));
    other.run("BEGIN IMMEDIATE");
    await outlives(it, () => {
      other.run("ROLLBACK");
      other.close();
    });
  });

  const mayMount = mount("ramfs-probe", "64k") !== undefined;

  test.skipIf(!mayMount)("26. a disk that is full, before the start and while it runs", async () => {
    const folder = mount("full", "1m")!;
    const ballast = join(folder, "ballast");
    fill(ballast);
    const it = await own({ DATA: join(folder, "data") });
    await outlives(it, () => rmSync(ballast));
    fill(ballast);
    const walkers = await crowd(Array.from({ length: 20 }).keys(), 4, (at) =>
      it.visitor().open(`/filling/${at}/${"x".repeat(900)}`),
    );
    const before = await journalErrors(it);
    for (let step = 0; step < 50; step++)
      for (const [at, page] of walkers.entries()) page.send({ page: `/filling/${at}/${step}/${"x".repeat(900)}` });
    await until("the metric rises", async () => (await journalErrors(it)) > before, 15_000);
    await it.survives(20);
    rmSync(ballast);
    forgive(it.service, /journal/);
    for (const page of walkers) page.vanish();
    await it.survives();
  });

  test.skipIf(!mayMount)("26. a disk that cannot be written", async () => {
    const folder = mount("read-only", "4m", "ro")!;
    const it = await own({ DATA: folder });
    await outlives(it, () => Bun.spawnSync(["mount", "-o", "remount,rw", folder]));
  });

  test("26. a file that is no database is set aside, at the start and while it runs", async () => {
    const folder = temporaryFolder();
    const file = join(folder, "headcount.db");
    writeFileSync(file, "garbage ".repeat(1_000));
    const it = await own({ DATA: folder });
    forgive(it.service, /database was broken/);
    const page = await it.visitor().open("/");
    await until("it writes", async () => (await views(it)) > 0, 15_000);
    const { size } = statSync(file);
    writeFileSync(file, Buffer.alloc(size, "garbage "), { flag: "r+" });
    const other = await it.visitor().open("/other");
    await it.survives(2);
    await sleep(11_000); // two more writes
    await it.survives(2);
    expect((await ask(it.url, `GET /count?site=${site}`)).status).toBe(200);
    forgive(it.service, /database|journal|unexpected error/);
    for (const one of [page, other]) one.vanish();
    await it.survives();
  });

  test("26. killed while it writes, and with its file cut off: it starts again and counts", async () => {
    const folder = temporaryFolder();
    const it = await own({ DATA: folder });
    for (let round = 0; round < 4; round++) {
      const pages = await crowd(Array.from({ length: 30 }).keys(), 8, (at) =>
        it.visitor().open(`/${round}/${at}/${"x".repeat(800)}`),
      );
      await sleep(round * 1_300); // the journal is written every 5 s
      await it.service.stop("SIGKILL");
      for (const page of pages) page.vanish();
      if (round === 2) truncateSync(join(folder, "headcount.db-wal"), 5_000);
      if (round === 3) truncateSync(join(folder, "headcount.db"), 9_000);
      await it.service.start();
    }
    forgive(it.service, /database was broken/);
    const after = await Ordeal.begin(it.service, site);
    await until("it writes", async () => (await views(after)) > 0, 15_000);
    await after.survives();
  });

  test("26. the folder is deleted under it: counting goes on, and a restart makes it anew", async () => {
    const folder = join(temporaryFolder(), "data");
    const it = await own({ DATA: folder });
    rmSync(folder, { recursive: true });
    const page = await it.visitor().open();
    await sleep(6_000);
    await it.survives(1);
    forgive(it.service, /journal/);
    expect(await it.service.stop()).toBe(0);
    page.vanish();
    await it.service.start();
    const after = await Ordeal.begin(it.service, site);
    await after.survives(0, 30_000);
  });

  // ---------------------------------------------------------------------------------------------------- capacity

  const files = 160;
  const filesForPages = 120;
  const withFiles: Launch = { inside: ["sh", "-c", `ulimit -n ${files}; exec "$@"`, "sh"] };

  test("27. beyond MAX_CONNECTIONS newcomers get 503 with Retry-After, and open pages are told of every change", async () => {
    const it = await own({ MAX_CONNECTIONS: 50 });
    const pages = await crowd(Array.from({ length: 49 }), 8, () => it.visitor().open());
    const refused = await it.visitor().token();
    expect([refused.status, Number(refused.headers.get("retry-after")) > 0]).toEqual([503, true]);
    await it.survives(49);
    pages.pop()?.vanish();
    await it.survives(48);
    pages.push(await it.visitor().open());
    for (const page of pages) page.vanish();
    await it.survives();
  });

  test("27. with nearly all files open newcomers get 503 with Retry-After, and open pages are told of every change", async () => {
    const it = await own({ MAX_CONNECTIONS: 100_000 }, withFiles);
    const pages = await fillUp(it);
    const slow = crowd(Array.from({ length: 5 }), 5, () => raw(it.url, "GET / HTTP/1.1\r\n", { ms: 9_000 }));
    await until("five more files are open", () => openFilesOf(it.service.pid) >= filesForPages + 4, 15_000);
    for (const { status, headers, json } of await crowd(Array.from({ length: 50 }), 5, () => it.visitor().token())) {
      expect([status, json.type]).toEqual([503, "urn:headcount:problem:full"]);
      expect(Number(headers.get("retry-after"))).toBeGreaterThan(0);
      expect(headers.get("connection")).toContain("close");
    }
    await slow;
    const busy = cpuSeconds(it.service.pid);
    await sleep(1_000);
    expect(cpuSeconds(it.service.pid) - busy).toBeLessThan(0.9); // it does not spin on accept
    await it.survives(pages.length);
    pages.pop()?.vanish();
    await it.survives(pages.length);
    pages.push(await until("somebody takes its place", () => comesIn(it), 15_000));
    for (const page of pages) page.vanish();
    await it.survives();
  });

  test("27. with no file left at all open pages are told of every change, and newcomers come in once there is one", async () => {
    const it = await own({ MAX_CONNECTIONS: 100_000 }, withFiles);
    const pages = await fillUp(it);
    const greedy = crowd(Array.from({ length: files }), files, () => raw(it.url, "GET / HTTP/1.1\r\n", { ms: 15_000 }));
    await until("no file is left", () => openFilesOf(it.service.pid) >= files, 30_000);
    const busy = cpuSeconds(it.service.pid);
    await sleep(1_000);
    if (runtime === "deno") expect(cpuSeconds(it.service.pid) - busy).toBeLessThan(0.5); // Bun never rests from accepting
    for (const page of pages.splice(0, 30)) page.vanish();
    await it.watcher.shows({ site: 1 + pages.length }, 10_000);
    await greedy;
    pages.push(await until("a newcomer comes in", () => comesIn(it), 30_000));
    await it.survives(pages.length);
    for (const page of pages) page.vanish();
    await it.survives();
    forgive(it.service, /./);
  });

  const comesIn = (it: Ordeal): Promise<Page | undefined> =>
    it
      .visitor()
      .open()
      .catch(() => undefined);

  /** Opens pages until all but the files kept for answers are open, with no request under way. */
  async function fillUp(it: Ordeal): Promise<Page[]> {
    const pages: Page[] = [];
    const filled = async () => {
      const five = await crowd(Array.from({ length: 5 }), 5, () => comesIn(it));
      pages.push(...five.filter((page) => page !== undefined));
      await sleep(50);
      return openFilesOf(it.service.pid) >= filesForPages - 1;
    };
    await until("all files are open", filled, 30_000);
    return pages;
  }
}

// -------------------------------------------------------------------------------------------------------------- helpers

const quartiles = (values: number[]): string => {
  const sorted = values.toSorted((a, b) => a - b);
  return [0, 0.25, 0.5, 0.75, 1].map((share) => sorted[Math.round(share * (sorted.length - 1))]?.toFixed(1)).join(" ");
};

/** What the widget does after a close: a token, a socket, and again after a while if there is none. */
async function comeBack(visitor: Visitor): Promise<Page> {
  for (let attempt = 0; ; attempt++) {
    const page = await visitor.open().catch(() => undefined);
    if (page) return page;
    await sleep(Math.max(250, Math.random() * Math.min(60_000, 1_000 * 2 ** attempt)));
  }
}

/** Somebody who only looks: every number of the site that they are shown, over restarts. */
function watch(visitor: Visitor, seen: number[]): [Promise<void>, () => void] {
  const stop = new AbortController();
  const { signal: end } = stop;
  let page: Page | undefined;
  const looking = (async () => {
    while (!end.aborted) {
      page = await comeBack(visitor);
      let read = 0;
      while (page.open && !end.aborted) {
        for (const { site } of page.frames.slice(read)) if (site !== undefined) seen.push(site);
        read = page.frames.length;
        await sleep(10);
      }
    }
    page?.vanish();
  })();
  return [looking, () => stop.abort()];
}

/** A small file system of its own, where this user may mount one. */
function mount(name: string, size: string, ...options: string[]): string | undefined {
  const folder = join(temporaryFolder(), name);
  mkdirSync(folder);
  const command = ["mount", "-t", "tmpfs", "-o", [`size=${size}`, ...options].join(","), "tmpfs", folder];
  if (Bun.which("mount") === null || Bun.spawnSync(command, { stderr: "ignore" }).exitCode !== 0) return undefined;
  atTheEnd(() => Bun.spawnSync(["umount", "-l", folder]));
  return folder;
}

/** Writes until there is no room for one byte more. */
function fill(file: string): void {
  mkdirSync(dirname(file), { recursive: true });
  for (let size = 1 << 20; size >= 1; size >>= 1)
    for (;;)
      try {
        writeFileSync(file, Buffer.alloc(size), { flag: "a" });
      } catch {
        break; // deliberate: no room for this many, perhaps for half of them
      }
}

const cpuSeconds = (pid: number): number => {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  return (Number(fields[11]) + Number(fields[12])) / 100;
};
