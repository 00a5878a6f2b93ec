/**
 * The contract (DESIGN.md, sections 1 and 3), asserted from outside on a real process, the same on Bun and on Deno.
 * Most tests share one service and have a site of their own on it, so that they can run at the same time.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import { type Answer, ask, encodeFrame, type Page, Visitor, upgrade, userAgent } from "./support/client.ts";
import { temporaryFolder } from "./support/leftovers.ts";
import { endServices, refuseToStart, type Runtime, runtimes, Service } from "./support/service.ts";
import { once, sleep, until } from "./support/waiting.ts";

setDefaultTimeout(60_000);
afterAll(endServices);

/** Seconds; short, so that the tests are. What the defaults are is tested on a service of its own. */
const grace = 1;
const heartbeat = 2;
/** Bounds of the accuracy contract, in milliseconds. */
const joinBound = 1000;
const leaveBound = (grace + 1) * 1000;
const goneBound = 2 * heartbeat * 1000 + leaveBound + 1000; // the last: heartbeats are looked after once a second

const unlimited = { MAX_TOKENS_PER_IP: 100_000, MAX_VISITORS_PER_IP: 100_000, MAX_PAGES_PER_IP: 100_000 };

/** One site of a service, with nobody else on it. */
class Stage {
  readonly service: Service;
  readonly site: string;
  readonly origin: string;

  constructor(service: Service, site: string) {
    this.service = service;
    this.site = site;
    this.origin = `https://${site}`;
  }

  visitor(headers = {}): Visitor {
    return new Visitor(this.service.url, this.origin, { headers });
  }

  /** Somebody new who opens a page. */
  open(page = "/"): Promise<Page> {
    return this.visitor().open(page);
  }

  async count(page?: string): Promise<{ site: number; page?: number }> {
    const query = new URLSearchParams({ site: this.site, ...(page && { page }) }).toString();
    const answer = await ask(this.service.url, `GET /count?${query}`);
    expect(answer.status).toBe(200);
    return answer.json;
  }
}

/** Asserts an RFC 9457 problem document that the page at `origin` may read. */
function expectProblem(answer: Answer, status: number, origin?: string): void {
  expect([answer.status, answer.text]).toEqual([status, expect.any(String)]);
  expect(answer.headers.get("content-type")).toStartWith("application/problem+json");
  expect(answer.json).toMatchObject({ type: expect.any(String), status });
  expect(answer.json.title).toMatch(/\w/);
  expect(answer.json.detail).toMatch(/\w/);
  expect(answer.text).not.toMatch(/\bat .*\.ts:\d+/);
  if (origin !== undefined) expectReadable(answer, origin);
}

/** Asserts the CORS headers that let a page at `origin` read the answer with its credentials. */
function expectReadable(answer: Answer, origin: string): void {
  expect(answer.headers.get("access-control-allow-origin")).toBe(origin);
  expect(answer.headers.get("access-control-allow-credentials")).toBe("true");
  expect(answer.headers.get("access-control-expose-headers")?.toLowerCase()).toContain("retry-after");
  expect(answer.headers.get("vary")?.toLowerCase()).toContain("origin");
}

function expectRetryAfter(answer: Answer, { atLeast = 1, atMost = 60 } = {}): void {
  const seconds = Number(answer.headers.get("retry-after"));
  expect(seconds).toBeGreaterThanOrEqual(atLeast);
  expect(seconds).toBeLessThanOrEqual(atMost);
}

/** The counts that `page` was told while `action` ran; then `control` shows that it would have been told of changes. */
async function countsDuring(page: Page, action: () => Promise<void>, control: () => Promise<void>) {
  const before = page.frames.length;
  await action();
  const told = page.frames.slice(before).filter((frame) => "site" in frame || "page" in frame);
  await control();
  return told;
}

async function expectOpened(opening: Promise<{ status: number; page?: Page; text: string }>): Promise<Page> {
  const { status, page, text } = await opening;
  expect([status, text]).toEqual([101, ""]);
  return page!;
}

const flip = (text: string, at: number): string =>
  text.slice(0, at) + (text[at] === "A" ? "B" : "A") + text.slice(at + 1);

for (const runtime of runtimes) describe.concurrent(`contract (${runtime})`, () => contract(runtime));

