/** The import from busuanzi, against a server of the test that answers as busuanzi does. */
import { afterAll, describe, expect, test } from "bun:test";
import { gzipSync } from "node:zlib";
import { importBusuanzi, type Progress, type TransferTools } from "../../stats/transfer.ts";
import { quiet, sqlite } from "../support/unit.ts";

const stops: (() => void)[] = [];
afterAll(() => stops.forEach((stop) => stop()));

/** busuanzi and a blog on one server: the blog's pages are `http://127.0.0.1:…/<page>/`. */
function setUp(pages: string[]) {
  const counts = { site: 100, visitors: 40, pages: new Map<string, number>(pages.map((page, at) => [page, 10 * at])) };
  const state = { asked: [] as string[], failures: 0, badAnswer: "" };
  const sitemap = () => {
    const urls = pages.map((page) => `<url><loc>\n${blog}${page}/?a=1&amp;b=2 </loc></url>`);
    return `<?xml version="1.0"?><urlset xmlns="x">${urls.join("")}<url><loc>https://other.example/x</loc></url></urlset>`;
  };
  const answer = (request: Request): Response => {
    const { pathname, searchParams } = new URL(request.url);
    if (pathname === "/sitemap.xml") return new Response(sitemap());
    if (pathname === "/sitemap.xml.gz") return new Response(gzipSync(sitemap()));
    if (pathname === "/index.xml")
      return new Response(`<sitemapindex><sitemap><loc><![CDATA[${blog}/sitemap.xml]]></loc></sitemap></sitemapindex>`);
    if (pathname !== "/busuanzi") return new Response("<html>", { status: pathname === "/page" ? 200 : 404 });
    const page = new URL(request.headers.get("referer") ?? "").pathname.replace(/\/$/, "");
    state.asked.push(page);
    if (state.failures > 0) {
      state.failures -= 1;
      return new Response("busy", { status: 503 });
    }
    counts.site += 1;
    counts.visitors += 1;
    counts.pages.set(page, (counts.pages.get(page) ?? 0) + 1);
    const body = { site_uv: counts.visitors, page_pv: counts.pages.get(page), version: 2.4, site_pv: counts.site };
    const text = state.badAnswer === "" ? JSON.stringify(body) : state.badAnswer;
    return new Response(`try{${searchParams.get("jsonpCallback")}(${text});}catch(e){}`);
  };
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: answer });
  const blog = `http://127.0.0.1:${server.port}`;
  stops.push(() => void server.stop(true));
  const engine = sqlite();
  const waits: number[] = [];
  const tools: TransferTools = {
    store: engine,
    siteName: (text) => (text === "127.0.0.1" ? text : undefined),
    pageName: (text) => text.replace(/\/$/, ""),
    progress: quiet,
    sleep: async (ms) => waits.push(ms),
  };
  const run = (file = "sitemap.xml") => importBusuanzi(tools, `${blog}/${file}`, blog);
  return { engine, tools, state, counts, waits, run, blog };
}

const PAGES = ["/a", "/b", "/c"];

describe("busuanzi", () => {
  test("busuanzi: each page of the sitemap is asked for once, one after the other, and the questions are not counted", async () => {
    const { engine, state, waits, run } = setUp(PAGES);
    expect(await run()).toBe(
      "127.0.0.1 has 100 views, 40 visitors and 3 pages from busuanzi now; asked for 3 of 3 pages",
    );
    expect(state.asked).toEqual(PAGES);
    expect(waits).toEqual([500, 500, 500]);
    expect(await engine.siteTotals("127.0.0.1", 0)).toEqual({ total: 100, visitors: 40, today: 0 });
    expect(await engine.pageViews("127.0.0.1", PAGES)).toEqual([0, 10, 20]);
  });

  test("busuanzi: the same import again asks nothing and changes nothing", async () => {
    const { engine, state, run } = setUp(PAGES);
    await run("sitemap.xml.gz");
    const before = await engine.keptEntries("127.0.0.1", true);
    expect(await run("index.xml")).toContain("asked for 0 of 3 pages");
    expect(state.asked).toHaveLength(3);
    expect(await engine.keptEntries("127.0.0.1", true)).toEqual(before);
  });

  test("busuanzi: an import that was interrupted goes on where it ended", async () => {
    const pages = Array.from({ length: 50 }, (_, index) => `/${index}`);
    const { engine, state, tools, run, blog } = setUp(pages);
    const interrupting = { ...tools, progress: ({ done }: Progress) => { if (done === 44) throw new Error("interrupted"); } }; // oxfmt-ignore
    expect(await importBusuanzi(interrupting, `${blog}/sitemap.xml`, blog).then(() => "", String)).toContain(
      "interrupted",
    );
    expect(state.asked).toHaveLength(44);
    expect(await run()).toContain("asked for 10 of 50 pages");
    expect(await engine.siteTotals("127.0.0.1", 0)).toMatchObject({ total: 100, visitors: 40 });
    expect((await engine.pageViews("127.0.0.1", pages)).slice(0, 40)).toEqual(
      pages.slice(0, 40).map((_, at) => 10 * at),
    );
  });

  test("busuanzi: a server that is busy is asked again, more and more slowly, and then given up", async () => {
    const { engine, state, waits, run } = setUp(["/a"]);
    state.failures = 3;
    expect(await run()).toContain("asked for 1 of 1 pages");
    expect(waits).toEqual([2_000, 4_000, 8_000, 500]);
    const other = setUp(["/a"]);
    other.state.failures = 4;
    expect(await other.run().then(() => "", String)).toContain("status 503");
    expect(await other.engine.keptSites()).toEqual([]);
    expect(await engine.pageViews("127.0.0.1", ["/a"])).toEqual([0]);
  });

  test("busuanzi: an answer with numbers that are none is refused, and what was asked before is kept", async () => {
    for (const wrong of [
      '{"site_uv":1,"page_pv":-1,"site_pv":1}',
      '{"site_uv":1,"page_pv":1e99,"site_pv":1}',
      "{}",
      "<html>",
    ]) {
      const { engine, state, run } = setUp(["/a"]);
      state.badAnswer = wrong;
      expect(await run().then(() => "", String)).toContain("Cannot read what");
      expect(await engine.keptSites()).toEqual([]);
    }
  });

  test("busuanzi: what is no sitemap, and a site that is not ours, are refused before anything is asked", async () => {
    const { tools, state, run, blog } = setUp(PAGES);
    expect(await run("page").then(() => "", String)).toContain("it is not a sitemap");
    expect(await run("missing.xml").then(() => "", String)).toContain("status 404");
    const foreign = importBusuanzi({ ...tools, siteName: () => undefined }, `${blog}/sitemap.xml`, blog);
    expect(await foreign.then(() => "", String)).toContain("is not one of the SITES");
    expect(state.asked).toEqual([]);
  });
});
