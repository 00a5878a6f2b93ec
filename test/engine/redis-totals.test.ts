/** Views and visitors in Redis beside what `totals-contract.ts` says: lost answers, refusals, and what a younger Redis is told. */
import { afterAll, expect, test } from "bun:test";
import { MAX_PAGES_PER_SITE, MAX_UNLISTED_SITES, type ViewSum } from "../../engine/engine.ts";
import { RedisEngine } from "../../engine/redis.ts";
import { suite } from "../support/needs.ts";
import { Cable, endRedis, RedisServer } from "../support/redis.ts";
import { quiet } from "../support/unit.ts";
import { once, until } from "../support/waiting.ts";
import { recordViews, viewsOf, visitorsOf } from "./totals-contract.ts";

const DAY = 20_345;
/** Commands may take 9 % of a lease, and nodes restore what is lost every 30 % of it. */
const LEASE_MS = 4_000;

let sites = 0;

afterAll(endRedis);

suite("redis totals", ["redis-server"], () => {
  const server = once(() => RedisServer.start());
  const open = (url: string, log = quiet) => RedisEngine.open(url, { tokenTtlMs: 30_000, log, leaseMs: LEASE_MS });
  const keyOf = (site: string, name: string) => `headcount:{${site}}:${name}`;
  const newSite = () => {
    sites += 1;
    return `site-${sites}.example`;
  };

  test("redis: views whose answer was lost are added once", async () => {
    const redis = await server();
    const cable = await Cable.lay(redis.port);
    const [engine, site] = [await open(cable.url), newSite()];
    await recordViews(engine, viewsOf(site, { "/": 1 }));
    redis.freeze();
    await recordViews(engine, viewsOf(site, { "/": 1 })); // accepted: the engine sends it again by itself
    redis.thaw();
    const record = () => recordViews(engine, viewsOf(site, { "/": 1 }));
    await until("the engine is back", () => record().then(() => true, () => false)); // oxfmt-ignore
    expect(await engine.pageViews(site, ["/"])).toEqual([3]);
    expect(await engine.siteTotals(site, DAY)).toMatchObject({ total: 3 });
    await engine.close();
    cable.remove();
  });

  test("redis: a key of a wrong type costs its own entries, and hinders no other site and no other number", async () => {
    const redis = await server();
    const lines: unknown[][] = [];
    const engine = await open(redis.url, (...line) => void lines.push(line));
    const [bad, good] = [newSite(), newSite()];
    await redis.client.set(keyOf(bad, "views"), "not a hash");
    await redis.client.set(keyOf(bad, `day:${DAY}`), "not a set");
    await recordViews(engine, [...viewsOf(bad, { "/a": 1, "/b": 1 }), ...viewsOf(good, { "/": 1 })]);
    await engine.countVisitors([...visitorsOf(bad, ["ann+"]), ...visitorsOf(good, ["ann+"])]);
    expect(await engine.siteTotals(good, DAY)).toEqual({ total: 1, visitors: 1, today: 1 });
    expect(await engine.siteTotals(bad, DAY)).toEqual({ total: 2, visitors: 0, today: 0 });
    expect(engine.lostEntries).toBe(2);
    expect(lines.map(([level, , fields]) => [level, (fields as { site: string }).site])).toEqual([
      ["error", bad],
      ["error", bad],
    ]);
    await engine.close();
  });

  test("redis: views and visitors are refused, and not lost, while Redis is out of memory", async () => {
    const redis = await RedisServer.start();
    const [engine, site] = [await open(redis.url), newSite()];
    const textOf = (promise: Promise<unknown>) => promise.then(() => "", String);
    await recordViews(engine, viewsOf(site, { "/": 1 }));
    await redis.client.config("SET", "maxmemory", "1");
    await recordViews(engine, viewsOf(site, { "/": 1 })); // accepted: the engine sends it again by itself
    expect(await textOf(recordViews(engine, viewsOf(site, { "/": 1 })))).toContain("OOM");
    expect(await textOf(engine.countVisitors(visitorsOf(site, ["ann+"])))).toContain("OOM");
    await redis.client.config("SET", "maxmemory", "0");
    await recordViews(engine, viewsOf(site, { "/": 1 }));
    await engine.countVisitors(visitorsOf(site, ["ann+"]));
    expect(await engine.siteTotals(site, DAY)).toEqual({ total: 3, visitors: 1, today: 1 });
    await engine.close();
    await redis.stop();
  });

  test("redis: nobody is remembered for longer than a day and two hours, and all keys of a site share its hash tag", async () => {
    const redis = await RedisServer.start();
    const [engine, site] = [await open(redis.url), "odd{name}.example"];
    await engine.secret("day", String(DAY));
    await recordViews(engine, viewsOf(site, { "/": 1 }));
    await engine.countVisitors(visitorsOf(site, ["ann+"]));
    const keys = await redis.client.keys("*:*odd*");
    const names = keys.map((key) => key.replace("headcount:{odd%7Bname%7D.example}:", ""));
    expect(names.filter((name) => !name.startsWith("wrote:")).toSorted()).toEqual([
      "base",
      "counts",
      `day:${DAY}`,
      "days",
      "views",
    ]);
    const set = keys.find((key) => key.endsWith(`:day:${DAY}`))!;
    expect(await redis.client.ttl(set)).toBeLessThanOrEqual(26 * 3_600);
    expect(await redis.client.ttl(set)).toBeGreaterThan(25 * 3_600);
    expect(await redis.client.ttl(`headcount:secret:day:${DAY}`)).toBeLessThanOrEqual(2 * 86_400);
    expect(await redis.client.ttl(keys.find((key) => key.endsWith(":base"))!)).toBeLessThanOrEqual(3_600);
    await engine.close();
    await redis.stop();
  });

  test("redis: an empty Redis is told again what nodes know, though each knows another part of it", async () => {
    const redis = await RedisServer.start();
    const [[one, two], site] = [await Promise.all([open(redis.url), open(redis.url)]), newSite()];
    await recordViews(one, viewsOf(site, { "/a": 5, "/b": 1 }));
    await one.countVisitors(visitorsOf(site, ["ann+", "ben"]));
    await recordViews(two, viewsOf(site, { "/b": 1 }));
    await two.countVisitors(visitorsOf(site, ["cid+", "ann+"]));
    await recordViews(one, viewsOf(site, { "/b": 1 }, DAY + 1)); // now node two knows the older number of /b
    await redis.client.flushall();
    await recordViews(two, viewsOf(site, { "/b": 10, "/c": 1 }));
    await two.countVisitors(visitorsOf(site, ["ben", "dan+"]));
    const numbers = async () => ({
      pages: await one.pageViews(site, ["/a", "/b", "/c"]),
      ...(await one.siteTotals(site, DAY)),
      days: await one.days(site, 0),
    });
    const expected = {
      pages: [5, 13, 1],
      total: 19,
      visitors: 3,
      today: 4,
      days: [
        { day: DAY, views: 18, visitors: 4 },
        { day: DAY + 1, views: 1, visitors: 0 },
      ],
    };
    await until("all is restored", async () => Bun.deepEquals(await numbers(), expected)).catch(() => {});
    expect(await numbers()).toEqual(expected);
    expect(await two.siteTotals(site, DAY)).toEqual({ total: 19, visitors: 3, today: 4 });
    await Promise.all([one.close(), two.close()]);
    await redis.stop();
  });

  test("redis: of sites that are not in SITES, an empty Redis is told again only those that it has room for", async () => {
    const redis = await RedisServer.start();
    const [one, two] = await Promise.all([open(redis.url), open(redis.url)]);
    const sitesOf = (name: string) =>
      Array.from({ length: MAX_UNLISTED_SITES }, (_, index) => `${name}${index}.example`);
    const record = (engine: RedisEngine, unlisted: string[], more: ViewSum[] = []) => {
      const views = [...unlisted.flatMap((site) => viewsOf(site, { "/": 1 })), ...more];
      return engine.record({ readings: [], peaks: [], views, unlistedSites: new Set(unlisted) });
    };
    const [lost, others, listed] = [sitesOf("lost"), sitesOf("other"), newSite()];
    await record(one, lost, viewsOf(listed, { "/": 1 }));
    await redis.client.flushall();
    await record(two, others.slice(1));
    for (const site of [...lost, listed]) await one.siteTotals(site, DAY); // now the node knows that all are lost
    const counted = async () =>
      (await redis.client.keys("*:counts")).map((key) => /\{(.*)\}/.exec(key)?.[1] ?? "").toSorted();
    await until("the listed site is back", async () => (await counted()).includes(listed));
    expect(await counted()).toEqual([...others.slice(1), "lost0.example", listed].toSorted());
    await Promise.all([one.close(), two.close()]);
    await redis.stop();
  });

  test("redis: while an empty Redis is not restored, pages see what their node knows", async () => {
    const redis = await RedisServer.start();
    const [engine, site] = [await open(redis.url), newSite()];
    await recordViews(engine, viewsOf(site, { "/a": 5 }));
    await engine.countVisitors(visitorsOf(site, ["ann+", "ben"]));
    await redis.client.flushall();
    expect(await engine.siteTotals(site, DAY)).toEqual({ total: 5, visitors: 1, today: 2 });
    expect(await engine.pageViews(site, ["/a", "/b"])).toEqual([5, 0]);
    await engine.close();
    await redis.stop();
  });

  test("redis: 10,000 pages of a site that Redis has lost are restored by the node that has written them", async () => {
    const redis = await RedisServer.start();
    const [engine, site] = [await open(redis.url), newSite()];
    const pages = Array.from({ length: MAX_PAGES_PER_SITE }, (_, index) => `/${index}`);
    await recordViews(engine, viewsOf(site, Object.fromEntries(pages.map((page) => [page, 2]))));
    await redis.client.flushall();
    await recordViews(engine, viewsOf(site, { "/7": 1 }));
    const restored = async () => (await redis.client.hlen(keyOf(site, "views"))) === MAX_PAGES_PER_SITE;
    await until("all pages are back", restored, 20_000);
    const views = await engine.pageViews(site, pages);
    expect(views.reduce((sum, count) => sum + count, 0)).toBe(2 * MAX_PAGES_PER_SITE + 1);
    expect((await engine.siteTotals(site, DAY)).total).toBe(2 * MAX_PAGES_PER_SITE + 1);
    await engine.close();
    await redis.stop();
  });
});
