/** The widget: the id of a visitor, where it is kept, and who is not counted. */
import { describe, expect, test } from "bun:test";
import { Clock, FakeLocks, Page, SECOND, TAG, type Request, hang, settle } from "../support/fake-browser.ts";

describe("widget: visitor", () => {
  test("keeps the visitor's id for browsers that drop cookies, and sends it back", async () => {
    const page = await Page.open();
    expect(page.storage).toEqual({ "https://count.example/": "a.visitor" });
    const { storage } = page;
    expect((await Page.open({ storage })).tokens[0]!.body!.visitor).toBe("a.visitor");
    const other = await Page.open({ storage, tag: TAG.replace("count.example", "other.example") });
    expect(other.tokens[0]!.body!.visitor).toBeUndefined();
  });

  test("works where storage is forbidden, and locks with it", async () => {
    const refused = () => {
      throw new DOMException("denied", "SecurityError");
    };
    const locks = new FakeLocks();
    locks.request = async () => refused();
    const page = await Page.live({ storage: new Proxy({}, { get: refused, set: refused }), navigator: { locks } });
    expect(page.shown).toBe("12 live");
    expect(page.tokens).toHaveLength(1);
  });

  test("who opened a page with #headcount-off observes from then on, until #headcount-on", async () => {
    const storage = {};
    const open = async (url: string) => (await Page.open({ storage, url })).tokens[0]!.body!;
    const page = (hash: string) => `https://site.example/page${hash}`;
    expect((await open(page(""))).observe).toBe(false);
    expect((await open(page("#headcount-off"))).observe).toBe(true);
    expect((await open(page(""))).observe).toBe(true);
    expect((await open(page("#headcount-on"))).observe).toBe(false);
    expect((await open(page(""))).observe).toBe(false);
  });

  test("no other hash that begins with #headcount- is stored", async () => {
    const storage = { "https://count.example/": "a.visitor" };
    const { tokens } = await Page.open({ storage, url: `https://site.example/page#headcount-${"x".repeat(5000)}` });
    expect(tokens[0]!.body).toMatchObject({ visitor: "a.visitor", observe: false });
    expect(storage).toEqual({ "https://count.example/": "a.visitor" });
  });

  test("an open page that goes to #headcount-off is the last one that counts", async () => {
    const storage = {};
    const page = await Page.live({ storage });
    page.window.happyDOM.setURL("https://site.example/page#headcount-off");
    await page.happen("hashchange");
    const next = await Page.open({ storage });
    expect(next.tokens[0]!.body!.observe).toBe(true);
  });

  test("keeps nothing when the service sends no id", async () => {
    const page = await Page.live({ answer: () => Response.json({ token: "a.token" }) });
    expect(page.storage).toEqual({});
    expect(page.shown).toBe("12 live");
  });

  test("with data-observe or Global Privacy Control it asks not to be counted", async () => {
    const observer = await Page.live({ tag: TAG.replace("src", "data-observe src") });
    expect(observer.tokens[0]!.body!.observe).toBe(true);
    expect(observer.shown).toBe("12 live");
    const signalled = await Page.live({ navigator: { globalPrivacyControl: true } });
    expect(signalled.tokens[0]!.body!.observe).toBe(true);
  });

  test("tabs that a new visitor opens in one instant get one id", async () => {
    const shared = { clock: new Clock(), storage: {}, navigator: { locks: new FakeLocks() } };
    let ids = 0;
    const answer = async ({ body }: Request) => {
      const visitor = body?.visitor ?? `visitor ${++ids}`; // as the service does; before the answer is on its way
      await settle();
      return Response.json({ token: "t", visitor });
    };
    const tabs = [1, 2, 3].map(() => new Page({ ...shared, answer }));
    const sockets = async () => {
      for (let turn = 0; turn < 20; turn++) await settle();
      return tabs.map(({ sockets }) => sockets.length);
    };
    expect(await sockets()).toEqual([1, 0, 0]); // the first one waits for nothing
    await shared.clock.advance(250 - 1); // until the others can read what it stored
    expect(await sockets()).toEqual([1, 0, 0]);
    await shared.clock.advance(1);
    expect(await sockets()).toEqual([1, 1, 1]);
    expect(tabs.map(({ tokens }) => tokens[0]!.body!.visitor)).toEqual([undefined, "visitor 1", "visitor 1"]);
    expect(ids).toBe(1);
  });

  test("a tab whose request hangs keeps the others waiting for ten seconds at most", async () => {
    const shared = { clock: new Clock(), storage: {}, navigator: { locks: new FakeLocks() } };
    const first = await Page.open({ ...shared, answer: hang });
    await shared.clock.advance(5 * SECOND);
    const second = await Page.open(shared);
    expect(first.tokens).toHaveLength(1);
    expect(second.tokens).toHaveLength(0);
    await shared.clock.advance(5 * SECOND);
    expect(second.tokens).toHaveLength(1);
    expect(second.sockets).toHaveLength(1);
  });

  test("gives up waiting for its turn after ten seconds, and asks nothing when its turn comes late", async () => {
    const locks = new FakeLocks();
    let release = () => {};
    void locks.request("", new AbortController(), () => new Promise<void>((resolve) => void (release = resolve)));
    const page = await Page.open({ navigator: { locks }, random: 1 });
    await page.clock.advance(10 * SECOND);
    release();
    await settle();
    expect(page.tokens).toEqual([]);
    expect(await page.wait()).toBe(1 * SECOND);
    expect(page.sockets).toHaveLength(1);
  });

  test("a known visitor takes no lock", async () => {
    const locks = new FakeLocks();
    await Page.open({ navigator: { locks }, storage: { "https://count.example/": "a.visitor" } });
    expect(locks.taken).toBe(0);
    await Page.open({ navigator: { locks } });
    expect(locks.taken).toBe(1);
  });
});
