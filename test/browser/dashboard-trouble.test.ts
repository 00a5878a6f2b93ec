/** What the dashboard says when it gets no numbers: no service, no engine, or another password than before. */
import { expect, test } from "bun:test";
import { suite } from "../support/needs.ts";
import { endOwnPages } from "../support/own-pages-hooks.ts";
import { dashboard, newBrowser, open, picture, shows, startService } from "../support/own-pages.ts";
import { runtimes } from "../support/service.ts";
import { sleep } from "../support/waiting.ts";

endOwnPages();

suite("dashboard trouble", ["chromium"], () => {
  test.each(runtimes)("%s: says when the service is gone, and is live again by itself", async (runtime) => {
    const service = await startService({}, runtime);
    const { page } = await dashboard(service);
    await shows(page, "#link", "Live");
    await service.stop("SIGKILL");
    await shows(page, "#link", /^The service is not reachable .* These are the last known numbers/);
    expect(await page.title()).toBe("Not live – Headcount");
    await picture(page, "lost");
    await service.start();
    await shows(page, "#link", "Live");
    expect(await page.locator("#sign-in").isVisible()).toBe(false);
  });

  test.each(runtimes)("%s: asks nothing after the password has changed, and offers to sign in", async (runtime) => {
    const service = await startService({}, runtime);
    const context = await newBrowser({ locale: "en-US" });
    const { page } = await open(context, `${service.url}/dashboard`);
    await shows(page, "#link", "Live");
    await service.stop();
    const password = "another password";
    service.settings["ADMIN_PASSWORD"] = password;
    await service.start();
    await shows(page, "#link", "Please sign in");
    expect(await page.title()).toBe("Please sign in – Headcount");
    await picture(page, "signed-out");

    const asked: string[] = [];
    page.on("request", (request) => asked.push(request.url()));
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))");
    await page.locator("#ranges button").first().click({ force: true });
    await sleep(3_000);
    expect(asked).toEqual([]);

    await context.setHTTPCredentials({ username: "admin", password });
    await page.getByRole("button", { name: "Sign in" }).click();
    await shows(page, "#link", "Live");
  });

  test("asks in Chinese to sign in", async () => {
    const service = await startService();
    const context = await newBrowser({ locale: "zh-CN" });
    await context.route("**/dashboard/state", (route) => route.fulfill({ status: 401, json: {} }));
    const { page } = await open(context, `${service.url}/dashboard`);
    await shows(page, "#link", "请登录");
    await page.getByRole("button", { name: "登录" }).waitFor();
  });

  test("says why the service sends no numbers, which is no question of the way to it", async () => {
    const service = await startService();
    const context = await newBrowser();
    await context.route("**/dashboard/state", (route) =>
      route.fulfill({ status: 429, json: { type: "urn:headcount:problem:guesses", title: "Too many", status: 429 } }),
    );
    const { page } = await open(context, `${service.url}/dashboard`);
    await shows(page, "#link", "The service sends no numbers (Too many wrong passwords)");
    await context.unroute("**/dashboard/state");
    await shows(page, "#link", "Live");
  });

  test("shows a dash for a number that is not known", async () => {
    const service = await startService();
    const context = await newBrowser();
    await context.route("**/dashboard/state", (route) =>
      route.fulfill({
        json: {
          sites: [
            { site: "a.example", openPages: 0, peak: 0, pages: [] },
            { site: "b.example", visitors: 3, openPages: 3, peak: 3, pages: [] },
          ],
        },
      }),
    );
    const { page, errors } = await open(context, `${service.url}/dashboard`);
    await shows(page, "#visitors", "–");
    await shows(page, "#site", "a.example");
    expect(await page.locator("#sites button b").allTextContents()).toEqual(["–", "3"]);
    expect(await page.title()).toBe("– online now – Headcount");
    expect(errors).toEqual([]);
  });

  test("says when the engine is away, and what went wrong", async () => {
    const service = await startService();
    const context = await newBrowser();
    await context.route("**/dashboard/state", async (route) => {
      const answer = await route.fetch();
      const { node, refusals } = await answer.json();
      const sites = [{ site: "a.example", visitors: 2, openPages: 3, peak: 4, pages: [{ page: "/", visitors: 0 }] }];
      await route.fulfill({
        response: answer,
        json: { node: { ...node, engine: "redis", stale: true, engineErrors: 12 }, refusals, sites },
      });
    });
    const { page, errors } = await open(context, `${service.url}/dashboard`);
    await shows(page, "#link", /^No connection to Redis/);
    await shows(page, "#visitors", "2");
    await shows(page, "#peak", "4");
    await shows(page, "#highest", "–");
    expect(await page.locator("#node .bad").allTextContents()).toEqual(["no connection to Redis", "12"]);
    await picture(page, "stale");
    expect(errors).toEqual([]);
  });
});
