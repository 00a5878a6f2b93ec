import { expect, test } from "bun:test";
import { type Claims, EmbeddedEngine, Guard, Journal, Pages, readSettings, Rooms, Sites } from "../../server.ts";

const nonce = (): number => Math.floor(Math.random() * 2 ** 47);

test("a page with more than 64 KiB unread is dropped", () => {
  let closed = 0;
  const settings = readSettings({});
  const rooms = new Rooms(0);
  const sites = new Sites(undefined);
  const guard = new Guard(settings);
  const pages = new Pages(rooms, guard, new Journal(new EmbeddedEngine(":memory:", 1), rooms, sites), 25_000, () => 0);
  const page = pages.admit("a.example", { visitor: "v", page: "/", expires: 1, nonce: 1 }, "192.0.2.1");
  const wire = { readyState: 1, bufferedAmount: 65_536, send: () => {}, close: () => closed++ };
  pages.opened(page, wire);
  expect(pages.size).toBe(1);
  wire.bufferedAmount += 1;
  pages.received(page, '{"page":"/next"}');
  expect([closed, pages.size, pages.stats.slow]).toEqual([1, 0, 1]);
});

test("a machine whose clock goes back goes on admitting pages, and each token once", async () => {
  const engine = new EmbeddedEngine(":memory:", 30_000);
  const anHourAgo = Date.now() - 3_600_000;
  const claims = (at: number): Claims => ({ visitor: "", page: "/", expires: at + 30_000, nonce: nonce() });
  const early = claims(anHourAgo);
  expect(await engine.spend(early, anHourAgo + 5)).toBe(true);
  expect(await engine.spend(early, anHourAgo + 9)).toBe(false);
  const late = claims(anHourAgo + 600_000);
  expect(await engine.spend(late, anHourAgo + 600_000)).toBe(true);
  expect(await engine.spend(late, anHourAgo + 600_001)).toBe(false);
});

test("the reading time of one page is found without a look at the 10,000 others", async () => {
  const engine = new EmbeddedEngine(":memory:", 1);
  const page = (at: number): string => `/${at}/${"x".repeat(900)}`;
  const reading = (at: number) => ({ site: "own.example", page: page(at), bucket: 3, views: 1, seconds: 1 });
  await engine.record({ readings: Array.from({ length: 10_000 }, (_, at) => reading(at)), peaks: [] });
  const before = process.cpuUsage();
  for (let at = 0; at < 500; at++) expect(await engine.readings("own.example", page(at))).toHaveLength(1);
  expect(process.cpuUsage(before).user / 1_000).toBeLessThan(1_000); // a scan each took four times as long as that
});

test("whoever owns a /64 of IPv6 is one address, whichever of its 2^64 they use", () => {
  const guard = new Guard(readSettings({ MAX_TOKENS_PER_IP: "1" }));
  for (let at = 0; at < 12; at++) guard.tokenRequest("2001:db8:1:2::/64");
  expect(guard.address("2001:db8:1:2:ffff:ffff:ffff:ffff")).toBe("address");
  expect(guard.address("2001:db8:1:3::1")).toBeUndefined();
  for (let at = 0; at < 49_000; at++) guard.tokenRequest(`192.0.${at >> 8}.${at & 255}`); // does not push the denial out
  expect(guard.address("2001:db8:1:2::1")).toBe("address");
});
