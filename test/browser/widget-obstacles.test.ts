/** The widget in each engine on pages that forbid it something: a Content-Security-Policy, blocked storage, no service. */
import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import { ask } from "../support/client.ts";
import { chromiumWithoutStorage, type Engine, engines, type VisitorBrowser } from "../support/engines.ts";
import { firefox } from "../support/firefox.ts";
import { suite } from "../support/needs.ts";
import { endServices, Service } from "../support/service.ts";
import { endSites, look, recorder, serve, settled, shows, tag } from "../support/embedding-site.ts";

afterAll(() => {
  endSites();
  endServices();
});

for (const { engine, needs } of engines) suite(`widget obstacles (${engine.name})`, needs, () => obstacles(engine));

const open = async (browser: VisitorBrowser, url: string) => {
  const tab = await browser.newTab();
  await tab.goto(url);
  return tab;
};

function obstacles(engine: Engine): void {
  afterAll(() => engine.end());

  /** A page under this policy, and the reports that it sent. */
  const withPolicy = async (policy: (http: string, ws: string) => string) => {
    const service = await Service.start("bun");
    const reports: string[] = [];
    const rules = `default-src 'none'; ${policy(service.url, service.url.replace("http", "ws"))}; report-uri /report`;
    const site = serve(
      async ({ pathname }, request) => {
        if (pathname !== "/report") return `${recorder}${tag(service.url)}`;
        reports.push(await request.text());
        return "";
      },
      { "content-security-policy": rules },
    );
    const browser = await engine.newVisitor();
    return { service, browser, reports, tab: await open(browser, site.url) };
  };

  test("the documented policy is enough", async () => {
    const recipes = await Bun.file(join(import.meta.dir, "../../docs/recipes.md")).text();
    const documented = /^script-src .*connect-src .*$/m.exec(recipes)?.[0] ?? "";
    expect(documented).toContain("wss://count.example.com");
    const { browser, tab } = await withPolicy((http, ws) =>
      documented
        .replace("script-src", "script-src 'nonce-test'")
        .replaceAll("https://count.example.com", http)
        .replaceAll("wss://count.example.com", ws),
    );
    await shows(tab, "1 live");
    expect(await tab.evaluate<string[]>("warned")).toEqual([]);
    await browser.close();
  });

  // These three wait for something that must not happen, so they run at once.
  test.concurrent("a policy that forbids the socket is named once, and nothing is tried again", async () => {
    const { service, browser, tab } = await withPolicy(
      (http) => `script-src 'nonce-test' ${http}; connect-src ${http}`,
    );
    const { warned, asked } = await settled(tab);
    expect(warned).toEqual([
      expect.stringContaining(`connect-src ${service.url}/ ${service.url.replace("http", "ws")}/`),
    ]);
    expect(asked).toEqual([`${service.url}/token`]);
    expect(await look(tab)).toStartWith("– ");
    expect((await ask(service.url, "GET /count?site=localhost")).json.site).toBe(0);
    await browser.close();
  });

  test.concurrent("a policy that forbids the token is named once, asked once and reported once", async () => {
    const { service, browser, tab, reports } = await withPolicy((http) => `script-src 'nonce-test' ${http}`);
    const { warned, asked } = await settled(tab);
    expect(warned).toEqual([expect.stringContaining("connect-src")]);
    expect(asked).toEqual([`${service.url}/token`]);
    expect(reports.filter((report) => report.includes("/token"))).toHaveLength(1);
    await browser.close();
  });

  test.concurrent("a server that has no /token is named once, and asked once", async () => {
    const service = await Service.start("bun");
    const site = serve(({ pathname, origin }) =>
      pathname === "/" ? recorder + tag(service.url, `data-server="${origin}"`) : undefined,
    );
    const browser = await engine.newVisitor();
    const tab = await open(browser, site.url);
    const { warned, asked } = await settled(tab);
    expect(warned).toEqual(["headcount: 404 not found"]);
    expect(asked).toHaveLength(1);
    await browser.close();
  });

  test("a policy that only reports stops nothing", async () => {
    const service = await Service.start("bun");
    const site = serve(() => recorder + tag(service.url), {
      "content-security-policy-report-only": "connect-src 'none'; report-uri /report",
    });
    const browser = await engine.newVisitor();
    const tab = await open(browser, site.url);
    await shows(tab, "1 live");
    expect(await tab.evaluate<string[]>("warned")).toEqual([]);
    await browser.close();
  });

  test("where scripts get neither storage nor locks, the page is counted", async () => {
    const service = await Service.start("bun");
    const denied = `<script>
      const deny = () => new DOMException("The request was denied.", "SecurityError");
      Object.defineProperty(globalThis, "localStorage", { get() { throw deny(); } });
      if (navigator.locks) navigator.locks.request = () => Promise.reject(deny());
    </script>`;
    const browser = await engine.newVisitor();
    const tab = await open(browser, serve(() => denied + tag(service.url)).url);
    await shows(tab, "1 live");
    await browser.close();
  });
}

for (const { engine, needs } of [
  { engine: firefox({ "network.cookie.cookieBehavior": 2 }), needs: ["firefox-esr"] as const },
  { engine: chromiumWithoutStorage(), needs: ["chromium"] as const },
])
  suite(`widget without storage (${engine.name})`, [...needs], () => {
    afterAll(() => engine.end());

    test("a browser that blocks all cookies and site data is counted", async () => {
      const service = await Service.start("bun", { GRACE_SECONDS: 1 });
      const url = serve(() => recorder + tag(service.url)).url;
      const browser = await engine.newVisitor();
      const tab = await open(browser, url);
      expect(
        await tab.evaluate<string>("(() => { try { return String(localStorage); } catch (e) { return e.name; } })()"),
      ).toBe("SecurityError");
      expect(await tab.evaluate<string>("navigator.locks.request('a', () => '').catch(({ name }) => name)")).toBe(
        "SecurityError",
      );
      await shows(tab, "1 live");
      expect(await tab.evaluate<string[]>("warned")).toEqual([]);
      await browser.close();
    });
  });
