/** The drop-in for busuanzi and Vercount: what it fills, hides and shows, what it offers to themes, and what it counts. */
import { describe, expect, test } from "bun:test";
import { MINUTE, Page, SECOND, type Setup, offline, settle } from "../support/fake-browser.ts";

const TAG = '<script async src="https://count.example/busuanzi.js"></script>';
const FRAME = { site: 4, page: 2, views: 321, total: 12_345, visitors: 2_345, today: 67 };

interface Theme {
  bszCaller: { fetch(url: string, callback: (numbers: object) => void): void };
  bszTag: { bszs: string[]; texts(numbers: object): void; shows(): void; hides(): void };
}

const open = (html: string, setup: Setup = {}) => Page.open({ html, tag: TAG, ...setup });
const live = async (html: string, setup: Setup = {}) => {
  const page = await open(html, setup);
  page.socket.open(FRAME);
  return page;
};
const byId = (page: Page, id: string) => page.document.getElementById(id)!;
const themeOf = (page: Page) => page.window as unknown as Theme;
const field = (id: string, inside = "…", style = "") => `<span id="${id}" style="${style}">${inside}</span>`;
const texts = (page: Page) => [...page.document.querySelectorAll("span")].map(({ textContent }) => textContent);
const displays = (page: Page) => [...page.document.querySelectorAll("span")].map(({ style }) => style.display);

describe("busuanzi: fields", () => {
  for (const [script, prefix] of [
    ["busuanzi 2.3", "busuanzi_value"],
    ["busuanzi.cc", "busuanzi"],
    ["Vercount", "vercount_value"],
  ] as const)
    test(`fills the elements of ${script} with plain digits`, async () => {
      const page = await live(["site_pv", "page_pv", "site_uv"].map((name) => field(`${prefix}_${name}`)).join(""));
      expect(texts(page)).toEqual(["12345", "321", "2345"]);
    });

  test("fills today's visitors and who is online", async () => {
    const ids = ["busuanzi_today_uv", "busuanzi_value_today_uv", "busuanzi_online", "busuanzi_value_online"];
    expect(texts(await live(ids.map((id) => field(id)).join("")))).toEqual(["67", "67", "4", "4"]);
  });

  test("fills several elements of one id, and follows each change", async () => {
    const page = await live(field("busuanzi_value_page_pv") + field("busuanzi_value_page_pv"));
    page.socket.frame({ views: 322 });
    expect(texts(page)).toEqual(["322", "322"]);
  });

  test("fills elements that come after the numbers", async () => {
    const page = await live("");
    page.document.body.innerHTML = field("busuanzi_value_site_uv");
    await settle();
    expect(texts(page)).toEqual(["2345"]);
  });

  test("leaves an element alone whose number there is not", async () => {
    const page = await live(field("busuanzi_page_uv") + field("busuanzi_today_pv") + field("busuanzi_other"));
    expect(texts(page)).toEqual(["…", "…", "…"]);
    expect(displays(page)).toEqual(["", "", ""]);
  });

  test("keeps the author's spinner until the number, and brings it back when the number is gone", async () => {
    const page = await open(field("busuanzi_value_site_pv", "<i>*</i>"));
    const spinner = page.document.querySelector("i");
    expect(byId(page, "busuanzi_value_site_pv").innerHTML).toBe("<i>*</i>");
    page.socket.open(FRAME);
    expect(byId(page, "busuanzi_value_site_pv").innerHTML).toBe("12345");
    page.answer = offline;
    page.socket.drop();
    await page.clock.advance(MINUTE);
    expect(texts(page)).toEqual(["12345"]);
    await page.clock.advance(MINUTE + SECOND);
    expect(byId(page, "busuanzi_value_site_pv").firstChild).toBe(spinner);
  });

  test("does not undo what another script makes of a number, until the number changes", async () => {
    const page = await live(field("busuanzi_value_site_pv"));
    byId(page, "busuanzi_value_site_pv").innerHTML = "12.3k";
    await settle();
    page.socket.frame({ site: 5 });
    expect(texts(page)).toEqual(["12.3k"]);
    page.socket.frame({ total: 12_346 });
    expect(texts(page)).toEqual(["12346"]);
  });
});

