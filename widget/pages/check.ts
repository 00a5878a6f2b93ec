/**
 * The check page: tries from this browser what the widget does, and asks the service what the service saw. The page is an
 * observer that is not counted. Each check is a function that returns a finding, and the list shows it at once.
 */
import { check as texts } from "#texts";
import { hostOf, policyLines, siteUrl, sitesLine, UPGRADE_LINES } from "../advice.ts";
import { base, byId } from "./dom.ts";
import { counted } from "./locale.ts";
import { wordsOf } from "./refusals.ts";
import { fill, type Problem, reasonIn } from "./words.ts";

/** What the service saw of a request. */
interface Seen {
  /** The client's address, as the service believes it. */
  address: string;
  socketAddress: string;
  /** What proxies wrote. */
  forwardedFor?: string;
  forwardedProto?: string;
  trustProxy: number;
  heartbeatSeconds: number;
  identity: "cookie" | "hash";
  host: string;
  /** The site that was asked about, when it is allowed. */
  site?: string;
}
interface Finding {
  result: "good" | "note" | "bad";
  words: string;
  /** Lines to paste into a configuration. */
  lines?: string | undefined;
}
type Token = { token: string; visitor?: string };

const OPEN_MS = 10_000;
const MARGIN_SECONDS = 3; // after two heartbeats, when a silent socket would have been closed

const good = (words: string): Finding => ({ result: "good", words });
const note = (words: string, lines?: string): Finding => ({ result: "note", words, lines });
const bad = (words: string, lines?: string): Finding => ({ result: "bad", words, lines });

// ---- What the service sees ----

function checkSite(asked: string, { site }: Seen): Finding {
  const url = siteUrl(asked);
  if (asked === "") return note(texts.enterSite);
  if (url === undefined) return bad(fill(texts.noSite, { asked }));
  if (site !== undefined) return good(fill(site === asked ? texts.allowed : texts.allowedAs, { asked, site }));
  return bad(fill(texts.notAllowed, { asked }), sitesLine(url));
}

function checkAddress({ address, socketAddress, forwardedFor = "", trustProxy }: Seen): Finding {
  const proxies = forwardedFor.split(",").filter((entry) => entry.trim() !== "").length;
  const values = { address, socketAddress, forwardedFor, trustProxy, proxies };
  if (proxies === 0 && location.protocol === "https:")
    return bad(
      fill(texts.silentProxy, values),
      `proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;  # nginx\nTRUST_PROXY=1`,
    );
  if (trustProxy === 0 && proxies > 0) return bad(fill(texts.untrustedProxy, values), `TRUST_PROXY=${proxies}`);
  if (trustProxy > proxies)
    return bad(fill(proxies === 0 ? texts.noProxy : texts.trustTooHigh, values), `TRUST_PROXY=${proxies}`);
  if (trustProxy < proxies) return note(fill(texts.trustTooLow, values), `TRUST_PROXY=${proxies}`);
  return good(proxies === 0 ? fill(texts.direct, values) : counted(texts.through, proxies, values));
}

function checkHttps({ forwardedProto, trustProxy }: Seen): Finding {
  const isKnown = trustProxy > 0 && forwardedProto?.split(",").at(-1)?.trim() === "https";
  if (location.protocol === "http:")
    return /^(localhost|127\..*|\[::1\])$/.test(location.hostname) ? note(texts.httpHere) : bad(texts.http);
  if (isKnown) return good(texts.https);
  const setting = `TRUST_PROXY=${Math.max(1, trustProxy)}`;
  return bad(
    texts.httpsUnknown,
    forwardedProto === "https" ? setting : `proxy_set_header X-Forwarded-Proto $scheme;  # nginx\n${setting}`,
  );
}

function checkHost({ host }: Seen): Finding {
  if (host === location.host) return good(fill(texts.sameHost, { host }));
  return bad(fill(texts.otherHost, { shown: location.host, host }), "proxy_set_header Host $http_host;  # nginx");
}

// ---- What this browser can do ----

async function requestToken(observe: boolean): Promise<Token> {
  const body = JSON.stringify({ page: "/check", observe });
  const answer = await fetch(`${base}token`, { method: "POST", credentials: "include", body });
  if (answer.ok) return answer.json();
  const problem: Problem = await answer.json().catch(() => ({}));
  const { title = `HTTP ${answer.status}`, detail = texts.notHeadcount } = problem;
  throw new Error(fill(texts.problem, { title: wordsOf(reasonIn(problem), title), detail }));
}

async function checkCookie({ identity }: Seen): Promise<Finding> {
  if (identity === "hash") return good(texts.noCookies);
  const [first, second] = [await requestToken(false), await requestToken(false)];
  return first.visitor === second.visitor ? good(texts.cookieBack) : note(texts.cookieDropped);
}

