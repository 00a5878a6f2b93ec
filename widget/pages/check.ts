/**
 * The check page: tries from this browser what the widget does, and asks the service what it saw of that. It is an
 * observer, counted nowhere. Each check is a function that returns a finding; the list shows them as they come.
 */
import { hostOf, policyLines, siteUrl, sitesLine, UPGRADE_LINES } from "../advice.ts";

/** What the service saw of a request. */
interface Seen {
  /** The client's address, as the service believes it; that of the socket; and what proxies wrote about it. */
  address: string;
  socketAddress: string;
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
  /** To be pasted somewhere. */
  lines?: string | undefined;
}
type Token = { token: string; visitor?: string };

const OPEN_MS = 10_000;
const MARGIN_SECONDS = 3; // after two heartbeats, when a silent socket would have been closed

/** Without a user and a password from the address bar: `fetch` and `WebSocket` refuse those. */
const base = new URL(".", location.origin + location.pathname).href;
const good = (words: string): Finding => ({ result: "good", words });
const note = (words: string, lines?: string): Finding => ({ result: "note", words, lines });
const bad = (words: string, lines?: string): Finding => ({ result: "bad", words, lines });
const byId = (id: string) => document.getElementById(id)!;

// ---- What the service sees ----

function checkSite(asked: string, { site }: Seen): Finding {
  const url = siteUrl(asked);
  if (asked === "") return note("Enter the name of your site above to see whether its pages may use this service.");
  if (url === undefined) return bad(`“${asked}” is not the name of a site. An example is example.com.`);
  if (site !== undefined) return good(`${asked} is allowed${site === asked ? "" : `, and counted as ${site}`}.`);
  const words = `${asked} is not allowed: its pages get no number. Start the service with this setting; if SITES has entries already, add this one after a comma.`;
  return bad(words, sitesLine(url));
}

function checkAddress({ address, socketAddress, forwardedFor = "", trustProxy }: Seen): Finding {
  const proxies = forwardedFor.split(",").filter((entry) => entry.trim() !== "").length;
  const asOne = `all visitors seem to come from ${address}, and share what one address may do`;
  if (proxies === 0 && location.protocol === "https:")
    return bad(
      `This page came over https, so there is a proxy in front. That proxy does not say for whom it asks: ${asOne}.`,
      `proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;  # nginx\nTRUST_PROXY=1`,
    );
  if (trustProxy === 0 && proxies > 0)
    return bad(
      `There is a proxy in front (${forwardedFor} came with X-Forwarded-For), but the service does not trust it: ${asOne}.`,
      `TRUST_PROXY=${proxies}`,
    );
  if (trustProxy > proxies)
    return bad(
      proxies === 0
        ? `The service expects a proxy in front (TRUST_PROXY=${trustProxy}), and this request came by none, or by one that does not send X-Forwarded-For. As it is, anybody may claim any address.`
        : `TRUST_PROXY=${trustProxy} is too high: only ${proxies} in X-Forwarded-For (${forwardedFor}). As it is, visitors may claim any address.`,
      `TRUST_PROXY=${proxies}`,
    );
  if (trustProxy < proxies)
    return note(
      `The service takes ${address} for your address. If that is one of your proxies, TRUST_PROXY is too low: X-Forwarded-For was ${forwardedFor}.`,
      `TRUST_PROXY=${proxies}`,
    );
  const through =
    proxies === 0 ? "directly" : `through ${proxies === 1 ? "a proxy" : `${proxies} proxies`} (${socketAddress})`;
  return good(`You connect ${through}, and the service sees your address: ${address}.`);
}

function checkHttps({ forwardedProto, trustProxy }: Seen): Finding {
  const isKnown = trustProxy > 0 && forwardedProto?.split(",").at(-1)?.trim() === "https";
  if (location.protocol === "http:")
    return /^(localhost|127\..*|\[::1\])$/.test(location.hostname)
      ? note("This is plain http, which is fine on this machine. Pages over https need a service over https.")
      : bad("This is plain http. Pages over https cannot use the service: put a proxy with a certificate in front.");
  if (isKnown) return good("This page came over https, and the service knows it.");
  const setting = `TRUST_PROXY=${Math.max(1, trustProxy)}`;
  return bad(
    "This page came over https, but the service does not know it: its cookies do not work on other sites.",
    forwardedProto === "https" ? setting : `proxy_set_header X-Forwarded-Proto $scheme;  # nginx\n${setting}`,
  );
}

function checkHost({ host }: Seen): Finding {
  if (host === location.host) return good(`The service is asked for ${host}, as in your address bar.`);
  return bad(
    `You asked for ${location.host}, but the service is asked for ${host}, so it refuses its own pages.`,
    "proxy_set_header Host $http_host;  # nginx",
  );
}

// ---- What this browser can do ----

async function requestToken(observe: boolean): Promise<Token> {
  const body = JSON.stringify({ page: "/check", observe });
  const answer = await fetch(`${base}token`, { method: "POST", credentials: "include", body });
  if (answer.ok) return answer.json();
  const problem = await answer
    .json()
    .catch(() => ({ title: `HTTP ${answer.status}`, detail: "not an answer of Headcount" }));
  throw new Error(`${problem.title}: ${problem.detail}.`);
}

