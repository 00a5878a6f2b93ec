/** Which address a client has: behind proxies, in IPv4 and IPv6, and what DENY says about it. */
import { expect, test } from "bun:test";
import { Visitor } from "../support/client.ts";
import { expectProblem, expectStatus } from "../support/expect.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { Service } from "../support/service.ts";
import { once } from "../support/waiting.ts";

onBothRuntimes("addresses", (runtime) => {
  const origin = "https://a.example";
  const limit = 5;
  const behindProxy = once(() =>
    Service.start(runtime, {
      SITES: "a.example",
      TRUST_PROXY: 1,
      DENY: "192.0.2.0/24, 198.51.100.7, 2001:db8:dead::/48",
      MAX_TOKENS_PER_IP: limit,
    }),
  );
  const visitorFrom = async (forwardedFor: string): Promise<Visitor> =>
    new Visitor((await behindProxy()).url, origin, { headers: { "x-forwarded-for": forwardedFor } });
  /** The status of a token request with this X-Forwarded-For. */
  const statusFrom = async (forwardedFor: string): Promise<number> =>
    (await (await visitorFrom(forwardedFor)).token({ observe: true })).status;

  test("denied addresses and blocks are refused with 403, in each way to write them", async () => {
    const denied = [
      "192.0.2.1",
      "192.0.2.255",
      "::ffff:192.0.2.1",
      "::ffff:c000:201",
      "::FFFF:c000:201",
      "0xc0000201",
      "8.8.8.8, 192.0.2.1",
      "198.51.100.7",
      "2001:db8:dead::1",
    ];
    for (const address of denied) {
      const visitor = await visitorFrom(address);
      expectProblem(await visitor.token(), 403, origin);
      expectProblem(await visitor.upgrade("x"), 403, origin);
    }
    for (const address of ["192.0.3.1", "198.51.100.8", "2001:db8:deae::1"])
      expect([address, await statusFrom(address)]).toEqual([address, 200]);
  });

  test("behind one proxy only the last entry of X-Forwarded-For counts", async () => {
    for (let request = 1; request <= limit; request++)
      expect(await statusFrom(`203.0.113.${request}, 10.5.0.1`)).toBe(200);
    expect(await statusFrom("203.0.113.6, 10.5.0.1")).toBe(429);
    expect(await statusFrom("192.0.2.1, 10.5.0.2")).toBe(200);
  });

  test("without a trusted proxy no header changes the address", async () => {
    const { url } = await Service.start(runtime, { MAX_TOKENS_PER_IP: limit, DENY: "192.0.2.1" });
    const status = async (request: number): Promise<number> => {
      const headers = {
        "x-forwarded-for": `192.0.2.${request}`,
        "x-real-ip": `192.0.2.${request}`,
        forwarded: `for=192.0.2.${request}`,
      };
      return (await new Visitor(url, "http://localhost", { headers }).token()).status;
    };
    for (let request = 1; request <= limit; request++) expect(await status(request)).toBe(200);
    expect(await status(limit + 1)).toBe(429);
  });

  test("an IPv4 address is limited as the same one when it comes as IPv4-mapped IPv6", async () => {
    for (const address of [
      "::ffff:10.7.0.1",
      "10.7.0.1",
      "::ffff:a07:1",
      "198.51.100.1, ::ffff:a07:1",
      "::FFFF:10.7.0.1",
    ])
      expect(await statusFrom(address)).toBe(200);
    expect(await statusFrom("10.7.0.1")).toBe(429);
    expect(await statusFrom("::ffff:10.7.0.2")).toBe(200);
  });

  test("an IPv6 address is limited by its /64", async () => {
    for (let request = 1; request <= limit; request++) expect(await statusFrom(`2001:db8:1:2::${request}`)).toBe(200);
    expect(await statusFrom("2001:db8:1:2:ffff::1")).toBe(429);
    expect(await statusFrom("2001:db8:1:3::1")).toBe(200);
  });

  test("an X-Forwarded-For that is no address is no error", async () => {
    const odd = ["", ",", "x", "'", "1.2.3.4:80", "[::1]", "fe80::1%eth0", "1".repeat(5_000), "unknown", "::1::"];
    for (const value of odd) expectStatus(value, await statusFrom(value), (status) => status === 200 || status === 429);
  });
});
