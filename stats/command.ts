/** The command line: what `headcount` can do besides serving. */

import process from "node:process";
import { parseArgs } from "node:util";
import { type Log, messageOf, type TransferStore } from "../engine/engine.ts";
import { BUSUANZI } from "./busuanzi.ts";
import {
  type ExportOptions,
  exportAll,
  importBusuanzi,
  importFile,
  type Progress,
  type TransferTools,
} from "./transfer.ts";

export type Command =
  | { readonly name: "serve" }
  | { readonly name: "help" }
  | { readonly name: "version" }
  | ({ readonly name: "export" } & ExportOptions)
  | { readonly name: "import"; readonly file: string; readonly source: string | undefined }
  | { readonly name: "busuanzi"; readonly sitemap: string; readonly server: string };

const HELP = `headcount: how many people are on this site right now

  headcount                                serves
  headcount export > FILE                  writes everything that is kept, as JSON: a backup, with the secrets of the service
  headcount export SITE > FILE             writes everything that is kept of one site, without secrets
  headcount import FILE                    restores an export, or adds totals that were counted elsewhere:
                                           {"site":"example.com","total":12345,"visitors":2345,"pages":{"/post":321}}
  headcount import --busuanzi SITEMAP      asks busuanzi for each page of a sitemap, such as https://example.com/sitemap.xml
  headcount --help, headcount --version

  --no-secrets     for export: without the secrets, and without the hashes of today's visitors
  --source NAME    for import: the name to remember the totals by (default: the name of the file). Another import
                   with the same name replaces the totals, and never adds them twice
  --server URL     for --busuanzi: another server (default: ${BUSUANZI})

The settings are read from the environment, as for serving: DATA or REDIS_URL say where the numbers are, and SITES
which sites there are. Export, and import of totals, work while the service runs. Stop the service to restore an export.
`;

/** @throws {Error} that says what is wrong with the arguments */
export function readCommand(args: readonly string[]): Command {
  const { values, positionals } = parse(args);
  const [name = "serve", operand, ...more] = positionals;
  const { busuanzi, source, server } = values;
  if (values.help === true) return { name: "help" };
  if (values.version === true) return { name: "version" };
  const given = Object.keys(values);
  const allow = (...options: string[]) => {
    const wrong = given.find((option) => !options.includes(option));
    if (wrong !== undefined) throw usage(`--${wrong} is no option of ${name}`);
    if (more.length > 0) throw usage(`${JSON.stringify(more[0])} is one argument too many`);
  };
  if (name === "serve" && operand === undefined) {
    allow();
    return { name };
  }
  if (name === "export") {
    allow("no-secrets");
    return { name, site: operand, withSecrets: operand === undefined && values["no-secrets"] !== true };
  }
  if (name !== "import") throw usage(`${JSON.stringify(name)} is no command`);
  if (busuanzi !== undefined) {
    allow("busuanzi", "server");
    if (operand !== undefined) throw usage(`${JSON.stringify(operand)} is one argument too many`);
    return { name: "busuanzi", sitemap: busuanzi, server: (server ?? BUSUANZI).replace(/\/$/, "") };
  }
  allow("source");
  if (operand === undefined) throw usage("import needs a file");
  return { name, file: operand, source };
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        help: { type: "boolean", short: "h" },
        version: { type: "boolean", short: "v" },
        busuanzi: { type: "string" },
        "no-secrets": { type: "boolean" },
        server: { type: "string" },
        source: { type: "string" },
      },
    });
  } catch (error) {
    throw usage(messageOf(error));
  }
}

const usage = (problem: string) => new Error(`${problem}\nheadcount --help lists the commands`);

/** What a command works with: an engine, and the names that the service knows. */
export interface Opened extends Pick<TransferTools, "siteName" | "pageName"> {
  readonly store: TransferStore & { close(): Promise<void> };
}

export interface EngineOptions {
  readonly log: Log;
  /** How long a lease in Redis lasts. A command to Redis may take 9 % of this time. */
  readonly leaseMs: number;
}

/** Nobody waits for a count here, so a slow Redis gets more time than in a service. */
const LEASE_MS = 120_000;
/** Text is written in pieces of this length. */
const PIECE_LENGTH = 65_536;
const SECRETS_NOTE =
  "The export contains the secrets of the service: whoever reads it can forge visitors, and knows the password of the " +
  "dashboard that the service has made. Keep it private, or use --no-secrets.\n";

/**
 * Runs a command to its end. Results go to standard output, everything else to standard error.
 * @param open opens the engine with these options
 */
export async function runCommand(
  command: Exclude<Command, { name: "serve" }>,
  version: () => string,
  open: (options: EngineOptions) => Promise<Opened>,
): Promise<void> {
  process.stdout.on("error", () => {}); // `write` reports the error to whoever waits for it
  if (command.name === "help") return write(HELP);
  if (command.name === "version") return write(`headcount ${version()}\n`);
  const { store, siteName, pageName } = await open({ log, leaseMs: LEASE_MS });
  try {
    await transfer(command, { store, siteName, pageName, progress, sleep });
  } finally {
    clearProgress();
    await store.close();
  }
}

const log: Log = (level, event, fields = {}) => {
  if (level !== "info") process.stderr.write(`${level}: ${event} ${JSON.stringify(fields)}\n`);
};

async function transfer(
  command: Extract<Command, { name: "export" | "import" | "busuanzi" }>,
  tools: TransferTools,
): Promise<void> {
  if (command.name === "import") return write(`${await importFile(tools, command.file, command.source)}\n`);
  if (command.name === "busuanzi") return write(`${await importBusuanzi(tools, command.sitemap, command.server)}\n`);
  let piece = "";
  for await (const text of exportAll(tools, command)) {
    piece += text;
    if (piece.length < PIECE_LENGTH) continue;
    await write(piece);
    piece = "";
  }
  await write(piece);
  if (command.withSecrets) process.stderr.write(SECRETS_NOTE);
}

const CLEAR_LINE = "\r\u001b[K";
const BAR_WIDTH = 30;
const sleep = (ms: number) => new Promise((wake) => setTimeout(wake, ms));

/** Shows a bar and a text, always in the same line. Does nothing where standard error is not a terminal. */
function progress({ done, total, what }: Progress): void {
  if (!process.stderr.isTTY) return;
  const filled = Math.round((BAR_WIDTH * done) / Math.max(total, done, 1));
  const bar = total === 0 ? "" : `${"█".repeat(filled)}${"░".repeat(BAR_WIDTH - filled)} `;
  const line = `${bar}${done.toLocaleString("en")}${total === 0 ? "" : ` of ${total.toLocaleString("en")}`} ${what}`;
  process.stderr.write(CLEAR_LINE + line.slice(0, (process.stderr.columns || 80) - 1));
}

function clearProgress(): void {
  if (process.stderr.isTTY) process.stderr.write(CLEAR_LINE);
}

/** Writes to standard output, no faster than its reader reads. */
function write(text: string): Promise<void> {
  clearProgress(); // both may be the same terminal
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  process.stdout.write(text, (error) => (error ? reject(error) : resolve()));
  return promise;
}
