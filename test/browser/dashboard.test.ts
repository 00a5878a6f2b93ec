/** The dashboard: who may see it, and the numbers now. */
import { expect, test } from "bun:test";
import { ask, Visitor } from "../support/client.ts";
import { suite } from "../support/needs.ts";
import { endOwnPages } from "../support/own-pages-hooks.ts";
import { dashboard, newBrowser, open, picture, shows, startService } from "../support/own-pages.ts";
import { startWithPast } from "../support/past.ts";
import { runtimes } from "../support/service.ts";
import { sleep, until } from "../support/waiting.ts";

endOwnPages();

suite("dashboard", ["chromium"], () => {
  test("opens for the operator only", async () => {
    const service = await startService();
    for (const path of ["/dashboard", "/dashboard/state", "/dashboard/history"]) {
      const refused = await ask(service.url, `GET ${path}`);
      expect(refused.status).toBe(401);
      expect(refused.headers.get("www-authenticate")).toMatch(/^Basic /);
      const { authorization } = service;
      expect((await ask(service.url, `GET ${path}`, { headers: { authorization } })).status).toBe(200);
    }
  });

  test("before anybody came it says so, in each range", async () => {
    const { page, errors } = await dashboard(await startService());
    await shows(page, "#link", "Live");
    await shows(page, "#visitors", "0");
    for (const name of ["Hour", "Day", "Week", "90 days"]) {
      await page.getByRole("button", { name, exact: true }).click();
      await shows(page, "#readout", "Nobody was online.");
    }
    expect(await page.locator("#no-pages, #no-reading, #no-refusals").allTextContents()).toHaveLength(3);
    expect(await page.locator("#no-pages").isVisible()).toBe(true);
    expect(await page.locator("table").isVisible()).toBe(false);
    await picture(page, "empty");
    expect(errors).toEqual([]);
  });

  test.each(runtimes)("%s: follows the numbers as they change, and lets choose the site", async (runtime) => {
    const service = await startService({}, runtime);
    const { page, errors } = await dashboard(service);
    const [one, other] = [new Visitor(service.url, "https://a.example"), new Visitor(service.url, "https://a.example")];
    const first = await one.open("/first");
    await shows(page, "#visitors", "1");
    await shows(page, "#site", "a.example");
    await shows(page, "#readout", /^Highest: 1 · /);
    await picture(page, "one");
    const second = await other.open("/second");
    const third = await one.open("/second");
    await shows(page, "#visitors", "2");
    await shows(page, "#open-pages", "3");
    await shows(page, "#pages", "/second2/first1");
    expect(await page.title()).toBe("2 online now – Headcount");

    expect((await page.locator("#node").innerText()).toLowerCase()).toContain(runtime);

    const elsewhere = await new Visitor(service.url, "https://b.example").open("/elsewhere");
    await page.getByRole("button", { name: "b.example" }).press("Enter");
    await shows(page, "#visitors", "1");
    await shows(page, "#pages", "/elsewhere1");
    await until("a pressed button", () => page.getByRole("button", { name: "b.example", pressed: true }).isVisible());
    await page.reload();
    await shows(page, "#site", "b.example"); // the address has kept the choice

    await page.getByRole("button", { name: "a.example" }).click();
    await Promise.all([first.close(), second.close(), third.close()]);
    await shows(page, "#visitors", "0");
    await shows(page, "#site", "a.example");
    await elsewhere.close();
    expect(errors).toEqual([]);
  });

  test("draws somebody who comes in a new minute at once", async () => {
    const service = await startService();
    const context = await newBrowser();
    // In this browser, and in the history that it is told, a minute ends three seconds after the page was opened.
    const aheadMs = 60_000 - ((Date.now() + 3_000) % 60_000);
    await context.addInitScript(`{ const now = Date.now; Date.now = () => now() + ${aheadMs}; }`);
    await context.route("**/dashboard/history*", async (route) => {
      const to = Math.floor((Date.now() + aheadMs) / 60_000);
      await route.fulfill({ json: { from: to - 59, to, step: 1, points: [] } });
    });
    const { page, errors } = await open(context, `${service.url}/dashboard`);
    await shows(page, "#readout", "Nobody was online.");
    await sleep(3_500);
    const visitor = await new Visitor(service.url, "https://a.example").open("/");
    await shows(page, "#readout", /^Highest: 1 · /, 8_000);
    await visitor.close();
    expect(errors).toEqual([]);
  });

  test("shows the past of a site where nobody is, until somebody is on another one", async () => {
    const service = await startWithPast([[30, 7]], ["/"]);
    const { page, errors } = await dashboard(service);
    await shows(page, "#site", "a.example");
    await shows(page, "#visitors", "0");
    await shows(page, "#highest", "7");
    await shows(page, "#readout", /^Highest: 7 · /);
    expect(await page.locator("#sites button").allTextContents()).toEqual(["a.example0", "b.example0"]);
    const elsewhere = await new Visitor(service.url, "https://b.example").open("/");
    await shows(page, "#site", "b.example");
    await elsewhere.close();
    await shows(page, "#visitors", "0");
    expect(await page.locator("#site").textContent()).toBe("b.example");
    expect(errors).toEqual([]);
  });

  test("asks nothing while it is hidden", async () => {
    const service = await startService();
    const { page } = await dashboard(service);
    await shows(page, "#link", "Live");
    const asked: string[] = [];
    page.on("request", (request) => asked.push(request.url()));
    await page.evaluate(`
      Object.defineProperty(document, "hidden", { configurable: true, value: true });
      document.dispatchEvent(new Event("visibilitychange"));
    `);
    await sleep(3000);
    expect(asked).toEqual([]);
    await page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))");
    await until("a question", () => asked.length > 0);
  });
});
