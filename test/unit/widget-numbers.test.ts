/** The widget: which number each element shows, how, and how long. */
import { describe, expect, test } from "bun:test";
import { MINUTE, Page, SECOND, offline, service } from "../support/fake-browser.ts";

describe("widget: numbers", () => {
  test("keeps the author's text until the first number", async () => {
    const page = await Page.open();
    expect(page.shown).toBe("– connecting");
    page.socket.open();
    expect(page.shown).toBe("12 live");
    page.socket.frame({ site: 13 });
    expect(page.shown).toBe("13 live");
  });

  test("a number that is not known yet keeps its author's text", async () => {
    const page = await Page.open({ html: "<b data-headcount>?</b> <b data-headcount=peak>no peak</b>" });
    page.socket.open({ site: 1 });
    expect(page.texts).toEqual(["1", "no peak"]);
    page.socket.frame({ peak: 40 });
    expect(page.texts).toEqual(["1", "40"]);
  });

  test("each element chooses its number", async () => {
    const kinds = [
      "",
      "true",
      "site",
      "page",
      "peak",
      "read",
      "views",
      "total",
      "visitors",
      "today",
      "other",
      "toString",
    ];
    const page = await Page.open({ html: kinds.map((kind) => `<b data-headcount="${kind}">–</b>`).join("") });
    page.socket.open({ site: 12, page: 3, peak: 40, read: 154, views: 7, total: 900, visitors: 80, today: 15 });
    expect(page.texts).toEqual(["12", "12", "12", "3", "40", "3 min", "7", "900", "80", "15", "–", "–"]);
  });

  test("numbers are written in the page's language", async () => {
    const html = "<b data-headcount>–</b><b data-headcount=read>–</b>";
    const frame = { site: 12_345, read: 600 };
    const english = await Page.open({ html });
    english.socket.open(frame);
    expect(english.texts).toEqual(["12,345", "10 min"]);
    const german = await Page.open({ html, lang: "de" });
    german.socket.open(frame);
    expect(german.texts).toEqual(["12.345", "10 Min."]);
    const none = await Page.open({ html, lang: "" });
    none.socket.open(frame);
    expect(none.texts).toEqual([frame.site.toLocaleString(), "10 min"]);
  });

  test("a wrong language tag does not stop it", async () => {
    const page = await Page.open({ html: "<b data-headcount>–</b><b data-headcount=read>–</b>", lang: "en_US" });
    page.socket.open({ site: 12_345, read: 600 });
    expect(page.texts).toEqual(["12,345", "10 min"]);
  });

  test("reading time is at least a minute", async () => {
    const page = await Page.open({ html: "<b data-headcount=read>–</b>" });
    page.socket.open({ read: 4 });
    expect(page.texts).toEqual(["1 min"]);
  });

  test("an element that comes later shows its number at once, without an event", async () => {
    const page = await Page.live();
    const { length } = page.events;
    page.document.body.innerHTML += "<i data-headcount=page>?</i>";
    await page.clock.advance(10);
    expect(page.texts).toEqual(["12", "3"]);
    expect(page.events).toHaveLength(length);
    expect(page.tokens).toHaveLength(1);
  });

  test("a number that a framework overwrites is back at once, and the author's text is still known", async () => {
    const page = await Page.live();
    const target = page.document.querySelector("[data-headcount]")!;
    for (const text of ["–", "loading"]) {
      target.textContent = text;
      await page.clock.advance(100);
      expect(page.shown).toBe("12 live");
    }
    target.firstChild!.textContent = "as React writes it";
    await page.clock.advance(100);
    expect(page.shown).toBe("12 live");
    page.answer = offline;
    page.socket.drop();
    await page.clock.advance(2 * MINUTE);
    expect(page.shown).toBe("– stale");
  });

  test("a framework that resets the attributes does not make a number the author's text", async () => {
    const page = await Page.live();
    const target = page.document.querySelector("[data-headcount]")!;
    target.removeAttribute("data-headcount-text");
    target.removeAttribute("data-headcount-state");
    page.socket.frame({ site: 13 });
    expect(page.shown).toBe("13 live");
    page.answer = offline;
    page.socket.drop();
    await page.clock.advance(2 * MINUTE);
    expect(page.shown).toBe("– stale");
  });

  test("another script that undoes each repaint slows the widget down until the next frame, and ends in no loop", async () => {
    const page = await Page.live();
    const target = page.document.querySelector("[data-headcount]")!;
    let undone = 0;
    new page.window.MutationObserver(() => {
      if (target.textContent === "twelve") return;
      target.textContent = "twelve";
      undone++;
    }).observe(target, { childList: true });
    target.textContent = "twelve";
    await page.clock.advance(30 * SECOND);
    expect(undone).toBeGreaterThan(50);
    expect(undone).toBeLessThan(100);
    await page.clock.advance(30 * SECOND);
    expect(undone).toBeLessThan(150);
  });

  test("leaves elements alone that name a page: list.js fills them", async () => {
    const page = await Page.live({
      html: "<b data-headcount=page data-headcount-page=/post>?</b><b data-headcount></b>",
    });
    expect(page.texts).toEqual(["?", "12"]);
  });

  test("writes text, and only when it differs", async () => {
    const page = await Page.live({ html: "<b data-headcount><i>–</i></b>" });
    const target = page.document.querySelector("[data-headcount]")!;
    const written: unknown[] = [];
    Object.defineProperty(target, "textContent", {
      get: () => "12",
      set: (text) => {
        written.push(text);
      },
    });
    page.socket.frame({ site: 12 });
    expect(written).toEqual([]);
    page.socket.frame({ site: 13 });
    expect(written).toEqual(["13"]);
    expect(target.hasAttribute("style")).toBe(false);
  });

  test("every update and every change of state is an event", async () => {
    const page = await Page.open();
    page.socket.open({ site: 12, page: 3, peak: 40, read: 154 });
    page.socket.frame({ site: 13 });
    page.socket.drop();
    expect(page.events).toEqual([
      { state: "connecting" },
      { site: 12, page: 3, peak: 40, read: 154, state: "live" },
      { site: 13, page: 3, peak: 40, read: 154, state: "live" },
      { site: 13, page: 3, peak: 40, read: 154, state: "stale" },
    ]);
  });

  test("a lost connection makes the number stale at once, and a new one live", async () => {
    const page = await Page.live();
    page.socket.drop();
    expect(page.shown).toBe("12 stale");
    await page.wait();
    expect(page.shown).toBe("12 stale");
    page.socket.open({ site: 9, page: 1 });
    expect(page.shown).toBe("9 live");
    for (let repeat = 0; repeat < 5; repeat++) {
      await page.clock.advance(30 * SECOND);
      page.socket.frame({ page: 2 });
    }
    expect(page.shown).toBe("9 live");
  });

  test("after two minutes stale the author's text returns, however often it tried", async () => {
    const page = await Page.live({ html: "<b data-headcount>–</b><b data-headcount=page></b>" });
    page.answer = offline;
    page.socket.drop();
    await page.clock.advance(2 * MINUTE - 1);
    expect(page.texts).toEqual(["12", "3"]);
    await page.clock.advance(1);
    expect(page.texts).toEqual(["–", ""]);
    expect(page.shown).toBe("– stale");
    expect(page.events.at(-1)).toEqual({ state: "stale" });
    page.answer = service();
    await page.wait();
    page.socket.open();
    expect(page.shown).toBe("12 live");
  });

  test("the author's text survives a framework that caches copies of the page", async () => {
    const page = await Page.live();
    const original = page.document.querySelector("p")!;
    original.replaceWith(original.cloneNode(true));
    page.socket.frame({ site: 14 });
    page.answer = offline;
    page.socket.drop();
    await page.clock.advance(2 * MINUTE);
    expect(page.shown).toBe("– stale");
  });

  test("while the service has lost its engine, the number is kept but not shown as live", async () => {
    const page = await Page.live();
    page.socket.frame({ site: 13, stale: true });
    expect(page.shown).toBe("13 stale");
    for (let repeat = 0; repeat < 6; repeat++) {
      await page.clock.advance(30 * SECOND);
      page.socket.frame({ site: 13, stale: true });
    }
    expect(page.shown).toBe("13 stale");
    page.socket.frame({ site: 14, stale: false });
    expect(page.shown).toBe("14 live");
    expect(page.events.at(-1)).toEqual({ site: 14, page: 3, state: "live" });
    expect(page.sockets).toHaveLength(1);
  });

  test("a number that was stale already still goes when the connection is lost, too", async () => {
    const page = await Page.live();
    page.socket.frame({ site: 13, stale: true });
    page.answer = offline;
    page.socket.drop();
    expect(page.shown).toBe("13 stale");
    await page.clock.advance(2 * MINUTE);
    expect(page.shown).toBe("– stale");
  });
});
