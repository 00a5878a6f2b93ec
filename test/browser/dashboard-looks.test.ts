/** How the dashboard looks: what is not known, who was refused, words beside numbers, a phone, odd addresses and languages. */
import { afterAll, expect, test } from "bun:test";
import type { Page } from "playwright-core";
import { ask, userAgent, Visitor } from "../support/client.ts";
import { suite } from "../support/needs.ts";
import { endOwnPages } from "../support/own-pages-hooks.ts";
import {
  dashboard,
  inkOf,
  newBrowser,
  open,
  password,
  phone,
  picture,
  shows,
  startService,
} from "../support/own-pages.ts";
import { startWithPast } from "../support/past.ts";
import { until } from "../support/waiting.ts";
import { webkit } from "../support/webkit.ts";

endOwnPages();

/** The share of the chart's width at which its line begins. */
const lineBegins = (page: Page): Promise<number> =>
  page.evaluate(`(() => {
    const canvas = document.querySelector("#chart canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const isInk = (at) => data[at + 3] > 20 && data[at + 1] > data[at] + 40;
    for (let x = 0; x < canvas.width; x++)
      for (let y = 0; y < canvas.height; y++) if (isInk(4 * (y * canvas.width + x))) return x / canvas.width;
    return 1;
  })()`);

suite("dashboard looks", ["chromium"], () => {
  test("draws nothing before the first moment that is known", async () => {
    const service = await startWithPast([[3 * 1440, 5]], []);
    const { page, errors } = await dashboard(service, {}, "#site=a.example&range=quarter");
    await shows(page, "#readout", /^Highest: 5 · /);
    expect(await inkOf(page)).toBeGreaterThan(20);
    expect(await lineBegins(page)).toBeGreaterThan(0.85); // three days of ninety
    const chart = page.locator("#chart");
    await chart.focus();
    await chart.press("Home"); // the first interval that is known
    await shows(page, "#readout", /^5 · /);
    const { x, y } = (await page.locator("#chart .u-over").boundingBox())!;
    await page.mouse.move(x + 20, y + 20);
    await shows(page, "#readout", /^Not known · /);
    await picture(page, "day-one");
    await page.getByRole("button", { name: "Day", exact: true }).click();
    await shows(page, "#readout", "Nobody was online.");
    expect(errors).toEqual([]);
  });

  test("names the origins that were refused, and leads to what would allow them", async () => {
    const service = await startService();
    const post = (origin: string) =>
      ask(service.url, "POST /token", { headers: { origin, "user-agent": userAgent }, body: "{}" });
    for (const origin of ["https://shop.example", "https://shop.example", "https://www.a.example"]) await post(origin);
    const { page, errors } = await dashboard(service);
    await until("refusals", async () => (await page.locator("#refusals .part").count()) === 2);
    expect(await page.locator("#refusals div").first().innerText()).toMatch(/^Origin not allowed\s+3$/);
    const origins = await page.locator("#refusals .part").allInnerTexts();
    expect(origins.map((row) => row.replace(/\s+/g, " "))).toEqual([
      "https://shop.example 2",
      "https://www.a.example 1",
    ]);
    expect(await page.locator("#no-refusals").isVisible()).toBe(false);
    await picture(page, "refused");
    await page.getByRole("link", { name: "https://shop.example" }).click();
    await page.waitForURL(`${service.url}/check?site=${encodeURIComponent("https://shop.example")}`);
    expect(errors).toEqual([]);
  });

  test("counted words agree with their number", async () => {
    const service = await startService();
    const { page } = await dashboard(service, {}, "#site=a.example");
    await shows(page, "#visitors-word", "people now");
    const visitor = new Visitor(service.url, "https://a.example");
    const first = await visitor.open("/");
    await shows(page, "#visitors-word", "person now");
    await shows(page, "#open-pages-word", "open page");
    for (const [word, words] of [
      ["#today-word", "visitor today"],
      ["#all-visitors-word", "visitor ever"],
      ["#all-views-word", "view ever"],
    ] as const)
      await shows(page, word, words);
    const second = await visitor.open("/second");
    await shows(page, "#open-pages-word", "open pages");
    await shows(page, "#all-views-word", "views ever");
    await Promise.all([first.close(), second.close()]);
  });

  test("leads home, to the check page and to the documentation", async () => {
    const service = await startService();
    const { page } = await dashboard(service);
    for (const [name, path] of [
      ["Home", "/"],
      ["Check", "/check"],
      ["Docs", "/docs"],
    ] as const) {
      await page.goto(`${service.url}/dashboard`);
      await page.getByRole("link", { name, exact: true }).click();
      await page.waitForURL(service.url + path);
    }
  });

  test("on a phone, refusals and the node are folded, and open with a touch", async () => {
    const service = await startService();
    const { page } = await dashboard(service, { viewport: phone, hasTouch: true });
    await shows(page, "#link", "Live");
    const node = page.locator("#node");
    expect(await node.isVisible()).toBe(false);
    await page.getByText("This node").tap();
    await node.waitFor({ state: "visible" });
    await page.setViewportSize({ width: 1280, height: 900 });
    await page.locator("#no-refusals").waitFor({ state: "visible" });
  });

  test("a public dashboard has neither refusals nor a node", async () => {
    const service = await startService();
    const context = await newBrowser();
    await context.route("**/dashboard/state", async (route) => {
      const answer = await route.fetch();
      const { sites } = await answer.json();
      await route.fulfill({ response: answer, json: { sites } });
    });
    const { page, errors } = await open(context, `${service.url}/dashboard`);
    await shows(page, "#link", "Live");
    expect(await page.locator("details").evaluateAll((cards) => cards.map((card) => (card as any).hidden))).toEqual([
      true,
      true,
    ]);
    expect(errors).toEqual([]);
  });

  test("works with a user and a password in the address bar, as the check page does", async () => {
    const service = await startService({ HEARTBEAT_SECONDS: 1 });
    const address = service.url.replace("://", `://admin:${encodeURIComponent(password)}@`);
    const { page, errors } = await open(await newBrowser({ httpCredentials: undefined! }), `${address}/dashboard`);
    await shows(page, "#link", "Live");
    await shows(page, "#readout", "Nobody was online.");
    await page.goto(`${address}/check?site=a.example`);
    await shows(page, "#summary", "Everything works.", 20_000);
    expect(errors).toEqual([]);
  });
});

suite("dashboard in WebKit without a language", ["webkit2gtk-driver", "xvfb"], () => {
  const engine = webkit({ LANG: "C" });
  afterAll(() => engine.end());

  test("LANG=C does not stop it, nor do a user and a password in the address bar", async () => {
    const service = await startService();
    const browser = await engine.newVisitor();
    const tab = await browser.newTab();
    await tab.goto(`${service.url.replace("://", `://admin:${encodeURIComponent(password)}@`)}/dashboard`);
    await until(
      "a live dashboard",
      () => tab.evaluate("document.getElementById('link').textContent === 'Live'"),
      10_000,
    );
    await until("a chart", () => tab.evaluate("document.querySelector('#chart canvas') !== null"));
    await browser.close();
  });
});
