/** The texts of the service's own pages: each language has what the other has, and nothing that no page uses. */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { REFUSALS } from "../../edge/guard.ts";
import * as en from "../../widget/pages/texts/en.ts";
import * as zh from "../../widget/pages/texts/zh.ts";

const widget = join(import.meta.dir, "../../widget");
const read = (file: string): string => readFileSync(join(widget, file), "utf8");
const html = readdirSync(join(widget, "pages")).filter((file) => file.endsWith(".html"));
const inHtml = html.map((file) => read(`pages/${file}`)).join("\n");

type Text = string | { one?: string; other: string };
/** Each text of a language as `[section.key, forms]`. */
const textsOf = (language: Record<string, Record<string, Text>>): [name: string, forms: string[]][] =>
  Object.entries(language).flatMap(([section, texts]) =>
    Object.entries(texts).map(([key, text]): [string, string[]] => [
      `${section}.${key}`,
      typeof text === "string" ? [text] : Object.values(text),
    ]),
  );
const english = textsOf(en);
const chinese = new Map(textsOf(zh));

/** A section of a page's HTML is named like `homePage`, and that of its script like `home`. */
const isUsed = (name: string): boolean => {
  const [section = "", key = ""] = name.split(".");
  if (section.endsWith("Page")) return inHtml.includes(`{{${name}}}`);
  if (section === "refusals") return key in REFUSALS;
  const file = section === "debug" ? "debug.ts" : `pages/${section}.ts`;
  return new RegExp(`\\btexts\\.${key}\\b`).test(read(file));
};

const placesOf = (text: string): string[] => Array.from(text.matchAll(/\{\w+\}/g), ([place]) => place).toSorted();

test("texts: both languages have the same texts, and each one is used", () => {
  expect([...chinese.keys()].toSorted()).toEqual(english.map(([name]) => name).toSorted());
  expect(english.filter(([name]) => !isUsed(name)).map(([name]) => name)).toEqual([]);
});

test("texts: each reason to refuse a request has words", () => {
  expect(Object.keys(en.refusals).toSorted()).toEqual(Object.keys(REFUSALS).toSorted());
});

test("texts: both languages have places for the same values", () => {
  for (const [name, forms] of english) {
    const places = placesOf(forms.at(-1)!);
    for (const form of chinese.get(name)!) expect([name, placesOf(form)]).toEqual([name, places]);
    for (const form of forms) expect([name, places]).toEqual([name, expect.arrayContaining(placesOf(form))]); // "one thing"
  }
});

test("texts: Chinese is written in Chinese, but for names", () => {
  const same = english.flatMap(([name, [text]]) => (chinese.get(name)?.[0] === text ? [text] : []));
  expect(new Set(same)).toEqual(new Set(["JSON", "WebSocket", "p90"]));
});

test("texts: HTML has no words of its own", () => {
  for (const file of html) {
    const words = read(`pages/${file}`)
      .replace(/<!--[^]*?-->|<code[^>]*>[^]*?<\/code>|<[^>]+>|\{\{[\w.]+\}\}/g, " ")
      .replace(/Headcount|–/g, " ");
    expect([file, words.trim()]).toEqual([file, ""]);
  }
});
