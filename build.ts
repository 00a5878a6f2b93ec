/**
 * widget/ → dist/: the widget, the pages with their styles and scripts put inline, and the service as one file.
 * Prints the sizes; fails when the widget is over its budget. Runs on Bun and on Deno.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { type BuildOptions, buildSync } from "esbuild";
import { minify_sync as minify } from "terser";
import { ASSETS, type Assets } from "./edge/pages.ts";

/** Bytes of Brotli, paid by every visitor of every site. Lower it when the widget gets smaller; never raise it. */
const WIDGET_BUDGET = 1470;

const here = import.meta.dirname;
const read = (path: string) => readFileSync(join(here, path), "utf8");

/** One entry point and all it imports, as one text. */
function bundle(entry: string, options: BuildOptions): string {
  const { outputFiles } = buildSync({
    absWorkingDir: here,
    entryPoints: [entry],
    bundle: true,
    write: false,
    legalComments: "none",
    logLevel: "error",
    ...options,
  });
  return outputFiles![0]!.text.trim();
}

/** A script or a style sheet for browsers: minified, and the script without names of its own in the page. */
export function browser(entry: string): string {
  // Without `tsconfigRaw`, esbuild writes "use strict" into every script, as tsconfig.json asks: bytes without effect.
  const format = entry.endsWith("debug.ts") ? "esm" : "iife"; // the widget imports that one, so it is a module
  const text = bundle(entry, { minify: true, format, target: "es2020", tsconfigRaw: "{}" });
  if (!entry.endsWith("widget.ts")) return text;
  return minify(text, { ecma: 2020 }).code!; // another look at it saves 25 bytes more, in every page
}

/**
 * A page as one text: `<link rel="stylesheet" href="x.css">` and `<script src="x.ts"></script>` of its own folder become
 * inline elements with the nonce that a strict CSP asks for, and its icon a `data:` URL. The service fills `{{nonce}}`
 * and `{{origin}}` in.
 */
function page(entry: string): string {
  const file = (name: string) => join(dirname(entry), name);
  return read(entry)
    .replace('"icon.svg"', () => `"data:image/svg+xml,${encodeURIComponent(read(file("icon.svg")).trim())}"`)
    .replace(/<link rel="stylesheet" href="([\w.-]+\.css)" *\/?>/g, (_, name) => {
      return `<style nonce="{{nonce}}">${browser(file(name))}</style>`;
    })
    .replace(/<script src="([\w.-]+\.ts)"><\/script>/g, (_, name) => {
      return `<script nonce="{{nonce}}">${browser(file(name))}</script>`;
    })
    .replace(/<!--[^]*?-->/g, "")
    .replace(/\n\s+/g, "\n");
}

/** The service with all it needs inside: runtime modules stay outside, and `BUNDLED` holds the assets. */
function service(entry: string, assets: Assets): string {
  return bundle(entry, {
    platform: "node",
    format: "esm",
    target: "esnext",
    external: ["bun", "bun:*"],
    define: { BUNDLED: JSON.stringify(assets), VERSION: JSON.stringify(JSON.parse(read("package.json")).version) },
    alias: { "jsonc-parser": "jsonc-parser/lib/esm/main.js" }, // its main file loads parts by names that bundlers do not see
    // CommonJS packages ask for runtime modules by `require`, which a module does not have on Deno.
    banner: {
      js: '#!/usr/bin/env bun\nimport { createRequire } from "node:module";\nconst require = createRequire(import.meta.url);',
    },
  });
}

/** Bytes as they are, by gzip, and by Brotli at its highest quality, which is Node's default. */
function report(files: Record<string, string>) {
  const rows = Object.entries(files).map(([name, text]) => [
    name,
    Buffer.byteLength(text),
    gzipSync(text, { level: 9 }).length,
    brotliCompressSync(text).length,
  ]);
  for (const [name, ...sizes] of [["dist/", "bytes", "gzip", "brotli"], ...rows]) {
    console.log(String(name).padEnd(12) + sizes.map((size) => String(size).padStart(10)).join(""));
  }
}

/** The text of an asset: x.js is bundled from widget/x.ts, x.html from widget/pages/x.html; others stay as they are. */
function asset(name: (typeof ASSETS)[number]): string {
  if (name.endsWith(".js")) return browser(`widget/${name.replace(/js$/, "ts")}`);
  if (name.endsWith(".html")) return page(`widget/pages/${name}`);
  return read(name.endsWith(".md") ? name : `widget/${name}`);
}

function main() {
  const assets = Object.fromEntries(ASSETS.map((name) => [name, asset(name)])) as Assets;
  const files: Record<string, string> = { ...assets, "server.js": service("server.ts", assets) };

  mkdirSync(join(here, "dist"), { recursive: true });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(here, "dist", name), text);
  report(files);

  const over = brotliCompressSync(files["widget.js"]!).length - WIDGET_BUDGET;
  if (over > 0) {
    console.error(`Cannot ship widget.js: ${over} bytes over its budget of ${WIDGET_BUDGET} (Brotli)`);
    process.exit(1);
  }
}

if (import.meta.main) main();
