/**
 * The widget as it ships, bundled and minified, in a happy-dom window: all that it touches of the browser comes in as
 * an argument, so that the clock, randomness, network and sockets are the test's own, and a minute takes no time.
 */
import { expect, test } from "bun:test";
import { type HTMLElement, Window } from "happy-dom";
import { browser } from "../build.ts";

const code = browser("widget/widget.ts");
const SECOND = 1000;
const MINUTE = 60 * SECOND;

// ---- The fake browser ----

/** Time that moves only when told to. `advance` runs the timers that come due; `sleep` does not, like a closed lid. */
class Clock {
  now = Date.parse("2026-11-22T12:00:00Z");
  #lastId = 0;
  readonly #timers = new Map<number, { at: number; run: () => void }>();

  readonly setTimeout = (run: () => void, ms = 0): number => {
    // As browsers do it: the delay is a signed 32-bit integer.
    this.#timers.set(++this.#lastId, { at: this.now + Math.max(0, ms | 0), run });
    return this.#lastId;
  };
  readonly clearTimeout = (id: number): void => void this.#timers.delete(id);

  async advance(ms: number): Promise<void> {
    const end = this.now + ms;
    await settle();
    for (let due = this.#next(end); due !== undefined; due = this.#next(end)) {
      const [id, { at, run }] = due;
      this.now = Math.max(this.now, at);
      this.#timers.delete(id);
      run();
      // oxlint-disable-next-line no-await-in-loop -- one timer after the other is the point
      await settle();
    }
    this.now = end;
  }

  sleep(ms: number): void {
    this.now += ms;
  }

  #next(end: number) {
    return [...this.#timers].filter(([, { at }]) => at <= end).toSorted(([, a], [, b]) => a.at - b.at)[0];
  }
}

/** Lets all promises that can settle do so. */
const settle = () => new Promise<void>((resolve) => void setImmediate(resolve));

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
  frame(frame: object): void {
    if (this.readyState === 1) this.onmessage?.({ data: JSON.stringify(frame) });
  }
  drop(code = 1006, reason = ""): void {
    this.readyState = 3;
    if (code === 1006) this.onerror?.();
    this.onclose?.({ code, reason });
  }
}

/** Web Locks: one holder at a time for each name, the others wait in line. */
class FakeLocks {
  requests = 0;
  #tail: Promise<unknown> = Promise.resolve();

  request(_name: string, { signal }: { signal: AbortSignal }, callback: () => Promise<unknown>): Promise<unknown> {
    this.requests++;
    const turn = this.#tail;
    const aborted = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => reject(new DOMException("aborted", "AbortError")));
    });
    const held = (async () => {
      await turn;
      if (!signal.aborted) return callback();
      throw new DOMException("aborted", "AbortError");
    })();
    this.#tail = held.catch(() => undefined);
    return Promise.race([held, turn.then(() => held), aborted]);
  }
}

interface Request {
  path: string;
  method: string;
  body: { page?: string; observe?: boolean; visitor?: string } | undefined;
  init: RequestInit;
}
type Answer = (request: Request) => Response | Promise<Response>;

const json = (body: object, init?: ResponseInit) => Response.json(body, init);
const refusal = (status: number, headers: Record<string, string> = {}) =>
  json(
    { type: "urn:x", title: "Origin not allowed", status, detail: "evil.example is not one of SITES" },
    { status, headers },
  );
const hang = () => new Promise<Response>(() => {});

const answers: Answer = ({ path }) =>
  path.startsWith("/token") ? json({ token: "a.token", visitor: "a.visitor" }) : json({ site: 7, page: 2, peak: 9 });

interface Setup {
  html?: string;
  lang?: string;
  url?: string;
  tag?: string;
  answer?: Answer;
  random?: number;
  clock?: Clock;
  storage?: Record<string, string>;
  navigator?: object;
  hidden?: boolean;
  prerendering?: boolean;
}

/** A page with the tag pasted, right after its script ran. */
class Page {
  static open(setup: Setup = {}): Promise<Page> {
    const page = new Page(setup);
    page.paste(setup.tag);
    return settle().then(() => page);
  }

  readonly window: Window;
  readonly clock: Clock;
  readonly storage: Record<string, string>;
  readonly requests: Request[] = [];
  readonly sockets: FakeSocket[] = [];
  readonly events: { site?: number; page?: number; peak?: number; read?: number; state: string }[] = [];
  readonly warnings: string[] = [];
  answer: Answer;
  random: number;
  readonly #navigator: object;

