/** Limits under attack: races for them, more addresses than anybody remembers, guesses at the password. */
import { expect, test } from "bun:test";
import { connect } from "node:net";
import { ask, authorizationOf, type Upgrade, userAgent } from "../support/client.ts";
import { expectStatus } from "../support/expect.ts";
import { memoryOf } from "../support/process.ts";
import { sendRaw } from "../support/raw.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { printMeasurement, Target, times } from "../support/target.ts";
import { alone } from "../support/waiting.ts";

/** How many addresses ask for tokens; with ADDRESSES=1000000 it takes some minutes. */
const addresses = Number(process.env["ADDRESSES"] ?? 60_000);

onBothRuntimes("hostile limits", (runtime) => {
  test("100 parallel upgrades cannot race past the limits of a visitor or an address", async () => {
    const target = await Target.start(runtime, { MAX_PAGES_PER_VISITOR: 5, MAX_PAGES_PER_IP: 8 });
    const visitor = target.visitor();
    await visitor.token();
    const tokens = await times(100, 8, async (): Promise<string> => (await visitor.token()).json.token);
    const ofVisitor = await Promise.all(tokens.map((token) => visitor.upgrade(token)));
    const tokensOfOthers = await Promise.all(Array.from({ length: 30 }, () => target.token()));
    const ofOthers = await Promise.all(tokensOfOthers.map((token) => target.visitor().upgrade(token)));
    const opened = (answers: Upgrade[]) => answers.filter(({ status }) => status === 101).length;
    expect([opened(ofVisitor), opened(ofOthers)]).toEqual([5, 2]); // the watcher is the eighth page of the address
    expect(ofVisitor.filter(({ status }) => status === 429)).toHaveLength(95);
    await target.survives(3);
    for (const { connection } of [...ofVisitor, ...ofOthers]) connection?.vanish();
    await target.survives();
  });

  test("an id that is replayed from many addresses is still one visitor with twenty pages", async () => {
    const target = await Target.start(runtime, { TRUST_PROXY: 1, MAX_PAGES_PER_IP: 2, MAX_TOKENS_PER_IP: 3 });
    const { json } = await target.visitor({ "x-forwarded-for": "192.0.2.250" }).token();
    const answers = await times(30, 5, async (number) => {
      const visitor = target.visitor({ "x-forwarded-for": `192.0.2.${number}` });
      const { status, json: given } = await visitor.token({ visitor: json.visitor });
      return status === 200 ? visitor.upgrade(given.token) : undefined;
    });
    expect(answers.filter((answer) => answer?.status === 101)).toHaveLength(20);
    await target.survives(1);
    for (const answer of answers) answer?.connection?.vanish();
    await target.survives();
  });

  test("guesses at the operator's password are refused after ten", async () => {
    const target = await Target.start(runtime, { ADMIN_PASSWORD: "the right password" });
    const statusWith = async (path: string, authorization: string): Promise<number> =>
      (await ask(target.url, `GET ${path}`, { headers: { authorization } })).status;
    for (const odd of ["Basic", "Basic !", "Bearer x", `Basic ${"A".repeat(9000)}`])
      expect(await statusWith("/metrics", odd)).toBe(401);
    for (let at = 0; at < 6; at++) {
      const path = ["/dashboard", "/metrics", "/dashboard/state"][at % 3]!;
      expect(await statusWith(path, authorizationOf(`guess ${at}`))).toBe(401);
    }
    expect(await statusWith("/metrics", authorizationOf("the right password"))).toBe(429);
    const spellings = ["//metrics", "/./metrics", "/metrics/", "/METRICS", "/%6detrics"];
    for (const path of [...spellings, "/dashboard/../metrics", "/dashboard//state"]) {
      const request = `GET ${path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n`;
      const { statuses } = await sendRaw(target.url, request, { answers: 1 });
      expectStatus(path, statuses[0], (status) => status === 401 || status === 404 || status === 429);
    }
    await target.survives();
  });

  test(
    "more addresses than the limiter remembers, and a flood of tokens from one, leave memory capped",
    () =>
      alone(async () => {
        const target = await Target.start(runtime, { TRUST_PROXY: 1, MAX_TOKENS_PER_IP: 5, MAX_VISITORS_PER_IP: 5 });
        const peak = await tokenFlood(
          target,
          addresses,
          (at) => `2001:db8:${(at >> 8).toString(16)}:${(at & 255).toString(16)}::1`,
        );
        const more = addresses > 100_000 ? 300 : 0; // Deno collects late, and gives memory back later
        expect(peak).toBeLessThan(target.memoryBefore + 150 + more);
        await tokenFlood(target, 20_000, () => "198.51.100.77");
        expect((await target.visitor({ "x-forwarded-for": "198.51.100.77" }).token()).status).toBe(403);
        await target.survives(0, 20_000, 120 + more); // the tables stay full: that is their cap
        const mb = [target.memoryBefore, peak, memoryOf(target.service.pid)].map((value) => value.toFixed(0));
        const requests = `a token each for ${addresses} addresses, and 20,000 for one`;
        printMeasurement(runtime, `${requests}: ${mb.join(" → ")} MB (before, peak, after)`);
      }),
    120_000 + addresses,
  );
});

/** Asks for tokens over few connections, each from the address that `addressOf` names. Returns the peak of memory in MB. */
async function tokenFlood(target: Target, requests: number, addressOf: (at: number) => string): Promise<number> {
  const { hostname, port, host } = new URL(target.url);
  const batch = 100;
  let peak = 0;
  const head = `POST /token HTTP/1.1\r\nHost: ${host}\r\nOrigin: ${target.origin}\r\nUser-Agent: ${userAgent}\r\n`;
  const request = (at: number): string => `${head}X-Forwarded-For: ${addressOf(at)}\r\nContent-Length: 0\r\n\r\n`;
  await times(requests / batch, 8, async (number) => {
    const socket = connect({ host: hostname, port: Number(port) });
    let answers = 0;
    let tail = "";
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    socket.on("error", reject).on("data", (data: Buffer) => {
      const text = tail + data.toString("latin1");
      answers += text.split("HTTP/1.1 ").length - 1;
      tail = text.slice(-8).includes("H") ? text.slice(text.lastIndexOf("H")) : "";
      if (answers >= batch) resolve();
    });
    socket.write(Array.from({ length: batch }, (_, at) => request(number * batch + at)).join(""));
    await promise;
    socket.destroy();
    peak = Math.max(peak, memoryOf(target.service.pid));
  });
  return peak;
}
