/**
 * The service's own pages in a real browser: the operator's dashboard, the check page, and what `data-debug` says.
 * With HEADCOUNT_SCREENSHOTS=folder it leaves pictures there, to be looked at.
 */
import { afterAll, afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { connect, createServer, type Server } from "node:net";
import { join } from "node:path";
import type { BrowserContext, BrowserContextOptions, Page } from "playwright-core";
import { endChromium, launch, userAgent } from "./support/chromium.ts";
import { ask, Visitor } from "./support/client.ts";
import { temporaryFolder } from "./support/leftovers.ts";
import { suite } from "./support/needs.ts";
import { startNginx } from "./support/nginx.ts";
import { endServices, type Runtime, runtimes, Service, type Settings } from "./support/service.ts";
import { sqlite } from "./support/unit.ts";
import { sleep, until } from "./support/waiting.ts";

setDefaultTimeout(60_000);

const password = "a password of the operator";
const hostile = `<img src=x onerror="document.title='owned'">`;
const phone = { width: 360, height: 740 };

const contexts: BrowserContext[] = [];
const servers: { stop: () => unknown }[] = [];

afterEach(async () => {
  for (const context of contexts.splice(0)) await context.close();
});

afterAll(async () => {
  await endChromium();
  for (const server of servers) server.stop();
  endServices();
});

/** A browser of its own, which knows the password. */
async function newBrowser(options: BrowserContextOptions = {}): Promise<BrowserContext> {
  const credentials = { username: "admin", password };
  const context = await (await launch()).newContext({ userAgent, httpCredentials: credentials, ...options });
  contexts.push(context);
  return context;
}

/** A tab, with all that its console says; an error there is also what a violated CSP leaves. */
async function open(context: BrowserContext, url: string): Promise<{ page: Page; said: string[]; errors: string[] }> {
  const page = await context.newPage();
  const said: string[] = [];
  const errors: string[] = [];
  page.on("console", (message) => (message.type() === "error" ? errors : said).push(message.text()));
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.goto(url);
  return { page, said, errors };
}

async function picture(page: Page, name: string): Promise<void> {
  const folder = process.env["HEADCOUNT_SCREENSHOTS"];
  if (folder) await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
}

/** Waits until the element shows a text that fits. */
async function shows(page: Page, selector: string, text: string | RegExp, ms = 10_000): Promise<void> {
  let last: string | null = null;
  const fits = async (): Promise<boolean> => {
    last = await page.locator(selector).first().textContent();
    return typeof text === "string" ? last === text : text.test(last ?? "");
  };
  await until(`${selector} shows ${String(text)}`, fits, ms).catch((error: unknown) =>
    Promise.reject(new Error(`${String(error)}; it shows "${last}"`)),
  );
}

const startService = (settings: Settings = {}, runtime: Runtime = "bun"): Promise<Service> =>
  Service.start(runtime, { ADMIN_PASSWORD: password, SITES: "a.example,b.example", GRACE_SECONDS: 0, ...settings });

/** A service whose file has a past: peaks of the site a.example by minutes ago, and views by seconds. */
async function startWithPast(peaks: [minutesAgo: number, peak: number][], pages: string[]): Promise<Service> {
  const folder = temporaryFolder();
  await (await startService({ DATA: folder })).stop();
  const engine = sqlite(folder);
  const now = Math.floor(Date.now() / 60_000);
  await engine.record({
    peaks: peaks.map(([minutesAgo, peak]) => ({ site: "a.example", minute: now - minutesAgo, peak })),
    readings: pages.map((page, index) => {
      const [bucket, views] = [10 + index, 100 - index];
      return { site: "a.example", page, bucket, views, seconds: views * 1.2 ** bucket };
    }),
  });
  await engine.close();
  return startService({ DATA: folder });
}

/** Peaks of a site that has been there for a year, with days and nights. */
const year = Array.from({ length: (365 * 1440) / 5 }, (_, index): [number, number] => {
  const minutesAgo = index * 5;
  return [minutesAgo, Math.round(40 + 39 * Math.sin((minutesAgo / 1440) * 2 * Math.PI))];
}).filter(([, peak]) => peak > 0);

suite("dashboard", ["chromium"], () => {
  const dashboard = async (service: Service, options: BrowserContextOptions = {}, hash = "") =>
    open(await newBrowser(options), `${service.url}/dashboard${hash}`);

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
      await shows(page, "#readout", "Nobody was here.");
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
    await shows(page, "#readout", /^Most: 1 · /);
    await picture(page, "one");
    const second = await other.open("/second");
    const third = await one.open("/second");
    await shows(page, "#visitors", "2");
    await shows(page, "#open-pages", "3");
    await shows(page, "#pages", "/second2/first1");
    expect(await page.title()).toBe("2 here now – Headcount");

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

  test("shows the past of a site where nobody is, until somebody is on another one", async () => {
    const service = await startWithPast([[30, 7]], ["/"]);
    const { page, errors } = await dashboard(service);
    await shows(page, "#site", "a.example");
    await shows(page, "#visitors", "0");
    await shows(page, "#highest", "7");
    await shows(page, "#readout", /^Most: 7 · /);
    expect(await page.locator("#sites button").allTextContents()).toEqual(["a.example0", "b.example0"]);
    const elsewhere = await new Visitor(service.url, "https://b.example").open("/");
    await shows(page, "#site", "b.example");
    await elsewhere.close();
    await shows(page, "#visitors", "0");
    expect(await page.locator("#site").textContent()).toBe("b.example");
    expect(errors).toEqual([]);
  });

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
      await shows(page, "#readout", new RegExp(`^Most: ${most} · `));
      expect(await inkOf(page)).toBeGreaterThan(100);
    }

    await page.getByRole("button", { name: "Hour" }).click();
    await shows(page, "#readout", /^Most: 10 · /);
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
    await shows(page, "#readout", /^Most: 10 · /);

    const { x, y, width } = (await page.locator(".u-over").boundingBox())!;
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

  test("draws the past also when somebody has just come, whom the history does not know yet", async () => {
    const past = Array.from({ length: 500 }, (_, index): [number, number] => [180 + 2 * index, 7]);
    const service = await startWithPast(past, []);
    const visitor = await new Visitor(service.url, "https://a.example").open("/");
    const { page, errors } = await dashboard(service, {}, "#site=a.example&range=day");
    for (const name of ["Day", "Hour", "Week"]) {
      await page.getByRole("button", { name, exact: true }).click();
      await shows(page, "#readout", name === "Hour" ? /^Most: 1 · / : /^Most: 7 · /);
      expect(await inkOf(page)).toBeGreaterThan(name === "Hour" ? 100 : 2000);
    }
    await visitor.close();
    expect(errors).toEqual([]);
  });

  test("sorts reading times by keyboard, and says how", async () => {
    const pages = Array.from({ length: 60 }, (_, index) => `/page-${index}`);
    const { page, errors } = await dashboard(await startWithPast([], pages), {}, "#site=a.example");
    const first = () => page.locator("#reading th").first().textContent();
    const header = (name: string) => page.getByRole("columnheader", { name });
    await until("the page with the largest sum", async () => (await first()) === "/page-59");
    expect(await header("Total").getAttribute("aria-sort")).toBe("descending");
    await header("Views").getByRole("button").focus();
    await page.keyboard.press("Enter");
    expect([await first(), await header("Views").getAttribute("aria-sort")]).toEqual(["/page-0", "descending"]);
    expect(await header("Total").getAttribute("aria-sort")).toBe("none");
    await page.keyboard.press("Space");
    expect([await first(), await header("Views").getAttribute("aria-sort")]).toEqual(["/page-59", "ascending"]);
    await page.keyboard.press("Shift+Tab");
    await page.keyboard.press("Enter"); // by name, where 9 comes before 10
    expect(await page.locator("#reading th").allTextContents()).toEqual(pages.slice(0, 25));
    await page.getByRole("button", { name: "Show 25 more of 35" }).press("Enter");
    await page.getByRole("button", { name: "Show 10 more of 10" }).press("Enter");
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
    expect(await page.title()).toBe("1 here now – Headcount");
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
        await shows(page, "#readout", /^Most: 79 · /);
        await until("reading times", async () => (await page.locator("#reading tr").count()) === 25);
        const widths = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]");
        expect(widths).toEqual([viewport.width, viewport.width]);
        expect(await inkOf(page)).toBeGreaterThan(500);
        await picture(page, `year-${size}-${colorScheme}`);
        expect(errors).toEqual([]);
        await Promise.all(visitors.map((visitor) => visitor.close()));
      });

  test("says when the service is gone, and is live again by itself", async () => {
    const service = await startService();
    const { page } = await dashboard(service);
    await shows(page, "#link", "Live");
    await service.stop("SIGKILL");
    await shows(page, "#link", /^Not reachable .* These are the last numbers/);
    expect(await page.title()).toBe("Not reachable – Headcount");
    await picture(page, "lost");
    await service.start();
    await shows(page, "#link", "Live");
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
    await shows(page, "#link", /^The engine is away/);
    await shows(page, "#visitors", "2");
    await shows(page, "#peak", "4");
    await shows(page, "#highest", "–");
    expect(await page.locator("#node .bad").allTextContents()).toEqual(["stale: the engine is away", "12"]);
    await picture(page, "stale");
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

/** How many pixels of the chart are of its line or its area. */
function inkOf(page: Page): Promise<number> {
  return page.evaluate(`(() => {
    const canvas = document.querySelector("#chart canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let ink = 0;
    for (let at = 0; at < data.length; at += 4) ink += Number(data[at + 3] > 20 && data[at + 1] > data[at] + 40);
    return ink;
  })()`);
}

// -------------------------------------------------------------------------------------------------- check and debug

/** What a proxy does to the heads of requests and answers, and how long it lets a connection be silent. */
type Faults = { request?: (head: string) => string; answer?: (head: string) => string; patienceMs?: number };

/** A proxy with faults in front of a service. */
async function proxy(service: Service, { request, answer, patienceMs = 0 }: Faults): Promise<string> {
  const bend = (
    chunk: Buffer | string,
    first: RegExp,
    change: ((head: string) => string) | undefined,
  ): Buffer | string =>
    change && first.test(chunk.toString("latin1")) ? Buffer.from(change(chunk.toString("latin1")), "latin1") : chunk;
  const server: Server = createServer((client) => {
    const upstream = connect(Number(new URL(service.url).port), "127.0.0.1");
    const end = (): void => {
      client.destroy();
      upstream.destroy();
    };
    client.on("data", (chunk) => upstream.write(bend(chunk, /^(GET|POST) /, request)));
    upstream.on("data", (chunk) => client.write(bend(chunk, /^HTTP/, answer)));
    for (const socket of [client, upstream]) socket.on("error", end).on("close", end).setTimeout(patienceMs, end);
  });
  const { promise, resolve } = Promise.withResolvers<void>();
  server.listen(0, "127.0.0.1", resolve);
  await promise;
  servers.push({ stop: () => server.close() });
  const address = server.address();
  return `http://127.0.0.1:${typeof address === "object" && address ? address.port : 0}`;
}

/** As every proxy should, it says who is asking. */
const forwarded = (head: string): string => head.replace("\r\n", "\r\nX-Forwarded-For: 192.0.2.7\r\n");
const withoutUpgrade = (head: string): string => head.replace(/^(upgrade|connection): .*\r\n/gim, "");
const withoutCookie = (head: string): string => head.replace(/^set-cookie: .*\r\n/gim, "");

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
  test("all is well, in the light and on a dark phone", async () => {
    const service = await startService({ HEARTBEAT_SECONDS: 1 });
    const [{ page, errors, finding }, dark] = await Promise.all([
      check(service.url, "a.example"),
      check(service.url, "https://a.example/some/page", { colorScheme: "dark", viewport: phone }),
    ]);
    expect(await finding("Site")).toEqual(["good", "Site a.example is allowed."]);
    expect((await finding("Your address"))[1]).toContain("directly");
    expect((await finding("Cookies"))[0]).toBe("good");
    expect((await finding("WebSocket"))[0]).toBe("good");
    expect(await finding("Patience of proxies")).toEqual(["good", expect.stringContaining("the pings arrive")]);
    await shows(page, "#summary", "All is well.");
    expect(await page.locator("#policy").textContent()).toBe(
      `script-src ${service.url}; connect-src ${service.url} ${service.url.replace("http", "ws")}`,
    );
    expect((await dark.finding("Site"))[1]).toContain("https://a.example/some/page is allowed");
    await shows(dark.page, "#summary", "All is well.");
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
    expect(await finding("Cookies")).toEqual(["note", expect.stringContaining("localStorage is used instead")]);
    expect(await finding("Patience of proxies")).toEqual([
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
    expect((await other.finding("Name of the service"))[1]).toContain("proxy_set_header Host $http_host;");
    expect((await other.finding("Token"))[1]).toContain("Origin not allowed");
    await shows(other.page, "#summary", /things are wrong\.$/);
  });
});

suite("check behind the nginx of the README", ["chromium", "nginx", "openssl"], () => {
  test("over TLS, all is well", async () => {
    const service = await startService({ HEARTBEAT_SECONDS: 1, TRUST_PROXY: 1 });
    const { url, stop } = await startNginx(service.host, 3);
    servers.push({ stop });
    const { page, errors, finding } = await check(url, "a.example", { ignoreHTTPSErrors: true });
    expect((await finding("Your address"))[1]).toContain("through a proxy (127.0.0.1)");
    expect(await finding("Encryption")).toEqual(["good", expect.stringContaining("the service knows")]);
    await shows(page, "#summary", "All is well.");
    expect(await page.locator("#checks [data-result=good]").count()).toBe(8);
    expect(errors).toEqual([]);
  });
});

suite("debug", ["chromium"], () => {
  const target = "<p><span data-headcount>–</span> people here now</p>";
  /** A site with the tag, and what its console says. */
  const visit = async (server: string, { policy = "", body = target, gpc = false } = {}) => {
    const html = `<!doctype html>${body}<script async src="${server}/widget.js" data-debug></script>`;
    const headers = { "content-type": "text/html", ...(policy && { "content-security-policy": policy }) };
    const site = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response(html, { headers }) });
    servers.push({ stop: () => site.stop(true) });
    const context = await newBrowser();
    if (gpc) await context.addInitScript("Object.defineProperty(navigator, 'globalPrivacyControl', { value: true })");
    const url = `http://127.0.0.1:${site.port}`;
    const { said } = await open(context, url);
    const hears = (words: string): Promise<unknown> =>
      until(`the console says ${words}`, () => said.some((line) => line.includes(words)), 15_000).catch(
        (error: unknown) => Promise.reject(new Error(`${String(error)}; it says ${JSON.stringify(said)}`)),
      );
    return { url, said, hears };
  };
  const openToAll = { SITES: "" }; // localhost, then

  test("tells of a page that is live, and of its cookie", async () => {
    const service = await startService(openToAll);
    const { url, said, hears } = await visit(service.url);
    await hears(`Headcount: this page is on ${url}, the service at ${service.url}/`);
    await hears("Headcount: live. 1 on the site, 1 on this page");
    await hears("Headcount: this browser keeps the service's cookie");
    expect(said.filter((line) => /not allowed|drops|forbids/.test(line))).toEqual([]);
  });

  test("names the setting that allows the page's origin", async () => {
    const service = await startService();
    const { url, hears } = await visit(service.url);
    await hears(`Headcount: ${url} is not allowed. Start the service with\nSITES=${url}`);
    await hears(`${service.url}/check?site=${encodeURIComponent(url)}`);
  });

  test("names the lines that a Content-Security-Policy needs", async () => {
    const { url } = await startService(openToAll);
    const { said, hears } = await visit(url, { policy: `script-src ${url}; connect-src ${url}` });
    await hears(`It needs\nscript-src ${url}; connect-src ${url} ${url.replace("http", "ws")}`);
    expect(said.filter((line) => line.includes("Upgrade"))).toEqual([]);
    const nothing = await visit(url, { policy: `script-src ${url}; connect-src 'none'` });
    await nothing.hears(`It needs\nscript-src ${url}; connect-src ${url} ${url.replace("http", "ws")}`);
  });

  test("recognizes a proxy that drops Upgrade", async () => {
    const service = await startService(openToAll);
    const url = await proxy(service, { request: withoutUpgrade });
    const { hears } = await visit(url);
    await hears("no socket opens: a proxy drops the Upgrade header");
    await hears("proxy_set_header Upgrade $http_upgrade;");
  });

  test("tells of dropped cookies, and whether there is a fallback", async () => {
    const service = await startService(openToAll);
    const { hears } = await visit(await proxy(service, { answer: withoutCookie }));
    await hears("the id in this page's localStorage is used instead");
  });

  test("misses an element, and knows the numbers", async () => {
    const service = await startService(openToAll);
    await (await visit(service.url, { body: "<p>Nothing here</p>" })).hears("no element shows the number");
    await (await visit(service.url, { body: "<i data-headcount=all></i>" })).hears(`data-headcount="all" is none of`);
  });

  test("tells of Global Privacy Control", async () => {
    const service = await startService(openToAll);
    const { said, hears } = await visit(service.url, { gpc: true });
    await hears("this browser sends Global Privacy Control");
    await hears("Headcount: live. 0 on the site");
    expect(said.some((line) => line.includes("cookie"))).toBe(false);
  });

  test("a service that is gone, and back", async () => {
    const service = await startService(openToAll);
    const { hears } = await visit(service.url);
    await hears("Headcount: live. 1");
    await service.stop("SIGKILL");
    await hears("does not answer");
    await service.start();
    await hears("Headcount: live. 1");
  });
});
