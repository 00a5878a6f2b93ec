/** The service's own pages and scripts, as build.ts made them. */

import { createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { brotliCompressSync, gzipSync } from "node:zlib";
import type { Context, Env, Handler, Hono } from "hono";
import { parseAccept } from "hono/utils/accept";
import { escapeMarkup } from "../shared/markup.ts";
import { type AllowedSites, hostOf, ownOrigin, queryOf, webUrl } from "./names.ts";
import type { RequestEnv } from "./runtimes.ts";
import type { Settings } from "./settings.ts";

/** The languages of the pages, by the subtag that browsers ask for. */
export const LANGUAGES = ["en", "zh"] as const;
export type Language = (typeof LANGUAGES)[number];

const SCRIPTS = ["widget.js", "busuanzi.js", "list.js", "debug.js"] as const;
export const PAGES = ["home", "check", "dashboard"] as const;
/** What `/docs` serves, besides the README in two languages. */
export const DOCUMENTS = [
  "README.md",
  "README.zh-CN.md",
  "SECURITY.md",
  "CHANGELOG.md",
  "docs/busuanzi.md",
  "docs/frameworks.md",
  "docs/nodes.md",
  "docs/operate.md",
  "docs/proxies.md",
  "docs/recipes.md",
] as const;

const inLanguage = (page: (typeof PAGES)[number], language: Language) => `${page}.${language}.html` as const;
const asPage = (document: (typeof DOCUMENTS)[number]) => `${document}.html` as const;

/** Files made by build.ts. The bundled server carries them inside; from source they are read from `dist/`. */
export const ASSETS = [
  ...SCRIPTS,
  ...PAGES.flatMap((page) => LANGUAGES.map((language) => inLanguage(page, language))),
  ...DOCUMENTS.map(asPage),
];
export type Assets = Record<(typeof ASSETS)[number], string>;

declare const BUNDLED: Assets | undefined;
declare const VERSION: string | undefined;

const textOf = (path: string) => readFileSync(new URL(`../${path}`, import.meta.url), "utf8");

export function readAssets(): Assets {
  if (typeof BUNDLED !== "undefined") return BUNDLED;
  return Object.fromEntries(ASSETS.map((name) => [name, textOf(`dist/${name}`)])) as Assets;
}

/** The version of this service. From source it is read from package.json. */
export const readVersion = (): string =>
  typeof VERSION === "undefined" ? (JSON.parse(textOf("package.json")) as { version: string }).version : VERSION;

/** Themes append `busuanzi.pure.mini.js` or `js` to the address that an owner sets. */
const BUSUANZI_PATHS = ["/busuanzi.js", "/busuanzi.pure.mini.js", "/js"];

const CSP =
  "default-src 'none'; script-src 'self' 'nonce-{{nonce}}'; style-src 'nonce-{{nonce}}'; connect-src 'self'; " +
  "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** Serves a script, compressed once at the start. */
function scriptHandler(text: string): Handler {
  const identity = Buffer.from(text);
  const bodies = { identity, br: brotliCompressSync(identity), gzip: gzipSync(identity, { level: 9 }) };
  const tag = `"${createHash("sha256").update(text).digest("base64url").slice(0, 22)}"`;
  const headers = { ETag: tag, "Cache-Control": "public, max-age=3600", Vary: "Accept-Encoding" };
  return (c) => {
    if (c.req.header("if-none-match")?.includes(tag)) return c.body(null, 304, headers);
    const encoding = acceptedEncoding(c.req.header("accept-encoding"));
    if (encoding !== "identity") c.header("Content-Encoding", encoding);
    return c.body(bodies[encoding], 200, { ...headers, "Content-Type": "text/javascript; charset=utf-8" });
  };
}

/** The best of our encodings that the client accepts (RFC 9110, 12.5.3). */
function acceptedEncoding(header = ""): "br" | "gzip" | "identity" {
  const isAccepted = (name: string) => new RegExp(`(^|[\\s,])${name}(?!\\s*;\\s*q=0(\\.0*)?\\s*(,|$))\\b`).test(header);
  return isAccepted("br") ? "br" : isAccepted("gzip") ? "gzip" : "identity";
}

const isLanguage = (tag: string): tag is Language => LANGUAGES.some((own) => own === tag);

/** The first language that the browser asks for and that there is (RFC 9110, 12.5.4). */
function languageOf(c: Context): Language {
  const accepted = parseAccept(c.req.header("accept-language") ?? "").filter(({ q }) => q > 0);
  const byPreference = accepted.toSorted((a, b) => b.q - a.q);
  return byPreference.map(({ type }) => type.toLowerCase().replace(/-.*/, "")).find(isLanguage) ?? "en";
}

/**
 * Adds the routes of the scripts and of the service's own pages. The pages run and load nothing but what came with them.
 * @param trustProxy how many proxies are trusted to say whether the browser used https
 */
export function addOwnPages<E extends Env>(app: Hono<E>, assets: Assets, trustProxy: number): void {
  const send = (c: Context, html: string) => {
    const nonce = randomBytes(16).toString("base64");
    const origin = escapeMarkup(ownOrigin(c, trustProxy));
    c.header("Content-Security-Policy", CSP.replaceAll("{{nonce}}", nonce));
    c.header("X-Content-Type-Options", "nosniff");
    c.header("Cache-Control", "no-store");
    c.header("Vary", "Accept-Language");
    return c.html(html.replaceAll("{{nonce}}", nonce).replaceAll("{{origin}}", () => origin));
  };
  const page = (name: (typeof PAGES)[number]) => (c: Context) => send(c, assets[inLanguage(name, languageOf(c))]);
  for (const name of ["widget.js", "list.js", "debug.js"] as const) app.get(`/${name}`, scriptHandler(assets[name]));
  const busuanzi = scriptHandler(assets["busuanzi.js"]);
  for (const path of BUSUANZI_PATHS) app.get(path, busuanzi);
  app.get("/", page("home"));
  app.get("/check", page("check"));
  app.get("/dashboard", page("dashboard"));
  // Links in a document begin with {{root}}: the way from its address to the address of the service.
  const document = (name: (typeof DOCUMENTS)[number], root: string) =>
    assets[asPage(name)].replaceAll("{{root}}", root);
  const readme = { en: document("README.md", ""), zh: document("README.zh-CN.md", "") };
  app.get("/docs", (c) => send(c, readme[languageOf(c)]));
  for (const name of DOCUMENTS) {
    const html = document(name, "../");
    app.get(`/docs/${basename(name)}`, (c) => send(c, html));
  }
}

/**
 * `GET /check/request`: what the service sees of a request. The page /check compares it with what the browser sees. A
 * foreign page is told only whether a site is allowed, and nothing about its reader.
 */
export function addCheckRoute<Connection>(
  app: Hono<RequestEnv<Connection>>,
  settings: Settings,
  allowedSites: AllowedSites,
): void {
  app.get("/check/request", (c) => {
    const asked = queryOf(c, "site") ?? "";
    const host = hostOf(c);
    const site = allowedSites.byName(asked, host) ?? allowedSites.byOrigin(webUrl(asked), host);
    const asking = c.req.header("origin"); // which every foreign page sends
    if (asking !== undefined && asking !== ownOrigin(c, settings.TRUST_PROXY)) return c.json({ site });
    return c.json({
      address: c.get("address"),
      socketAddress: c.env.address,
      forwardedFor: c.req.header("x-forwarded-for"),
      forwardedProto: c.req.header("x-forwarded-proto"),
      trustProxy: settings.TRUST_PROXY,
      heartbeatSeconds: settings.HEARTBEAT_SECONDS,
      identity: settings.IDENTITY,
      host,
      site,
    });
  });
}
