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

/** When something happened, in milliseconds: not before `from`, and not after `to`. A busy machine takes its time. */
interface Moment {
  readonly from: number;
  readonly to: number;
}

async function moment(happen: () => Promise<unknown>): Promise<Moment> {
  const from = performance.now();
  await happen();
  return { from, to: performance.now() };
}

/** A time in which a page was read. */
type Span = readonly [begin: Moment, end: Moment];

interface Opened {
  readonly page: Page;
  readonly at: Moment;
}

/** One after the other, since the page that opens next is taken for the one that was asked for. */
const opened = (open: () => Promise<unknown>): Promise<Opened> =>
  alone(async () => {
    const context = (await launch()).contexts()[0]!;
    const coming = context.waitForEvent("page");
    const at = await moment(async () => {
      await open();
      const live = (await coming).locator('[data-headcount-state="live"]');
      await live.waitFor({ state: "attached", timeout: 20_000 });
    });
    return { page: await coming, at };
  });

const seconds = (count: number): Promise<void> => sleep(count * 1000);

const visibility = (page: Page): Promise<string> => page.evaluate("document.visibilityState");

/** As a reader does it; nothing else tells the page. */
const minimize = (page: Page, windowState: "minimized" | "normal"): Promise<Moment> =>
  moment(async () => {
    const session = await page.context().newCDPSession(page);
    const { windowId } = await session.send("Browser.getWindowForTarget");
    await session.send("Browser.setWindowBounds", { windowId, bounds: { windowState } });
    const wanted = windowState === "normal" ? "visible" : "hidden";
    await until(`a ${wanted} page`, async () => (await visibility(page)) === wanted);
  });

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
  const visit = async (path: string): Promise<Opened> => {
    const { url } = await site();
    const browser = await launch();
    return opened(async () => {
      const session = await browser.newBrowserCDPSession();
      await session.send("Target.createTarget", { url: url + path, newWindow: true });
      await session.detach();
    });
  };

  /** A tab beside the page's. Not `window.open`: in its opener Playwright's pause of the new page swallows the event. */
  const follow = (page: Page, modifiers: "Control"[] = []): Promise<Opened> =>
    opened(() => page.locator("a").click({ modifiers }));

  const reading = async (path: string): Promise<{ views: number; seconds: number; median: number }> =>
    (await ask((await site()).service.url, `GET /reading?site=localhost&page=${path}`)).json;

  /** Expects what the journal has of each page, once it has been written: every 5 s. */
  const expectRead = async (wanted: Record<string, Span[]>): Promise<void> => {
    await seconds(6.5);
    for (const [path, spans] of Object.entries(wanted)) {
      const least = spans.reduce((sum, [begin, end]) => sum + end.from - begin.to, 0) / 1000;
      const most = spans.reduce((sum, [begin, end]) => sum + end.to - begin.from, 0) / 1000;
      const read = (await reading(path)).seconds; // whole seconds of each view
      expect(read, `the seconds for which ${path} was read`).toBeWithin(least - 1, most + 1);
    }
  };

  test("a reader who is active for 20 s of 60 s has read for 20 s", async () => {
    const { page, at } = await visit("/numbers");
    await seconds(8);
    const hidden = await minimize(page, "minimized");
    await seconds(30);
    const back = await minimize(page, "normal");
    await seconds(12);
    const hiddenAgain = await minimize(page, "minimized");
    await seconds(10);
    await page.close();
    await expectRead({ "/numbers": [[at, hidden], [back, hiddenAgain]] }); // oxfmt-ignore
    const read = await reading("/numbers");
    expect(read.views).toBe(1);
    expect(Math.abs(read.median - read.seconds)).toBeLessThanOrEqual(1 + read.seconds / 10);
  });

  test("an idle reader reads on for 60 s after the last input, and no longer", async () => {
    const { page, at } = await visit("/idle");
    await seconds(3);
    const moved = await moment(() => page.mouse.move(100, 100));
    await seconds(64);
    expect(await visibility(page)).toBe("visible");
    const idle = { from: moved.from + 60_000, to: moved.to + 60_000 };
    await expectRead({ "/idle": [[at, idle]] });
    await page.close();
  });

  test("a tab that opens behind another one is not read until it is in front", async () => {
    const { page: front } = await visit("/before");
    const { page: behind } = await follow(front, ["Control"]);
    expect([await visibility(front), await visibility(behind)]).toEqual(["visible", "hidden"]);
    await seconds(10);
    await expectRead({ "/before/tab": [] });
    expect((await reading("/before/tab")).views).toBe(1);
    const inFront = await moment(() => behind.bringToFront());
    await seconds(10);
    const closed = await moment(() => behind.close());
    await expectRead({ "/before/tab": [[inFront, closed]] });
    await front.close();
  });

  test("of two tabs of a visitor, the one in front is read", async () => {
    const { page: one, at: openedOne } = await visit("/one");
    await seconds(10);
    const { page: other, at: openedOther } = await follow(one);
    expect([await visibility(one), await visibility(other)]).toEqual(["hidden", "visible"]);
    const { service } = await site();
    expect((await ask(service.url, "GET /count?site=localhost")).json.site).toBe(1);
    await seconds(15);
    const back = await moment(() => one.bringToFront());
    expect([await visibility(one), await visibility(other)]).toEqual(["visible", "hidden"]);
    await seconds(10);
    const closed = await moment(() => Promise.all([one.close(), other.close()]));
    await expectRead({ "/one": [[openedOne, openedOther], [back, closed]], "/one/tab": [[openedOther, back]] }); // oxfmt-ignore
  });

  test("pushState ends the view of one page and begins the next one's, seen or hidden", async () => {
    const { page, at } = await visit("/spa/one");
    await seconds(10);
    const pushed = await moment(() => page.evaluate("history.pushState(null, '', '/spa/two')"));
    await seconds(20);
    const hidden = await minimize(page, "minimized");
    await page.evaluate("history.pushState(null, '', '/spa/hidden')");
    await seconds(5);
    await page.close();
    await expectRead({ "/spa/one": [[at, pushed]], "/spa/two": [[pushed, hidden]], "/spa/hidden": [] });
    const views = await Promise.all(["/spa/one", "/spa/two", "/spa/hidden"].map(async (path) => (await reading(path)).views)); // prettier-ignore
    expect(views).toEqual([1, 1, 1]);
  });

  test("the time in the back/forward cache is not read, and back from it a second view begins", async () => {
    const { page, at } = await visit("/cached");
    await page.evaluate("addEventListener('pageshow', (event) => (globalThis.restored = event.persisted))");
    await seconds(8);
    const left = await moment(() => page.goto(new URL("/elsewhere?plain", page.url()).href));
    await seconds(15);
    const back = await moment(async () => {
      await page.evaluate("history.back()"); // page.goBack() waits for a load event that never comes
      await until("a restored page", async () => page.evaluate("globalThis.restored").catch(() => false));
    });
    await seconds(8);
    const closed = await moment(() => page.close());
    await expectRead({ "/cached": [[at, left], [back, closed]] }); // oxfmt-ignore
    expect((await reading("/cached")).views).toBe(2);
  });
}