async function checkCookie({ identity }: Seen): Promise<Finding> {
  if (identity === "hash")
    return good("No cookie is needed: with IDENTITY=hash the service keeps nothing in browsers.");
  const [first, second] = [await requestToken(false), await requestToken(false)];
  if (first.visitor === second.visitor)
    return good(
      "Tested on the service's own site, where its cookie comes back. On your site it may be a third-party cookie, which some browsers drop. The widget then uses an id in your page's localStorage, and the count stays exact.",
    );
  return note(
    "Tested on the service's own site: this browser or a proxy drops the cookie. The widget then uses an id in your page's localStorage, and the count stays exact wherever pages may use that.",
  );
}

/** Resolves when it has said something; undefined when it cannot. */
function openSocket(token: string): Promise<WebSocket | undefined> {
  return new Promise((resolve) => {
    const socket = new WebSocket(`${base.replace("http", "ws")}ws?token=${token}`);
    socket.addEventListener("message", () => resolve(socket));
    socket.addEventListener("close", () => resolve(undefined));
    setTimeout(() => resolve(undefined), OPEN_MS);
  });
}

async function checkUpgrade(socket: WebSocket | undefined): Promise<Finding> {
  if (socket) return good("A WebSocket opens, and the first number arrives.");
  const { status } = await fetch(`${base}ws`);
  if (status === 426)
    return bad(
      "No WebSocket opens, although its address answers: a proxy in front drops the Upgrade header. In nginx:",
      UPGRADE_LINES,
    );
  return bad(`No WebSocket opens, and its address ${base}ws answers ${status}, not 426: a proxy sends it elsewhere.`);
}

async function checkTimeout(
  socket: WebSocket,
  { heartbeatSeconds }: Seen,
  tell: (words: string) => void,
): Promise<Finding> {
  const began = performance.now();
  const seconds = () => Math.round((performance.now() - began) / 1000);
  const needed = 2 * heartbeatSeconds + MARGIN_SECONDS;
  const countdown = setInterval(() => tell(`Waiting for two pings: ${needed - seconds()} s`), 1000);
  const end = await new Promise<CloseEvent | undefined>((resolve) => {
    socket.addEventListener("close", resolve);
    setTimeout(() => resolve(undefined), needed * 1000);
  });
  clearInterval(countdown);
  socket.close();
  const lasted = seconds();
  if (end === undefined)
    return good(
      `The connection is still open after ${lasted} s: the pings arrive (HEARTBEAT_SECONDS=${heartbeatSeconds}).`,
    );
  if (end.code === 1012) return note("The service was restarted in the meantime. Reload this page.");
  if (lasted > heartbeatSeconds + 1)
    return bad(`The connection was closed after ${lasted} s: the pings or their answers are lost on the way.`);
  return bad(
    `The connection was closed after ${lasted} s, before the first ping (HEARTBEAT_SECONDS=${heartbeatSeconds}): a proxy in front has a shorter timeout. Raise that timeout, or lower the setting:`,
    `proxy_read_timeout ${Math.max(60, 2 * heartbeatSeconds)}s;  # nginx\nHEARTBEAT_SECONDS=${Math.max(1, Math.floor(lasted / 2))}`,
  );
}

// ---- The list ----

const results: Finding["result"][] = [];

/** Adds a line to the list; what its check says while it is busy, and finds at last, is shown there. */
async function show(
  title: string,
  check: (tell: (words: string) => void) => Finding | Promise<Finding>,
): Promise<void> {
  const item = document.createElement("li");
  const heading = document.createElement("h2");
  const words = document.createElement("p");
  heading.textContent = title;
  words.textContent = "Trying …";
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
  const found = wrong === 0 ? "Everything works" : wrong === 1 ? "One thing is wrong" : `${wrong} things are wrong`;
  byId("summary").textContent = isDone ? `${found}.` : `${found} so far. The last check takes a minute.`;
}

async function run(asked: string): Promise<void> {
  const url = siteUrl(asked);
  const name = url && (asked.includes("://") || url.port ? url.origin : hostOf(url));
  const answer = await fetch(`${base}check/request?site=${encodeURIComponent(name ?? "")}`);
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  const seen: Seen = await answer.json();
  await show("Site", () => checkSite(asked, seen));
  await show("Your address", () => checkAddress(seen));
  await show("Encryption", () => checkHttps(seen));
  await show("Host name", () => checkHost(seen));
  let token: string | undefined;
  await show("Token", async () => {
    ({ token } = await requestToken(true));
    return good("The service grants this browser a token.");
  });
  if (token === undefined) return;
  await show("Cookies", () => checkCookie(seen));
  const socket = await openSocket(token);
  await show("WebSocket", () => checkUpgrade(socket));
  sum(socket === undefined);
  if (socket) await show("Proxy timeout", (tell) => checkTimeout(socket, seen, tell));
}

const input = byId("site") as HTMLInputElement;
input.value = new URLSearchParams(location.search).get("site")?.trim() ?? "";
byId("form").addEventListener("submit", (event) => {
  event.preventDefault(); // the policy of this page lets no form go anywhere
  location.search = `?site=${encodeURIComponent(input.value.trim())}`;
});
byId("snippet").textContent =
  `<p><span data-headcount>–</span> people here now</p>\n<script async src="${base}widget.js"></script>`;
byId("policy").textContent = policyLines(base);
run(input.value).then(
  () => sum(true),
  (error: Error) => (byId("summary").textContent = `The service does not answer (${error.message}).`),
);
