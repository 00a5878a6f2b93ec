/** The chart of the dashboard. */
import { expect, test } from "bun:test";
import { Visitor } from "../support/client.ts";
import { suite } from "../support/needs.ts";
import { endOwnPages } from "../support/own-pages-hooks.ts";
import { dashboard, inkOf, shows } from "../support/own-pages.ts";
import { startWithPast } from "../support/past.ts";

endOwnPages();

suite("dashboard history", ["chromium"], () => {
  test("draws each range, and reads single values to the keyboard and the mouse", async () => {
    const day = 1440;
    const service = await startWithPast([[30, 10], [10 * 60, 20], [3 * day, 30], [50 * day, 40], [200 * day, 50]], []); // prettier-ignore
    const { page, errors } = await dashboard(service, {}, "#site=a.example");
    for (const [name, most] of [
      ["Hour", 10],
      ["Day", 20],
      ["Week", 30],
      ["90 days", 40],
    ] as const) {
      // prettier-ignore
      await page.getByRole("button", { name, exact: true }).click();
      await shows(page, "#readout", new RegExp(`^Highest: ${most} · `));
      expect(await inkOf(page)).toBeGreaterThan(100);
    }

    await page.getByRole("button", { name: "Hour" }).click();
    await shows(page, "#readout", /^Highest: 10 · /);
    const chart = page.getByRole("slider", { name: "People online over time" });
    await chart.focus();
    await chart.press("End");
    await shows(page, "#readout", /^0 · /);
    const readout = async (): Promise<string> => (await page.locator("#readout").textContent()) ?? "";
    for (let minute = 0; minute < 32 && !(await readout()).startsWith("10 · "); minute++)
      await chart.press("ArrowLeft");
    await shows(page, "#readout", /^10 · /);
    expect(await chart.getAttribute("aria-valuetext")).toMatch(/^10 · /);
    await chart.press("Escape");
    await shows(page, "#readout", /^Highest: 10 · /);

    const { x, y, width } = (await page.locator("#chart .u-over").boundingBox())!;
    const timeAt = async (share: number): Promise<string> => {
      await page.mouse.move(x + width * share, y + 20);
      return (await readout()).replace(/^\d+ · /, "");
    };
    const [atFirst, middle] = [await timeAt(0.01), await timeAt(0.5)];
    expect(atFirst).not.toBe(middle);
    await page.mouse.down();
    await page.mouse.move(x + width * 0.9, y + 20, { steps: 5 });
    await page.mouse.up();
    expect(await timeAt(0.01)).toBe(middle);
    const visitor = await new Visitor(service.url, "https://a.example").open("/"); // the chart is drawn anew
    await shows(page, "#visitors", "1");
    expect(await timeAt(0.01)).toBe(middle);
    await visitor.close();
    await page.mouse.dblclick(x + width / 4, y + 20);
    expect(await timeAt(0.01)).toBe(atFirst);
    expect(errors).toEqual([]);
  });

  test("a time without anybody is zero, not unknown, when somebody was there before", async () => {
    const service = await startWithPast([[3 * 1440, 5]], []);
    const { page, errors } = await dashboard(service, {}, "#site=a.example&range=week");
    await shows(page, "#readout", /^Highest: 5 · /);
    const { x, y, width } = (await page.locator("#chart .u-over").boundingBox())!;
    const readoutAt = async (share: number, text: RegExp) => {
      await page.mouse.move(x + width * share, y + 20);
      await shows(page, "#readout", text);
    };
    await readoutAt(0.5, /^Not known · /);
    await readoutAt(0.7, /^0 · /);
    await page.getByRole("button", { name: "Hour" }).click();
    await readoutAt(0.01, /^0 · /); // although this service has just been started
    expect(errors).toEqual([]);
  });

  test("draws the past also when somebody has just come, whom the history does not know yet", async () => {
    const past = Array.from({ length: 500 }, (_, index): [number, number] => [180 + 2 * index, 7]);
    const service = await startWithPast(past, []);
    const visitor = await new Visitor(service.url, "https://a.example").open("/");
    const { page, errors } = await dashboard(service, {}, "#site=a.example&range=day");
    for (const name of ["Day", "Hour", "Week"]) {
      await page.getByRole("button", { name, exact: true }).click();
      await shows(page, "#readout", name === "Hour" ? /^Highest: 1 · / : /^Highest: 7 · /);
      expect(await inkOf(page)).toBeGreaterThan(name === "Hour" ? 100 : 2000);
    }
    await visitor.close();
    expect(errors).toEqual([]);
  });
});
