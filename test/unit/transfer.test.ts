/** Export and import as the command line does them, over engines of the test: from one kind of engine to the other and back. */
import { afterAll, describe, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Engine } from "../../engine/engine.ts";
import { keyOf } from "../../engine/options.ts";
import { RedisEngine } from "../../engine/redis.ts";
import { readCommand } from "../../stats/command.ts";
import { exportAll, importFile, type TransferTools } from "../../stats/transfer.ts";
import { DAY, fill, SITES } from "../support/kept.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { suite } from "../support/needs.ts";
import { endRedis, RedisServer } from "../support/redis.ts";
import { quiet, sqlite } from "../support/unit.ts";
import { until } from "../support/waiting.ts";
import { recordViews, viewsOf } from "../engine/totals-contract.ts";

afterAll(endRedis);

const tools = (store: Engine): TransferTools => ({
  store,
  siteName: (text) => (text.endsWith(".example") ? text : undefined),
  pageName: (text) => (text === "" ? undefined : text.replace(/\/index\.html$/, "/")),
  progress: quiet,
  sleep: async () => {},
});

async function textOf(store: Engine, site?: string, withSecrets = true): Promise<string> {
  let text = "";
  for await (const piece of exportAll(tools(store), { site, withSecrets })) text += piece;
  return text;
}

/** The text without what tells one export from another. */
const entriesOf = (text: string) => text.replace(/"id":"[^"]*"/, "");

/** Writes a file, and imports it. */
async function importText(store: Engine, text: string, name = "totals.json"): Promise<string> {
  const file = join(temporaryFolder(), name);
  writeFileSync(file, text);
  return importFile(tools(store), file, undefined);
}

describe("transfer", () => {
  test("transfer: an export is JSON with one line for each entry, and says whether it has secrets", async () => {
    const engine = sqlite();
    await fill(engine);
    const text = await textOf(engine);
    const parsed = JSON.parse(text) as { entries: unknown[]; count: number };
    expect(parsed).toMatchObject({ headcount: 1, secrets: true, sites: SITES, count: parsed.entries.length });
    expect(text.split("\n")).toHaveLength(parsed.count + 3);
    const withoutSecrets = await textOf(engine, undefined, false);
    expect(JSON.parse(withoutSecrets)).toMatchObject({ secrets: false });
    for (const secret of [
      '"secret"',
      '"hashes"',
      await engine.secret("signing", ""),
      await engine.secret("admin", ""),
    ]) {
      expect(text).toContain(secret);
      expect(withoutSecrets).not.toContain(secret);
    }
  });

  test("transfer: an export of one site has nothing of others", async () => {
    const engine = sqlite();
    await fill(engine);
    const { entries } = JSON.parse(await textOf(engine, SITES[1], false)) as { entries: { site: string }[] };
    expect(new Set(entries.map(({ site }) => site))).toEqual(new Set([SITES[1]!]));
    expect(await textOf(engine, "none.example").then(() => "", String)).toContain("nothing is kept of it");
    expect(await textOf(sqlite()).then(() => "", String)).toContain("nothing is kept here");
  });

  test("transfer: one site can be restored beside others", async () => {
    const [from, to] = [sqlite(), sqlite()];
    await fill(from);
    await importText(to, '{"site":"other.example","total":3}');
    expect(await importText(to, await textOf(from, SITES[0], false))).toMatch(/^Restored \d+ entries of 1 site$/);
    expect(await to.keptSites()).toEqual([SITES[0]!, "other.example"]);
  });

  test("transfer: totals of a file are told as they were added, and importing it again changes nothing", async () => {
    const engine = sqlite();
    const text = '{"site":"a.example","total":12345,"visitors":2345,"pages":{"/a/index.html":320,"/a/":1}}';
    expect(await importText(engine, text)).toBe(
      "a.example has 12,345 views, 2,345 visitors and 1 pages from totals.json now",
    );
    expect(await importText(engine, text)).toContain("nothing changed");
    expect(await engine.siteTotals("a.example", DAY)).toMatchObject({ total: 12_345, visitors: 2_345 });
    expect(await engine.pageViews("a.example", ["/a/"])).toEqual([321]);
    expect(await importText(engine, text, "another.json")).toContain("from another.json now");
    expect((await engine.siteTotals("a.example", DAY)).total).toBe(24_690);
    expect(await importText(engine, '{"site":"a.example","pages":{"/a/":7}}')).toContain("instead of 12,345 views");
    expect(await engine.pageViews("a.example", ["/a/"])).toEqual([328]);
  });

  test("transfer: a long name of a page is imported as the page that is counted, and importing it again changes nothing", async () => {
    const engine = sqlite();
    const pages = ["a", "b"].map((end) => `/${"x".repeat(1_000)}${end}`);
    await recordViews(engine, viewsOf("a.example", { [pages[0]!]: 1 }));
    const text = JSON.stringify({ site: "a.example", pages: { [pages[0]!]: 10, [pages[1]!]: 20 } });
    expect(await importText(engine, text)).toContain("2 pages");
    expect(await importText(engine, text)).toContain("nothing changed");
    expect(await engine.pageViews("a.example", pages)).toEqual([11, 20]);
  });
});

async function startCluster(): Promise<RedisServer> {
  const redis = await RedisServer.start(["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"]);
  await redis.client.call("CLUSTER", "ADDSLOTSRANGE", "0", "16383");
  const info = async () => String(await redis.client.call("CLUSTER", "INFO"));
  await until("the cluster is up", async () => (await info()).includes("cluster_state:ok"));
  return redis;
}

