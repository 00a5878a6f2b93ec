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
const NEVER_MS = 2_000_000_000; // 23 days: after 24 days setTimeout overflows and fires at once
const LOCK_MS = 250; // until other tabs can read what this tab wrote to localStorage
const SOCKET_FAILURES = 3; // in a row, then the widget polls
const POLL_MS = 30_000;
const POLL_TURNS = 4; // three polls, then one more socket
const STALE_MS = 120_000; // then a stale number gives way to the author's text
const IDLE_MS = 60_000; // without input, the reader is not active any more
const PACE_MS = 9; // with each repaint since the last frame, the next one waits this much longer

declare global {
  interface History {
    /** A second widget finds the running one here, and not on `window`, where the `id` of any element is a property. */
    headcount?: (script: HTMLScriptElement) => void;
  }
  interface Navigator {
    readonly globalPrivacyControl?: boolean;
  }
  interface Document {
    readonly prerendering?: boolean;
  }
}

// The tag. A module has no `currentScript`, but its address is in its stack trace, and in the tag.
let script = (document.currentScript ??
  [...document.scripts].find(({ src }) => src && Error().stack!.includes(src))) as HTMLScriptElement;
let server: string; // its address, and the key of its locks and of what it stores
let socketServer: string;

// What is shown
let state: HeadcountState = "connecting";
let counts: Counts = {};
let pace = 0; // how long the next repaint waits
let expiry: number; // timer that removes a stale number

// The connection
let attempt: AbortController | undefined;
let timer: number;
let losses = 0; // exponent of the backoff
let socket: WebSocket | undefined;
let failures = 0; // attempts in a row that got a token, but no frame
let deadline = 0; // a page that wakes up after this connects again
let asked: string; // the last address that was tried

// The view
let again: boolean; // whether the service has counted this view
let active: boolean; // as the service was last told
let present: boolean; // visible, with recent input
let idle: number; // timer
let page: string; // as the service was last told

// ---- Numbers: frame → counts → elements and event ----

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
    return value.toLocaleString([], options); // the page has no language, or one that is not valid, such as "en_US"
  }
};

const paint = () => {
  // list.js fills the elements that name a page.
  for (const target of document.querySelectorAll<Target>("[data-headcount]")) {
    if (!target.dataset.headcountPage) {
      const kind = (target.dataset.headcount!.replace("true", "") || "site") as keyof Counts; // JSX writes "true"
      const value = counts[kind]!;
      // The author's text is kept twice. A copy of the page has only the attribute; some frameworks reset attributes.
      let text = target.headcount ?? target.dataset.headcountText ?? target.textContent;
      if (value >= 0) {
        target.headcount = target.dataset.headcountText = text;
        text = format(kind, value);
      }
      if (text !== target.textContent) target.textContent = text;
      target.dataset.headcountState = state;
    }
  }
};

/** Elements that come later, or whose text a framework writes again, show the number without an event. */
const repaint = () => {
  paint();
  observer.observe(document, { childList: true, characterData: true, subtree: true });
};

// Between a change and the repaint nothing is observed. So a page that changes all the time costs little, and another
// script that undoes each repaint meets a widget that becomes slower, and no loop.
const observer = new MutationObserver(() => {
  observer.disconnect();
  setTimeout(repaint, (pace += PACE_MS));
});

const show = () => {
  paint();
  document.dispatchEvent(new CustomEvent("headcount", { detail: { state, ...counts } }));
};

const receive = ({ stale, ...news }: Frame) => {
  state = "live";
  counts = { ...counts, ...news };
  pace = 0;
  clearTimeout(expiry);
  if (stale) fade();
  else show();
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
  timer = setTimeout(next, Math.max(floorMs + jitterMs, MIN_WAIT_MS));
  deadline = Date.now() + floorMs;
};

/**
 * Stores a new value, if there is one, and returns what is stored: the visitor's id, for browsers that drop third-party
 * cookies, or "off" for a visitor who does not want to be counted. Returns "" where storage is forbidden.
 */
const visitor = (id?: string): string | undefined => {
  try {
    return id ? (localStorage[server] = id) : localStorage[server];
  } catch {
    return ""; // the cookie is enough
  }
};

/** Posts the body as text, which needs no preflight. Without a body, the method is GET. */
const request = (path: string, body?: string) =>
  fetch((asked = server + path), {
    credentials: body && "include",
    method: body && "POST",
    signal: attempt!.signal,
    body,
  } as RequestInit).then((response) => {
    if (response.ok) return response.json();
    throw response;
  });

