import { describe, expect, test } from "bun:test";
import {
  type Claims,
  clientAddress,
  createApp,
  EmbeddedEngine,
  Guard,
  hashVisitor,
  Journal,
  limitKey,
  pageName,
  type OpenPage,
  Pages,
  parseSite,
  readSettings,
  Rooms,
  Signer,
  Sites,
} from "../server.ts";
import { authorizationOf } from "./support/client.ts";

describe("settings", () => {
  test("settings: an empty environment gives the documented defaults", () => {
    const { MAX_CONNECTIONS, ...rest } = readSettings({});
    expect(rest).toEqual({
      PORT: 3000,
      HOST: "0.0.0.0",
      TRUST_PROXY: 0,
      DENY: [],
      DATA: "./data",
      GRACE_SECONDS: 5,
      HEARTBEAT_SECONDS: 25,
      TOKEN_TTL_SECONDS: 30,
      MAX_PAGES_PER_VISITOR: 20,
      MAX_PAGES_PER_IP: 200,
      MAX_TOKENS_PER_IP: 120,
      MAX_VISITORS_PER_IP: 60,
      IDENTITY: "cookie",
      COUNT_BOTS: "false",
    });
    expect(MAX_CONNECTIONS).toBeGreaterThan(100);
  });

  test("settings: every wrong one is named with its value and what is expected", () => {
    const wrong = { PORT: "80a", GRACE_SECONDS: "-1", IDENTITY: "ip", DENY: "10.0.0.0/33", SITES: "a b://c", HOST: "" };
    expect(() => readSettings(wrong)).toThrow(
      [
        'Cannot read PORT: "80a" is not a port (0–65535)',
        'Cannot read SITES: "a b://c" is not a list of sites such as example.com, https://example.com:8443 or *.example.com',
        'Cannot read DENY: "10.0.0.0/33" is not a list of addresses and CIDR blocks such as 192.0.2.1 or 2001:db8::/32',
        'Cannot read GRACE_SECONDS: "-1" is not a number of seconds (0–3600)',
        'Cannot read IDENTITY: "ip" is not cookie or hash',
      ].join("\n"),
    );
  });
});

describe("sites", () => {
  const sites = new Sites(
    ["example.com", "https://example.org:8443", "*.example.net", "localhost", "münchen.example"]
      .map(parseSite)
      .filter((site) => site !== undefined),
  );
  const of = (origin: string, host = "count.example") => sites.byOrigin(URL.parse(origin) ?? undefined, host);

  test.each([
    ["https://example.com", "example.com"],
    ["http://example.com", "example.com"],
    ["HTTPS://Example.COM:443", "example.com"],
    ["http://example.com:80", "example.com"],
    ["https://example.com:8443", undefined],
    ["https://example.com.", undefined],
    ["https://www.example.com", undefined],
    ["https://example.com.evil.example", undefined],
    ["https://evilexample.com", undefined],
    ["https://example.org:8443", "https://example.org:8443"],
    ["http://example.org:8443", undefined],
    ["https://example.org", undefined],
    ["https://example.net", "*.example.net"],
    ["https://a.b.example.net", "*.example.net"],
    ["https://evilexample.net", undefined],
    ["https://a.example.net:81", undefined],
    ["http://localhost:5173", "localhost"],
    ["https://xn--mnchen-3ya.example", "xn--mnchen-3ya.example"],
    ["https://count.example", "count.example"],
    ["https://count.example:8443", undefined],
  ])("sites: the origin %s is of the site %p", (origin, site) => {
    expect(of(origin)).toBe(site);
  });

  test("sites: the service's own origin is its Host, whatever the case and default port", () => {
    expect(of("http://127.0.0.1:3000", "127.0.0.1:3000")).toBe("127.0.0.1:3000");
    expect(of("https://count.example", "COUNT.example:443")).toBe("count.example");
    expect(of("https://count.example", "other.example")).toBeUndefined();
  });

  test("sites: without SITES only this machine is served", () => {
    const closed = new Sites(undefined);
    expect(closed.byOrigin(new URL("http://localhost:8080"), "localhost:3000")).toBe("localhost");
    expect(closed.byOrigin(new URL("http://[::1]:8080"), "localhost:3000")).toBe("localhost");
    expect(closed.byOrigin(new URL("https://example.com"), "localhost:3000")).toBeUndefined();
  });

  test("sites: a name finds an entry, a host that an entry covers, or the service itself", () => {
    expect(sites.byName("*.example.net", "count.example")).toBe("*.example.net");
    expect(sites.byName("www.example.net", "count.example")).toBe("*.example.net");
    expect(sites.byName("count.example", "count.example")).toBe("count.example");
    expect(sites.byName("nobody.example", "count.example")).toBeUndefined();
  });

  test.each(["", "a b", "example.com/path", "example.com:81", "*.*.com", "ftp://example.com", "https://u@example.com"])(
    "sites: %p is not an entry",
    (entry) => {
      expect(parseSite(entry)).toBeUndefined();
    },
  );
});

