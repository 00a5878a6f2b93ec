/** `dist/server.js`: the service as one file, which needs nothing of this project beside it. */
import { expect, test } from "bun:test";
import { chmodSync, copyFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { adopt, temporaryFolder } from "../support/leftovers.ts";

const root = join(import.meta.dir, "../..");

const programs = join(root, "node_modules/.bin");
const commands = {
  bun: ["bun", "server.js"],
  deno: ["deno", "run", "--allow-net", "--allow-env", "--allow-read", "--allow-write", "server.js"],
  "as npm's command": ["./server.js"],
};

for (const [name, [program = "", ...rest]] of Object.entries(commands))
  test(`bundle (${name}): server.js runs alone in an empty folder and serves its pages and scripts`, async () => {
    const folder = temporaryFolder();
    copyFileSync(join(root, "dist/server.js"), join(folder, "server.js"));
    chmodSync(join(folder, "server.js"), 0o755); // as npm does with what package.json names in "bin"
    const child = adopt(
      Bun.spawn([program.startsWith(".") ? program : join(programs, program), ...rest], {
        cwd: folder,
        env: {
          PATH: `${programs}:${process.env["PATH"]}`,
          HOME: process.env["HOME"] ?? "/tmp",
          PORT: "0",
          HOST: "127.0.0.1",
        },
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
    for (const path of ["", "widget.js", "busuanzi.js", "list.js", "debug.js", "badge.svg", "check", "count"])
      expect([path, (await fetch(url + path)).status]).toEqual([path, 200]);
    child.kill("SIGTERM");
    expect(await child.exited).toBe(0);
    expect(readdirSync(folder).toSorted()).toEqual(["data", "server.js"]);
  }, 30_000);
