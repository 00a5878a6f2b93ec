/** A real Redis that is killed, frozen and emptied under real nodes. These scenarios mostly wait, so they run at the same time. */
import { afterAll, expect } from "bun:test";

import { ask, Visitor } from "../support/client.ts";
import { suite } from "../support/needs.ts";
import { RedisServer } from "../support/redis.ts";
import type { Service } from "../support/service.ts";
import { sleep, until } from "../support/waiting.ts";
import { allShow, end, endAll, lowest, newVisitor, openMany, scenario, SITE, startNodes } from "./nodes.ts";

afterAll(endAll);

suite("cluster Redis failures", ["redis-server"], () => {
  scenario(
    "cluster: Redis killed for 6 s and back empty: no page reconnects, and counts are exact within 10 s",
    async () => {
      const redis = await RedisServer.start();
      const nodes = await startNodes(redis, ["bun", "deno"]);
      const [bun, deno] = nodes as [Service, Service];
      const pages = [...(await openMany(bun, 10)), ...(await openMany(deno, 10))];
      await allShow(pages, { site: 20 }, 5_000);
      const low = lowest(pages);
      await redis.kill();
      await allShow(pages, { site: 20, stale: true }, 1_000);
      const joined = await newVisitor(bun).open();
      await joined.shows({ site: 21, page: 21, stale: true }, 2_000);
      await pages[0]!.shows({ site: 21 }, 1_000);
      await newVisitor(deno).open();
      await pages[10]!.close();
      await sleep(6_000);
      await redis.begin();
      const from = performance.now();
      const all = [...pages.slice(0, 10), ...pages.slice(11), joined];
      await allShow(all, { site: 21, page: 21, stale: false }, 10_000);
      process.stderr.write(`cluster: exact ${Math.round(performance.now() - from)} ms after Redis is back, empty\n`);
      await sleep(1_000);
      await allShow(all, { site: 21, stale: false }, 1);
      expect(all.every((page) => page.open)).toBe(true);
      expect(low()).toBeGreaterThanOrEqual(19);
      await end(nodes);
    },
  );

  scenario("cluster: Redis frozen for 8 s: calls fail fast, pages stay, new ones come, the count is held", async () => {
    const redis = await RedisServer.start();
    const nodes = await startNodes(redis, ["bun", "deno"]);
    const [bun, deno] = nodes as [Service, Service];
    const pages = [...(await openMany(bun, 5)), ...(await openMany(deno, 5))];
    await allShow(pages, { site: 10 }, 5_000);
    const low = lowest(pages);
    redis.freeze();
    for (const node of [bun, deno]) {
      const from = performance.now();
      const page = await newVisitor(node).open();
      expect(performance.now() - from).toBeLessThan(2_500); // two calls that time out, at the worst
      pages.push(page);
    }
    await allShow(pages, { site: 11, stale: true }, 2_000);
    for (const node of [bun, deno]) {
      const from = performance.now();
      pages.push(await newVisitor(node).open());
      expect(performance.now() - from).toBeLessThan(500); // by now it is known
      expect((await ask(node.url, "GET /readyz")).text).toStartWith("ok, stale");
      expect((await ask(node.url, "GET /readyz")).status).toBe(200);
      expect(await node.metric("headcount_stale")).toBe(1);
      expect(await node.metric("headcount_engine_errors_total")).toBeGreaterThan(0);
      expect((await ask(node.url, `GET /count?site=${SITE}`)).json.site).toBe(12);
    }
    await sleep(6_000);
    expect(pages.every((page) => page.open)).toBe(true);
    redis.thaw();
    await allShow(pages, { site: 14, stale: false }, 10_000);
    const isReady = async () => (await ask(bun.url, "GET /readyz")).text === "ok";
    await until("the journal is written again", isReady, 10_000);
    expect(low()).toBe(10);
    await end(nodes);
  });

  scenario(
    "cluster: /count of a room elsewhere, Redis away: the last known number, stale, or 503; and no log",
    async () => {
      const redis = await RedisServer.start();
      const nodes = await startNodes(redis, ["bun", "deno"], { SITES: `${SITE}, other.example, new.example` });
      const [has, asks] = nodes as [Service, Service];
      await newVisitor(has).open();
      const watcher = await new Visitor(asks.url, "https://other.example").open();
      const count = (site: string) => ask(asks.url, `GET /count?site=${site}`);
      await until("it is counted", async () => (await count(SITE)).json.site === 1);
      const lines = asks.logs.length;
      await redis.kill();
      await watcher.shows({ stale: true }, 2_000);
      for (let n = 0; n < 200; n += 1) {
        expect((await count(SITE)).json).toMatchObject({ site: 1, stale: true });
        expect((await count("new.example")).status).toBe(503);
      }
      const { authorization } = asks;
      expect((await ask(asks.url, "GET /dashboard/state", { headers: { authorization } })).status).toBe(200);
      // The journal may be due now, and says that it cannot be written.
      const ofRequests = asks.logs
        .slice(lines)
        .filter(({ event }) => !event.startsWith("the journal cannot be written"));
      expect(ofRequests.map(({ event }) => event)).toEqual([expect.stringContaining("Redis is away")]);
      await redis.begin();
      for (let n = 0; n < 100; n += 1) {
        expect((await count(SITE)).json.site).toBe(1);
        await sleep(50);
      }
      await end(nodes);
    },
  );

  scenario(
    "cluster: FLUSHALL and SCRIPT FLUSH: no page sees a wrong number, and all is there again within 10 s",
    async () => {
      const redis = await RedisServer.start();
      const nodes = await startNodes(redis, ["bun", "deno"]);
      const pages = [...(await openMany(nodes[0]!, 5)), ...(await openMany(nodes[1]!, 5))];
      await allShow(pages, { site: 10, page: 10 }, 5_000);
      const low = lowest(pages);
      await redis.client.script("FLUSH");
      pages.push(await newVisitor(nodes[1]!).open());
      await allShow(pages, { site: 11 }, 1_000);
      await redis.client.flushall();
      const total = async () => Number(await redis.client.hget(`headcount:{${SITE}}:totals`, ""));
      await until("Redis knows all again", async () => (await total()) === 11, 5_000);
      await allShow(pages, { site: 11, stale: false }, 10_000);
      expect(await redis.client.get("headcount:secret:signing")).not.toBeNull();
      expect(low()).toBeGreaterThanOrEqual(10);
      await end(nodes);
    },
  );
});
