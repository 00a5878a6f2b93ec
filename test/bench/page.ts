/**
 * What the tag costs the page that carries it, in Chromium: requests, bytes, main-thread time, layout shifts, bfcache.
 *
 *     npm run bench -- page [--rounds 10]
 *
 * The page is one of npm's documentation, served from another origin than the service, as it is and with the tag pasted
 * into it, in turn. Half a minute of a page is too long to wait in each round: what an update costs is measured by
 * twenty of them, as visitors come.
 */

/* oxlint-disable no-await-in-loop -- one thing is measured at a time */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Browser, CDPSession, Page } from "playwright-core";
import { endChromium, launch, userAgent } from "../support/chromium.ts";
import { Visitor } from "../support/client.ts";
import { pathOf } from "../support/needs.ts";
import { endServices, Service } from "../support/service.ts";
import { sleep } from "../support/waiting.ts";
import { type Figures, median } from "./figures.ts";

const UPDATES = 20;
const SETTLE_MS = 3_000;
const VIEWPORT = { width: 1280, height: 800 };

/** The documentation, with the tag at `/tagged`. Each has a script of its own, or the tag would pay for a first one. */
function serve(tag: string) {
  const file = join(pathOf("npm's HTML documentation"), "commands/npm-ls.html");
  const text = readFileSync(file, "utf8").replace("<body>", "<body><script>document.title += new Date();</script>");
  const headers = { "content-type": "text/html" };
  const fetch = ({ url }: Request): Response =>
    new Response(new URL(url).pathname === "/tagged" ? text.replace("<h1", `${tag}\n<h1`) : text, { headers });
  return Bun.serve({ port: 0, hostname: "127.0.0.1", fetch });
}

/** Milliseconds that the main thread of the page has worked, by kind. */
async function mainThread(cdp: CDPSession): Promise<{ all: number; script: number }> {
  const { metrics } = await cdp.send("Performance.getMetrics");
  const of = (name: string): number => (metrics.find((metric) => metric.name === name)?.value ?? 0) * 1_000;
  return { all: of("TaskDuration"), script: of("ScriptDuration") };
}

/** Counts what goes over the network to the service, in requests, in bytes of HTTP and in bytes of frames. */
async function countTraffic(cdp: CDPSession, server: string) {
  const traffic = { requests: 0, bytes: 0 };
  const ours = new Set<string>();
  await cdp.send("Network.enable");
  cdp.on("Network.requestWillBeSent", ({ requestId, request }) => {
    if (!request.url.startsWith(server)) return;
    ours.add(requestId);
    traffic.requests += 1;
  });
  cdp.on("Network.webSocketCreated", () => (traffic.requests += 1));
  cdp.on("Network.loadingFinished", ({ requestId, encodedDataLength }) => {
    if (ours.has(requestId)) traffic.bytes += encodedDataLength;
  });
  cdp.on("Network.webSocketFrameReceived", ({ response }) => (traffic.bytes += response.payloadData.length));
  cdp.on("Network.webSocketFrameSent", ({ response }) => (traffic.bytes += response.payloadData.length));
  return traffic;
}

const layoutShift = (page: Page): Promise<number> =>
  page.evaluate(
    `new Promise((found) => new PerformanceObserver((list) =>
       found(list.getEntries().reduce((sum, { value }) => sum + value, 0))
     ).observe({ type: "layout-shift", buffered: true }) || setTimeout(found, 500, 0))`,
  );

/** Away to another page and back: whether the page came out of the bfcache. */
async function comesBack(page: Page, url: string): Promise<number> {
  await page.evaluate("addEventListener('pageshow', ({ persisted }) => { globalThis.persisted = persisted; })");
  await page.goto(`${url}/other`);
  await page.evaluate("history.back()");
  await sleep(500);
  return Number((await page.evaluate("globalThis.persisted")) === true);
}

async function measure(browser: Browser, url: string, path: string, service: Service): Promise<Figures> {
  const context = await browser.newContext({ userAgent, viewport: VIEWPORT });
  try {
    const page = await context.newPage();
    const cdp = await context.newCDPSession(page);
    const traffic = await countTraffic(cdp, service.url);
    await cdp.send("Performance.enable");
    await page.goto(url + path);
    await sleep(SETTLE_MS); // without looking: that would be work for its main thread
    const loaded = await mainThread(cdp);
    const shift = await layoutShift(page);
    if (path === "/tagged" && !(await page.isVisible('[data-headcount-state="live"]'))) throw new Error("no number");
    const looked = await mainThread(cdp);
    const { requests, bytes } = traffic;
    const visitors = [];
    for (let update = 0; update < UPDATES; update++) {
      visitors.push(await new Visitor(service.url, url).open());
      await sleep(150); // longer than updates are held together
    }
    const updated = await mainThread(cdp);
    for (const visitor of visitors) void visitor.close();
    return {
      "requests to the service": requests,
      "bytes from and to the service": bytes,
      "main thread until it has settled, ms": loaded.all,
      "of these, scripts, ms": loaded.script,
      "main thread per update, ms": (updated.all - looked.all) / UPDATES,
      "layout shift until then": shift,
      "restored from the bfcache": await comesBack(page, url),
    };
  } finally {
    await context.close();
  }
}

/** Prints medians of the page as it is and of the page with the tag. */
export async function benchPage(rounds: number): Promise<void> {
  const service = await Service.start("bun", { MAX_TOKENS_PER_IP: 1e6, MAX_VISITORS_PER_IP: 1e6 });
  const server = serve(
    `<p><span data-headcount>–</span> here</p><script async src="${service.url}/widget.js"></script>`,
  );
  const browser = await launch();
  const url = `http://127.0.0.1:${server.port}`;
  const plain: Figures[] = [];
  const tagged: Figures[] = [];
  try {
    for (let round = 0; round <= rounds; round++) {
      const figures = [await measure(browser, url, "/plain", service), await measure(browser, url, "/tagged", service)];
      if (round === 0) continue; // the browser warms up
      plain.push(figures[0]!);
      tagged.push(figures[1]!);
    }
  } finally {
    await endChromium();
    void server.stop(true);
    endServices();
  }
  console.log("| measure (medians) | plain page | with the tag | difference |\n| --- | ---: | ---: | ---: |");
  for (const name of Object.keys(plain[0]!)) {
    const [without, with_] = [plain, tagged].map((all) => median(all.map((figures) => figures[name]!)));
    const cells = [without!, with_!, with_! - without!].map((value) => String(+value.toFixed(3)));
    console.log(`| ${name} | ${cells.join(" | ")} |`);
  }
}
