/** SIGTERM, SIGINT and what comes after: pages are closed in order, and nobody who comes back was ever missing. */
import { expect, test } from "bun:test";
import { createServer } from "node:net";
import { ask } from "../support/client.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { Service, type Settings } from "../support/service.ts";
import { graceSeconds, TestSite, unlimited } from "../support/site.ts";
import { times } from "../support/target.ts";

const exitBoundMs = 10_000;

onBothRuntimes("restart", (runtime) => {
  const start = async (settings: Settings = {}): Promise<TestSite> => {
    const all = { ...unlimited, GRACE_SECONDS: graceSeconds, SITES: "a.example", ...settings };
    return new TestSite(await Service.start(runtime, all), "a.example");
  };

  for (const signal of ["SIGTERM", "SIGINT"] as const)
    test(`${signal} closes pages with 1012 and a window in seconds, and ends with 0 within 10 s`, async () => {
      const site = await start();
      const connections = await times(3, 1, () => site.open());
      const began = performance.now();
      const ended = site.service.stop(signal);
      for (const connection of connections) {
        const { code, reason } = await connection.ends(exitBoundMs);
        expect(code).toBe(1012);
        expect(reason).toMatch(/^\d+(\.\d+)?$/);
        expect(Number(reason)).toBeGreaterThan(0);
        expect(Number(reason)).toBeLessThanOrEqual(8);
      }
      expect(await ended).toBe(0);
      expect(performance.now() - began).toBeLessThan(exitBoundMs);
    });

  test("a restart has no dip: who was online counts until they are back, or for 15 s", async () => {
    const site = await start({ DATA: temporaryFolder() });
    const visitors = [1, 2, 3].map(() => site.visitor());
    for (const visitor of visitors) await visitor.open();
    await site.service.stop("SIGTERM");
    await site.service.start();
    const began = performance.now();
    const observer = await site.open("/", { observe: true });
    expect(observer.frames[0]).toMatchObject({ site: 3, page: 3 });
    const back = await visitors[0]!.open();
    expect(back.frames[0]).toMatchObject({ site: 3, page: 3 });
    await observer.shows({ site: 1, page: 1 }, 17_000);
    expect(performance.now() - began).toBeGreaterThan(13_000);
    expect(observer.frames.flatMap(({ site }) => site ?? [])).toEqual([3, 1]);
  });

  test("a page that answers nothing holds the stop up for less than 10 s, and newcomers get 503 meanwhile", async () => {
    const site = await start();
    const watcher = await site.open();
    const deaf = await site.open();
    deaf.silent = true;
    deaf.stopReading();
    const began = performance.now();
    const stopped = site.service.stop();
    await watcher.ends();
    if (runtime === "deno") {
      // Only Deno waits for the page that does not answer. Bun ends within some milliseconds, and answers nobody meanwhile.
      const ready = await ask(site.url, "GET /readyz");
      const token = await site.visitor().token();
      expect([ready.status, token.status, Number(token.headers.get("retry-after")) > 0]).toEqual([503, 503, true]);
    }
    expect(await stopped).toBe(0);
    expect(performance.now() - began).toBeLessThan(exitBoundMs);
  });

  test("a second SIGTERM changes nothing, and a start that fails loses no visitor who is held", async () => {
    const site = await start({ DATA: temporaryFolder() });
    const { service } = site;
    const connections = await times(4, 1, () => site.open());
    expect((await site.count()).site).toBe(4);
    const stopped = service.stop();
    process.kill(service.pid, "SIGTERM");
    expect(await stopped).toBe(0);
    for (const connection of connections) connection.vanish();

    const otherServer = createServer().listen(Number(new URL(site.url).port), "0.0.0.0");
    await new Promise((resolve) => otherServer.once("listening", resolve));
    expect(await service.start().catch(String)).toContain("Cannot listen on");
    await new Promise((resolve) => otherServer.close(resolve));
    await service.start();
    expect((await site.count()).site).toBe(4);
    const watcher = await site.open();
    await watcher.shows({ site: 1 }, 20_000);
  });
});
