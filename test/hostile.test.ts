/**
 * What the service must survive: the lines of HOSTILE.md that concern one node, by their numbers, on both runtimes, and
 * what its worst enemy tried beyond them. After each: the process is alive, the count equals the distinct visitors with
 * an open page, and memory is back (`Ordeal.survives`). Faults of the machine are in hostile-faults.test.ts.
 */
import { Database } from "bun:sqlite";
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { connect } from "node:net";
import { join } from "node:path";
import { type Claims, EmbeddedEngine, Guard, Journal, Pages, readSettings, Rooms, Signer, Sites } from "../server.ts";
import { fuzz } from "./fuzz.ts";
import { ask, authorizationOf, encodeFrame, type Page, upgrade, userAgent, Visitor } from "./support/client.ts";
import { crowd, figure, forgive, handshake, Ordeal, raw, reset, textFrame, unlimited } from "./support/hostile.ts";
import { temporaryFolder } from "./support/leftovers.ts";
import { memoryOf, openFilesOf } from "./support/process.ts";
import { endServices, type Runtime, runtimes, Service } from "./support/service.ts";
import { alone, once, sleep, until } from "./support/waiting.ts";

setDefaultTimeout(280_000);
afterAll(endServices);

/** How many addresses ask for tokens (18.); a million take some minutes. */
const addresses = Number(process.env["ADDRESSES"] ?? 60_000);

/** Where the runtimes differ, and why. All measured on Bun 1.4.5 and Deno 2.9.5; the README names them. */
const differences = {
  /** Deno reads a fragmented message to its end, however long; Bun closes it at maxPayloadLength. */
  boundsFragments: { bun: true, deno: false },
  /** RFC 6455 5.1 wants frames without a mask refused; Deno takes them. */
  refusesUnmasked: { bun: true, deno: false },
  /** Bun.serve has idleTimeout, which a byte now and then does not defer; Deno.serve has no timeout of any kind. */
  cutsSlowRequests: { bun: true, deno: false },
  /** Bun ends a socket whether or not the peer answers its close frame; Deno keeps the TCP connection until it does. */
  freesTheDeaf: { bun: true, deno: false },
  /** Whoever pings and does not read: Bun answers until 64 KiB are unread and closes; Deno stops reading, and waits. */
  closesPingFloods: { bun: true, deno: false },
  /** Bun answers a HTTP/1.1 request without Host with 400, as RFC 9112 3.2 wants; Deno lets it through. */
  wantsHost: { bun: true, deno: false },
} satisfies Record<string, Record<Runtime, boolean>>;

const byte = (...values: number[]): Buffer => Buffer.from(values);
const closing = (code: number): Buffer => encodeFrame(8, byte(code >> 8, code & 255));
const secret = "a secret that tests may know";
const nonce = (): number => Math.floor(Math.random() * 2 ** 47);

for (const runtime of runtimes) describe.concurrent(`hostile (${runtime}):`, () => hostile(runtime));

