/** list.js: how it asks for the numbers of other pages, and what it makes of the answers. */
import { describe, expect, test } from "bun:test";
import { type Answer, MINUTE, Page, SECOND, type Setup, settle } from "../support/fake-browser.ts";

const TAG = '<script async src="https://count.example/list.js"></script>';
const item = (page: string, kind = "views") => `<b data-headcount="${kind}" data-headcount-page="${page}">–</b>`;
const namesOf = (url: string) => new URL(url).searchParams.getAll("page");

/** Answers as the service does: the same numbers for one page and for several have other places. */
const numbers: Answer = ({ url }) => {
  const names = namesOf(url);
  const of = (name: string) => ({ page: name.length, views: 1000 * name.length });
  const pages = Object.fromEntries(names.map((name) => [name, of(name)]));
  return Response.json(names.length > 1 ? { site: 9, pages } : { site: 9, ...of(names[0]!) });
};
const open = async (html: string, setup: Setup = {}) => {
  const page = await Page.open({ html, tag: TAG, answer: numbers, ...setup });
  await settle();
  return page;
};
const asked = (page: Page) => page.requests.map(({ url }) => namesOf(url));
const add = async (page: Page, html: string) => {
  page.document.body.insertAdjacentHTML("beforeend", html);
  await settle();
  await page.clock.advance(SECOND);
};

describe("list: asking", () => {
  test("asks once for all pages of a list, each once", async () => {
    const page = await open(item("/a") + item("/bc") + item("/a", "page"));
    expect(page.requests.map(({ url }) => url)).toEqual(["https://count.example/count?page=%2Fa&page=%2Fbc"]);
    expect(page.texts).toEqual(["2,000", "3,000", "2"]);
  });

  test("asks for a single page", async () => {
    const page = await open(item("/a"));
    expect(page.texts).toEqual(["2,000"]);
  });

  test("asks nothing when there is nothing to fill", async () => {
    const page = await open("<b data-headcount>–</b>" + item("/a", "peak"));
    expect([asked(page), page.texts]).toEqual([[], ["–", "–"]]);
  });

  test("asks for a hundred pages at a time", async () => {
    const page = await open(Array.from({ length: 250 }, (_, index) => item(`/${index}`)).join(""));
    expect(asked(page).map(({ length }) => length)).toEqual([100, 100, 50]);
    expect(page.texts).not.toContain("–");
  });

  test("no request line is longer than proxies allow", async () => {
    const page = await open(
      Array.from({ length: 100 }, (_, index) => item(`/文章/${index}/${"标题".repeat(10)}`)).join(""),
    );
    expect(page.requests.length).toBeGreaterThan(1);
    for (const { url } of page.requests) expect(url.length).toBeLessThan(4_100);
    expect(asked(page).flat()).toHaveLength(100);
  });

  test("asks once for what was added together, and not again for what is known", async () => {
    const page = await open(item("/a"));
    await add(page, item("/bc") + item("/def") + item("/a"));
    expect(asked(page)).toEqual([["/a"], ["/bc", "/def"]]);
    expect(page.texts).toEqual(["2,000", "3,000", "4,000", "2,000"]);
  });

  test("follows an element that is given another page", async () => {
    const page = await open(item("/a"));
    page.document.querySelector("b")!.setAttribute("data-headcount-page", "/bcd");
    await settle();
    await page.clock.advance(SECOND);
    expect(page.texts).toEqual(["4,000"]);
  });

  test("asks the service that the tag names, and once when the tag is there twice", async () => {
    const page = await open(item("/a"), {
      tag: '<script src="/list.js" data-server="https://other.example/base"></script>',
    });
    page.paste(TAG);
    await settle();
    expect(page.requests.map(({ url }) => url)).toEqual(["https://other.example/base/count?page=%2Fa"]);
  });
});

describe("list: showing", () => {
  test("numbers are written in the page's language", async () => {
    expect((await open(item("/a"), { lang: "de" })).texts).toEqual(["2.000"]);
    expect((await open(item("/a"), { lang: "en_US" })).texts).toEqual(["2,000"]);
  });

  test("each element says whether its number is known", async () => {
    const page = await open(item("/a"), { answer: () => Response.json({ views: 7, stale: true }) });
    expect(page.shown).toBe("7 stale");
    const waiting = await open(item("/a"), { answer: () => Response.error() });
    expect(waiting.shown).toBe("– connecting");
  });

  test("a page whose name is refused keeps its text, and the others get their numbers", async () => {
    const answer: Answer = (request) =>
      namesOf(request.url).some((name) => name.includes("\n")) ? Response.json({}, { status: 400 }) : numbers(request);
    const page = await open(item("/a") + item("/bad&#10;name") + item("/bc"), { answer });
    expect(page.texts).toEqual(["2,000", "–", "3,000"]);
    const { length } = page.requests;
    await add(page, item("/a"));
    expect(page.requests).toHaveLength(length);
  });

  test("the people on a page are asked for again while the list can be seen, and views are not", async () => {
    const page = await open(item("/a") + item("/bc", "page"));
    page.answer = () => Response.json({ page: 8, views: 1 });
    await page.clock.advance(31 * SECOND);
    expect([asked(page).at(-1), page.texts]).toEqual([["/bc"], ["2,000", "8"]]);
    await page.hide();
    const { length } = page.requests;
    await page.clock.advance(5 * MINUTE);
    expect(page.requests).toHaveLength(length);
    await page.hide(false);
    expect(page.requests).toHaveLength(length + 1);
  });
});

describe("list: when the service does not answer", () => {
  test("tries again after half a minute, however much the page changes", async () => {
    const page = await open(item("/a"), { answer: () => Response.error() });
    for (let index = 0; index < 10; index++) await add(page, item("/a"));
    expect(page.requests).toHaveLength(1);
    page.answer = numbers;
    await page.clock.advance(30 * SECOND);
    expect(page.texts).toEqual(Array.from({ length: 11 }, () => "2,000"));
  });

  test("waits as long as the service says", async () => {
    const busy = () => new Response("", { status: 429, headers: { "Retry-After": "100" } });
    const page = await open(item("/a"), { answer: busy });
    page.answer = numbers;
    await page.clock.advance(99 * SECOND);
    expect(page.requests).toHaveLength(1);
    await page.clock.advance(30 * SECOND);
    expect(page.texts).toEqual(["2,000"]);
  });

  test("a number of people is stale at once, and gone after two minutes", async () => {
    const page = await open(item("/a", "page"));
    page.answer = () => Response.error();
    await page.clock.advance(31 * SECOND);
    expect(page.shown).toBe("2 stale");
    await page.clock.advance(2 * MINUTE);
    expect(page.shown).toBe("– connecting");
    page.answer = numbers;
    await page.clock.advance(31 * SECOND);
    expect(page.shown).toBe("2 live");
  });

  test("stops when the site is unknown, and says why", async () => {
    const answer = () => Response.json({ title: "No such site" }, { status: 404 });
    const page = await open(item("/a", "page"), { answer });
    await add(page, item("/bc"));
    await page.clock.advance(5 * MINUTE);
    expect(page.requests).toHaveLength(1);
    expect(page.warnings.join()).toContain("404");
  });
});
