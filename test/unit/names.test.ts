import { describe, expect, spyOn, test } from "bun:test";
import type { Context } from "hono";
import {
  AllowedSites,
  clientAddress,
  isSecure,
  limitKey,
  pageName,
  parseSite,
  refererUrl,
  tokenOf,
  webUrl,
} from "../../edge/names.ts";
import { Guard } from "../../edge/guard.ts";
import { readSettings } from "../../edge/settings.ts";
import { sitesLine } from "../../widget/advice.ts";

describe("sites", () => {
  const sites = new AllowedSites(
    ["example.com", "https://example.org:8443", "*.example.net", "localhost", "münchen.example"]
      .map(parseSite)
      .filter((site) => site !== undefined),
  );
  const of = (origin: string, host = "count.example") => sites.byOrigin(URL.parse(origin) ?? undefined, host);

  test.each([
    ["https://example.com", "example.com"],
    ["http://example.com", "example.com"],
    ["HTTPS://Example.COM:443", "example.com"],
    ["http://example.com:80", "example.com"],
    ["https://example.com:8443", undefined],
    ["https://example.com.", undefined],
    ["https://www.example.com", undefined],
    ["https://example.com.evil.example", undefined],
    ["https://evilexample.com", undefined],
    ["https://example.org:8443", "https://example.org:8443"],
    ["http://example.org:8443", undefined],
    ["https://example.org", undefined],
    ["https://example.net", "*.example.net"],
    ["https://a.b.example.net", "*.example.net"],
    ["https://evilexample.net", undefined],
    ["https://a.example.net:81", undefined],
    ["http://localhost:5173", "localhost"],
    ["https://xn--mnchen-3ya.example", "xn--mnchen-3ya.example"],
    ["https://count.example", "count.example"],
    ["https://count.example:8443", undefined],
  ])("sites: the origin %s is of the site %p", (origin, site) => {
    expect(of(origin)).toBe(site);
  });

  test("sites: the service's own origin is its Host, whatever the case and default port", () => {
    expect(of("http://127.0.0.1:3000", "127.0.0.1:3000")).toBe("127.0.0.1:3000");
    expect(of("https://count.example", "COUNT.example:443")).toBe("count.example");
    expect(of("https://count.example", "other.example")).toBeUndefined();
  });

  test("sites: without SITES only this machine is served", () => {
    const closed = new AllowedSites(undefined);
    expect(closed.byOrigin(new URL("http://localhost:8080"), "localhost:3000")).toBe("localhost");
    expect(closed.byOrigin(new URL("http://[::1]:8080"), "localhost:3000")).toBe("localhost");
    expect(closed.byOrigin(new URL("https://example.com"), "localhost:3000")).toBeUndefined();
  });

  test("sites: the setting that allows one more host keeps the others, and makes one site of a name with and without www", () => {
    const of = (...entries: string[]) => new AllowedSites(entries.map(parseSite).filter((site) => site !== undefined));
    const advice = (origin: string, ...entries: string[]) => of(...entries).adviceFor(new URL(origin));
    expect(advice("https://example.org", "example.com")).toBe("SITES=example.com,example.org");
    expect(advice("https://www.example.com", "example.com", "example.net")).toBe("SITES=example.net,*.example.com");
    expect(advice("https://example.com", "www.example.com")).toBe("SITES=*.example.com");
    expect(advice("https://www.example.com")).toBe("SITES=*.example.com");
    expect(advice("https://www.example.com", "example.com", "myexample.com", "blog.example.com")).toBe(
      "SITES=myexample.com,blog.example.com,*.example.com",
    );
  });

  test.each(["http://localhost:5173", "https://example.org:8443", "http://192.168.1.5:8080"])(
    "sites: the setting that is advised for %s is one that allows it",
    (origin) => {
      const advised = new AllowedSites(undefined).adviceFor(new URL(origin)).replace("SITES=", "");
      const entry = parseSite(advised);
      expect(new AllowedSites(entry && [entry]).byOrigin(new URL(origin), "count.example")).toBe(advised);
    },
  );

  test.each([
    ["https://example.com/page?x=1", "example.com"],
    ["https://www.example.com", "*.example.com"],
    ["https://www.com", "www.com"],
    ["https://www.example.com:8443", "https://www.example.com:8443"],
    ["http://localhost:5173", "localhost"],
    ["https://*.example.com", "*.example.com"],
  ])("sites: the log and the check page advise the same for %s", (address, entry) => {
    const url = new URL(address);
    expect(new AllowedSites([]).adviceFor(url)).toBe(`SITES=${entry}`);
    expect(sitesLine(url)).toBe(`SITES=${entry}`);
    expect(parseSite(entry)).toBeDefined();
  });

  test("sites: a name finds an entry, a host that an entry covers, or the service itself", () => {
    expect(sites.byName("*.example.net", "count.example")).toBe("*.example.net");
    expect(sites.byName("www.example.net", "count.example")).toBe("*.example.net");
    expect(sites.byName("count.example", "count.example")).toBe("count.example");
    expect(sites.byName("nobody.example", "count.example")).toBeUndefined();
  });

  test.each([
    "",
    "a b",
    '"example.com"',
    "a;b",
    "-a.example",
    "example.com/path",
    "example.com:81",
    "*.*.com",
    "ftp://example.com",
    "https://u@example.com",
  ])("sites: %p is not an entry", (entry) => {
    expect(parseSite(entry)).toBeUndefined();
  });
});

