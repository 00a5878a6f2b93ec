/** The home page in Chromium, and a browser that says it is headless. */
import { afterAll, expect, test } from "bun:test";
import { endChromium, launch, userAgent } from "../support/chromium.ts";
import { ask, Visitor } from "../support/client.ts";
import { suite } from "../support/needs.ts";
import { endServices, Service } from "../support/service.ts";
import { authorsText, endSites, serve, tag } from "../support/embedding-site.ts";
import { PATIENCE_MS, sleep, until } from "../support/waiting.ts";

afterAll(async () => {
  await endChromium();
  endSites();
  endServices();
});

suite("home", ["chromium"], () => {
  test("the home page counts itself, and copies a snippet that works", async () => {
    const service = await Service.start("bun");
    const context = await (await launch()).newContext({ userAgent });
    await context.grantPermissions(["clipboard-read", "clipboard-write"]);
    const page = await context.newPage();
    const complaints: string[] = [];
    page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
    page.on("pageerror", (error) => complaints.push(error.message));
    await page.goto(service.url);
    await page.locator('[data-headcount][data-headcount-state="live"]').first().waitFor({ timeout: PATIENCE_MS });
    expect(await page.locator("[data-headcount]").first().textContent()).toBe("1");
    await page.getByRole("button", { name: /copy/i }).first().click();
    const snippet = await page.evaluate<string>("navigator.clipboard.readText()");
    expect(complaints).toEqual([]);

    const elsewhere = await context.newPage();
    await elsewhere.goto(serve(() => `<!doctype html>${snippet}`).url);
    await elsewhere.locator('[data-headcount][data-headcount-state="live"]').waitFor({ timeout: PATIENCE_MS });
    expect(await elsewhere.locator("[data-headcount]").textContent()).toBe("1");
    await context.close();
  });
});

suite("home of another site", ["chromium"], () => {
  test("with ?site= the home page shows the numbers of that site, or says why there are none", async () => {
    const service = await Service.start("bun", { SITES: "blog.example" });
    const reader = await new Visitor(service.url, "https://blog.example").open("/post");
    const page = await (await launch()).newPage({ userAgent });
    await page.goto(`${service.url}/?site=blog.example`);
    await page.getByText("numbers of blog.example").waitFor();
    expect(await page.locator('.now strong[data-headcount-state="live"]').textContent()).toBe("1");
    expect(await page.locator("dd", { hasText: /^1$/ }).count()).toBe(5); // site, peak, total, visitors, today
    await page.goto(`${service.url}/?site=other.example`);
    await page.getByText("There are no numbers of other.example, which is not one of the SITES").waitFor();
    reader.vanish();
    await page.close();
  });
});

suite("headless browser", ["chromium"], () => {
  test("a browser that says it is headless is refused, told why once, and the author's text stays", async () => {
    const service = await Service.start("bun");
    const context = await (await launch()).newContext();
    const page = await context.newPage();
    const warned: string[] = [];
    page.on("console", (message) => {
      if (message.type() === "warning" && /headcount/i.test(message.text())) warned.push(message.text());
    });
    await page.goto(serve(() => `<!doctype html>${tag(service.url)}`).url);
    await until("a warning", () => warned.length > 0);
    await sleep(2000);
    expect(warned).toEqual([expect.stringMatching(/^headcount: 403 .*"title":.*"detail":/)]);
    expect(await page.locator("[data-headcount]").textContent()).toBe(authorsText);
    expect((await ask(service.url, "GET /count?site=localhost")).json.site).toBe(0);
    await context.close();
  });
});
