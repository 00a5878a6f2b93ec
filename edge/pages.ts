/** The service's own pages and scripts, as build.ts made them. */

import { createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { brotliCompressSync, gzipSync } from "node:zlib";
import type { Context, Env, Handler, Hono } from "hono";
import { ownOrigin } from "./names.ts";

/** Files made by build.ts. The bundled server carries them inside; from source they are read from `dist/`. */
export const ASSETS = [
  "widget.js",
  "busuanzi.js",
  "list.js",
  "debug.js",
  "home.html",
  "dashboard.html",
  "check.html",
  "README.md",
] as const;
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
  const accepts = (name: string) => new RegExp(`(^|[\\s,])${name}(?!\\s*;\\s*q=0(\\.0*)?\\s*(,|$))\\b`).test(header);
  return accepts("br") ? "br" : accepts("gzip") ? "gzip" : "identity";
}

const escapeHtml = (text: string) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

/**
 * Adds the routes of the scripts and of the service's own pages. The pages run and load nothing but what came with them.
 * @param trustProxy how many proxies are trusted to say whether the browser used https
 */
export function addOwnPages<E extends Env>(app: Hono<E>, assets: Assets, trustProxy: number): void {
  const page = (name: keyof Assets) => (c: Context) => {
    const nonce = randomBytes(16).toString("base64");
    const origin = escapeHtml(ownOrigin(c, trustProxy));
    c.header("Content-Security-Policy", CSP.replaceAll("{{nonce}}", nonce));
    c.header("X-Content-Type-Options", "nosniff");
    c.header("Cache-Control", "no-store");
    return c.html(assets[name].replaceAll("{{nonce}}", nonce).replaceAll("{{origin}}", () => origin));
  };
  for (const name of ["widget.js", "list.js", "debug.js"] as const) app.get(`/${name}`, scriptHandler(assets[name]));
  const busuanzi = scriptHandler(assets["busuanzi.js"]);
  for (const path of BUSUANZI_PATHS) app.get(path, busuanzi);
  app.get("/", page("home.html"));
  app.get("/check", page("check.html"));
  app.get("/docs", (c) => c.body(assets["README.md"], 200, { "Content-Type": "text/plain; charset=utf-8" }));
  app.get("/dashboard", page("dashboard.html"));
}
