/** All nodes are restarted one after the other, under many open pages that come back as the widget does. */
import { afterAll, expect, test } from "bun:test";

import { ask, Visitor } from "../support/client.ts";
import { suite } from "../support/needs.ts";
import { RedisServer } from "../support/redis.ts";
import type { Service } from "../support/service.ts";
import { sleep, until, within } from "../support/waiting.ts";
import { at, end, endAll, lowest, newVisitor, SITE, startNodes } from "./nodes.ts";

const ROLLING = Number(process.env["ROLLING"] ?? 1_000); // open pages

afterAll(endAll);

/** A page that comes back as the widget does, to the next node behind the load balancer. */
async function stay(visitor: Visitor, nodes: Service[], isOver: () => boolean): Promise<void> {
  for (let turn = 0; !isOver(); turn += 1) {
    const node = nodes[turn % nodes.length]!;
    const page = await at(node, visitor)
      .open()
      .catch(() => undefined);
    if (page === undefined) {
      await sleep(200);
      continue;
    }
    const { code, reason } = await page.closed;
    expect(code).toBe(1012);
    await sleep(Math.random() * Number(reason) * 1_000);
  }
}

suite("cluster rolling restart", ["redis-server"], () => {
  test(`cluster: a rolling restart of all nodes under ${ROLLING} pages shows no dip`, async () => {
    const redis = await RedisServer.start();
    const nodes = await startNodes(redis, ["bun", "deno"]);
    let over = false;
    const visitors = Array.from({ length: ROLLING }, () => newVisitor(nodes[0]!));
    for (const visitor of visitors) await visitor.token();
    const staying = visitors.map((visitor, n) => stay(visitor, n % 2 ? nodes : nodes.toReversed(), () => over));
    const site = async (node: Service): Promise<number> => (await ask(node.url, `GET /count?site=${SITE}`)).json.site;
    await until("all are here", async () => (await site(nodes[1]!)) === ROLLING, 30_000);
    for (const node of nodes) {
      const other = nodes.find((one) => one !== node)!;
      const watcher = await newVisitor(other).open("/", { observe: true });
      const low = lowest([watcher]);
      expect(await node.stop()).toBe(0);
      await node.start();
      await sleep(20_000); // the reconnect window, and the lease of what was held
      expect([watcher.now.site, low()]).toEqual([ROLLING, low()]);
      expect(Math.min(low(), ROLLING)).toBe(ROLLING);
      await watcher.close();
    }
    over = true;
    for (const node of nodes) expect(await node.stop()).toBe(0);
    await within(5_000, "all pages are closed", Promise.all(staying));
    await end(nodes);
  }, 120_000);
});
