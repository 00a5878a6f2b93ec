/** What the dashboard shows of pages: reading times, names that strangers chose, and a year of data. */
import { expect, test } from "bun:test";
import { Visitor } from "../support/client.ts";
import { suite } from "../support/needs.ts";
import { endOwnPages } from "../support/own-pages-hooks.ts";
import { dashboard, inkOf, phone, picture, shows } from "../support/own-pages.ts";
import { startWithPast, year } from "../support/past.ts";
import { until } from "../support/waiting.ts";

endOwnPages();

const hostile = `<img src=x onerror="document.title='owned'">`;
suite("dashboard tables", ["chromium"], () => {
  test("sorts reading times by keyboard, and says how", async () => {
    const pages = Array.from({ length: 60 }, (_, index) => `/page-${index}`);
    const { page, errors } = await dashboard(await startWithPast([], pages), {}, "#site=a.example");
    const first = () => page.locator("#reading th").first().textContent();
    const header = (name: string) => page.getByRole("columnheader", { name });
    await until("the page with the largest sum", async () => (await first()) === "/page-59");
    expect(await header("Total time").getAttribute("aria-sort")).toBe("descending");
    await header("Views").getByRole("button").focus();
    await page.keyboard.press("Enter");
    expect([await first(), await header("Views").getAttribute("aria-sort")]).toEqual(["/page-0", "descending"]);
    expect(await header("Total time").getAttribute("aria-sort")).toBe("none");
    await page.keyboard.press("Space");
    expect([await first(), await header("Views").getAttribute("aria-sort")]).toEqual(["/page-59", "ascending"]);
    await page.keyboard.press("Shift+Tab");
    await page.keyboard.press("Enter"); // by name, where 9 comes before 10
    expect(await page.locator("#reading th").allTextContents()).toEqual(pages.slice(0, 25));
    await page.getByRole("button", { name: "Show 25 more (35 left)" }).press("Enter");
    await page.getByRole("button", { name: "Show 10 more (10 left)" }).press("Enter");
    expect(await page.locator("#reading tr").count()).toBe(60);
    expect(errors).toEqual([]);
  });

  test("writes what strangers have named as text", async () => {
    const service = await startWithPast([[10, 3]], [hostile, "<script>document.title='owned'</script>"]);
    const visitor = await new Visitor(service.url, "https://a.example").open(hostile);
    const { page, errors } = await dashboard(service);
    await shows(page, "#pages", `${hostile}1`);
    await until("reading times", async () => (await page.locator("#reading tr").count()) === 2);
    expect(await page.locator("#reading th").allTextContents()).toContain(hostile);
    expect(await page.locator("main img, main script").count()).toBe(0);
    expect(await page.title()).toBe("1 online now – Headcount");
    expect(errors).toEqual([]);
    await visitor.close();
  });

  for (const colorScheme of ["light", "dark"] as const)
    for (const [size, viewport] of Object.entries({ wide: { width: 1280, height: 900 }, phone }))
      test(`a year of data fits (${size}, ${colorScheme})`, async () => {
        const long = "/blog/2026/11/how-many-people-are-here-right-now-and-why-that-is-hard".repeat(10);
        const service = await startWithPast(year, [
          "/",
          long,
          hostile,
          ...Array.from({ length: 40 }, (_, n) => `/${n}`),
        ]);
        const site = "https://a.example";
        const visitors = await Promise.all([
          ...["/", "/", "/", long, hostile].map((name) => new Visitor(service.url, site).open(name)),
          new Visitor(service.url, "https://b.example").open("/"),
        ]);
        const { page, errors } = await dashboard(service, { colorScheme, viewport }, "#site=a.example&range=week");
        await shows(page, "#visitors", "5");
        await shows(page, "#readout", /^Highest: 79 · /);
        await until(
          "reading times",
          async () => (await page.locator("#reading tr").count()) === (size === "phone" ? 8 : 25),
        );
        const widths = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]");
        expect(widths).toEqual([viewport.width, viewport.width]);
        expect(await inkOf(page)).toBeGreaterThan(500);
        await picture(page, `year-${size}-${colorScheme}`);
        expect(errors).toEqual([]);
        await Promise.all(visitors.map((visitor) => visitor.close()));
      });
});
