/** The check page in Chromium. */
import { expect, test } from "bun:test";
import type { BrowserContextOptions } from "playwright-core";
import { ask } from "../support/client.ts";
import { forwarded, proxy, withoutCookie, withoutUpgrade } from "../support/faulty-proxy.ts";
import { suite } from "../support/needs.ts";
import { startNginx } from "../support/nginx.ts";
import { endOwnPages } from "../support/own-pages-hooks.ts";
import { newBrowser, open, phone, picture, shows, startService, stopAtTheEnd } from "../support/own-pages.ts";

endOwnPages();

const check = async (url: string, site: string, options: BrowserContextOptions = {}) => {
  const { page, errors } = await open(await newBrowser(options), `${url}/check?site=${encodeURIComponent(site)}`);
  /** What the line of this title has found, and says. */
  const finding = async (title: string): Promise<[result: string | null, words: string]> => {
    const line = page.locator("#checks li", { has: page.getByRole("heading", { name: title, exact: true }) });
    await line.and(page.locator("[data-result]")).waitFor({ timeout: 20_000 });
    return [await line.getAttribute("data-result"), (await line.innerText()).replace(/\s+/g, " ")];
  };
  return { page, errors, finding };
};

suite("check", ["chromium"], () => {
  test("everything works, in the light and on a dark phone", async () => {
    const service = await startService({ HEARTBEAT_SECONDS: 1 });
    const [{ page, errors, finding }, dark] = await Promise.all([
      check(service.url, "a.example"),
      check(service.url, "https://a.example/some/page", { colorScheme: "dark", viewport: phone }),
    ]);
    expect(await finding("Site")).toEqual(["good", "Site a.example is allowed."]);
    expect((await finding("Your address"))[1]).toContain("directly");
    expect((await finding("Cookies"))[0]).toBe("good");
    expect((await finding("WebSocket"))[0]).toBe("good");
    expect(await finding("Proxy timeout")).toEqual(["good", expect.stringContaining("the pings arrive")]);
    await shows(page, "#summary", "Everything works.");
    expect(await page.locator("#policy").textContent()).toBe(
      `script-src ${service.url}; connect-src ${service.url} ${service.url.replace("http", "ws")}`,
    );
    expect((await dark.finding("Site"))[1]).toContain("https://a.example/some/page is allowed");
    await shows(dark.page, "#summary", "Everything works.");
    expect(await dark.page.evaluate("document.documentElement.scrollWidth")).toBe(phone.width);
    await picture(page, "check-good");
    await picture(dark.page, "check-phone-dark");
    expect([...errors, ...dark.errors]).toEqual([]);
    expect((await ask(service.url, `GET /count?site=${service.host}`)).json.peak).toBe(0); // it was counted nowhere
  });

  test("names the setting that allows a site, and takes another one", async () => {
    const service = await startService({ HEARTBEAT_SECONDS: 1 });
    const { page, errors, finding } = await check(service.url, "shop.example");
    for (const [site, setting] of [
      ["shop.example", "SITES=shop.example"],
      ["shop.example:8443", "SITES=https://shop.example:8443"],
      ["http://shop.example/page?x=1", "SITES=shop.example"],
      ["localhost:5173", "SITES=localhost"],
      ["*.shop.example", "SITES=*.shop.example"],
    ] as const) {
      await page.getByRole("textbox", { name: "Your site" }).fill(site);
      await page.keyboard.press("Enter");
      await page.waitForURL(`**/check?site=${encodeURIComponent(site)}`);
      expect([site, ...(await finding("Site"))]).toEqual([site, "bad", expect.stringContaining("is not allowed")]);
      expect(await page.locator("#checks pre").first().textContent()).toBe(setting);
    }
    await shows(page, "#summary", "One thing is wrong.");
    await picture(page, "check-bad");
    await page.getByRole("textbox", { name: "Your site" }).fill("no site at all");
    await page.getByRole("button", { name: "Check" }).click();
    await page.waitForURL(/no%20site/);
    expect((await finding("Site"))[1]).toContain("is not the name of a site");
    expect(errors).toEqual([]);
  });

  test("behind a proxy that drops Upgrade, and is not trusted", async () => {
    const service = await startService();
    const url = await proxy(service, { request: (head) => withoutUpgrade(forwarded(head)) });
    const { page, finding } = await check(url, "a.example");
    expect(await finding("Your address")).toEqual(["bad", expect.stringMatching(/192\.0\.2\.7.* TRUST_PROXY=1$/)]);
    expect(await finding("WebSocket")).toEqual(["bad", expect.stringContaining("drops the Upgrade header")]);
    expect((await finding("WebSocket"))[1]).toContain("proxy_set_header Upgrade $http_upgrade;");
    await shows(page, "#summary", "2 things are wrong.");
    await picture(page, "check-proxy");
  });

  test("behind a proxy less patient than the heartbeat, that drops cookies", async () => {
    const service = await startService({ HEARTBEAT_SECONDS: 20, TRUST_PROXY: 1 });
    const url = await proxy(service, { request: forwarded, answer: withoutCookie, patienceMs: 2000 });
    const { finding } = await check(url, "a.example");
    expect(await finding("Your address")).toEqual(["good", expect.stringContaining("192.0.2.7")]);
    expect(await finding("Cookies")).toEqual(["note", expect.stringContaining("an id in your page's localStorage")]);
    expect(await finding("Proxy timeout")).toEqual([
      "bad",
      expect.stringMatching(/proxy_read_timeout 60s;.* HEARTBEAT_SECONDS=\d$/),
    ]);
  });

  test("with a proxy expected that is not there, other names, and no ids", async () => {
    const service = await startService({ TRUST_PROXY: 1, IDENTITY: "hash" });
    const { finding } = await check(service.url, "a.example");
    expect(await finding("Your address")).toEqual(["bad", expect.stringMatching(/TRUST_PROXY=0$/)]);
    expect((await finding("Cookies"))[1]).toContain("IDENTITY=hash");
    const renamed = await proxy(service, { request: (head) => head.replace(/^host: .*$/im, "Host: inside:3000") });
    const other = await check(renamed, "a.example");
    expect((await other.finding("Host name"))[1]).toContain("proxy_set_header Host $http_host;");
    expect((await other.finding("Token"))[1]).toContain("Origin not allowed");
    await shows(other.page, "#summary", /things are wrong\.$/);
    const chinese = await check(renamed, "a.example", { locale: "zh-CN" });
    expect((await chinese.finding("令牌"))[1]).toContain("来源未获准");
  });
});

suite("check behind the nginx of the README", ["chromium", "nginx", "openssl"], () => {
  test("over TLS, everything works", async () => {
    const service = await startService({ HEARTBEAT_SECONDS: 1, TRUST_PROXY: 1 });
    const { url, stop } = await startNginx(service.host, 3);
    stopAtTheEnd({ stop });
    const { page, errors, finding } = await check(url, "a.example", { ignoreHTTPSErrors: true });
    expect((await finding("Your address"))[1]).toContain("through a proxy (127.0.0.1)");
    expect(await finding("Encryption")).toEqual(["good", expect.stringContaining("the service knows")]);
    await shows(page, "#summary", "Everything works.");
    expect(await page.locator("#checks [data-result=good]").count()).toBe(8);
    expect(errors).toEqual([]);
  });
});
