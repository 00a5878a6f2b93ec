/**
 * Loaded by the widget when its tag carries `data-debug`: says in the console what happens, and when something does not,
 * tries each step by itself, as an observer that is not counted, and names the first one that fails.
 */
import { policyLines, siteUrl, sitesLine, UPGRADE_LINES } from "./advice.ts";
import type { HeadcountDetail } from "./headcount.d.ts";

const SLOW_MS = 3_000; // a page is live sooner
const CSP_MS = 200; // a violation is reported after the failure that it causes
const NUMBERS = ["site", "page", "peak", "read", "views", "total", "visitors", "today"];

const server = new URL(".", import.meta.url).href;
const socketServer = server.replace("http", "ws");
const script = document.querySelector<HTMLScriptElement>("script[data-debug]");
const kept = keptVisitor();
const isObserver =
  navigator.globalPrivacyControl === true || script?.dataset["observe"] !== undefined || kept === "off";
let state = "";
let hasBeenLive = false;
let isDiagnosing = false;
let isBlocked = false; // by the page's Content-Security-Policy

const say = (words: string) => console.info(`Headcount: ${words}`);
const warn = (words: string) => console.warn(`Headcount: ${words}`);
const wait = (ms: number) => new Promise((wake) => setTimeout(wake, ms));

addEventListener("securitypolicyviolation", ({ blockedURI, effectiveDirective, disposition }) => {
  if (disposition === "report" || ![server, socketServer].some((its) => blockedURI.startsWith(new URL(its).origin)))
    return;
  if (!isBlocked)
    warn(
      `this page's Content-Security-Policy (${effectiveDirective}) blocks ${blockedURI}. Add to it:\n${policyLines(server)}`,
    );
  isBlocked = true;
});

document.addEventListener("headcount", ({ detail }) => {
  console.debug("Headcount:", detail);
  if (detail.state === state) return;
  state = detail.state;
  if (state === "live") isLive(detail);
  else if (state === "stale") void diagnose();
});

function isLive({ site, page }: HeadcountDetail): void {
  say(`live. ${site ?? "–"} on the site, ${page ?? "–"} on this page`);
  if (hasBeenLive) return;
  hasBeenLive = true;
  checkElements();
  if (!isObserver) void checkCookies();
}

function checkElements(): void {
  const kinds = Array.from(document.querySelectorAll<HTMLElement>("[data-headcount]"), ({ dataset }) =>
    dataset["headcount"]!.replace(/^true$/, ""),
  );
  if (kinds.length === 0) warn("this page has no element for the number. Add one:\n<span data-headcount>–</span>");
  for (const kind of kinds)
    if (kind && !NUMBERS.includes(kind))
      warn(`data-headcount="${kind}" is unknown. Known values are ${NUMBERS.join(", ")}`);
}

/** Asks for a token as the widget does, but without the id that it keeps. */
async function requestToken(observe: boolean): Promise<Response> {
  return fetch(`${server}token`, { method: "POST", credentials: "include", body: JSON.stringify({ observe }) });
}

/** What the widget has stored: the visitor's id, or "off" for a visitor who does not want to be counted. */
function keptVisitor(): string | undefined {
  try {
    return localStorage[server];
  } catch {
    return undefined; // storage is forbidden here, which checkCookies says
  }
}

async function visitorOfCookie(): Promise<string | undefined> {
  const answer = await requestToken(false);
  return answer.ok ? (await answer.json()).visitor : undefined;
}

async function checkCookies(): Promise<void> {
  const first = keptVisitor() ?? (await visitorOfCookie());
  const again = await visitorOfCookie();
  if (again === undefined) say("nothing is stored in this browser (IDENTITY=hash)");
  else if (again === first) say("this browser accepts the cookie of the service");
  else if (keptVisitor())
    say(
      "this browser drops the cookie of the service, so the widget uses the localStorage of this page, which counts as exactly",
    );
  else
    warn(
      "this browser drops the cookie of the service and blocks localStorage, so every page load counts as a new visitor",
    );
}

/** Tries step by step what the widget does. */
async function diagnose(): Promise<void> {
  if (isDiagnosing) return;
  isDiagnosing = true;
  const reason = await findReason();
  isDiagnosing = false;
  if (reason !== undefined)
    warn(`${reason}\nCheck your installation: ${server}check?site=${encodeURIComponent(location.origin)}`);
}

/** What is wrong; undefined when it has been said already. */
async function findReason(): Promise<string | undefined> {
  try {
    if (!/^https?:/.test(location.origin))
      return "this page is a local file or is in a sandbox, so it has no origin and belongs to no site";
    const asked = await fetch(`${server}check/request?site=${encodeURIComponent(location.origin)}`);
    if (!asked.ok) return `${server} answers ${asked.status}. Perhaps Headcount does not run there`;
    if ((await asked.json()).site === undefined)
      return `the service does not count ${location.origin}. Start it with this setting (if SITES has entries already, add this one after a comma):\n${sitesLine(siteUrl(location.origin)!)}`;
    const answer = await requestToken(true);
    const { title, detail, token } = await answer.json();
    if (!answer.ok) return `the service refused this page: ${title}. ${detail}`;
    const frame = await firstFrame(token);
    await wait(CSP_MS);
    if (isBlocked) return undefined;
    if (frame === undefined)
      return `the service grants a token, but no WebSocket opens. A proxy drops the Upgrade header. For nginx:\n${UPGRADE_LINES}`;
    if (JSON.parse(frame).stale) return "the service has no connection to Redis, so these are the last known numbers";
    return "the connection was lost and works again. The widget reconnects within a minute";
  } catch {
    await wait(CSP_MS);
    if (isBlocked) return undefined;
    if (!navigator.onLine) return "this browser is offline";
    if (location.protocol === "https:" && server.startsWith("http:"))
      return `this page came over https, so it cannot use ${server}. The service needs https too`;
    return `${server} does not answer. It is down or not reachable from here, or its certificate is not valid`;
  }
}

/** What a socket says first; undefined when it does not open. */
function firstFrame(token: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = new WebSocket(`${socketServer}ws?token=${token}`);
    const end = (frame?: string) => {
      resolve(frame);
      socket.close();
    };
    socket.addEventListener("message", ({ data }) => end(data));
    socket.addEventListener("close", () => end());
    socket.addEventListener("error", () => end());
    setTimeout(end, SLOW_MS);
  });
}

// The widget asks for the number every 30 s when it has a token, but gets no socket: live, but not as it should be.
const polling = new PerformanceObserver((list) => {
  if (!list.getEntries().some(({ name }) => name.startsWith(`${server}count?page=`))) return;
  polling.disconnect();
  warn("no WebSocket opens, so the widget asks for the number every 30 s");
  void diagnose();
});
polling.observe({ type: "resource", buffered: true });

say(`this page is on ${location.origin}, the service is at ${server}`);
if (isObserver)
  say(
    navigator.globalPrivacyControl
      ? "this browser sends Global Privacy Control, so it sees the numbers and is not counted"
      : kept === "off"
        ? "this browser opened a page with #headcount-off: it sees the numbers, and is not counted until a page with #headcount-on"
        : "the tag has data-observe, so this page sees the numbers and is not counted",
  );
// The widget may have dispatched its first events before this script was here. Given its tag again, it dispatches one.
if (script) history.headcount?.(script);
setTimeout(() => {
  if (state === "live" || state === "stale") return;
  checkElements();
  void diagnose();
}, SLOW_MS);
