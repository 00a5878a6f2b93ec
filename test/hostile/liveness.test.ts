/**
 * Links that die without a FIN, a proxy with default timeouts, and a service that was frozen. These scenarios mostly wait,
 * so all of them begin with the file, and pass in the time of the slowest.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { makeLink } from "../support/link.ts";
import { suite } from "../support/needs.ts";
import { type Proxy, startNginx } from "../support/nginx.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { Service } from "../support/service.ts";
import { TestSite, unlimited } from "../support/site.ts";
import { ownSite, printMeasurement, Target, times } from "../support/target.ts";
import { sleep } from "../support/waiting.ts";

/** The bound of the accuracy contract for a link that dies silently. */
const silentBoundMs = 60_000;
/** Longer than nginx's default of 60 s for a silent upstream. IDLE_SECONDS=180 waits for three times as long. */
const idleMs = Number(process.env["IDLE_SECONDS"] ?? 70) * 1_000;
const nginxTimeoutSeconds = 60;
const timeoutMs = 180_000 + idleMs;

const proxies: Proxy[] = [];
afterAll(() => Promise.all(proxies.map((proxy) => proxy.stop())));

const scenarios: (() => void)[] = [];
beforeAll(() => scenarios.forEach((begin) => begin()));

/** Begins a scenario with the file, whenever the test that waits for its result has its turn. */
function beginWithFile<T>(scenario: () => Promise<T>): () => Promise<T> {
  const { promise, resolve } = Promise.withResolvers<T>();
  promise.catch(() => {}); // the test that awaits it reports the failure
  scenarios.push(() => resolve(scenario()));
  return () => promise;
}

onBothRuntimes("hostile liveness", (runtime) => {
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

  const direct = beginWithFile(() => cutOff(false));
  test(
    "a link that is cut is −1 within 60 s, while the count changes each second",
    async () => {
      expect(await direct()).toBeLessThan(silentBoundMs);
    },
    timeoutMs,
  );

  suite("behind nginx with its default timeouts", ["nginx", "openssl"], () => {
    const proxied = beginWithFile(() => cutOff(true));
    test(
      "a link that is cut is −1 within 60 s, while the count changes each second",
      async () => {
        expect(await proxied()).toBeLessThan(silentBoundMs);
      },
      timeoutMs,
    );

    const idle = beginWithFile(async () => {
      const { service, url } = await startBehindLink(true);
      const target = await Target.on(new TestSite(service, ownSite, url));
      await target.survives();
      const { length: received } = target.watcher.frames;
      await sleep(idleMs);
      expect(target.watcher.open).toBe(true);
      expect(target.watcher.frames.slice(received).every(({ site = 1 }) => site === 1)).toBe(true);
      await target.survives();
    });
    test("an idle page stays open past the timeout", idle, timeoutMs);
  });

  const frozen = beginWithFile(async () => {
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
  test("a service that was frozen for longer than two heartbeats loses none of its pages", frozen, timeoutMs);
});
