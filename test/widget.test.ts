/**
 * The widget as it ships, bundled and minified, in a happy-dom window. All that it touches of a browser comes in as an
 * argument: clock, randomness, network and sockets are the test's own, and a test of a minute takes no time.
 */
import { describe, expect, test } from "bun:test";
import { Window } from "happy-dom";
import { browser } from "../build.ts";

const code = browser("widget/widget.ts");
const SECOND = 1000;
const MINUTE = 60 * SECOND;
const DAY = 24 * 60 * MINUTE;

// ── The fake browser ────────────────────────────────────────────────────────────────────────────────────────────────

/** Lets every promise that can settle do so. */
const settle = async () => {
  for (let turn = 0; turn < 3; turn++) await new Promise<void>((resolve) => void setImmediate(resolve));
};

/** Time that moves only when told to: `advance` runs the timers that come due, `sleep` runs none, like a closed lid. */
class Clock {
  now = Date.parse("2026-11-22T12:00:00Z");
  #lastId = 0;
  readonly #timers = new Map<number, { at: number; run: () => void }>();

  readonly setTimeout = (run: () => void, ms = 0): number => {
    this.#timers.set(++this.#lastId, { at: this.now + Math.max(0, ms | 0), run }); // 32 bits, as in browsers
    return this.#lastId;
  };

  readonly clearTimeout = (id: number): void => void this.#timers.delete(id);

  async advance(ms: number, until = () => false): Promise<void> {
    const end = this.now + ms;
    await settle();
    while (!until()) {
      const [next] = [...this.#timers].toSorted(([, a], [, b]) => a.at - b.at);
      if (next === undefined || next[1].at > end) break;
      this.#timers.delete(next[0]);
      this.now = Math.max(this.now, next[1].at);
      next[1].run();
      await settle();
    }
    if (!until()) this.now = end;
  }

  sleep(ms: number): void {
    this.now += ms;
  }
}

class FakeSocket {
  readyState = 0;
  readonly sent: unknown[] = [];
  onopen?: () => void;
  onmessage?: (event: { data: string }) => void;
  onerror?: () => void;
  onclose?: (event: { code: number; reason: string }) => void;
  readonly url: string;

  constructor(url: string) {
    this.url = url;
  }

  send(text: string): void {
    if (this.readyState !== 1) throw new Error("InvalidStateError");
    this.sent.push(JSON.parse(text));
  }

  close(): void {
    this.readyState = Math.max(2, this.readyState);
  }

  /** The upgrade, and the first frame. */
  open(frame: object = { site: 12, page: 3 }): void {
    this.readyState = 1;
    this.onopen?.();
    this.frame(frame);
  }

  /** Browsers deliver messages to open sockets only. */
  frame(frame: object): void {
    if (this.readyState === 1) this.onmessage?.({ data: JSON.stringify(frame) });
  }

  drop(code = 1006, reason = ""): void {
    this.readyState = 3;
    if (code === 1006) this.onerror?.();
    this.onclose?.({ code, reason });
  }
}

/** Web Locks: one holder at a time, the others wait in line, and may be called away while they wait. */
class FakeLocks {
  taken = 0;
  #last: Promise<unknown> = Promise.resolve();

