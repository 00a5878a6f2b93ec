/** A process with few files to open: newcomers get 503, and open pages live on. */
import { expect, test } from "bun:test";
import type { Connection } from "../support/client.ts";
import { cpuSecondsOf, openFilesOf } from "../support/process.ts";
import { holdOpen } from "../support/raw.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import type { Launch } from "../support/service.ts";
import { ignoreErrors, Target, times } from "../support/target.ts";
import { sleep, until } from "../support/waiting.ts";

const files = 160;
/** The others are kept for answers. */
const filesForPages = 120;
const withFewFiles: Launch = { wrapper: ["sh", "-c", `ulimit -n ${files}; exec "$@"`, "sh"] };

onBothRuntimes("hostile files", (runtime) => {
  const start = () => Target.start(runtime, { MAX_CONNECTIONS: 100_000 }, withFewFiles);

  test("with nearly all files open newcomers get 503 with Retry-After, and open pages see each change", async () => {
    const target = await start();
    const { pid } = target.service;
    const connections = await fillUp(target);
    const closeSlow = holdOpen(target.url, "GET / HTTP/1.1\r\n", 5);
    await until("five more files are open", () => openFilesOf(pid) >= filesForPages + 4, 15_000);
    for (const { status, headers, json } of await times(50, 5, () => target.visitor().token())) {
      expect([status, json.type]).toEqual([503, "urn:headcount:problem:full"]);
      expect(Number(headers.get("retry-after"))).toBeGreaterThan(0);
      expect(headers.get("connection")).toContain("close");
    }
    closeSlow();
    expect(await cpuSecondsInOneSecond(pid)).toBeLessThan(0.9); // it does not spin on accept
    await target.survives(connections.length);
    connections.pop()?.vanish();
    await target.survives(connections.length);
    connections.push(await until("somebody takes its place", () => tryToOpen(target), 15_000));
    for (const connection of connections) connection.vanish();
    await target.survives();
  });

  test("with no file left open pages see each change, and newcomers come in once there is one", async () => {
    const target = await start();
    const { pid } = target.service;
    const connections = await fillUp(target);
    const closeGreedy = holdOpen(target.url, "GET / HTTP/1.1\r\n", files);
    await until("no file is left", () => openFilesOf(pid) >= files, 30_000);
    const cpuSeconds = await cpuSecondsInOneSecond(pid);
    if (runtime === "deno") expect(cpuSeconds).toBeLessThan(0.5); // Bun tries to accept all the time
    for (const connection of connections.splice(0, 30)) connection.vanish();
    await target.watcher.shows({ site: 1 + connections.length }, 10_000);
    closeGreedy();
    connections.push(await until("a newcomer comes in", () => tryToOpen(target), 30_000));
    await target.survives(connections.length);
    for (const connection of connections) connection.vanish();
    await target.survives();
    ignoreErrors(target.service, /./);
  });
});

const tryToOpen = (target: Target): Promise<Connection | undefined> => target.open().catch(() => undefined);

/** Opens pages until all but the files kept for answers are open, with no request under way. */
async function fillUp(target: Target): Promise<Connection[]> {
  const connections: Connection[] = [];
  const isFull = async (): Promise<boolean> => {
    const five = await times(5, 5, () => tryToOpen(target));
    connections.push(...five.filter((connection) => connection !== undefined));
    await sleep(50);
    return openFilesOf(target.service.pid) >= filesForPages - 1;
  };
  await until("all files are open", isFull, 30_000);
  return connections;
}

async function cpuSecondsInOneSecond(pid: number): Promise<number> {
  const before = cpuSecondsOf(pid);
  await sleep(1_000);
  return cpuSecondsOf(pid) - before;
}
