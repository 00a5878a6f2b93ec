/**
 * The widget: the script behind the pasted tag. It keeps the number in each `[data-headcount]` element true.
 *
 * An attempt to connect has three steps: `POST /token`, a WebSocket opened with that token, a first frame. Each attempt
 * has an AbortController. Aborting it ends the request, the wait for the lock and the socket; what arrives afterwards
 * finds `signal.aborted` and stops. One timer drives the connection: 10 s for an attempt, 75 s after each frame, the
 * backoff after a loss. `deadline` is the same moment by the clock, for a page that slept through its timer.
 *
 * Every visitor of every site pays for each byte: build.ts prints the size and checks it against a budget.
 */
import type { HeadcountDetail, HeadcountState } from "./headcount.d.ts";

type Counts = Omit<HeadcountDetail, "state">;
/** What the service sends: any of the numbers, and `stale` while its engine is away. */
type Frame = Counts & { stale?: boolean };
type Target = HTMLElement & { headcount?: string };

const CONNECT_MS = 10_000; // token, upgrade and first frame together
const FRESH_MS = 75_000; // the service repeats its numbers every 30 s: two repeats were missed
const UPTIME_MS = 10_000; // a connection that lasted this long resets the backoff
const MIN_WAIT_MS = 250;
const MAX_BACKOFF_MS = 60_000;
const FULL_WAIT_MS = 30_000; // at least, after close 1013
const MAX_WAIT_MS = 2_000_000_000; // 23 days, which is never: after 24 days setTimeout overflows and fires at once
const LOCK_MS = 250; // until other tabs can read what this tab wrote to localStorage
const SOCKET_FAILURES = 3; // in a row, then the widget polls
const POLL_MS = 30_000;
const POLL_TURNS = 4; // three polls, then one more socket
const STALE_MS = 120_000; // then a stale number gives way to the author's text
const IDLE_MS = 60_000; // without input, the reader is not active any more
const PACE_MS = 9; // with each repaint since the last frame, the next one waits this much longer

declare global {
  interface History {
    /** Here a second widget finds the running one. Not on `window`, where any element's `id` is a property. */
    headcount?: (script: HTMLScriptElement) => void;
  }
  interface Navigator {
    readonly globalPrivacyControl?: boolean;
  }
  interface Document {
    readonly prerendering?: boolean;
  }
}

