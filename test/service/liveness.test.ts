/**
 * Heartbeats: a peer that is dead leaves, one that is idle stays, and each page is sent its numbers again. Some of
 * it is tested with default times, over links that can be cut and behind nginx; those tests mostly wait.
 */
import { afterAll, expect, test } from "bun:test";
import { makeLink } from "../support/link.ts";
import { suite } from "../support/needs.ts";
import { type Proxy, startNginx } from "../support/nginx.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { Service } from "../support/service.ts";
import { graceSeconds, leaveBoundMs, SharedService, TestSite, unlimited } from "../support/site.ts";
import { ownSite, printMeasurement, Target, times } from "../support/target.ts";
import { sleep, until } from "../support/waiting.ts";

/** So short that pings come often; a busy machine must still answer within two of them. */
const heartbeatSeconds = 5;
/** Two heartbeats, grace, and a second each for the sweep and the broadcast. */
const goneBoundMs = 2 * heartbeatSeconds * 1000 + leaveBoundMs + 1000;

/** The bound of the accuracy contract for a link that dies silently. */
const silentBoundMs = 60_000;
/** Longer than nginx's default of 60 s for a silent upstream. IDLE_SECONDS=180 waits for three times as long. */
const idleMs = Number(process.env["IDLE_SECONDS"] ?? 64) * 1_000;
const nginxTimeoutSeconds = 60;
const timeoutMs = 180_000 + idleMs;

const proxies: Proxy[] = [];
afterAll(() => Promise.all(proxies.map((proxy) => proxy.stop())));

onBothRuntimes(
  "liveness",
  (runtime) => {
    const shared = new SharedService(runtime, { HEARTBEAT_SECONDS: heartbeatSeconds });

    test("a silent peer is gone after two heartbeats, while counts change all the time", async () => {
      const site = await shared.site();
      const watcher = await site.open("/watch");
      const dead = await site.open("/dead");
      dead.silent = true;
      const began = performance.now();
      const received = dead.frames.length;
      const isGone = async (): Promise<boolean> => {
        const passerBy = await site.open("/passing"); // changes the site count, which the dead peer is sent as well
        void passerBy.close();
        return (await site.count("/dead")).page === 0;
      };
      await until("the dead peer is not counted", isGone, goneBoundMs);
      expect(performance.now() - began).toBeGreaterThan((heartbeatSeconds + graceSeconds) * 1000 - 100);
      expect(dead.frames.length - received).toBeGreaterThanOrEqual(3); // more often than it is pinged
      await watcher.shows({ site: 1 }, leaveBoundMs);
    });

    test("an idle peer that answers pings stays, and is gone once it does not", async () => {
      const site = await shared.site();
      const idle = await site.open();
      await until("three pings", () => idle.pings >= 3 || !idle.open, 10_000 * heartbeatSeconds);
      expect(idle.open).toBe(true);
      expect(await site.count("/")).toMatchObject({ site: 1, page: 1 });
      idle.silent = true;
      await until("a silent peer is not counted", async () => (await site.count()).site === 0, goneBoundMs);
    });

    test("the site count is sent again every 20 to 30 s although nothing changed", async () => {
      const connection = await (await shared.site()).open();
      const received = connection.frames.length;
      const began = performance.now();
      await connection.receives(received + 1, 31_500);
      expect(connection.frames[received]).toMatchObject({ site: 1 });
      expect(performance.now() - began).toBeGreaterThan(18_000);
    });

    // ----------------------------------------------------------------------------------------------------- default times

    /** A service with default times, reached over a link that can be cut, and through nginx if wanted. */
    const startBehindLink = async (throughNginx: boolean) => {
      const link = await makeLink();
      const { wrapper, host } = link;
      const settings = { ...unlimited, SITES: ownSite, HOST: host, TRUST_PROXY: 1 };
      const service = await Service.start(runtime, settings, { wrapper });
      if (!throughNginx) return { link, service, url: await link.to(service.url) };
      const nginx = await startNginx(service.host, nginxTimeoutSeconds, { wrapper, host });
      proxies.push(nginx);
      return { link, service, url: await link.to(nginx.url) };
    };

    /** Cuts the link of one page while others come and go each second. Returns how long the page was counted after that. */
    const cutOff = async (throughNginx: boolean): Promise<number> => {
      const { link, service, url } = await startBehindLink(throughNginx);
      const target = await Target.on(new TestSite(service, ownSite, url));
      await target.survives(); // the visitors who warmed the service up are gone
      const dead = await target.open();
      await target.watcher.shows({ site: 2 });
      const stop = new AbortController();
      const { signal } = stop;
      const traffic = (async () => {
        for (; !signal.aborted; await sleep(1_000)) (await target.open("/traffic")).vanish();
      })();
      await sleep(3_000);
      const received = target.watcher.frames.length;
      await link.cut(dead);
      const cutAt = performance.now();
      await sleep(silentBoundMs - 12_000);
      stop.abort(); // whoever came and went has left before the bound, so from then on only the dead page is still counted
      await traffic;
      await target.watcher.shows({ site: 1 }, silentBoundMs - (performance.now() - cutAt));
      const ms = performance.now() - cutAt;
      const how = `${throughNginx ? "through nginx, " : ""}${link.name}`;
      printMeasurement(runtime, `a cut link was counted for ${(ms / 1_000).toFixed(1)} s (${how})`);
      expect(target.watcher.frames.length - received).toBeGreaterThan(20); // the count did change all the time
      await target.survives();
      return ms;
    };

    test("a link that is cut is −1 within 60 s, while the count changes each second", async () => {
      expect(await cutOff(false)).toBeLessThan(silentBoundMs);
    });

    suite("behind nginx with its default timeouts", ["nginx", "openssl"], () => {
      test("a link that is cut is −1 within 60 s, while the count changes each second", async () => {
        expect(await cutOff(true)).toBeLessThan(silentBoundMs);
      });

      test("an idle page stays open past the timeout", async () => {
        const { service, url } = await startBehindLink(true);
        const target = await Target.on(new TestSite(service, ownSite, url));
        await target.survives();
        const { length: received } = target.watcher.frames;
        await sleep(idleMs);
        expect(target.watcher.open).toBe(true);
        expect(target.watcher.frames.slice(received).every(({ site = 1 }) => site === 1)).toBe(true);
        await target.survives();
      });
    });

    test("a service that was frozen for longer than two heartbeats loses none of its pages", async () => {
      const target = await Target.start(runtime, { HEARTBEAT_SECONDS: 2 });
      const { pid } = target.service;
      const connections = await times(5, 5, () => target.open());
      process.kill(pid, "SIGSTOP");
      await sleep(6_000);
      process.kill(pid, "SIGCONT");
      await sleep(3_000);
      await target.survives(5);
      expect(connections.every(({ open }) => open)).toBe(true);
      for (const connection of connections) connection.vanish();
      await target.survives();
    });
  },
  timeoutMs,
);
