/** The rules of CONTRIBUTING.md about imports, type imports included. */
import { expect, test } from "bun:test";
import { Glob } from "bun";
import { readFileSync } from "node:fs";
import { join, normalize } from "node:path";

const ROOT = join(import.meta.dir, "../..");
const files = "server.ts edge/*.ts shared/*.ts engine/*.ts stats/*.ts widget/**/*.ts"
  .split(" ")
  .flatMap((pattern) => Array.from(new Glob(pattern).scanSync(ROOT)));

/** The files of this project that a file imports, those that it loads when it runs included. */
function importsOf(file: string): string[] {
  const text = readFileSync(join(ROOT, file), "utf8");
  const imported = text.matchAll(/(?:\bfrom |\bimport\(|^import )"(\.[^"]+)"/gm);
  return Array.from(imported, ([, path]) => normalize(join(file, "..", path!)));
}

/** What each folder may import besides its own files. */
const ALLOWED: [folder: string, imports: RegExp][] = [
  ["edge/", /^(shared\/|engine\/engine\.ts)/],
  ["shared/", /^$/],
  ["engine/", /^$/],
  ["stats/", /^(shared\/|engine\/(engine|number-set|portions|reading)\.ts)/],
  ["widget/", /^shared\//],
  ["server.ts", /^(edge|shared|stats)\/|^engine\/(engine|portions|sqlite|redis)\.ts/],
];

test("house: imports point one way", () => {
  for (const [folder, allowed] of ALLOWED)
    for (const file of files.filter((name) => name.startsWith(folder)))
      for (const imported of importsOf(file)) {
        const isAllowed = imported.startsWith(folder) || allowed.test(imported);
        expect(`${file} imports ${imported}: ${isAllowed}`).toEndWith("true");
      }
  expect(importsOf("engine/engine.ts")).toEqual([]);
});

test("house: no file imports itself by way of others", () => {
  const imports = new Map(files.map((file) => [file, importsOf(file)]));
  for (let ended = -1; ended !== 0;) {
    const leaves = [...imports].filter(([, imported]) => !imported.some((one) => imports.has(one)));
    ended = leaves.length;
    for (const [leaf] of leaves) imports.delete(leaf);
  }
  expect([...imports.keys()]).toEqual([]);
});

test("house: each engine is loaded where it is chosen, and nowhere else", () => {
  const engines = new Set(["engine/sqlite.ts", "engine/redis.ts"]);
  const importers = files.filter((file) => importsOf(file).some((imported) => engines.has(imported)));
  expect(importers).toEqual(["server.ts"]);
  expect(readFileSync(join(ROOT, "server.ts"), "utf8")).not.toMatch(/from "\.\/engine\/(sqlite|redis)\.ts"/);
});
