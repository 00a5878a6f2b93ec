/** The widget: what a page does when sockets fail and HTTP works. */
import { describe, expect, test } from "bun:test";
import { MINUTE, Page, SECOND, hang, offline, refuse, service } from "../support/fake-browser.ts";

describe("widget: polling", () => {
  test("after three sockets that failed in a row it asks over HTTP, every 30 s", async () => {
    const page = await Page.open({ random: 1, html: "<b data-headcount></b><b data-headcount=peak></b>" });
    await page.failThrice();
    expect(page.polls).toHaveLength(0);
    await page.wait();
    expect(page.polls.map(({ url }) => url)).toEqual(["https://count.example/count?page=%2Fpage"]);
    expect(page.polls[0]!.init.credentials).toBeUndefined();
    expect(page.texts).toEqual(["7", "9"]);
    expect(page.shown).toBe("7 live");
    page.socket.drop();
    expect(page.shown).toBe("7 live");
    page.answer = service((path) => (path.startsWith("count") ? Response.json({ site: 8 }) : undefined));
    await page.clock.advance(30 * SECOND - 1);
    expect(page.polls).toHaveLength(1);
    await page.clock.advance(1);
    expect(page.polls).toHaveLength(2);
    expect(page.shown).toBe("8 live");
    await page.clock.advance(30 * SECOND);
    expect(page.polls).toHaveLength(3);
  });

  test("while it polls it tries a socket now and then, and a live connection returns", async () => {
    const page = await Page.open();
    await page.failThrice();
    await page.wait();
    page.socket.drop();
    expect(await page.wait()).toBe(90 * SECOND);
    expect(page.polls).toHaveLength(4);
    page.socket.open({ site: 20, page: 1 });
    expect(page.shown).toBe("20 live");
    const polls = page.polls.length;
    for (let repeat = 0; repeat < 4; repeat++) {
      await page.clock.advance(30 * SECOND);
      page.socket.frame({ site: 20 });
    }
    expect(page.polls).toHaveLength(polls);
    page.socket.drop();
    expect(page.shown).toBe("20 stale");
  });

  test("a poll that fails makes the number stale", async () => {
    const page = await Page.open();
    await page.failThrice();
    await page.wait();
    page.socket.drop();
    page.answer = service((path) => (path.startsWith("count") ? refuse(500) : undefined));
    await page.clock.advance(30 * SECOND);
    expect(page.shown).toBe("7 stale");
    await page.clock.advance(2 * MINUTE);
    expect(page.texts).toEqual(["–"]);
  });

  test("a poll that hangs makes the number stale", async () => {
    const page = await Page.open();
    await page.failThrice();
    await page.wait();
    page.socket.drop();
    page.answer = hang;
    await page.clock.advance(40 * SECOND);
    expect(page.shown).toBe("7 stale");
  });

  test("sockets that fail while HTTP fails, too, are no reason to poll", async () => {
    const page = await Page.open();
    page.socket.drop();
    await page.wait();
    page.socket.drop();
    page.answer = offline;
    await page.wait();
    page.answer = service();
    await page.wait();
    page.socket.drop();
    await page.wait();
    expect(page.polls).toHaveLength(0);
  });

  test("one live socket in between, and the failures are counted anew", async () => {
    const page = await Page.open();
    page.socket.drop();
    await page.wait();
    page.socket.drop();
    await page.wait();
    page.socket.open();
    page.socket.drop();
    await page.wait();
    expect(page.polls).toHaveLength(0);
  });

  test("polls for the page that it is on", async () => {
    const page = await Page.open();
    await page.failThrice();
    await page.wait();
    page.socket.drop();
    page.window.history.pushState(null, "", "/next page");
    await page.clock.advance(30 * SECOND);
    expect(page.polls.at(-1)!.url).toEndWith("?page=%2Fnext%2520page");
  });
});
