/** Files that no import may take: wrong numbers, half of a file, the same twice. Nothing is changed by any of them. */
import { describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { exportAll, importFile, type TransferTools } from "../../stats/transfer.ts";
import { fill, linesOf } from "../support/kept.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { quiet, sqlite } from "../support/unit.ts";

const MOST = Number.MAX_SAFE_INTEGER;

function setUp() {
  const engine = sqlite();
  const tools: TransferTools = {
    store: engine,
    siteName: (text) => (text.endsWith(".example") ? text : undefined),
    pageName: (text) => (text === "" || text.includes("\u0000") ? undefined : text),
    progress: quiet,
    sleep: async () => {},
  };
  const importBytes = (bytes: string | Uint8Array): Promise<string> => {
    const file = join(temporaryFolder(), "file.json");
    writeFileSync(file, bytes);
    return importFile(tools, file, undefined).catch((error: unknown) => String(error).replace(/^.*?file\.json: /, ""));
  };
  return { engine, tools, importBytes };
}

describe("hostile imports", () => {
  const wrong: [text: string, problem: string][] = [
    ["", "line 1: is not JSON"],
    ["{}", 'line 1: "site" is missing'],
    ["[]", "line 1: is a list, and must be an object"],
    ["null", "line 1: is null, and must be an object"],
    ['{"site":"a.example",\n"total":-1}', 'line 2: "total" is -1, and must be a whole number from 0'],
    ['{"site":"a.example",\n"total":NaN}', "line 2: is not JSON"],
    ['{"site":"a.example",\n\n"visitors":1.5}', 'line 3: "visitors" is 1.5'],
    ['{"site":"a.example","visitors":-0}', 'line 1: "visitors" is -0'],
    ['{"site":"a.example","total":1e3}', 'line 1: "total" is 1e3'],
    ['{"site":"a.example","total":1e999}', 'line 1: "total" is 1e999'],
    ['{"site":"a.example","total":9007199254740992}', 'line 1: "total" is 9007199254740992'],
    ['{"site":"a.example","total":"5"}', 'line 1: "total" is "5"'],
    ['{"site":"a.example","total":null}', 'line 1: "total" is null'],
    ['{"site":"a.example","total":{}}', 'line 1: "total" is {'],
    ['{"site":5}', 'line 1: "site" is 5, and must be a text'],
    ['{"site":"a.example","pages":5}', 'line 1: "pages" is 5, and must be an object'],
    ['{"site":"a.example","pages":{\n"/a":1,\n"/b":-1}}', 'line 3: "/b" is -1'],
    ['{"site":"a.example","pages":{"/a":{"/b":1}}}', 'line 1: "/a" is {'],
    ['{"site":"a.example","pages":{\n"/a":1,\n"/a":1}}', 'line 3: "/a" is there twice'],
    ['{"site":"a.example",\n"site":"b.example"}', 'line 2: "site" is there twice'],
    ['{"site":"a.example","veiws":1}', 'line 1: "veiws" is none of site, total, visitors, pages'],
    ['{"site":"a.example","total":1', "line 1: is not JSON"],
    ['{"site":"a.example","total":1}}', "line 1: is not JSON"],
    ['{"site":"a.example","total":1,}', "line 1: is not JSON"],
    ['{"site":"a.example"/* five */,"total":1}', "line 1: is not JSON"],
    [`{"site":"a.example","pages":{"/a":${MOST},"/b":1}}`, "the sum of the pages is not"],
    ['{"site":"a.example","pages":{"":1}}', '"" cannot be the name of a page'],
    ['{"site":"a.example","pages":{"/\\u0000":1}}', "cannot be the name of a page"],
    ['{"site":"a.com","total":1}', '"a.com" is not one of the SITES'],
    ["[".repeat(100_000), "line 1: is a list"],
    [`{"site":"a.example","pages":${'{"a":'.repeat(100_000)}`, 'line 1: "a" is {'],
  ];

  for (const [text, problem] of wrong)
    test(`imports: refused is ${JSON.stringify(text.slice(0, 80))}`, async () => {
      const { engine, importBytes } = setUp();
      expect(await importBytes(text)).toContain(problem);
      expect(await engine.keptSites()).toEqual([]);
    });

  test("imports: any half of a file of totals is refused", async () => {
    const { engine, importBytes } = setUp();
    const text = '{"site":"a.example","total":12,"visitors":3,"pages":{"/é":7,"/b":5}}';
    for (let length = 0; length < text.length; length += 1)
      expect(await importBytes(text.slice(0, length))).toMatch(/^line 1: /);
    expect(await engine.keptSites()).toEqual([]);
    expect(await importBytes(text)).toContain("a.example has 12 views");
  });

  test("imports: any half of an export is refused, also where a line ends, and nothing of it is restored", async () => {
    const { engine, tools, importBytes } = setUp();
    const from = sqlite();
    await fill(from);
    let text = "";
    for await (const piece of exportAll({ ...tools, store: from }, { site: undefined, withSecrets: true }))
      text += piece;
    const lines = text.trimEnd().split("\n");
    for (let length = 1; length < lines.length; length += 1)
      expect(await importBytes(lines.slice(0, length).join("\n"))).toMatch(/^line \d+: /);
    for (let length = 20; length < text.length - 2; length += 997)
      expect(await importBytes(text.slice(0, length))).toMatch(/^line \d+: /);
    expect(await engine.keptSites()).toEqual([]);
    expect(await importBytes(text)).toContain("Restored");
    const restored = await linesOf(engine);
    expect(restored).toEqual(await linesOf(from));
    expect(await importBytes(text)).toContain("has numbers already");
    expect(await linesOf(engine)).toEqual(restored);
  });

  const header =
    '{"headcount":1,"id":"6dbe77fe-0d6e-4ab8-9d5c-3c7bd7d2b8d1","secrets":false,"sites":["a.example"],"entries":[';
  const entries: [entry: string, problem: string][] = [
    ['{"site":"a.example","total":-1,"visitors":0}', "line 2: is not an entry"],
    ['{"site":"a.example","total":9007199254740992,"visitors":0}', "line 2: is not an entry"],
    ['{"site":"a.example","total":NaN,"visitors":0}', "line 2: is not an entry"],
    ['{"site":"a.example","total":1,"visitors":0,"more":1}', "line 2: is not an entry"],
    ['{"site":"a.example","page":"/\\n","views":1}', "line 2: is not an entry"],
    ['{"site":"a.example","page":"/","seconds":1e999,"histogram":[[1,1]]}', "line 2: is not an entry"],
    ['{"site":"a.example","page":"/","seconds":1,"histogram":[[1,-1]]}', "line 2: is not an entry"],
    ['{"site":"a.example","highest":[1,4294967296]}', "line 2: is not an entry"],
    ['{"site":"a.example","peaks":[]}', "line 2: is not an entry"],
    ['{"site":"a.example","day":1,"hashes":[]}', "line 2: is not an entry"],
    ['{"site":"a.example","day":1.5,"hashes":["abc"]}', "line 2: is not an entry"],
    [`{"site":"a.example","page":"${"x".repeat(257)}","views":1}`, "line 2: is not an entry"],
    ['{"site":"a.example","total":1,"visitors":0,"unlisted":false}', "line 2: is not an entry"],
    ['{"site":"b.example","total":1,"visitors":0}', 'line 2: "b.example" is not in the list of sites'],
    ['{"secret":"signing","name":"","value":"short"}', "line 2: is not an entry"],
    ['{"secret":"root","name":"","value":"0123456789abcdef"}', "line 2: is not an entry"],
    [`{"site":"a.example","page":"${"x".repeat(2_000_000)}","views":1}`, "is longer than"],
  ];

  for (const [entry, problem] of entries)
    test(`imports: an export is refused for ${entry.slice(0, 70)}`, async () => {
      const { engine, importBytes } = setUp();
      const said = await importBytes(`${header}\n${entry}\n],"count":1}\n`);
      expect(said).toContain(problem);
      expect(said.length).toBeLessThan(300);
      expect(await engine.keptSites()).toEqual([]);
    });

  test("imports: an export with a wrong end, a missing comma, or bytes that are no UTF-8 is refused", async () => {
    const { engine, importBytes } = setUp();
    const entry = '{"site":"a.example","total":1,"visitors":0}';
    expect(await importBytes(`${header}\n${entry}\n],"count":2}\n`)).toContain(
      "line 3: the file has 1 entries, and its last line says something else",
    );
    expect(await importBytes(`${header}\n${entry}\n${entry}\n],"count":2}`)).toContain(
      "line 3: the line before has no comma",
    );
    expect(await importBytes(header.replace('"headcount":1', '"headcount":2'))).toContain(
      "line 1: is not the first line",
    );
    const bytes = Buffer.from(`${header}\n${entry}\n],"count":1}\n`);
    bytes[header.length + 12] = 0xff;
    expect(await importBytes(bytes)).toContain("is not UTF-8");
    expect(await engine.keptSites()).toEqual([]);
  });
});
