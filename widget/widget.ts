/**
 * The widget: what the pasted `<script>` runs. It keeps the numbers in all `[data-headcount]` elements true.
 *
 * Each try to connect is one *attempt*: a token by `POST /token`, a socket with that token, the first frame. The
 * attempt's AbortController is all there is to hold: request, lock and socket end when it is aborted, and whatever comes
 * in late finds it aborted. One timer guards the connection and is re-armed at each step: 10 s for an attempt, 75 s
 * after each frame, the backoff after a loss. One deadline tells the same to a page that slept through its timers.
 *
 * Every byte here is paid by every visitor of every site: build.ts prints the size and holds it under the budget.
 */
import type { HeadcountDetail, HeadcountState } from "./headcount.d.ts";

/** What the service sends: any of the numbers, and whether it has lost its engine. */
type Frame = Partial<Omit<HeadcountDetail, "state">> & { stale?: boolean };

const CONNECT_MS = 10_000; // token, upgrade and first frame together
const FRESH_MS = 75_000; // the service repeats its count every 30 s: two repeats missed
const UPTIME_MS = 10_000; // a connection that lasted this long starts the backoff anew
const MIN_WAIT_MS = 250;
const MAX_WAIT_MS = 60_000;
const FULL_WAIT_MS = 30_000; // at least, after close 1013
const DAY_MS = 86_400_000; // no wait is longer: setTimeout would overflow at 25 days, and fire at once
const STALE_MS = 120_000; // then a stale number says nothing any more
const POLL_MS = 30_000;
const SOCKET_FAILURES = 3; // in a row, before polling
const IDLE_MS = 60_000; // without input, until a reader is no longer active
const CSP_MS = 1000; // a socket's `close` follows its `error` at once, unless a CSP forbade the socket

