/** `GET /count` and `GET /badge.svg`: the numbers for pages without a socket. */
import { expect, test } from "bun:test";
import { ask, Visitor } from "../support/client.ts";
import { expectProblem } from "../support/expect.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { Service } from "../support/service.ts";
import { SharedService } from "../support/site.ts";
import { times } from "../support/target.ts";

onBothRuntimes("count", (runtime) => {
  const shared = new SharedService(runtime);

  test("/count is public JSON with ETag, CORS and Cache-Control", async () => {
    const site = await shared.site();
    await site.open("/a");
    const route = `GET /count?site=${site.name}&page=/a`;
    const answer = await ask(site.url, route, { headers: { origin: site.origin } });
    expect(answer.status).toBe(200);
    expect(answer.headers.get("content-type")).toStartWith("application/json");
    expect(answer.headers.get("cache-control")).toContain("max-age=5");
    expect(answer.headers.get("access-control-allow-origin")).toBe(site.origin);
    expect(answer.json).toMatchObject({ site: 1, page: 1 });

    const etag = answer.headers.get("etag")!;
    const again = await ask(site.url, route, { headers: { "if-none-match": etag } });
    expect([again.status, again.text, again.headers.get("etag")]).toEqual([304, "", etag]);
    await site.open("/a");
    const changed = await ask(site.url, route, { headers: { "if-none-match": etag } });
    expect([changed.status, changed.json.site]).toEqual([200, 2]);
  });

  test("/count says 0 for a page that nobody is on, and refuses a bad page name with 400", async () => {
    const site = await shared.site();
    expect(await site.count("/nobody")).toMatchObject({ site: 0, page: 0 });
    expectProblem(await ask(site.url, `GET /count?site=${site.name}&page=%0A`), 400);
  });

  test("/count of an unknown site is 404", async () => {
    const origin = "https://x.example";
    for (const site of ["unknown.example", "%00", "sub.plain.example", "*", "__proto__"])
      expectProblem(await ask(await shared.url(), `GET /count?site=${site}`, { headers: { origin } }), 404, origin);
  });

  test("/count without a site is about the one of the Origin, of the Referer, or the service's own", async () => {
    const site = await shared.site();
    await site.open();
    await site.open();
    const count = async (headers = {}): Promise<number> => (await ask(site.url, "GET /count", { headers })).json.site;
    expect(await count({ origin: site.origin })).toBe(2);
    expect(await count({ referer: `${site.origin}/some/page` })).toBe(2);
    const own = await Service.start(runtime);
    await new Visitor(own.url, own.url).open();
    expect((await ask(own.url, "GET /count")).json.site).toBe(1);
  });

  test("/badge.svg is an SVG picture with the number", async () => {
    const site = await shared.site();
    await times(7, 7, () => site.open());
    const answer = await ask(site.url, `GET /badge.svg?site=${site.name}`);
    expect(answer.status).toBe(200);
    expect(answer.headers.get("content-type")).toStartWith("image/svg+xml");
    expect(answer.headers.get("cache-control")).toMatch(/max-age=\d+|no-cache/);
    expect(answer.text).toMatch(/^<svg [\s\S]*\b7\b[\s\S]*<\/svg>\s*$/);
    expectProblem(await ask(site.url, "GET /badge.svg?site=unknown.example"), 404);
  });
});