  constructor(setup: Setup) {
    const {
      html = "<p><span data-headcount>–</span> here</p>",
      url = "https://site.example/page",
      lang = "en",
    } = setup;
    this.window = new Window({ url });
    this.document.documentElement.lang = lang;
    this.document.body.innerHTML = html;
    this.document.addEventListener("headcount", (event) => {
      this.events.push((event as unknown as CustomEvent).detail);
    });
    this.clock = setup.clock ?? new Clock();
    this.storage = setup.storage ?? {};
    this.answer = setup.answer ?? answers;
    this.random = setup.random ?? 0.5;
    this.#navigator = setup.navigator ?? {};
    this.hidden = setup.hidden ?? false;
    this.prerendering = setup.prerendering ?? false;
  }

  get document() {
    return this.window.document;
  }
  get target(): HTMLElement {
    return this.document.querySelector("[data-headcount]") as HTMLElement;
  }
  get text() {
    return this.target.textContent;
  }
  get state() {
    return this.target.dataset["headcountState"];
  }
  get socket(): FakeSocket {
    return this.sockets.at(-1)!;
  }
  get tokens() {
    return this.requests.filter(({ path }) => path.startsWith("/token"));
  }
  get polls() {
    return this.requests.filter(({ path }) => path.startsWith("/count"));
  }
  set hidden(value: boolean) {
    Object.defineProperty(this.document, "hidden", { value, configurable: true });
  }
  set prerendering(value: boolean) {
    Object.defineProperty(this.document, "prerendering", { value, configurable: true });
  }

  /** Runs the script as the browser does when it meets the tag. */
  paste(tag = '<script src="https://count.example/widget.js"></script>'): void {
    const holder = this.document.createElement("div");
    holder.innerHTML = tag;
    Object.defineProperty(this.document, "currentScript", { value: holder.firstChild, configurable: true });
    const { window, document, clock } = this;
    const scope = {
      window,
      document,
      location: window.location,
      history: window.history,
      navigator: this.#navigator,
      localStorage: this.storage,
      addEventListener: window.addEventListener.bind(window),
      CustomEvent: window.CustomEvent,
      setTimeout: clock.setTimeout,
      clearTimeout: clock.clearTimeout,
      Date: { now: () => clock.now },
      Math: Object.assign(Object.create(Math), { random: () => this.random }),
      console: { warn: (text: string) => this.warnings.push(text) },
      fetch: (url: string, init: RequestInit = {}) => this.#fetch(url, init),
      WebSocket: this.#FakeSocket,
    };
    // oxlint-disable-next-line no-new-func, no-implied-eval -- the only way to give a script other globals
    new Function(...Object.keys(scope), code)(...Object.values(scope));
    Object.defineProperty(this.document, "currentScript", { value: null, configurable: true });
  }

  readonly #FakeSocket = ((sockets) =>
    class extends FakeSocket {
      constructor(url: string) {
        super(url);
        sockets.push(this);
      }
    })(this.sockets);

  #fetch(url: string, init: RequestInit): Promise<Response> {
    const body = typeof init.body === "string" ? JSON.parse(init.body) : undefined;
    const request = { path: url.replace(/^.*\/(?=token|count)/, "/"), url, method: init.method ?? "GET", body, init };
    this.requests.push(request);
    const aborted = new Promise<never>((_, reject) => {
      init.signal?.addEventListener("abort", () => reject(new DOMException("aborted", "AbortError")));
    });
    return Promise.race([(async () => this.answer(request))(), aborted]);
  }

  /** Something that happens to the page, at its window or its document. */
  async happen(type: string, properties: object = {}): Promise<void> {
    const event = new this.window.Event(type, { bubbles: false });
    const target = ["visibilitychange", "resume", "prerenderingchange"].includes(type) ? this.document : this.window;
    target.dispatchEvent(Object.assign(event, properties));
    await settle();
  }
  async hide(hidden = true): Promise<void> {
    this.hidden = hidden;
    await this.happen("visibilitychange");
  }

  /** The number of token requests after `ms` more. */
  async tokensAfter(ms: number): Promise<number> {
    await this.clock.advance(ms);
    return this.tokens.length;
  }

  /** The wait, in milliseconds, until the next token is asked for: found to the millisecond. */
  async waited(atMost = 100 * SECOND): Promise<number> {
    const before = this.tokens.length;
    const start = this.clock.now;
    // oxlint-disable-next-line no-await-in-loop -- time passes in steps
    for (let ms = 0; ms < atMost && this.tokens.length === before; ms += 10) await this.clock.advance(10);
    return this.clock.now - start;
  }
}
