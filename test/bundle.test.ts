/** The service as one file: copied into an empty folder, with nothing of this project beside it. */
import { expect, test } from "bun:test";
import { copyFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { adopt, temporaryFolder } from "./support/leftovers.ts";
import { runtimes } from "./support/service.ts";

const root = join(import.meta.dir, "..");

const commands = { bun: ["bun"], deno: ["deno", "run", "--allow-net", "--allow-env", "--allow-read", "--allow-write"] };

for (const runtime of runtimes)
  test(`bundle (${runtime}): server.js runs alone in an empty folder, its pages and scripts inside`, async () => {
    const folder = temporaryFolder();
    copyFileSync(join(root, "dist/server.js"), join(folder, "server.js"));
    const [program = "", ...rest] = commands[runtime];
    const child = adopt(
      Bun.spawn([join(root, "node_modules/.bin", program), ...rest, "server.js"], {
        cwd: folder,
        env: { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "/tmp", PORT: "0", HOST: "127.0.0.1" },
        stdout: "pipe",
        stderr: "inherit",
      }),
    );
    let output = "";
    let url: string | undefined;
    for await (const chunk of child.stdout) {
      output += Buffer.from(chunk).toString();
      url = /"event":"ready","url":"([^"]+)"/.exec(output)?.[1];
      if (url !== undefined) break;
    }
    for (const path of ["", "widget.js", "debug.js", "badge.svg", "check", "count"])
      expect([path, (await fetch(url + path)).status]).toEqual([path, 200]);
    child.kill("SIGTERM");
    expect(await child.exited).toBe(0);
    expect(readdirSync(folder).toSorted()).toEqual(["data", "server.js"]);
  }, 30_000);
