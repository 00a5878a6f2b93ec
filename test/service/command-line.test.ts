/** `headcount export` and `headcount import`, as the operator runs them beside a service, on both engines. */
import { afterAll, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { Visitor } from "../support/client.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { canRun } from "../support/needs.ts";
import { endRedis, RedisServer } from "../support/redis.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { runCommand, Service, type Settings } from "../support/service.ts";
import { unlimited } from "../support/site.ts";
import { until } from "../support/waiting.ts";

const ORIGIN = "https://a.example";
const SITES = "a.example";
const SECRETS_NOTE = "The export contains the secrets of the service";

afterAll(endRedis);

/** Each makes an empty place where a service can keep its numbers. */
const sqlite = async (): Promise<Settings> => ({ DATA: temporaryFolder() });
const redis = async (): Promise<Settings> => ({ REDIS_URL: (await RedisServer.start()).url });
const engines = canRun("redis-server") ? { sqlite, redis } : { sqlite };

function fileOf(text: string, name = "totals.json"): string {
  const file = join(temporaryFolder(), name);
  writeFileSync(file, text);
  return file;
}

/** The totals of a visitor's first frame. The page reconnects, so it is no further view. */
async function totalsOf(visitor: Visitor) {
  const page = await visitor.open("/", { again: true });
  const [{ total, visitors, today, views } = {}] = page.frames as Record<string, number>[];
  await page.close();
  return { total, visitors, today, views };
}

/** The text of an export without what tells it from another one. */
const entriesOf = (text: string) => text.replace(/"id":"[^"]*"/, "");

onBothRuntimes("command line", (runtime) => {
  const run = (args: string[], settings: Settings = {}) => runCommand(runtime, args, settings);
  const start = (settings: Settings) => Service.start(runtime, { ...unlimited, SITES, ...settings });

  /** Exports until the text holds something. */
  const exportWith = (part: string, settings: Settings) =>
    until(`an export has ${part}`, async () => {
      const { code, stdout } = await run(["export"], settings);
      return code === 0 && stdout.includes(part) ? stdout : undefined;
    }, 20_000); // oxfmt-ignore

  /** Imports a file, and expects that to succeed. Returns what was said. */
  async function importInto(settings: Settings, file: string): Promise<string> {
    const { code, stdout, stderr } = await run(["import", file], settings);
    expect({ code, stderr }).toMatchObject({ code: 0 });
    return stdout;
  }

  test("command line: help and version are told, and a mistake ends with 1 and says what is wrong", async () => {
    expect((await run(["--help"], { PORT: "wrong" })).stdout).toContain("headcount export SITE");
    expect((await run(["--version"])).stdout).toMatch(/^headcount \d+\.\d+\.\d+\n$/);
    const mistakes: [args: string[], problem: string, settings?: Settings][] = [
      [["exprot"], '"exprot" is no command'],
      [["import", "/nowhere/totals.json"], "Cannot import /nowhere/totals.json: "],
      [["import", fileOf('{"site":"a.example",\n"total":1.5}')], 'line 2: "total" is 1.5'],
      [["export"], "nothing is kept here"],
      [["export"], "PORT", { PORT: "wrong" }],
    ];
    for (const [args, problem, settings] of mistakes) {
      const { code, stdout, stderr } = await run(args, settings);
      expect([code, stdout]).toEqual([1, ""]);
      expect(stderr).toContain(problem);
      expect(stderr).not.toContain("    at "); // no stack
    }
  });

  for (const [name, open] of Object.entries(engines)) {
    test(`command line: totals are imported while a service with ${name} runs, once, and pages see them`, async () => {
      const settings = await open();
      const service = await start(settings);
      const visitor = new Visitor(service.url, ORIGIN);
      await (await visitor.open()).close();
      await until("the view is kept", async () => (await totalsOf(visitor)).total === 1);
      const file = fileOf('{"site":"a.example","total":1000,"visitors":50,"pages":{"/":600,"/old":5}}');
      expect(await importInto({ ...settings, SITES }, file)).toContain("a.example has 1,000 views");
      expect(await importInto({ ...settings, SITES }, file)).toContain("nothing changed");
      const shows = { total: 1_001, visitors: 51, today: 1, views: 601 };
      await until("pages see it", async () => Bun.deepEquals(await totalsOf(visitor), shows), 15_000);
      const other = await run(["import", file], { ...settings, SITES: "b.example" });
      expect(other.stderr).toContain('"a.example" is not one of the SITES');
    });

    test(`command line: an export of a running service with ${name} restores another one, which knows its visitors`, async () => {
      const [settings, copy] = [await open(), await open()];
      const service = await start(settings);
      const visitor = new Visitor(service.url, ORIGIN);
      await (await visitor.open()).close();
      const file = fileOf(await exportWith('"page":"/","views":1', settings));
      expect(await importInto(copy, file)).toContain("Restart the service");
      const again = await run(["import", file], copy);
      expect([again.code, again.stderr.includes("has numbers already")]).toEqual([1, true]);
      const restored = await start(copy);
      expect(restored.authorization).toBe(service.authorization); // the same password of the operator
      const back = new Visitor(restored.url, ORIGIN);
      for (const [cookie, value] of visitor.cookies) back.cookies.set(cookie, value);
      expect(await totalsOf(back)).toEqual({ total: 1, visitors: 1, today: 1, views: 1 });
      expect(await totalsOf(new Visitor(restored.url, ORIGIN))).toMatchObject({ visitors: 2, today: 2 });
    });
  }

  test.skipIf(!("redis" in engines))(
    "command line: a service moves from SQLite to Redis and back, and nothing is lost",
    async () => {
      const [first, second, third] = [await sqlite(), await redis(), await sqlite()];
      const service = await start(first);
      const visitors = Array.from({ length: 3 }, () => new Visitor(service.url, ORIGIN));
      const pages = await Promise.all(
        visitors.map((visitor, index) => visitor.open(index === 0 ? "/" : `/post/é${index}`)),
      );
      await importInto({ ...first, SITES }, fileOf('{"site":"a.example","total":70,"visitors":7,"pages":{"/old":60}}'));
      await exportWith('"histogram":', first);
      for (const page of pages) await page.close();
      await service.stop();
      const { stdout: before, stderr } = await run(["export"], first);
      expect(stderr).toContain(SECRETS_NOTE);
      expect((JSON.parse(before) as { entries: object[] }).entries).toContainEqual({
        site: "a.example",
        total: 73,
        visitors: 10,
      });
      await importInto(second, fileOf(before));
      const { stdout: between } = await run(["export"], second);
      expect(entriesOf(between)).toBe(entriesOf(before));
      await importInto(third, fileOf(between));
      expect(entriesOf((await run(["export"], third)).stdout)).toBe(entriesOf(before));
      const ofSite = await run(["export", "a.example"], third);
      expect([ofSite.stderr, ofSite.stdout.includes('"secrets":false')]).toEqual(["", true]);
    },
  );
});