  request(_name: string, { signal }: { signal: AbortSignal }, work: () => Promise<unknown>): Promise<unknown> {
    this.taken++;
    const turn = (async (before) => {
      await before;
      if (signal.aborted) throw signal.reason;
    })(this.#last);
    const held = turn.then(work);
    this.#last = held.catch(() => undefined);
    return Promise.race([held, turn.then(() => held), rejectOnAbort(signal)]);
  }
}

const rejectOnAbort = (signal: AbortSignal | null | undefined) =>
  new Promise<never>((_, reject) => {
    signal?.addEventListener("abort", () => reject(signal.reason));
  });

interface Request {
  readonly url: string;
  readonly init: RequestInit;
  readonly body: { page: string; observe?: boolean; visitor?: string } | undefined;
}

type Answer = (request: Request) => Response | Promise<Response>;

/** What the service answers when all is well, with each request seen first by `instead`. */
const service =
  (instead: (path: string) => Response | Promise<Response> | undefined = () => undefined): Answer =>
  ({ url }) =>
    instead(url.slice("https://count.example/".length)) ??
    (url.includes("/count?")
      ? Response.json({ site: 7, page: 2, peak: 9 })
      : Response.json({ token: "a.token", visitor: "a.visitor" }));

const refuse = (status: number, headers = {}) =>
  Response.json({ title: "Not on this site", status, detail: "evil.example is not in SITES" }, { status, headers });
const hang = () => new Promise<Response>(() => {});
const offline = () => Promise.reject(new TypeError("Failed to fetch"));

interface Setup {
  html?: string;
  lang?: string;
  url?: string;
  tag?: string;
  answer?: Answer;
  random?: number;
  clock?: Clock;
  storage?: Record<string, string>;
  navigator?: { locks?: FakeLocks; globalPrivacyControl?: boolean };
  hidden?: boolean;
  prerendering?: boolean;
}

interface Detail {
  site?: number;
  page?: number;
  peak?: number;
  read?: number;
  state: string;
}

const TAG = '<script async src="https://count.example/widget.js"></script>';
const AT_DOCUMENT = new Set(["visibilitychange", "resume", "prerenderingchange"]);

/** A page with the tag pasted. */
class Page {
  readonly clock: Clock;
  readonly storage: Record<string, string>;
  readonly requests: Request[] = [];
  readonly sockets: FakeSocket[] = [];
  readonly events: Detail[] = [];
  readonly warnings: string[] = [];
  readonly window: Window;
  readonly #scope: Record<string, unknown>;
  answer: Answer;
  random: number;

  constructor(setup: Setup = {}) {
    this.clock = setup.clock ?? new Clock();
    this.storage = setup.storage ?? {};
    this.answer = setup.answer ?? service();
    this.random = setup.random ?? 0.5;
    this.window = new Window({ url: setup.url ?? "https://site.example/page" });
    const { window, document, clock, requests, sockets, warnings } = this;
    this.#scope = {
      window,
      document,
      location: window.location,
      history: window.history,
      navigator: setup.navigator ?? {},
      localStorage: this.storage,
      addEventListener: window.addEventListener.bind(window),
      CustomEvent: window.CustomEvent,
      setTimeout: clock.setTimeout,
      clearTimeout: clock.clearTimeout,
      Date: { now: () => clock.now },
      Math: Object.assign(Object.create(Math), { random: () => this.random }),
      console: { warn: (text: string) => warnings.push(text) },
      fetch: (url: string, init: RequestInit) => {
        const request = { url, init, body: typeof init.body === "string" ? JSON.parse(init.body) : undefined };
        requests.push(request);
        const answered = (async () => this.answer(request))();
        return Promise.race([answered, rejectOnAbort(init.signal)]);
      },
      WebSocket: class extends FakeSocket {
        constructor(url: string) {
          super(url);
          sockets.push(this);
        }
      },
    };
    document.documentElement.lang = setup.lang ?? "en";
    document.body.innerHTML = setup.html ?? "<p><span data-headcount>–</span> here</p>";
    document.addEventListener("headcount", (event) => void this.events.push((event as unknown as CustomEvent).detail));
    this.set("hidden", setup.hidden ?? false);
    this.set("prerendering", setup.prerendering ?? false);
    this.paste(setup.tag);
  }

  /** A page whose token was granted, and whose socket waits to be opened. */
  static async open(setup?: Setup): Promise<Page> {
    const page = new Page(setup);
    await settle();
    return page;
  }

  /** A page that shows its number. */
  static async live(setup?: Setup): Promise<Page> {
    const page = await Page.open(setup);
    page.socket.open();
    return page;
  }

  get document() {
    return this.window.document;
  }
  get socket(): FakeSocket {
    return this.sockets.at(-1)!;
  }
  get sent(): unknown[] {
    return this.socket.sent;
  }
  get tokens(): Request[] {
    return this.requests.filter(({ url }) => url.endsWith("/token"));
  }
  get polls(): Request[] {
    return this.requests.filter(({ url }) => url.includes("/count?"));
  }

  /** Text and state of the first target, such as "12 live". */
  get shown(): string {
    const target = this.document.querySelector("[data-headcount]")!;
    return `${target.textContent} ${target.getAttribute("data-headcount-state")}`;
  }
  get texts(): string[] {
    return [...this.document.querySelectorAll("[data-headcount]")].map(({ textContent }) => textContent);
  }

