/** Who gets a token, and whom a token lets in. */
import { describe, expect, spyOn, test } from "bun:test";
import { answer, FIREFOX, setUp } from "../support/routes.ts";

describe("POST /token and GET /ws", () => {
  test("a token opens one socket, for its visitor, page and site", async () => {
    const { admitted, ticket, connect, rooms } = await setUp();
    const good = await ticket({ page: "/a/" });
    expect((await connect(good)).status).toBe(101);
    expect(admitted).toHaveLength(1);
    expect(admitted[0]?.room.page).toBe("/a");
    expect(rooms.count("example.com", "/a")).toBe(1);
    expect((await connect(good)).status).toBe(403);
    expect((await connect(await ticket(), { Origin: "http://example.com" })).status).toBe(403);
  });

  test("a handshake that the runtime refuses leaves nobody counted after grace", async () => {
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

  test("a refusal is a problem document that its page can read", async () => {
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

  test("behind a proxy with https the cookie is a __Host- one, partitioned", async () => {
    const { token } = await setUp({ TRUST_PROXY: "1" });
    const cookie = (await token({}, { "X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.9" })).headers.get(
      "set-cookie",
    );
    for (const part of ["__Host-headcount-", "Path=/", "HttpOnly", "Secure", "SameSite=None", "Partitioned"])
      expect(cookie).toContain(part);
  });

  test("ten times over the token limit an address may not come in, but may still look", async () => {
    const { token, request } = await setUp({ MAX_TOKENS_PER_IP: "2" });
    const seen = [];
    for (let i = 0; i < 22; i += 1) seen.push((await token({ observe: true })).status);
    expect(seen).toEqual([200, 200, ...Array.from({ length: 19 }, () => 429), 403]);
    expect((await token({ observe: true }, {}, "192.0.2.2")).status).toBe(200);
    for (const path of ["/count", "/healthz", "/", "/widget.js"]) expect((await request(path)).status).toBe(200);
  });

  test("a banned IPv6 address is refused by its /64, at the token and at the upgrade", async () => {
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

  test("an Origin that is none, or not of SITES, is refused and uses up nothing", async () => {
    const { token } = await setUp({ MAX_TOKENS_PER_IP: "2" });
    const origins = ["https://evil.example", "https://example.com anything", "https://count.example count.example"];
    for (let i = 0; i < 30; i += 1)
      for (const Origin of origins) expect((await token({}, { Origin })).status).toBe(403);
    expect((await token()).status).toBe(200);
  });

  test("the limit of pages holds at the token and again at the upgrade", async () => {
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

  test("while the service drains it is alive but not ready, and newcomers are told when to come back", async () => {
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

  test("an unexpected failure is a problem without a stack trace", async () => {
    const { app, ticket } = await setUp();
    const headers = { Upgrade: "websocket", Origin: "https://example.com", Host: "count.example" };
    const upgrade = () => {
      throw new Error("a secret detail");
    };
    const response = await app.request(`/ws?token=${await ticket()}`, { headers }, { address: "192.0.2.1", upgrade });
    expect(response.status).toBe(500);
    expect(await response.text()).not.toMatch(/secret|server\.ts/);
  });

  test("with IDENTITY=hash, new visitors of an address are limited too", async () => {
    const { token } = await setUp({ IDENTITY: "hash", MAX_VISITORS_PER_IP: "5" });
    const statuses = [];
    for (let i = 0; i < 8; i += 1) statuses.push((await token({}, { "User-Agent": `${FIREFOX} ${i}` })).status);
    expect(statuses).toEqual([200, 200, 200, 200, 200, 429, 429, 429]);
    expect((await token({}, { "User-Agent": `${FIREFOX} 0` })).status).toBe(200); // known already
  });

  test("with IDENTITY=hash, a visitor is another one after midnight in TZ, and not at another time", async () => {
    const { engine, token, connect, admitted } = await setUp({ IDENTITY: "hash", TZ: "Asia/Shanghai" });
    const visitorAt = async (time: string) => {
      spyOn(engine, "wallClock").mockReturnValue(Date.parse(time));
      await connect((await answer(await token())).token);
      return admitted.at(-1)?.visitor;
    };
    const before = await visitorAt("2026-05-01T23:59:00+08:00");
    const morning = await visitorAt("2026-05-02T07:59:00+08:00");
    expect(await visitorAt("2026-05-02T08:01:00+08:00")).toBe(morning); // midnight in UTC
    expect(morning).not.toBe(before);
  });

  test("the service's own site has one name, whatever the case of Host", async () => {
    const { request, connect, ticket, token } = await setUp();
    const own = { Host: "Count.Example", Origin: "http://count.example" };
    const { token: good } = await answer(await token({}, own));
    expect((await connect(good, own)).status).toBe(101);
    expect(await ticket()).toBeTruthy();
    const count = await (await request("/count", { headers: { Host: "COUNT.example", Origin: "" } })).json();
    expect(count).toMatchObject({ site: 1 });
  });

  test("the service's own page is counted under the entry of SITES that covers it", async () => {
    const { request, connect, token } = await setUp({ SITES: "*.example.com" });
    const own = { Host: "count.example.com", Origin: "http://count.example.com" };
    const { token: good } = await answer(await token({}, own));
    expect((await connect(good, own)).status).toBe(101);
    const count = await (await request("/count", { headers: { Host: "count.example.com", Origin: "" } })).json();
    expect(count).toMatchObject({ site: 1 });
  });

  test("a limit that a proxy shares between its visitors names TRUST_PROXY", async () => {
    const { token } = await setUp({ MAX_TOKENS_PER_IP: "1" });
    const behindProxy = { "X-Forwarded-For": "192.0.2.9" };
    await token({}, behindProxy);
    const refused = await token({}, behindProxy);
    expect(refused.status).toBe(429);
    expect(((await refused.json()) as { detail: string }).detail).toContain("TRUST_PROXY is 0");
    expect(((await (await token()).json()) as { detail: string }).detail).not.toContain("TRUST_PROXY is 0");
  });
});