/** Where the running widget is found by a second one. A symbol, because any `id="headcount"` is a window property. */
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
  const server = new URL(script.dataset.server?.replace(/\/*$/, "/") ?? new URL(".", script.src), document.baseURI);
  const observe = "observe" in script.dataset || !!navigator.globalPrivacyControl;
  const key = "headcount:" + server.origin;

  // What is shown.
  let counts: Frame = {};
  let state: HeadcountState = "connecting";
  let expiry = 0; // timer: removes a stale number; 0 while the number is confirmed

  // The connection.
  let attempt = new AbortController();
  let socket: WebSocket | undefined;
  let timer = 0;
  let deadline = Infinity; // from then on, waking up means reconnecting: the timer may have been asleep too
  let upSince = Infinity; // first frame of the connection
  let losses = 0; // exponent of the backoff
  let failures = 0; // sockets in a row that brought no frame, though the token was given
  let poller = 0;
  let halted = false;

  // The view: what the service was last told, and what is so.
  let page: string;
  let active: boolean;
  let lastInput: number;
  let idle = 0; // timer

  // Numbers and elements

  function format(kind: string, value: number) {
    const options: Intl.NumberFormatOptions = {};
    if (kind === "read") {
      value = Math.max(1, Math.round(value / 60));
      options.style = "unit";
      options.unit = "minute";
    }
    try {
      return value.toLocaleString(document.documentElement.lang || undefined, options);
    } catch {
      return `${value}`; // `lang="en_US"` and its like throw
    }
  }

  /** Writes numbers and state into all targets there are now, and tells the page's own code. */
  function show() {
    const { site, page, peak, read } = counts;
    const detail: HeadcountDetail = { site, page, peak, read, state };
    for (const target of document.querySelectorAll<HTMLElement>("[data-headcount]")) {
      const { dataset } = target;
      const kind = (dataset.headcount || "site") as "site";
      let text = dataset.headcountText;
      if (detail[kind] !== undefined) {
        // The author's text is kept in the element itself: so it survives a framework that clones the page.
        dataset.headcountText ??= target.textContent;
        text = format(kind, detail[kind]);
      }
      if (text !== undefined && text !== target.textContent) target.textContent = text;
      dataset.headcountState = state;
    }
    document.dispatchEvent(new CustomEvent("headcount", { detail }));
  }

  function receive(frame: Frame) {
    clearTimeout(expiry);
    expiry = 0;
    Object.assign(counts, frame);
    state = counts.stale ? "stale" : "live";
    show();
  }

  /** Nobody confirms the number any more: stale at once, and gone after a while. */
  function fade() {
    if (expiry || state === "connecting") return;
    expiry = setTimeout(() => {
      counts = {};
      show();
    }, STALE_MS);
    counts.stale = false; // whether the engine is away is for the next connection to say
    state = "stale";
    show();
  }

  // Connection

  /** The visitor's id, for browsers that drop third-party cookies; keeps the id when there is one. */
  function visitor(id?: string): string | undefined {
    try {
      if (id) localStorage[key] = id;
      return localStorage[key];
    } catch {
      return; // storage is forbidden: the cookie alone has to do
    }
  }

  function arm(ms: number, next: () => void) {
    clearTimeout(timer);
    timer = setTimeout(next, ms);
    deadline = Date.now() + ms;
  }

  async function requestToken(signal: AbortSignal): Promise<string | undefined> {
    page = pageName();
    const response = await fetch(server + "token", {
      method: "POST",
      credentials: "include",
      body: JSON.stringify({ page, observe, visitor: observe ? undefined : visitor() }), // as text/plain: no preflight
      signal,
    });
    if (response.ok) {
      const answer = await response.json();
      if (!observe) visitor(answer.visitor);
      return answer.token;
    }
    if (response.status === 403) {
      const problem = await response.json();
      halt(`${problem.title}: ${problem.detail}`);
    } else lose(Number(response.headers.get("Retry-After")) * 1000 || 0);
    return;
  }

  async function connect() {
    attempt.abort();
    if (halted) return;
    attempt = new AbortController();
    const { signal } = attempt;
    arm(CONNECT_MS, lose);
    upSince = Infinity;
    try {
      const request = () => requestToken(signal);
      // Two tabs that a new visitor opens in one instant must not become two visitors: the second waits for the id that
      // the first one stores. The 10 s of an attempt also bound how long one tab can keep the others waiting.
      const token = await (observe || visitor() || !navigator.locks
        ? request()
        : navigator.locks.request(key, { signal }, request));
      if (!signal.aborted) open(token!, signal);
    } catch {
      if (!signal.aborted) lose();
    }
  }

  function open(token: string, signal: AbortSignal) {
    failures++;
    active = true;
    const ws = (socket = new WebSocket(server.href.replace("http", "ws") + "ws?token=" + token));
    signal.onabort = () => ws.close();
    ws.onmessage = ({ data }) => {
      if (signal.aborted) return;
      arm(FRESH_MS, lose);
      upSince = Math.min(upSince, Date.now());
      failures = 0;
      stopPolling();
      receive(JSON.parse(data));
      tell();
    };
    ws.onclose = ({ code, reason }) => {
      if (signal.aborted) return;
      if (code === 1012) lose(0, Number(reason) * 1000);
      else lose(code === 1013 ? FULL_WAIT_MS : 0);
    };
    ws.onerror = () =>
      setTimeout(() => signal.aborted || halt(`a Content-Security-Policy forbids ${ws.url.split("?")[0]}`), CSP_MS);
  }

  /** The connection is gone, or did not come to be: says so, and tries again after the floor plus full jitter. */
  function lose(floorMs = 0, windowMs = 0) {
    attempt.abort();
    if (Date.now() - upSince >= UPTIME_MS) losses = 0;
    const backoff = Math.min(MAX_WAIT_MS, 1000 * 2 ** losses++);
    const wait = floorMs + Math.random() * (windowMs || backoff);
    arm(Math.min(DAY_MS, Math.max(MIN_WAIT_MS, wait)), connect);
    deadline = Date.now() + floorMs;
    if (failures < SOCKET_FAILURES) fade();
    else if (!poller) {
      poller = setInterval(poll, POLL_MS);
      poll();
    }
  }

  /** Ends it all, until `connect` is called again. */
  function leave() {
    attempt.abort();
    clearTimeout(timer);
    deadline = Infinity;
    stopPolling();
    fade();
  }

  /** Trying again cannot help. */
  function halt(why: string) {
    halted = true;
    leave();
    console.warn("Headcount: " + why);
  }

  /** Where something between here and the service breaks sockets but not HTTP, the page still sees the number. */
  async function poll() {
    let frame: Frame | undefined;
    try {
      const url = server + "count?page=" + encodeURIComponent(page);
      const response = await fetch(url, { signal: AbortSignal.timeout?.(CONNECT_MS) });
      if (response.ok) frame = await response.json();
    } catch {
      // no frame says it all
    }
    if (!poller) return;
    if (frame) receive({ stale: false, ...frame });
    else fade();
  }

  function stopPolling() {
    clearInterval(poller);
    poller = 0;
  }

  // The view

  function pageName() {
    const { dataset } = script;
    return dataset.page ?? location.pathname + ("hash" in dataset ? location.hash : "");
  }

  /** Tells the service what has changed since it was last told: the page, and whether its reader is active. */
  function tell() {
    clearTimeout(idle);
    if (socket?.readyState !== 1) return;
    const name = pageName();
    if (name !== page) {
      page = name;
      active = true; // a new view starts active
      counts.page = counts.read = undefined; // those were the old page's
      socket.send(JSON.stringify({ page }));
    }
    const rest = document.hidden ? 0 : lastInput + IDLE_MS - Date.now();
    if (rest > 0 !== active) {
      active = !active;
      socket.send(JSON.stringify({ active }));
    }
    if (active) idle = setTimeout(tell, rest);
  }

  /** Input comes often: it moves a time stamp, and no timer. */
  function input() {
    lastInput = Date.now();
    if (!active || document.hidden) tell();
  }

  function start() {
    lastInput = Date.now();
    connect();
  }

  /** Captured at the window, so that what does not bubble (scrolling in an element) is heard too. */
  function on(types: string, listener: (event: Event) => void) {
    for (const type of types.split(" ")) addEventListener(type, listener, { capture: true, passive: true });
  }

  on("pointermove pointerdown touchstart keydown scroll visibilitychange", input);
  on("visibilitychange resume online", () => {
    if (Date.now() > deadline) lose(0, MIN_WAIT_MS);
  });
  on("pagehide", leave);
  on("pageshow", (event) => {
    if ((event as PageTransitionEvent).persisted) start();
  });
  on("popstate hashchange", tell);
  for (const method of ["pushState", "replaceState"] as const) {
    const original = history[method];
    history[method] = (...args) => {
      original.apply(history, args);
      tell();
    };
  }

  window[RUNNING] = (again) => {
    script = again;
    tell();
    show();
  };
  on("DOMContentLoaded", show);
  show();
  if (document.prerendering) on("prerenderingchange", start);
  else start();
}

const script = document.currentScript as HTMLScriptElement | null;
if (script) (window[RUNNING] ?? headcount)(script);
