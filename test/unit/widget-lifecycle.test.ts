/** The widget: sleeping, cached and prerendered pages, and a tag that runs twice. */
import { describe, expect, test } from "bun:test";
import { MINUTE, Page, SECOND, TAG, hang, offline, refuse, settle } from "../support/fake-browser.ts";

describe("widget: lifecycle", () => {
  test("a connection that is silent for 75 s is replaced", async () => {
    const page = await Page.live({ random: 0 });
    await page.clock.advance(60 * SECOND);
    page.socket.frame({ site: 12 });
    const [first] = page.sockets;
    await page.clock.advance(75 * SECOND - 1);
    expect(page.shown).toBe("12 live");
    expect(await page.wait()).toBe(1 + 250);
    expect(first!.readyState).toBe(2);
    expect(page.shown).toBe("12 stale");
  });

  test.each(["visibilitychange", "resume", "online"])("%s finds a connection that died asleep", async (type) => {
    const page = await Page.live();
    page.clock.sleep(75 * SECOND);
    await page.happen(type);
    expect(page.shown).toBe("12 live");
    expect(page.tokens).toHaveLength(1);
    page.clock.sleep(1);
    await page.happen(type);
    expect(page.shown).toBe("12 stale");
    expect(page.tokens).toHaveLength(2);
    expect(page.sockets[0]!.readyState).toBe(2);
    await page.happen(type); // one attempt is enough
    expect(page.tokens).toHaveLength(2);
  });

  test("online ends a long backoff, but not a Retry-After", async () => {
    const page = await Page.open({ answer: offline, random: 1 });
    await page.clock.advance(3 * MINUTE);
    const { length } = page.tokens;
    page.clock.sleep(1);
    page.answer = () => refuse(429, { "Retry-After": "45" });
    await page.happen("online");
    expect(page.tokens).toHaveLength(length + 1);
    page.clock.sleep(45 * SECOND);
    await page.happen("online");
    expect(page.tokens).toHaveLength(length + 1);
  });

  test("leaves at pagehide, and is back at a pageshow from the bfcache", async () => {
    const page = await Page.live();
    await page.happen("pagehide", { persisted: true });
    expect(page.socket.readyState).toBe(2);
    expect(page.shown).toBe("12 stale");
    page.socket.drop(1005);
    await page.hide();
    await page.clock.advance(MINUTE);
    expect(page.tokens).toHaveLength(1);
    page.set("hidden", false);
    await page.happen("pageshow", { persisted: true });
    expect(page.tokens).toHaveLength(2);
    page.socket.open({ site: 5 });
    expect(page.shown).toBe("5 live");
    expect(page.sent).toEqual([]);
  });

  test("gives its token request up at pagehide", async () => {
    const page = await Page.open({ answer: hang });
    await page.happen("pagehide");
    expect(page.tokens[0]!.init.signal!.aborted).toBe(true);
    expect(await page.wait()).toBe(Infinity);
  });

  test("a page that is left while it waits to come back does not", async () => {
    const page = await Page.live();
    page.socket.drop();
    await page.happen("pagehide");
    page.clock.sleep(1);
    await page.hide();
    expect(await page.wait()).toBe(Infinity);
  });

  test("a token that comes after pagehide opens nothing", async () => {
    let release: (answer: Response) => void = () => {};
    const page = await Page.open({ answer: () => new Promise((resolve) => void (release = resolve)) });
    await page.happen("pagehide");
    release(Response.json({ token: "late" }));
    await settle();
    expect(page.sockets).toEqual([]);
    expect(await page.wait()).toBe(Infinity);
  });

  test("polling ends at pagehide, too", async () => {
    const page = await Page.open();
    await page.failThrice();
    await page.wait();
    await page.happen("pagehide", { persisted: true });
    expect(page.shown).toBe("7 stale");
    const { length } = page.polls;
    await page.clock.advance(5 * MINUTE);
    expect(page.polls).toHaveLength(length);
  });

  test("a prerendered page is nobody until it is shown", async () => {
    const page = await Page.open({ prerendering: true, hidden: true });
    await page.happen("pageshow", { persisted: false });
    await page.happen("online");
    await page.clock.advance(MINUTE);
    expect(page.requests).toEqual([]);
    expect(page.shown).toBe("– connecting");
    page.set("prerendering", false);
    page.set("hidden", false);
    await page.happen("prerenderingchange");
    expect(page.tokens).toHaveLength(1);
    page.socket.open();
    expect(page.sent).toEqual([]); // active from now on
  });

  test("pasted twice, there is still one socket", async () => {
    const page = new Page();
    page.paste();
    await settle();
    expect(page.tokens).toHaveLength(1);
    page.socket.open();
    page.paste();
    await page.clock.advance(SECOND);
    expect(page.sockets).toHaveLength(1);
    page.socket.frame({ site: 13 });
    expect(page.events.filter(({ site }) => site === 13)).toHaveLength(1);
    expect(page.sent).toEqual([]);
  });

  test("loaded again by a view transition, it fills the new elements and follows the new tag", async () => {
    const page = await Page.live({ tag: TAG.replace("src", "data-page=/one src") });
    page.document.body.innerHTML = "<b data-headcount>?</b>";
    page.paste(TAG.replace("src", "data-page=/two src"));
    expect(page.shown).toBe("12 live");
    expect(page.sockets).toHaveLength(1);
    expect(page.sent).toEqual([{ page: "/two" }]);
  });

  test("the tag of another service is ignored, and the console says which one counts", async () => {
    const page = await Page.live();
    page.paste('<script src="https://other.example/widget.js" data-page="/other"></script>');
    await page.clock.advance(SECOND);
    expect(page.requests).toHaveLength(1);
    expect(page.sent).toEqual([]);
    expect(page.warnings).toEqual(["headcount: counted by https://count.example/"]);
  });

  test("an element that is called headcount is not in the way", async () => {
    const page = await Page.open({ html: "<b id=headcount data-headcount>–</b>" });
    expect(page.tokens).toHaveLength(1);
  });
});
