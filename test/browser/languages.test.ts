/** The service's own pages and `data-debug`, in a Chinese and in an American browser. */
import { afterAll, expect, test } from "bun:test";
import type { BrowserContextOptions } from "playwright-core";
import { ask, userAgent, Visitor } from "../support/client.ts";
import { authorsText, endSites, serve, tag } from "../support/embedding-site.ts";
import { suite } from "../support/needs.ts";
import { startNginx } from "../support/nginx.ts";
import { newBrowser, open, phone, picture, shows, startService, stopAtTheEnd } from "../support/own-pages.ts";
import { endOwnPages } from "../support/own-pages-hooks.ts";
import { startWithPast } from "../support/past.ts";
import { PATIENCE_MS, until } from "../support/waiting.ts";

endOwnPages();
afterAll(endSites);

const chinese: BrowserContextOptions = { locale: "zh-CN" };
const american: BrowserContextOptions = { locale: "en-US" };
/** What an English page has none of, and a Chinese one has much of. */
const han = /\p{Script=Han}/u;
/** Three English words in a row, which no Chinese text has. */
const english = /[a-z]+ [a-z]+ [a-z]+/i;

const looks: [name: string, options: BrowserContextOptions][] = [
  ["light", {}],
  ["dark", { colorScheme: "dark" }],
  ["phone", { viewport: phone, hasTouch: true }],
];

suite("languages", ["chromium"], () => {
  test("the home page speaks the language of the browser, and so does what it copies", async () => {
    const service = await startService();
    for (const [language, options, hint, words] of [
      ["zh-CN", chinese, /^下面这段代码正在统计本页/, "人在线"],
      ["en", american, /^The tag below counts this page/, "online now"],
    ] as const)
      for (const [look, more] of looks) {
        const { page, errors } = await open(await newBrowser({ ...options, ...more }), service.url);
        await shows(page, "#hint", hint);
        expect(await page.locator("html").getAttribute("lang")).toBe(language);
        expect(await page.locator("#snippet").textContent()).toBe(
          `<span data-headcount>–</span> ${words}\n<script async src="${service.url}/widget.js"></script>`,
        );
        const text = (await page.locator("h1 + p, .note, dd, nav").allInnerTexts()).join("\n");
        expect([han.test(text), english.test(text)]).toEqual(language === "en" ? [false, true] : [true, false]);
        expect(await page.evaluate("document.documentElement.scrollWidth - innerWidth")).toBe(0);
        expect(errors).toEqual([]);
        await picture(page, `home-${language}-${look}`);
      }
  });

  test("the check page speaks Chinese in all that it finds", async () => {
    const service = await startService({ HEARTBEAT_SECONDS: 1, TRUST_PROXY: 1 });
    const checkIt = async (look: string, more: BrowserContextOptions): Promise<void> => {
      const context = await newBrowser({ ...chinese, ...more });
      const { page, errors } = await open(context, `${service.url}/check?site=shop.example`);
      await shows(page, "#summary", "发现 2 个问题。", 20_000);
      expect(await page.locator("html").getAttribute("lang")).toBe("zh-CN");
      const words = await page.locator("#checks h2, #checks p").allInnerTexts();
      expect(words.filter((text) => english.test(text))).toEqual([]);
      expect(await page.locator("#snippet").textContent()).toStartWith("<span data-headcount>–</span> 人在线\n");
      expect(await page.evaluate("document.documentElement.scrollWidth - innerWidth")).toBe(0);
      expect(errors).toEqual([]);
      await picture(page, `check-zh-CN-${look}`);
    };
    await Promise.all(looks.map(([look, more]) => checkIt(look, more)));
  });

  test("the dashboard writes words, numbers and dates as its language does", async () => {
    const past: [minutesAgo: number, peak: number][] = Array.from({ length: 600 }, (_, index) => [index + 30, 12_345]);
    const service = await startWithPast(past, ["/guide"]);
    for (const path of ["/", "/news"]) await new Visitor(service.url, "https://a.example").open(path);
    const stranger = { origin: "https://shop.example", "user-agent": userAgent };
    await ask(service.url, "POST /token", { headers: stranger, body: "{}" });
    for (const [language, options, words] of [
      [
        "zh-CN",
        chinese,
        { link: "实时", title: "2 人在线 – Headcount", readout: /^最高：12,345 · \d{4}\/\d+\/\d+ \d\d:/ },
      ],
      ["en", american, { link: "Live", title: "2 online now – Headcount", readout: /^Highest: 12,345 · \w{3} \d+, / }],
    ] as const)
      for (const [look, more] of looks) {
        const context = await newBrowser({ ...options, ...more });
        const { page, errors } = await open(context, `${service.url}/dashboard#site=a.example&range=day`);
        await shows(page, "#link", words.link);
        await shows(page, "#readout", words.readout);
        await until("the title", async () => (await page.title()) === words.title);
        await page.locator("#reading tr").first().waitFor();
        const text = await page.locator("main").innerText();
        expect([han.test(text), english.test(text)]).toEqual(language === "en" ? [false, true] : [true, false]);
        const labels = await page
          .locator(".now dt, #refusals dt:not(.part dt), #node dt, #columns th")
          .allTextContents();
        expect(labels.length).toBe(21);
        const wrong = labels.filter((label) => han.test(label) !== (language === "zh-CN") && label !== "p90");
        expect(wrong).toEqual([]);
        expect(await page.locator("#reading td").nth(1).innerText()).toBe(
          language === "en" ? "10m 19s" : "10分钟 19秒",
        );
        expect(errors).toEqual([]);
        await picture(page, `dashboard-${language}-${look}`);
      }
  });

  test("a page that is neither English nor Chinese for the browser is English, numbers included", async () => {
    const service = await startWithPast([[10, 12_345]], []);
    const context = await newBrowser({ locale: "de-DE" });
    const { page } = await open(context, `${service.url}/dashboard#site=a.example`);
    await shows(page, "#readout", /^Highest: 12,345 · \w{3} \d+, /);
    const british = await open(await newBrowser({ locale: "en-GB" }), `${service.url}/dashboard#site=a.example`);
    await shows(british.page, "#readout", /^Highest: 12,345 · \d+ \w+ \d{4}/);
  });

  test("data-debug speaks the language of the browser, on a page in any language", async () => {
    const service = await startService({ SITES: "" });
    const html = `<!doctype html><html lang="en_US">${tag(service.url, "data-debug")}`;
    for (const [options, words] of [
      [chinese, ["Headcount: 本页属于 ", "Headcount: 已连接。全站 1 人，本页 1 人", "这个浏览器接受服务的 cookie"]],
      [
        american,
        ["Headcount: this page is on ", "Headcount: live. 1 on the site, 1 on this page", "accepts the cookie"],
      ],
    ] as const) {
      const { page, said } = await open(await newBrowser(options), serve(() => html).url);
      for (const part of words)
        await until(`the console says ${part}`, () => said.some((line) => line.includes(part)), 15_000);
      await page.close();
      const isEmpty = async (): Promise<boolean> =>
        (await ask(service.url, "GET /count?site=localhost")).json.site === 0;
      await until("nobody is left", isEmpty);
    }
  });

  test("the documentation opens in the language of the browser, and the other one is a click away", async () => {
    const service = await startService();
    for (const [look, more] of looks) {
      const { page, errors } = await open(await newBrowser({ ...chinese, ...more }), `${service.url}/docs`);
      expect(await page.locator("html").getAttribute("lang")).toBe("zh-CN");
      expect(await page.evaluate("document.documentElement.scrollWidth - innerWidth")).toBe(0);
      await picture(page, `docs-zh-CN-${look}`);
      await page.getByRole("link", { name: "English" }).click();
      await page.waitForURL(`${service.url}/docs/README.md`);
      expect(await page.locator("html").getAttribute("lang")).toBe("en");
      await picture(page, `docs-en-${look}`);
      expect(errors).toEqual([]);
    }
  });
});

