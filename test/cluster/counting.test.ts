/** What several real nodes, Bun and Deno mixed, count together while nothing fails. */
import { afterAll, expect } from "bun:test";

import { join } from "node:path";
import { ask } from "../support/client.ts";
import { suite } from "../support/needs.ts";
import { RedisServer } from "../support/redis.ts";
import { Service } from "../support/service.ts";
import { sleep, until } from "../support/waiting.ts";
import { allShow, at, end, endAll, newVisitor, scenario, SITE, startNode, startNodes } from "./nodes.ts";

const WRONG_CLOCK = join(import.meta.dir, "wrong-clock.ts");

afterAll(endAll);

suite("cluster counting", ["redis-server"], () => {
  scenario(
    "cluster: a visitor with pages on two nodes counts once, and a change is seen on the other node soon",
    async () => {
      const redis = await RedisServer.start();
      const nodes = await startNodes(redis, ["bun", "deno"]);
      const [bun, deno] = nodes as [Service, Service];
      const ann = newVisitor(bun);
      const first = await ann.open("/");
      await first.shows({ site: 1, page: 1 });
      const second = await at(deno, ann).open("/two");
      await second.shows({ site: 1, page: 1 });
      const delays: number[] = [];
      for (const [node, watcher] of Array.from({ length: 10 }, (_, n) =>
        n % 2 ? ([bun, second] as const) : ([deno, first] as const),
      )) {
        // oxfmt-ignore
        const count = (watcher.now.site ?? 0) + 1;
        const from = performance.now();
        await newVisitor(node).open();
        await watcher.shows({ site: count }, 1_000);
        await allShow([first, second], { site: count }, 1_000);
        delays.push(performance.now() - from);
      }
      await allShow([first, second], { site: 11 }, 1_000);
      const slowest = Math.round(Math.max(...delays));
      process.stderr.write(
        `cluster: a join is seen on the other node after at most ${slowest} ms (token and upgrade included)\n`,
      );
      await first.close();
      await sleep(2_000); // longer than grace: the page on the other node still counts
      expect(second.now.site).toBe(11);
      await second.close();
      await until("ann is gone", async () => (await ask(bun.url, `GET /count?site=${SITE}`)).json.site === 10);
      expect((await ask(deno.url, `GET /count?site=${SITE}&page=/two`)).json).toMatchObject({ site: 10, page: 0 });
      await end(nodes);
    },
  );

  scenario("cluster: one token in 100 parallel upgrades over two nodes opens one socket", async () => {
    const redis = await RedisServer.start();
    const nodes = await startNodes(redis, ["bun", "deno"]);
    for (let round = 0; round < 3; round += 1) {
      const { json } = await newVisitor(nodes[0]!).token();
      const upgrades = Array.from({ length: 100 }, (_, n) => newVisitor(nodes[n % 2]!).upgrade(json.token));
      const answers = (await Promise.all(upgrades)).map(({ status }) => status);
      expect(answers.filter((status) => status === 101)).toHaveLength(1);
      expect(answers.filter((status) => status === 403)).toHaveLength(99);
    }
    await end(nodes);
  });

  scenario(
    "cluster: tokens of a node whose clock is 45 s off are good on every node, and the other way round",
    async () => {
      const redis = await RedisServer.start();
      const right = (await startNodes(redis, ["deno"]))[0]!;
      for (const [runtime, offsetMs] of [
        ["bun", -45_000],
        ["deno", 45_000],
      ] as const) {
        // oxfmt-ignore
        const wrong = await startNode(redis, runtime, { CLOCK_OFFSET_MS: offsetMs }, { preload: WRONG_CLOCK });
        const offset = Date.parse(wrong.logs[0]!.time) - Date.now();
        expect(Math.abs(offset - offsetMs)).toBeLessThan(10_000); // the node's own clock is wrong indeed
        for (const [mints, opens] of [
          [wrong, right],
          [right, wrong],
        ] as const) {
          // oxfmt-ignore
          const visitor = newVisitor(mints);
          const { json } = await visitor.token();
          expect((await at(opens, visitor).upgrade(json.token)).status).toBe(101);
        }
        await end([wrong]);
      }
      await end([right]);
    },
  );
});
