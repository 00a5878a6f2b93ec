/** Export and import: everything that is kept, totals that were counted elsewhere, and what busuanzi has counted. */

import { randomUUID } from "node:crypto";
import { basename } from "node:path";
import { URL } from "node:url";
import {
  type ImportedTotals,
  ImportRefusal,
  type KeptEntry,
  MAX_PAGES_PER_SITE,
  messageOf,
  OTHER_PAGES,
  storedPageName,
  type TransferStore,
} from "../engine/engine.ts";
import { askBusuanzi, readSitemap, type Sleep } from "./busuanzi.ts";
import { exportText, isExport, readEntries, readHeader } from "./export-file.ts";
import { readTotals } from "./totals-file.ts";

export interface TransferTools {
  readonly store: TransferStore;
  /** The name of a site; undefined when nothing is counted under this name. */
  readonly siteName: (text: string) => string | undefined;
  /** The one name of a page; undefined for a text that is not valid. */
  readonly pageName: (text: string) => string | undefined;
  /** Is told how much of long work is done. */
  readonly progress: (progress: Progress) => void;
  readonly sleep: Sleep;
}

/** How much of the work is done. `total` is 0 while that is unknown. */
export interface Progress {
  readonly done: number;
  readonly total: number;
  readonly what: string;
}

export interface ExportOptions {
  /** undefined for all sites */
  readonly site: string | undefined;
  /** Whether the secrets, and the hashes of today's visitors, are in the export. */
  readonly withSecrets: boolean;
}

const REPORT_EVERY = 1_000; // entries
const MAX_NAMED = 10; // sites in a message
const SAVE_EVERY = 20; // pages that busuanzi was asked for
const PAUSE_MS = 500; // between two requests, because one person runs busuanzi for everybody
const BUSUANZI_SOURCE = "busuanzi";
const RETRY_MS = 100;
const MAX_RETRIES = 100;

const number = (value: number) => value.toLocaleString("en");

// ── Export ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Returns the text of an export, piece by piece. @throws {Error} when nothing is kept of the site */
export async function* exportAll(
  { store, progress }: TransferTools,
  { site, withSecrets }: ExportOptions,
): AsyncGenerator<string> {
  const kept = await whenFree(() => store.keptSites());
  if (kept.length === 0) throw new Error("Cannot export: nothing is kept here. DATA or REDIS_URL say where to look");
  if (site !== undefined && !kept.includes(site))
    throw new Error(
      `Cannot export ${site}: nothing is kept of it. There is something of ${kept.slice(0, MAX_NAMED).join(", ")}`,
    );
  const sites = site === undefined ? kept : [site];
  async function* entries(): AsyncGenerator<KeptEntry> {
    if (withSecrets) yield* await whenFree(() => store.keptSecrets());
    for (const [index, name] of sites.entries()) {
      progress({ done: index, total: sites.length, what: `sites: ${name}` });
      yield* await whenFree(() => store.keptEntries(name, withSecrets));
    }
  }
  yield* exportText({ id: randomUUID(), secrets: withSecrets, sites }, entries());
}

// ── Import of files ─────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Imports a file: an export is restored, totals are added. Nothing is changed before all of the file has been read.
 * @param source the name that the totals are remembered by; undefined for the name of the file
 * @returns what was done, for people
 * @throws {Error} that names the file, and the line that is wrong
 */
export async function importFile(tools: TransferTools, path: string, source: string | undefined): Promise<string> {
  try {
    return isExport(path) ? await restore(tools, path) : await importTotals(tools, path, source ?? basename(path));
  } catch (error) {
    throw new Error(`Cannot import ${path}: ${messageOf(error)}`, { cause: error });
  }
}

async function restore({ store, progress }: TransferTools, path: string): Promise<string> {
  const { id, secrets, sites } = readHeader(path);
  let count = 0;
  for (const _ of readEntries(path)) {
    count += 1;
    if (count % REPORT_EVERY === 0) progress({ done: count, total: 0, what: "entries read" });
  }
  await whenFree(() => store.restore(id, sites, withProgress(readEntries(path), count, progress)));
  const note = secrets ? ". Restart the service: its secrets are the restored ones" : "";
  return `Restored ${number(count)} entries of ${sites.length} ${sites.length === 1 ? "site" : "sites"}${note}`;
}

function* withProgress(entries: Iterable<KeptEntry>, total: number, progress: TransferTools["progress"]) {
  let done = 0;
  for (const entry of entries) {
    yield entry;
    done += 1;
    if (done % REPORT_EVERY === 0) progress({ done, total, what: "entries restored" });
  }
}

async function importTotals(tools: TransferTools, path: string, source: string): Promise<string> {
  const file = readTotals(path);
  const site = siteOf(tools, file.site);
  const pages = new Map<string, number>();
  for (const [text, views] of file.pages) {
    const page = pageOf(tools, text);
    if (page === undefined) throw new ImportRefusal(`${JSON.stringify(text)} cannot be the name of a page`);
    addViews(pages, page, views);
  }
  return replaceImport(tools, site, source, { total: file.total, visitors: file.visitors, pages: mostViewed(pages) });
}

/** The site that numbers are imported for. */
function siteOf({ siteName }: TransferTools, text: string): string {
  const site = siteName(text);
  if (site === undefined) throw new ImportRefusal(`${JSON.stringify(text)} is not one of the SITES of this service`);
  return site;
}