describe("names and addresses", () => {
  test.each([
    ["/", "/"],
    ["/about/", "/about"],
    ["/about/index.html", "/about"],
    ["/caf%C3%A9?utm=1", "/café"],
    ["/cafe\u0301", "/café"],
    ["/100%", "/100%"],
    ["/app#/inbox", "/app#/inbox"],
    ["home", "home"],
    ["x".repeat(1_024), "x".repeat(1_024)],
    ["x".repeat(1_025), undefined],
    ["", undefined],
    ["/a\nb", undefined],
    ["/a%0Ab", undefined],
    ["/\u001b[31m", undefined],
    ["/\ud800", undefined],
  ])("page names: %p is called %p", (text, name) => {
    expect(pageName(text)).toBe(name);
  });

  test.each([
    ["10.0.0.1", undefined, 0, "10.0.0.1"],
    ["10.0.0.1", "192.0.2.1", 0, "10.0.0.1"],
    ["10.0.0.1", "6.6.6.6, 192.0.2.1", 1, "192.0.2.1"],
    ["10.0.0.1", "6.6.6.6, 192.0.2.1, 10.0.0.2", 2, "192.0.2.1"],
    ["10.0.0.1", "192.0.2.1", 2, "10.0.0.1"],
    ["10.0.0.1", "nonsense", 1, "10.0.0.1"],
    ["10.0.0.1", "192.0.2.1:5678", 1, "192.0.2.1"],
    ["10.0.0.1", "[2001:db8::1]:5678", 1, "2001:db8::1"],
    ["::ffff:192.0.2.1", undefined, 0, "192.0.2.1"],
    ["2001:DB8:0:0::1", undefined, 0, "2001:db8::1"],
  ])("addresses: socket %p, X-Forwarded-For %p and %d proxies make %p", (socket, forwarded, hops, address) => {
    expect(clientAddress(socket, forwarded, hops)).toBe(address);
  });

  test.each([
    ["192.0.2.1", "192.0.2.1", true],
    ["::ffff:192.0.2.1", "192.0.2.1", true],
    ["192.0.2.0/24", "192.0.2.255", true],
    ["192.0.2.0/24", "192.0.3.1", false],
    ["::ffff:192.0.2.0/120", "192.0.2.255", true],
    ["::ffff:192.0.2.0/120", "192.0.3.1", false],
    ["2001:db8::/32", "2001:db8:1::1", true],
    ["::/0", "192.0.2.1", false],
  ])("addresses: DENY %p against %p: %p", (entry, address, isDenied) => {
    expect(new Guard(readSettings({ DENY: entry })).address(address)).toBe(isDenied ? "address" : undefined);
  });

  test.each(["10", "192.0.2", "10/8", "0x7f000001", "192.0.2.1/33", "example.com", "2001:db8::/129"])(
    "addresses: %p is no block",
    (entry) => {
      expect(() => readSettings({ DENY: entry })).toThrow("Cannot read DENY");
    },
  );

  test("addresses: limits see IPv6 by /64", () => {
    expect(limitKey("2001:db8:1:2:3:4:5:6")).toBe(limitKey("2001:db8:1:2::9"));
    expect(limitKey("2001:db8:1:2::9")).not.toBe(limitKey("2001:db8:1:3::9"));
    expect(limitKey("192.0.2.1")).toBe("192.0.2.1");
  });
});

