/** The numbers that everybody may read. */
import { describe, expect, spyOn, test } from "bun:test";
import { setUp } from "../support/routes.ts";
import { connect } from "../support/unit.ts";

describe("GET /count", () => {
  test("has the totals of the site, and with a page its views", async () => {
    const { service, json } = await setUp();
    const ann = connect(service, "ann", "/a");
    connect(service, "ann", "/b");
    await service.connections.countAndRefresh(ann.connection);
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

  test("reads the totals again when they are 5 s old by the clock of the service", async () => {
    const { engine, json, clock } = await setUp();
    const total = async () => ((await json("/count?site=example.com")) as { total: number }).total;
    const countElsewhere = () =>
      engine.record({ readings: [], peaks: [], views: [{ site: "example.com", page: "/a", day: 20_000, views: 3 }] });
    await countElsewhere();
    expect(await total()).toBe(3);
    await countElsewhere();
    clock.time += 4_999;
    expect(await total()).toBe(3);
    clock.time += 1;
    expect(await total()).toBe(6);
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

describe("GET /reading", () => {
  test("the list of a site of SITES is read once in a while, whatever lists of invented sites are asked for", async () => {
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

  test("lists are read one after the other, and all who wait for the same list share it", async () => {
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

  test("reading times are told for a page, and for a site most read first", async () => {
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
});

describe("public numbers", () => {
  test("shared caches keep what is told by Referer or Origin apart", async () => {
    const { request } = await setUp();
    for (const path of ["/count", "/badge.svg"]) {
      expect((await request(path)).headers.get("vary")).toBe("Referer, Origin");
      expect((await request(`${path}?site=example.com`)).headers.get("vary")).toBe("Origin");
    }
  });
});
