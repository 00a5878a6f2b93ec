/** Sites with the widget on them, for real browsers, and what a reader sees there. */
import { join, normalize } from "node:path";
import type { Tab } from "./engines.ts";
import { pathOf } from "./needs.ts";
import { PATIENCE_MS, sleep, until } from "./waiting.ts";

export interface Site {
  readonly port: number;
  readonly url: string;
}

/** Gives the page at an address: a whole answer, or HTML. */
export type Pages = (
  url: URL,
  request: Request,
) => Response | string | undefined | Promise<Response | string | undefined>;

const servers = new Set<{ stop: (now: boolean) => unknown }>();

export const authorsText = "–";

/** What a site owner pastes. */
export const tag = (server: string, attributes = ""): string =>
  `<p><span data-headcount>${authorsText}</span> online now</p>\n<script async ${attributes} src="${server}/widget.js"></script>`;

/**
 * Keeps what the widget warns of in `warned`, and what it asks for in `asked`, since not every driver tells. For the top
 * of a page.
 */
export const recorder = `<script nonce="test">{
  globalThis.warned = [];
  globalThis.asked = [];
  const { warn } = console;
  console.warn = (...words) => {
    if (/headcount/i.test(words.join(" "))) warned.push(words.join(" "));
    warn(...words);
  };
  const { fetch } = globalThis;
  globalThis.fetch = (url, init) => {
    asked.push(String(url));
    return fetch(url, init);
  };
}</script>`;

/** Starts a site. */
export function serve(pages: Pages, headers: Record<string, string> = {}): Site {
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      const answer = await pages(new URL(request.url), request);
      if (answer instanceof Response) return answer;
      if (answer === undefined) return new Response("not found", { status: 404 });
      return new Response(answer, { headers: { "content-type": "text/html; charset=utf-8", ...headers } });
    },
  });
  servers.add(server);
  const port = server.port ?? 0;
  return { port, url: `http://127.0.0.1:${port}` };
}

/** For `afterAll` of a file. */
export function endSites(): void {
  for (const server of servers) server.stop(true);
  servers.clear();
}

/** Pages that this project did not write: npm's own documentation. */
export const documentationPages = [
  "/commands/npm-ls.html",
  "/commands/npm-explain.html",
  "/configuring-npm/folders.html",
] as const;

/** A site of npm's documentation with this in each page's <body>, except those asked for with `?plain`. */
export function serveDocumentation(pasted: string, headers: Record<string, string> = {}): Site {
  const folder = pathOf("npm's HTML documentation");
  return serve(async ({ pathname, search }) => {
    const file = Bun.file(join(folder, normalize(pathname)));
    if (!(await file.exists())) return undefined;
    const text = await file.text();
    return search === "?plain" ? text : text.replace("<body>", `<body>\n${pasted}`);
  }, headers);
}

/** What the first element shows, such as "12 live"; "" while the page is loading. */
export const look = (tab: Tab, selector = "[data-headcount]"): Promise<string> =>
  tab
    .evaluate<string>(
      `(({ textContent, dataset }) => textContent + " " + (dataset.headcountState ?? ""))(document.querySelector(${JSON.stringify(selector)}))`,
    )
    .catch(() => ""); // between two pages there is nothing to ask

/** Waits until the element shows the number and the state. */
export async function shows(
  tab: Tab,
  wanted: string,
  { ms = PATIENCE_MS, selector = "[data-headcount]" } = {},
): Promise<void> {
  let last = "";
  await until(`${selector} shows "${wanted}"`, async () => (last = await look(tab, selector)) === wanted, ms).catch(
    (error: unknown) => Promise.reject(new Error(`${String(error)}; it shows "${last}"`)),
  );
}

/** Whatever the first element changes to from now on: number and state. */
export async function record(tab: Tab): Promise<() => Promise<string[]>> {
  await tab.evaluate(`(() => {
    const target = document.querySelector("[data-headcount]");
    const look = () => target.textContent + " " + target.dataset.headcountState;
    globalThis.seen = [look()];
    const see = () => void (seen.at(-1) !== look() && seen.push(look()));
    new MutationObserver(see).observe(target, { attributes: true, childList: true, characterData: true, subtree: true });
  })()`);
  return () => tab.evaluate("seen.slice(1)");
}

/** What the widget has warned of on a page with the recorder. */
export const warnings = (tab: Tab): Promise<string[]> => tab.evaluate<string[]>("warned").catch(() => []);

/** Waits for a warning of the widget, then for what it might still do, and gives all warnings and requests. */
export async function settled(tab: Tab, ms = 4000): Promise<{ warned: string[]; asked: string[] }> {
  await until("a warning", async () => (await warnings(tab)).length > 0, 10_000);
  await sleep(ms);
  return tab.evaluate("({ warned, asked })");
}
