/** Behind a real nginx, over TLS, with the configuration of the documentation and timeouts short enough to wait for. */
import { afterAll, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ask, Visitor } from "../support/client.ts";
import { suite } from "../support/needs.ts";
import { configuration, type Proxy, severalNodes, startNginx, underPath } from "../support/nginx.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { type Runtime, Service, type Settings } from "../support/service.ts";
import { graceSeconds } from "../support/site.ts";
import { once, until } from "../support/waiting.ts";

const proxies: Proxy[] = [];
afterAll(() => Promise.all(proxies.map((proxy) => proxy.stop())));

/** How long nginx waits for a silent upstream. */
const proxyTimeoutSeconds = 3;

suite("proxy", ["nginx", "openssl"], () => onBothRuntimes("nginx", behindNginx));

test("the documentation shows the nginx configuration that is tested", () => {
  const root = join(import.meta.dir, "../..");
  const docs = join(root, "docs");
  const pages = existsSync(docs) ? readdirSync(docs).map((file) => join("docs", file)) : [];
  const guides = ["README.md", ...pages].filter((file) => file.endsWith(".md"));
  const text = guides.map((file) => readFileSync(join(root, file), "utf8")).join("\n");
  expect(text).toContain(`\`\`\`nginx\n${configuration}\`\`\``);
  expect(text).toContain(`\`\`\`nginx\n${severalNodes}\`\`\``);
  expect(text).toContain(`\`\`\`nginx\n${underPath}\`\`\``);
});

function behindNginx(runtime: Runtime): void {
  const start = async (settings: Settings): Promise<{ service: Service; url: string }> => {
    const service = await Service.start(runtime, { TRUST_PROXY: 1, GRACE_SECONDS: graceSeconds, ...settings });
    const proxy = await startNginx(service.host, proxyTimeoutSeconds);
    proxies.push(proxy);
    return { service, url: proxy.url };
  };
  const sites = ["a.example", "b.example", "c.example", "d.example", "e.example"];
  const main = once(() => start({ HEARTBEAT_SECONDS: 1, MAX_PAGES_PER_IP: 2, SITES: sites.join(",") }));
  /** A browser on one of the sites, at an address of its own. */
  const visitor = async (site: string, from: string, headers = {}): Promise<Visitor> =>
    new Visitor((await main()).url, `https://${site}`, { from, headers });

  test("a page connects, and sees another one come and go", async () => {
    const one = await (await visitor("a.example", "127.0.1.1")).open();
    const other = await (await visitor("a.example", "127.0.1.2")).open();
    expect(other.frames[0]).toMatchObject({ site: 2, page: 2 });
    await one.shows({ site: 2, page: 2 }, 1000);
    await other.close();
    await one.shows({ site: 1, page: 1 }, 2000);
  });

  test("an idle page stays open well past the proxy's timeout", async () => {
    const idle = await (await visitor("b.example", "127.0.2.1")).open();
    const received = idle.frames.length;
    await until("twelve pings", () => idle.pings >= 4 * proxyTimeoutSeconds || !idle.open, 20_000);
    expect(idle.open).toBe(true);
    expect(idle.frames).toHaveLength(received); // nothing but pings kept it open
    const { url } = await main();
    expect((await ask(url, "GET /count?site=b.example")).json.site).toBe(1);
  });

  test("a heartbeat slower than the proxy's timeout loses an idle page", async () => {
    const { url } = await start({ HEARTBEAT_SECONDS: 25 });
    const idle = await new Visitor(url, url).open();
    expect((await idle.ends((proxyTimeoutSeconds + 3) * 1000)).code).toBe(1006);
  });

  test("a silent peer behind the proxy is gone after two heartbeats", async () => {
    const watcher = await (await visitor("c.example", "127.0.3.1")).open();
    const dead = await (await visitor("c.example", "127.0.3.2")).open();
    await watcher.shows({ site: 2 });
    dead.silent = true;
    await watcher.shows({ site: 1 }, 6000);
  });

  test("limits see the address of the client, whatever X-Forwarded-For it sends", async () => {
    await (await visitor("d.example", "127.0.4.1")).open();
    await (await visitor("d.example", "127.0.4.1", { "x-forwarded-for": "198.51.100.1" })).open();
    for (const headers of [{}, { "x-forwarded-for": "198.51.100.2" }, { "x-forwarded-for": "127.0.4.2, 127.0.4.3" }])
      expect((await (await visitor("d.example", "127.0.4.1", headers)).token()).status).toBe(429);
    const other = await (await visitor("d.example", "127.0.4.2")).open();
    expect(other.frames[0]).toMatchObject({ site: 3 });
  });

  test("https at the proxy gives the __Host- cookie, which the service recognizes", async () => {
    const browser = await visitor("e.example", "127.0.5.1");
    const answer = await browser.token();
    expect(answer.headers.getSetCookie()[0]).toMatch(/^__Host-headcount-.*; Secure.*; Partitioned/i);
    expect((await browser.token()).json.visitor).toBe(answer.json.visitor);
  });

  test("the home page is a site named by its public host", async () => {
    const { url } = await main();
    const home = new Visitor(url, url, { from: "127.0.6.1" });
    expect((await ask(url, "GET /")).text).toContain(`${url}/widget.js`);
    expect((await home.open()).frames[0]).toMatchObject({ site: 1, page: 1 });
    expect((await ask(url, "GET /count")).json.site).toBe(1);
  });

  test("the widget passes compressed, and its ETag with it", async () => {
    const { url } = await main();
    const answer = await ask(url, "GET /widget.js", { headers: { "accept-encoding": "br" } });
    expect([answer.status, answer.headers.get("content-encoding")]).toEqual([200, "br"]);
    const headers = { "accept-encoding": "br", "if-none-match": answer.headers.get("etag") ?? "" };
    expect((await ask(url, "GET /widget.js", { headers })).status).toBe(304);
  });

  test("a stop of the service reaches the page as 1012, and the proxy finds the service again", async () => {
    const { service, url } = await start({});
    const connection = await new Visitor(url, url).open();
    const stopped = service.stop("SIGTERM");
    expect((await connection.ends(10_000)).code).toBe(1012);
    expect(await stopped).toBe(0);
    expect((await new Visitor(url, url).token()).status).toBe(502); // nginx's own answer, without CORS
    await service.start();
    await until("nginx tries again", async () => (await new Visitor(url, url).token()).status === 200, 15_000);
  });
}