const connect = () => {
  const { signal } = (attempt = new AbortController());
  arm(lose, CONNECT_MS);
  turn();
  const converse = async () => {
    // Something between this page and the service breaks sockets but not HTTP: the page shows the number all the same.
    if (failures >= SOCKET_FAILURES) {
      receive(await request("count?page=" + encodeURIComponent(page)));
      if (++failures % POLL_TURNS) return lose();
    }
    const id = visitor();
    const answer = await request(
      "token",
      JSON.stringify({
        page,
        observe: navigator.globalPrivacyControl || "observe" in script.dataset || id === "off",
        visitor: id,
        again,
      }),
    );
    failures++;
    active = true; // each view starts active
    socket = new WebSocket((asked = socketServer + "ws?token=" + answer.token));
    setTimeout(() => signal.aborted || (losses = 0), UPTIME_MS);
    socket.onmessage = (event) => {
      failures = 0;
      again = true; // the service counts a view and sends the first frame at once
      arm(lose, FRESH_MS);
      receive(JSON.parse(event.data));
      tell();
    };
    socket.onclose = (event) => {
      if (signal.aborted) return;
      // The reason of 1012 is a number, in seconds. No other reason is one.
      lose(event.code === 1013 ? FULL_WAIT_MS : 0, (event.reason as unknown as number) * 1000);
    };
    visitor(answer.visitor);
    if (!id) await new Promise((resolve) => setTimeout(resolve, LOCK_MS)); // keeps the lock
  };
  // Two tabs that a new visitor opens in one instant must not become two visitors: the second tab waits until it can
  // read the id that the first one stored. A tab keeps the others waiting at most as long as its attempt lasts.
  // A browser that forbids storage forbids locks, too.
  const conversation = (visitor() == null && navigator.locks?.request(server, { signal }, converse)) || converse();
  conversation.catch(async (refusal: any) => {
    // HTTP failed: an answer that is an error, a network error (which has no properties of an answer), or a timeout.
    failures = 0;
    fade();
    if (signal.aborted) return;
    if (refusal.status < 405) {
      warn(refusal.status, await refusal.text());
      lose(NEVER_MS); // 403 and 404, also 400 and 401: another attempt would get the same answer
    } else lose((refusal.headers?.get("Retry-After") * 1000) % NEVER_MS || 0); // without a number of seconds: the usual backoff
  });
};

/**
 * Ends the attempt, if there is one. Tries again after the floor and full jitter over the window. A socket that fails
 * while the number is polled changes nothing: the number stays live, and the next poll follows.
 */
const lose = (floorMs = 0, windowMs?: number) => {
  attempt?.abort();
  socket?.close();
  if (floorMs || failures <= SOCKET_FAILURES) {
    fade();
    arm(connect, floorMs, Math.random() * (windowMs || Math.min(1000 * 2 ** losses++, MAX_BACKOFF_MS)));
  } else arm(connect, POLL_MS);
};

// ---- View: which page, and whether somebody reads it ----

/** Takes over the current name of the page. Returns whether the page had another name before. */
const turn = () => {
  const [, choice] = location.hash.split(/#headcount-(on|off)/);
  if (choice) visitor(choice);
  const name = script.dataset.page ?? location.pathname + ("hash" in script.dataset ? location.hash : "");
  if (name === page) return false;
  page = name;
  again = false;
  delete counts.page; // this and the next two numbers are of the old page
  delete counts.views;
  return delete counts.read; // true
};

/** Tells the service what has changed since the last message. */
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
  idle = setTimeout(tell, IDLE_MS, false);
  tell(!document.hidden);
};

const wake = () => {
  input();
  if (Date.now() > deadline && present) {
    lose();
    connect();
  }
};

// ---- Start: the tag, the events of the page, and the first attempt ----

/** Listens at the window in the capturing phase, so that the widget hears of scrolling inside an element, too. */
const on = (types: string, listener: (event: any) => void) => {
  for (const type of types.split(" ")) addEventListener(type, listener, true);
};

const serverOf = ({ src, dataset }: HTMLScriptElement) =>
  new URL((dataset.server ?? ".").replace(/\/*$/, "/"), src || location.href).href;

const warn = (...words: string[]) => console.warn("headcount:", ...words);

const start = () => {
  socketServer = (server = serverOf(script)).replace("http", "ws");
  history.headcount = (other) => {
    if (serverOf(other) !== server) return warn("counted by", server);
    script = other; // a view transition may have brought a new `data-page`
    tell();
    show();
  };
  for (const method of "replaceState pushState".split(" ") as ["pushState"]) {
    const original = history[method];
    history[method] = (...args) => {
      original.apply(history, args);
      tell();
    };
  }
  if ("debug" in script.dataset) void import(server + "debug.js"); // allowed by a CSP as this script was
  on("hashchange keydown pointerdown pointermove scroll popstate", input); // a touch is a pointer, too
  on("pageshow visibilitychange online prerenderingchange resume", wake);
  on("pagehide", () => {
    lose(NEVER_MS);
    again = false;
    deadline = 0; // a page that comes back from the bfcache connects
  });
  on("securitypolicyviolation", (violation) => {
    if (violation.disposition === "enforce" && violation.blockedURI === asked) {
      lose(NEVER_MS);
      warn("CSP needs connect-src", server, socketServer);
    }
  });
  input();
  show();
  repaint();
  if (!document.prerendering) connect();
};

if (script) (history.headcount ?? start)(script);
else warn("no <script>");
