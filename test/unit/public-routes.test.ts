import { describe, expect, test } from "bun:test";
import { authorizationOf } from "../support/client.ts";
import { connect, FakeClock, PASSWORD, testService } from "../support/unit.ts";

async function setUp() {
  const clock = new FakeClock();
  const service = await testService({}, clock);
  const upgrade = () => undefined;
  const request = async (path: string, headers: Record<string, string> = {}) =>
    service.app.request(path, { headers: { Host: "count.example", ...headers } }, { address: "192.0.2.1", upgrade });
  const json = async (path: string) => (await request(path)).json();
  return { ...service, service, clock, request, json };
}

describe("GET /count", () => {
  test("has the totals of the site, and with a page its views", async () => {
    const { service, json } = await setUp();
    const ann = connect(service, "ann", "/a");
    connect(service, "ann", "/b");
    await service.connections.refresh(ann.connection);
    const numbers = { site: 1, peak: 1, total: 2, visitors: 0, today: 1 };
    expect(await json("/count?site=example.com")).toEqual(numbers);
    expect(await json("/count?site=example.com&page=/a/")).toEqual({ ...numbers, page: 1, views: 1 });
  });

  test("answers for up to a hundred pages at once, by the names that they were asked for", async () => {
    const { service, json, request } = await setUp();
    for (const page of ["/a", "/a", "/b"]) connect(service, "ann", page);
    const { pages } = (await json("/count?site=example.com&page=/a/index.html&page=/b&page=/none")) as {
      pages: object;
    };
    expect(pages).toEqual({
      "/a/index.html": { page: 1, views: 2 },
      "/b": { page: 1, views: 1 },
      "/none": { page: 0, views: 0 },
    });
    const many = (count: number) => Array.from({ length: count }, (_, i) => `page=/${i}`).join("&");
    expect((await request(`/count?site=example.com&${many(100)}`)).status).toBe(200);
    expect((await request(`/count?site=example.com&${many(101)}`)).status).toBe(400);
    expect((await request("/count?site=example.com&page=/a&page=/%0A")).status).toBe(400);
    const odd = (await json("/count?site=example.com&page=/a&page=__proto__")) as { pages: object };
    expect(Object.keys(odd.pages)).toEqual(["/a", "__proto__"]);
  });

  test("counts a reconnect as the same view, and an observer not at all", async () => {
    const { service, json } = await setUp();
    const { connections } = service;
    connect(service, "ann", "/a");
    const again = { visitor: "ann", page: "/a", expires: 0, nonce: 0, isContinued: true };
    const connection = connections.admit("example.com", again, "192.0.2.1");
    connections.opened(connection, { readyState: 1, send: () => {}, close: () => {} });
    connect(service, "", "/a");
    expect(await json("/count?site=example.com&page=/a")).toMatchObject({ views: 1, total: 1 });
    connections.received(connection, '{"page":"/b"}');
    expect(await json("/count?site=example.com&page=/b")).toMatchObject({ views: 1, total: 2 });
  });
});

describe("GET /badge.svg", () => {
  test("shows the chosen number with its label, in any color", async () => {
    const { service, request } = await setUp();
    for (const visitor of ["ann", "ben"]) connect(service, visitor, "/a");
    const badge = async (query: string) => (await request(`/badge.svg?site=example.com${query}`)).text();
    expect(await badge("")).toContain('aria-label="2 online"');
    expect(await badge("&number=total")).toContain('aria-label="2 views"');
    expect(await badge("&number=views&page=/a")).toContain('aria-label="2 views"');
    expect(await badge("&number=page&page=/b")).toContain('aria-label="0 online"');
    expect(await badge("&number=read&page=/a")).toContain('aria-label="– min read"');
    expect(await badge("&label=在线&color=0969da")).toMatch(/aria-label="2 在线"[^]*fill="#0969da"/);
    expect(await badge("&label=%3Cb%3E%22")).toContain("2 &#60;b&#62;&#34;");
  });

  test("refuses what it cannot draw", async () => {
    const { request } = await setUp();
    for (const query of ["number=x", "number=constructor", "color=url(x)", "color=%22/%3E", `label=${"x".repeat(41)}`])
      expect((await request(`/badge.svg?site=example.com&${query}`)).status).toBe(400);
  });
});

describe("GET /dashboard/days", () => {
  test("has views and visitors by day, for the operator", async () => {
    const { service, request } = await setUp();
    const { connection } = connect(service, "ann", "/a");
    await service.connections.refresh(connection);
    await service.connections.record();
    expect((await request("/dashboard/days?site=example.com")).status).toBe(401);
    const headers = { Authorization: authorizationOf(PASSWORD) };
    const date = new Date().toISOString().slice(0, 10);
    for (const range of ["month", "year", "all"]) {
      const answer = await (await request(`/dashboard/days?site=example.com&range=${range}`, headers)).json();
      expect(answer).toEqual({ today: date, days: [{ date, views: 1, visitors: 1 }] });
    }
    expect((await request("/dashboard/days?site=example.com&range=x", headers)).status).toBe(400);
    const { sites } = (await (await request("/dashboard/state", headers)).json()) as { sites: object[] };
    expect(sites).toMatchObject([{ site: "example.com", visitors: 1, totals: { total: 1, visitors: 0, today: 1 } }]);
  });
});