/** The name under which a page is stored; undefined for a name that is not valid. */
function pageOf({ pageName }: TransferTools, text: string): string | undefined {
  const page = pageName(text);
  return page === undefined ? undefined : storedPageName(page);
}

/** Several names may stand for one page, such as `/a/` and `/a/index.html`. */
function addViews(pages: Map<string, number>, page: string, views: number): void {
  const sum = (pages.get(page) ?? 0) + views;
  if (!Number.isSafeInteger(sum)) throw new ImportRefusal(`the views of ${page} are above ${Number.MAX_SAFE_INTEGER}`);
  pages.set(page, sum);
}

/** The most viewed pages, as many as a site can have. The views of the other pages are summed up under one name. */
function mostViewed(pages: Map<string, number>): Map<string, number> {
  if (pages.size <= MAX_PAGES_PER_SITE) return pages;
  const ranked = [...pages].toSorted(([, a], [, b]) => b - a);
  const kept = new Map(ranked.slice(0, MAX_PAGES_PER_SITE));
  for (const [, views] of ranked.slice(MAX_PAGES_PER_SITE)) addViews(kept, OTHER_PAGES, views);
  return kept;
}

async function replaceImport(
  { store }: TransferTools,
  site: string,
  source: string,
  totals: ImportedTotals,
): Promise<string> {
  const last = await whenFree(() => store.imported(site, source));
  const what = `${number(totals.total)} views, ${number(totals.visitors)} visitors and ${number(totals.pages.size)} pages`;
  if (last !== undefined && isSame(last, totals)) return `${site} has ${what} from ${source} already: nothing changed`;
  await whenFree(() => store.importTotals(site, source, totals));
  const before =
    last === undefined ? "" : `, instead of ${number(last.total)} views and ${number(last.visitors)} visitors`;
  return `${site} has ${what} from ${source} now${before}`;
}

function isSame(a: ImportedTotals, b: ImportedTotals): boolean {
  if (a.total !== b.total || a.visitors !== b.visitors || a.pages.size !== b.pages.size) return false;
  return [...a.pages].every(([page, views]) => b.pages.get(page) === views);
}

/** A service that writes to the same file locks it for a moment. */
async function whenFree<Result>(work: () => Promise<Result>): Promise<Result> {
  for (let retries = 0; ; retries += 1)
    try {
      return await work();
    } catch (error) {
      if (retries === MAX_RETRIES || !/locked/.test(messageOf(error))) throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
}

// ── Import from busuanzi ────────────────────────────────────────────────────────────────────────────────────────────

/** What busuanzi has answered so far. */
interface Harvest {
  total: number | undefined;
  visitors: number | undefined;
  readonly pages: Map<string, number>;
}

/**
 * Asks busuanzi for each page of a sitemap, one after the other. The answers are kept, so an interrupted import
 * goes on where it ended.
 * @returns what was done, for people
 */
export async function importBusuanzi(tools: TransferTools, sitemap: string, server: string): Promise<string> {
  const { store, progress, sleep } = tools;
  const address = URL.parse(sitemap);
  const site = (address && siteOfUrl(tools, address)) ?? siteOf(tools, address?.hostname ?? sitemap);
  const addresses = pagesOfSite(tools, site, await readSitemap(sitemap, sleep));
  const known = await whenFree(() => store.imported(site, BUSUANZI_SOURCE));
  const harvest: Harvest = { total: known?.total, visitors: known?.visitors, pages: new Map(known?.pages) };
  harvest.pages.delete(OTHER_PAGES); // nobody knows which pages are in it, so they are asked for again
  const save = () => whenFree(() => store.importTotals(site, BUSUANZI_SOURCE, totalsOf(harvest)));
  const waiting = [...addresses].filter(([page]) => !harvest.pages.has(page));
  for (const [index, [page, urls]] of waiting.entries()) {
    progress({ done: index, total: waiting.length, what: `pages: ${page}` });
    let views = 0;
    for (const url of urls) {
      const count = await askBusuanzi(server, url, sleep);
      harvest.total ??= count.sitePageViews; // of the first answer, because busuanzi counts each question
      harvest.visitors ??= count.siteVisitors;
      views += count.pageViews;
      await sleep(PAUSE_MS);
    }
    harvest.pages.set(page, views);
    if (index % SAVE_EVERY === SAVE_EVERY - 1) await save();
  }
  if (waiting.length > 0) await save();
  const { total, visitors, pages } = totalsOf(harvest);
  const asked = `asked for ${number(waiting.length)} of ${number(addresses.size)} pages`;
  return `${site} has ${number(total)} views, ${number(visitors)} visitors and ${number(pages.size)} pages from busuanzi now; ${asked}`;
}

/** Page → its addresses in the sitemap. Pages of other sites are left out. */
function pagesOfSite(tools: TransferTools, site: string, addresses: string[]): Map<string, string[]> {
  const pages = new Map<string, string[]>();
  for (const address of addresses) {
    const url = new URL(address);
    const page = pageOf(tools, url.pathname);
    if (page !== undefined && siteOfUrl(tools, url) === site) pages.set(page, [...(pages.get(page) ?? []), address]);
  }
  return pages;
}

/** The site of an address: the one with the port of the address, or else the one of its host. */
const siteOfUrl = ({ siteName }: TransferTools, { host, hostname }: URL) => siteName(host) ?? siteName(hostname);

const totalsOf = ({ total, visitors, pages }: Harvest): ImportedTotals => ({
  total: total ?? 0,
  visitors: visitors ?? 0,
  pages: mostViewed(pages),
});
