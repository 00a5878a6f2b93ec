/**
 * A browser for the widget, and for the scripts around it, as they ship, bundled and minified, in a happy-dom window. All
 * that they touch of a browser is an argument: the clock, randomness, network and sockets belong to the test, so a minute
 * takes no time.
 */
import { Window } from "happy-dom";
import { browser } from "../../build.ts";

const codes: Record<string, string> = {};
const codeOf = (script: string) => (codes[script] ??= browser(`widget/${script}.ts`));
export const SECOND = 1000;
export const MINUTE = 60 * SECOND;
export const DAY = 24 * 60 * MINUTE;

// ── The fake browser ────────────────────────────────────────────────────────────────────────────────────────────────

/** Lets every promise that can settle do so. */
export const settle = async () => {
  for (let turn = 0; turn < 3; turn++) await new Promise<void>((resolve) => void setImmediate(resolve));
};

/** Time that moves only when told to: `advance` runs the timers that come due, `sleep` runs none, like a closed lid. */
export class Clock {
  now = Date.parse("2026-11-22T12:00:00Z");
  #lastId = 0;
  readonly #timers = new Map<number, { at: number; run: () => void }>();

  readonly setTimeout = <Words extends unknown[]>(run: (...words: Words) => void, ms = 0, ...words: Words): number => {
    const at = this.now + Math.max(0, ms | 0); // 32 bits, as in browsers
    this.#timers.set(++this.#lastId, { at, run: () => run(...words) });
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

export class FakeSocket {
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
export class FakeLocks {
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

export interface Request {
  readonly url: string;
  readonly init: RequestInit;
  readonly body: { page: string; again?: boolean; observe?: boolean; visitor?: string } | undefined;
}

export type Answer = (request: Request) => Response | Promise<Response>;

/** What the service answers when all is well, with each request seen first by `instead`. */
export const service =
  (instead: (path: string) => Response | Promise<Response> | undefined = () => undefined): Answer =>
  ({ url, body }) =>
    instead(url.slice("https://count.example/".length)) ??
    (url.includes("/count?")
      ? Response.json({ site: 7, page: 2, peak: 9 })
      : Response.json({ token: "a.token", ...(!body?.observe && { visitor: "a.visitor" }) })); // an observer gets no id

export const refuse = (status: number, headers = {}) =>
  Response.json({ title: "Not on this site", status, detail: "evil.example is not in SITES" }, { status, headers });
export const hang = () => new Promise<Response>(() => {});
export const offline = () => Promise.reject(new TypeError("Failed to fetch"));

export interface Setup {
  html?: string;
  lang?: string;
  url?: string;
  tag?: string;
  answer?: Answer;
  random?: number;
  clock?: Clock;
  storage?: Record<string, string>;
  navigator?: { locks?: FakeLocks; globalPrivacyControl?: boolean };
  /** As in Firefox and WebKit, when a policy forbids the socket. */
  throwingSocket?: boolean;
  hidden?: boolean;
  prerendering?: boolean;
}

type Detail = { state: string; [number: string]: unknown };

export const TAG = '<script async src="https://count.example/widget.js"></script>';
const AT_DOCUMENT = new Set(["visibilitychange", "resume", "prerenderingchange"]);

/** A page with the tag pasted. */
export class Page {
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
      MutationObserver: window.MutationObserver,
      setTimeout: clock.setTimeout,
      clearTimeout: clock.clearTimeout,
      Date: { now: () => clock.now },
      Math: Object.assign(Object.create(Math), { random: () => this.random }),
      console: { warn: (...words: string[]) => warnings.push(words.join(" ")) },
      fetch: (url: string, init: RequestInit = {}) => {
        const request = { url, init, body: typeof init.body === "string" ? JSON.parse(init.body) : undefined };
        requests.push(request);
        const answered = (async () => this.answer(request))();
        return Promise.race([answered, rejectOnAbort(init.signal)]);
      },
      WebSocket: class extends FakeSocket {
        constructor(url: string) {
          super(url);
          if (setup.throwingSocket) throw new DOMException("The operation is insecure.", "SecurityError");
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

  /** Runs the script that the tag names as a browser does when it has loaded it. */
  paste(tag = TAG): void {
    const holder = this.document.createElement("div");
    holder.innerHTML = tag;
    const code = codeOf(/(busuanzi|list)\.js/.exec(tag)?.[1] ?? "widget");
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

  /** The Content-Security-Policy of the page forbids this address. */
  violate(blockedURI: string, disposition = "enforce"): Promise<void> {
    return this.happen("securitypolicyviolation", { blockedURI, disposition });
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