describe("pages and addresses", () => {
  test.each([
    ["/", "/"],
    ["/about/", "/about"],
    ["/about/index.html", "/about"],
    ["/caf%C3%A9?utm=1", "/café"],
    ["/cafe\u0301", "/café"],
    ["/100%", "/100%"],
    ["/app#/inbox", "/app#/inbox"],
    ["home", "home"],
    ["x".repeat(1_024), "x".repeat(1_024)],
    ["x".repeat(1_025), undefined],
    ["", undefined],
    ["/a\nb", undefined],
    [`/e${"\u0301".repeat(30)}`, `/é${"\u0301".repeat(29)}`],
    [`/e${"\u0301".repeat(31)}`, undefined],
    ["/a%0Ab", undefined],
    ["/\u001b[31m", undefined],
    ["/\ud800", undefined],
  ])("page names: %p is called %p", (text, name) => {
    expect(pageName(text)).toBe(name);
  });

  test.each([
    ["10.0.0.1", undefined, 0, "10.0.0.1"],
    ["10.0.0.1", "192.0.2.1", 0, "10.0.0.1"],
    ["10.0.0.1", "6.6.6.6, 192.0.2.1", 1, "192.0.2.1"],
    ["10.0.0.1", "6.6.6.6, 192.0.2.1, 10.0.0.2", 2, "192.0.2.1"],
    ["10.0.0.1", "192.0.2.1", 2, "10.0.0.1"],
    ["10.0.0.1", "nonsense", 1, "10.0.0.1"],
    ["10.0.0.1", "192.0.2.1:5678", 1, "192.0.2.1"],
    ["10.0.0.1", "[2001:db8::1]:5678", 1, "2001:db8::1"],
    ["::ffff:192.0.2.1", undefined, 0, "192.0.2.1"],
    ["2001:DB8:0:0::1", undefined, 0, "2001:db8::1"],
  ])("addresses: socket %p, X-Forwarded-For %p and %d proxies make %p", (socket, forwarded, hops, address) => {
    expect(clientAddress({ address: socket }, forwarded, hops)).toBe(address);
  });

  test.each([
    ["192.0.2.1", "192.0.2.1", true],
    ["::ffff:192.0.2.1", "192.0.2.1", true],
    ["192.0.2.0/24", "192.0.2.255", true],
    ["192.0.2.0/24", "192.0.3.1", false],
    ["::ffff:192.0.2.0/120", "192.0.2.255", true],
    ["::ffff:192.0.2.0/120", "192.0.3.1", false],
    ["2001:db8::/32", "2001:db8:1::1", true],
    ["::/0", "192.0.2.1", false],
  ])("addresses: DENY %p against %p: %p", (entry, address, isDenied) => {
    expect(new Guard(readSettings({ DENY: entry })).checkAddress(address)).toBe(isDenied ? "address" : undefined);
  });

  test.each(["10", "192.0.2", "10/8", "0x7f000001", "192.0.2.1/33", "example.com", "2001:db8::/129"])(
    "addresses: %p is no block",
    (entry) => {
      expect(() => readSettings({ DENY: entry })).toThrow("Cannot read DENY");
    },
  );

  test("names: no parser whose time is quadratic ever sees a long text", () => {
    const seen = { normalize: 0, parse: 0 };
    const normalize = spyOn(String.prototype, "normalize").mockImplementation(function spy(this: string) {
      seen.normalize = Math.max(seen.normalize, this.length);
      return this;
    });
    const parse = spyOn(URL, "parse").mockImplementation((text) => {
      seen.parse = Math.max(seen.parse, text.length);
      return null;
    });
    const odd = "a\u0315\u0300".repeat(20_000);
    for (const read of [pageName, webUrl, refererUrl])
      for (const text of [odd, `/${odd}`, `https://${odd}.example`, `https://a.example/${odd}`, `/x?${odd}`])
        read(text);
    normalize.mockRestore();
    parse.mockRestore();
    expect(seen.normalize).toBeLessThanOrEqual(1_024);
    expect(seen.parse).toBeLessThanOrEqual(300);
    expect(seen.parse).toBeGreaterThan(0);
    expect(refererUrl(`https://example.com/${"x".repeat(5_000)}`)?.host).toBe("example.com");
  });

  const isSecureWith = (forwardedProto: string | undefined, trustProxy = 1): boolean =>
    isSecure({ req: { header: () => forwardedProto } } as unknown as Context, trustProxy);

  test.each([
    [undefined, 1, false],
    ["https", 1, true],
    ["http", 1, false],
    ["http, https ", 1, true],
    ["https,http", 1, false],
    ["https,", 1, false],
    ["https", 0, false],
  ])("names: X-Forwarded-Proto %p behind %p proxies is https: %p", (forwardedProto, trustProxy, isHttps) => {
    expect(isSecureWith(forwardedProto, trustProxy)).toBe(isHttps);
  });

  test("names: a long X-Forwarded-Proto is not taken apart, since only its last entry is needed", () => {
    const split = spyOn(String.prototype, "split");
    const answer = isSecureWith(`${",".repeat(60_000)}https`);
    const calls = split.mock.calls.length;
    split.mockRestore();
    expect([answer, calls]).toEqual([true, 0]);
  });

  test.each([
    ["http://h/ws?token=a-b_c.d", "a-b_c.d"],
    ["http://h/ws?x=1&token=a.b&token=c#d", "a.b"],
    ["http://h/ws?token=a.b!c%20", "a.b!c%20"],
    ["http://h/ws?token=", ""],
    ["http://h/ws?xtoken=a", ""],
    ["http://h/ws", ""],
  ])("names: the token of %p is %p, with whatever else stands there", (url, token) => {
    expect(tokenOf(url)).toBe(token);
  });

  test("addresses: limits see IPv6 by /64", () => {
    expect(limitKey("2001:db8:1:2:3:4:5:6")).toBe(limitKey("2001:db8:1:2::9"));
    expect(limitKey("2001:db8:1:2::9")).not.toBe(limitKey("2001:db8:1:3::9"));
    expect(limitKey("192.0.2.1")).toBe("192.0.2.1");
  });
});
