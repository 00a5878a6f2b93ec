/**
 * A file with totals of one site that were counted elsewhere:
 *
 *     {"site": "example.com", "total": 12345, "visitors": 2345, "pages": {"/post": 321}}
 *
 * A missing `total` is the sum of the pages. `visitors` and `pages` may be missing, too.
 */

import { readFileSync, statSync } from "node:fs";
import { type JSONVisitor, printParseErrorCode, visit } from "jsonc-parser";
import { FileProblem } from "./export-file.ts";

interface TotalsFile {
  readonly site: string;
  readonly total: number;
  readonly visitors: number;
  /** Page as the file names it → views. */
  readonly pages: ReadonlyMap<string, number>;
}

const MAX_BYTES = 67_108_864;
const KEYS = ["site", "total", "visitors", "pages"] as const;
const EXPECTED = `a whole number from 0 to ${Number.MAX_SAFE_INTEGER}`;

/** @throws {FileProblem} with the first line that is wrong */
export function readTotals(path: string): TotalsFile {
  if (statSync(path).size > MAX_BYTES) throw new FileProblem(1, `the file has more than ${MAX_BYTES} bytes`);
  const reader = new Reader(readFileSync(path, "utf8"));
  return reader.read();
}

/** Where the parser is in the text. */
type Place = "start" | "file" | "pages" | "end";

/** Follows the parser through the text, and stops at the first thing that does not belong there. */
class Reader {
  readonly #text: string;
  #place: Place = "start";
  #key = "";
  #line = 1;
  readonly #values = new Map<string, number | string>();
  readonly #pages = new Map<string, number>();
  readonly #seen = new Set<string>();

  constructor(text: string) {
    this.#text = text.replace(/^\uFEFF/, "");
  }

  read(): TotalsFile {
    visit(this.#text, this.#visitor(), { disallowComments: true });
    const site = this.#values.get("site");
    if (typeof site !== "string") throw new FileProblem(this.#line, '"site" is missing');
    const sum = [...this.#pages.values()].reduce((total, views) => total + views, 0);
    const total = this.#values.get("total") ?? sum;
    if (!Number.isSafeInteger(total)) throw new FileProblem(this.#line, `the sum of the pages is not ${EXPECTED}`);
    return { site, total: Number(total), visitors: Number(this.#values.get("visitors") ?? 0), pages: this.#pages };
  }

  #visitor(): JSONVisitor {
    return {
      onObjectBegin: (offset, _length, line) => this.#begin(this.#text[offset] ?? "", line + 1),
      onArrayBegin: (_offset, _length, line) => this.#refuse(line + 1, "a list"),
      onObjectProperty: (key, _offset, _length, line) => this.#property(key, line + 1),
      onObjectEnd: (_offset, _length, line) => {
        this.#line = line + 1;
        this.#place = this.#place === "pages" ? "file" : "end";
      },
      onLiteralValue: (value: unknown, offset, length, line) =>
        this.#literal(value, this.#text.slice(offset, offset + length), line + 1),
      onError: (code, _offset, _length, line) => {
        throw new FileProblem(line + 1, `is not JSON (${printParseErrorCode(code)})`);
      },
    };
  }

  #begin(text: string, line: number): void {
    this.#line = line;
    if (this.#place === "start") this.#place = "file";
    else if (this.#place === "file" && this.#key === "pages") this.#place = "pages";
    else this.#refuse(line, text);
  }

  #property(key: string, line: number): void {
    const isKnown = this.#place === "pages" || KEYS.some((name) => name === key);
    if (!isKnown) throw new FileProblem(line, `${JSON.stringify(key)} is none of ${KEYS.join(", ")}`);
    const place = `${this.#place} ${key}`;
    if (this.#seen.has(place)) throw new FileProblem(line, `${JSON.stringify(key)} is there twice`);
    this.#seen.add(place);
    this.#key = key;
    this.#line = line;
  }

  #literal(value: unknown, text: string, line: number): void {
    if (this.#place === "file" && this.#key === "site" && typeof value === "string") this.#values.set("site", value);
    else if (this.#place === "start" || this.#key === "site" || this.#isPagesItself()) this.#refuse(line, text);
    else if (typeof value !== "number" || !Number.isSafeInteger(value) || !/^\d+$/.test(text)) this.#refuse(line, text);
    else if (this.#place === "pages") this.#pages.set(this.#key, value);
    else this.#values.set(this.#key, value);
  }

  #isPagesItself(): boolean {
    return this.#place === "file" && this.#key === "pages";
  }

  #refuse(line: number, found: string): never {
    const key = this.#place === "start" ? "" : `${JSON.stringify(this.#key)} `;
    const isObject = this.#place === "start" || this.#isPagesItself();
    const isSite = this.#place === "file" && this.#key === "site";
    const expected = isObject ? "an object" : isSite ? "a text" : EXPECTED;
    throw new FileProblem(line, `${key}is ${found.slice(0, 50)}, and must be ${expected}`);
  }
}
