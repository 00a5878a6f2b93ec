/** `headcount export` and `headcount import`, as the operator runs them beside a service. */
import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { Visitor } from "../support/client.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { runCommand, Service, type Settings } from "../support/service.ts";
import { unlimited } from "../support/site.ts";
import { until } from "../support/waiting.ts";

const ORIGIN = "https://a.example";

onBothRuntimes("command line", (runtime) => {
  const run = (args: string[], settings: Settings = {}) => runCommand(runtime, args, settings);
  const start = (DATA: string) => Service.start(runtime, { ...unlimited, SITES: "a.example", DATA });
  const fileOf = (text: string) => {
    const file = join(temporaryFolder(), "totals.json");
    writeFileSync(file, text);
    return file;
  };

  /** The totals of a visitor's first frame. The page reconnects, so it is no further view. */
  async function totalsOf(visitor: Visitor) {
    const page = await visitor.open("/", { again: true });
    const [{ total, visitors, today, views } = {}] = page.frames as Record<string, number>[];
    await page.close();
    return { total, visitors, today, views };
  }

  test("command line: help and version are told, and a mistake ends with 1 and says what is wrong", async () => {
    expect((await run(["--help"])).stdout).toContain("headcount export [SITE]");
    expect((await run(["--version"])).stdout).toMatch(/^headcount \d+\.\d+\.\d+\n$/);
    const mistakes: [args: string[], problem: string][] = [
      [["exprot"], '"exprot" is no command'],
      [["import", "/nowhere/totals.json"], "Cannot import /nowhere/totals.json: "],
      [["export"], "nothing is kept here"],
    ];
    for (const [args, problem] of mistakes) {
      const { code, stdout, stderr } = await run(args);
      expect([code, stdout]).toEqual([1, ""]);
      expect(stderr).toContain(problem);
      expect(stderr).not.toContain("    at "); // no stack
    }
  });

  test("command line: totals are imported while the service runs, once, and pages see them", async () => {
    const DATA = temporaryFolder();
    const service = await start(DATA);
    const visitor = new Visitor(service.url, ORIGIN);
    await (await visitor.open()).close();
    await until("the view is kept", async () => (await totalsOf(visitor)).total === 1);
    const file = fileOf('{"site":"a.example","total":1000,"visitors":50,"pages":{"/":600,"/old":5}}');
    for (const said of ["a.example has 1,000 views", "nothing changed"]) {
      const { code, stdout, stderr } = await run(["import", file], { DATA, SITES: "a.example" });
      expect([code, stderr]).toEqual([0, ""]);
      expect(stdout).toContain(said);
    }
    const shows = { total: 1_001, visitors: 51, today: 1, views: 601 };
    await until("pages see it", async () => Bun.deepEquals(await totalsOf(visitor), shows), 15_000);
    const other = await run(["import", file], { DATA, SITES: "b.example" });
    expect(other.stderr).toContain('"a.example" is not one of the SITES');
  });

  test("command line: an export of a running service restores another one, which knows its visitors", async () => {
    const [DATA, copy] = [temporaryFolder(), temporaryFolder()];
    const service = await start(DATA);
    const visitor = new Visitor(service.url, ORIGIN);
    await (await visitor.open()).close();
    const exported = await until("the view is in an export", async () => {
      const { code, stdout } = await run(["export", "--secrets"], { DATA });
      return code === 0 && stdout.includes('"page":"/","views":1') ? stdout : undefined;
    }, 20_000); // oxfmt-ignore
    const file = fileOf(exported);
    const { code, stdout } = await run(["import", file], { DATA: copy });
    expect([code, stdout.includes("Restart the service")]).toEqual([0, true]);
    const again = await run(["import", file], { DATA: copy });
    expect([again.code, again.stderr.includes("has numbers already")]).toEqual([1, true]);
    const restored = await start(copy);
    const back = new Visitor(restored.url, ORIGIN);
    for (const [name, value] of visitor.cookies) back.cookies.set(name, value);
    expect(await totalsOf(back)).toEqual({ total: 1, visitors: 1, today: 1, views: 1 });
    expect(await totalsOf(new Visitor(restored.url, ORIGIN))).toMatchObject({ visitors: 2, today: 2 });
  });
});