describe("busuanzi: containers", () => {
  const containers = ["busuanzi_container_site_pv", "vercount_container_page_pv", "busuanzi_container_online"];

  test("are hidden until there is a number, and again when it is gone", async () => {
    const page = await open(containers.map((id) => field(id)).join(""));
    expect(displays(page)).toEqual(["none", "none", "none"]);
    page.socket.open({ site: 4, total: 9 });
    expect(displays(page)).toEqual(["inline", "none", "inline"]);
    page.socket.frame(FRAME);
    expect(displays(page)).toEqual(["inline", "inline", "inline"]);
    page.answer = offline;
    page.socket.drop();
    await page.clock.advance(2 * MINUTE + SECOND);
    expect(displays(page)).toEqual(["none", "none", "none"]);
  });

  test("show a number that is 0", async () => {
    const page = await open(field("busuanzi_container_site_uv") + field("busuanzi_value_site_uv"));
    page.socket.open({ ...FRAME, visitors: 0 });
    expect(displays(page)).toEqual(["inline", ""]);
    expect(texts(page)).toEqual(["…", "0"]);
  });

  test("keep what they hold", async () => {
    const page = await live(`<span id="busuanzi_container_site_pv">Views: <b id="busuanzi_value_site_pv"></b></span>`);
    expect(texts(page)).toEqual(["Views: 12345"]);
  });
});

describe("busuanzi: for themes", () => {
  const url = "//busuanzi.ibruce.info/busuanzi?jsonpCallback=BusuanziCallback";
  const asked = (page: Page) => {
    const answers: object[] = [];
    themeOf(page).bszCaller.fetch(url, (numbers) => answers.push(numbers));
    return answers;
  };

  test("bszCaller.fetch answers once, with the numbers, and asks nobody", async () => {
    const page = await open("");
    const early = asked(page);
    await settle();
    expect(early).toEqual([]);
    page.socket.open(FRAME);
    await settle();
    expect(early).toMatchObject([{ site_pv: 12_345, page_pv: 321, site_uv: 2_345 }]);
    const { length } = page.requests;
    const late = asked(page);
    page.socket.frame({ site: 5 });
    await settle();
    expect([early.length, late.length, page.requests.length]).toEqual([1, 1, length]);
  });

  test("bszCaller.fetch waits for the numbers of the page that is shown now", async () => {
    const page = await live("");
    page.window.history.pushState(null, "", "/next");
    const answers = asked(page);
    page.socket.frame({ site: 5 });
    await settle();
    expect(answers).toEqual([]);
    page.socket.frame({ page: 1, views: 7 });
    await settle();
    expect(answers).toMatchObject([{ page_pv: 7 }]);
  });

  test("bszTag writes texts, hides and shows", async () => {
    const page = await live(field("busuanzi_container_page_pv") + field("busuanzi_value_page_pv"));
    const { bszTag } = themeOf(page);
    expect(bszTag.bszs).toEqual(["site_pv", "page_pv", "site_uv"]);
    bszTag.hides();
    expect(displays(page)).toEqual(["none", ""]);
    bszTag.shows();
    expect(displays(page)).toEqual(["inline", ""]);
    bszTag.texts({ site_pv: 1, page_pv: 2, site_uv: 3 });
    expect(texts(page)).toEqual(["…", "2"]);
  });

  test("the numbers are in localStorage, as Vercount leaves them there", async () => {
    const page = await live("");
    expect(page.storage["visitorCountData"]).toBe('{"site_pv":12345,"page_pv":321,"site_uv":2345}');
  });

  test("storage that is forbidden is no obstacle", async () => {
    const storage = new Proxy({}, { set: () => false, get: () => undefined });
    expect(texts(await live(field("busuanzi_value_site_pv"), { storage }))).toEqual(["12345"]);
  });
});

describe("busuanzi: counting", () => {
  test("a tag that a theme inserts again for a new page counts a view of it, over the one socket", async () => {
    const page = await live(field("busuanzi_value_page_pv"));
    // A library that kept the browser's own pushState: the widget hears nothing of it.
    page.window.History.prototype.pushState.call(page.window.history, null, "", "/next");
    expect(page.sent).toEqual([]);
    page.paste(TAG);
    expect(page.sent).toEqual([{ page: "/next" }]);
    page.socket.frame({ page: 1, views: 8 });
    expect(texts(page)).toEqual(["8"]);
    expect([page.sockets.length, page.tokens.length]).toEqual([1, 1]);
  });

  test("a tag that is inserted again for the same page counts nothing", async () => {
    const page = await live("");
    page.paste(TAG);
    page.window.history.pushState(null, "", "/next");
    page.paste(TAG);
    expect(page.sent).toEqual([{ page: "/next" }]);
  });

  test("beside the widget there is one socket, and the numbers show at once", async () => {
    const page = await Page.open({ html: "<b data-headcount>–</b>" + field("busuanzi_value_site_pv") });
    page.socket.open(FRAME);
    page.paste(TAG);
    expect([texts(page), page.texts, page.sockets.length]).toEqual([["12345"], ["4"], 1]);
  });

  test("the widget's own elements are filled, too", async () => {
    const page = await live(`<b data-headcount=page>–</b>`);
    expect(page.texts).toEqual(["2"]);
  });
});
