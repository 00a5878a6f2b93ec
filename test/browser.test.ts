/**
 * Real browsers on pages that this project did not write: npm's own documentation, served by a server that knows
 * nothing but to paste the tag into <body>.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join, normalize } from "node:path";
import type { BrowserContext, Page } from "playwright-core";
import { endChromium, launch, userAgent } from "./support/chromium.ts";
import { ask } from "./support/client.ts";
import { pathOf, suite } from "./support/needs.ts";
import { endServices, type Runtime, Service, type Settings } from "./support/service.ts";
import { sleep, until } from "./support/waiting.ts";

setDefaultTimeout(60_000);

const servers: { stop: (now: boolean) => unknown }[] = [];

afterAll(async () => {
  await endChromium();
  for (const server of servers) server.stop(true);
  endServices();
});

async function newBrowser(options: { userAgent?: string } = { userAgent }): Promise<BrowserContext> {
  return (await launch()).newContext(options);
}

const pages = ["/commands/npm-ls.html", "/commands/npm-explain.html", "/configuring-npm/folders.html"] as const;
const [first] = pages;
const authorsText = "–";

/** What a site owner pastes. */
const tag = (server: string): string =>
  `<p><span data-headcount>${authorsText}</span> people here now</p>\n<script async src="${server}/widget.js"></script>`;

/** A static server of npm's documentation, with the tag in each page but those asked for with `?plain`. */
function serveDocumentation(pasted: string, policy?: string): { port: number; url: string } {
  const folder = pathOf("npm's HTML documentation");
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      const { pathname, search } = new URL(request.url);
      const file = Bun.file(join(folder, normalize(pathname)));
      if (!(await file.exists())) return new Response("not found", { status: 404 });
      const text = await file.text();
      const headers = { "content-type": "text/html", ...(policy && { "content-security-policy": policy }) };
      return new Response(search === "?plain" ? text : text.replace("<body>", `<body>\n${pasted}`), { headers });
    },
  });
  servers.push(server);
  const port = server.port ?? 0;
  return { port, url: `http://127.0.0.1:${port}` };
}

/** Waits until the pasted element shows the number and the state. */
async function shows(page: Page, number: string, state: string, ms = 5000): Promise<void> {
  const now = async (): Promise<string> => {
    const target = page.locator("[data-headcount]");
    return `${await target.textContent()} ${(await target.getAttribute("data-headcount-state")) ?? ""}`;
  };
  let last = "";
  await until(
    `${page.url()} shows "${number} ${state}"`,
    async () => (last = await now()) === `${number} ${state}`,
    ms,
  ).catch((error: unknown) => Promise.reject(new Error(`${String(error)}; it shows "${last}"`)));
}

/** What the pasted element changes to from now on: number and state, whenever one of them is another one. */
async function record(page: Page): Promise<() => Promise<string[]>> {
  await page.evaluate(`
    const target = document.querySelector("[data-headcount]");
    const look = () => target.textContent + " " + target.dataset.headcountState;
    globalThis.seen = [look()];
    const see = () => seen.at(-1) !== look() && seen.push(look());
    new MutationObserver(see).observe(target, { attributes: true, childList: true, characterData: true, subtree: true });
  `);
  return () => page.evaluate("seen.slice(1)");
}

/** What the widget warns of. */
function warnings(page: Page): string[] {
  const heard: string[] = [];
  page.on("console", (message) => {
    if (message.type() === "warning" && /headcount/i.test(message.text())) heard.push(message.text());
  });
  return heard;
}

