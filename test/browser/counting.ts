/**
 * The widget on pages that this project did not write: who is counted, from the first page to the last. Each engine has a
 * test file of its own, because one file with all of them takes longer than any other.
 */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { type Engine, engines, type Tab, type VisitorBrowser } from "../support/engines.ts";
import { ask } from "../support/client.ts";
import { suite } from "../support/needs.ts";
import { endServices, type Runtime, Service, type Settings } from "../support/service.ts";
import {
  documentationPages as pages,
  endSites,
  look,
  record,
  serveDocumentation,
  shows,
  tag,
} from "../support/embedding-site.ts";
import { sleep, until } from "../support/waiting.ts";

const [first] = pages;

/** The tests of an engine, for its test file. */
export function testCounting(name: Engine["name"]): void {
  const { engine, needs } = engines.find((one) => one.engine.name === name)!;
  setDefaultTimeout(90_000);
  suite(`widget counting (${name})`, [...needs, "npm's HTML documentation"], () => counting(engine));
  afterAll(() => {
    endSites();
    endServices();
  });
}

const start = async (runtime: Runtime, settings: Settings = {}): Promise<{ service: Service; url: string }> => {
  const service = await Service.start(runtime, settings);
  return { service, url: serveDocumentation(tag(service.url)).url };
};

const visit = async (browser: VisitorBrowser, url: string): Promise<Tab> => {
  const tab = await browser.newTab();
  await tab.goto(url);
  return tab;
};

/** Follows the link to another page, as a reader does. */
async function follow(tab: Tab, page: string): Promise<void> {
  await tab.evaluate(`document.querySelector('a[href="..${page}"]').click()`);
  await until(`the page ${page}`, async () => (await tab.evaluate("location.pathname").catch(() => "")) === page);
}

function counting(engine: Engine): void {
  afterAll(() => engine.end());

  for (const [runtime, grace] of [
    ["bun", 5],
    ["deno", 2],
  ] as const)
    test(`${runtime}: 1, 2 with a second browser, nothing else while that one reloads and walks, then 1 again`, async () => {
      const { url } = await start(runtime, { GRACE_SECONDS: grace });
      const [one, other] = [await engine.newVisitor(), await engine.newVisitor()];
      const here = await visit(one, url + first);
      await shows(here, "1 live");
      const there = await visit(other, url + first);
      await shows(here, "2 live");
      await shows(there, "2 live");

      const seen = await record(here);
      for (let reload = 0; reload < 10; reload++) {
        await there.reload();
        await shows(there, "2 live");
      }
      for (const page of pages.slice(1)) {
        await follow(there, page);
        await shows(there, "2 live");
      }
      await there.goto(url + first);
      await shows(there, "2 live");
      await sleep((grace + 1.5) * 1000); // a visitor lost on the way would have left by now
      expect(await seen()).toEqual([]);

      const began = performance.now();
      await other.close();
      await shows(here, "1 live", { ms: (grace + 1) * 1000 });
      expect(performance.now() - began).toBeGreaterThan((grace - 0.5) * 1000);
      expect(await seen()).toEqual(["1 live"]);
      await one.close();
    });

  test("a killed service makes the number stale, a started one live again, and nobody touches the page", async () => {
    const { service, url } = await start(engine.name === "firefox" ? "deno" : "bun");
    const browser = await engine.newVisitor();
    const tab = await visit(browser, url + first);
    await shows(tab, "1 live");
    await service.stop("SIGKILL");
    await shows(tab, "1 stale", { ms: 2000 });
    await service.start();
    await shows(tab, "1 live", { ms: 20_000 });
    await browser.close();
  });

  test("a page that goes into the back/forward cache is not counted, and is counted when it is back", async () => {
    const { url } = await start("bun", { GRACE_SECONDS: 1 });
    const [one, other] = [await engine.newVisitor(), await engine.newVisitor()];
    const watcher = await visit(other, url + first);
    const tab = await visit(one, url + first);
    await tab.evaluate("void addEventListener('pageshow', (event) => (globalThis.restored = event.persisted))");
    await shows(tab, "2 live");
    await shows(watcher, "2 live");
    await tab.goto(`${url}${first}?plain`);
    await shows(watcher, "1 live", { ms: 3000 });
    await tab.evaluate("void setTimeout(() => history.back())");
    await shows(tab, "2 live");
    // Firefox reloads the page: a socket that is open when the navigation begins keeps a page out of the cache.
    expect(await tab.evaluate("globalThis.restored ?? false")).toBe(engine.name !== "firefox");
    await shows(watcher, "2 live", { ms: 2000 });
    await Promise.all([one.close(), other.close()]);
  });

  test("tabs that a new browser opens all at once are one visitor", async () => {
    const { service } = await start("bun", { GRACE_SECONDS: 1 });
    // On another site than the service's and without TLS, no cookie tells that two tabs are one browser.
    const url = `http://localhost:${serveDocumentation(tag(service.url)).port}`;
    for (let round = 0; round < 4; round++) {
      const browser = await engine.newVisitor();
      const tabs = await Promise.all(Array.from({ length: 5 }, () => browser.newTab()));
      const at = Date.now() + 700;
      await Promise.all(
        tabs.map((tab, index) => {
          const address = JSON.stringify(url + pages[index % 3]);
          return tab.evaluate(`void setTimeout(() => (location.href = ${address}), ${at} - Date.now())`);
        }),
      );
      await Promise.all(tabs.map((tab) => until("a number", async () => (await look(tab)).endsWith(" live"), 15_000)));
      expect([round, (await ask(service.url, "GET /count?site=localhost")).json.site]).toEqual([round, 1]);
      await browser.close();
      await until("nobody", async () => (await ask(service.url, "GET /count?site=localhost")).json.site === 0);
    }
  });

  test("on another site than the service's, without cookies, a browser is one visitor over tabs and reloads", async () => {
    const { service } = await start("bun", { GRACE_SECONDS: 1 });
    const url = `http://localhost:${serveDocumentation(tag(service.url)).port}`;
    const [one, other] = [await engine.newVisitor(), await engine.newVisitor()];
    const here = await visit(one, url + first);
    await shows(here, "1 live");
    const there = await visit(other, url + first);
    await shows(here, "2 live");
    const seen = await record(here);
    const tab = await visit(other, url + pages[1]);
    await there.reload();
    await Promise.all([shows(there, "2 live"), shows(tab, "2 live")]);
    await sleep(2000);
    expect(await seen()).toEqual([]);
    await other.close();
    await shows(here, "1 live");
    await one.close();
  });

  test("a browser with Global Privacy Control sees the count and is not counted", async () => {
    const service = await Service.start("bun");
    const signal = "<script>Object.defineProperty(navigator, 'globalPrivacyControl', { value: true })</script>";
    const [plain, signalling] = [tag(service.url), signal + tag(service.url)].map((its) => serveDocumentation(its).url);
    const [one, other] = [await engine.newVisitor(), await engine.newVisitor()];
    const observer = await visit(other, signalling + first);
    await shows(observer, "0 live");
    const tab = await visit(one, plain + first);
    await Promise.all([shows(tab, "1 live"), shows(observer, "1 live")]);
    expect(await observer.evaluate("localStorage.length")).toBe(0);
    await Promise.all([one.close(), other.close()]);
  });
}