function contract(runtime: Runtime): void {
  const start = (settings = {}) => Service.start(runtime, settings);
  const numbered = Array.from({ length: 150 }, (_, number) => `s${number}.example`);
  const special = ["*.wild.example", "https://port.example:8443", "plain.example"];

  /** The service that most tests share: many sites, a short grace, no limits in the way. */
  const main = once(() =>
    start({
      SITES: [...numbered, ...special].join(","),
      GRACE_SECONDS: grace,
      ...unlimited,
    }),
  );
  /** One whose pings come often; a busy machine must still answer within two of them. */
  const lively = once(() =>
    start({ SITES: numbered.join(","), GRACE_SECONDS: grace, HEARTBEAT_SECONDS: heartbeat, ...unlimited }),
  );
  let used = 0;
  const stage = async (): Promise<Stage> => new Stage(await main(), numbered[used++]!);

  /** One proxy in front, and small limits; each test comes from addresses of its own. */
  const guarded = once(() =>
    start({
      SITES: "a.example,b.example",
      TRUST_PROXY: 1,
      DENY: "192.0.2.0/24, 198.51.100.7, 2001:db8:dead::/48",
      MAX_TOKENS_PER_IP: 5,
      MAX_VISITORS_PER_IP: 3,
      MAX_PAGES_PER_IP: 2,
    }),
  );
  const from = async (address: string, headers = {}): Promise<Visitor> => {
    const { url } = await guarded();
    return new Visitor(url, "https://a.example", { headers: { "x-forwarded-for": address, ...headers } });
  };

  // -------------------------------------------------------------------------------------------------- POST /token

  describe("token", () => {
    test("an empty body gives a token and a visitor", async () => {
      const { origin, ...here } = await stage();
      const answer = await ask(here.service.url, "POST /token", { headers: { origin } });
      expect(answer.status).toBe(200);
      expect(answer.json).toEqual({
        token: expect.stringMatching(/^.{20,}$/),
        visitor: expect.stringMatching(/^.{20,}$/),
      });
      expect(answer.headers.get("cache-control")).toContain("no-store");
      expectReadable(answer, origin);
    });

    test("the cookie over http is one a site, HttpOnly and SameSite=Lax", async () => {
      const [one, other] = [await stage(), await stage()];
      const cookie = (await one.visitor().token()).headers.getSetCookie();
      expect(cookie).toHaveLength(1);
      expect(cookie[0]).toMatch(/^headcount-[\w-]+=[^;]+; /);
      expect(cookie[0]).toMatch(/; HttpOnly/i);
      expect(cookie[0]).toMatch(/; SameSite=Lax/i);
      expect(cookie[0]).toMatch(/; Path=\/(;|$)/i);
      expect(cookie[0]).not.toMatch(/; (Secure|Partitioned|Domain)/i);
      const cookieOfOther = (await other.visitor().token()).headers.getSetCookie()[0];
      expect(cookieOfOther?.split("=")[0]).not.toBe(cookie[0]!.split("=")[0]!);
    });

    test("the cookie behind a trusted proxy with https is __Host-, Secure, SameSite=None and Partitioned", async () => {
      const visitor = await from("10.1.0.1", { "x-forwarded-proto": "https" });
      const cookie = (await visitor.token()).headers.getSetCookie();
      expect(cookie).toHaveLength(1);
      expect(cookie[0]).toMatch(/^__Host-headcount-[\w-]+=[^;]+; /);
      for (const attribute of [/; HttpOnly/i, /; Secure/i, /; SameSite=None/i, /; Partitioned/i, /; Path=\/(;|$)/i])
        expect(cookie[0]).toMatch(attribute);
      expect(cookie[0]).not.toMatch(/; Domain/i);
    });

    test("X-Forwarded-Proto means nothing without a trusted proxy", async () => {
      const visitor = (await stage()).visitor({ "x-forwarded-proto": "https" });
      expect((await visitor.token()).headers.getSetCookie()[0]).toStartWith("headcount-");
    });

    test("a visitor stays the same by cookie, and by the body alone", async () => {
      const here = await stage();
      const visitor = here.visitor();
      const { visitor: id } = (await visitor.token()).json;
      expect((await visitor.token()).json.visitor).toBe(id);
      expect((await here.visitor().token({ visitor: id })).json.visitor).toBe(id);
      expect((await here.visitor().token()).json.visitor).not.toBe(id);

      const byCookie = await visitor.open();
      const byBody = await here.visitor().open("/", { visitor: id });
      expect([byCookie.now.site, byBody.now.site]).toEqual([1, 1]);
    });

    test("a forged visitor is replaced", async () => {
      const here = await stage();
      const { visitor: id } = (await here.visitor().token()).json;
      for (const forged of [
        flip(id, 3),
        flip(id, id.length - 3),
        id.slice(1),
        `${id}A`,
        "",
        "x",
        ".",
        "💥".repeat(50),
      ]) {
        const answer = await here.visitor().token({ visitor: forged });
        expect(answer.status).toBe(200);
        expect(answer.json.visitor).not.toBe(forged);
        expect(answer.json.visitor).not.toBe(id);
      }
      const visitor = here.visitor();
      await visitor.token();
      for (const [name, value] of visitor.cookies) visitor.cookies.set(name, flip(value, 3));
      expect((await visitor.token()).headers.getSetCookie()).toHaveLength(1);
    });

    test("a visitor of another site is replaced", async () => {
      const [here, there] = [await stage(), await stage()];
      const { visitor: id } = (await there.visitor().token()).json;
      const answer = await here.visitor().token({ visitor: id });
      expect(answer.status).toBe(200);
      expect(answer.json.visitor).not.toBe(id);
    });

    test("an observer gets a token and leaves no trace", async () => {
      const answer = await (await stage()).visitor().token({ observe: true });
      expect(answer.status).toBe(200);
      expect(answer.json.token).toEqual(expect.any(String));
      expect(answer.json.visitor || undefined).toBeUndefined();
      expect(answer.headers.getSetCookie()).toEqual([]);
    });

    test("what is not understood is refused with 400", async () => {
      const { origin, ...here } = await stage();
      const wrong = ["{", "nonsense", "[]", '"page"', "5", "null", '{"page":5}', '{"visitor":{}}', '{"observe":"yes"}'];
      for (const body of wrong) {
        const answer = await new Visitor(here.service.url, origin).token(body);
        expect([body, answer.status]).toEqual([body, 400]);
        expectProblem(answer, 400, origin);
      }
    });

    test("a page name that is empty, too long or has control characters is refused with 400", async () => {
      const here = await stage();
      for (const page of ["", `/${"x".repeat(1024)}`, "/a\u0000b", "/a\nb", "/a%0Ab", "/\u001b[31m"])
        expectProblem(await here.visitor().token({ page }), 400, here.origin);
      expect((await here.visitor().token({ page: `/${"x".repeat(1023)}` })).status).toBe(200);
    });

    test("a body of 4 KiB is read, one byte more is refused with 413", async () => {
      const { origin, ...here } = await stage();
      const url = here.service.url;
      const full = '{"page":"/"}'.padEnd(4096);
      expect((await ask(url, "POST /token", { headers: { origin }, body: full })).status).toBe(200);
      expectProblem(await ask(url, "POST /token", { headers: { origin }, body: `${full} ` }), 413, origin);
      const chunked = `1001\r\n${full} \r\n0\r\n\r\n`;
      const headers = { origin, "content-length": undefined, "transfer-encoding": "chunked" };
      expectProblem(await ask(url, "POST /token", { headers, body: chunked }), 413, origin);
    });

    test("crawlers and headless browsers are refused, unless COUNT_BOTS", async () => {
      const here = await stage();
      const bots = [
        "Googlebot/2.1 (+http://www.google.com/bot.html)",
        userAgent.replace("Firefox/", "HeadlessChrome/"),
      ];
      for (const bot of bots) expectProblem(await here.visitor({ "user-agent": bot }).token(), 403, here.origin);
      const { url } = await start({ COUNT_BOTS: true });
      const [bot] = bots;
      const answer = await new Visitor(url, "http://localhost", { headers: { "user-agent": bot } }).token();
      expect(answer.status).toBe(200);
    });
  });

  // ------------------------------------------------------------------------------------------------------ GET /ws

  describe("upgrade", () => {
    test("a token opens one socket", async () => {
      const visitor = (await stage()).visitor();
      const { token } = (await visitor.token()).json;
      const page = await expectOpened(visitor.upgrade(token));
      await page.shows({ site: 1 });
    });

    test("a plain GET is refused with 426", async () => {
      const { origin, ...here } = await stage();
      const answer = await ask(here.service.url, "GET /ws", { headers: { origin } });
      expectProblem(answer, 426, origin);
      expect(answer.headers.get("upgrade")?.toLowerCase()).toBe("websocket");
    });

    test("a missing or made-up token is refused with 403", async () => {
      const here = await stage();
      for (const token of [undefined, "", "x", ".", "..", "a.b", "%", "💥", "A".repeat(2000)])
        expectProblem(await here.visitor().upgrade(token), 403, here.origin);
    });

    test("a tampered token or one of a wrong length is refused with 403", async () => {
      const here = await stage();
      const visitor = here.visitor();
      const { token } = (await visitor.token()).json;
      const places = [0, 5, Math.floor(token.length / 2), token.length - 5];
      const wrong = [
        ...places.map((at) => flip(token, at)),
        token.slice(1),
        token.slice(0, -1),
        `${token}A`,
        token + token,
      ];
      for (const each of wrong) expectProblem(await visitor.upgrade(each), 403, here.origin);
      await expectOpened(visitor.upgrade(token)); // it was a good one
    });

    test("an expired token is refused with 403", async () => {
      const { url } = await start({ TOKEN_TTL_SECONDS: 2 });
      const visitor = new Visitor(url, "http://localhost");
      const [early, late] = [(await visitor.token()).json.token, (await visitor.token()).json.token];
      await expectOpened(visitor.upgrade(early));
      await sleep(3100); // two seconds, and up to one more for a clock that counts whole ones
      expectProblem(await visitor.upgrade(late), 403, "http://localhost");
    });

    test("a used token is refused with 403", async () => {
      const here = await stage();
      const visitor = here.visitor();
      const { token } = (await visitor.token()).json;
      const page = await expectOpened(visitor.upgrade(token));
      expectProblem(await visitor.upgrade(token), 403, here.origin);
      await page.close();
      expectProblem(await visitor.upgrade(token), 403, here.origin);
    });

    test("one token in 30 upgrades at once opens exactly one socket", async () => {
      const visitor = (await stage()).visitor();
      const { token } = (await visitor.token()).json;
      const answers = await Promise.all(Array.from({ length: 30 }, () => visitor.upgrade(token)));
      const statuses = answers.map((answer) => answer.status);
      expect(statuses.filter((status) => status === 101)).toHaveLength(1);
      expect(statuses.filter((status) => status === 403)).toHaveLength(29);
    });

    test("another Origin than the token's is refused with 403, also when it is a site", async () => {
      const [here, there] = [await stage(), await stage()];
      const url = here.service.url;
      const { token } = (await here.visitor().token()).json;
      for (const origin of [there.origin, here.origin.replace("https:", "http:"), "https://evil.example"])
        expectProblem(await upgrade(url, token, { headers: { origin } }), 403, origin);
      await expectOpened(upgrade(url, token, { headers: { origin: here.origin } }));
    });

    test("Origin null or none is refused with 403, at /token too", async () => {
      const here = await stage();
      const url = here.service.url;
      const { token } = (await here.visitor().token()).json;
      for (const origin of ["null", undefined]) {
        expectProblem(await upgrade(url, token, { headers: { origin } }), 403);
        expectProblem(await ask(url, "POST /token", { headers: { origin } }), 403);
      }
    });
  });

  // ------------------------------------------------------------------------------------------------------- limits

  describe("limits", () => {
    test("the 21st open page of a visitor is refused with 429, at /token and at the upgrade", async () => {
      const here = await stage();
      const visitor = here.visitor();
      await visitor.token();
      const tokens: string[] = [];
      for (let tab = 1; tab <= 21; tab++) tokens.push((await visitor.token()).json.token);
      const last = tokens.pop();
      const pages = await Promise.all(tokens.map((token) => expectOpened(visitor.upgrade(token))));

      const refusals = [await visitor.upgrade(last), await visitor.token()];
      for (const refusal of refusals) {
        expectProblem(refusal, 429, here.origin);
        expectRetryAfter(refusal, { atMost: 3600 });
      }
      await here.open(); // somebody else is not affected
      await pages[0]!.close();
      await until("a closed page makes room", async () => (await visitor.token()).status === 200);
      await visitor.open();
    });

    test("open pages of one address are limited with 429, at /token and at the upgrade", async () => {
      const [one, two] = [await from("10.2.0.1"), await from("10.2.0.1")];
      const [first, second, third] = [await one.token(), await two.token(), await one.token()];
      await expectOpened(one.upgrade(first.json.token));
      const page = await expectOpened(two.upgrade(second.json.token));
      for (const refusal of [await one.upgrade(third.json.token), await one.token()]) {
        expectProblem(refusal, 429, "https://a.example");
        expectRetryAfter(refusal, { atMost: 3600 });
      }
      await (await from("10.2.0.2")).open();
      await page.close();
      await until("a closed page makes room", async () => (await one.token()).status === 200);
    });

    test("token requests of one address are limited with 429 and Retry-After, and ten times as many deny it", async () => {
      const visitor = await from("10.3.0.1");
      const answers: Answer[] = [];
      for (let request = 1; request <= 52; request++) answers.push(await visitor.token({ observe: true }));
      const statuses = answers.map(({ status }) => status);
      expect(statuses.slice(0, 5)).toEqual([200, 200, 200, 200, 200]);
      expect(new Set(statuses.slice(5, 50))).toEqual(new Set([429]));
      expectProblem(answers[5]!, 429, "https://a.example");
      expectRetryAfter(answers[5]!);

      const denied = [answers[51]!, await visitor.token(), await visitor.upgrade(answers[4]!.json.token)];
      for (const answer of denied) {
        expectProblem(answer, 403, "https://a.example");
        expectRetryAfter(answer, { atLeast: 500, atMost: 600 });
      }
      expect((await (await from("10.3.0.2")).token()).status).toBe(200);
    });

    test("new visitors of one address are limited with 429 and Retry-After, known ones are not", async () => {
      const known = await from("10.4.0.1");
      await known.token();
      await (await from("10.4.0.1")).token();
      await (await from("10.4.0.1")).token();
      const refused = await (await from("10.4.0.1")).token();
      expectProblem(refused, 429, "https://a.example");
      expectRetryAfter(refused);
      expect((await known.token()).status).toBe(200);
    });

    test("denied addresses and blocks are refused with 403, also as IPv4-mapped IPv6", async () => {
      const denied = [
        "192.0.2.1",
        "192.0.2.255",
        "::ffff:192.0.2.1",
        "::ffff:c000:201",
        "198.51.100.7",
        "2001:db8:dead::1",
      ];
      for (const address of denied) {
        const visitor = await from(address);
        expectProblem(await visitor.token(), 403, "https://a.example");
        expectProblem(await visitor.upgrade("x"), 403, "https://a.example");
      }
      for (const address of ["192.0.3.1", "198.51.100.8", "2001:db8:deae::1"])
        expect((await (await from(address)).token()).status).toBe(200);
    });

    test("what a client writes into X-Forwarded-For does not change its address", async () => {
      for (let request = 1; request <= 5; request++)
        expect((await (await from(`203.0.113.${request}, 10.5.0.1`)).token({ observe: true })).status).toBe(200);
      expect((await (await from("203.0.113.6, 10.5.0.1")).token({ observe: true })).status).toBe(429);
      expect((await (await from("192.0.2.1, 10.5.0.2")).token()).status).toBe(200);
    });

    test("without a trusted proxy X-Forwarded-For means nothing", async () => {
      const { url } = await start({ MAX_TOKENS_PER_IP: 2, DENY: "192.0.2.1" });
      const visitor = (address: string) =>
        new Visitor(url, "http://localhost", { headers: { "x-forwarded-for": address } });
      expect((await visitor("192.0.2.1").token()).status).toBe(200);
      expect((await visitor("10.0.0.1").token()).status).toBe(200);
      expect((await visitor("10.0.0.2").token()).status).toBe(429);
    });

    test("an IPv4 address is limited as the same one when it comes as IPv4-mapped IPv6", async () => {
      for (const address of ["::ffff:10.7.0.1", "10.7.0.1", "::ffff:a07:1", "10.7.0.1", "::FFFF:10.7.0.1"])
        expect((await (await from(address)).token({ observe: true })).status).toBe(200);
      expect((await (await from("10.7.0.1")).token({ observe: true })).status).toBe(429);
      expect((await (await from("::ffff:10.7.0.2")).token({ observe: true })).status).toBe(200);
    });

    test("an IPv6 address is limited by its /64", async () => {
      for (let request = 1; request <= 5; request++)
        expect((await (await from(`2001:db8:1:2::${request}`)).token({ observe: true })).status).toBe(200);
      expect((await (await from("2001:db8:1:2:ffff::1")).token({ observe: true })).status).toBe(429);
      expect((await (await from("2001:db8:1:3::1")).token({ observe: true })).status).toBe(200);
    });

    test("over MAX_CONNECTIONS newcomers get 503 with Retry-After, and open pages stay", async () => {
      const { url } = await start({ MAX_CONNECTIONS: 2, GRACE_SECONDS: grace });
      const visitors = [1, 2, 3].map(() => new Visitor(url, "http://localhost"));
      const tokens: string[] = [];
      for (const visitor of visitors) tokens.push((await visitor.token()).json.token);
      const [first, second] = [
        await expectOpened(visitors[0]!.upgrade(tokens[0])),
        await expectOpened(visitors[1]!.upgrade(tokens[1])),
      ];
      for (const refusal of [await visitors[2]!.upgrade(tokens[2]), await visitors[2]!.token()]) {
        expectProblem(refusal, 503, "http://localhost");
        expectRetryAfter(refusal, { atMost: 3600 });
      }
      await first.shows({ site: 2 });
      await second.close();
      await first.shows({ site: 1 });
      await visitors[2]!.open();
      await first.shows({ site: 2 });
    });
  });

  // -------------------------------------------------------------------------------------------------------- sites

  const status = async (origin: string): Promise<number> =>
    (await new Visitor((await main()).url, origin).token()).status;

  describe("sites", () => {
    test("a bare host is its http and https origin on the default port", async () => {
      for (const origin of [
        "https://plain.example",
        "http://plain.example",
        "https://plain.example:443",
        "HTTPS://Plain.Example",
      ])
        expect([origin, await status(origin)]).toEqual([origin, 200]);
    });

    test("another port, a trailing dot and lookalikes are refused with 403", async () => {
      const wrong = [
        "https://plain.example:8443",
        "http://plain.example:8080",
        "https://plain.example.",
        "https://plain.example.evil.com",
        "https://evilplain.example",
        "https://sub.plain.example",
        "https://plain.example@evil.com",
        "https://evil.com/plain.example",
        "ftp://plain.example",
        "plain.example",
        "https://",
        "file://",
      ];
      const { url } = await main();
      for (const origin of wrong) {
        const answer = await new Visitor(url, origin).token();
        expect([origin, answer.status]).toEqual([origin, 403]);
        expectProblem(answer, 403, origin);
      }
    });

    test("an origin with a port is that one alone", async () => {
      expect(await status("https://port.example:8443")).toBe(200);
      for (const origin of ["https://port.example", "http://port.example:8443", "https://port.example:8444"])
        expect([origin, await status(origin)]).toEqual([origin, 403]);
    });

    test("a wildcard is the apex and every subdomain, counted together", async () => {
      const { url } = await main();
      const origins = ["https://wild.example", "https://www.wild.example", "http://a.b.wild.example"];
      const pages: Page[] = [];
      for (const origin of origins) pages.push(await new Visitor(url, origin).open());
      for (const page of pages) await page.shows({ site: 3, page: 3 });
      for (const name of ["*.wild.example", "wild.example", "www.wild.example"])
        expect((await ask(url, `GET /count?site=${name}`)).json.site).toBe(3);
      for (const origin of [
        "https://evilwild.example",
        "https://wild.example.evil.com",
        "https://www.wild.example:444",
      ])
        expect([origin, await status(origin)]).toEqual([origin, 403]);
    });

    test("localhost is not served when SITES does not name it", async () => {
      expect(await status("http://localhost:5173")).toBe(403);
    });

    test("with SITES unset localhost is one site on any port, and a log line says so", async () => {
      const service = await start();
      const origins = ["http://localhost", "http://localhost:5173", "https://127.0.0.1:8443", "http://[::1]:3000"];
      const pages: Page[] = [];
      for (const origin of origins) pages.push(await new Visitor(service.url, origin).open());
      await pages[0]!.shows({ site: 4 });
      expect((await ask(service.url, "GET /count?site=localhost")).json.site).toBe(4);
      for (const origin of ["https://example.com", "http://localhost.example.com", "http://128.0.0.1"])
        expectProblem(await new Visitor(service.url, origin).token(), 403, origin);
      expect(service.logs.filter((line) => JSON.stringify(line).includes("SITES"))).toHaveLength(1);
    });

    test("with SITES=localhost any port is served", async () => {
      const { url } = await start({ SITES: "localhost" });
      for (const origin of ["http://localhost", "http://localhost:5173"])
        expect((await new Visitor(url, origin).token()).status).toBe(200);
    });

    test("the service's own origin is a site named by its host", async () => {
      for (const service of [await main(), await start()]) {
        await new Visitor(service.url, service.url).open();
        expect((await ask(service.url, `GET /count?site=${service.host}`)).json.site).toBe(1);
      }
    });

    test("behind a proxy the own origin is the public one", async () => {
      const { url } = await guarded();
      const headers = { host: "count.example", "x-forwarded-proto": "https", "x-forwarded-for": "10.6.0.1" };
      const page = await new Visitor(url, "https://count.example", { headers }).open();
      await page.shows({ site: 1 });
      expect((await ask(url, "GET /count?site=count.example", { headers })).json.site).toBe(1);
    });
  });

  // ------------------------------------------------------------------------------------------------------- frames

  describe("frames", () => {
    test("the first frame has the counts of site and page, and comes at once", async () => {
      const here = await stage();
      const one = await here.open("/one");
      expect(one.frames[0]).toMatchObject({ site: 1, page: 1 });
      const two = await here.open("/two");
      expect(two.frames[0]).toMatchObject({ site: 2, page: 1 });
      await one.shows({ site: 2, page: 1 }, joinBound);
    });

    test("one page has one name: percent-encoding, query, slash and index.html do not matter", async () => {
      const here = await stage();
      const names = ["/caf\u00e9", "/caf%C3%A9/", "/caf\u00e9/index.html", "/cafe\u0301?utm=1"];
      const pages: Page[] = [];
      for (const name of names) pages.push(await here.open(name));
      await pages[0]!.shows({ page: 4 });
      expect((await here.count("/caf\u00e9")).page).toBe(4);
      const root = await here.open("/");
      expect((await here.open("/index.html")).frames[0]).toMatchObject({ page: 2 });
      await root.shows({ page: 2, site: 6 });
    });

    // Not while a dozen services start: what is short of time here is the service alone.
    test.serial("a new visitor is shown to everybody within a second", async () => {
      const here = await stage();
      const watcher = await here.open();
      const began = performance.now();
      const joiner = await here.open();
      await watcher.shows({ site: 2, page: 2 }, joinBound);
      expect(performance.now() - began).toBeLessThan(joinBound);
      expect(joiner.now).toMatchObject({ site: 2, page: 2 });
    });

    test("more tabs of a visitor send nothing to others", async () => {
      const here = await stage();
      const watcher = await here.open();
      const visitor = here.visitor();
      const tabs = [await visitor.open()];
      await watcher.shows({ site: 2, page: 2 });
      const openAndCloseTabs = async (): Promise<void> => {
        for (let tab = 0; tab < 5; tab++) tabs.push(await visitor.open());
        for (const tab of tabs.slice(1)) await tab.close();
        await sleep(leaveBound);
      };
      const quiet = await countsDuring(watcher, openAndCloseTabs, async () => {
        await here.open();
        await watcher.shows({ site: 3, page: 3 });
      });
      expect(quiet).toEqual([]);
      expect(tabs[0]!.open).toBe(true);
    });

    test("ten reloads within grace send nothing to others", async () => {
      const { url } = await start({ GRACE_SECONDS: 3 }); // long enough for a reload on a busy machine
      const visitor = new Visitor(url, "http://localhost");
      const watcher = await new Visitor(url, "http://localhost").open();
      let page = await visitor.open();
      await watcher.shows({ site: 2, page: 2 });
      const reload = async (): Promise<void> => {
        for (let turn = 0; turn < 10; turn++) {
          await page.close();
          page = await visitor.open();
          expect(page.frames[0]).toMatchObject({ site: 2, page: 2 });
        }
        await sleep(4000);
      };
      const quiet = await countsDuring(watcher, reload, async () => {
        await page.close();
        await watcher.shows({ site: 1, page: 1 });
      });
      expect(quiet).toEqual([]);
    });

    test("the last page that closes is −1 after grace, and at most a second later", async () => {
      const here = await stage();
      const watcher = await here.open();
      const visitor = here.visitor();
      const [one, two] = [await visitor.open(), await visitor.open()];
      await watcher.shows({ site: 2, page: 2 });
      await one.close();
      await sleep(leaveBound);
      const began = performance.now();
      void two.close();
      await watcher.shows({ site: 1, page: 1 }, leaveBound);
      expect(performance.now() - began).toBeGreaterThan(grace * 1000 - 50);
      expect(await here.count("/")).toMatchObject({ site: 1, page: 1 });
    });

    test("a browser that is killed leaves like one that closes", async () => {
      const here = await stage();
      const watcher = await here.open();
      const killed = await here.open();
      await watcher.shows({ site: 2 });
      killed.vanish();
      await watcher.shows({ site: 1 }, leaveBound);
    });

    test("grace is 5 seconds by default", async () => {
      const { url } = await start();
      const watcher = await new Visitor(url, "http://localhost").open();
      const leaver = await new Visitor(url, "http://localhost").open();
      await watcher.shows({ site: 2 });
      const began = performance.now();
      void leaver.close();
      await watcher.shows({ site: 1 }, 6000);
      expect(performance.now() - began).toBeGreaterThan(4950);
    });

    test("a page frame moves the page counts and not the site's", async () => {
      const here = await stage();
      const [atA, atB, mover] = [await here.open("/a"), await here.open("/b"), await here.open("/a")];
      await atA.shows({ site: 3, page: 2 });
      await atB.shows({ site: 3, page: 1 });
      const [heardByA, heardByB] = [atA.frames.length, atB.frames.length];
      mover.send({ page: "/b" });
      await Promise.all([
        atB.shows({ page: 2 }, joinBound),
        mover.shows({ page: 2 }, joinBound),
        atA.shows({ page: 1 }, leaveBound),
      ]);
      const told = [...atA.frames.slice(heardByA), ...atB.frames.slice(heardByB)];
      expect(told.filter((frame) => "site" in frame)).toEqual([]);
      expect(await here.count("/a")).toMatchObject({ site: 3, page: 1 });
      expect(await here.count("/b")).toMatchObject({ site: 3, page: 2 });
    });

    test("a page that moves hears of its new page, and of the old one no more", async () => {
      const here = await stage();
      const visitor = here.visitor();
      const mover = await visitor.open("/a");
      await here.open("/a");
      await visitor.open("/b");
      await mover.shows({ page: 2, site: 2 });
      mover.send({ page: "/b" });
      await mover.shows({ page: 1 }); // said although it is what it was: the visitor has a tab there
      await here.open("/a");
      await mover.shows({ site: 3 });
      expect(mover.now.page).toBe(1);
      await here.open("/b");
      await mover.shows({ site: 4, page: 2 });
    });

    test("walking away and back within grace sends nothing to others", async () => {
      const here = await stage();
      const watcher = await here.open("/a");
      const walker = await here.open("/a");
      await watcher.shows({ page: 2, site: 2 });
      const walk = async (): Promise<void> => {
        for (const page of ["/b", "/c", "/a"]) {
          const heard = walker.frames.length;
          walker.send({ page });
          await walker.hears(heard + 1);
        }
        await sleep(leaveBound);
      };
      const quiet = await countsDuring(watcher, walk, async () => {
        walker.send({ page: "/b" });
        await watcher.shows({ page: 1 });
      });
      expect(quiet).toEqual([]);
    });

    test("observers see the counts and are not counted", async () => {
      const here = await stage();
      const observer = await here.visitor().open("/", { observe: true });
      expect(observer.frames[0]).toMatchObject({ site: 0, page: 0 });
      const page = await here.open();
      expect(page.frames[0]).toMatchObject({ site: 1, page: 1 });
      await observer.shows({ site: 1, page: 1 }, joinBound);
      const observeAndLeave = async (): Promise<void> => {
        await (await here.visitor().open("/", { observe: true })).close();
        await sleep(leaveBound);
      };
      const quiet = await countsDuring(observer, observeAndLeave, async () => {
        await here.open();
        await observer.shows({ site: 2 });
      });
      expect(quiet).toEqual([]);
      expect(await here.count("/")).toMatchObject({ site: 2, page: 2 });
    });

    test("a visitor who observes in another tab is still counted once", async () => {
      const here = await stage();
      const visitor = here.visitor();
      const page = await visitor.open();
      const observer = await visitor.open("/", { observe: true });
      expect(observer.frames[0]).toMatchObject({ site: 1, page: 1 });
      await page.close();
      await observer.shows({ site: 0, page: 0 }, leaveBound);
    });

    test("frames that are part of the contract are taken", async () => {
      const page = await (await stage()).open();
      page.send({ active: false });
      page.send({ active: true });
      page.send({ page: "/next" });
      const longest = `{"page":"/${"x".repeat(1024 - 12)}"}`;
      expect(longest).toHaveLength(1024);
      page.send(longest);
      await sleep(500);
      expect(page.open).toBe(true);
    });

    const unknown = [
      "{}",
      '{"foo":1}',
      '{"page":1}',
      '{"page":""}',
      '{"page":"/a\\nb"}',
      '{"active":1}',
      "[]",
      "null",
      "5",
      "hello",
      "",
    ];
    test("anything else closes with 1008", async () => {
      const here = await stage();
      const closings = unknown.map(async (frame) => {
        const page = await here.open();
        page.send(frame);
        return [frame, (await page.ends()).code];
      });
      expect(await Promise.all(closings)).toEqual(unknown.map((frame) => [frame, 1008]));
    });

    test("a binary frame closes with 1008", async () => {
      const page = await (await stage()).open();
      page.write(encodeFrame(2, Buffer.from('{"page":"/"}')));
      expect((await page.ends()).code).toBe(1008);
    });

    test("a frame of 1,025 bytes closes with 1009", async () => {
      const page = await (await stage()).open();
      page.send(`{"page":"/${"x".repeat(1025 - 12)}"}`);
      expect((await page.ends()).code).toBe(1009);
    });

    test("whoever is closed for a broken rule is gone after grace", async () => {
      const here = await stage();
      const watcher = await here.open();
      const breaker = await here.open();
      await watcher.shows({ site: 2 });
      breaker.send("nonsense");
      await watcher.shows({ site: 1 }, leaveBound);
    });

    test.serial("a burst of joins is told in few frames and ends at the right number", async () => {
      const here = await stage();
      const watcher = await here.open();
      const tokens = await Promise.all(
        Array.from({ length: 60 }, async () => {
          const visitor = here.visitor();
          return { visitor, token: (await visitor.token()).json.token };
        }),
      );
      const heard = watcher.frames.length;
      const began = performance.now();
      for (const { visitor, token } of tokens) await expectOpened(visitor.upgrade(token));
      await watcher.shows({ site: 61, page: 61 }, joinBound);
      const frames = watcher.frames.slice(heard);
      expect(frames.length).toBeLessThanOrEqual(2 * ((performance.now() - began) / 100 + 2)); // site and page may come apart
      const sites = frames.flatMap(({ site }) => site ?? []);
      expect(sites).toEqual([...new Set(sites)].toSorted((one, other) => one - other));
    });

    test("the site count is sent again every 30 s although nothing changed", async () => {
      const page = await (await stage()).open();
      const heard = page.frames.length;
      const began = performance.now();
      await page.hears(heard + 1, 31_500);
      expect(page.frames[heard]).toMatchObject({ site: 1 });
      expect(performance.now() - began).toBeGreaterThan(18_000); // it may come early, with a ping
    }, 40_000);
  });

  // ----------------------------------------------------------------------------------------------------- liveness

  describe("liveness", () => {
    test("a silent peer is gone after two heartbeats, while counts change all the time", async () => {
      const here = new Stage(await lively(), numbered[0]!);
      const watcher = await here.open("/watch");
      const dead = await here.open("/dead");
      dead.silent = true;
      const began = performance.now();
      const heard = dead.frames.length;
      const gone = async (): Promise<boolean> => {
        const churner = await here.open("/churn"); // each one changes the site count, that the dead one is sent as well
        void churner.close();
        return (await here.count("/dead")).page === 0;
      };
      await until("the dead page is not counted", gone, goneBound);
      expect(performance.now() - began).toBeGreaterThan((heartbeat + grace) * 1000 - 100);
      expect(dead.frames.length - heard).toBeGreaterThanOrEqual(3); // more often than it is pinged
      await watcher.shows({ site: 1 }, leaveBound);
    });

    test("an idle page that answers pings stays", async () => {
      const here = new Stage(await lively(), numbered[1]!);
      const page = await here.open();
      await until("three pings", () => page.pings >= 3 || !page.open, 10_000 * heartbeat);
      expect(page.open).toBe(true);
      expect(await here.count("/")).toMatchObject({ site: 1, page: 1 });
      page.silent = true; // and it is the answers that keep it
      await until("a silent page is not counted", async () => (await here.count()).site === 0, goneBound);
    });
  });

  // -------------------------------------------------------------------------------------------------- other routes

  describe("GET /count", () => {
    test("is public JSON with ETag, CORS and Cache-Control", async () => {
      const here = await stage();
      await here.open("/a");
      const { url } = here.service;
      const route = `GET /count?site=${here.site}&page=/a`;
      const answer = await ask(url, route, { headers: { origin: here.origin } });
      expect(answer.status).toBe(200);
      expect(answer.headers.get("content-type")).toStartWith("application/json");
      expect(answer.headers.get("cache-control")).toContain("max-age=5");
      expect(answer.headers.get("access-control-allow-origin")).toBe(here.origin);
      expect(answer.json).toMatchObject({ site: 1, page: 1 });

      const etag = answer.headers.get("etag")!;
      const again = await ask(url, route, { headers: { "if-none-match": etag } });
      expect([again.status, again.text, again.headers.get("etag")]).toEqual([304, "", etag]);
      await here.open("/a");
      const changed = await ask(url, route, { headers: { "if-none-match": etag } });
      expect([changed.status, changed.json.site]).toEqual([200, 2]);
    });

    test("a page that nobody is on has 0, a bad page name is refused with 400", async () => {
      const here = await stage();
      expect(await here.count("/nobody")).toMatchObject({ site: 0, page: 0 });
      expectProblem(await ask(here.service.url, `GET /count?site=${here.site}&page=%0A`), 400);
    });

    test("an unknown site is 404", async () => {
      const { url } = await main();
      for (const site of ["unknown.example", "%00", "sub.plain.example", "*", "__proto__"])
        expectProblem(
          await ask(url, `GET /count?site=${site}`, { headers: { origin: "https://x.example" } }),
          404,
          "https://x.example",
        );
    });

    test("without a site it is the one of the Origin, of the Referer, or the service's own", async () => {
      const here = await stage();
      const { url } = here.service;
      await here.open();
      await here.open();
      const count = async (headers = {}): Promise<number> => (await ask(url, "GET /count", { headers })).json.site;
      expect(await count({ origin: here.origin })).toBe(2);
      expect(await count({ referer: `${here.origin}/some/page` })).toBe(2);
      const own = await start();
      await new Visitor(own.url, own.url).open();
      expect((await ask(own.url, "GET /count")).json.site).toBe(1);
    });
  });

  describe("GET /badge.svg", () => {
    test("is an SVG picture with the number", async () => {
      const here = await stage();
      for (let visitor = 0; visitor < 7; visitor++) await here.open();
      const answer = await ask(here.service.url, `GET /badge.svg?site=${here.site}`);
      expect(answer.status).toBe(200);
      expect(answer.headers.get("content-type")).toStartWith("image/svg+xml");
      expect(answer.headers.get("cache-control")).toMatch(/max-age=\d+|no-cache/);
      expect(answer.text).toMatch(/^<svg [\s\S]*\b7\b[\s\S]*<\/svg>\s*$/);
      expectProblem(await ask(here.service.url, "GET /badge.svg?site=unknown.example"), 404);
    });
  });

  describe("GET /widget.js", () => {
    test("is cacheable, usable from any site, and compressed", async () => {
      const { url } = await main();
      const plain = await ask(url, "GET /widget.js");
      expect(plain.status).toBe(200);
      expect(plain.headers.get("content-type")).toMatch(/^(text|application)\/javascript/);
      expect(plain.headers.get("cross-origin-resource-policy")).toBe("cross-origin");
      expect(plain.headers.get("cache-control")).toMatch(/max-age=\d+/);
      expect(plain.headers.get("vary")?.toLowerCase()).toContain("accept-encoding");
      expect(plain.headers.get("content-encoding")).toBeNull();
      expect(plain.text).toContain("data-headcount");

      const unpack = { br: brotliDecompressSync, gzip: gunzipSync };
      for (const coding of ["br", "gzip"] as const) {
        const answer = await ask(url, "GET /widget.js", { headers: { "accept-encoding": coding } });
        expect(answer.headers.get("content-encoding")).toBe(coding);
        expect(answer.bytes.length).toBeLessThan(plain.bytes.length);
        expect(unpack[coding](answer.bytes).toString()).toBe(plain.text);
      }
      const best = await ask(url, "GET /widget.js", { headers: { "accept-encoding": "gzip, deflate, br, zstd" } });
      expect(best.headers.get("content-encoding")).toBe("br");
      const without = await ask(url, "GET /widget.js", { headers: { "accept-encoding": "br;q=0, identity" } });
      expect(without.headers.get("content-encoding")).toBeNull();

      const headers = { "if-none-match": best.headers.get("etag")!, "accept-encoding": "br" };
      expect((await ask(url, "GET /widget.js", { headers })).status).toBe(304);
    });
  });

  describe("GET /", () => {
    test("is a page with the snippet for this server, and nothing inline without a nonce", async () => {
      const service = await main();
      const answer = await ask(service.url, "GET /", { headers: { accept: "text/html" } });
      expect(answer.status).toBe(200);
      expect(answer.headers.get("content-type")).toStartWith("text/html");
      expect(answer.text).toContain(`${service.url}/widget.js`);
      expect(answer.text).toContain("data-headcount");
      expect(answer.text).not.toContain("{{");

      const policy = answer.headers.get("content-security-policy") ?? "";
      const nonce = /'nonce-([\w+/=-]{16,})'/.exec(policy)?.[1];
      expect(nonce).toBeDefined();
      expect(policy).not.toContain("unsafe-inline");
      const inline = [...answer.text.matchAll(/<(script|style)\b([^>]*)>/g)].filter(
        ([, , attributes = ""]) => !/\bsrc=/.test(attributes),
      );
      expect(inline.length).toBeGreaterThan(0);
      for (const [tag] of inline) expect(tag).toContain(`nonce="${nonce}"`);
      const markup = answer.text.replaceAll(/<(script|style)\b[^>]*>[\s\S]*?<\/\1>/g, "");
      expect(markup).not.toMatch(/<[^>]+\s(on\w+|style)=/);
      expect((await ask(service.url, "GET /")).text).not.toContain(nonce!);
    });

    test("the origin that it shows is escaped, and the public one behind a proxy", async () => {
      const { url } = await guarded();
      const headers = { host: "count.example", "x-forwarded-proto": "https" };
      expect((await ask(url, "GET /", { headers })).text).toContain("https://count.example/widget.js");
      const evil = await ask(url, "GET /", { headers: { host: 'x"><script>alert(1)</script>' } });
      expect(evil.text).not.toContain("<script>alert(1)");
    });
  });

  test("GET /healthz and /readyz answer 200", async () => {
    const { url } = await main();
    expect((await ask(url, "GET /healthz")).status).toBe(200);
    expect((await ask(url, "GET /readyz")).status).toBe(200);
  });

  test("an unknown route is a 404 problem", async () => {
    const { url } = await main();
    const origin = "https://plain.example";
    for (const route of ["GET /nope", "POST /", "GET /../../etc/passwd", "GET /token", "GET /%ff"])
      expectProblem(await ask(url, route, { headers: { origin } }), 404, origin);
  });

  // ------------------------------------------------------------------------------------------ settings and signals

  describe("settings", () => {
    test("every wrong one is named with its value and what is expected, and the exit code is 1", async () => {
      const wrong = {
        PORT: "80a",
        SITES: "https://",
        SECRET: "short",
        TRUST_PROXY: "-1",
        DENY: "192.0.2.0/33",
        GRACE_SECONDS: "five",
        HEARTBEAT_SECONDS: "0",
        TOKEN_TTL_SECONDS: "1.5",
        MAX_PAGES_PER_VISITOR: "1e3",
        MAX_PAGES_PER_IP: "-5",
        MAX_TOKENS_PER_IP: "many",
        MAX_VISITORS_PER_IP: "0x10",
        MAX_CONNECTIONS: "∞",
        IDENTITY: "fingerprint",
        COUNT_BOTS: "perhaps",
      };
      const { code, stderr } = await refuseToStart(runtime, wrong);
      expect(code).toBe(1);
      const lines = stderr.trim().split("\n");
      for (const [name, value] of Object.entries(wrong)) {
        const named = lines.filter((line) => line.startsWith(`Cannot read ${name}: `));
        expect([name, named.length]).toEqual([name, 1]);
        if (name !== "SECRET") expect(named[0]).toContain(JSON.stringify(value));
        expect(named[0]).toMatch(/ is not \S+/);
      }
      expect(lines).toHaveLength(Object.keys(wrong).length);
    });

    test("a secret is not printed when it is wrong", async () => {
      const { stderr } = await refuseToStart(runtime, { SECRET: "hunter2", ADMIN_PASSWORD: "hunter3" });
      expect(stderr).toMatch(/SECRET[^]*ADMIN_PASSWORD/);
      expect(stderr).not.toMatch(/hunter/);
    });

    test("the ready line has the URL and the snippet", async () => {
      const service = await main();
      const ready = service.logs.find((line) => line.event === "ready")!;
      expect(ready).toMatchObject({ level: "info", time: expect.stringMatching(/^\d{4}-\d\d-\d\dT/) });
      expect(ready["url"]).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/$/);
      expect(ready["snippet"]).toContain(`src="${service.url}/widget.js"`);
    });

    test("a port that is taken stops the start with one clear line", async () => {
      const { host } = await main();
      const { code, stderr } = await refuseToStart(runtime, { PORT: host.split(":")[1]! });
      expect(code).toBe(1);
      expect(stderr).toContain(host.split(":")[1]!);
      expect(stderr.trim().split("\n")).toHaveLength(1);
    });

    test("IDENTITY=hash keeps nothing in the browser and counts it once", async () => {
      const { url } = await start({ IDENTITY: "hash", GRACE_SECONDS: grace, TRUST_PROXY: 1 });
      const other = userAgent.replaceAll("145", "146");
      const browser = (agent: string, address: string) =>
        new Visitor(url, "http://localhost", { headers: { "user-agent": agent, "x-forwarded-for": address } });
      const answer = await browser(userAgent, "10.0.0.1").token();
      expect(answer.headers.getSetCookie()).toEqual([]);
      expect(answer.json.visitor || undefined).toBeUndefined();
      const page = await browser(userAgent, "10.0.0.1").open();
      expect((await browser(userAgent, "10.0.0.1").open()).frames[0]).toMatchObject({ site: 1 });
      expect((await browser(other, "10.0.0.1").open()).frames[0]).toMatchObject({ site: 2 });
      expect((await browser(userAgent, "10.9.0.1").open()).frames[0]).toMatchObject({ site: 3 });
      await page.shows({ site: 3 });
    });

    test("SECRET makes tokens and visitors good on another process", async () => {
      const settings = { SECRET: "correct horse battery staple" };
      const [one, other] = [await start(settings), await start(settings)];
      const visitor = new Visitor(one.url, "http://localhost");
      const { token, visitor: id } = (await visitor.token()).json;
      const headers = { origin: "http://localhost" };
      await expectOpened(upgrade(other.url, token, { headers }));
      const answer = await ask(other.url, "POST /token", { headers, body: JSON.stringify({ visitor: id }) });
      expect(answer.json.visitor).toBe(id);
      const stranger = await start();
      expectProblem(await upgrade(stranger.url, (await visitor.token()).json.token, { headers }), 403);
    });

    test("a generated secret is kept in DATA: visitors outlive a restart", async () => {
      const service = await start({ DATA: temporaryFolder(), GRACE_SECONDS: grace });
      const visitor = new Visitor(service.url, "http://localhost");
      const { visitor: id } = (await visitor.token()).json;
      for (const signal of ["SIGTERM", "SIGKILL"] as const) {
        await service.stop(signal);
        await service.start();
        const answer = await visitor.token();
        expect([signal, answer.status, answer.json.visitor]).toEqual([signal, 200, id]);
      }
    });
  });

  describe("signals", () => {
    test("SIGKILL loses 5 s of reading time at most, of a view that goes on and of one that is over", async () => {
      const service = await start({ DATA: temporaryFolder() });
      const [one, other] = [1, 2].map(() => new Visitor(service.url, "http://localhost"));
      const began = performance.now();
      const open = await one!.open("/open");
      const over = await other!.open("/over");
      await sleep(3000);
      over.vanish();
      await sleep(6000);
      const read = Math.round((performance.now() - began) / 1000);
      await service.stop("SIGKILL");
      open.vanish();
      await service.start();
      const kept = async (page: string): Promise<{ views: number; seconds: number }> =>
        (await ask(service.url, `GET /reading?site=localhost&page=${page}`)).json;
      const expectKept = async (page: string, seconds: number, lost: number): Promise<void> => {
        const its = await kept(page);
        expect([page, its.views]).toEqual([page, 1]);
        expect(its.seconds).toBeGreaterThanOrEqual(seconds - lost);
        expect(its.seconds).toBeLessThanOrEqual(seconds + 1);
      };
      await expectKept("/open", read, 5 + 1); // both are rounded
      await expectKept("/over", 3, 1);
    });

    for (const signal of ["SIGTERM", "SIGINT"] as const)
      test(`${signal} closes pages with 1012 and a window, and ends with 0 within 10 s`, async () => {
        const service = await start();
        const pages: Page[] = [];
        for (let visitor = 0; visitor < 3; visitor++)
          pages.push(await new Visitor(service.url, "http://localhost").open());
        const ended = service.stop(signal); // rejects after 10 s
        for (const page of pages) {
          const { code, reason } = await page.ends(10_000);
          expect(code).toBe(1012);
          expect(reason).toMatch(/^\d+(\.\d+)?$/);
          expect(Number(reason)).toBeGreaterThan(0);
          expect(Number(reason)).toBeLessThanOrEqual(8);
        }
        expect(await ended).toBe(0);
      });

    test("a restart has no dip: who was online counts until they are back, or for 15 s", async () => {
      const service = await start({ DATA: temporaryFolder(), GRACE_SECONDS: grace });
      const visitors = [1, 2, 3].map(() => new Visitor(service.url, "http://localhost"));
      for (const visitor of visitors) await visitor.open();
      await service.stop("SIGTERM");
      await service.start();
      const began = performance.now();
      const observer = await new Visitor(service.url, "http://localhost").open("/", { observe: true });
      expect(observer.frames[0]).toMatchObject({ site: 3, page: 3 });
      const back = await visitors[0]!.open();
      expect(back.frames[0]).toMatchObject({ site: 3, page: 3 });
      await observer.shows({ site: 1, page: 1 }, 17_000);
      expect(performance.now() - began).toBeGreaterThan(13_000);
      expect(observer.frames.flatMap(({ site }) => site ?? [])).toEqual([3, 1]);
    });

    test("SIGTERM ends it within 10 s with a page that does not answer", async () => {
      const service = await start();
      const page = await new Visitor(service.url, "http://localhost").open();
      page.silent = true;
      expect(await service.stop("SIGTERM")).toBe(0);
    });
  });
}