suite("transfer between engines", ["redis-server"], () => {
  test.each([
    ["Redis", () => RedisServer.start()],
    ["Redis Cluster", startCluster],
  ])("transfer: SQLite → %s → SQLite loses nothing", async (_, startRedis) => {
    const redis = await startRedis();
    const first = sqlite();
    const second = await RedisEngine.open(redis.url, { tokenTtlMs: 30_000, log: quiet });
    const third = sqlite();
    await fill(first);
    const text = await textOf(first);
    await importText(second, text);
    const fromRedis = await textOf(second);
    expect(entriesOf(fromRedis)).toBe(entriesOf(text));
    await importText(third, fromRedis);
    expect(entriesOf(await textOf(third))).toBe(entriesOf(text));
    await second.close();
    await redis.stop();
  });

  test("transfer: a restore into Redis that was interrupted has changed nothing, and another one succeeds", async () => {
    const redis = await RedisServer.start();
    const [from, to] = [sqlite(), await RedisEngine.open(redis.url, { tokenTtlMs: 30_000, log: quiet })];
    await fill(from);
    const text = await textOf(from);
    const { id, entries } = JSON.parse(text);
    function* interrupted() {
      yield* entries.slice(0, entries.length - 5);
      throw new Error("interrupted");
    }
    expect(await to.restore(id, SITES, interrupted()).then(() => "", String)).toContain("interrupted");
    expect(await to.keptSites()).toEqual([]);
    for (const key of await redis.client.keys("*:restoring:*")) expect(await redis.client.ttl(key)).toBeGreaterThan(0);
    const again = await textOf(from);
    await importText(to, again);
    expect(entriesOf(await textOf(to))).toBe(entriesOf(text));
    expect(await redis.client.keys("*:restor*")).toEqual([]);
    expect(await importText(to, again).then(() => "", String)).toContain("has numbers already");
    await to.close();
    await redis.stop();
  });

  test("transfer: a restore into Redis that ended between two sites is completed by the same file, and by no other", async () => {
    const redis = await RedisServer.start();
    const [from, to] = [sqlite(), await RedisEngine.open(redis.url, { tokenTtlMs: 30_000, log: quiet })];
    await fill(from);
    const [text, other] = [await textOf(from), await textOf(from)];
    const { id, entries } = JSON.parse(text);
    const ofFirst = entries.filter(({ site }: { site?: string }) => site === SITES[0]);
    await to.restore(id, SITES.slice(0, 1), ofFirst);
    for (const site of SITES) await redis.client.set(keyOf("headcount:", site, "restored"), id); // as before its last step
    expect(await importText(to, other).then(() => "", String)).toContain("has numbers already");
    await importText(to, text);
    expect(entriesOf(await textOf(to))).toBe(entriesOf(text));
    await to.close();
    await redis.stop();
  });

  test("transfer: what Redis keeps for a while only expires there after a restore too", async () => {
    const redis = await RedisServer.start();
    const [from, to] = [sqlite(), await RedisEngine.open(redis.url, { tokenTtlMs: 30_000, log: quiet })];
    await fill(from);
    await importText(to, await textOf(from));
    const ttl = (name: string, site = SITES[0]!) => redis.client.ttl(keyOf("headcount:", site, name));
    const permanent = ["counts", "days", "views", "readings", "mostread", "highest", "imports"];
    expect(await Promise.all(permanent.map((name) => ttl(name)))).toEqual(permanent.map(() => -1));
    expect(await ttl(`day:${DAY}`)).toBeWithin(25 * 3_600, 26 * 3_600 + 1);
    expect(await redis.client.ttl(`headcount:secret:day:${DAY}`)).toBeWithin(86_400, 2 * 86_400 + 1);
    expect(await redis.client.ttl("headcount:secret:admin")).toBe(-1);
    const lives = await Promise.all(permanent.slice(0, 3).map((name) => ttl(name, SITES[1])));
    for (const life of lives) expect(life).toBeWithin(89 * 86_400, 90 * 86_400 + 1); // it is not in SITES
    await to.close();
    await redis.stop();
  });
});

describe("command line", () => {
  const serves = { name: "serve" };
  test("command line: without a command the service is started", () => {
    expect(readCommand([])).toEqual(serves as ReturnType<typeof readCommand>);
  });

  test("command line: each command has its options, and no others", () => {
    expect(readCommand(["export"])).toEqual({ name: "export", site: undefined, withSecrets: true });
    expect(readCommand(["export", "--no-secrets"])).toEqual({ name: "export", site: undefined, withSecrets: false });
    expect(readCommand(["export", "a.example"])).toEqual({ name: "export", site: "a.example", withSecrets: false });
    expect(readCommand(["import", "f", "--source", "x"])).toEqual({ name: "import", file: "f", source: "x" });
    expect(readCommand(["import", "--busuanzi", "https://a.example/s.xml", "--server", "http://b/"])).toEqual({
      name: "busuanzi",
      sitemap: "https://a.example/s.xml",
      server: "http://b",
    });
    expect(readCommand(["export", "-h"])).toEqual({ name: "help" });
    for (const [args, problem] of [
      [["import"], "needs a file"],
      [["import", "a", "b"], "too many"],
      [["import", "a", "--busuanzi", "b"], "too many"],
      [["import", "a", "--no-secrets"], "--no-secrets is no option of import"],
      [["export", "--source", "a"], "--source is no option of export"],
      [["serve", "--server", "a"], "--server is no option of serve"],
      [["exprot"], '"exprot" is no command'],
      [["--exprot"], "--exprot"],
    ] as const)
      expect(() => readCommand(args)).toThrow(problem);
  });

  test("command line: the help is in the documentation as it is", () => {
    const text = readFileSync(join(import.meta.dir, "../../docs/operate.md"), "utf8");
    for (const command of ["headcount export", "headcount import", "--busuanzi", "--no-secrets", "--source"])
      expect(text).toContain(command);
  });
});