/** Resolves when the socket has received something; undefined when it does not open. */
function openSocket(token: string): Promise<WebSocket | undefined> {
  return new Promise((resolve) => {
    const socket = new WebSocket(`${base.replace("http", "ws")}ws?token=${token}`);
    socket.addEventListener("message", () => resolve(socket));
    socket.addEventListener("close", () => resolve(undefined));
    setTimeout(() => resolve(undefined), OPEN_MS);
  });
}

async function checkUpgrade(socket: WebSocket | undefined): Promise<Finding> {
  if (socket) return good(texts.opens);
  const { status } = await fetch(`${base}ws`);
  if (status === 426) return bad(texts.noUpgrade, UPGRADE_LINES);
  return bad(fill(texts.elsewhere, { address: `${base}ws`, status }));
}

async function checkTimeout(
  socket: WebSocket,
  { heartbeatSeconds }: Seen,
  tell: (words: string) => void,
): Promise<Finding> {
  const began = performance.now();
  const seconds = () => Math.round((performance.now() - began) / 1000);
  const needed = 2 * heartbeatSeconds + MARGIN_SECONDS;
  const countdown = setInterval(() => tell(fill(texts.waiting, { seconds: needed - seconds() })), 1000);
  const end = await new Promise<CloseEvent | undefined>((resolve) => {
    socket.addEventListener("close", resolve);
    setTimeout(() => resolve(undefined), needed * 1000);
  });
  clearInterval(countdown);
  socket.close();
  const lasted = seconds();
  const values = { seconds: lasted, heartbeatSeconds };
  if (end === undefined) return good(fill(texts.stillOpen, values));
  if (end.code === 1012) return note(texts.restarted);
  if (lasted > heartbeatSeconds + 1) return bad(fill(texts.pingsLost, values));
  return bad(
    fill(texts.impatient, values),
    `proxy_read_timeout ${Math.max(60, 2 * heartbeatSeconds)}s;  # nginx\nHEARTBEAT_SECONDS=${Math.max(1, Math.floor(lasted / 2))}`,
  );
}

// ---- The list ----

const results: Finding["result"][] = [];

/** Adds a line to the list. The line shows what the check says while it is busy, and what the check has found. */
async function show(
  title: string,
  check: (tell: (words: string) => void) => Finding | Promise<Finding>,
): Promise<void> {
  const item = document.createElement("li");
  const heading = document.createElement("h2");
  const words = document.createElement("p");
  heading.textContent = title;
  words.textContent = texts.trying;
  item.append(heading, words);
  byId("checks").append(item);
  const found = await Promise.resolve(check((text) => (words.textContent = text))).catch((error: Error) =>
    bad(error.message),
  );
  results.push(found.result);
  item.dataset["result"] = found.result;
  words.textContent = found.words;
  if (found.lines === undefined) return;
  const lines = document.createElement("pre");
  lines.textContent = found.lines;
  item.append(lines);
}

function sum(isDone: boolean): void {
  const wrong = results.filter((result) => result === "bad").length;
  const [works, isWrong] = isDone ? [texts.allWorks, texts.wrong] : [texts.allWorksSoFar, texts.wrongSoFar];
  byId("summary").textContent = wrong === 0 ? works : counted(isWrong, wrong);
}

async function run(asked: string): Promise<void> {
  const url = siteUrl(asked);
  const name = url && (asked.includes("://") || url.port ? url.origin : hostOf(url));
  const answer = await fetch(`${base}check/request?site=${encodeURIComponent(name ?? "")}`);
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  const seen: Seen = await answer.json();
  await show(texts.site, () => checkSite(asked, seen));
  await show(texts.address, () => checkAddress(seen));
  await show(texts.encryption, () => checkHttps(seen));
  await show(texts.host, () => checkHost(seen));
  let token: string | undefined;
  await show(texts.token, async () => {
    ({ token } = await requestToken(true));
    return good(texts.tokenGranted);
  });
  if (token === undefined) return;
  await show(texts.cookies, () => checkCookie(seen));
  const socket = await openSocket(token);
  await show(texts.webSocket, () => checkUpgrade(socket));
  sum(socket === undefined);
  if (socket) await show(texts.timeout, (tell) => checkTimeout(socket, seen, tell));
}

const input = byId("site") as HTMLInputElement;
input.value = new URLSearchParams(location.search).get("site")?.trim() ?? "";
byId("form").addEventListener("submit", (event) => {
  event.preventDefault(); // the policy of this page lets no form go anywhere
  location.search = `?site=${encodeURIComponent(input.value.trim())}`;
});
byId("snippet").textContent =
  `<span data-headcount>–</span> ${texts.onlineNow}\n<script async src="${base}widget.js"></script>`;
byId("policy").textContent = policyLines(base);
run(input.value).then(
  () => sum(true),
  (error: Error) => (byId("summary").textContent = fill(texts.noAnswer, { reason: error.message })),
);
