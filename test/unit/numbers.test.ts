/** The numbers that a page can show are the same wherever they are named. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { REFUSALS } from "../../edge/guard.ts";
import { NUMBER_NAMES } from "../../shared/numbers.ts";

const read = (file: string): string => readFileSync(join(import.meta.dir, "../..", file), "utf8");
const found = (text: string, pattern: RegExp): (string | undefined)[] =>
  Array.from(text.matchAll(pattern), ([, name]) => name);

test("numbers: the types of the event have a field for each", () => {
  expect(found(read("widget/headcount.d.ts"), /^ {2}(\w+)\?: number;/gm)).toEqual([...NUMBER_NAMES]);
});

test.each([
  ["widget/pages/home.html", /<dd data-headcount(?:="(\w+)")?>/g],
  ["README.md", /^\| `<span data-headcount(?:="(\w+)")?>/gm],
  ["README.zh-CN.md", /^\| `<span data-headcount(?:="(\w+)")?>/gm],
])("numbers: %s has a row for each", (file, row) => {
  expect(found(read(file), row).map((name) => name ?? "site")).toEqual([...NUMBER_NAMES]);
});

test("numbers: each is named where the event is explained, and where a badge is refused", () => {
  const explained = ["docs/frameworks.md", "docs/recipes.md"].map(
    (file) => /^[^\n]*`peak`[^]*?\n\n/m.exec(read(file))![0],
  );
  for (const name of NUMBER_NAMES) {
    for (const text of explained) expect(text).toContain(`\`${name}\``);
    expect(REFUSALS.badge[2]).toContain(name);
  }
});