function headcount(script: HTMLScriptElement) {
  const server = serverOf(script); // its address, and the key of its locks and of what it stores
  const socketServer = server.replace("http", "ws");
  const observe = "observe" in script.dataset || navigator.globalPrivacyControl;

  // What is shown
  let counts: Counts = {};
  let state: HeadcountState = "connecting";
  let expiry: number; // timer that removes a stale number
  let pace = 0; // how long the next repaint waits

  // The connection
  let attempt = new AbortController();
  let socket: WebSocket | undefined;
  let asked: string; // the last address that was tried
  let timer: number;
  let deadline = 0; // a page that wakes up after this connects again
  let losses = 0; // exponent of the backoff
  let failures = 0; // attempts in a row that got a token, but no frame

  // The view
  let page: string; // as the service was last told
  let active: boolean; // as the service was last told
  let again: boolean; // whether the service has counted this view
  let present: boolean; // visible, with recent input
  let idle: number; // timer

  // ---- Numbers: frame → counts → elements and event ----

  const paint = () => {
    // list.js fills the elements that name a page.
    for (const target of document.querySelectorAll<Target>("[data-headcount]:not([data-headcount-page])")) {
      const { dataset } = target;
      const kind = dataset.headcount!.replace(/^(true)?$/, "site") as keyof Counts; // JSX writes "true"
      const value = counts[kind]!;
      // The author's text is kept twice. A copy of the page has only the attribute, and some frameworks reset attributes.
      let text = target.headcount ?? dataset.headcountText ?? target.textContent;
      if (value >= 0) {
        target.headcount = dataset.headcountText = text;
        text = format(kind, value);
      }
      if (text + state !== target.textContent + dataset.headcountState) {
        target.textContent = text;
        dataset.headcountState = state;
      }
    }
  };

  /** Elements that come later, or whose text a framework writes again, show the number without an event. */
  const repaint = () => {
    paint();
    observer.observe(document, { subtree: true, characterData: true, childList: true });
  };

  // Between a change and the repaint nothing is observed. So a page that changes all the time costs little, and another
  // script that undoes each repaint meets a widget that becomes slower, and no loop.
  const observer = new MutationObserver(() => {
    observer.disconnect();
    setTimeout(repaint, (pace += PACE_MS));
  });

  const show = () => {
    paint();
    document.dispatchEvent(new CustomEvent("headcount", { detail: { ...counts, state } }));
  };

  const receive = ({ stale, ...news }: Frame) => {
    clearTimeout(expiry);
    pace = 0;
    counts = { ...counts, ...news };
    state = "live";
    (stale ? fade : show)();
  };

  /** The number is not confirmed any more: it is stale at once, and removed after a while. */
  const fade = () => {
    if (state !== "live") return;
    state = "stale";
    expiry = setTimeout(() => {
      counts = {};
      show();
    }, STALE_MS);
    show();
  };

  // ---- Connection: token → socket → frames ----

  const arm = (next: () => void, floorMs: number, jitterMs = 0) => {
    clearTimeout(timer);
    timer = setTimeout(next, Math.min(MAX_WAIT_MS, Math.max(MIN_WAIT_MS, floorMs + jitterMs)));
    deadline = Date.now() + floorMs;
  };

  /**
   * What is stored, after storing what is new: the visitor's id, for browsers that drop third-party cookies, or "off" for
   * a visitor who does not want to be counted. "" where storage is forbidden.
   */
  const visitor = (id?: string): string | undefined => {
    try {
      if (id) localStorage[server] = id;
      return localStorage[server];
    } catch {
      return ""; // the cookie has to do
    }
  };

  const request = async (path: string, init?: RequestInit) => {
    const response = await fetch((asked = server + path), { ...init, signal: attempt.signal });
    if (!response.ok) throw response;
    return response.json();
  };

  const connect = () => {
    attempt.abort();
    const { signal } = (attempt = new AbortController());
    arm(lose, CONNECT_MS);
    turn();
    const converse = async () => {
      // Something between this page and the service breaks sockets but not HTTP: the page shows the number all the same.
      if (failures >= SOCKET_FAILURES) {
        receive(await request("count?page=" + encodeURIComponent(page)));
        if (++failures % POLL_TURNS) return arm(connect, POLL_MS);
      }
      const id = visitor();
      const answer = await request("token", {
        credentials: "include",
        method: "POST",
        // A text, which needs no preflight
        body: JSON.stringify({ page, again, observe: observe || id === "off", visitor: id }),
      });
      failures++;
      active = true; // each view starts active
      socket = new WebSocket((asked = socketServer + "ws?token=" + answer.token));
      signal.onabort = () => socket!.close();
      socket.onopen = () => {
        again = true;
        setTimeout(() => signal.aborted || (losses = 0), UPTIME_MS);
      };
      socket.onmessage = ({ data }) => {
        failures = 0;
        arm(lose, FRESH_MS);
        receive(JSON.parse(data));
        tell();
      };
      socket.onclose = ({ reason, code }) => {
        if (signal.aborted) return;
        lose(code === 1013 ? FULL_WAIT_MS : 0, +reason * 1000); // 1012 has a number for its reason, and no other
      };
      if (visitor(answer.visitor) !== id) await new Promise((resolve) => setTimeout(resolve, LOCK_MS)); // keeps the lock
    };
    // Two tabs that a new visitor opens in one instant must not become two visitors: the second tab waits until it can
    // read the id that the first one stored. A tab keeps the others waiting for as long as its attempt lasts at most.
    const conversation =
      navigator.locks && visitor() === undefined ? navigator.locks.request(server, { signal }, converse) : converse();
    conversation.catch(async (refusal: any) => {
      // HTTP failed: an answer that is an error, a network error (which has no properties of an answer), or a timeout.
      failures = 0;
      fade();
      if (signal.aborted) return;
      if ([403, 404].includes(refusal.status)) leave(refusal.status + " " + (await refusal.text()));
      else lose(refusal.headers?.get("Retry-After") * 1000 || 0);
    });
  };

  /** There is no connection any more, or none was made. Tries again after the floor and full jitter over the window. */
  const lose = (floorMs = 0, windowMs?: number) => {
    attempt.abort();
    if (!failures) fade(); // otherwise the number is stale already, or polled
    if (failures > SOCKET_FAILURES) arm(connect, POLL_MS);
    else arm(connect, floorMs, Math.random() * (windowMs || Math.min(1000 * 2 ** losses++, MAX_BACKOFF_MS)));
  };

  /** Stays away for good, where another attempt would fail too, or until `deadline` is set. */
  const leave = (why?: string) => {
    failures = 0;
    lose(Infinity);
    if (why) warn(why);
  };

  // ---- View: which page, and whether somebody reads it ----

  /** Whether the page has another name now. */
  const turn = () => {
    const choice = location.hash.split("#headcount-")[1]; // "off" or "on"
    if (choice) visitor(choice);
    const name = script.dataset.page ?? location.pathname + ("hash" in script.dataset ? location.hash : "");
    if (name === page) return false;
    page = name;
    again = false;
    delete counts.page; // of the old page, as the next two
    delete counts.views;
    return delete counts.read; // true
  };

  /** Tells the service what has changed since it was told last. */
  const tell = (reads = present) => {
    present = reads;
    if (socket?.readyState !== 1) return;
    if (turn()) {
      active = again = true;
      socket.send(JSON.stringify({ page }));
    }
    if (active !== present) {
      active = present;
      socket.send(JSON.stringify({ active }));
    }
  };

  const input = () => {
    clearTimeout(idle);
    idle = setTimeout(() => tell(false), IDLE_MS);
    tell(!document.hidden);
  };

  const wake = () => {
    input();
    if (Date.now() <= deadline || document.hidden) return;
    if (!failures) fade();
    connect();
  };

  history.headcount = (other) => {
    if (serverOf(other) !== server) return warn("counted by " + server);
    script = other; // a view transition may have brought a new `data-page`
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
  on("keydown pointerdown pointermove scroll hashchange popstate", input); // a touch is a pointer, too
  on("pageshow visibilitychange prerenderingchange resume online", wake);
  on("pagehide", () => {
    leave();
    again = false;
    deadline = 0; // a page that comes back from the bfcache connects
  });
  on("securitypolicyviolation", ({ blockedURI, disposition }) => {
    if (blockedURI === asked && disposition === "enforce")
      leave("CSP needs connect-src " + server + " " + socketServer);
  });
  show();
  repaint();
  input();
  if (!document.prerendering) connect();
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
const on = (types: string, listener: (event: any) => void) => {
  for (const type of types.split(" ")) addEventListener(type, listener, true);
};

const serverOf = ({ dataset, src }: HTMLScriptElement) =>
  new URL((dataset.server ?? ".").replace(/\/*$/, "/"), src || location.href).href;

const warn = (why: string) => console.warn("headcount:", why);

// A module has no `currentScript`, but its address is in its stack trace, and in the tag.
const script =
  (document.currentScript as HTMLScriptElement | null) ??
  [...document.scripts].find(({ src }) => src && Error().stack!.includes(src));
if (script) (history.headcount ?? headcount)(script);
else warn("no <script>");
