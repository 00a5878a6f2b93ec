/**
 * The file that `headcount export` writes: JSON with one entry per line. So the whole file is never in memory, and every
 * refusal can name a line.
 *
 *     {"headcount":1,"id":"…","secrets":true,"sites":["example.com"],"entries":[
 *     {"site":"example.com","total":12345,"visitors":2345},
 *     {"site":"example.com","page":"/","views":321}
 *     ],"count":2}
 */

import { closeSync, openSync, readSync } from "node:fs";
import * as v from "valibot";
import {
  canBeName,
  type KeptEntry,
  MAX_ONLINE,
  MAX_PER_ENTRY,
  MAX_STORED_NAME_LENGTH,
  parseJson,
  SECRET_KINDS,
} from "../engine/engine.ts";

/** What is wrong with a file, and in which line. */
export class FileProblem extends Error {
  constructor(line: number, problem: string) {
    super(`line ${line}: ${problem}`);
  }
}

interface ExportHeader {
  /** Tells one export from another. */
  readonly id: string;
  /** Whether secrets are among the entries. */
  readonly secrets: boolean;
  readonly sites: readonly string[];
}

const FORMAT = 1;
const CHUNK_BYTES = 65_536;
const MAX_LINE_LENGTH = 1_048_576; // in characters; the longest entry has about 30,000
const MAX_NAME_LENGTH = 1_024;
const MAX_SHOWN = 100; // characters of a line in a message

// ── Entries ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const name = v.pipe(v.string(), v.minLength(1), v.maxLength(MAX_NAME_LENGTH), v.check(canBeName));
const page = v.pipe(v.string(), v.maxLength(MAX_STORED_NAME_LENGTH), v.check(canBeName));
const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const small = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(MAX_ONLINE));
const peak = v.strictTuple([small, small]);
const hash = v.pipe(v.string(), v.regex(/^[\w-]{1,64}$/));
const list = <Item extends v.GenericSchema>(item: Item) => v.pipe(v.array(item), v.maxLength(MAX_PER_ENTRY));

const Entry = v.union([
  v.strictObject({ site: name, page, views: count }),
  v.strictObject({
    site: name,
    page,
    seconds: v.pipe(v.number(), v.finite(), v.minValue(0), v.maxValue(Number.MAX_SAFE_INTEGER / 1_000)),
    histogram: list(v.strictTuple([small, count])),
  }),
  v.strictObject({ site: name, peaks: v.pipe(list(peak), v.minLength(1)) }),
  v.strictObject({ site: name, day: count, views: count, visitors: count }),
  v.strictObject({ site: name, source: name, page, views: count }),
  v.strictObject({ site: name, source: name, total: count, visitors: count }),
  v.strictObject({ site: name, total: count, visitors: count, unlisted: v.optional(v.literal(true)) }),
  v.strictObject({ site: name, highest: peak }),
  v.strictObject({ site: name, day: count, hashes: v.pipe(list(hash), v.minLength(1)) }),
  v.strictObject({
    secret: v.picklist(SECRET_KINDS),
    name: v.pipe(v.string(), v.regex(/^[\w-]{0,64}$/)),
    value: v.pipe(v.string(), v.regex(/^[\w-]{16,256}$/)),
  }),
]);

const Header = v.strictObject({
  headcount: v.literal(FORMAT),
  id: v.pipe(v.string(), v.uuid()),
  secrets: v.boolean(),
  sites: v.array(name),
  entries: v.tuple([]),
});

// ── Writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Returns the text of an export, piece by piece. */
export async function* exportText(
  { id, secrets, sites }: ExportHeader,
  entries: AsyncIterable<KeptEntry>,
): AsyncGenerator<string> {
  yield JSON.stringify({ headcount: FORMAT, id, secrets, sites, entries: [] }).slice(0, -"]}".length);
  let written = 0;
  for await (const entry of entries) {
    yield `${written === 0 ? "" : ","}\n${JSON.stringify(entry)}`;
    written += 1;
  }
  yield `\n],"count":${written}}\n`;
}

// ── Reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** The lines of a file. @throws {FileProblem} when a line is too long, or not UTF-8 */
function* linesOf(path: string): Generator<string> {
  const file = openSync(path, "r");
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const chunk = new Uint8Array(CHUNK_BYTES);
  let rest = "";
  let line = 1;
  try {
    for (let length = 1; length > 0;) {
      length = readSync(file, chunk);
      rest += decodeNext(decoder, chunk.subarray(0, length), length > 0, line);
      const lines = rest.split("\n");
      rest = lines.pop() ?? "";
      line += lines.length;
      if (rest.length > MAX_LINE_LENGTH) throw new FileProblem(line, `is longer than ${MAX_LINE_LENGTH} characters`);
      yield* lines;
    }
    if (rest !== "") yield rest;
  } finally {
    closeSync(file);
  }
}

function decodeNext(decoder: TextDecoder, bytes: Uint8Array, stream: boolean, line: number): string {
  try {
    return decoder.decode(bytes, { stream });
  } catch {
    throw new FileProblem(line, "this or a later line is not UTF-8"); // deliberate: the runtimes say nothing more
  }
}

/** Whether a file may be an export. */
export function isExport(path: string): boolean {
  for (const line of linesOf(path)) return line.startsWith('{"headcount":');
  return false;
}

/** @throws {FileProblem} when the file does not begin like an export of a version that this one knows */
export function readHeader(path: string): ExportHeader {
  for (const line of linesOf(path)) return parseHeader(line);
  throw new FileProblem(1, "the file is empty");
}

/** Reads the entries. @throws {FileProblem} with the first line that is wrong; also when the end of the file is missing */
export function* readEntries(path: string): Generator<KeptEntry> {
  let line = 0;
  let read = 0;
  let hasComma = true; // at the end of the last line
  let sites: ReadonlySet<string> = new Set();
  for (const text of linesOf(path)) {
    line += 1;
    if (line === 1) {
      sites = new Set(parseHeader(text).sites);
    } else if (text.startsWith("]")) {
      if (text !== `],"count":${read}}`)
        throw new FileProblem(line, `the file has ${read} entries, and its last line says something else`);
      return;
    } else {
      if (!hasComma) throw new FileProblem(line, "the line before has no comma at its end");
      hasComma = text.endsWith(",");
      yield parseEntry(hasComma ? text.slice(0, -1) : text, line, sites);
      read += 1;
    }
  }
  throw new FileProblem(line, "the end of the file is missing");
}

function parseHeader(line: string): ExportHeader {
  const header = v.safeParse(Header, parseJson(`${line}]}`));
  if (header.success) return header.output;
  throw new FileProblem(1, "is not the first line of an export of this version; is the file as export wrote it?");
}

function parseEntry(text: string, line: number, sites: ReadonlySet<string>): KeptEntry {
  const entry = v.safeParse(Entry, parseJson(text));
  const shown = text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}…` : text;
  if (!entry.success) throw new FileProblem(line, `is not an entry of an export: ${JSON.stringify(shown)}`);
  if ("site" in entry.output && !sites.has(entry.output.site))
    throw new FileProblem(line, `${JSON.stringify(entry.output.site)} is not in the list of sites in the first line`);
  return entry.output;
}
