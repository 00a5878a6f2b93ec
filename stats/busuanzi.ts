/**
 * Asks busuanzi what it has counted of a site: one request for each page of a sitemap, as busuanzi's own script sends it. The
 * page is the Referer, and the answer calls a function of a given name (JSONP):
 *
 *     GET /busuanzi?jsonpCallback=BusuanziCallback_1
 *     try{BusuanziCallback_1({"site_uv":9,"page_pv":3,"version":2.4,"site_pv":27});}catch(e){}
 *
 * busuanzi counts each request as a view, so one view is taken off.
 */

import { URL } from "node:url";
import { gunzipSync } from "node:zlib";
import * as v from "valibot";
import { parseJson } from "../engine/engine.ts";

export const BUSUANZI = "https://busuanzi.ibruce.info";

/** What busuanzi has counted, without the request that asked. */
interface BusuanziCount {
  readonly sitePageViews: number;
  readonly siteVisitors: number;
  readonly pageViews: number;
}

/** Waits between attempts. Tests wait for a shorter time. */
export type Sleep = (ms: number) => Promise<unknown>;

const TIMEOUT_MS = 15_000;
const MAX_ATTEMPTS = 4;
const FIRST_RETRY_MS = 2_000; // doubles with each attempt
const MAX_SITEMAP_BYTES = 52_428_800; // as sitemaps.org says
const MAX_PAGES = 50_000;
const MAX_SITEMAPS = 100;
const MAX_ANSWER_LENGTH = 10_000;
const GZIP = [0x1f, 0x8b];

const countSchema = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const Answer = v.object({ site_pv: countSchema, site_uv: countSchema, page_pv: countSchema });

const withoutThis = (count: number) => Math.max(0, count - 1);

/** Asks for one page. @throws {Error} when there is no good answer after several attempts */
export async function askBusuanzi(server: string, page: string, sleep: Sleep): Promise<BusuanziCount> {
  const callback = `BusuanziCallback_${Math.floor(Math.random() * 2 ** 40)}`; // as busuanzi's script does
  const text = await fetchWithRetries(`${server}/busuanzi?jsonpCallback=${callback}`, { referer: page }, sleep);
  const [, json = ""] = text.toString("utf8", 0, MAX_ANSWER_LENGTH).match(/\((\{.*\})\)/) ?? [];
  const answer = v.safeParse(Answer, parseJson(json));
  if (!answer.success) throw new Error(`Cannot read what ${server} answers for ${page}`);
  const { site_pv: sitePageViews, site_uv: siteVisitors, page_pv: pageViews } = answer.output;
  return {
    sitePageViews: withoutThis(sitePageViews),
    siteVisitors: withoutThis(siteVisitors),
    pageViews: withoutThis(pageViews),
  };
}

/** The addresses of all pages of a sitemap, or of an index of sitemaps. @throws {Error} when one of them cannot be read */
export async function readSitemap(url: string, sleep: Sleep): Promise<string[]> {
  const pages = new Set<string>();
  const sitemaps = [url];
  for (const sitemap of sitemaps) {
    const xml = (await fetchWithRetries(sitemap, {}, sleep)).toString("utf8");
    const isIndex = /<sitemapindex[\s>]/.test(xml);
    if (!isIndex && !/<urlset[\s>]/.test(xml)) throw new Error(`Cannot read ${sitemap}: it is not a sitemap`);
    for (const location of locationsOf(xml))
      if (isIndex) sitemaps.push(location);
      else pages.add(location);
    if (sitemaps.length > MAX_SITEMAPS)
      throw new Error(`Cannot read ${url}: it names more than ${MAX_SITEMAPS} sitemaps`);
    if (pages.size > MAX_PAGES) throw new Error(`Cannot read ${url}: it names more than ${MAX_PAGES} pages`);
  }
  return [...pages];
}

/** The web address in each `<loc>`. */
function* locationsOf(xml: string): Generator<string> {
  for (const [, text = ""] of xml.matchAll(/<loc>([^<]*|\s*<!\[CDATA\[[^<\]]*\]\]>\s*)<\/loc>/g)) {
    const location = URL.parse(unescapeXml(text.trim().replace(/^<!\[CDATA\[|\]\]>$/g, "")));
    if (location?.protocol === "https:" || location?.protocol === "http:") yield location.href;
  }
}

const ENTITIES: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };
const unescapeXml = (text: string) => text.replace(/&(amp|lt|gt|quot|apos);/g, (_, name: string) => ENTITIES[name]!);

async function fetchWithRetries(url: string, headers: Record<string, string>, sleep: Sleep): Promise<Buffer> {
  for (let attempt = 1; ; attempt += 1)
    try {
      return await fetchOnce(url, headers);
    } catch (error) {
      if (attempt === MAX_ATTEMPTS) throw new Error(`Cannot get ${url}: ${String(error)}`, { cause: error });
      await sleep(FIRST_RETRY_MS * 2 ** (attempt - 1));
    }
}

async function fetchOnce(url: string, headers: Record<string, string>): Promise<Buffer> {
  const response = await fetch(url, { headers, signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!response.ok) throw new Error(`status ${response.status}`);
  const bytes = Buffer.from(await response.arrayBuffer());
  const isGzip = bytes[0] === GZIP[0] && bytes[1] === GZIP[1]; // a sitemap.xml.gz
  const content = isGzip ? gunzipSync(bytes, { maxOutputLength: MAX_SITEMAP_BYTES }) : bytes;
  if (content.length > MAX_SITEMAP_BYTES) throw new Error(`more than ${MAX_SITEMAP_BYTES} bytes`);
  return content;
}
