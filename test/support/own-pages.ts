/**
 * The service's own pages in Chromium. With HEADCOUNT_SCREENSHOTS=folder, the tests leave pictures there to be looked at.
 */
import { join } from "node:path";
import type { BrowserContext, BrowserContextOptions, Page } from "playwright-core";
import { endChromium, launch, userAgent } from "./chromium.ts";
import { endServices, type Runtime, Service, type Settings } from "./service.ts";
import { until } from "./waiting.ts";

export const password = "a password of the operator";
export const phone = { width: 360, height: 740 };

const contexts: BrowserContext[] = [];
const servers: { stop: () => unknown }[] = [];

/** Stops the server after the last test of the file. */
export function stopAtTheEnd(server: { stop: () => unknown }): void {
  servers.push(server);
}

/** For `afterEach`. */
export async function closeContexts(): Promise<void> {
  for (const context of contexts.splice(0)) await context.close();
}

/** For `afterAll`. */
export async function endAll(): Promise<void> {
  await endChromium();
  for (const server of servers) server.stop();
  endServices();
}

/** A browser of its own, which knows the password. */
export async function newBrowser(options: BrowserContextOptions = {}): Promise<BrowserContext> {
  const credentials = { username: "admin", password };
  const context = await (await launch()).newContext({ userAgent, httpCredentials: credentials, ...options });
  contexts.push(context);
  return context;
}

/** A tab, with all that its console says; an error there is also what a violated CSP leaves. */
export async function open(
  context: BrowserContext,
  url: string,
): Promise<{ page: Page; said: string[]; errors: string[] }> {
  const page = await context.newPage();
  const said: string[] = [];
  const errors: string[] = [];
  page.on("console", (message) => (message.type() === "error" ? errors : said).push(message.text()));
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.goto(url);
  return { page, said, errors };
}

export async function picture(page: Page, name: string): Promise<void> {
  const folder = process.env["HEADCOUNT_SCREENSHOTS"];
  if (folder) await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
}

/** Waits until the element shows a text that fits. */
export async function shows(page: Page, selector: string, text: string | RegExp, ms = 10_000): Promise<void> {
  let last: string | null = null;
  const fits = async (): Promise<boolean> => {
    last = await page.locator(selector).first().textContent();
    return typeof text === "string" ? last === text : text.test(last ?? "");
  };
  await until(`${selector} shows ${String(text)}`, fits, ms).catch((error: unknown) =>
    Promise.reject(new Error(`${String(error)}; it shows "${last}"`)),
  );
}

export const startService = (settings: Settings = {}, runtime: Runtime = "bun"): Promise<Service> =>
  Service.start(runtime, { ADMIN_PASSWORD: password, SITES: "a.example,b.example", GRACE_SECONDS: 0, ...settings });

/** How many pixels of the chart are of its line or its area. */
export function inkOf(page: Page): Promise<number> {
  return page.evaluate(`(() => {
    const canvas = document.querySelector("#chart canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let ink = 0;
    for (let at = 0; at < data.length; at += 4) ink += Number(data[at + 3] > 20 && data[at + 1] > data[at] + 40);
    return ink;
  })()`);
}

export const dashboard = async (service: Service, options: BrowserContextOptions = {}, hash = "") =>
  open(await newBrowser(options), `${service.url}/dashboard${hash}`);
