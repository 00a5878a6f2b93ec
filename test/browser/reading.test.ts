/**
 * Reading time as a real browser gives it away: windows and tabs that are really seen or hidden, on each runtime, read
 * back from `GET /reading`. It takes as long as readers do, so all readers read at once, each on pages of its own.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { type Browser, chromium, type Page } from "playwright-core";
import { flags, userAgent } from "../support/chromium.ts";
import { ask } from "../support/client.ts";
import { adopt, temporaryFolder } from "../support/leftovers.ts";
import { pathOf, suite } from "../support/needs.ts";
import { endServices, type Runtime, runtimes, Service } from "../support/service.ts";
import { alone, once, sleep, until, within } from "../support/waiting.ts";

setDefaultTimeout(120_000);

let running: Browser | undefined;
const servers: { stop: (now: boolean) => unknown }[] = [];

/**
 * Playwright shows a page that it opened as visible and focused, whatever covers it. So this is an ordinary Chromium, and
 * Playwright a guest in it, with `noDefaults`: a tab behind another one, or in a minimized window, is hidden.
 */
const launch = once(async (): Promise<Browser> => {
  const place = [`--user-data-dir=${temporaryFolder()}`, "--remote-debugging-port=0", `--user-agent=${userAgent}`];
  const child = adopt(
    Bun.spawn([pathOf("chromium"), ...flags, ...place, "about:blank"], { stdout: "ignore", stderr: "pipe" }),
  );
  const { promise: address, resolve } = Promise.withResolvers<string>();
  void (async () => {
    let said = "";
    for await (const bytes of child.stderr) {
      said = (said + new TextDecoder().decode(bytes)).slice(-10_000); // read to the end, or the pipe runs full
      const found = /DevTools listening on (\S+)/.exec(said)?.[1];
      if (found !== undefined) resolve(found);
    }
  })();
  const endpoint = await within(30_000, "Chromium says where it listens", address);
  return (running = await chromium.connectOverCDP(endpoint, { noDefaults: true }));
});

afterAll(async () => {
  const session = await running?.newBrowserCDPSession();
  await session?.send("Browser.close").catch(() => {}); // deliberately quiet: it may be gone before it answers
  for (const server of servers) server.stop(true);
  endServices();
});

/** One after the other, since the page that opens next is taken for the one that was asked for. */
const opened = (open: () => Promise<unknown>): Promise<Page> =>
  alone(async () => {
    const context = (await launch()).contexts()[0]!;
    const [found] = await Promise.all([context.waitForEvent("page"), open()]);
    await found.locator('[data-headcount-state="live"]').waitFor({ state: "attached", timeout: 20_000 });
    return found;
  });

const seconds = (count: number): Promise<void> => sleep(count * 1000);

/** How many seconds have passed. On a busy machine a reader reads for longer than the test meant to wait. */
function stopwatch(): () => number {
  const began = performance.now();
  return () => (performance.now() - began) / 1000;
}

const visibility = (page: Page): Promise<string> => page.evaluate("document.visibilityState");

/** As a reader does it; nothing else tells the page. */
async function minimize(page: Page, windowState: "minimized" | "normal"): Promise<void> {
  const session = await page.context().newCDPSession(page);
  const { windowId } = await session.send("Browser.getWindowForTarget");
  await session.send("Browser.setWindowBounds", { windowId, bounds: { windowState } });
  const wanted = windowState === "normal" ? "visible" : "hidden";
  await until(`a ${wanted} page`, async () => (await visibility(page)) === wanted);
}

suite("reading", ["chromium"], () => {
  for (const runtime of runtimes) describe.concurrent(`reading (${runtime})`, () => readers(runtime));
});

/** A site with the widget in each page, and a link that opens a tab. */
async function startSite(runtime: Runtime): Promise<{ service: Service; url: string }> {
  // The one browser's cookie is for both services, since cookies know no ports. With one secret, both accept it.
  const service = await Service.start(runtime, { SECRET: "the same for the services on both runtimes" });
  const pasted = `<span data-headcount></span><script async src="${service.url}/widget.js"></script>`;
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch({ url }) {
      const text = `<title>A page</title><a href="${new URL(url).pathname}/tab" target="_blank">a tab</a>`;
      const headers = { "content-type": "text/html" };
      return new Response(url.endsWith("?plain") ? text : text + pasted, { headers });
    },
  });
  servers.push(server);
  return { service, url: `http://127.0.0.1:${server.port}` };
}

