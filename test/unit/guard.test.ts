import { describe, expect, test } from "bun:test";
import { Guard } from "../../edge/guard.ts";
import { limitKey } from "../../edge/names.ts";
import { readSettings } from "../../edge/settings.ts";

const visitor = { isObserver: false, ofVisitor: 0, ofAll: 0 };
const ipv6 = (group3: number, group4: number) => limitKey(`2001:db8:${group3.toString(16)}:${group4.toString(16)}::1`);

/** Opens pages from one key after the other until one is refused. */
function openUntilRefused(guard: Guard, keys: Iterable<string>, pagesPerKey: number): number {
  let opened = 0;
  for (const key of keys)
    for (let i = 0; i < pagesPerKey && guard.checkNewConnection(key, visitor) === undefined; i += 1) {
      guard.connectionOpened(key);
      opened += 1;
    }
  return opened;
}

describe("guard", () => {
  test("a /48 of IPv6 has four times the pages of one address, a /56 twice, and others keep theirs", () => {
    const settings = readSettings({ MAX_PAGES_PER_IP: "10", MAX_CONNECTIONS: "2000" });
    const guard = new Guard(settings);
    const in56 = Array.from({ length: 50 }, (_, i) => ipv6(1, i)); // 2001:db8:1:0::/56
    expect(openUntilRefused(guard, in56, 10)).toBe(20);
    const in48 = Array.from({ length: 500 }, (_, i) => ipv6(1, i * 100));
    expect(openUntilRefused(guard, in48, 10)).toBe(20);
    expect(openUntilRefused(guard, [ipv6(2, 1)], 20)).toBe(10);
    expect(openUntilRefused(guard, ["192.0.2.1"], 20)).toBe(10);
  });

  test("pages that close make room again in every block", () => {
    const guard = new Guard(readSettings({ MAX_PAGES_PER_IP: "1" }));
    for (let i = 0; i < 100; i += 1) {
      const key = ipv6(1, i * 256);
      expect(guard.checkNewConnection(key, visitor)).toBeUndefined();
      guard.connectionOpened(key);
      guard.connectionClosed(key);
    }
  });

  test("token requests and new visitors of a /48 are limited together", () => {
    const guard = new Guard(readSettings({ MAX_TOKENS_PER_IP: "5", MAX_VISITORS_PER_IP: "5" }));
    const keys = Array.from({ length: 200 }, (_, i) => ipv6(1, i * 256));
    expect(keys.filter((key) => guard.checkTokenRequest(key) === undefined)).toHaveLength(20);
    expect(keys.filter((key) => guard.checkNewVisitor(key) === undefined)).toHaveLength(20);
    expect(guard.checkTokenRequest(ipv6(2, 1))).toBeUndefined();
  });

  test("a /48 that asks for ten times its limit is banned as a whole", () => {
    const guard = new Guard(readSettings({ MAX_TOKENS_PER_IP: "2" }));
    for (let i = 0; i < 100; i += 1) guard.checkTokenRequest(ipv6(1, i * 256));
    expect(guard.checkBan(ipv6(1, 9))).toBe("address");
    expect(guard.checkBan(ipv6(2, 9))).toBeUndefined();
  });

  test("a /64 of IPv6 is one address, and a flood from elsewhere does not push its ban out", () => {
    const guard = new Guard(readSettings({ MAX_TOKENS_PER_IP: "1" }));
    for (let i = 0; i < 12; i += 1) guard.checkTokenRequest(limitKey("2001:db8:1:2::1"));
    expect(guard.checkBan(limitKey("2001:db8:1:2:ffff:ffff:ffff:ffff"))).toBe("address");
    expect(guard.checkBan(limitKey("2001:db8:1:3::1"))).toBeUndefined();
    for (let i = 0; i < 49_000; i += 1) guard.checkTokenRequest(`192.0.${i >> 8}.${i & 255}`);
    expect(guard.checkBan(limitKey("2001:db8:1:2::1"))).toBe("address");
  });

  test("limits of requests hold for a minute, and a ban for ten", () => {
    let now = 1_000;
    const settings = readSettings({ MAX_TOKENS_PER_IP: "2", MAX_VISITORS_PER_IP: "1" });
    const guard = new Guard(settings, undefined, () => now);
    const ask = () => [guard.checkTokenRequest("192.0.2.1"), guard.checkNewVisitor("192.0.2.1")];
    const guess = () => guard.checkPassword("192.0.2.1", "wrong", "right");
    expect([ask(), ask(), ask()]).toEqual([
      [undefined, undefined],
      [undefined, "visitors"],
      ["tokens", "visitors"],
    ]);
    for (let i = 0; i < 10; i += 1) expect(guess()).toBe("password");
    expect(guess()).toBe("guesses");
    now += 59_999;
    expect([...ask(), guess()]).toEqual(["tokens", "visitors", "guesses"]);
    now += 1;
    expect([...ask(), guess()]).toEqual([undefined, undefined, "password"]);
    for (let i = 0; i < 20; i += 1) ask();
    now += 10 * 60_000 - 1;
    expect(guard.checkBan("192.0.2.1")).toBe("address");
    now += 1;
    expect(guard.checkBan("192.0.2.1")).toBeUndefined();
  });

  test("an address keeps its limits while its pages open and close", () => {
    const guard = new Guard(readSettings({ MAX_TOKENS_PER_IP: "3", MAX_PAGES_PER_IP: "2" }), undefined, () => 0);
    expect(guard.checkTokenRequest("192.0.2.1")).toBeUndefined();
    guard.connectionOpened("192.0.2.1");
    expect(guard.checkTokenRequest("192.0.2.1")).toBeUndefined();
    guard.connectionOpened("192.0.2.1");
    expect(guard.checkNewConnection("192.0.2.1", visitor)).toBe("address_pages");
    guard.connectionClosed("192.0.2.1");
    expect(guard.checkNewConnection("192.0.2.1", visitor)).toBeUndefined();
    guard.connectionClosed("192.0.2.1");
    expect(guard.checkTokenRequest("192.0.2.1")).toBeUndefined();
    expect(guard.checkTokenRequest("192.0.2.1")).toBe("tokens");
  });

  test("a flood of addresses does not push out the pages that an address has open", () => {
    const guard = new Guard(readSettings({ MAX_PAGES_PER_IP: "1" }));
    guard.connectionOpened("192.0.2.1");
    for (let i = 0; i < 60_000; i += 1) guard.checkTokenRequest(`10.0.${i >> 8}.${i & 255}`);
    expect(guard.checkNewConnection("192.0.2.1", visitor)).toBe("address_pages");
  });

  test("an address that goes on asking keeps its limit through a flood of others", () => {
    const guard = new Guard(readSettings({ MAX_TOKENS_PER_IP: "5" }), undefined, () => 0);
    for (let i = 0; i < 60_000; i += 1) {
      guard.checkTokenRequest(`10.0.${i >> 8}.${i & 255}`);
      if (i % 20_000 === 0) expect(guard.checkTokenRequest("192.0.2.1")).toBeUndefined();
    }
    for (const expected of [undefined, undefined, "tokens"] as const)
      expect(guard.checkTokenRequest("192.0.2.1")).toBe(expected);
  });

  test("addresses are forgotten after a minute, unless they have pages open or are banned", () => {
    let now = 0;
    const guard = new Guard(readSettings({ MAX_TOKENS_PER_IP: "1" }), undefined, () => now);
    guard.connectionOpened("192.0.2.1");
    for (let i = 0; i < 20; i += 1) guard.checkTokenRequest("192.0.2.2");
    for (let i = 0; i < 100; i += 1) guard.checkTokenRequest(`198.51.100.${i}`);
    now += 30_000;
    for (let i = 0; i < 50; i += 1) guard.checkTokenRequest(`203.0.113.${i}`);
    guard.forgetIdle();
    expect(guard.size).toBe(152);
    now += 30_000;
    guard.forgetIdle();
    expect(guard.size).toBe(51);
    expect(guard.checkBan("192.0.2.2")).toBe("address");
    now += 570_000;
    guard.forgetIdle();
    expect(guard.size).toBe(1);
    guard.connectionClosed("192.0.2.1");
    guard.forgetIdle();
    now += 60_000;
    guard.forgetIdle();
    expect(guard.size).toBe(0);
  });

  test("when the service is nearly full, observers are refused first", () => {
    const guard = new Guard(readSettings({ MAX_CONNECTIONS: "100" }));
    const at = (connections: number, isObserver: boolean) =>
      guard.checkNewConnection("192.0.2.1", { isObserver, ofVisitor: 0, ofAll: connections });
    expect([at(89, true), at(90, true)]).toEqual([undefined, "full"]);
    expect([at(99, false), at(100, false)]).toEqual([undefined, "full"]);
  });
});
