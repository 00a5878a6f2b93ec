/** The package as npm would publish it, unpacked into an empty project: its command finds a runtime and starts the service. */
import { beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, existsSync, mkdirSync, readdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { adopt, temporaryFolder } from "../support/leftovers.ts";
import { until, within } from "../support/waiting.ts";

const root = join(import.meta.dir, "../..");
const node = Bun.which("node") ?? "node";
const deno = join(root, "node_modules/deno");
const bun = process.execPath;
let project = "";

beforeAll(async () => {
  project = temporaryFolder();
  const pack = Bun.spawn(["npm", "pack", "--ignore-scripts", "--pack-destination", project], {
    cwd: root,
    stderr: "ignore",
  });
  await pack.exited;
  const archive = readdirSync(project).find((name) => name.endsWith(".tgz"))!;
  mkdirSync(join(project, "node_modules/headcount"), { recursive: true });
  const into = ["-C", join(project, "node_modules/headcount"), "--strip-components=1"];
  await Bun.spawn(["tar", "-xzf", join(project, archive), ...into]).exited;
});

/** A folder for PATH with nothing in it but these programs. */
function pathWith(programs: Record<string, string>): string {
  const folder = temporaryFolder();
  for (const [name, target] of Object.entries(programs)) symlinkSync(target, join(folder, name));
  return folder;
}

function start(path: string, args: string[] = [], entry = "node_modules/headcount/bin/headcount.js") {
  const env = { PATH: path, HOME: project, HOST: "127.0.0.1", PORT: "0", DATA: ":memory:", DENO_NO_UPDATE_CHECK: "1" };
  return adopt(
    Bun.spawn([node, entry, ...args], { cwd: project, env, stdin: "ignore", stdout: "pipe", stderr: "pipe" }),
  );
}

/** Waits for the ready line, asks the service, stops it by a signal to the command, and returns how that ended. */
async function runOnce(path: string): Promise<{ code: number; isAlive: boolean }> {
  const child = start(path);
  let text = "";
  const reading = (async () => {
    for await (const chunk of child.stdout) text += new TextDecoder().decode(chunk);
  })();
  await until("the ready line", () => text.includes('"event":"ready"'), 20_000);
  const url = /"url":"([^"]+)"/.exec(text)![1]!;
  expect((await fetch(`${url}healthz`)).status).toBe(200);
  child.kill("SIGTERM");
  const code = await within(15_000, "it ends", child.exited);
  await reading;
  expect(text).toContain('"event":"stopping"');
  const isAlive = await fetch(`${url}healthz`).then(
    () => true,
    () => false,
  );
  return { code, isAlive };
}

describe("package", () => {
  test("holds the command, the one file of the service, the widget, its types, and the licences of what it bundles", () => {
    for (const file of ["bin/headcount.js", "dist/server.js", "dist/widget.js", "widget/headcount.d.ts", "LICENSE"])
      expect([file, existsSync(join(project, "node_modules/headcount", file))]).toEqual([file, true]);
    expect(existsSync(join(project, "node_modules/headcount/dist/THIRD-PARTY-NOTICES.txt"))).toBe(true);
  });

  test("headcount starts the service with the Bun on the PATH, passes signals on, and leaves nothing behind", async () => {
    expect(await runOnce(pathWith({ bun }))).toEqual({ code: 0, isAlive: false });
  });

  test("headcount passes arguments on, and ends as the command of the service ends", async () => {
    const outcomeOf = async (...args: string[]) => {
      const child = start(pathWith({ bun }), args);
      const [code, stdout, stderr] = await Promise.all([
        child.exited,
        new Response(child.stdout).text(),
        new Response(child.stderr).text(),
      ]);
      return { code, stdout, stderr };
    };
    expect(await outcomeOf("--version")).toMatchObject({ code: 0, stdout: expect.stringMatching(/^headcount \d/) });
    const missing = { code: 1, stdout: "", stderr: expect.stringContaining("Cannot import no file.json") };
    expect(await outcomeOf("import", "no file.json")).toMatchObject(missing);
  });

  test("headcount starts the service with the Bun that npm installed beside it, although no install script ran", async () => {
    const [platform] = readdirSync(join(root, "node_modules/@oven")); // npm installs one, for this machine
    const folder = join(project, "node_modules/@oven", platform!);
    mkdirSync(join(folder, "bin"), { recursive: true });
    copyFileSync(join(root, "node_modules/@oven", platform!, "package.json"), join(folder, "package.json"));
    symlinkSync(bun, join(folder, "bin/bun"));
    expect(await runOnce(temporaryFolder())).toEqual({ code: 0, isAlive: false });
  });

  test("without a runtime, and on Node itself, one sentence says what to install", async () => {
    const elsewhere = temporaryFolder();
    mkdirSync(join(elsewhere, "bin"));
    mkdirSync(join(elsewhere, "dist"));
    copyFileSync(join(root, "bin/headcount.js"), join(elsewhere, "bin/headcount.mjs"));
    const lost = start(temporaryFolder(), [], join(elsewhere, "bin/headcount.mjs"));
    expect(await new Response(lost.stderr).text()).toMatch(/^Headcount needs Bun or Deno: .*\n$/);
    expect(await lost.exited).toBe(1);
    const direct = start(temporaryFolder(), [], "node_modules/headcount/dist/server.js");
    expect(await new Response(direct.stderr).text()).toMatch(/^Headcount runs on Bun or Deno, not on Node.*\n$/);
    expect(await direct.exited).toBe(1);
  });

  test.if(existsSync(deno))("headcount starts the service with Deno where there is no Bun", async () => {
    const elsewhere = temporaryFolder();
    for (const folder of ["bin", "dist"]) mkdirSync(join(elsewhere, folder));
    copyFileSync(join(root, "bin/headcount.js"), join(elsewhere, "bin/headcount.mjs"));
    copyFileSync(join(root, "dist/server.js"), join(elsewhere, "dist/server.js"));
    const path = pathWith({ deno: join(root, "node_modules/.bin/deno"), node });
    const child = start(path, [], join(elsewhere, "bin/headcount.mjs"));
    let text = "";
    void (async () => {
      for await (const chunk of child.stdout) text += new TextDecoder().decode(chunk);
    })();
    await until("the ready line", () => text.includes('"event":"ready"'), 20_000);
    child.kill("SIGTERM");
    await within(15_000, "it ends", child.exited);
  });
});
