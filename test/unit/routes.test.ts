import { describe, expect, spyOn, test } from "bun:test";
import type { Connection } from "../../server.ts";
import { authorizationOf } from "../support/client.ts";
import { FakeClock, PASSWORD, testService, viewer } from "../support/unit.ts";

const FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
const OPERATOR = { Authorization: authorizationOf(PASSWORD) };

const answer = async (response: Response) => (await response.json()) as { token: string; visitor: string };

/** The routes over real parts; `connect` lets a connection in as the runtime would. */
async function setUp(environment: Record<string, string> = {}) {
  const clock = new FakeClock();
  const service = await testService(environment, clock);
  const { app } = service;
  const admitted: Connection[] = [];
  const upgrade = (connection: Connection) => {
    admitted.push(connection);
    return new Response(null, { status: 101 });
  };
  const request = async (
    path: string,
    init: { method?: string; body?: string; headers?: Record<string, string> } = {},
    address = "192.0.2.1",
  ) => {
    const headers = { Host: "count.example", Origin: "https://example.com", "User-Agent": FIREFOX, ...init.headers };
    return app.request(path, { ...init, headers }, { address, upgrade });
  };
  const token = async (body: object = {}, headers: Record<string, string> = {}, address?: string) =>
    request("/token", { method: "POST", body: JSON.stringify(body), headers }, address);
  const granted = async (body: object = {}) => answer(await token(body));
  const ticket = async (body: object = {}) => (await granted(body)).token;
  const connect = async (ticketText: string, headers: Record<string, string> = {}) =>
    request(`/ws?token=${ticketText}`, { headers: { Upgrade: "websocket", ...headers } });
  return { ...service, clock, admitted, request, token, granted, ticket, connect };
}

