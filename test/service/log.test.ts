/** What happens to the service when nobody reads what it logs. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import process from "node:process";
import { ask } from "../support/client.ts";
import { adopt } from "../support/leftovers.ts";
import { runtimes } from "../support/service.ts";
import { within } from "../support/waiting.ts";

const root = join(import.meta.dir, "../..");
const commands = { bun: ["node_modules/.bin/bun"], deno: ["node_modules/.bin/deno", "run", "-A"] };

describe.each(runtimes)("log (%s)", (runtime) => {
  test("a reader that stalls neither blocks nor ends the process: lines are dropped and counted", async () => {
    const command = [...commands[runtime], "test/support/noisy.ts"];
    const child = adopt(Bun.spawn(command, { cwd: root, stdin: "ignore", stdout: "pipe", stderr: "pipe" }));
    const report = await within(20_000, "it ends", new Response(child.stderr).text());
    expect(await child.exited).toBe(0);
    expect((JSON.parse(report) as { dropped: number }).dropped).toBeGreaterThan(5_000);
  });

  test("a reader that goes away does not end the service, and SIGHUP drains it", async () => {
    const env = { ...process.env, HOST: "127.0.0.1", PORT: "0", DATA: ":memory:", MAX_TOKENS_PER_IP: "1" };
    const command = [...commands[runtime], "server.ts"];
    const child = adopt(Bun.spawn(command, { cwd: root, env, stdin: "ignore", stdout: "pipe", stderr: "pipe" }));
    const url = await within(20_000, "it is ready", readyUrl(child.stdout)); // which then stops reading
    const headers = { origin: "http://localhost" };
    for (let i = 0; i < 25; i += 1) await ask(url, "POST /token", { headers, body: "" }); // the address is denied and logged
    expect((await ask(url, "GET /healthz")).status).toBeGreaterThan(0);
    expect(child.exitCode).toBeNull();
    child.kill("SIGHUP");
    expect(await within(10_000, "it ends", child.exited)).toBe(0);
  });
});

/** Reads until the ready line, then closes the pipe. */
async function readyUrl(stdout: ReadableStream<Uint8Array>): Promise<string> {
  let text = "";
  for await (const chunk of stdout) {
    text += new TextDecoder().decode(chunk);
    const url = /"event":"ready","url":"([^"]+)\/"/.exec(text)?.[1];
    if (url !== undefined) return url; // leaving the loop cancels the stream
  }
  throw new Error(`no ready line: ${text}`);
}