suite("browser", ["chromium", "npm's HTML documentation"], () => {
  const start = async (runtime: Runtime, settings: Settings = {}): Promise<{ service: Service; url: string }> => {
    const service = await Service.start(runtime, settings);
    return { service, url: serveDocumentation(tag(service.url)).url };
  };
  const visit = async (context: BrowserContext, url: string): Promise<Page> => {
    const page = await context.newPage();
    await page.goto(url);
    return page;
  };

  for (const [runtime, grace] of [
    ["bun", 5],
    ["deno", 2],
  ] as const)
    test(`${runtime}: 1, 2 with a second browser, nothing else while that one reloads and walks, then 1 again`, async () => {
      const { url } = await start(runtime, { GRACE_SECONDS: grace });
      const [one, other] = [await newBrowser(), await newBrowser()];
      const here = await visit(one, url + first);
      await shows(here, "1", "live");
      const there = await visit(other, url + first);
      await shows(here, "2", "live");
      await shows(there, "2", "live");

      const seen = await record(here);
      for (let reload = 0; reload < 10; reload++) {
        await there.reload();
        await shows(there, "2", "live");
      }
      for (const page of pages.slice(1)) {
        await Promise.all([there.waitForURL(url + page), there.locator(`a[href="..${page}"]`).first().click()]);
        await shows(there, "2", "live");
      }
      await there.goto(url + first);
      await shows(there, "2", "live");
      await sleep((grace + 1.5) * 1000); // a visitor lost on the way would have left by now
      expect(await seen()).toEqual([]);

      const began = performance.now();
      await other.close();
      await shows(here, "1", "live", (grace + 1) * 1000);
      expect(performance.now() - began).toBeGreaterThan((grace - 0.5) * 1000);
      expect(await seen()).toEqual(["1 live"]);
      await one.close();
    });

  for (const runtime of ["bun", "deno"] as const)
    test(`${runtime}: killed it is stale, started again it is live, and nobody touches the page`, async () => {
      const { service, url } = await start(runtime);
      const context = await newBrowser();
      const page = await visit(context, url + first);
      await shows(page, "1", "live");
      await service.stop("SIGKILL");
      await shows(page, "1", "stale", 2000);
      await service.start();
      await shows(page, "1", "live", 20_000);
      await context.close();
    });

  test("a second browser's tabs and windows are one visitor, also when all open at once", async () => {
    const { url } = await start("bun", { GRACE_SECONDS: 1 });
    const [one, other] = [await newBrowser(), await newBrowser()];
    const here = await visit(one, url + first);
    await shows(here, "1", "live");
    const seen = await record(here);
    const tabs = await Promise.all([...pages, ...pages].map((page) => visit(other, url + page)));
    await Promise.all(tabs.map((tab) => shows(tab, "2", "live")));
    for (const tab of tabs.slice(1)) await tab.close();
    await sleep(2000);
    expect(await seen()).toEqual(["2 live"]);
    await tabs[0]!.close();
    await shows(here, "1", "live");
    await Promise.all([one.close(), other.close()]);
  });

  test("in the back/forward cache a page is not counted, back from it it is", async () => {
    const { url } = await start("bun", { GRACE_SECONDS: 1 });
    const [one, other] = [await newBrowser(), await newBrowser()];
    const watcher = await visit(other, url + first);
    const page = await visit(one, url + first);
    await page.evaluate("addEventListener('pageshow', (event) => (globalThis.restored = event.persisted))");
    await shows(page, "2", "live");
    await shows(watcher, "2", "live");
    await page.goto(`${url}${first}?plain`);
    await shows(watcher, "1", "live", 3000);
    await page.evaluate("history.back()"); // page.goBack() waits for a load event that never comes
    await shows(page, "2", "live");
    expect(await page.evaluate("globalThis.restored")).toBe(true); // not a reload
    await shows(watcher, "2", "live", 2000);
    await Promise.all([one.close(), other.close()]);
  });

  describe("on another site than the service's", () => {
    /** 127.0.0.1 and localhost are different sites, and without TLS no cookie goes from one to the other. */
    const crossSite = async (): Promise<{ service: Service; url: string }> => {
      const service = await Service.start("bun", { GRACE_SECONDS: 1 });
      return { service, url: `http://localhost:${serveDocumentation(tag(service.url)).port}` };
    };

    test("without cookies a browser is still one visitor, over tabs and reloads", async () => {
      const { service, url } = await crossSite();
      const [one, other] = [await newBrowser(), await newBrowser()];
      const here = await visit(one, url + first);
      await shows(here, "1", "live");
      const there = await visit(other, url + first);
      await shows(here, "2", "live");
      const seen = await record(here);
      const tab = await visit(other, url + pages[1]);
      await there.reload();
      await Promise.all([shows(there, "2", "live"), shows(tab, "2", "live")]);
      await sleep(2000);
      expect(await seen()).toEqual([]);
      expect(await other.cookies(service.url)).toEqual([]); // it was the fallback
      await other.close();
      await shows(here, "1", "live");
      await one.close();
    });

    test("without any storage it is counted", async () => {
      const { url } = await crossSite();
      const [one, other] = [await newBrowser(), await newBrowser()];
      await other.addInitScript(`Object.defineProperty(globalThis, "localStorage", {
        get() { throw new DOMException("The document has no access to storage.", "SecurityError"); },
      })`);
      const here = await visit(one, url + first);
      const there = await visit(other, url + first);
      await Promise.all([shows(here, "2", "live"), shows(there, "2", "live")]);
      await other.close();
      await shows(here, "1", "live");
      await one.close();
    });
  });

  describe("under a Content-Security-Policy", () => {
    const base = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'";
    const withPolicy = async (policy: (http: string, ws: string) => string) => {
      const service = await Service.start("bun");
      const served = serveDocumentation(
        tag(service.url),
        `${base}; ${policy(service.url, service.url.replace("http", "ws"))}`,
      );
      const context = await newBrowser();
      const page = await context.newPage();
      const warned = warnings(page);
      await page.goto(served.url + first);
      return { service, context, page, warned };
    };

    test("what the README says is enough", async () => {
      const readme = await Bun.file(join(import.meta.dir, "../README.md")).text();
      const documented = /^script-src .*connect-src .*$/m.exec(readme)?.[0] ?? "";
      expect(documented).toContain("wss://count.example.com");
      const { context, page, warned } = await withPolicy((http, ws) =>
        documented.replaceAll("https://count.example.com", http).replaceAll("wss://count.example.com", ws),
      );
      await shows(page, "1", "live");
      expect(warned).toEqual([]);
      await context.close();
    });

    test("one that forbids the socket is said once, and not tried again", async () => {
      const { service, context, page, warned } = await withPolicy((http) => `script-src ${http}; connect-src ${http}`);
      const tokens: string[] = [];
      page.on("request", (request) => request.url().endsWith("/token") && tokens.push(request.url()));
      await until("a warning", () => warned.length > 0);
      expect(warned[0]).toMatch(/CSP/);
      const asked = tokens.length;
      await sleep(4000); // longer than the first two backoffs
      expect([warned.length, tokens.length]).toEqual([1, asked]);
      expect(await page.locator("[data-headcount]").textContent()).toBe(authorsText);
      expect((await ask(service.url, "GET /count?site=localhost")).json.site).toBe(0);
      await context.close();
    });
  });

  test("a headless browser that says so is refused, told why once, and the author's text stays", async () => {
    const { service, url } = await start("bun");
    const context = await newBrowser({});
    const page = await context.newPage();
    const warned = warnings(page);
    await page.goto(url + first);
    await until("a warning", () => warned.length > 0);
    await sleep(2000);
    expect(warned).toHaveLength(1);
    expect(await page.locator("[data-headcount]").textContent()).toBe(authorsText);
    expect((await ask(service.url, "GET /count?site=localhost")).json.site).toBe(0);
    await context.close();
  });

  test("a browser with Global Privacy Control sees the count and is not counted", async () => {
    const { service, url } = await start("bun");
    const [one, other] = [await newBrowser(), await newBrowser()];
    await other.addInitScript("Object.defineProperty(navigator, 'globalPrivacyControl', { value: true })");
    const observer = await visit(other, url + first);
    await shows(observer, "0", "live");
    const page = await visit(one, url + first);
    await Promise.all([shows(page, "1", "live"), shows(observer, "1", "live")]);
    expect(await other.cookies(service.url)).toEqual([]);
    expect(await observer.evaluate("localStorage.length")).toBe(0);
    await Promise.all([one.close(), other.close()]);
  });

  test("the home page counts itself, and copies a snippet that works", async () => {
    const service = await Service.start("bun");
    const context = await newBrowser();
    await context.grantPermissions(["clipboard-read", "clipboard-write"]);
    const page = await context.newPage();
    const complaints: string[] = [];
    page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
    page.on("pageerror", (error) => complaints.push(error.message));
    await page.goto(service.url);
    await page.locator('[data-headcount][data-headcount-state="live"]').first().waitFor({ timeout: 5000 });
    expect(await page.locator("[data-headcount]").first().textContent()).toBe("1");
    await page.getByRole("button", { name: /copy/i }).first().click();
    const snippet = await page.evaluate<string>("navigator.clipboard.readText()");
    expect(complaints).toEqual([]);

    const elsewhere = serveDocumentation(snippet);
    const pasted = await visit(context, elsewhere.url + first);
    await shows(pasted, "1", "live");
    await context.close();
  });
});