suite("under a path", ["chromium", "nginx", "openssl"], () => {
  test("the home page counts itself, and its snippet has the path and works elsewhere", async () => {
    const service = await startService({ TRUST_PROXY: 1, SITES: "" });
    const { url, stop } = await startNginx(service.host, 10, { isUnderPath: true });
    stopAtTheEnd({ stop });
    const context = await newBrowser({ ...american, ignoreHTTPSErrors: true });
    const { page, errors } = await open(context, `${url}/headcount/`);
    await shows(page, "[data-headcount]", "1");
    const snippet = await page.locator("#snippet").textContent();
    expect(snippet).toContain(`src="${url}/headcount/widget.js"`);
    const elsewhere = await open(context, serve(() => `<!doctype html>${snippet}`).url);
    await elsewhere.page.locator('[data-headcount-state="live"]').waitFor({ timeout: PATIENCE_MS });
    expect(await elsewhere.page.locator("[data-headcount]").textContent()).not.toBe(authorsText);

    for (const [name, path] of [
      ["Docs", "docs"],
      ["Check", "check"],
      ["Dashboard", "dashboard"],
    ] as const) {
      await page.goto(`${url}/headcount/`);
      await page.getByRole("link", { name }).click();
      await page.waitForURL(`${url}/headcount/${path}`);
    }
    await page.goto(`${url}/headcount/docs`);
    await page.getByRole("link", { name: "docs/proxies.md" }).first().click();
    await page.waitForURL(`${url}/headcount/docs/proxies.md`);
    await page.getByRole("link", { name: "Home" }).click();
    await page.waitForURL(`${url}/headcount/`);
    expect(errors).toEqual([]);
  });
});