  set(name: "hidden" | "prerendering" | "currentScript", value: unknown): void {
    Object.defineProperty(this.document, name, { value, configurable: true });
  }

  /** Runs the script as a browser does when it has loaded it for this tag. */
  paste(tag = TAG): void {
    const holder = this.document.createElement("div");
    holder.innerHTML = tag;
    this.set("currentScript", holder.firstChild);
    // oxlint-disable-next-line no-new-func, typescript/no-implied-eval -- nothing else gives a script other globals
    new Function(...Object.keys(this.#scope), code)(...Object.values(this.#scope));
    this.set("currentScript", null);
  }

  /** Something happens to the page. */
  async happen(type: string, properties: object = {}): Promise<void> {
    const event = Object.assign(new this.window.Event(type), properties);
    (AT_DOCUMENT.has(type) ? this.document : this.window).dispatchEvent(event);
    await settle();
  }

  async hide(hidden = true): Promise<void> {
    this.set("hidden", hidden);
    await this.happen("visibilitychange");
  }

  /** How long it takes until the next token is asked for, in milliseconds; Infinity when that is never. */
  async wait(limitMs = 7 * DAY): Promise<number> {
    const { now } = this.clock;
    const { length } = this.tokens;
    await this.clock.advance(limitMs, () => this.tokens.length > length);
    return this.tokens.length > length ? this.clock.now - now : Infinity;
  }

  /** Three sockets in a row that come to nothing. */
  async failThrice(): Promise<void> {
    for (let attempt = 0; attempt < 3; attempt++) {
      this.socket.drop();
      if (attempt < 2) await this.wait();
    }
  }
}

// ── The number ──────────────────────────────────────────────────────────────────────────────────────────────────────

describe("widget", () => {
  test("widget: keeps the author's text until the first number", async () => {
    const page = await Page.open();
    expect(page.shown).toBe("– connecting");
    page.socket.open();
    expect(page.shown).toBe("12 live");
    page.socket.frame({ site: 13 });
    expect(page.shown).toBe("13 live");
  });

  test("widget: a number that is not known yet keeps its author's text", async () => {
    const page = await Page.open({ html: "<b data-headcount>?</b> <b data-headcount=peak>no peak</b>" });
    page.socket.open({ site: 1 });
    expect(page.texts).toEqual(["1", "no peak"]);
    page.socket.frame({ peak: 40 });
    expect(page.texts).toEqual(["1", "40"]);
  });

  test("widget: each element chooses its number", async () => {
    const kinds = ["", "site", "page", "peak", "read", "other"];
    const page = await Page.open({ html: kinds.map((kind) => `<b data-headcount="${kind}">–</b>`).join("") });
    page.socket.open({ site: 12, page: 3, peak: 40, read: 154 });
    expect(page.texts).toEqual(["12", "12", "3", "40", "3 min", "–"]);
  });

  test("widget: numbers are written in the page's language", async () => {
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

  test("widget: a wrong language tag does not stop it", async () => {
    const page = await Page.open({ html: "<b data-headcount>–</b><b data-headcount=read>–</b>", lang: "en_US" });
    page.socket.open({ site: 12_345, read: 600 });
    expect(page.texts).toEqual(["12,345", "10 min"]);
  });

  test("widget: reading time is at least a minute", async () => {
    const page = await Page.open({ html: "<b data-headcount=read>–</b>" });
    page.socket.open({ read: 4 });
    expect(page.texts).toEqual(["1 min"]);
  });

  test("widget: finds elements that were added later", async () => {
    const page = await Page.live();
    page.document.body.innerHTML += "<i data-headcount=page>?</i>";
    page.socket.frame({ site: 14 });
    expect(page.texts).toEqual(["14", "3"]);
  });

  test("widget: finds elements that were parsed after the last frame", async () => {
    const page = await Page.live({ html: "" });
    page.document.body.innerHTML = "<b data-headcount>–</b>";
    await page.happen("pageshow", { persisted: false });
    expect(page.shown).toBe("12 live");
    expect(page.tokens).toHaveLength(1);
  });

  test("widget: writes text, and only when it differs", async () => {
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

  test("widget: every update and every change of state is an event", async () => {
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

  test("widget: a lost connection makes the number stale at once, and a new one live", async () => {
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

  test("widget: after two minutes stale the author's text returns, however often it tried", async () => {
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

  test("widget: the author's text survives a framework that caches copies of the page", async () => {
    const page = await Page.live();
    const original = page.document.querySelector("p")!;
    original.replaceWith(original.cloneNode(true));
    page.socket.frame({ site: 14 });
    page.answer = offline;
    page.socket.drop();
    await page.clock.advance(2 * MINUTE);
    expect(page.shown).toBe("– stale");
  });

  test("widget: while the service has lost its engine, the number is kept but not shown as live", async () => {
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

  test("widget: a number that was stale already still goes when the connection is lost, too", async () => {
    const page = await Page.live();
    page.socket.frame({ site: 13, stale: true });
    page.answer = offline;
    page.socket.drop();
    expect(page.shown).toBe("13 stale");
    await page.clock.advance(2 * MINUTE);
    expect(page.shown).toBe("– stale");
  });

  // ── The connection ────────────────────────────────────────────────────────────────────────────────────────────────

  test("widget: asks for a token without preflight, and opens the socket with it", async () => {
    const page = await Page.open();
    const [{ url, init, body } = {} as never] = page.tokens;
    expect(url).toBe("https://count.example/token");
    expect(init).toMatchObject({ method: "POST", credentials: "include" });
    expect(init.headers).toBeUndefined(); // a text body and no header: a simple request
    expect(body).toEqual({ page: "/page" });
    expect(page.socket.url).toBe("wss://count.example/ws?token=a.token");
  });

  test.each([
    ['src="https://count.example/widget.js"', "https://count.example/"],
    ['src="https://count.example/widget.js?v=a/b"', "https://count.example/"],
    ['src="https://site.example/count/widget.js"', "https://site.example/count/"],
    ['src="https://cdn.example/w.js" data-server="https://count.example"', "https://count.example/"],
    ['src="https://cdn.example/w.js" data-server="https://count.example/base"', "https://count.example/base/"],
    ['src="https://cdn.example/w.js" data-server="http://localhost:3000/base/"', "http://localhost:3000/base/"],
    ['data-server="https://count.example"', "https://count.example/"], // inline, without src
  ])("widget: %s is served by %s", async (attributes, server) => {
    const page = await Page.open({ tag: `<script ${attributes}></script>` });
    expect(page.requests[0]!.url).toBe(`${server}token`);
    expect(page.socket.url).toBe(`${server.replace("http", "ws")}ws?token=a.token`);
  });

  test("widget: leaves quietly without a script of its own", () => {
    const page = new Page({ tag: "" });
    expect(page.requests).toEqual([]);
    expect(page.events).toEqual([]);
  });

  test("widget: waits with full jitter, twice as long each time, up to a minute", async () => {
    const page = await Page.open({ random: 1 });
    page.answer = offline;
    page.socket.drop();
    for (const seconds of [1, 2, 4, 8, 16, 32, 60]) expect(await page.wait()).toBe(seconds * SECOND);
    page.random = 0.25;
    expect(await page.wait()).toBe(60 * SECOND); // drawn before
    expect(await page.wait()).toBe(15 * SECOND);
  });

  test("widget: never comes back sooner than after 250 ms", async () => {
    const page = await Page.open({ random: 0 });
    page.socket.drop();
    expect(await page.wait()).toBe(250);
  });

  test("widget: each attempt has a fresh token", async () => {
    const page = await Page.open();
    page.answer = () => Response.json({ token: "another" });
    page.socket.drop();
    await page.wait();
    expect(page.socket.url).toEndWith("?token=another");
  });

  test("widget: the backoff starts anew after ten seconds of uptime, and not before", async () => {
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

  test("widget: a token request that hangs is given up after ten seconds", async () => {
    const page = await Page.open({ answer: hang, random: 1 });
    const { signal } = page.tokens[0]!.init;
    await page.clock.advance(10 * SECOND - 1);
    expect(signal!.aborted).toBe(false);
    page.answer = service();
    expect(await page.wait()).toBe(1 + 1 * SECOND);
    expect(signal!.aborted).toBe(true);
  });

  test("widget: a socket that does not open, or stays silent, is given up after ten seconds", async () => {
    const page = await Page.open({ random: 1 });
    const [first] = page.sockets;
    expect(await page.wait()).toBe(10 * SECOND + 1 * SECOND);
    expect(first!.readyState).toBe(2);
    page.socket.readyState = 1;
    page.socket.onopen?.(); // but no frame
    expect(await page.wait()).toBe(10 * SECOND + 2 * SECOND);
    expect(page.socket.readyState).toBe(0);
  });

  test("widget: what a given-up socket still does is of no effect", async () => {
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

  test("widget: close 1012 spreads the pages over its window", async () => {
    const page = await Page.live({ random: 1 });
    page.socket.drop(1012, "8");
    expect(page.shown).toBe("12 stale");
    expect(await page.wait()).toBe(8 * SECOND);
    page.random = 0.25;
    page.socket.open();
    page.socket.drop(1012, "8");
    expect(await page.wait()).toBe(2 * SECOND);
  });

  test.each(["", "soon"])("widget: close 1012 without a window (%p) means the usual backoff", async (reason) => {
    const page = await Page.live({ random: 1 });
    page.socket.drop(1012, reason);
    expect(await page.wait()).toBe(1 * SECOND);
  });

  test("widget: close 1013 means thirty seconds at least", async () => {
    const page = await Page.live({ random: 0 });
    page.socket.drop(1013);
    expect(await page.wait()).toBe(30 * SECOND);
    page.random = 1;
    page.socket.open();
    page.socket.drop(1013);
    expect(await page.wait()).toBe(32 * SECOND);
  });

  test.each([429, 503])("widget: HTTP %d means the time of Retry-After at least", async (status) => {
    const page = await Page.open({ answer: () => refuse(status, { "Retry-After": "45" }), random: 0 });
    page.random = 1;
    expect(await page.wait()).toBe(45 * SECOND);
    expect(await page.wait()).toBe(47 * SECOND);
    expect(page.warnings).toEqual([]);
  });

  test("widget: an absurd Retry-After overflows no timer", async () => {
    const page = await Page.open({ answer: () => refuse(503, { "Retry-After": "31536000" }) });
    expect(await page.wait()).toBe(DAY);
  });

  test("widget: a Retry-After that is a date, and any other error, means the usual backoff", async () => {
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

  test("widget: HTTP 403 stops it, and it says why, once", async () => {
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
    expect(page.warnings).toEqual(["Headcount: Not on this site: evil.example is not in SITES"]);
    expect(page.shown).toBe("– stale");
  });

  test("widget: HTTP 403 without a problem document stops it all the same", async () => {
    const page = await Page.open({ answer: () => new Response("<h1>Forbidden</h1>", { status: 403 }) });
    expect(await page.wait()).toBe(Infinity);
    expect(page.warnings).toEqual(["Headcount: 403: https://count.example/"]);
  });

  test("widget: an error without close is a CSP: it says so once, and stops", async () => {
    const page = await Page.open();
    page.socket.readyState = 3;
    page.socket.onerror!();
    await page.clock.advance(DAY);
    expect(page.warnings).toEqual(["Headcount: blocked by CSP"]);
    expect(page.tokens).toHaveLength(1);
    expect(page.shown).toBe("– connecting");
  });

  test("widget: an error with close is nothing but a loss", async () => {
    const page = await Page.open();
    page.socket.onerror!();
    await page.clock.advance(SECOND / 2);
    page.socket.drop(1005);
    await page.wait();
    page.socket.open();
    await page.clock.advance(5 * SECOND);
    expect(page.warnings).toEqual([]);
    expect(page.shown).toBe("12 live");
  });

  // ── Without sockets ───────────────────────────────────────────────────────────────────────────────────────────────

  test("widget: after three sockets that failed in a row it asks over HTTP, every 30 s", async () => {
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

  test("widget: while it polls it tries a socket now and then, and a live connection returns", async () => {
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

  test("widget: a poll that fails makes the number stale", async () => {
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

  test("widget: a poll that hangs makes the number stale", async () => {
    const page = await Page.open();
    await page.failThrice();
    await page.wait();
    page.socket.drop();
    page.answer = hang;
    await page.clock.advance(40 * SECOND);
    expect(page.shown).toBe("7 stale");
  });

  test("widget: sockets that fail while HTTP fails, too, are no reason to poll", async () => {
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

  test("widget: one live socket in between, and the failures are counted anew", async () => {
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

  test("widget: polls for the page that it is on", async () => {
    const page = await Page.open();
    await page.failThrice();
    await page.wait();
    page.socket.drop();
    page.window.history.pushState(null, "", "/next page");
    await page.clock.advance(30 * SECOND);
    expect(page.polls.at(-1)!.url).toEndWith("?page=%2Fnext%2520page");
  });

  // ── The page's life ───────────────────────────────────────────────────────────────────────────────────────────────

  test("widget: a connection that is silent for 75 s is replaced", async () => {
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

  test.each(["visibilitychange", "resume", "online"])(
    "widget: %s finds a connection that died asleep",
    async (type) => {
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
    },
  );

  test("widget: online ends a long backoff, but not a Retry-After", async () => {
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

  test("widget: leaves at pagehide, and is back at a pageshow from the bfcache", async () => {
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

  test("widget: gives its token request up at pagehide", async () => {
    const page = await Page.open({ answer: hang });
    await page.happen("pagehide");
    expect(page.tokens[0]!.init.signal!.aborted).toBe(true);
    expect(await page.wait()).toBe(Infinity);
  });

  test("widget: a page that is left while it waits to come back does not", async () => {
    const page = await Page.live();
    page.socket.drop();
    await page.happen("pagehide");
    page.clock.sleep(1);
    await page.hide();
    expect(await page.wait()).toBe(Infinity);
  });

  test("widget: a token that comes after pagehide opens nothing", async () => {
    let release = () => {};
    const locks = new FakeLocks();
    locks.request = async (_name, _options, callback) => {
      const token = await callback();
      await new Promise<void>((resolve) => void (release = resolve)); // a lock is given back a task later
      return token;
    };
    const page = await Page.open({ navigator: { locks } });
    await page.happen("pagehide");
    release();
    await settle();
    expect(page.sockets).toEqual([]);
  });

  test("widget: polling ends at pagehide, too", async () => {
    const page = await Page.open();
    await page.failThrice();
    await page.wait();
    await page.happen("pagehide", { persisted: true });
    expect(page.shown).toBe("7 stale");
    const { length } = page.polls;
    await page.clock.advance(5 * MINUTE);
    expect(page.polls).toHaveLength(length);
  });

  test("widget: a prerendered page is nobody until it is shown", async () => {
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

  test("widget: pasted twice, there is still one socket", async () => {
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

  test("widget: loaded again by a view transition, it fills the new elements and follows the new tag", async () => {
    const page = await Page.live({ tag: TAG.replace("src", "data-page=/one src") });
    page.document.body.innerHTML = "<b data-headcount>?</b>";
    page.paste(TAG.replace("src", "data-page=/two src"));
    expect(page.shown).toBe("12 live");
    expect(page.sockets).toHaveLength(1);
    expect(page.sent).toEqual([{ page: "/two" }]);
  });

  test("widget: an element that is called headcount is not in the way", async () => {
    const page = await Page.open({ html: "<b id=headcount data-headcount>–</b>" });
    expect(page.tokens).toHaveLength(1);
  });

  // ── The view ──────────────────────────────────────────────────────────────────────────────────────────────────────

  test("widget: a page that changes says so over the open socket, when its name is another one", async () => {
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

  test("widget: the hash is part of the page with data-hash, and only then", async () => {
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

  test("widget: data-page names the page", async () => {
    const page = await Page.live({ tag: TAG.replace("src", "data-page=/article src") });
    expect(page.tokens[0]!.body!.page).toBe("/article");
    page.window.history.pushState(null, "", "/next");
    expect(page.sent).toEqual([]);
  });

  test("widget: numbers of the old page are not shown on the new one", async () => {
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

  test("widget: nor after a page that changed while there was no connection", async () => {
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

  test("widget: a page that changed while it connected says so once it is open", async () => {
    const page = await Page.open();
    page.window.history.pushState(null, "", "/next");
    expect(page.sent).toEqual([]);
    page.socket.open();
    expect(page.sent).toEqual([{ page: "/next" }]);
  });

  test("widget: a reader is active until there was no input for a minute", async () => {
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

  test("widget: hears an element scroll, whose event does not bubble", async () => {
    const page = await Page.live({ html: "<div></div><b data-headcount></b>" });
    await page.clock.advance(MINUTE);
    page.document.querySelector("div")!.dispatchEvent(new page.window.Event("scroll", { bubbles: false }));
    expect(page.sent).toEqual([{ active: false }, { active: true }]);
  });

  test("widget: a hidden page has no active reader", async () => {
    const page = await Page.live();
    await page.hide();
    expect(page.sent).toEqual([{ active: false }]);
    await page.hide(false);
    expect(page.sent).toEqual([{ active: false }, { active: true }]);
  });

  test("widget: a page that opens hidden says so", async () => {
    const page = await Page.live({ hidden: true });
    expect(page.sent).toEqual([{ active: false }]);
  });

  test("widget: an idle reader stays idle over a new page and a new connection, which both start active", async () => {
    const page = await Page.live();
    await page.hide();
    page.window.history.pushState(null, "", "/next");
    expect(page.sent).toEqual([{ active: false }, { page: "/next" }, { active: false }]);
    page.socket.drop();
    await page.wait();
    page.socket.open();
    expect(page.sent).toEqual([{ active: false }]);
  });

  // ── The visitor ───────────────────────────────────────────────────────────────────────────────────────────────────

  test("widget: keeps the visitor's id for browsers that drop cookies, and sends it back", async () => {
    const page = await Page.open();
    expect(page.storage).toEqual({ "headcount:https://count.example/": "a.visitor" });
    const { storage } = page;
    expect((await Page.open({ storage })).tokens[0]!.body!.visitor).toBe("a.visitor");
    const other = await Page.open({ storage, tag: TAG.replace("count.example", "other.example") });
    expect(other.tokens[0]!.body!.visitor).toBeUndefined();
  });

  test("widget: works where storage is forbidden", async () => {
    const refused = () => {
      throw new DOMException("denied", "SecurityError");
    };
    const page = await Page.live({ storage: new Proxy({}, { get: refused, set: refused }) });
    expect(page.shown).toBe("12 live");
  });

  test("widget: keeps nothing when the service sends no id", async () => {
    const page = await Page.live({ answer: () => Response.json({ token: "a.token" }) });
    expect(page.storage).toEqual({});
    expect(page.shown).toBe("12 live");
  });

  test("widget: with data-observe or Global Privacy Control it asks not to be counted", async () => {
    const observer = await Page.live({ tag: TAG.replace("src", "data-observe src") });
    expect(observer.tokens[0]!.body!.observe).toBe(true);
    expect(observer.shown).toBe("12 live");
    const signalled = await Page.live({ navigator: { globalPrivacyControl: true } });
    expect(signalled.tokens[0]!.body!.observe).toBe(true);
  });

  test("widget: tabs that a new visitor opens in one instant get one id", async () => {
    const shared = { clock: new Clock(), storage: {}, navigator: { locks: new FakeLocks() } };
    let ids = 0;
    const answer = async ({ body }: Request) => {
      const visitor = body?.visitor ?? `visitor ${++ids}`; // as the service does; before the answer is on its way
      await settle();
      return Response.json({ token: "t", visitor });
    };
    const tabs = [1, 2, 3].map(() => new Page({ ...shared, answer }));
    for (let turn = 0; turn < 20; turn++) await settle();
    expect(tabs.map(({ sockets }) => sockets.length)).toEqual([1, 1, 1]);
    expect(tabs.map(({ tokens }) => tokens[0]!.body!.visitor)).toEqual([undefined, "visitor 1", "visitor 1"]);
    expect(ids).toBe(1);
  });

  test("widget: a tab whose request hangs keeps the others waiting for ten seconds at most", async () => {
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

  test("widget: gives up waiting for its turn after ten seconds, and asks nothing when its turn comes late", async () => {
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

  test("widget: a known visitor takes no lock", async () => {
    const locks = new FakeLocks();
    await Page.open({ navigator: { locks }, storage: { "headcount:https://count.example/": "a.visitor" } });
    expect(locks.taken).toBe(0);
    await Page.open({ navigator: { locks } });
    expect(locks.taken).toBe(1);
  });
});
