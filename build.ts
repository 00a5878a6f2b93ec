/**
 * widget/ → dist/: the widget, the pages with their styles and scripts put inline, and the service as one file.
 * Prints the sizes; fails when the widget is over its budget. Runs on Bun and on Deno.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { type BuildOptions, buildSync } from "esbuild";
import { Marked, type Tokens } from "marked";
import { minify_sync as minify } from "terser";
import { ASSETS, type Assets, DOCUMENTS, type Language, LANGUAGES } from "./edge/pages.ts";
import * as en from "./widget/pages/texts/en.ts";
import * as zh from "./widget/pages/texts/zh.ts";

/** Bytes of Brotli, paid by every visitor of every site. Lower a budget when its script gets smaller; never raise it. */
const BUDGETS: Record<string, number> = { "widget.js": 1600, "busuanzi.js": 2200 };

/**
 * The letters of minified names in the widget, in the order of use. Terser's own order takes 27 bytes more of Brotli.
 * A random search found this one among 30,000. It fits this text of the widget: after a larger change, search again.
 */
const LETTERS = "rtolv_dMpzQuxiqLcafKOeyJNmZwYUnXsAWkTHbChVDGRSE$IgjPFB";

/** What stands for `{{language}}` in a page, and in the name of a translated document. */
const LANGUAGE_TAGS: Record<Language, string> = { en: "en", zh: "zh-CN" };
/** The file that stands for `#texts` in the script of a page. */
const textsFile = (language: Language) => `./widget/pages/texts/${language}.ts`;
/** zh.ts checks the texts of each section. When it lacks a whole section, this line does not compile. */
const TEXTS: Record<Language, Record<keyof typeof en, object>> = { en, zh };

/** The language whose ending the name of a file has. A file without such an ending is English. */
const languageOf = (name: string, endingOf: (language: Language) => string): Language =>
  LANGUAGES.find((language) => name.endsWith(endingOf(language))) ?? "en";

const here = import.meta.dirname;
const { version } = JSON.parse(readFileSync(join(here, "package.json"), "utf8")) as { version: string };
const read = (path: string) => readFileSync(join(here, path), "utf8");

/** One entry point and all it imports, as one text, and the files that went into it. */
function bundleWithInputs(entry: string, options: BuildOptions): { text: string; inputs: string[] } {
  const { outputFiles, metafile } = buildSync({
    metafile: true,
    absWorkingDir: here,
    entryPoints: [entry],
    bundle: true,
    write: false,
    legalComments: "none",
    charset: "utf8", // a Chinese character takes 3 bytes so, and 6 as an escape
    logLevel: "error",
    ...options,
  });
  return { text: outputFiles![0]!.text.trim(), inputs: Object.keys(metafile!.inputs) };
}

const bundle = (entry: string, options: BuildOptions) => bundleWithInputs(entry, options).text;

/** The licences of the packages that the files belong to, since the bundle contains their code. */
function notices(files: string[]): string {
  const packages = new Set(files.flatMap((file) => /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(file)?.[1] ?? []));
  const entries = Array.from(packages, (folder) => {
    const { name, version: packageVersion, license } = JSON.parse(read(`${folder}/package.json`));
    const file = readdirSync(join(here, folder)).find((entry) => /^licen[cs]e/i.test(entry));
    return `${name} ${packageVersion} (${license})\n\n${file === undefined ? "" : read(`${folder}/${file}`).trim()}`;
  });
  return `dist/server.js contains code of these packages.\n\n${entries.toSorted().join(`\n\n${"-".repeat(80)}\n\n`)}\n`;
}

/** A minified script or style sheet for browsers. A script adds no names to the page. */
export function browser(entry: string, language: Language = "en"): string {
  // Without `tsconfigRaw`, esbuild writes "use strict" into every script, as tsconfig.json asks: bytes without effect.
  const format = entry.endsWith("debug.ts") ? "esm" : "iife"; // the widget imports that one, so it is a module
  const alias = { "#texts": textsFile(language) };
  const text = bundle(entry, { minify: true, format, target: "es2020", tsconfigRaw: "{}", alias });
  if (!/(widget|busuanzi)\.ts$/.test(entry)) return text;
  return minify(text, { ecma: 2020, mangle: { nth_identifier: { get: nthName } } }).code!; // 50 bytes less, in every page
}

function nthName(index: number): string {
  const letter = LETTERS[index % LETTERS.length]!;
  return index < LETTERS.length ? letter : letter + nthName(Math.floor(index / LETTERS.length));
}

/**
 * A page as one text: `<link rel="stylesheet" href="x.css">` and `<script src="x.ts"></script>` of its own folder become
 * inline elements with the nonce that a strict CSP asks for, its icon a `data:` URL, and `{{section.key}}` a text of the
 * language. The service fills `{{nonce}}` and `{{origin}}` in.
 */
