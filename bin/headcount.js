#!/usr/bin/env node
/**
 * Starts the service with the Bun on the PATH, or else with the Bun that came with this package, or else with Deno. Node runs
 * this file, because every machine with npm has Node.
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { constants } from "node:os";
import { delimiter, dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

const server = fileURLToPath(new URL("../dist/server.js", import.meta.url));
const isWindows = process.platform === "win32";

/** Whether the program runs. A stub that npm left behind, or a shim without a version, does not. */
const runs = (program) => spawnSync(program, ["--version"], { stdio: "ignore" }).status === 0;

/** The path of a program on the PATH that is there and runs. */
function onPath(program) {
  const name = isWindows ? `${program}.exe` : program;
  const folders = (process.env.PATH ?? "").split(delimiter).filter(Boolean);
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path) && runs(path));
}

/** The folder of an installed package; undefined when the package is not installed. */
function folderOf(name, require) {
  try {
    return dirname(require.resolve(`${name}/package.json`));
  } catch {
    return undefined; // deliberate: this is how Node says that there is no such package
  }
}

/**
 * The path of Bun as npm installs it. The package of the platform contains Bun, unless the install script of the package
 * `bun` was allowed to run and has moved it.
 */
function packagedBun() {
  const os = isWindows ? "windows" : process.platform;
  const cpu = process.arch === "arm64" ? "aarch64" : process.arch;
  const isMusl = process.platform === "linux" && !process.report.getReport().header.glibcVersionRuntime;
  const name = `@oven/bun-${os}-${cpu}${isMusl ? "-musl" : ""}`;
  const here = createRequire(import.meta.url);
  const bun = folderOf("bun", here);
  const folder = folderOf(name, here) ?? (bun && folderOf(name, createRequire(join(bun, "package.json"))));
  const paths = [
    ...(folder ? [join(folder, isWindows ? "bin/bun.exe" : "bin/bun")] : []),
    ...(bun ? [join(bun, "bin/bun.exe")] : []),
  ];
  return paths.find((path) => existsSync(path) && runs(path));
}

const denoFlags = ["run", "--allow-net", "--allow-env", "--allow-read", "--allow-write"];

function findRuntime() {
  const bun = onPath("bun") ?? packagedBun();
  if (bun) return [bun, []];
  const deno = onPath("deno");
  return deno ? [deno, denoFlags] : undefined;
}

const runtime = findRuntime();
if (!runtime) {
  console.error("Headcount needs Bun or Deno: install one of them (https://bun.sh or https://deno.com) and try again.");
  process.exit(1);
}
const [program, flags] = runtime;
const child = spawn(program, [...flags, server, ...process.argv.slice(2)], { stdio: "inherit" });
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
child.on("error", (error) => {
  console.error(`Cannot start ${program}: ${error.message}`);
  process.exit(1);
});
child.on("exit", (code, signal) => process.exit(code ?? 128 + constants.signals[signal]));
