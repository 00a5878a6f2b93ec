/** What the service serves besides numbers: the widget, the home page, health, and 404 for everything else. */
import { expect, test } from "bun:test";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import { ask } from "../support/client.ts";
import { expectProblem } from "../support/expect.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { Service } from "../support/service.ts";
import { SharedService } from "../support/site.ts";

onBothRuntimes("documents", (runtime) => {
  const shared = new SharedService(runtime);

  test("the widget is cacheable, compressed, and usable from any site", async () => {
    const url = await shared.url();
    const plain = await ask(url, "GET /widget.js");
    expect(plain.status).toBe(200);
    expect(plain.headers.get("content-type")).toMatch(/^(text|application)\/javascript/);
    expect(plain.headers.get("cross-origin-resource-policy")).toBe("cross-origin");
    expect(plain.headers.get("cache-control")).toMatch(/max-age=\d+/);
    expect(plain.headers.get("vary")?.toLowerCase()).toContain("accept-encoding");
    expect(plain.headers.get("content-encoding")).toBeNull();
    expect(plain.text).toContain("data-headcount");

    const unpack = { br: brotliDecompressSync, gzip: gunzipSync };
    for (const coding of ["br", "gzip"] as const) {
      const answer = await ask(url, "GET /widget.js", { headers: { "accept-encoding": coding } });
      expect(answer.headers.get("content-encoding")).toBe(coding);
      expect(answer.bytes.length).toBeLessThan(plain.bytes.length);
      expect(unpack[coding](answer.bytes).toString()).toBe(plain.text);
    }
    const best = await ask(url, "GET /widget.js", { headers: { "accept-encoding": "gzip, deflate, br, zstd" } });
    expect(best.headers.get("content-encoding")).toBe("br");
    const without = await ask(url, "GET /widget.js", { headers: { "accept-encoding": "br;q=0, identity" } });
    expect(without.headers.get("content-encoding")).toBeNull();

    const headers = { "if-none-match": best.headers.get("etag")!, "accept-encoding": "br" };
    expect((await ask(url, "GET /widget.js", { headers })).status).toBe(304);
  });

  test("the drop-in for busuanzi answers at each address that themes make of it", async () => {
    const url = await shared.url();
    for (const path of ["/busuanzi.js", "/busuanzi.pure.mini.js", "/js"]) {
      const answer = await ask(url, `GET ${path}`, { headers: { "accept-encoding": "br" } });
      expect(answer.status).toBe(200);
      expect(answer.headers.get("content-type")).toMatch(/^(text|application)\/javascript/);
      expect(answer.headers.get("cross-origin-resource-policy")).toBe("cross-origin");
      expect(brotliDecompressSync(answer.bytes).toString()).toContain("bszCaller");
    }
  });

  test("the home page has the snippet for this server, and nothing inline without a nonce", async () => {
    const url = await shared.url();
    const answer = await ask(url, "GET /", { headers: { accept: "text/html" } });
    expect(answer.status).toBe(200);
    expect(answer.headers.get("content-type")).toStartWith("text/html");
    expect(answer.text).toContain(`${url}/widget.js`);
    expect(answer.text).toContain("data-headcount");
    expect(answer.text).not.toContain("{{");

    const policy = answer.headers.get("content-security-policy") ?? "";
    const nonce = /'nonce-([\w+/=-]{16,})'/.exec(policy)?.[1];
    expect(nonce).toBeDefined();
    expect(policy).not.toContain("unsafe-inline");
    const elements = [...answer.text.matchAll(/<(script|style)\b([^>]*)>/g)];
    const inline = elements.filter(([, , attributes = ""]) => !/\bsrc=/.test(attributes));
    expect(inline.length).toBeGreaterThan(0);
    for (const [tag] of inline) expect(tag).toContain(`nonce="${nonce}"`);
    const markup = answer.text.replaceAll(/<(script|style)\b[^>]*>[\s\S]*?<\/\1>/g, "");
    expect(markup).not.toMatch(/<[^>]+\s(on\w+|style)=/);
    expect((await ask(url, "GET /")).text).not.toContain(nonce!);
  });

  test("the home page shows its public origin behind a proxy, and escapes it", async () => {
    const { url } = await Service.start(runtime, { TRUST_PROXY: 1 });
    const headers = { host: "count.example", "x-forwarded-proto": "https" };
    expect((await ask(url, "GET /", { headers })).text).toContain("https://count.example/widget.js");
    const evil = await ask(url, "GET /", { headers: { host: 'x"><script>alert(1)</script>' } });
    expect(evil.text).not.toContain("<script>alert(1)");
  });

  test("every link in the documentation leads to a page of the service, and to a heading in it", async () => {
    const url = await shared.url();
    const seen = new Map<string, string>();
    const visit = async (address: string): Promise<string> => {
      const { status, headers, text } = await ask(url, `GET ${address.slice(url.length)}`);
      expect([address, status, headers.get("content-type")?.slice(0, 9)]).toEqual([address, 200, "text/html"]);
      seen.set(address, text);
      return text;
    };
    const todo = [`${url}/docs`];
    for (let address = todo.pop(); address !== undefined; address = todo.pop()) {
      const text = seen.get(address) ?? (await visit(address));
      expect([address, /\{\{\w+\}\}/.test(text)]).toEqual([address, false]);
      for (const [, href = ""] of text.matchAll(/<a href="([^"]+)"/g)) {
        const target = new URL(href, address);
        if (target.origin !== url || !target.pathname.startsWith("/docs")) continue;
        const page = target.origin + target.pathname;
        if (!seen.has(page)) todo.push(page);
        const words = seen.get(page) ?? (await visit(page));
        const heading = decodeURIComponent(target.hash.slice(1));
        if (heading) expect([address, href, words.includes(`id="${heading}"`)]).toEqual([address, href, true]);
      }
    }
    const names = [
      "README.md",
      "README.zh-CN.md",
      "SECURITY.md",
      "recipes.md",
      "proxies.md",
      "operate.md",
      "busuanzi.md",
    ];
    expect([...seen.keys()]).toEqual(expect.arrayContaining(names.map((name) => `${url}/docs/${name}`)));
  });

  test("/healthz and /readyz answer 200", async () => {
    const url = await shared.url();
    expect((await ask(url, "GET /healthz")).status).toBe(200);
    expect((await ask(url, "GET /readyz")).status).toBe(200);
  });

  test("an unknown route is a 404 problem", async () => {
    const origin = "https://plain.example";
    for (const route of ["GET /nope", "POST /", "GET /../../etc/passwd", "GET /token", "GET /%ff"])
      expectProblem(await ask(await shared.url(), route, { headers: { origin } }), 404, origin);
  });
});
