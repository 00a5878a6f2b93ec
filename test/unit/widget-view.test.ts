/** The widget: which page is shown, and whether its reader is active. */
import { describe, expect, test } from "bun:test";
import { MINUTE, Page, SECOND, TAG } from "../support/fake-browser.ts";

describe("widget: view", () => {
  test("a page that changes says so over the open socket, when its name is another one", async () => {
    const page = await Page.live();
    const { history } = page.window;
    history.pushState({ step: 1 }, "", "/next?query#hash");
    expect(page.document.location.pathname).toBe("/next");
    expect(history.state).toEqual({ step: 1 });
    history.replaceState(null, "", "/next?other");
    history.replaceState(null, "", "/last");
    expect(page.sent).toEqual([{ page: "/next" }, { page: "/last" }]);
    await page.happen("popstate");
    expect(page.sent).toHaveLength(2);
    page.window.happyDOM.setURL("https://site.example/back");
    await page.happen("popstate");
    expect(page.sent.at(-1)).toEqual({ page: "/back" });
    expect(page.sockets).toHaveLength(1);
  });

  test("the hash is part of the page with data-hash, and only then", async () => {
    const url = "https://site.example/app#/one";
    const page = await Page.live({ url, tag: TAG.replace("src", "data-hash src") });
    expect(page.tokens[0]!.body!.page).toBe("/app#/one");
    page.window.happyDOM.setURL("https://site.example/app#/two");
    await page.happen("hashchange");
    expect(page.sent).toEqual([{ page: "/app#/two" }]);
    const plain = await Page.live({ url });
    expect(plain.tokens[0]!.body!.page).toBe("/app");
    plain.window.happyDOM.setURL("https://site.example/app#/two");
    await plain.happen("hashchange");
    expect(plain.sent).toEqual([]);
  });

  test("data-page names the page", async () => {
    const page = await Page.live({ tag: TAG.replace("src", "data-page=/article src") });
    expect(page.tokens[0]!.body!.page).toBe("/article");
    page.window.history.pushState(null, "", "/next");
    expect(page.sent).toEqual([]);
  });

  test("numbers of the old page are not shown on the new one", async () => {
    const page = await Page.open({
      html: "<b data-headcount=page>–</b><b data-headcount=read>?</b><b data-headcount></b>",
    });
    page.socket.open({ site: 12, page: 3, read: 154 });
    page.window.history.pushState(null, "", "/next");
    page.socket.frame({ site: 13 });
    expect(page.texts).toEqual(["–", "?", "13"]);
    page.socket.frame({ page: 1 });
    expect(page.texts).toEqual(["1", "?", "13"]);
  });

  test("nor after a page that changed while there was no connection", async () => {
    const page = await Page.open({ html: "<b data-headcount=read>?</b>" });
    page.socket.open({ site: 12, page: 3, read: 154 });
    page.socket.drop();
    page.window.history.pushState(null, "", "/next");
    await page.wait();
    expect(page.tokens.at(-1)!.body!.page).toBe("/next");
    page.socket.open({ site: 12, page: 1 });
    expect(page.texts).toEqual(["?"]);
    expect(page.sent).toEqual([]);
  });

  test("a page that changed while it connected says so once it is open", async () => {
    const page = await Page.open();
    page.window.history.pushState(null, "", "/next");
    expect(page.sent).toEqual([]);
    page.socket.open();
    expect(page.sent).toEqual([{ page: "/next" }]);
  });

  test("a reader is active until there was no input for a minute", async () => {
    const page = await Page.live();
    const minute = async () => {
      page.socket.frame({ site: 12 });
      await page.clock.advance(30 * SECOND);
      page.socket.frame({ site: 12 });
      await page.clock.advance(30 * SECOND - 1);
    };
    await minute();
    expect(page.sent).toEqual([]);
    await page.clock.advance(1);
    expect(page.sent).toEqual([{ active: false }]);
    for (const type of ["pointermove", "pointerdown", "keydown", "scroll"]) {
      page.socket.sent.length = 0;
      await page.happen(type);
      await page.happen(type); // only changes are told
      expect(page.sent).toEqual([{ active: true }]);
      await page.clock.advance(20 * SECOND);
      await page.happen(type); // and the minute starts anew
      await minute();
      expect(page.sent).toEqual([{ active: true }]);
      await page.clock.advance(1);
      expect(page.sent).toEqual([{ active: true }, { active: false }]);
    }
  });

  test("hears an element scroll, whose event does not bubble", async () => {
    const page = await Page.live({ html: "<div></div><b data-headcount></b>" });
    await page.clock.advance(MINUTE);
    page.document.querySelector("div")!.dispatchEvent(new page.window.Event("scroll", { bubbles: false }));
    expect(page.sent).toEqual([{ active: false }, { active: true }]);
  });

  test("a hidden page has no active reader", async () => {
    const page = await Page.live();
    await page.hide();
    expect(page.sent).toEqual([{ active: false }]);
    await page.hide(false);
    expect(page.sent).toEqual([{ active: false }, { active: true }]);
  });

  test("a page that opens hidden says so", async () => {
    const page = await Page.live({ hidden: true });
    expect(page.sent).toEqual([{ active: false }]);
  });

  test("an idle reader stays idle over a new page and a new connection, which both start active", async () => {
    const page = await Page.live();
    await page.hide();
    page.window.history.pushState(null, "", "/next");
    expect(page.sent).toEqual([{ active: false }, { page: "/next" }, { active: false }]);
    page.socket.drop();
    await page.wait();
    page.socket.open();
    expect(page.sent).toEqual([{ active: false }]);
  });

  // ── Views ───────────────────────────────────────────────────────────────────────────────────────────────────────

  const again = (page: Page) => page.tokens.at(-1)!.body!.again;

  test("a new connection continues the view that was counted", async () => {
    const page = await Page.open();
    expect(again(page)).toBe(false);
    page.socket.drop(); // before it was open: nothing was counted
    await page.wait();
    expect(again(page)).toBe(false);
    page.socket.open();
    page.socket.drop();
    await page.wait();
    expect(again(page)).toBe(true);
  });

  test("a page that was told over the socket is a view that was counted", async () => {
    const page = await Page.live();
    page.window.history.pushState(null, "", "/next");
    page.socket.drop();
    await page.wait();
    expect(again(page)).toBe(true);
  });

  test("a page that changed while there was no connection is a view that was not counted", async () => {
    const page = await Page.live();
    page.socket.drop();
    page.window.history.pushState(null, "", "/next");
    await page.wait();
    expect(again(page)).toBe(false);
  });

  test("a return from the bfcache is a view that was not counted", async () => {
    const page = await Page.live();
    await page.happen("pagehide", { persisted: true });
    await page.happen("pageshow", { persisted: true });
    expect(again(page)).toBe(false);
    expect(page.tokens).toHaveLength(2);
  });

  test("the views of the old page are not shown on the new one", async () => {
    const page = await Page.open({ html: "<b data-headcount=views>–</b><b data-headcount=total>–</b>" });
    page.socket.open({ views: 7, total: 900 });
    page.window.history.pushState(null, "", "/next");
    page.socket.frame({ total: 901 });
    expect(page.texts).toEqual(["–", "901"]);
  });
});
