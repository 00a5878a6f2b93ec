/**
 * The drop-in for busuanzi and Vercount in Chromium: pages with the ids, classes and initial styles of widely used themes,
 * where only the address of the script is another one.
 */
import { expect, test } from "bun:test";
import type { Page } from "playwright-core";
import { ask } from "../support/client.ts";
import { suite } from "../support/needs.ts";
import { endOwnPages } from "../support/own-pages-hooks.ts";
import { newBrowser, open, shows, startService, stopAtTheEnd } from "../support/own-pages.ts";
import { runtimes, type Service } from "../support/service.ts";
import { until } from "../support/waiting.ts";

endOwnPages();

/** What a theme puts into its pages. `tag` is the script's tag, with `{src}` for its address. */
interface Theme {
  path: string;
  tag: string;
  styles?: string;
  body: string;
  shown: Record<string, string>;
  containers: string[];
}

const THEMES: Record<string, Theme> = {
  "a style sheet hides the containers, as in NexT": {
    path: "/busuanzi.js",
    tag: '<script data-pjax async src="{src}"></script>',
    styles: "#busuanzi_container_page_pv, .busuanzi-count #busuanzi_container_site_uv { display: none }",
    body: `<span class="post-meta-item" id="busuanzi_container_page_pv">Views: <b id="busuanzi_value_page_pv"></b></span>
      <div class="busuanzi-count"><span class="post-meta-item" id="busuanzi_container_site_uv">
      <b id="busuanzi_value_site_uv"></b></span></div>`,
    shown: { busuanzi_value_page_pv: "1", busuanzi_value_site_uv: "1" },
    containers: ["busuanzi_container_page_pv", "busuanzi_container_site_uv"],
  },
  "spinners without containers, as in Butterfly": {
    path: "/busuanzi.pure.mini.js",
    tag: '<script async data-pjax src="{src}"></script>',
    body: `<div class="webinfo-item"><div class="item-count" id="busuanzi_value_site_uv"><i class="fa-spin"></i></div></div>
      <div class="webinfo-item"><div class="item-count" id="busuanzi_value_site_pv"><i class="fa-spin"></i></div></div>`,
    shown: { busuanzi_value_site_uv: "1", busuanzi_value_site_pv: "1" },
    containers: [],
  },
  "inline styles hide the containers, as in Fluid": {
    path: "/busuanzi.pure.mini.js",
    tag: '<script defer src="{src}"></script>',
    body: `<span id="busuanzi_container_site_pv" style="display: none">Views: <b id="busuanzi_value_site_pv"></b></span>
      <span id="busuanzi_container_page_pv" style="display: none"><b id="busuanzi_value_page_pv"></b> views</span>`,
    shown: { busuanzi_container_site_pv: "Views: 1", busuanzi_container_page_pv: "1 views" },
    containers: ["busuanzi_container_site_pv", "busuanzi_container_page_pv"],
  },
  "a 0 until then, as in Icarus": {
    path: "/js",
    tag: '<script src="{src}" defer></script>',
    body: `<span class="level-item" id="busuanzi_container_page_pv"><span id="busuanzi_value_page_pv">0</span> visits</span>`,
    shown: { busuanzi_container_page_pv: "1 visits" },
    containers: ["busuanzi_container_page_pv"],
  },
  "the ids of Vercount and busuanzi.cc, parsed after the script": {
    path: "/js",
    tag: '<script src="{src}"></script>',
    body: `<span id="vercount_container_site_pv">All: <b id="vercount_value_site_pv">Loading</b></span>
      <span id="vercount_value_page_pv">Loading</span> <span id="busuanzi_site_uv">-</span>
      <span id="busuanzi_today_uv">-</span> <span id="busuanzi_value_online">-</span>`,
    shown: {
      vercount_value_site_pv: "1",
      vercount_value_page_pv: "1",
      busuanzi_site_uv: "1",
      busuanzi_today_uv: "1",
      busuanzi_value_online: "1",
    },
    containers: ["vercount_container_site_pv"],
  },
};

/** A site all of whose pages have this body, and its address. */
function site(body: string | ((path: string) => string), head = "", headers: Record<string, string> = {}): string {
  const html = (path: string) =>
    `<!doctype html><html lang="en"><head><meta charset="utf-8">${head}</head><body>${typeof body === "string" ? body : body(path)}</body></html>`;
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: ({ url }) =>
      new Response(html(new URL(url).pathname), { headers: { "content-type": "text/html", ...headers } }),
  });
  stopAtTheEnd({ stop: () => server.stop(true) });
  return `http://127.0.0.1:${server.port}`;
}

const pageOf = ({ tag, path, styles = "", body }: Theme, service: Service) =>
  ({ head: `<style>${styles}</style>` + tag.replace("{src}", service.url + path), body }) as const;

const isSeen = (page: Page, id: string) => page.locator(`#${id}`).isVisible();
const viewsOf = async (service: Service, page: string): Promise<number> =>
  (await ask(service.url, `GET /count?site=localhost&page=${page}`)).json.views;
const openToAll = { SITES: "" }; // localhost, then

