/**
 * The widget loads this script when its tag carries `data-debug`. The script says in the console what happens. When the
 * number does not come, the script tries each step by itself, as an observer that is not counted, and names the first step
 * that fails.
 */
import { policyLines, siteUrl, sitesLine, UPGRADE_LINES } from "./advice.ts";
import type { HeadcountDetail } from "./headcount.d.ts";
import * as en from "./pages/texts/en.ts";
import * as zh from "./pages/texts/zh.ts";
import { fill, type Problem, reasonIn, type TextsOf } from "./pages/words.ts";
import { isNumberName, NUMBER_NAMES } from "../shared/numbers.ts";

const SLOW_MS = 3_000; // a page is live sooner
const CSP_MS = 200; // a violation is reported after the failure that it causes

interface Words {
  texts: TextsOf<typeof en.debug>;
  refusals: Partial<Record<string, string>>;
}
/** By the subtag that browsers ask for. */
const LANGUAGES: Partial<Record<string, Words>> = {
  en: { texts: en.debug, refusals: en.refusals },
  zh: { texts: zh.debug, refusals: zh.refusals },
};

/** In the language of the owner's browser, whatever the page is written in. */
const { texts, refusals } = navigator.languages.map(wordsIn).find((words) => words !== undefined) ?? LANGUAGES["en"]!;

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

function wordsIn(language: string): Words | undefined {
  return LANGUAGES[language.toLowerCase().replace(/-.*/, "")];
}
const say = (words: string) => console.info(`Headcount: ${words}`);
const warn = (words: string) => console.warn(`Headcount: ${words}`);
const wait = (ms: number) => new Promise((wake) => setTimeout(wake, ms));

addEventListener("securitypolicyviolation", ({ blockedURI, effectiveDirective, disposition }) => {
  if (
    disposition === "report" ||
    ![server, socketServer].some((address) => blockedURI.startsWith(new URL(address).origin))
  )
    return;
  if (!isBlocked)
    warn(`${fill(texts.policy, { directive: effectiveDirective, blocked: blockedURI })}\n${policyLines(server)}`);
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
  say(fill(texts.live, { site: site ?? "–", page: page ?? "–" }));
  if (hasBeenLive) return;
  hasBeenLive = true;
  checkElements();
  if (!isObserver) void checkCookies();
}

function checkElements(): void {
  const kinds = Array.from(document.querySelectorAll<HTMLElement>("[data-headcount]"), ({ dataset }) =>
    dataset["headcount"]!.replace(/^true$/, ""),
  );
  if (kinds.length === 0) warn(`${texts.noElement}\n<span data-headcount>–</span>`);
  for (const kind of kinds)
    if (kind && !isNumberName(kind)) warn(fill(texts.unknownNumber, { kind, known: NUMBER_NAMES.join(", ") }));
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
    return undefined; // checkCookies says that storage is forbidden
  }
}

async function visitorOfCookie(): Promise<string | undefined> {
  const answer = await requestToken(false);
  return answer.ok ? (await answer.json()).visitor : undefined;
}

async function checkCookies(): Promise<void> {
  const first = keptVisitor() ?? (await visitorOfCookie());
  const again = await visitorOfCookie();
  if (again === undefined) say(texts.nothingStored);
  else if (again === first) say(texts.cookie);
  else if (keptVisitor()) say(texts.noCookie);
  else warn(texts.noStorage);
}

/** Tries step by step what the widget does. */
async function diagnose(): Promise<void> {
  if (isDiagnosing) return;
  isDiagnosing = true;
  const reason = await findReason();
  isDiagnosing = false;
  if (reason !== undefined)
    warn(`${reason}\n${fill(texts.check, { address: `${server}check?site=${encodeURIComponent(location.origin)}` })}`);
}

/** What is wrong; undefined when it has been said already. */
async function findReason(): Promise<string | undefined> {
  try {
    if (!/^https?:/.test(location.origin)) return texts.noOrigin;
    const asked = await fetch(`${server}check/request?site=${encodeURIComponent(location.origin)}`);
    if (!asked.ok) return fill(texts.answers, { server, status: asked.status });
    if ((await asked.json()).site === undefined)
      return `${fill(texts.notAllowed, { origin: location.origin })}\n${sitesLine(siteUrl(location.origin)!)}`;
    const answer = await requestToken(true);
    if (!answer.ok) return refusalIn(await answer.json());
    const { token } = await answer.json();
    const frame = await firstFrame(token);
    await wait(CSP_MS);
    if (isBlocked) return undefined;
    if (frame === undefined) return `${texts.noSocket}\n${UPGRADE_LINES}`;
    if (JSON.parse(frame).stale) return texts.noRedis;
    return texts.back;
  } catch {
    await wait(CSP_MS);
    if (isBlocked) return undefined;
    if (!navigator.onLine) return texts.offline;
    if (location.protocol === "https:" && server.startsWith("http:")) return fill(texts.mixed, { server });
    return fill(texts.noAnswer, { server });
  }
}

function refusalIn(problem: Problem): string {
  const { title = "", detail = "" } = problem;
  return fill(texts.refused, { title: refusals[reasonIn(problem)] ?? title, detail });
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

// With a token and without a socket, the widget asks for the number every 30 s: the page is live, but its number is late.
const polling = new PerformanceObserver((list) => {
  if (!list.getEntries().some(({ name }) => name.startsWith(`${server}count?page=`))) return;
  polling.disconnect();
  warn(texts.polls);
  void diagnose();
});
polling.observe({ type: "resource", buffered: true });

say(fill(texts.where, { page: location.origin, server }));
if (isObserver) say(navigator.globalPrivacyControl ? texts.privacyControl : kept === "off" ? texts.off : texts.observe);
// The widget may have dispatched its first events before this script was here. Given its tag again, it dispatches one.
if (script) history.headcount?.(script);
setTimeout(() => {
  if (state === "live" || state === "stale") return;
  checkElements();
  void diagnose();
}, SLOW_MS);
