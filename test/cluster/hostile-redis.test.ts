/** A Redis in which somebody else writes: forged messages, keys of a wrong type, no memory left. Counts come right again. */
import { afterAll, expect } from "bun:test";
import { ask } from "../support/client.ts";
import { suite } from "../support/needs.ts";
import { RedisServer } from "../support/redis.ts";
import type { Service } from "../support/service.ts";
import { sleep, until } from "../support/waiting.ts";
import { allShow, end, endAll, lowest, newVisitor, openMany, scenario, SITE, startNodes } from "./nodes.ts";

const CHANNEL = "headcount:0";
const keyOf = (name: string): string => `headcount:{${SITE}}:${name}`;

afterAll(endAll);

suite("cluster hostile Redis", ["redis-server"], () => {
  scenario(
    "cluster: a count that Redis cannot know yet is 503, is known soon, and is no error in the log",
    async () => {
      const redis = await RedisServer.start();
      const nodes = await startNodes(redis, ["bun", "deno"]);
      const page = await newVisitor(nodes[0]!).open("/");
      await page.shows({ site: 1 }, 2_000);
      const count = () => ask(nodes[1]!.url, `GET /count?site=${SITE}&page=/unknown`);
      expect((await count()).status).toBe(503); // the epoch is younger than 4 s
      await until("it is known", async () => (await count()).status === 200, 10_000);
      expect((await count()).json).toMatchObject({ site: 1, page: 0 });
      await end(nodes); // fails when a node has logged an error
    },
  );

  scenario("cluster: forged messages with any numbers are corrected within a beat, and are logged once", async () => {
    const redis = await RedisServer.start();
    const nodes = await startNodes(redis, ["bun", "deno"]);
    const pages = [...(await openMany(nodes[0]!, 3)), ...(await openMany(nodes[1]!, 3))];
    await allShow(pages, { site: 6, page: 6 }, 5_000);
    const epoch = await redis.client.hget(keyOf("meta"), "epoch");
    const version = Number(await redis.client.hget(keyOf("meta"), "version"));
    const publish = (...message: unknown[]) => redis.client.publish(CHANNEL, JSON.stringify(message));
    for (const total of [99, 0, -5, 2 ** 32, 2 ** 53 - 1, 1e300, "x", null, [], {}, "NaN", "99"])
      await publish(SITE, epoch, version + 1, "", total, "/", total);
    for (const later of [version + 10, version + 1_000_000_000, Number.MAX_SAFE_INTEGER, 1e308, -1])
      await publish(SITE, epoch, later, "", 77, "/", 77);
    for (const other of [Number(epoch) + 1_000_000, Number.MAX_SAFE_INTEGER, 0, "later"])
      await publish(SITE, other, 1, "", 88, "/", 88);
    await redis.client.publish(CHANNEL, "x".repeat(1_000_000));
    await redis.client.publish(CHANNEL, JSON.stringify(Array(300_000).fill("a")));
    for (let sent = 0; sent < 3_000; sent++) void redis.client.publish(CHANNEL, `["${SITE}"`);
    await sleep(4_000); // a beat is 3 s
    await allShow(pages, { site: 6, page: 6 }, 100);
    for (const node of nodes) {
      expect((await ask(node.url, `GET /count?site=${SITE}`)).json).toMatchObject({ site: 6 });
      expect(node.logs.filter(({ event }) => event.includes("message that is not")).length).toBeLessThan(3);
    }
    pages.push(await newVisitor(nodes[0]!).open());
    await allShow(pages, { site: 7, page: 7 }, 1_000);
    const late = await newVisitor(nodes[1]!).open();
    expect(late.now.peak).toBeLessThan(1_000_000);
    await end(nodes);
  });

  scenario("cluster: a message that comes before the first answer of Redis does not stay", async () => {
    const redis = await RedisServer.start();
    const [node] = (await startNodes(redis, ["bun"])) as [Service];
    const forged = JSON.stringify([SITE, Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, "", 99, "/", 99]);
    const state = { over: false };
    const flood = (async () => {
      while (!state.over) await redis.client.publish(CHANNEL, forged);
    })();
    const page = await newVisitor(node).open();
    await sleep(500);
    state.over = true;
    await flood;
    await page.shows({ site: 1, page: 1 }, 5_000);
    await sleep(3_500);
    expect(page.now).toMatchObject({ site: 1, page: 1 });
    await end([node]);
  });

  for (const name of ["totals", "refs", "meta", "nodes", "dirty"])
    scenario(
      `cluster: ${name} replaced by a key of a wrong type is made anew, and counts are exact again`,
      async () => {
        const redis = await RedisServer.start();
        const nodes = await startNodes(redis, ["bun", "deno"]);
        const pages = [...(await openMany(nodes[0]!, 2)), ...(await openMany(nodes[1]!, 2))];
        await allShow(pages, { site: 4, page: 4 }, 5_000);
        const low = lowest(pages);
        await redis.client.set(keyOf(name), "not this");
        const joined = await newVisitor(nodes[0]!).open();
        const live = name === "dirty" ? {} : { stale: false }; // without dirty only the node that notices is stale
        await allShow([...pages, joined], { site: 5, page: 5, ...live }, 15_000);
        expect(low()).toBe(4); // the other node cannot know of the fifth before Redis counts again
        await end(nodes);
      },
    );

  scenario(
    "cluster: with no memory left in Redis counts are held as stale, and are exact once there is some",
    async () => {
      const redis = await RedisServer.start(["--maxmemory-policy", "noeviction"]);
      const nodes = await startNodes(redis, ["bun", "deno"]);
      const pages = [...(await openMany(nodes[0]!, 3)), ...(await openMany(nodes[1]!, 3))];
      await allShow(pages, { site: 6, page: 6 }, 5_000);
      await redis.client.config("SET", "maxmemory", "1mb");
      await allShow(pages, { site: 6, page: 6, stale: true }, 10_000);
      const joined = await newVisitor(nodes[0]!).open();
      await joined.shows({ site: 7, page: 7, stale: true }, 2_000);
      await pages.pop()!.close();
      await sleep(12_000); // longer than a lease
      expect(pages[0]!.now.site).toBe(7);
      for (const node of nodes) {
        expect((await ask(node.url, `GET /count?site=${SITE}`)).status).toBe(200);
        const { length } = node.logs.filter(({ level }) => level !== "info");
        expect(length).toBeLessThan(6); // reported, not repeated
      }
      await redis.client.config("SET", "maxmemory", "0");
      await allShow([...pages, joined], { site: 6, page: 6, stale: false }, 15_000);
      await until(
        "the journal is written",
        async () => {
          const { views = 0 } = (await ask(nodes[0]!.url, `GET /reading?site=${SITE}&page=/`)).json;
          return views > 0;
        },
        15_000,
      );
      await end(nodes);
    },
  );
});