function readers(runtime: Runtime): void {
  const site = once(() => startSite(runtime));

  /** A window of its own. */
  const visit = async (path: string): Promise<Page> => {
    const { url } = await site();
    const browser = await launch();
    return opened(async () => {
      const session = await browser.newBrowserCDPSession();
      await session.send("Target.createTarget", { url: url + path, newWindow: true });
      await session.detach();
    });
  };

  /** A tab beside the page's. Not `window.open`: in its opener Playwright's pause of the new page swallows the event. */
  const follow = (page: Page, modifiers: "Control"[] = []): Promise<Page> =>
    opened(() => page.locator("a").click({ modifiers }));

  const reading = async (path: string): Promise<{ views: number; seconds: number; median: number }> =>
    (await ask((await site()).service.url, `GET /reading?site=localhost&page=${path}`)).json;

  /** What the journal has of each page, once it has been written: every 5 s. */
  const expectSeconds = async (wanted: Record<string, number>): Promise<void> => {
    await seconds(6.5);
    for (const [path, expected] of Object.entries(wanted)) {
      const read = (await reading(path)).seconds;
      const off = Math.abs(read - expected);
      expect(off, `${path} was read for ${read} s instead of ${expected} s`).toBeLessThanOrEqual(1);
    }
  };

  test("a reader who is active for 20 s of 60 s has read for 20 s", async () => {
    const page = await visit("/numbers");
    await page.evaluate(`{
      let from = performance.now();
      globalThis.seenMs = 0;
      document.addEventListener("visibilitychange", () => {
        if (document.hidden) seenMs += performance.now() - from;
        else from = performance.now();
      });
    }`);
    await seconds(8);
    await minimize(page, "minimized");
    await seconds(30);
    await minimize(page, "normal");
    await seconds(12);
    await minimize(page, "minimized");
    await seconds(10);
    const read = (await page.evaluate<number>("seenMs")) / 1000; // on a busy machine windows take their time
    await page.close();
    expect(read).toBeWithin(19, 40);
    await expectSeconds({ "/numbers": read });
    const { views, median } = await reading("/numbers");
    expect(views).toBe(1);
    expect(Math.abs(median - read)).toBeLessThanOrEqual(3); // within 10 % of 20 s, ± 1
  });

  test("an idle reader reads on for 60 s after the last input, and no longer", async () => {
    const page = await visit("/idle");
    await seconds(3);
    await page.mouse.move(100, 100);
    await seconds(64);
    expect(await visibility(page)).toBe("visible");
    await expectSeconds({ "/idle": 63 });
    await page.close();
  });

  test("a tab that opens behind another one is not read until it is in front", async () => {
    const front = await visit("/before");
    const behind = await follow(front, ["Control"]);
    expect([await visibility(front), await visibility(behind)]).toEqual(["visible", "hidden"]);
    await seconds(10);
    await expectSeconds({ "/before/tab": 0 });
    expect((await reading("/before/tab")).views).toBe(1);
    await behind.bringToFront();
    const inFront = stopwatch();
    await seconds(10);
    await behind.close();
    const read = inFront();
    await expectSeconds({ "/before/tab": read });
    await front.close();
  });

  test("of two tabs of a visitor, the one in front is read", async () => {
    const one = await visit("/one");
    const first = stopwatch();
    await seconds(10);
    const secondsFirst = first();
    const other = await follow(one);
    const second = stopwatch();
    expect([await visibility(one), await visibility(other)]).toEqual(["hidden", "visible"]);
    const { service } = await site();
    expect((await ask(service.url, "GET /count?site=localhost")).json.site).toBe(1);
    await seconds(15);
    await one.bringToFront();
    const [secondsSecond, third] = [second(), stopwatch()];
    expect([await visibility(one), await visibility(other)]).toEqual(["visible", "hidden"]);
    await seconds(10);
    await Promise.all([one.close(), other.close()]);
    const secondsOne = secondsFirst + third();
    await expectSeconds({ "/one": secondsOne, "/one/tab": secondsSecond });
  });

  test("pushState ends the view of one page and begins the next one's, seen or hidden", async () => {
    const page = await visit("/spa/one");
    const one = stopwatch();
    await seconds(10);
    await page.evaluate("history.pushState(null, '', '/spa/two')");
    const [secondsOne, two] = [one(), stopwatch()];
    await seconds(20);
    await minimize(page, "minimized");
    const secondsTwo = two();
    await page.evaluate("history.pushState(null, '', '/spa/hidden')");
    await seconds(5);
    await page.close();
    await expectSeconds({ "/spa/one": secondsOne, "/spa/two": secondsTwo, "/spa/hidden": 0 });
    const views = await Promise.all(["/spa/one", "/spa/two", "/spa/hidden"].map(async (path) => (await reading(path)).views)); // prettier-ignore
    expect(views).toEqual([1, 1, 1]);
  });

  test("the time in the back/forward cache is not read, and back from it a second view begins", async () => {
    const page = await visit("/cached");
    await page.evaluate("addEventListener('pageshow', (event) => (globalThis.restored = event.persisted))");
    await seconds(8);
    await page.goto(new URL("/elsewhere?plain", page.url()).href);
    await seconds(15);
    await page.evaluate("history.back()"); // page.goBack() waits for a load event that never comes
    await until("a restored page", async () => page.evaluate("globalThis.restored").catch(() => false));
    await seconds(8);
    await page.close();
    await expectSeconds({ "/cached": 16 });
    expect((await reading("/cached")).views).toBe(2);
  });
}