describe("routes", () => {
  test("routes: a token opens one socket, for its visitor, page and site", async () => {
    const { admitted, ticket, connect, rooms } = await setUp();
    const good = await ticket({ page: "/a/" });
    expect((await connect(good)).status).toBe(101);
    expect(admitted).toHaveLength(1);
    expect(admitted[0]?.room.page).toBe("/a");
    expect(rooms.count("example.com", "/a")).toBe(1);
    expect((await connect(good)).status).toBe(403);
    expect((await connect(await ticket(), { Origin: "http://example.com" })).status).toBe(403);
  });

  test("routes: a handshake that the runtime refuses leaves nobody counted after grace", async () => {
    const { app, connections, ticket, rooms, clock } = await setUp();
    const headers = { Upgrade: "websocket", Origin: "https://example.com", Host: "count.example" };
    const response = await app.request(
      `/ws?token=${await ticket()}`,
      { headers },
      { address: "192.0.2.1", upgrade: () => undefined },
    );
    expect(response.status).toBe(400);
    expect(connections.size).toBe(0);
    rooms.tick(clock.time + 6_000);
    expect(rooms.count("example.com") ?? 0).toBe(0);
  });

  test("routes: the documentation comes along, and its links know where they are", async () => {
    const { request } = await setUp();
    const text = async (path: string) => (await request(path)).text();
    expect(await text("/docs")).toMatch(/^<!-- README.md.html -->.*<a href=docs>/);
    expect(await text("/docs/README.md")).toMatch(/^<!-- README.md.html -->.*<a href=..\/docs>/);
    expect(await text("/docs/proxies.md")).toMatch(/^<!-- docs\/proxies.md.html -->.*<a href=..\/docs>/);
    expect((await request("/docs/package.json")).status).toBe(404);
  });

  test("routes: pages come in the language that the browser prefers, English unless there is another", async () => {
    const { request } = await setUp();
    const languageFor = async (asked: string, path = "/"): Promise<string | undefined> =>
      /^<!-- (.*?)\.html/.exec(await (await request(path, { headers: { "Accept-Language": asked } })).text())?.[1];
    for (const chinese of ["zh-CN,zh;q=0.9,en;q=0.8", "zh", "ZH-tw", "de, zh;q=0.5", "en;q=0.5, zh-Hans-CN", "zh,en"])
      expect([chinese, await languageFor(chinese)]).toEqual([chinese, "home.zh"]);
    for (const english of [
      "",
      "*",
      "de",
      "en-US,en;q=0.9,zh;q=0.8",
      "zh;q=0",
      "zhx",
      "fr, en",
      ',;q=,"',
      "zh;q=0.1,en",
    ])
      expect([english, await languageFor(english)]).toEqual([english, "home.en"]);
    expect(await languageFor("zh", "/check")).toBe("check.zh");
    expect(await languageFor("zh", "/docs")).toBe("README.zh-CN.md");
    const { headers } = await request("/");
    expect(headers.get("vary")).toContain("Accept-Language");
  });

  test("routes: a refusal is a problem document that its page can read", async () => {
    const { token } = await setUp();
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
    const { token } = await setUp({ TRUST_PROXY: "1" });
    const cookie = (await token({}, { "X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.9" })).headers.get(
      "set-cookie",
    );
    for (const part of ["__Host-headcount-", "Path=/", "HttpOnly", "Secure", "SameSite=None", "Partitioned"])
      expect(cookie).toContain(part);
  });

  test("routes: ten times over the token limit an address may not come in, but may still look", async () => {
    const { token, request } = await setUp({ MAX_TOKENS_PER_IP: "2" });
    const seen = [];
    for (let i = 0; i < 22; i += 1) seen.push((await token({ observe: true })).status);
    expect(seen).toEqual([200, 200, ...Array.from({ length: 19 }, () => 429), 403]);
    expect((await token({ observe: true }, {}, "192.0.2.2")).status).toBe(200);
    for (const path of ["/count", "/healthz", "/", "/widget.js"]) expect((await request(path)).status).toBe(200);
  });

  test("routes: a banned IPv6 address is refused by its /64, at the token and at the upgrade", async () => {
    const { token, ticket, request } = await setUp({ MAX_TOKENS_PER_IP: "1" });
    const good = await ticket();
    for (let i = 1; i <= 11; i += 1) await token({ observe: true }, {}, `2001:db8:1:2::${i}`);
    const neighbour = "2001:db8:1:2:ffff::1";
    const upgrade = { headers: { Upgrade: "websocket" } };
    const answers = [await token({}, {}, neighbour), await request(`/ws?token=${good}`, upgrade, neighbour)];
    for (const refused of answers) {
      expect([refused.status, refused.headers.get("retry-after")]).toEqual([403, "600"]);
      expect(await refused.json()).toMatchObject({ type: "urn:headcount:problem:address" });
    }
    expect((await token({}, {}, "2001:db8:1:3::1")).status).toBe(429); // the /56 is over its limit, and not banned
  });

  test("routes: an Origin that is none, or not of SITES, is refused and uses up nothing", async () => {
    const { token } = await setUp({ MAX_TOKENS_PER_IP: "2" });
    const origins = ["https://evil.example", "https://example.com anything", "https://count.example count.example"];
    for (let i = 0; i < 30; i += 1)
      for (const Origin of origins) expect((await token({}, { Origin })).status).toBe(403);
    expect((await token()).status).toBe(200);
  });

  test("routes: shared caches keep what is told by Referer or Origin apart", async () => {
    const { request } = await setUp();
    for (const path of ["/count", "/badge.svg"]) {
      expect((await request(path)).headers.get("vary")).toBe("Referer, Origin");
      expect((await request(`${path}?site=example.com`)).headers.get("vary")).toBe("Origin");
    }
  });

  test("routes: the limit of pages holds at the token and again at the upgrade", async () => {
    const { token, granted, connect, ticket } = await setUp({ MAX_PAGES_PER_VISITOR: "1", MAX_PAGES_PER_IP: "2" });
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
    const { request } = await setUp();
    const asked = await request("/dashboard");
    expect(asked.status).toBe(401);
    expect(asked.headers.get("www-authenticate")).toStartWith("Basic ");
    const asScript = await request("/dashboard/state", { headers: { "Sec-Fetch-Dest": "empty" } });
    expect([asScript.status, asScript.headers.get("www-authenticate")]).toEqual([401, null]); // no browser asks
    const give = async (path: string, password: string, address?: string) =>
      (await request(path, { headers: { Authorization: authorizationOf(password) } }, address)).status;
    for (const path of ["/dashboard", "/dashboard/state", "/metrics"]) {
      expect(await give(path, PASSWORD)).toBe(200);
      expect((await request(path)).headers.get("access-control-allow-origin")).toBeNull();
    }
    for (let i = 0; i < 10; i += 1) expect(await give("/metrics", `guess ${i}`)).toBe(401);
    expect(await give("/metrics", PASSWORD)).toBe(429);
    expect(await give("/metrics", PASSWORD, "192.0.2.7")).toBe(200);
  });

  test("routes: metrics tell tokens, upgrades, refusals by reason and visitors by site", async () => {
    const { request, token, ticket, connect } = await setUp();
    await connect(await ticket());
    await token({}, { Origin: "https://evil.example" });
    await token({}, { Origin: "https://evil.example" });
    const response = await request("/metrics", { headers: OPERATOR });
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

  test("routes: a second look at the metrics tells the same, since nothing is counted twice by reading it", async () => {
    const { request, ticket, connect } = await setUp();
    await connect(await ticket());
    const look = async () =>
      (await (await request("/metrics", { headers: OPERATOR })).text()).match(/^headcount_\w+_total.*$/gm);
    expect(await look()).toEqual(await look());
  });

  test("routes: sites that a Host invents never take the place of those of SITES", async () => {
    const { request, rooms } = await setUp({ SITES: "example.com" });
    for (let at = 0; at < 120; at += 1)
      for (const visitor of ["a", "b"]) rooms.open(viewer(visitor), `invented-${at}.example`, "/", 0);
    rooms.open(viewer("a"), "example.com", "/", 0);
    const metrics = await (await request("/metrics", { headers: OPERATOR })).text();
    expect(metrics).toContain('headcount_visitors_online{site="example.com"} 1');
    const { sites } = (await (await request("/dashboard/state", { headers: OPERATOR })).json()) as {
      sites: { site: string }[];
    };
    expect(sites.map(({ site }) => site)).toContain("example.com");
    expect(sites.length).toBe(100);
  });

  test("routes: the list of a site of SITES is read once in a while, whatever lists of invented sites are asked for", async () => {
    const { request, engine } = await setUp();
    const mostRead = spyOn(engine, "mostRead");
    const timesRead = () => mostRead.mock.calls.filter(([site]) => site === "example.com").length;
    await request("/reading?site=example.com");
    for (let at = 0; at < 150; at += 1) {
      const host = `invented-${at}.example`;
      expect((await request(`/reading?site=${host}`, { headers: { Host: host } })).status).toBe(200);
    }
    expect((await request("/reading?site=example.com")).status).toBe(200);
    expect([timesRead(), mostRead.mock.calls.length]).toEqual([1, 151]);
  });

  test("routes: lists are read one after the other, and all who wait for the same list share it", async () => {
    const { request, engine } = await setUp();
    const running = { now: 0, most: 0, reads: 0 };
    spyOn(engine, "mostRead").mockImplementation(async () => {
      running.now += 1;
      running.reads += 1;
      running.most = Math.max(running.most, running.now);
      await new Promise((resolve) => setTimeout(resolve, 5));
      running.now -= 1;
      return [];
    });
    const ask = (host: string) => request(`/reading?site=${host}`, { headers: { Host: host } });
    await Promise.all(Array.from({ length: 30 }, (_, at) => ask(`invented-${at % 10}.example`)));
    expect(running).toEqual({ now: 0, most: 1, reads: 10 });
  });

  test("routes: reading times are told for a page, and for a site most read first", async () => {
    const { request, connections, ticket, connect, admitted, engine, clock } = await setUp();
    const sums = (page: string, seconds: number) => ({ site: "example.com", page, bucket: 13, views: 1, seconds });
    await engine.record({ readings: [sums("/a", 10), sums("/b", 11), sums("/b", 10)], peaks: [], views: [] });
    await connect(await ticket({ page: "/c" }));
    clock.time += 2_000;
    for (const connection of admitted) connections.closed(connection);
    await connections.record();
    const body = async (path: string) => (await request(path)).json();
    expect(await body("/reading?site=example.com&page=/b/")).toEqual({ views: 2, seconds: 21, median: 10, p90: 10 });
    const { pages: all } = (await body("/reading")) as { pages: { page: string }[] };
    expect(all.map(({ page }) => page)).toEqual(["/b", "/a", "/c"]);
    expect((await request("/reading?site=nobody.example")).status).toBe(404);
  });

  test("routes: the history has one point for each step in which somebody was there", async () => {
    const { request, engine } = await setUp();
    const now = Math.floor(Date.now() / 60_000);
    const peaks = [0, 1, 50, 2_000].map((ago) => ({ site: "example.com", minute: now - ago, peak: 5 + ago }));
    await engine.record({ readings: [], peaks, views: [] });
    const history = async (range: string) => {
      const response = await request(`/dashboard/history?site=example.com&range=${range}`, { headers: OPERATOR });
      return (await response.json()) as { step: number; since: number; points: { minute: number; peak: number }[] };
    };
    expect((await history("hour")).points.map(({ peak }) => peak)).toEqual([55, 6, 5]);
    const week = await history("week");
    expect(week.step).toBe(14);
    expect(Math.max(...week.points.map(({ peak }) => peak))).toBe(2_005);
    for (const { minute } of week.points) expect(minute % week.step).toBe(0);
    expect((await history("quarter")).step).toBe(180);
    for (const range of ["hour", "quarter"]) expect((await history(range)).since).toBe(now - 2_000);
    expect(await history("constructor")).toMatchObject({ status: 400 });
  });

  test("routes: while the service drains it is alive but not ready, and newcomers are told when to come back", async () => {
    const { request, connections, ticket, connect, admitted, token } = await setUp();
    await connect(await ticket());
    const drained = connections.drain();
    expect((await request("/healthz")).status).toBe(200);
    expect((await request("/readyz")).status).toBe(503);
    const refused = await token();
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "5"]);
    for (const connection of admitted) connections.closed(connection);
    await drained;
  });

  test("routes: an unexpected failure is a problem without a stack trace", async () => {
    const { app, ticket } = await setUp();
    const headers = { Upgrade: "websocket", Origin: "https://example.com", Host: "count.example" };
    const upgrade = () => {
      throw new Error("a secret detail");
    };
    const response = await app.request(`/ws?token=${await ticket()}`, { headers }, { address: "192.0.2.1", upgrade });
    expect(response.status).toBe(500);
    expect(await response.text()).not.toMatch(/secret|server\.ts/);
  });

  test("routes: with IDENTITY=hash, new visitors of an address are limited too", async () => {
    const { token } = await setUp({ IDENTITY: "hash", MAX_VISITORS_PER_IP: "5" });
    const statuses = [];
    for (let i = 0; i < 8; i += 1) statuses.push((await token({}, { "User-Agent": `${FIREFOX} ${i}` })).status);
    expect(statuses).toEqual([200, 200, 200, 200, 200, 429, 429, 429]);
    expect((await token({}, { "User-Agent": `${FIREFOX} 0` })).status).toBe(200); // known already
  });

  test("routes: a foreign page learns from /check/request whether a site is allowed, and nothing else", async () => {
    const { request } = await setUp({ TRUST_PROXY: "1" });
    const path = "/check/request?site=https://example.com";
    const headers = { "X-Forwarded-For": "10.0.0.7, 192.0.2.9" };
    const foreign = await (await request(path, { headers })).json();
    expect(foreign).toEqual({ site: "example.com" });
    const own = await (await request(path, { headers: { ...headers, Origin: "http://count.example" } })).json();
    expect(own).toMatchObject({ site: "example.com", address: "192.0.2.9", host: "count.example" });
  });

  test("routes: the service's own site has one name, whatever the case of Host", async () => {
    const { request, connect, ticket, token } = await setUp();
    const own = { Host: "Count.Example", Origin: "http://count.example" };
    const { token: good } = await answer(await token({}, own));
    expect((await connect(good, own)).status).toBe(101);
    expect(await ticket()).toBeTruthy();
    const count = await (await request("/count", { headers: { Host: "COUNT.example", Origin: "" } })).json();
    expect(count).toMatchObject({ site: 1 });
  });

  test("routes: the service's own page is counted under the entry of SITES that covers it", async () => {
    const { request, connect, token } = await setUp({ SITES: "*.example.com" });
    const own = { Host: "count.example.com", Origin: "http://count.example.com" };
    const { token: good } = await answer(await token({}, own));
    expect((await connect(good, own)).status).toBe(101);
    const count = await (await request("/count", { headers: { Host: "count.example.com", Origin: "" } })).json();
    expect(count).toMatchObject({ site: 1 });
  });

  test("routes: with PUBLIC_DASHBOARD everybody sees the numbers, and only the operator the node", async () => {
    const { request } = await setUp({ PUBLIC_DASHBOARD: "true" });
    const state = (await (await request("/dashboard/state")).json()) as object;
    expect(Object.keys(state)).toEqual(["sites"]);
    expect((await request("/dashboard/history?site=example.com")).status).toBe(200);
    expect((await request("/metrics")).status).toBe(401);
  });

  test("routes: a listed site that nobody is on has a series at 0", async () => {
    const { request } = await setUp();
    const metrics = await (await request("/metrics", { headers: OPERATOR })).text();
    expect(metrics).toContain('headcount_visitors_online{site="example.com"} 0');
  });

  test("routes: a limit that a proxy shares between its visitors names TRUST_PROXY", async () => {
    const { token } = await setUp({ MAX_TOKENS_PER_IP: "1" });
    const behindProxy = { "X-Forwarded-For": "192.0.2.9" };
    await token({}, behindProxy);
    const refused = await token({}, behindProxy);
    expect(refused.status).toBe(429);
    expect(((await refused.json()) as { detail: string }).detail).toContain("TRUST_PROXY is 0");
    expect(((await (await token()).json()) as { detail: string }).detail).not.toContain("TRUST_PROXY is 0");
  });
});
