/**
 * The widget: what the pasted `<script>` runs. It keeps the number in each `[data-headcount]` element true.
 *
 * Each try to connect is an *attempt*: a token by `POST /token`, a socket opened with it, a first frame. All of it hangs
 * on the attempt's AbortController: request, lock and socket end when it is aborted, and whatever still comes in finds
 * it aborted. One timer carries the connection from step to step: 10 s for an attempt, 75 s after each frame, the
 * backoff after a loss. The deadline says the same by the clock, for a page that slept through its timers.
 *
 * Every byte is paid by every visitor of every site: build.ts prints the size and holds it under the budget.
 */
import type { HeadcountDetail, HeadcountState } from "./headcount.d.ts";

type Counts = Omit<HeadcountDetail, "state">;
/** What the service sends: any of the numbers, and `stale` while it has lost its engine. */
type Frame = Counts & { stale?: boolean };

const CONNECT_MS = 10_000; // token, upgrade and first frame together
const FRESH_MS = 75_000; // the service repeats its count every 30 s: two repeats missed
const UPTIME_MS = 10_000; // a connection that lasted this long starts the backoff anew
const MIN_WAIT_MS = 250;
const MAX_BACKOFF_MS = 60_000;
const FULL_WAIT_MS = 30_000; // at least, after close 1013
const MAX_WAIT_MS = 86_400_000; // whatever Retry-After says: past 24 days setTimeout overflows, and fires at once
const BLOCKED_MS = 1000; // `close` follows `error` at once, unless a CSP forbade the socket (measured in Chromium 156)
const SOCKET_FAILURES = 3; // in a row, then the number is polled
const POLL_MS = 30_000;
const POLL_TURNS = 4; // three polls and one more socket
const STALE_MS = 120_000; // a number that has been stale for longer says nothing any more
const IDLE_MS = 60_000; // without input, until the reader is no longer active

/** Where a second widget finds the one that runs. A symbol, because any element's `id` is a property of `window`. */
const RUNNING = Symbol.for("headcount");

declare global {
  interface Window {
    [RUNNING]?: (script: HTMLScriptElement) => void;
  }
  interface Navigator {
    readonly globalPrivacyControl?: boolean;
  }
  interface Document {
    readonly prerendering?: boolean;
  }
}