function hostile(runtime: Runtime): void {
  const does = (what: keyof typeof differences): boolean => differences[what][runtime];
  const names = Array.from({ length: 120 }, (_, number) => `s${number}.example`);
  const start = (settings = {}, launch = {}) => Service.start(runtime, { ...unlimited, ...settings }, launch);
  const shared = once(() =>
    start({ SITES: [...names, "ok.example"].join(","), SECRET: secret, TOKEN_TTL_SECONDS: 600 }),
  );
  let used = 0;
  /** A site of its own on the service that most tests share. */
  const ordeal = async (): Promise<Ordeal> => Ordeal.begin(await shared(), names[used++]!);
  /** A service of its own, for what would disturb others. */
  const own = async (settings = {}, launch = {}): Promise<Ordeal> =>
    Ordeal.begin(await start({ SITES: "own.example", ...settings }, launch), "own.example");

  // -------------------------------------------------------------------------------------------------- handshake

  test("1. no token, an expired, a tampered one, or one of a wrong length is refused with 403", async () => {
    const it = await ordeal();
    const { url, watcher } = it;
    const headers = { origin: `https://${it.site}` };
    const good = await it.token();
    const [payload = "", signature = ""] = good.split(".");
    const claims: Claims = { visitor: "", page: "/", expires: Date.now() - 1, nonce: nonce() };
    const expired = new Signer(secret).signToken(headers.origin, claims);
    const flipped = Array.from(
      good,
      (character, at) => good.slice(0, at) + (character === "A" ? "B" : "A") + good.slice(at + 1),
    );
    const lengths = [
      good.slice(1),
      good.slice(0, -1),
      `${good}A`,
      `${good}.`,
      `.${good}`,
      payload,
      `${payload}.`,
      `.${signature}`,
      ".",
      "..",
      " ",
      "é".repeat(200),
      "\u0000",
      "x".repeat(8_000),
    ];
    for (const token of [undefined, "", expired, ...lengths])
      expect((await upgrade(url, token, { headers })).status).toBe(403);
    for (const { status } of await crowd(flipped, 8, (token) => upgrade(url, token, { headers })))
      expect(status).toBe(403);
    for (const query of [`token=x&token=${good}`, "token[]=x", "token=%", `TOKEN=${good}`, "&".repeat(1000)])
      expect((await raw(url, handshake(url, headers.origin, `x&${query}`))).statuses).toEqual([403]);
    const { page } = await upgrade(url, good, { headers }); // all of that has not spent it
    await watcher.shows({ site: 2 });
    await page?.close();
    await it.survives();
  });

  test("2. one token in 100 parallel upgrades opens exactly one socket", async () => {
    const it = await ordeal();
    const token = await it.token();
    const all = await Promise.all(Array.from({ length: 100 }, () => it.visitor().upgrade(token)));
    const opened = all.filter(({ status }) => status === 101);
    expect([opened.length, all.filter(({ status }) => status === 403).length]).toEqual([1, 99]);
    await it.survives(1);
    opened[0]!.page!.vanish();
    await it.survives();
  });

  test("3. another Origin than the token's, null, none or two of them are refused with 403", async () => {
    const it = await ordeal();
    const token = await it.token();
    const origins = [
      "https://ok.example",
      `http://${it.site}`,
      "null",
      undefined,
      "",
      "*",
      "file://",
      it.site,
      `https://${it.site}, https://${it.site}`,
    ];
    for (const origin of origins) expect((await upgrade(it.url, token, { headers: { origin } })).status).toBe(403);
    const twice = handshake(it.url, `https://${it.site}`, token, "Origin: https://ok.example");
    expect((await raw(it.url, twice)).statuses).not.toContain(101);
    await it.survives();
  });

  test("4. lookalike origins are refused, and the same origin written otherwise is accepted", async () => {
    const it = await ordeal();
    const evil = [
      "ok.example.evil.com",
      "evilok.example",
      "ok.example.",
      "ok.example:8443",
      "ok.example@evil.com",
      "evil.com/ok.example",
      "evil.com#ok.example",
      "xn--ok-example",
      "ok.example%2eevil.com",
    ];
    for (const host of evil)
      expect([host, (await new Visitor(it.url, `https://${host}`).token()).status]).toEqual([host, 403]);
    for (const origin of ["HTTPS://OK.EXAMPLE", "https://ok.example:443", "http://ok.example:80"]) {
      const page = await new Visitor(it.url, origin).open();
      page.vanish();
    }
    const token: string = (await new Visitor(it.url, "https://ok.example").token()).json.token;
    const { page } = await upgrade(it.url, token, { headers: { origin: "https://OK.example:443" } });
    expect(page).toBeDefined();
    page?.vanish();
    await it.survives();
  });

  test("5. a plain GET is told to upgrade; a wrong version or a bad key opens nothing", async () => {
    const it = await ordeal();
    const origin = `https://${it.site}`;
    expect((await ask(it.url, `GET /ws?token=${await it.token()}`, { headers: { origin } })).status).toBe(426);
    const broken = [
      { "sec-websocket-version": "12" },
      { "sec-websocket-version": undefined },
      { "sec-websocket-key": "x" },
      { "sec-websocket-key": undefined },
      { "sec-websocket-key": "A".repeat(1000) },
      { upgrade: "h2c" },
      { upgrade: undefined },
    ];
    for (const headers of broken) {
      const { status } = await upgrade(it.url, await it.token(), { headers: { origin, ...headers } });
      expectThat(JSON.stringify(headers), status, (it) => it === 400 || it === 426);
    }
    await it.survives();
  });

  test("6. a malformed Host, a head of 64 KiB and 1,000 headers are refused with 4xx and no trace of the inside", async () => {
    const it = await ordeal();
    const host = `Host: ${new URL(it.url).host}`;
    const request = (...lines: string[]): string =>
      ["GET /count HTTP/1.1", ...lines, "Connection: close", "", ""].join("\r\n");
    const hosts = ["[::1", "a b", "a/b", "a?b", "a#b", "a@b", "a\\b", '"><script>', "%", "a:99999", "é"].map((name) =>
      request(`Host: ${name}`),
    );
    const heavy = [
      request(host, `X: ${"a".repeat(65_536)}`),
      request(host, ...Array.from({ length: 1000 }, (_, at) => `X${at}: 1`)),
      `GET /${"a".repeat(65_536)} HTTP/1.1\r\n${host}\r\n\r\n`,
      request(host, host.replace("Host", "host"), "Host: other.example"),
    ];
    for (const bytes of [...hosts, ...heavy]) {
      const { statuses, text } = await raw(it.url, bytes);
      expectThat(bytes.slice(0, 60), statuses[0], (it) => it >= 400 && it < 500);
      expect(text).not.toMatch(/\bat .*\.[jt]s:\d+|node_modules|\/work\//);
    }
    const without = (await raw(it.url, request())).statuses[0];
    expect(without).toBe(does("wantsHost") ? 400 : 200);
    await it.survives();
  });

  test("7. a reset between token and upgrade, or during the upgrade, frees its slot within 5 s", async () => {
    const it = await own({ MAX_PAGES_PER_IP: 41, MAX_CONNECTIONS: 41 });
    const origin = `https://${it.site}`;
    for (let round = 0; round < 40; round++) await it.token(); // never used
    const whole = async (): Promise<string> => handshake(it.url, origin, await it.token());
    await crowd(Array.from({ length: 20 }), 4, async () => reset(it.url, await whole()));
    await crowd(Array.from({ length: 20 }), 4, async () => reset(it.url, await whole(), 3));
    await crowd(Array.from({ length: 20 }), 4, async () => reset(it.url, (await whole()).slice(0, -2)));
    const began = performance.now();
    await until("all slots are free", async () => (await connections(it)) === 1, 10_000);
    expect(performance.now() - began).toBeLessThan(7_500); // 5 s, seen by a sweep each second
    const pages = await crowd(Array.from({ length: 40 }), 8, () => it.visitor().open());
    await it.survives(40);
    pages.forEach((page) => page.vanish());
    await it.survives();
  });

  // ----------------------------------------------------------------------------------------------------- frames

  test("8. a text of 1,025 bytes, endless fragments and a header of 2^40 bytes are closed, and memory stays", async () => {
    const it = await own();
    const open = () => it.visitor().open();
    const long = await open();
    long.write(encodeFrame(1, Buffer.alloc(1025, 97)));
    expect((await long.ends()).code).toBe(1009);
    for (const length of [byte(0, 0, 1, 0, 0, 0, 0, 0), byte(255, 255, 255, 255, 255, 255, 255, 255)]) {
      const huge = await open();
      huge.write(Buffer.concat([byte(0x81, 0xff), length, byte(1, 2, 3, 4), Buffer.alloc(1000)]));
      expect((await huge.ends()).code).toBeOneOf([1009, 1006]);
    }
    const endless = await open();
    endless.write(encodeFrame(1, byte(97), { first: 1 }));
    const fragment = encodeFrame(0, Buffer.alloc(60_000, 97), { first: 0 });
    for (let sent = 0; sent < 400 && endless.open; sent++) {
      endless.write(fragment);
      await sleep(2);
    }
    if (does("boundsFragments")) expect((await endless.ends()).code).toBe(1009);
    endless.vanish();
    await it.survives();
  });

  const broken: [string, Uint8Array][] = [
    ["bad UTF-8", encodeFrame(1, byte(0xc3, 0x28))],
    ["RSV1, as if compressed", encodeFrame(1, Buffer.from("{}"), { first: 0xc1 })],
    ["RSV2", encodeFrame(1, Buffer.from("{}"), { first: 0xa1 })],
    ["RSV3", encodeFrame(1, Buffer.from("{}"), { first: 0x91 })],
    ["opcode 3", encodeFrame(3, Buffer.from("{}"))],
    ["opcode 11", encodeFrame(11, Buffer.from("{}"))],
    ["an orphan continuation", encodeFrame(0, Buffer.from("{}"))],
    ["a ping of 126 bytes", encodeFrame(9, Buffer.alloc(126))],
    ["a fragmented ping", encodeFrame(9, byte(1), { first: 9 })],
    ["a text inside a text", Buffer.concat([encodeFrame(1, Buffer.from("{"), { first: 1 }), textFrame("{}")])],
    ["a close of one byte", encodeFrame(8, byte(3))],
    ["a close with 126 bytes", encodeFrame(8, Buffer.alloc(126, 3))],
    ["a close with bad UTF-8", encodeFrame(8, byte(3, 232, 0xc3, 0x28))],
    ...[0, 999, 1000, 1001, 1004, 1005, 1006, 1011, 1012, 1015, 2999, 3000, 4999, 5000, 65_535].map(
      (code): [string, Uint8Array] => [`close code ${code}`, closing(code)],
    ),
  ];

  test("9. bad UTF-8, RSV bits, unknown opcodes, orphans, big pings and any close code close the socket, with one leave", async () => {
    const cases = differences.refusesUnmasked[runtime]
      ? [...broken, ["unmasked", encodeFrame(1, Buffer.from('{"active":true}'), { masked: false })] as const]
      : broken;
    await crowd(cases, 8, async ([name, bytes]) => {
      const it = await Ordeal.begin(await shared(), names[used++ % names.length]!);
      const page = await it.visitor().open();
      await it.watcher.shows({ site: 2 });
      const told = it.watcher.frames.length;
      page.write(bytes);
      page.write(bytes); // once more, while it is being closed
      await page.ends().catch((error: unknown) => {
        throw new Error(`${name} is not closed`, { cause: error });
      });
      await it.watcher.shows({ site: 1 }, 10_000);
      await sleep(300);
      expect([name, it.watcher.frames.slice(told).filter(({ site }) => site !== undefined)]).toEqual([
        name,
        [{ site: 1 }],
      ]);
      it.watcher.vanish();
    });
    await (await ordeal()).survives();
  });

  test("10. a binary frame, deep JSON, __proto__, NaN, unknown keys and bad page names are closed with 1008, and nothing of them is stored", async () => {
    const it = await own({ DATA: temporaryFolder() });
    const messages = [
      "[".repeat(1000),
      '{"a":'.repeat(200),
      '{"__proto__":{"page":"/evil"}}',
      '{"page":"/evil","__proto__":1}',
      '{"constructor":1}',
      "NaN",
      '{"page":NaN}',
      '{"page":null}',
      '{"page":["/evil"]}',
      '{"page":{"toString":1}}',
      '{"active":1}',
      '{"site":99}',
      '{"page":"/evil","x":1}',
      "{}",
      "[]",
      "null",
      '""',
      "",
      " ",
      "{",
      `{"page":"${"é".repeat(300)}${"/evil".repeat(60)}"}`.padEnd(1025),
      '{"page":""}',
      String.raw`{"page":"/evil\u0000"}`,
      String.raw`{"page":"/evil\u001b[2J"}`,
      String.raw`{"page":"/evil\r\nx"}`,
      String.raw`{"page":"/evil\u2028"}`,
      String.raw`{"page":"/evil\ud800"}`,
      '{"page":"/evil%0A"}',
    ];
    await crowd(messages, 6, async (message) => {
      const page = await it.visitor().open();
      page.send(message);
      expect([message, (await page.ends()).code]).toEqual([message, Buffer.byteLength(message) > 1024 ? 1009 : 1008]);
    });
    const binary = await it.visitor().open();
    binary.write(encodeFrame(2, Buffer.from('{"page":"/evil"}')));
    expect((await binary.ends()).code).toBe(1008);
    expect((await it.visitor().token({ page: `/${"a".repeat(2048)}` })).status).toBe(400);
    await until(
      "views are recorded",
      async () => (await ask(it.url, "GET /reading?site=own.example")).text.includes('"/"'),
      10_000,
    );
    expect((await ask(it.url, "GET /reading?site=own.example")).text).not.toMatch(/evil|aaa/);
    await it.survives();
  });

  test("11. more than 60 messages in a minute are closed with 1008", async () => {
    const it = await ordeal();
    const page = await it.visitor().open();
    for (let sent = 0; sent < 59; sent++) page.send({ page: `/${sent}` });
    await page.shows({ page: 1 });
    expect(page.open).toBe(true);
    for (let sent = 0; sent < 5; sent++) {
      page.send({ active: true });
      await Promise.race([page.ends(), sleep(500)]); // Deno drops the close frame when there is more to read
    }
    expect((await page.ends()).code).toBe(1008);
    await it.survives();
  });

  test("11. a reader that stops reading, and makes the service talk, is closed or held back, and memory stays", async () => {
    const it = await own({ HEARTBEAT_SECONDS: 3 });
    const page = await it.visitor().open();
    page.stopReading();
    const pings = Buffer.concat(Array.from({ length: 500 }, () => encodeFrame(9, Buffer.alloc(125))));
    let peak = 0;
    for (const began = performance.now(); performance.now() - began < 4_000; await sleep(2)) {
      if (!(await connections(it).then((open) => open > 1))) break;
      for (let bursts = 0; bursts < 20; bursts++) page.write(pings);
      peak = Math.max(peak, memoryOf(it.service.pid));
    }
    expect(peak).toBeLessThan(it.memoryBefore + 48);
    if (does("closesPingFloods")) await until("it is closed", async () => (await connections(it)) === 1, 10_000);
    page.vanish();
    await it.survives();
  });

  // --------------------------------------------------------------------------------------------------- liveness

  test("14. ten fast reloads change nothing for others, and twenty tabs of one browser are one", async () => {
    const it = await own({ GRACE_SECONDS: 10 }); // a reload may take a while here
    await it.survives();
    const visitor = it.visitor();
    let page = await visitor.open();
    await it.watcher.shows({ site: 2 });
    const told = it.watcher.frames.length;
    for (let round = 0; round < 10; round++) {
      page.vanish();
      page = await visitor.open();
    }
    const tabs = await crowd(Array.from({ length: 19 }), 19, () => visitor.open());
    expect((await visitor.token()).status).toBe(429);
    await it.survives(1);
    expect(it.watcher.frames.slice(told).filter(({ site = 2 }) => site !== 2)).toEqual([]);
    for (const tab of [page, ...tabs]) tab.vanish();
    await it.survives();
  });

  test("15. a page in the back-forward cache is gone after grace and counted again on Back; a prerendered one is not counted", async () => {
    const it = await ordeal();
    const visitor = it.visitor();
    await (await visitor.open()).close();
    await it.watcher.shows({ site: 1 }, 10_000);
    const back = await visitor.open();
    await it.survives(1);
    await back.close();
    await it.token(); // a prerendered page asks for nothing more than this, and perhaps not even this
    await it.survives();
  });

  test("16. a handler that throws is logged once, and nobody else notices", async () => {
    const it = await own({}, { preload: faulty });
    const victim = await it.visitor().open();
    victim.send({ page: "/boom" });
    expect((await it.visitor().token({ page: "/boom" })).status).toBe(500);
    expect((await it.visitor().token({ page: "/boom" })).text).not.toMatch(/boom|server\.[jt]s/);
    const messages = () => it.service.logs.flatMap(({ level, message }) => (level === "error" ? message : []));
    await until("it is logged", () => messages().length > 0);
    await it.survives(1);
    expect(messages()).toEqual(["boom \r\n\u001b[31m"]); // three times in ten seconds, and said once
    forgive(it.service, /^unexpected error$/);
    victim.vanish();
    await it.survives();
  });

  // --------------------------------------------------------------------------------------------- limits and HTTP

  test("17. a spoofed X-Forwarded-For changes no limit, with a proxy and without, and IPv4-mapped is IPv4", async () => {
    const direct = await own({ MAX_TOKENS_PER_IP: 20 });
    const spoof = (at: number) => ({
      "x-forwarded-for": `198.51.100.${at}`,
      "x-real-ip": "192.0.2.9",
      forwarded: "for=192.0.2.8",
    });
    const answers = await crowd(Array.from({ length: 20 }).keys(), 1, (at) => direct.visitor(spoof(at)).token());
    expect(answers.at(-1)?.status).toBe(429);
    const it = await own({ TRUST_PROXY: 1, MAX_TOKENS_PER_IP: 20, DENY: "192.0.2.1" });
    const behind = (at: number) => ({ "x-forwarded-for": `198.51.100.${at}, ::ffff:c633:6401` });
    const claims = await crowd(Array.from({ length: 21 }).keys(), 1, (at) => it.visitor(behind(at)).token());
    expect([claims[19]?.status, claims[20]?.status]).toEqual([200, 429]);
    expect((await it.visitor({ "x-forwarded-for": "198.51.100.1" }).token()).status).toBe(429);
    for (const denied of ["192.0.2.1", "::ffff:192.0.2.1", "::FFFF:c000:201", "8.8.8.8, 192.0.2.1", "0xc0000201"])
      expect([denied, (await it.visitor({ "x-forwarded-for": denied }).token()).status]).toEqual([denied, 403]);
    for (const odd of ["", ",", "x", "'", "1.2.3.4:80", "[::1]", "fe80::1%eth0", "1".repeat(5_000), "unknown", "::1::"])
      expect((await it.visitor({ "x-forwarded-for": odd }).token()).status).toBeOneOf([200, 429]);
    await direct.survives();
    await it.survives();
  });

  test(
    "18. more addresses than the limiter remembers, and a flood of tokens, leave memory capped",
    () =>
      alone(async () => {
        const it = await own({ TRUST_PROXY: 1, MAX_TOKENS_PER_IP: 5, MAX_VISITORS_PER_IP: 5 });
        const peak = await tokenFlood(
          it,
          addresses,
          (at) => `2001:db8:${(at >> 8).toString(16)}:${(at & 255).toString(16)}::1`,
        );
        const more = addresses > 100_000 ? 300 : 0; // Deno collects late, and gives back later
        expect(peak).toBeLessThan(it.memoryBefore + 150 + more);
        await tokenFlood(it, 20_000, () => "198.51.100.77");
        expect((await it.visitor({ "x-forwarded-for": "198.51.100.77" }).token()).status).toBe(403);
        await it.survives(0, 20_000, 120 + more); // full tables are kept: that is their cap
        const mb = [it.memoryBefore, peak, memoryOf(it.service.pid)].map((value) => value.toFixed(0));
        figure(
          runtime,
          `a token each for ${addresses} addresses, and 20,000: ${mb.join(" → ")} MB (before, peak, after)`,
        );
      }),
    280_000 + addresses,
  );

  test("19. slow request heads and bodies are closed within 15 s", async () => {
    const it = await ordeal();
    const head = `POST /token HTTP/1.1\r\nHost: ${new URL(it.url).host}\r\nOrigin: https://${it.site}\r\n`;
    const slow: [string, string | undefined][] = [
      ["", undefined],
      ["GET /", "a"],
      [head, "a"],
      [head, "X: y\r\n"],
      [head, undefined],
      [`${head}Content-Length: 4000\r\n\r\n{`, " "],
      [`${head}Content-Length: 4000\r\n\r\n{`, undefined],
      [`${head}Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n`, "1\r\n \r\n"],
    ];
    const ends = await Promise.all(
      slow.map(([bytes, drip]) =>
        raw(it.url, bytes, { ...(drip && { drip }), ms: does("cutsSlowRequests") ? 20_000 : 3_000 }),
      ),
    );
    for (const { closed, ms } of ends)
      if (does("cutsSlowRequests")) expect([closed, ms < 15_000]).toEqual([true, true]);
    await it.survives();
  });

  test("19. a POST of 200 MB is refused with 413 and not read, whether its length is said or it comes in chunks", async () => {
    const it = await own();
    const head = `POST /token HTTP/1.1\r\nHost: ${new URL(it.url).host}\r\nOrigin: https://${it.site}\r\n`;
    const declared = await raw(it.url, `${head}Content-Length: 200000000\r\n\r\n{`, { ms: 3_000 });
    expect(declared.statuses).toEqual([413]);
    for (const length of ["Content-Length: 200000000", "Transfer-Encoding: chunked"]) {
      const { sent, status } = await pour(it.url, `${head}${length}\r\n\r\n`, length.startsWith("T"));
      expect([status ?? 413, sent < 40_000_000]).toEqual([413, true]); // no status: reset before the answer was read
    }
    await it.survives();
  });

  test("20. CR, LF and ANSI escapes in page names and headers never break a log line", async () => {
    const it = await own({ TRUST_PROXY: 1, MAX_TOKENS_PER_IP: 1 }, { preload: faulty });
    for (const value of ["\u001b[31mred\u001b]0;title\u0007", "a\rb", "[31m\u0085\u2028"])
      for (const name of ["user-agent", "referer", "cookie", "origin", "x-forwarded-for"])
        expectThat(name, (await it.visitor({ [name]: value }).token()).status, (status) => status < 500);
    const at = (address: string) => it.visitor({ "x-forwarded-for": `[1m\u0085, ${address}` });
    for (const page of ['/a\r\n{"level":"info"}', "/\u001b[31m", "/%0d%0aX", "/\u0085"])
      expectThat(page, (await at("198.51.100.1").token({ page })).status, (status) => status === 400 || status === 429);
    expect((await at("198.51.100.2").token({ page: "/boom" })).status).toBe(500); // logged with CR, LF and ESC in it
    await crowd(Array.from({ length: 12 }), 4, () => at("198.51.100.2").token());
    await until("the denial is logged", () => it.service.logs.some(({ event }) => event.startsWith("address denied")));
    forgive(it.service, /^unexpected error$/); // and `endServices` finds any line that is not JSON
    expect(it.service.logs.filter(({ event }) => event === "not a JSON log line")).toEqual([]);
    it.watcher.vanish();
  });

  test("21. sixty cookies and forged ones give a new visitor and no error", async () => {
    const it = await ordeal();
    const { headers: given } = await it.visitor().token();
    const [name = ""] = given.getSetCookie()[0]!.split("=");
    const many = Array.from({ length: 60 }, (_, at) => `c${at}=${"x".repeat(50)}`);
    const forged = [
      `${name}=${"A".repeat(22)}.${"A".repeat(22)}`,
      `${name}=`,
      name,
      `${name}=%`,
      `${name}=a.b.c`,
      `${name}="`,
      `${name}=1; ${name}=2`,
      "=",
      ";;;",
      "\u00e9=\u00ff",
    ];
    for (const cookie of [many.join("; "), ...forged, [...many, ...forged].join("; ")]) {
      const answer = await it.visitor({ cookie }).token();
      expect([cookie, answer.status, answer.headers.getSetCookie().length]).toEqual([cookie, 200, 1]);
    }
    const kept = (await it.visitor().token()).json.visitor; // cookies are blocked: the page's own storage has it
    const pages = await crowd([1, 2], 2, () => it.visitor().open("/", { visitor: kept }));
    await it.survives(1);
    pages.forEach((page) => page.vanish());
    await it.survives();
  });

  // ----------------------------------------------------------------------------------------------------- beyond

  test("beyond: a request whose body ends early is no error of the service", async () => {
    const it = await ordeal();
    const head = `POST /token HTTP/1.1\r\nHost: ${new URL(it.url).host}\r\nOrigin: https://${it.site}\r\n`;
    for (const more of ["Content-Length: 100\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n5\r\n{"]) {
      await crowd(Array.from({ length: 5 }), 5, () => reset(it.url, head + more, 50));
      await raw(it.url, head + more, { ms: 200 });
    }
    await it.survives();
    expect(it.service.logs.filter(({ level }) => level === "error")).toEqual([]);
  });

  test("beyond: pipelined, smuggled and half-closed requests are answered once each or refused", async () => {
    const it = await ordeal();
    const host = `Host: ${new URL(it.url).host}\r\n`;
    const get = `GET /healthz HTTP/1.1\r\n${host}\r\n`;
    const last = get.replace(host, `${host}Connection: close\r\n`);
    expect((await raw(it.url, get.repeat(499) + last, { ms: 20_000 })).statuses).toEqual(
      Array.from({ length: 500 }, () => 200),
    );
    const post = `POST /token HTTP/1.1\r\n${host}Origin: https://${it.site}\r\n`;
    const smuggled = [
      `${post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${get}`,
      `${post}Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}${get}`,
      `${post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n${get}`,
      `${post}Content-Length: -1\r\n\r\n${get}`,
      `${post}Content-Length: 0x10\r\n\r\n${get}`,
      `${post}Content-Length : 2\r\n\r\n{}${get}`,
      `${post}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n{}${get}`,
    ];
    for (const bytes of smuggled) {
      const { statuses } = await raw(it.url, bytes, { ms: 1_500 });
      expect([bytes.slice(post.length, post.length + 60), statuses.length < 2 && statuses[0] !== 200]).toEqual([
        expect.any(String),
        true,
      ]);
    }
    for (const method of ["HEAD", "OPTIONS", "TRACE", "CONNECT", "PUT", "DELETE", "PATCH", "BREW"])
      for (const path of ["/", "/ws", "/token", "/count", "/metrics", "/dashboard", "/widget.js", "/check/request"]) {
        const { statuses } = await raw(it.url, `${method} ${path} HTTP/1.1\r\n${host}Connection: close\r\n\r\n`, {
          ms: 3_000,
        });
        expectThat(`${method} ${path}`, statuses[0] ?? 0, (it) => it < 500);
      }
    await it.survives();
  });

  test("beyond: an upgrade with a body, with frames behind it, compressed, or half-closed is one page or none", async () => {
    const it = await ordeal();
    const origin = `https://${it.site}`;
    const shake = async (more = ""): Promise<string> => handshake(it.url, origin, await it.token(), more);
    const body = await raw(it.url, `${await shake("Content-Length: 10")}0123456789`, { ms: 4_000 });
    expect(body.statuses.length).toBe(1);
    const deflate = await raw(
      it.url,
      await shake(
        "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=8; x\r\nSec-WebSocket-Protocol: a, b",
      ),
      { ms: 4_000 },
    );
    expect(deflate.text).not.toMatch(/permessage-deflate/i);
    const early = await raw(
      it.url,
      Buffer.concat([Buffer.from(await shake()), textFrame('{"page":"/early"}'), closing(1000)]),
      { ms: 4_000 },
    );
    expect(early.statuses).toEqual([101]);
    const nested = await raw(it.url, `${await shake()}${await shake()}`, { ms: 4_000 });
    expect(nested.statuses).toEqual([101]);
    const { hostname, port } = new URL(it.url);
    for (let round = 0; round < 10; round++) {
      const half = connect({ host: hostname, port: Number(port), allowHalfOpen: true });
      half.on("error", () => {}).on("data", () => {});
      half.end(await shake());
    }
    await it.survives();
  });

  test("beyond: floods of pongs, empty fragments and moves are bounded and cost no memory", async () => {
    const folder = temporaryFolder();
    const it = await own({ DATA: folder });
    const pongs = await it.visitor().open();
    for (let burst = 0; burst < 100; burst++)
      pongs.write(Buffer.concat(Array.from({ length: 500 }, () => encodeFrame(10, byte(1)))));
    const empties = await it.visitor().open();
    empties.write(encodeFrame(1, byte(), { first: 1 }));
    for (let burst = 0; burst < 100; burst++)
      empties.write(Buffer.concat(Array.from({ length: 500 }, () => encodeFrame(0, byte(), { first: 0 }))));
    const walkers = await crowd(Array.from({ length: 100 }).keys(), 10, async (at) => {
      const page = await it.visitor().open(`/walk/${at}`);
      for (let step = 0; step < 58; step++) page.send({ page: `/walk/${at}/${step}/${"x".repeat(900)}` });
      await page.shows({ page: 1 });
      return page;
    });
    expect(walkers.every((page) => page.open)).toBe(true);
    for (const page of [pongs, empties, ...walkers]) page.vanish();
    await it.survives();
    await until("the journal has them", () => kept(folder, "count(*)", "pages") > 5_000, 15_000);
    expect((await ask(it.url, "GET /reading?site=own.example")).json.pages.length).toBeGreaterThan(900); // a megabyte
    expect(await it.service.metric("headcount_pages_online")).toBe(1);
  });

  test("beyond: sites invented by Host and Origin are let go, and the journal keeps no more than a hundred", async () => {
    const folder = temporaryFolder();
    const it = await own({ DATA: folder });
    const pages = await crowd(Array.from({ length: 400 }).keys(), 16, async (at) => {
      const headers = { host: `invented-${at}.example`, origin: `http://invented-${at}.example` };
      const { json } = await ask(it.url, "POST /token", { headers, body: "" });
      return (await upgrade(it.url, json.token, { headers })).page!;
    });
    await sleep(6_000); // the journal is written every 5 s
    const sites = /headcount_visitors_online\{/g;
    expect((await it.service.metrics()).match(sites)?.length).toBeLessThanOrEqual(100);
    pages.forEach((page: Page) => page.vanish());
    await it.survives();
    await until("the sites are let go", async () => (await it.service.metrics()).match(sites)?.length === 1, 10_000);
    expect(kept(folder, "count(DISTINCT site)", "history")).toBeLessThanOrEqual(101);
  });

  test("beyond: 100 parallel upgrades cannot race past the limits of a visitor or an address", async () => {
    const it = await own({ MAX_PAGES_PER_VISITOR: 5, MAX_PAGES_PER_IP: 8 });
    const visitor = it.visitor();
    await visitor.token();
    const tokens = await crowd(
      Array.from({ length: 100 }),
      8,
      async (): Promise<string> => (await visitor.token()).json.token,
    );
    const mine = await Promise.all(tokens.map((token) => visitor.upgrade(token)));
    const others = await Promise.all(tokens.slice(0, 30).map(() => it.visitor().token()));
    const more = await Promise.all(others.map(({ json }) => it.visitor().upgrade(json.token)));
    const opened = (answers: typeof mine) => answers.filter(({ status }) => status === 101);
    expect([opened(mine).length, opened(more).length]).toEqual([5, 2]);
    expect(mine.filter(({ status }) => status === 429)).toHaveLength(95);
    await it.survives(3);
    for (const { page } of [...mine, ...more]) page?.vanish();
    await it.survives();
  });

  test("beyond: a visitor's id replayed from many addresses is still one visitor with twenty pages", async () => {
    const it = await own({ TRUST_PROXY: 1, MAX_PAGES_PER_IP: 2, MAX_TOKENS_PER_IP: 3 });
    const { json } = await it.visitor({ "x-forwarded-for": "192.0.2.250" }).token();
    const answers = await crowd(Array.from({ length: 30 }).keys(), 5, async (at) => {
      const visitor = it.visitor({ "x-forwarded-for": `192.0.2.${at}` });
      const { status, json: given } = await visitor.token({ visitor: json.visitor });
      return status === 200 ? visitor.upgrade(given.token) : undefined;
    });
    expect(answers.filter((answer) => answer?.status === 101)).toHaveLength(20);
    await it.survives(1);
    for (const answer of answers) answer?.page?.vanish();
    await it.survives();
  });

  test("beyond: guesses at the dashboard's password are cut off after ten", async () => {
    const it = await own({ ADMIN_PASSWORD: "the right password" });
    const guess = async (path: string, password: string) =>
      (await ask(it.url, `GET ${path}`, { headers: { authorization: authorizationOf(password) } })).status;
    for (const odd of ["Basic", "Basic !", "Bearer x", `Basic ${"A".repeat(9000)}`])
      expect((await ask(it.url, "GET /metrics", { headers: { authorization: odd } })).status).toBe(401);
    for (let at = 0; at < 6; at++)
      expect(await guess(["/dashboard", "/metrics", "/dashboard/state"][at % 3]!, `guess ${at}`)).toBe(401);
    expect(await guess("/metrics", "the right password")).toBe(429);
    for (const path of [
      "//metrics",
      "/./metrics",
      "/metrics/",
      "/METRICS",
      "/%6detrics",
      "/dashboard/../metrics",
      "/dashboard//state",
    ])
      expectThat(
        path,
        (await raw(it.url, `GET ${path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n`)).statuses[0],
        (it) => it === 401 || it === 404 || it === 429,
      );
    await it.survives();
  });

  test("beyond: reading times of a site with 10,000 pages can be hammered without stalling the counts", () =>
    alone(async () => {
      const folder = temporaryFolder();
      const engine = new EmbeddedEngine(folder, 30_000);
      const readings = Array.from({ length: 10_000 }, (_, at) =>
        [3, 9, 20].map((bucket) => ({ site: "own.example", page: `/a/page/${at}`, bucket, views: 5, seconds: 50 })),
      );
      await engine.record({ readings: readings.flat(), peaks: [] });
      await engine.close();
      const it = await own({ DATA: folder });
      let slowest = 0;
      const hammer = crowd(Array.from({ length: 60 }), 6, () => ask(it.url, "GET /reading?site=own.example"));
      const hammering = { over: false };
      void hammer.finally(() => (hammering.over = true));
      while (!hammering.over) {
        const began = performance.now();
        const page = await it.visitor().open();
        slowest = Math.max(slowest, performance.now() - began);
        page.vanish();
      }
      expect((await hammer).every(({ status }) => status === 200)).toBe(true);
      expect(slowest).toBeLessThan(3_000);
      await it.survives();
    }));

  test("beyond: sockets whose peers never answer a close do not pile up", async () => {
    const it = await own();
    const before = openFilesOf(it.service.pid);
    const deaf = await crowd(Array.from({ length: 20 }), 4, async () => {
      const page = await it.visitor().open();
      page.silent = true;
      page.stopReading();
      page.send("nonsense");
      return page;
    });
    await it.survives();
    if (does("freesTheDeaf"))
      await until("their files are closed", () => openFilesOf(it.service.pid) <= before + 2, 10_000);
    deaf.forEach((page) => page.vanish());
    await until("their files are closed", () => openFilesOf(it.service.pid) <= before + 2, 10_000);
  });

  test("beyond: six seconds of fuzz", () =>
    alone(async () => {
      const it = await own();
      await fuzz(it, { seed: Number(process.env["SEED"] ?? Date.now() % 1_000_000), seconds: 6 });
      await it.survives();
    }));
}

// ------------------------------------------------------------------------------------------------- without a process

test("hostile: 11. a page with more than 64 KiB unread is dropped", () => {
  let closed = 0;
  const settings = readSettings({});
  const rooms = new Rooms(0);
  const sites = new Sites(undefined);
  const guard = new Guard(settings);
  const pages = new Pages(rooms, guard, new Journal(new EmbeddedEngine(":memory:", 1), rooms, sites), 25_000, () => 0);
  const page = pages.admit("a.example", { visitor: "v", page: "/", expires: 1, nonce: 1 }, "192.0.2.1");
  const wire = { readyState: 1, bufferedAmount: 65_536, send: () => {}, close: () => closed++ };
  pages.opened(page, wire);
  expect(pages.size).toBe(1);
  wire.bufferedAmount += 1;
  pages.received(page, '{"page":"/next"}');
  expect([closed, pages.size, pages.stats.slow]).toEqual([1, 0, 1]);
});

test("hostile: beyond: a machine whose clock goes back goes on admitting pages, and each token once", async () => {
  const engine = new EmbeddedEngine(":memory:", 30_000);
  const anHourAgo = Date.now() - 3_600_000;
  const claims = (at: number): Claims => ({ visitor: "", page: "/", expires: at + 30_000, nonce: nonce() });
  const early = claims(anHourAgo);
  expect(await engine.spend(early, anHourAgo + 5)).toBe(true);
  expect(await engine.spend(early, anHourAgo + 9)).toBe(false);
  const late = claims(anHourAgo + 600_000);
  expect(await engine.spend(late, anHourAgo + 600_000)).toBe(true);
  expect(await engine.spend(late, anHourAgo + 600_001)).toBe(false);
});

test("hostile: beyond: the reading time of one page is found without a look at the 10,000 others", async () => {
  const engine = new EmbeddedEngine(":memory:", 1);
  const page = (at: number): string => `/${at}/${"x".repeat(900)}`;
  const reading = (at: number) => ({ site: "own.example", page: page(at), bucket: 3, views: 1, seconds: 1 });
  await engine.record({ readings: Array.from({ length: 10_000 }, (_, at) => reading(at)), peaks: [] });
  const before = process.cpuUsage();
  for (let at = 0; at < 500; at++) expect(await engine.readings("own.example", page(at))).toHaveLength(1);
  expect(process.cpuUsage(before).user / 1_000).toBeLessThan(1_000); // a scan each took four times as long as that
});

test("hostile: beyond: whoever owns a /64 of IPv6 is one address, whichever of its 2^64 they use", () => {
  const guard = new Guard(readSettings({ MAX_TOKENS_PER_IP: "1" }));
  for (let at = 0; at < 12; at++) guard.tokenRequest("2001:db8:1:2::/64");
  expect(guard.address("2001:db8:1:2:ffff:ffff:ffff:ffff")).toBe("address");
  expect(guard.address("2001:db8:1:3::1")).toBeUndefined();
  for (let at = 0; at < 49_000; at++) guard.tokenRequest(`192.0.${at >> 8}.${at & 255}`); // does not push the denial out
  expect(guard.address("2001:db8:1:2::1")).toBe("address");
});

// -------------------------------------------------------------------------------------------------------------- helpers

/** Asserts something about a status, and names what it was the answer to. */
function expectThat(what: string, status: number | undefined, fits: (status: number) => boolean): void {
  expect([what, status !== undefined && fits(status) ? "fits" : status]).toEqual([what, "fits"]);
}

/** Runs before the service: from here on a page named boom makes whoever looks at it throw. */
const faulty = new URL("support/faulty.ts", import.meta.url).pathname;

const connections = ({ service }: Ordeal): Promise<number> => service.metric("headcount_connections");

/** A number from the journal's file. */
function kept(folder: string, number: string, table: string): number {
  using database = new Database(join(folder, "headcount.db"), { readonly: true });
  return Number(database.query(`SELECT ${number} FROM ${table}`).values()[0]?.[0]);
}

/** Asks for tokens over few connections, each from the address that `addressOf` names; the highest memory on the way. */
async function tokenFlood(it: Ordeal, requests: number, addressOf: (at: number) => string): Promise<number> {
  const { hostname, port, host } = new URL(it.url);
  const batch = 100;
  let peak = 0;
  const ask = (at: number): string =>
    `POST /token HTTP/1.1\r\nHost: ${host}\r\nOrigin: https://${it.site}\r\nUser-Agent: ${userAgent}\r\nX-Forwarded-For: ${addressOf(at)}\r\nContent-Length: 0\r\n\r\n`;
  await crowd(Array.from({ length: requests / batch }).keys(), 8, async (number) => {
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
    socket.write(Array.from({ length: batch }, (_, at) => ask(number * batch + at)).join(""));
    await promise;
    socket.destroy();
    peak = Math.max(peak, memoryOf(it.service.pid));
  });
  return peak;
}

/** Sends up to 200 MB behind a head, until there is an answer: how much that was, and the answer if it was heard. */
async function pour(
  url: string,
  head: string,
  chunked: boolean,
): Promise<{ sent: number; status: number | undefined }> {
  const { hostname, port } = new URL(url);
  const socket = connect({ host: hostname, port: Number(port) });
  let text = "";
  const heard = { over: false };
  const end = (): void => {
    heard.over = true;
  };
  socket.on("data", (data: Buffer) => (text += data.toString("latin1")));
  socket.on("data", end).on("error", end).on("close", end);
  socket.write(head);
  const block = Buffer.alloc(1 << 20, 32);
  const piece = chunked ? Buffer.concat([Buffer.from("100000\r\n"), block, Buffer.from("\r\n")]) : block;
  let sent = 0;
  while (sent < 200_000_000 && !heard.over) {
    socket.write(piece);
    sent += piece.length;
    await until("it is taken or answered", () => heard.over || socket.writableLength === 0, 10_000);
    await sleep(5);
  }
  socket.destroy();
  return { sent, status: Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1]) || undefined };
}