describe("visitors and tokens", () => {
  const signer = new Signer("a secret of some length");
  const id = "A".repeat(22);
  const claims: Claims = { visitor: id, page: "/é", expires: 2_000, nonce: 7 };

  test("visitors: an id is good for the site it was signed for, by whom it was signed", () => {
    const signed = signer.signVisitor("example.com", id);
    expect(signer.readVisitor("example.com", signed)).toBe(id);
    expect(signer.readVisitor("example.org", signed)).toBeUndefined();
    expect(new Signer("another secret").readVisitor("example.com", signed)).toBeUndefined();
    for (const forged of [undefined, "", ".", id, `${id}.`, `${id}.${"B".repeat(22)}`, `${signed}x`, `${signed}.x`])
      expect(signer.readVisitor("example.com", forged)).toBeUndefined();
  });

  test("tokens: what was signed is read again, from the same origin and in time", () => {
    const token = signer.signToken("https://example.com", claims);
    expect(signer.readToken("https://example.com", token, 1_999)).toEqual(claims);
    expect(signer.readToken("https://example.com", token, 2_000)).toBeUndefined();
    expect(signer.readToken("http://example.com", token, 1_999)).toBeUndefined();
    expect(new Signer("another secret").readToken("https://example.com", token, 1_999)).toBeUndefined();
  });

  test("tokens: no other character anywhere makes a good token", () => {
    const token = signer.signToken("https://example.com", claims);
    for (let i = 0; i < token.length; i += 1) {
      const forged = token.slice(0, i) + (token[i] === "A" ? "B" : "A") + token.slice(i + 1);
      expect(signer.readToken("https://example.com", forged, 0)).toBeUndefined();
    }
    for (const forged of ["", ".", token.slice(1), `${token}A`, `${token}.`, signer.signVisitor("example.com", id)])
      expect(signer.readToken("https://example.com", forged, 0)).toBeUndefined();
  });

  test("visitors: a hash is the same for one browser on one site and day, and different otherwise", () => {
    const one = hashVisitor("salt", "example.com", "2001:db8::1", "Firefox");
    expect(hashVisitor("salt", "example.com", "2001:db8::2", "Firefox")).toBe(one);
    expect(hashVisitor("salt2", "example.com", "2001:db8::1", "Firefox")).not.toBe(one);
    expect(hashVisitor("salt", "example.org", "2001:db8::1", "Firefox")).not.toBe(one);
    expect(hashVisitor("salt", "example.com", "2001:db9::1", "Firefox")).not.toBe(one);
    expect(hashVisitor("salt", "example.com", "2001:db8::1", "Chrome")).not.toBe(one);
  });
});

describe("engine", () => {
  const TTL = 30_000;
  const engine = new EmbeddedEngine(":memory:", TTL);
  const claims = (nonce: number, minted: number) => ({ visitor: "", page: "/", nonce, expires: minted + TTL });

  test("engine: a secret stays, until another name is asked for", async () => {
    const first = await engine.secret("salt", "monday");
    expect(first.length).toBeGreaterThan(40);
    expect(await engine.secret("salt", "monday")).toBe(first);
    expect(await engine.secret("signing", "monday")).not.toBe(first);
    expect(await engine.secret("salt", "tuesday")).not.toBe(first);
    expect(await engine.secret("salt", "monday")).not.toBe(first);
  });

  test("engine: a nonce is spent once as long as its token lives", async () => {
    const start = Date.now();
    for (let second = 0; second < 120; second += 1) {
      const now = start + second * 1_000;
      expect(await engine.spend(claims(second, now), now)).toBe(true);
      for (let age = 0; age < 30 && age <= second; age += 1)
        expect(await engine.spend(claims(second - age, now - age * 1_000), now)).toBe(false);
    }
  });

  test("engine: a token from before the start may have been spent, and is refused", async () => {
    const before = Date.now() - 20_000;
    expect(await engine.spend(claims(99_999, before), Date.now())).toBe(false);
  });
});