function page(entry: string, language: Language): string {
  const file = (name: string) => join(dirname(entry), name);
  return read(entry)
    .replace("{{language}}", LANGUAGE_TAGS[language])
    .replace(/\{\{(\w+)\.(\w+)\}\}/g, (_, section: keyof typeof en, key: string) => {
      const text: unknown = Object.entries(TEXTS[language][section] ?? {}).find(([name]) => name === key)?.[1];
      if (typeof text !== "string") throw new Error(`Cannot build ${entry}: there is no text ${section}.${key}`);
      return text;
    })
    .replace('"icon.svg"', () => `"data:image/svg+xml,${encodeURIComponent(read(file("icon.svg")).trim())}"`)
    .replace(/<link rel="stylesheet" href="([\w.-]+\.css)" *\/?>/g, (_, name) => {
      return `<style nonce="{{nonce}}">${browser(file(name))}</style>`;
    })
    .replace(/<script src="([\w.-]+\.ts)"><\/script>/g, (_, name) => {
      return `<script nonce="{{nonce}}">${browser(file(name), language)}</script>`;
    })
    .replace(/<!--[^]*?-->/g, "")
    .replace(/\n\s+/g, "\n");
}

/** The name that GitHub gives to a heading, which links go to. */
const anchorOf = (heading: string) =>
  heading
    .replace(/<[^>]*>|&#?\w+;/g, "")
    .toLowerCase()
    .replace(/[^\p{L}\p{M}\p{N}\s_-]/gu, "")
    .replaceAll(" ", "-");

/** Where a link of a document leads, below the address of the service; undefined for a file that is not served. */
function documentAddress(link: string, from: string): string | undefined {
  const [path = "", anchor] = link.split("#");
  const target = DOCUMENTS.find((name) => name === join(dirname(from), path));
  return target && `{{root}}docs/${basename(target)}${anchor === undefined ? "" : `#${anchor}`}`;
}

/** A Markdown document as a page, without pictures, HTML, and links to files that are not served. */
function documentPage(name: string): string {
  const markdown = new Marked({
    renderer: {
      html: () => "",
      image: () => "",
      heading({ tokens, depth }: Tokens.Heading) {
        const words = this.parser.parseInline(tokens);
        return `<h${depth} id="${anchorOf(words)}">${words}</h${depth}>\n`;
      },
      link({ href, tokens }: Tokens.Link) {
        const address = /^(https?:|#)/.test(href) ? href : documentAddress(href, name);
        const words = this.parser.parseInline(tokens);
        return address === undefined ? words : `<a href="${address.replaceAll("&", "&amp;")}">${words}</a>`;
      },
    },
  });
  const body = markdown.parse(read(name), { async: false });
  const title = /<h1[^>]*>(.*?)<\/h1>/.exec(body)?.[1] ?? name;
  const language = languageOf(name, (own) => `.${LANGUAGE_TAGS[own]}.md`);
  return page("widget/pages/document.html", language)
    .replace("{{title}}", () => title)
    .replace("{{body}}", () => body);
}

/** The service as one file. Modules of the runtimes stay outside. `BUNDLED` holds the assets, `VERSION` the version. */
function service(entry: string, assets: Assets): { text: string; inputs: string[] } {
  return bundleWithInputs(entry, {
    platform: "node",
    format: "esm",
    target: "esnext",
    external: ["bun", "bun:*"],
    define: { BUNDLED: JSON.stringify(assets), VERSION: JSON.stringify(version) },
    alias: { "jsonc-parser": "jsonc-parser/lib/esm/main.js" }, // its main file loads parts by names that bundlers do not see
    // CommonJS packages ask for runtime modules by `require`, which a module does not have on Deno.
    banner: {
      js: '#!/usr/bin/env bun\nif (typeof Bun === "undefined" && typeof Deno === "undefined") {\n  console.error("Headcount runs on Bun or Deno, not on Node: start it with `bun server.js`, or with `npx headcount`.");\n  process.exit(1);\n}\nimport { createRequire } from "node:module";\nconst require = createRequire(import.meta.url);',
    },
  });
}

/** Prints the size of each file: as it is, with gzip, and with Brotli at the highest quality, which is Node's default. */
function report(files: Record<string, string>) {
  const rows = Object.entries(files).map(([name, text]) => [
    name,
    Buffer.byteLength(text),
    gzipSync(text, { level: 9 }).length,
    brotliCompressSync(text).length,
  ]);
  for (const [name, ...sizes] of [["dist/", "bytes", "gzip", "brotli"], ...rows]) {
    console.log(String(name).padEnd(25) + sizes.map((size) => String(size).padStart(10)).join(""));
  }
}

/** The text of an asset: x.js comes from widget/x.ts, x.zh.html from widget/pages/x.html, and x.md.html from x.md. */
function asset(name: (typeof ASSETS)[number]): string {
  if (name.endsWith(".js")) return browser(`widget/${name.replace(/js$/, "ts")}`);
  if (name.endsWith(".md.html")) return documentPage(name.replace(/\.html$/, ""));
  const language = languageOf(name, (own) => `.${own}.html`);
  return page(`widget/pages/${name.replace(/\.\w+\.html$/, ".html")}`, language);
}

function main() {
  const assets = Object.fromEntries(ASSETS.map((name) => [name, asset(name)])) as Assets;
  const server = service("server.ts", assets);
  const files: Record<string, string> = {
    ...assets,
    "server.js": server.text,
    "THIRD-PARTY-NOTICES.txt": notices(server.inputs),
  };

  mkdirSync(join(here, "dist/docs"), { recursive: true });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(here, "dist", name), text);
  report(files);

  for (const [name, budget] of Object.entries(BUDGETS)) {
    const over = brotliCompressSync(files[name]!).length - budget;
    if (over <= 0) continue;
    console.error(`Cannot ship ${name}: ${over} bytes over its budget of ${budget} (Brotli)`);
    process.exit(1);
  }
}

if (import.meta.main) main();
