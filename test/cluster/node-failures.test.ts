/** Nodes that are killed, frozen and stopped, while others go on. These scenarios mostly wait, so they run at the same time. */
import { afterAll, expect } from "bun:test";

import { type Page, Visitor } from "../support/client.ts";
import { suite } from "../support/needs.ts";
import { startNginx } from "../support/nginx.ts";
import { RedisServer } from "../support/redis.ts";
import type { Service } from "../support/service.ts";
import { sleep, until } from "../support/waiting.ts";
import { allShow, at, end, endAll, lowest, newVisitor, openMany, ORIGIN, scenario, SITE, startNodes } from "./nodes.ts";

afterAll(endAll);

suite("cluster node failures", ["redis-server"], () => {
  scenario("cluster: a killed node's visitors leave within 15 s, but for those who are back elsewhere", async () => {
    const redis = await RedisServer.start();
    const nodes = await startNodes(redis, ["bun", "deno", "bun"]);
    const [dies, deno, bun] = nodes as [Service, Service, Service];
    const watchers = [await newVisitor(deno).open(), await newVisitor(bun).open()];
    const back = newVisitor(dies);
    await back.open();
    const both = newVisitor(dies);
    await both.open();
    await at(bun, both).open();
    await openMany(dies, 20);
    await allShow(watchers, { site: 24 }, 5_000);
    await dies.stop("SIGKILL");
    const from = performance.now();
    await at(deno, back).open();
    const low = lowest(watchers);
    await allShow(watchers, { site: 4 }, 15_000);
    process.stderr.write(`cluster: a killed node is healed after ${Math.round(performance.now() - from)} ms\n`);
    await sleep(1_000);
    expect(low()).toBe(4);
    await end(nodes);
  });

  scenario(
    "cluster: a node frozen for 60 s is reaped, and counts its visitors once when it goes on",
    async () => {
      const redis = await RedisServer.start();
      const nodes = await startNodes(redis, ["bun", "deno"]);
      const [freezes, other] = nodes as [Service, Service];
      const watcher = await newVisitor(other).open();
      const both = newVisitor(freezes);
      const pages = [await both.open(), await at(other, both).open(), ...(await openMany(freezes, 5))];
      await allShow([watcher, ...pages], { site: 7 }, 5_000);
      process.kill(freezes.pid, "SIGSTOP");
      await watcher.shows({ site: 2 }, 15_000);
      await sleep(45_000);
      const low = lowest(pages);
      process.kill(freezes.pid, "SIGCONT");
      await allShow([watcher, ...pages], { site: 7 }, 10_000);
      await sleep(12_000); // longer than the lease of what it had been
      await allShow([watcher, ...pages], { site: 7 }, 1);
      expect(low()).toBeGreaterThanOrEqual(2);
      const { "\n": _epoch, ...refs } = await redis.client.hgetall(`headcount:{${SITE}}:refs`);
      expect(Object.values(refs).toSorted()).toEqual([...Array<string>(12).fill("1"), "2", "2"]);
      await end(nodes);
    },
    120_000,
  );

  scenario(
    "cluster: a stopped node's visitors are held for 15 s, then gone, and when all nodes are gone so are the keys",
    async () => {
      const redis = await RedisServer.start();
      const nodes = await startNodes(redis, ["bun", "deno"]);
      const [stops, other] = nodes as [Service, Service];
      const watcher = await newVisitor(other).open();
      await openMany(stops, 10);
      await watcher.shows({ site: 11 });
      const low = lowest([watcher]);
      expect(await stops.stop()).toBe(0);
      await sleep(12_000);
      expect(low()).toBe(Infinity); // not a word
      await watcher.shows({ site: 1 }, 10_000);
      expect(await other.stop()).toBe(0);
      const left = async () =>
        (await redis.client.keys("*")).toSorted().map((key) => key.replace(/:[^:]{12}$|:\d+$/, ":…"));
      const statistics = [
        "highest",
        "history:…",
        "readings",
        "mostread",
        "wrote:…",
        "counts",
        "views",
        "days",
        "day:…",
        "base",
      ];
      const ofSite = statistics.map((key) => `headcount:{${SITE}}:${key}`);
      const kept = new Set(["headcount:secret:signing", "headcount:secret:day:…", ...ofSite]);
      await until(
        "only secrets and statistics are left",
        async () => (await left()).every((key) => kept.has(key)),
        50_000,
      );
      await end(nodes);
    },
    120_000,
  );
});

suite("cluster: nginx", ["redis-server", "nginx", "openssl"], () => {
  scenario(
    "cluster: behind the README's nginx, pages are shared out, and a killed node's come back by the other",
    async () => {
      const redis = await RedisServer.start();
      const nodes = await startNodes(redis, ["bun", "bun"], { TRUST_PROXY: 1 });
      const [dies, stays] = nodes as [Service, Service];
      const nginx = await startNginx(dies.host, 60, { second: stays.host });
      const visitors = Array.from({ length: 20 }, () => new Visitor(nginx.url, ORIGIN));
      const pages: Page[] = [];
      for (const visitor of visitors) pages.push(await visitor.open());
      await allShow(pages, { site: 20 }, 2_000);
      const held = await Promise.all(nodes.map((node) => node.metric("headcount_connections")));
      expect(held.reduce((sum, count) => sum + count)).toBe(20);
      expect(Math.min(...held)).toBeGreaterThanOrEqual(5);
      const watcher = await newVisitor(stays).open("/", { observe: true });
      await dies.stop("SIGKILL");
      await until("the killed node's pages are closed", () => pages.filter(({ open }) => !open).length === held[0]);
      const low = lowest([watcher]);
      for (const [index, visitor] of visitors.entries()) if (!pages[index]!.open) await visitor.open();
      await sleep(15_000); // longer than the lease of the node that died
      expect([watcher.now.site, Math.min(low(), 20)]).toEqual([20, 20]);
      expect(await stays.metric("headcount_connections")).toBe(21);
      await nginx.stop();
      await end(nodes);
    },
  );
});
