/** Both READMEs against each other and against the program, and the configuration files in the documentation. */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { readSettings } from "../../edge/settings.ts";
import { DOCUMENTS } from "../../edge/pages.ts";

const root = join(import.meta.dir, "../..");
const read = (file: string): string => readFileSync(join(root, file), "utf8");
const english = read("README.md");
const chinese = read("README.zh-CN.md");

/** The rows of each table of a document, each as its cells. */
function tablesOf(text: string): string[][][] {
  const tables = text.match(/(?:^\|.*\|\n)+/gm) ?? [];
  return tables.map(
    (table) =>
    table
      .trim()
      .split("\n")
      .map((row) => row.slice(1, -1).split("|").map((cell) => cell.trim())), // prettier-ignore
  );
}
const codesOf = (text = ""): string[] => Array.from(text.matchAll(/`([^`]+)`/g), ([, code]) => code!);

/** Name and default of each setting; a default that is said in words is undefined. */
function settingsOf(text: string): Map<string, string | undefined> {
  const table = tablesOf(text).find((rows) => rows.some(([name]) => name === "`SITES`"))!;
  return new Map(
    table
      .slice(2)
      .flatMap(([names, defaults]) => codesOf(names).map((name, index) => [name, codesOf(defaults)[index]])),
  );
}

test("readme: both languages name the same settings with the same defaults", () => {
  expect([...settingsOf(chinese)]).toEqual([...settingsOf(english)]);
});

test("readme: the settings are those of the program, with its defaults", () => {
  const withoutDefault = {
    ADMIN_PASSWORD: "x".repeat(8),
    REDIS_URL: "redis://a",
    SECRET: "x".repeat(32),
    SITES: "a.example",
  };
  const settings = readSettings(withoutDefault) as unknown as Record<string, unknown>;
  const named = settingsOf(english);
  expect([...named.keys()].toSorted()).toEqual(Object.keys(settings).toSorted());
  for (const [name, text] of named)
    if (text !== undefined) expect([name, text]).toEqual([name, String(settings[name])]);
});

test("readme: both languages have the same parts, pictures, elements and attributes", () => {
  const shapeOf = (text: string): object => ({
    elements: text.match(/^\| `<span data-headcount[^|]*(?=\|)/gm),
    attributes: text.match(/^\| `data-[\w-]+`/gm),
    links: [...new Set(text.match(/(?<=\]\()[\w/.-]+\.md(?=[#)])/g))]
      .filter((link) => !link.startsWith("README"))
      .toSorted(),
    pictures: text.match(/(?<=docs\/pictures\/)[\w-]+/g),
    figures: tablesOf(text).at(-4)!.slice(2).map(([, , by]) => by!.replace(/\D+/g, " ").trim()), // prettier-ignore
  });
  expect(shapeOf(chinese)).toEqual(shapeOf(english));
});

test("readme: every picture is there", () => {
  const there = readdirSync(join(root, "docs/pictures"));
  const shown = Array.from((english + chinese).matchAll(/docs\/pictures\/([\w.-]+)/g), ([, file]) => file!);
  expect([...new Set(shown)].toSorted()).toEqual(there.toSorted());
});

test("readme: every document is served, and every YAML file in them is one", () => {
  const there = readdirSync(join(root, "docs")).filter((file) => file.endsWith(".md"));
  expect(DOCUMENTS.filter((name) => name.startsWith("docs/"))).toEqual(
    there.toSorted().map((file) => `docs/${file}` as never),
  );
  for (const name of DOCUMENTS)
    for (const [, text] of read(name).matchAll(/^```yaml\n([^]*?)^```/gm))
      expect([name, typeof Bun.YAML.parse(text!)]).toEqual([name, "object"]);
});

test("readme: the compose files give the service settings that it knows", () => {
  const known = new Set(settingsOf(english).keys());
  for (const name of ["docs/operate.md", "docs/nodes.md"]) {
    const compose = Array.from(
      read(name).matchAll(/^```yaml\n([^]*?)^```/gm),
      ([, text]) => Bun.YAML.parse(text!) as any,
    );
    const { environment } = compose.find(({ services }) => services)!.services.headcount;
    expect([name, Object.keys(environment).filter((setting) => !known.has(setting))]).toEqual([name, []]);
  }
});
