/** Nodes that share a Redis and have other settings: they say so, and each goes on for its own visitors. */
import { afterAll, expect } from "bun:test";
import { ask } from "../support/client.ts";
import { suite } from "../support/needs.ts";
import { RedisServer } from "../support/redis.ts";
import type { LogLine, Service, Settings } from "../support/service.ts";
import { until } from "../support/waiting.ts";
import { at, endAll, newVisitor, ORIGIN, scenario, SITE, startNode } from "./nodes.ts";

afterAll(endAll);

const isWarning = ({ event }: LogLine): boolean => event.includes("other settings");

async function startDifferent(more: Settings): Promise<[first: Service, different: Service]> {
  const redis = await RedisServer.start();
  return [await startNode(redis, "bun"), await startNode(redis, "deno", more)];
}

suite("cluster other settings", ["redis-server"], () => {
  scenario(
    "cluster: a node with another SECRET refuses foreign tokens, counts, and says what differs once",
    async () => {
      const [first, different] = await startDifferent({ SECRET: "another secret of some length" });
      const visitor = newVisitor(first);
      const { json } = await visitor.token();
      expect((await at(different, visitor).upgrade(json.token)).status).toBe(403);
      const pages = [await newVisitor(first).open(), await newVisitor(different).open()];
      for (const page of pages) await page.shows({ site: 2, page: 2 }, 2_000);
      const warning = await until("it is logged", () => different.logs.find(isWarning), 50_000);
      expect([warning.level, warning["settings"]]).toEqual(["error", ["SECRET"]]);
      expect(JSON.stringify(different.logs)).not.toContain("another secret");
      expect(first.logs.some(isWarning)).toBe(false);
    },
  );

  scenario("cluster: a node with other SITES and another grace says what differs, and counts its own", async () => {
    const [first, different] = await startDifferent({ SITES: "elsewhere.example", GRACE_SECONDS: 3 });
    const page = await newVisitor(first).open();
    await page.shows({ site: 1 }, 2_000);
    expect((await ask(different.url, `GET /count?site=${SITE}`)).status).toBe(404);
    expect((await newVisitor(different).token()).status).toBe(403);
    expect((await ask(different.url, "GET /count?site=elsewhere.example")).json).toMatchObject({ site: 0 });
    const { logs } = different;
    const warning = await until("it is logged", () => logs.find(isWarning), 50_000);
    expect(warning["settings"]).toEqual(["SITES", "GRACE_SECONDS"]);
    expect(page.now).toMatchObject({ site: 1 });
    expect((await ask(first.url, "GET /count", { headers: { origin: ORIGIN } })).json).toMatchObject({ site: 1 });
  });

  scenario("cluster: nodes that are restarted one after the other with new settings say nothing", async () => {
    const redis = await RedisServer.start();
    const first = await startNode(redis, "bun");
    await until("it shares its settings", () => redis.client.exists("headcount:settings"), 10_000);
    const second = await startNode(redis, "bun", { GRACE_SECONDS: 2 });
    expect(await first.stop()).toBe(0);
    const shared = async () => (await redis.client.get("headcount:settings"))?.includes('"GRACE_SECONDS":"2"');
    await until("the new settings are those that count", shared, 40_000);
    expect(second.logs.some(isWarning)).toBe(false);
  });
});