suite("busuanzi", ["chromium"], () => {
  for (const runtime of runtimes)
    for (const [name, theme] of Object.entries(THEMES))
      test(`${name} (${runtime})`, async () => {
        const service = await startService(openToAll, runtime);
        const { head, body } = pageOf(theme, service);
        const { page, errors } = await open(await newBrowser(), site(body, head));
        for (const [id, text] of Object.entries(theme.shown)) await shows(page, `#${id}`, text);
        for (const id of [...theme.containers, ...Object.keys(theme.shown)])
          expect([id, await isSeen(page, id)]).toEqual([id, true]);
        expect(errors).toEqual([]);
      });

  test("a site that is not counted hides the containers, and keeps the author's text", async () => {
    const service = await startService(); // for other sites
    const body = `<span id="busuanzi_container_site_pv">Views: <b id="busuanzi_value_site_pv"></b></span>
      <span id="busuanzi_value_page_pv">…</span>`;
    const { page, said } = await open(
      await newBrowser(),
      site(body, `<script async src="${service.url}/js"></script>`),
    );
    await until("a warning", () => said.some((line) => line.toLowerCase().includes("headcount")), 15_000);
    expect(await isSeen(page, "busuanzi_container_site_pv")).toBe(false);
    expect(await page.locator("#busuanzi_value_page_pv").textContent()).toBe("…");
  });

  test("a strict policy with Trusted Types has nothing to complain of", async () => {
    const service = await startService(openToAll);
    const { url } = service;
    const policy = `default-src 'none'; script-src ${url}; connect-src ${url} ${url.replace("http", "ws")}; require-trusted-types-for 'script'`;
    const body = `<span id="busuanzi_container_site_pv">Views: <b id="busuanzi_value_site_pv"></b></span>`;
    const head = `<script async src="${url}/busuanzi.js"></script>`;
    const { page, errors } = await open(await newBrowser(), site(body, head, { "content-security-policy": policy }));
    await shows(page, "#busuanzi_container_site_pv", "Views: 1");
    expect(errors).toEqual([]);
  });
});

/** What pjax libraries do: the content is replaced, the address changes, marked scripts are inserted again. */
const PJAX = `<script>
  addEventListener("click", async (event) => {
    if (!event.target.matches("a")) return;
    event.preventDefault();
    const { href } = event.target;
    const text = await (await fetch(href)).text();
    const next = new DOMParser().parseFromString(text, "text/html");
    document.querySelector("main").replaceWith(next.querySelector("main"));
    history.pushState(null, "", href);
    for (const old of document.querySelectorAll("script[data-pjax]")) {
      const script = document.createElement("script");
      for (const { name, value } of old.attributes) script.setAttribute(name, value);
      old.replaceWith(script);
    }
    document.dispatchEvent(new Event("pjax:complete"));
  });
</script>`;
const PJAX_PAGE = (path: string) =>
  `<main><h1>${path}</h1><a href="/one">one</a> <a href="/two">two</a>
    <span id="busuanzi_container_page_pv">Views: <b id="busuanzi_value_page_pv"></b></span></main>
  <footer id="busuanzi_value_site_pv"></footer>`;

suite("busuanzi with pjax", ["chromium"], () => {
  for (const runtime of runtimes)
    test(`each page that is shown is counted once, over one socket (${runtime})`, async () => {
      const service = await startService(openToAll, runtime);
      const url = site(PJAX_PAGE, `<script data-pjax async src="${service.url}/busuanzi.js"></script>${PJAX}`);
      const { page, errors } = await open(await newBrowser(), "about:blank");
      const sockets: string[] = [];
      page.on("websocket", (socket) => sockets.push(socket.url()));
      await page.goto(`${url}/`);
      await shows(page, "#busuanzi_value_site_pv", "1");
      const walk = ["/one", "/two", "/one"];
      for (const [index, path] of walk.entries()) {
        await page.locator(`a[href="${path}"]`).click();
        await shows(page, "h1", path);
        await shows(page, "#busuanzi_value_page_pv", index === 2 ? "2" : "1");
        await shows(page, "#busuanzi_value_site_pv", String(index + 2));
        expect(await isSeen(page, "busuanzi_container_page_pv")).toBe(true);
      }
      expect([sockets.length, await page.locator("script[data-pjax]").count()]).toEqual([1, 1]);
      expect([await viewsOf(service, "/"), await viewsOf(service, "/one"), await viewsOf(service, "/two")]).toEqual([
        1, 2, 1,
      ]);
      expect(errors).toEqual([]);
    });

  test("a theme that calls bszCaller and bszTag gets the new page's numbers, and its mistakes stop nobody", async () => {
    const service = await startService(openToAll);
    const theme = `<script>
      addEventListener("error", ({ message }) => (globalThis.mistake = message));
      document.addEventListener("pjax:complete", () => {
        bszTag.hides();
        bszCaller.fetch("//busuanzi.ibruce.info/busuanzi?jsonpCallback=BusuanziCallback", () => { throw new Error("of the theme"); });
        bszCaller.fetch("//busuanzi.ibruce.info/busuanzi?jsonpCallback=BusuanziCallback", (numbers) => {
          globalThis.numbers = numbers;
          bszTag.texts(numbers);
          bszTag.shows();
        });
      });
    </script>`;
    const head = `<script async src="${service.url}/busuanzi.js"></script>${PJAX}${theme}`;
    const { page } = await open(await newBrowser(), site(PJAX_PAGE, head));
    await shows(page, "#busuanzi_value_page_pv", "1");
    await page.evaluate("location.reload()");
    await shows(page, "#busuanzi_value_page_pv", "2");
    await page.locator('a[href="/one"]').click();
    await until("the theme's callback", () => page.evaluate("globalThis.numbers !== undefined"));
    expect(await page.evaluate("globalThis.numbers")).toMatchObject({ site_pv: 3, page_pv: 1, site_uv: 1 });
    expect(await page.evaluate("globalThis.mistake")).toContain("of the theme");
    expect(await page.locator("#busuanzi_container_page_pv").innerText()).toBe("Views: 1");
    const stored = await page.evaluate("localStorage.visitorCountData");
    expect(JSON.parse(stored as string)).toEqual({ site_uv: 1, page_pv: 1, site_pv: 3 });
  });
});
