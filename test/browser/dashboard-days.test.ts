/** The dashboard's totals beside the number now, and its bars of views and visitors by day. */
import { expect, test } from "bun:test";
import { Visitor } from "../support/client.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { suite } from "../support/needs.ts";
import { endOwnPages } from "../support/own-pages-hooks.ts";
import { dashboard, phone, picture, shows, startService } from "../support/own-pages.ts";
import { type Runtime, runtimes, type Service } from "../support/service.ts";
import { sqlite } from "../support/unit.ts";

endOwnPages();

const DAY_MS = 86_400_000;

/** A service that has counted on the site a.example: views and visitors by days ago. */
async function startWithDays(
  days: [daysAgo: number, views: number, visitors: number][],
  runtime: Runtime = "bun",
): Promise<Service> {
  const folder = temporaryFolder();
  const engine = sqlite(folder);
  const today = Math.floor(Date.now() / DAY_MS);
  const oldestFirst = days.toSorted(([a], [b]) => b - a);
  const views = oldestFirst.map(([daysAgo, count]) => ({
    site: "a.example",
    page: "/",
    day: today - daysAgo,
    views: count,
  }));
  await engine.record({ readings: [], peaks: [], views });
  for (const [daysAgo, , count] of oldestFirst) {
    const day = today - daysAgo;
    const hashes = Array.from({ length: count }, (_, index) => `${day}-${index}`.padStart(16, "0"));
    await engine.countVisitors(hashes.map((hash) => ({ site: "a.example", day, hash, isFirstDay: true })));
  }
  await engine.close();
  return startService({ DATA: folder }, runtime);
}

const dateOf = (daysAgo: number) =>
  new Intl.DateTimeFormat("en-US", { dateStyle: "medium", timeZone: "UTC" }).format(Date.now() - daysAgo * DAY_MS);
const onSite = "#site=a.example";

suite("dashboard days", ["chromium"], () => {
  test("shows 30 days, a year and all, and single days to the keyboard and the mouse", async () => {
    const past: [number, number, number][] = [[0, 7, 2], [29, 20, 5], [30, 40, 6], [364, 80, 9], [800, 90, 3]]; // prettier-ignore
    const { page, errors } = await dashboard(await startWithDays(past), { locale: "en-US" }, onSite);
    await shows(page, "#days-readout", `27 views in 30 days · highest: 20 on ${dateOf(29)}`);
    const bars = page.getByRole("slider", { name: "Views and visitors by day" });
    await bars.focus();
    await bars.press("End");
    await shows(page, "#days-readout", `7 views · 2 visitors · ${dateOf(0)}`);
    await bars.press("ArrowLeft");
    await shows(page, "#days-readout", `0 views · 0 visitors · ${dateOf(1)}`);
    await bars.press("Home");
    await shows(page, "#days-readout", `20 views · 5 visitors · ${dateOf(29)}`);
    expect(await bars.getAttribute("aria-valuetext")).toBe(`20 views · 5 visitors · ${dateOf(29)}`);
    await bars.press("Escape");
    await shows(page, "#days-readout", /^27 views in/);
    const { x, y, width, height } = (await page.locator("#days .u-over").boundingBox())!;
    await page.mouse.move(x + width - 4, y + height / 2);
    await shows(page, "#days-readout", `7 views · 2 visitors · ${dateOf(0)}`);

    await page.getByRole("button", { name: "Year", exact: true }).click();
    await page.mouse.move(x, 0);
    await shows(page, "#days-readout", `147 views in 365 days · highest: 80 on ${dateOf(364)}`);
    await page.getByRole("button", { name: "All", exact: true }).press("Enter");
    await shows(page, "#days-readout", `237 views in 801 days · highest: 90 on ${dateOf(800)}`);
    expect(await page.getByRole("button", { name: "All", exact: true }).getAttribute("aria-pressed")).toBe("true");
    expect(errors).toEqual([]);
  });

  test("keeps a closer look while new numbers come, until a double-click", async () => {
    const past = Array.from({ length: 30 }, (_, ago): [number, number, number] => [ago, 100 - ago, 1]);
    const { page } = await dashboard(await startWithDays(past), { locale: "en-US" }, onSite);
    await shows(page, "#days-readout", /in 30 days/);
    const { x, y, width } = (await page.locator("#days .u-over").boundingBox())!;
    const dayAt = async (share: number) => {
      await page.mouse.move(x + width * share, y + 20);
      return (await page.locator("#days-readout").textContent()) ?? "";
    };
    const [first, middle] = [await dayAt(0.01), await dayAt(0.5)];
    await page.mouse.down();
    await page.mouse.move(x + width * 0.9, y + 20, { steps: 5 });
    await page.mouse.up();
    const zoomed = await dayAt(0.01);
    expect(zoomed).toBe(middle);
    await page.waitForResponse(/dashboard\/days/, { timeout: 40_000 }); // asked for again every 20 s
    expect(await dayAt(0.01)).toBe(zoomed);
    await page.mouse.dblclick(x + width / 4, y + 20);
    expect(await dayAt(0.01)).toBe(first);
  });

  for (const runtime of runtimes)
    test(`shows today and the totals of the chosen site beside the number now (${runtime})`, async () => {
      const service = await startWithDays([[1, 1_234_567, 40]], runtime);
      const { page, errors } = await dashboard(service, { locale: "en-US" }, onSite);
      await shows(page, "#all-views", "1.23M");
      expect(await page.locator("#all-views").getAttribute("title")).toBe("1,234,567");
      await shows(page, "#all-visitors", "40");
      await shows(page, "#today", "0");
      const visitor = await new Visitor(service.url, "https://a.example").open("/");
      await shows(page, "#today", "1");
      await shows(page, "#all-visitors", "41");
      await shows(page, "#visitors", "1");
      await page.getByRole("button", { name: "b.example" }).click();
      await shows(page, "#today", "0");
      await shows(page, "#all-views", "0");
      await shows(page, "#days-readout", "Nothing was counted.");
      await visitor.close();
      expect(errors).toEqual([]);
    });

  for (const viewport of [{ width: 1280, height: 900 }, phone])
    for (const colorScheme of ["light", "dark"] as const)
      test(`draws three years of days at ${viewport.width} px (${colorScheme})`, async () => {
        const past = Array.from({ length: 1100 }, (_, ago): [number, number, number] => {
          const views = Math.round(600 + 300 * Math.sin(ago / 58) + 150 * Math.sin((ago * 2 * Math.PI) / 7));
          return [ago, views, Math.round(views / 12)];
        });
        const { page, errors } = await dashboard(await startWithDays(past), { colorScheme, viewport }, onSite);
        for (const name of ["30 days", "Year", "All"]) {
          await page.getByRole("button", { name, exact: true }).click();
          await shows(page, "#days-readout", name === "All" ? /1,100 days/ : name === "Year" ? /365 days/ : /30 days/);
          await picture(page, `days-${name}-${viewport.width}-${colorScheme}`);
        }
        const widths = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]");
        expect(widths).toEqual([viewport.width, viewport.width]);
        expect(errors).toEqual([]);
      });
});
