/** What `data-debug` says in the console. */
import { expect, test } from "bun:test";
import { proxy, withoutCookie, withoutUpgrade } from "../support/faulty-proxy.ts";
import { suite } from "../support/needs.ts";
import { endOwnPages } from "../support/own-pages-hooks.ts";
import { newBrowser, open, startService, stopAtTheEnd } from "../support/own-pages.ts";
import { until } from "../support/waiting.ts";

endOwnPages();

suite("debug", ["chromium"], () => {
  const target = "<p><span data-headcount>–</span> online now</p>";
  /** A site with the tag, and what its console says. */
  const visit = async (server: string, { policy = "", body = target, gpc = false, browser = {} } = {}) => {
    const html = `<!doctype html>${body}<script async src="${server}/widget.js" data-debug></script>`;
    const headers = { "content-type": "text/html", ...(policy && { "content-security-policy": policy }) };
    const site = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response(html, { headers }) });
    stopAtTheEnd({ stop: () => site.stop(true) });
    const context = await newBrowser(browser);
    if (gpc) await context.addInitScript("Object.defineProperty(navigator, 'globalPrivacyControl', { value: true })");
    const url = `http://127.0.0.1:${site.port}`;
    const { said } = await open(context, url);
    const hears = (words: string): Promise<unknown> =>
      until(`the console says ${words}`, () => said.some((line) => line.includes(words)), 15_000).catch(
        (error: unknown) => Promise.reject(new Error(`${String(error)}; it says ${JSON.stringify(said)}`)),
      );
    return { url, said, hears };
  };
  const openToAll = { SITES: "" }; // localhost, then

  test("tells of a page that is live, and of its cookie", async () => {
    const service = await startService(openToAll);
    const { url, said, hears } = await visit(service.url);
    await hears(`Headcount: this page is on ${url}, the service is at ${service.url}/`);
    await hears("Headcount: live. 1 on the site, 1 on this page");
    await hears("Headcount: this browser accepts the cookie of the service");
    expect(said.filter((line) => /does not count|drops|blocks/.test(line))).toEqual([]);
  });

  test("names the setting that allows the page's origin", async () => {
    const service = await startService();
    const { url, hears } = await visit(service.url);
    await hears(`Headcount: the service does not count ${url}. Start it with`);
    await hears(`SITES=${url}`);
    await hears(`${service.url}/check?site=${encodeURIComponent(url)}`);
  });

  test("names the lines that a Content-Security-Policy needs", async () => {
    const { url } = await startService(openToAll);
    const { said, hears } = await visit(url, { policy: `script-src ${url}; connect-src ${url}` });
    await hears(`Add to it:\nscript-src ${url}; connect-src ${url} ${url.replace("http", "ws")}`);
    expect(said.filter((line) => line.includes("Upgrade"))).toEqual([]);
    const nothing = await visit(url, { policy: `script-src ${url}; connect-src 'none'` });
    await nothing.hears(`Add to it:\nscript-src ${url}; connect-src ${url} ${url.replace("http", "ws")}`);
  });

  test("recognizes a proxy that drops Upgrade", async () => {
    const service = await startService(openToAll);
    const url = await proxy(service, { request: withoutUpgrade });
    const { hears } = await visit(url);
    await hears("no WebSocket opens. A proxy drops the Upgrade header");
    await hears("proxy_set_header Upgrade $http_upgrade;");
  });

  test("says why the service refuses the page, in the language of the browser", async () => {
    const service = await startService(openToAll);
    const userAgent = "HeadlessChrome";
    await (await visit(service.url, { browser: { userAgent } })).hears("refused this page: Crawlers are not counted. ");
    await (await visit(service.url, { browser: { userAgent, locale: "zh-CN" } })).hears("服务拒绝了本页：爬虫不计入。");
  });

  test("tells of dropped cookies, and whether there is a fallback", async () => {
    const service = await startService(openToAll);
    const { hears } = await visit(await proxy(service, { answer: withoutCookie }));
    await hears("the widget uses the localStorage of this page");
  });

  test("misses an element, and knows the numbers", async () => {
    const service = await startService(openToAll);
    await (await visit(service.url, { body: "<p>Nothing here</p>" })).hears("this page has no element for the number");
    await (await visit(service.url, { body: "<i data-headcount=all></i>" })).hears(`data-headcount="all" is unknown`);
  });

  test("tells of Global Privacy Control", async () => {
    const service = await startService(openToAll);
    const { said, hears } = await visit(service.url, { gpc: true });
    await hears("this browser sends Global Privacy Control");
    await hears("Headcount: live. 0 on the site");
    expect(said.some((line) => line.includes("cookie"))).toBe(false);
  });

  test("a service that is gone, and back", async () => {
    const service = await startService(openToAll);
    const { hears } = await visit(service.url);
    await hears("Headcount: live. 1");
    await service.stop("SIGKILL");
    await hears("does not answer");
    await service.start();
    await hears("Headcount: live. 1");
  });
});