function headcount(script: HTMLScriptElement) {
  const base = (script.dataset.server ?? ".").replace(/\/*$/, "/");
  const server = new URL(base, script.src || location.href).href;
  const observe = "observe" in script.dataset || navigator.globalPrivacyControl;
  const key = "headcount:" + server;

  // What is shown
  let counts: Counts = {};
  let state: HeadcountState = "connecting";
  let expiry = -1; // timer that takes a stale number away; 0: the number is confirmed; -1: there was none yet

  // The connection
  let attempt = new AbortController();
  let socket: WebSocket | undefined;
  let timer = 0;
  let deadline = Infinity; // a page that wakes up later than this connects anew
  let losses = 0; // exponent of the backoff
  let failures = 0; // attempts in a row that got a token, but no frame

  // The view
  let page: string; // as the service was last told
  let active: boolean; // as the service was last told
  let present: boolean; // visible, with some input lately
  let idle = 0; // timer

  // ---- Numbers: frame → counts → elements and event ----

  const show = () => {
    // list.js fills the elements that name a page.
    for (const target of document.querySelectorAll<HTMLElement>("[data-headcount]:not([data-headcount-page])")) {
      const { dataset } = target;
      const kind = (dataset.headcount || "site") as keyof Counts;
      // The author's text is kept in the element, where it survives a framework that caches copies of the page.
      let text = dataset.headcountText ?? target.textContent;
      if (kind in counts) {
        dataset.headcountText = text;
        text = format(kind, counts[kind]!);
      }
      if (text !== target.textContent) target.textContent = text;
      dataset.headcountState = state;
    }
    document.dispatchEvent(new CustomEvent("headcount", { detail: { ...counts, state } }));
  };

  const receive = ({ stale, ...news }: Frame) => {
    clearTimeout(expiry);
    expiry = 0;
    counts = { ...counts, ...news };
    state = stale ? "stale" : "live";
    show();
  };

  /** Nobody confirms the number any more: stale at once, gone after a while. */
  const fade = () => {
    if (expiry) return;
    expiry = setTimeout(() => {
      counts = {};
      show();
    }, STALE_MS);
    state = "stale";
    show();
  };

  // ---- Connection: token → socket → frames ----

  const arm = (ms: number, next: () => void) => {
    clearTimeout(timer);
    timer = setTimeout(next, ms);
    deadline = Date.now() + ms;
  };

  /** The visitor's id, for browsers that drop third-party cookies; kept when the service has sent one. */
  const visitor = (id?: string): string | undefined => {
    try {
      if (id) localStorage[key] = id;
      return localStorage[key];
    } catch {
      return undefined; // storage is forbidden here: the cookie has to do
    }
  };

  const request = async (path: string, init?: RequestInit) => {
    const response = await fetch(server + path, { ...init, signal: attempt.signal });
    if (!response.ok) throw response;
    return response.json();
  };

  const requestToken = async (): Promise<string> => {
    const answer = await request("token", {
      method: "POST",
      credentials: "include",
      body: JSON.stringify({ page, observe, visitor: visitor() }), // a text, which needs no preflight
    });
    visitor(answer.visitor);
    return answer.token;
  };

  const connect = async () => {
    attempt.abort();
    const { signal } = (attempt = new AbortController());
    arm(CONNECT_MS, lose);
    turn();
    try {
      // Something between here and the service breaks sockets but not HTTP: the page shall see the number all the same.
      if (failures >= SOCKET_FAILURES) {
        receive(await request("count?page=" + encodeURIComponent(page)));
        if (++failures % POLL_TURNS) return arm(POLL_MS, connect);
      }
      // Two tabs that a new visitor opens in one instant must not become two visitors: the second one waits until the
      // first has stored its id. No tab can keep the others waiting for longer than its attempt lasts.
      const token = await (visitor() || !navigator.locks
        ? requestToken()
        : navigator.locks.request(key, { signal }, requestToken));
      if (!signal.aborted) open(token, signal);
    } catch (refusal: any) {
      // HTTP has failed: by an answer, by a network error (with none of an answer's properties), or by taking too long.
      failures = 0;
      fade();
      if (signal.aborted) return;
      if (refusal.status === 403) {
        const problem = await refusal.json().catch(() => ({ title: 403, detail: server }));
        halt(problem.title + ": " + problem.detail);
      } else lose(refusal.headers?.get("Retry-After") * 1000 || 0);
    }
  };

  const open = (token: string, signal: AbortSignal) => {
    failures++;
    active = true; // as each view starts
    socket = new WebSocket(server.replace("http", "ws") + "ws?token=" + token);
    signal.onabort = () => socket!.close();
    socket.onopen = () => setTimeout(() => signal.aborted || (losses = 0), UPTIME_MS);
    socket.onerror = () => setTimeout(() => signal.aborted || halt("blocked by CSP"), BLOCKED_MS);
    socket.onmessage = ({ data }) => {
      failures = 0;
      arm(FRESH_MS, lose);
      receive(JSON.parse(data));
      tell();
    };
    socket.onclose = ({ code, reason }) => {
      if (signal.aborted) return;
      lose(code === 1013 ? FULL_WAIT_MS : 0, +reason * 1000); // 1012 has a number for its reason, and no other
    };
  };

  /** The connection is gone, or did not come to be. Tries again after the floor and full jitter over the window. */
  const lose = (floorMs = 0, windowMs = 0) => {
    attempt.abort();
    if (!failures) fade(); // otherwise it is stale already, or being polled
    const backoff = Math.min(MAX_BACKOFF_MS, 1000 * 2 ** losses++);
    const wait = failures > SOCKET_FAILURES ? POLL_MS : floorMs + Math.random() * (windowMs || backoff);
    arm(Math.min(MAX_WAIT_MS, Math.max(MIN_WAIT_MS, wait)), connect);
    deadline = Date.now() + floorMs;
  };

  const leave = () => {
    attempt.abort();
    clearTimeout(timer);
    deadline = Infinity;
    fade();
  };

  /** Trying again cannot help. */
  const halt = (why: string) => {
    leave();
    console.warn("Headcount: " + why);
  };

  // ---- View: which page, and whether somebody reads it ----

  /** Has the page another name now? */
  const turn = () => {
    const name = script.dataset.page ?? location.pathname + ("hash" in script.dataset ? location.hash : "");
    if (name === page) return false;
    page = name;
    delete counts.page; // of the old page, as the next two
    delete counts.views;
    return delete counts.read; // true
  };

  /** Tells the service what has changed since it was last told. */
  const tell = () => {
    if (socket?.readyState !== 1) return;
    if (turn()) {
      active = true;
      socket.send(JSON.stringify({ page }));
    }
    if (active !== present) {
      active = present;
      socket.send(JSON.stringify({ active }));
    }
  };

  const input = () => {
    present = !document.hidden;
    clearTimeout(idle);
    idle = setTimeout(() => {
      present = false;
      tell();
    }, IDLE_MS);
    tell();
  };

  const start = () => {
    input();
    void connect();
  };

  window[RUNNING] = (again) => {
    script = again; // a view transition may have brought a new `data-page`
    tell();
    show();
  };
  for (const method of ["pushState", "replaceState"] as const) {
    const original = history[method];
    history[method] = (...args) => {
      original.apply(history, args);
      tell();
    };
  }
  if ("debug" in script.dataset) void import(server + "debug.js"); // allowed by a CSP as this script was
  on("popstate hashchange", tell);
  on("pointermove pointerdown keydown scroll visibilitychange", input); // a touch is a pointer, too
  on("online resume visibilitychange", () => {
    if (Date.now() <= deadline) return;
    if (!failures) fade();
    void connect();
  });
  on("pagehide", leave);
  on("pageshow", (event) => {
    if ((event as PageTransitionEvent).persisted) start();
    else show(); // elements that were parsed after the last update
  });
  show();
  if (document.prerendering) on("prerenderingchange", start);
  else start();
}

/** A number in the page's language; reading time as minutes. */
const format = (kind: keyof Counts, value: number) => {
  let options: Intl.NumberFormatOptions | undefined;
  if (kind === "read") {
    value = Math.round(value / 60) || 1;
    options = { style: "unit", unit: "minute" };
  }
  try {
    return value.toLocaleString(document.documentElement.lang, options);
  } catch {
    return value.toLocaleString([], options); // no language, or none that there is, such as "en_US"
  }
};

/** Listens at the window while events come down, so that scrolling inside an element is heard too. */
const on = (types: string, listener: (event: Event) => void) => {
  for (const type of types.split(" ")) addEventListener(type, listener, true);
};

const script = document.currentScript as HTMLScriptElement | null;
if (script) (window[RUNNING] ?? headcount)(script);
