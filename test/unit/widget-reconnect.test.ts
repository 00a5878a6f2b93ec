/** The widget: how long a page waits before the next attempt, and when no attempt follows. */
import { describe, expect, test } from "bun:test";
import { DAY, Page, SECOND, hang, offline, refuse, service } from "../support/fake-browser.ts";

describe("widget: reconnect", () => {
  test("waits with full jitter, twice as long each time, up to a minute", async () => {
    const page = await Page.open({ random: 1 });
    page.answer = offline;
    page.socket.drop();
    for (const seconds of [1, 2, 4, 8, 16, 32, 60]) expect(await page.wait()).toBe(seconds * SECOND);
    page.random = 0.25;
    expect(await page.wait()).toBe(60 * SECOND); // drawn before
    expect(await page.wait()).toBe(15 * SECOND);
  });

  test("never comes back sooner than after 250 ms", async () => {
    const page = await Page.open({ random: 0 });
    page.socket.drop();
    expect(await page.wait()).toBe(250);
  });

  test("each attempt has a fresh token", async () => {
    const page = await Page.open();
    page.answer = () => Response.json({ token: "another" });
    page.socket.drop();
    await page.wait();
    expect(page.socket.url).toEndWith("?token=another");
  });

  test("the backoff starts anew after ten seconds of uptime, and not before", async () => {
    const page = await Page.open({ random: 1 });
    page.socket.drop();
    expect(await page.wait()).toBe(1 * SECOND);
    page.socket.open();
    await page.clock.advance(10 * SECOND - 1);
    page.socket.drop();
    expect(await page.wait()).toBe(2 * SECOND);
    page.socket.open();
    await page.clock.advance(10 * SECOND);
    page.socket.drop();
    expect(await page.wait()).toBe(1 * SECOND);
  });

  test("a token request that hangs is given up after ten seconds", async () => {
    const page = await Page.open({ answer: hang, random: 1 });
    const { signal } = page.tokens[0]!.init;
    await page.clock.advance(10 * SECOND - 1);
    expect(signal!.aborted).toBe(false);
    page.answer = service();
    expect(await page.wait()).toBe(1 + 1 * SECOND);
    expect(signal!.aborted).toBe(true);
  });

  test("a socket that does not open, or stays silent, is given up after ten seconds", async () => {
    const page = await Page.open({ random: 1 });
    const [first] = page.sockets;
    expect(await page.wait()).toBe(10 * SECOND + 1 * SECOND);
    expect(first!.readyState).toBe(2);
    page.socket.readyState = 1;
    page.socket.onopen?.(); // but no frame
    expect(await page.wait()).toBe(10 * SECOND + 2 * SECOND);
    expect(page.socket.readyState).toBe(0);
  });

  test("what a given-up socket still does is of no effect", async () => {
    const page = await Page.open({ random: 1 });
    const [first] = page.sockets;
    await page.wait();
    page.socket.open();
    first!.drop();
    await page.clock.advance(20 * SECOND);
    expect(page.shown).toBe("12 live");
    expect(page.warnings).toEqual([]);
    expect(page.sockets).toHaveLength(2);
  });

  test("close 1012 spreads the pages over its window", async () => {
    const page = await Page.live({ random: 1 });
    page.socket.drop(1012, "8");
    expect(page.shown).toBe("12 stale");
    expect(await page.wait()).toBe(8 * SECOND);
    page.random = 0.25;
    page.socket.open();
    page.socket.drop(1012, "8");
    expect(await page.wait()).toBe(2 * SECOND);
  });

  test.each(["", "soon"])("close 1012 without a window (%p) means the usual backoff", async (reason) => {
    const page = await Page.live({ random: 1 });
    page.socket.drop(1012, reason);
    expect(await page.wait()).toBe(1 * SECOND);
  });

  test("close 1013 means thirty seconds at least", async () => {
    const page = await Page.live({ random: 0 });
    page.socket.drop(1013);
    expect(await page.wait()).toBe(30 * SECOND);
    page.random = 1;
    page.socket.open();
    page.socket.drop(1013);
    expect(await page.wait()).toBe(32 * SECOND);
  });

  test.each([429, 503])("HTTP %d means the time of Retry-After at least", async (status) => {
    const page = await Page.open({ answer: () => refuse(status, { "Retry-After": "45" }), random: 0 });
    page.random = 1;
    expect(await page.wait()).toBe(45 * SECOND);
    expect(await page.wait()).toBe(47 * SECOND);
    expect(page.warnings).toEqual([]);
  });

  test("an absurd Retry-After overflows no timer", async () => {
    const page = await Page.open({ answer: () => refuse(503, { "Retry-After": "31536000" }) });
    expect(await page.wait(30 * DAY)).toBeGreaterThan(10 * DAY);
  });

  test("a Retry-After that is a date, and any other error, means the usual backoff", async () => {
    const page = await Page.open({
      answer: () => refuse(503, { "Retry-After": "Sun, 22 Nov 2026 13:00:00 GMT" }),
      random: 1,
    });
    expect(await page.wait()).toBe(1 * SECOND);
    page.answer = () => new Response("oops", { status: 500 });
    expect(await page.wait()).toBe(2 * SECOND);
    page.answer = () => new Response("<!doctype html>");
    expect(await page.wait()).toBe(4 * SECOND);
  });

  test("HTTP 403 stops it, and it says why, once", async () => {
    const page = await Page.live();
    page.answer = () => refuse(403);
    page.socket.drop();
    await page.wait();
    await page.happen("online");
    await page.hide();
    await page.hide(false);
    await page.clock.advance(DAY);
    await page.happen("online");
    expect(page.tokens).toHaveLength(2);
    expect(page.warnings).toEqual([
      expect.stringMatching(/^headcount: 403 .*"Not on this site".*"evil.example is not in SITES"/),
    ]);
    expect(page.shown).toBe("– stale");
  });

  test.each([400, 401, 403, 404])("HTTP %d without a problem document stops it all the same", async (status) => {
    const page = await Page.open({ answer: () => new Response("<h1>Sorry</h1>", { status }) });
    expect(await page.wait()).toBe(Infinity);
    expect(page.warnings).toEqual([`headcount: ${status} <h1>Sorry</h1>`]);
  });

  const needed = "headcount: CSP needs connect-src https://count.example/ wss://count.example/";

  test("a policy that forbids the token is named once, and nothing is tried again", async () => {
    const page = await Page.open({ answer: offline });
    await page.violate("https://count.example/token");
    await page.clock.advance(DAY);
    await page.happen("online");
    expect(page.warnings).toEqual([needed]);
    expect(page.tokens).toHaveLength(1);
    expect(page.shown).toBe("– connecting");
  });

  test("a policy that forbids the socket is named once, and nothing is tried again", async () => {
    const page = await Page.open();
    await page.violate(page.socket.url);
    page.socket.drop(1006);
    await page.clock.advance(DAY);
    expect(page.warnings).toEqual([needed]);
    expect(page.tokens).toHaveLength(1);
  });

  test("a socket that throws because of a policy is no other case", async () => {
    const page = await Page.open({ throwingSocket: true });
    await page.violate("wss://count.example/ws?token=a.token");
    expect(await page.wait()).toBe(Infinity);
    expect(page.warnings).toEqual([needed]);
  });

  test("a policy that only reports, or that forbids something else, stops nothing", async () => {
    const page = await Page.open();
    await page.violate(page.socket.url, "report");
    await page.violate("https://count.example/badge.svg");
    await page.violate("https://count.example/token"); // was allowed a moment ago, and is not waited for
    page.socket.open();
    expect(page.warnings).toEqual([]);
    expect(page.shown).toBe("12 live");
  });
});