describe("routes", () => {
  const FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

  const answer = async (response: Response) => (await response.json()) as { token: string; visitor: string };

  function setUp(environment: Record<string, string> = {}) {
    const settings = readSettings({ SITES: "example.com", ...environment });
    const guard = new Guard(settings);
    const rooms = new Rooms(5_000);
    const engine = new EmbeddedEngine(":memory:", 30_000);
    const sites = new Sites(settings.SITES);
    const journal = new Journal(engine, rooms, sites);
    const pages = new Pages(rooms, guard, journal, 25_000);
    const html = "<p nonce={{nonce}}>{{origin}}";
    const assets = {
      "widget.js": "/* widget */",
      "debug.js": "/* debug */",
      "home.html": html,
      "dashboard.html": html,
      "check.html": html,
      "README.md": "# Headcount",
      "badge.svg": "<svg>{{count}}</svg>",
    };
    const password = "correct horse";
    const signer = new Signer("a secret of some length");
    const app = createApp({ settings, sites, signer, guard, rooms, pages, journal, engine, assets, password });
    const admitted: OpenPage[] = [];
    const upgrade = (page: OpenPage) => {
      admitted.push(page);
      return new Response(null, { status: 101 });
    };
    const request = (
      path: string,
      init: { method?: string; body?: string; headers?: Record<string, string> } = {},
      address = "192.0.2.1",
    ) =>
      app.request(
        path,
        {
          ...init,
          headers: { Host: "count.example", Origin: "https://example.com", "User-Agent": FIREFOX, ...init.headers },
        },
        { address, upgrade },
      );
    const token = async (body: object = {}, headers: Record<string, string> = {}, address?: string) =>
      request("/token", { method: "POST", body: JSON.stringify(body), headers }, address);
    const granted = async (body: object = {}) => answer(await token(body));
    const ticket = async (body: object = {}) => (await granted(body)).token;
    const connect = async (ticketText: string, headers: Record<string, string> = {}) =>
      request(`/ws?token=${ticketText}`, { headers: { Upgrade: "websocket", ...headers } });
    return { app, admitted, pages, rooms, engine, request, token, granted, ticket, connect };
  }

  test("routes: a token opens one socket, for its visitor, page and site", async () => {
    const { admitted, ticket, connect, rooms } = setUp();
    const good = await ticket({ page: "/a/" });
    expect((await connect(good)).status).toBe(101);
    expect(admitted).toHaveLength(1);
    expect(admitted[0]?.page.page).toBe("/a");
    expect(rooms.count("example.com", "/a")).toBe(1);
    expect((await connect(good)).status).toBe(403);
    expect((await connect(await ticket(), { Origin: "http://example.com" })).status).toBe(403);
  });

  test("routes: a handshake that the runtime refuses leaves nobody counted after grace", async () => {
    const { app, pages, ticket, rooms } = setUp();
    const headers = { Upgrade: "websocket", Origin: "https://example.com", Host: "count.example" };
    const response = await app.request(
      `/ws?token=${await ticket()}`,
      { headers },
      { address: "192.0.2.1", upgrade: () => undefined },
    );
    expect(response.status).toBe(400);
    expect(pages.size).toBe(0);
    rooms.tick(performance.now() + 6_000);
    expect(rooms.count("example.com") ?? 0).toBe(0);
  });

  test("routes: the documentation comes along", async () => {
    const response = await setUp().request("/docs");
    expect(response.headers.get("content-type")).toStartWith("text/plain");
    expect(await response.text()).toBe("# Headcount");
  });

  test("routes: a refusal is a problem document that its page can read", async () => {
    const { token } = setUp();
    const response = await token({}, { Origin: "https://evil.example" });
    expect(response.status).toBe(403);
    expect(response.headers.get("content-type")).toBe("application/problem+json");
    expect(response.headers.get("access-control-allow-origin")).toBe("https://evil.example");
    expect(await response.json()).toEqual({
      type: "urn:headcount:problem:origin",
      title: "Origin not allowed",
      status: 403,
      detail: "https://evil.example is not one of the SITES of this service",
    });
  });

  test("routes: behind a proxy with https the cookie is a __Host- one, partitioned", async () => {
    const { token } = setUp({ TRUST_PROXY: "1" });
    const cookie = (await token({}, { "X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.9" })).headers.get(
      "set-cookie",
    );
    for (const part of ["__Host-headcount-", "Path=/", "HttpOnly", "Secure", "SameSite=None", "Partitioned"])
      expect(cookie).toContain(part);
  });

  test("routes: ten times over the token limit an address is denied everything, and others are not", async () => {
    const { token, request } = setUp({ MAX_TOKENS_PER_IP: "2" });
    const seen = [];
    for (let i = 0; i < 22; i += 1) seen.push((await token({ observe: true })).status);
    expect(seen).toEqual([200, 200, ...Array.from({ length: 19 }, () => 429), 403]);
    expect((await request("/count")).status).toBe(403);
    expect((await request("/count", {}, "192.0.2.2")).status).toBe(200);
  });

  test("routes: an Origin that is none, or not of SITES, is refused and uses up nothing", async () => {
    const { token } = setUp({ MAX_TOKENS_PER_IP: "2" });
    const origins = ["https://evil.example", "https://example.com anything", "https://count.example count.example"];
    for (let i = 0; i < 30; i += 1)
      for (const Origin of origins) expect((await token({}, { Origin })).status).toBe(403);
    expect((await token()).status).toBe(200);
  });

  test("routes: shared caches keep what is told by Referer or Origin apart", async () => {
    const { request } = setUp();
    for (const path of ["/count", "/badge.svg"]) {
      expect((await request(path)).headers.get("vary")).toBe("Referer, Origin");
      expect((await request(`${path}?site=example.com`)).headers.get("vary")).toBe("Origin");
    }
  });

  test("routes: the limit of pages holds at the token and again at the upgrade", async () => {
    const { token, granted, connect, ticket } = setUp({ MAX_PAGES_PER_VISITOR: "1", MAX_PAGES_PER_IP: "2" });
    const first = await granted();
    const second = await granted({ visitor: first.visitor });
    expect(second.visitor).toBe(first.visitor);
    expect((await connect(first.token)).status).toBe(101);
    expect((await connect(second.token)).status).toBe(429);
    const refused = await token({ visitor: first.visitor });
    expect(refused.status).toBe(429);
    expect(refused.headers.get("retry-after")).toBe("30");
    expect((await connect(await ticket())).status).toBe(101);
    expect((await token()).status).toBe(429);
  });

  test("routes: the operator's pages want the password, and ten wrong ones are enough", async () => {
    const { request } = setUp();
    const asked = await request("/dashboard");
    expect(asked.status).toBe(401);
    expect(asked.headers.get("www-authenticate")).toStartWith("Basic ");
    const give = async (path: string, password: string, address?: string) =>
      (await request(path, { headers: { Authorization: authorizationOf(password) } }, address)).status;
    for (const path of ["/dashboard", "/dashboard/state", "/metrics"]) {
      expect(await give(path, "correct horse")).toBe(200);
      expect((await request(path)).headers.get("access-control-allow-origin")).toBeNull();
    }
    for (let i = 0; i < 10; i += 1) expect(await give("/metrics", `guess ${i}`)).toBe(401);
    expect(await give("/metrics", "correct horse")).toBe(429);
    expect(await give("/metrics", "correct horse", "192.0.2.7")).toBe(200);
  });

  test("routes: metrics tell tokens, upgrades, refusals by reason and visitors by site", async () => {
    const { request, token, ticket, connect } = setUp();
    await connect(await ticket());
    await token({}, { Origin: "https://evil.example" });
    await token({}, { Origin: "https://evil.example" });
    const response = await request("/metrics", { headers: { Authorization: authorizationOf("correct horse") } });
    expect(response.headers.get("content-type")).toStartWith("text/plain; version=0.0.4");
    const lines = (await response.text()).split("\n");
    for (const line of [
      'headcount_visitors_online{site="example.com"} 1',
      'headcount_pages_online{site="example.com"} 1',
      "headcount_connections 1",
      "headcount_tokens_total 1",
      "headcount_upgrades_total 1",
      'headcount_refusals_total{reason="origin"} 2',
      "headcount_journal_errors_total 0",
      "# TYPE headcount_frames_sent_total counter",
      "# TYPE headcount_broadcast_delay_seconds histogram",
    ])
      expect(lines).toContain(line);
  });

  test("routes: sites that a Host invents never take the place of those of SITES", async () => {
    const { request, rooms } = setUp({ SITES: "example.com" });
    for (let at = 0; at < 120; at += 1)
      for (const visitor of ["a", "b"]) rooms.open(visitor, `invented-${at}.example`, "/", "192.0.2.1", 0);
    rooms.open("a", "example.com", "/", "192.0.2.1", 0);
    const headers = { Authorization: authorizationOf("correct horse") };
    const metrics = await (await request("/metrics", { headers })).text();
    expect(metrics).toContain('headcount_visitors_online{site="example.com"} 1');
    const { sites } = (await (await request("/dashboard/state", { headers })).json()) as { sites: { site: string }[] };
    expect(sites.map(({ site }) => site)).toContain("example.com");
    expect(sites.length).toBe(100);
  });

  test("routes: the reading times of a site are one million characters at most, those most read first", async () => {
    const { request, engine } = setUp();
    const readings = Array.from({ length: 2_000 }, (_, at) => ({
      site: "example.com",
      page: `/${at}/${"x".repeat(1_000)}`,
      bucket: 13,
      views: 1,
      seconds: at,
    }));
    await engine.record({ readings, peaks: [] });
    const text = await (await request("/reading")).text();
    expect(text.length).toBeGreaterThan(900_000);
    expect(text.length).toBeLessThan(1_000_000);
    expect((JSON.parse(text) as { pages: { page: string }[] }).pages[0]?.page).toStartWith("/1999/");
  });

  test("routes: reading times are told for a page, and for a site most read first", async () => {
    const { request, pages, ticket, connect, admitted, engine } = setUp();
    const sums = (page: string, seconds: number) => ({ site: "example.com", page, bucket: 13, views: 1, seconds });
    await engine.record({ readings: [sums("/a", 10), sums("/b", 11), sums("/b", 10)], peaks: [] });
    await connect(await ticket({ page: "/c" }));
    for (const page of admitted) pages.closed(page);
    await pages.record();
    const body = async (path: string) => (await request(path)).json();
    expect(await body("/reading?site=example.com&page=/b/")).toEqual({ views: 2, seconds: 21, median: 10, p90: 10 });
    const { pages: all } = (await body("/reading")) as { pages: { page: string }[] };
    expect(all.map(({ page }) => page)).toEqual(["/b", "/a", "/c"]);
    expect((await request("/reading?site=nobody.example")).status).toBe(404);
  });

  test("routes: the history has one point for each step in which somebody was there", async () => {
    const { request, engine } = setUp();
    const now = Math.floor(Date.now() / 60_000);
    const peaks = [0, 1, 50, 2_000].map((ago) => ({ site: "example.com", minute: now - ago, peak: 5 + ago }));
    await engine.record({ readings: [], peaks });
    const history = async (range: string) => {
      const headers = { Authorization: authorizationOf("correct horse") };
      const response = await request(`/dashboard/history?site=example.com&range=${range}`, { headers });
      return (await response.json()) as { step: number; to: number; points: { minute: number; peak: number }[] };
    };
    expect((await history("hour")).points.map(({ peak }) => peak)).toEqual([55, 6, 5]);
    const week = await history("week");
    expect(week.step).toBe(14);
    expect(Math.max(...week.points.map(({ peak }) => peak))).toBe(2_005);
    for (const { minute } of week.points) expect(minute % week.step).toBe(0);
    expect((await history("quarter")).step).toBe(180);
    expect(await history("constructor")).toMatchObject({ status: 404 });
  });

  test("routes: while the service drains it is alive but not ready, and newcomers are told when to come back", async () => {
    const { request, pages, ticket, connect, admitted, token } = setUp();
    await connect(await ticket());
    const drained = pages.drain();
    expect((await request("/healthz")).status).toBe(200);
    expect((await request("/readyz")).status).toBe(503);
    const refused = await token();
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "5"]);
    const sent: unknown[] = []; // the socket of the page that was let in before is complete only now
    const wire = {
      readyState: 1,
      send: (text: string) => sent.push(text),
      close: (...how: unknown[]) => sent.push(how),
    };
    for (const page of admitted) pages.opened(page, wire);
    expect(sent).toEqual([[1012, "1"]]);
    for (const page of admitted) pages.closed(page);
    await drained;
  });

  test("routes: an unexpected failure is a problem without a stack trace", async () => {
    const { app, ticket } = setUp();
    const headers = { Upgrade: "websocket", Origin: "https://example.com", Host: "count.example" };
    const upgrade = () => {
      throw new Error("a secret detail");
    };
    const response = await app.request(`/ws?token=${await ticket()}`, { headers }, { address: "192.0.2.1", upgrade });
    expect(response.status).toBe(500);
    expect(await response.text()).not.toMatch(/secret|server\.ts/);
  });
});
