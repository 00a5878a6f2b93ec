/** The numbers for everybody: JSON, and a badge. */

import type { URLSearchParams } from "node:url";
import type { Context, Env, Handler, Hono } from "hono";
import { etag } from "hono/etag";
import type { Engine } from "../engine/engine.ts";
import { isNumberName, type NumberName } from "../shared/numbers.ts";
import { drawBadge, MAX_LABEL_LENGTH, parseColor, USUAL_COLOR } from "./badge.ts";
import type { Journal } from "./journal.ts";
import { type LiveConnections, type LiveSites, onlineCount } from "./live.ts";
import type { SiteHandler } from "./routes.ts";
import type { Totals } from "./totals.ts";

interface PublicRoutesOptions {
  readonly journal: Journal;
  readonly totals: Totals;
  readonly engine: Engine;
  readonly live: LiveSites;
  readonly connections: LiveConnections;
  /** Milliseconds of a monotonic clock. */
  readonly now: () => number;
  /** Wraps a handler that answers for one site, or for one page of it; refuses unknown sites. */
  readonly forSite: (answer: SiteHandler) => Handler;
  /** The one name of a page; undefined for a name that is not valid. */
  readonly pageName: (text: string) => string | undefined;
  /** The parameters in the query of a request. */
  readonly paramsOf: (c: Context) => URLSearchParams;
  readonly refuse: (c: Context, reason: "page" | "pages" | "badge") => Response;
}

const MAX_AGE = "public, max-age=5"; // seconds
const MAX_PAGES = 100; // of one request

/** What a badge can show: the usual label, and how the number is found. */
const BADGES: Record<NumberName, { label: string; read(numbers: Numbers): Promise<number | undefined> }> = {
  site: { label: "online", read: (numbers) => numbers.onSite() },
  page: { label: "online", read: (numbers) => numbers.onPage() },
  peak: { label: "peak", read: (numbers) => numbers.peak() },
  read: { label: "min read", read: async (numbers) => minutesOf(await numbers.read()) },
  views: { label: "views", read: async (numbers) => (await numbers.totals()).views },
  total: { label: "views", read: async (numbers) => (await numbers.totals()).total },
  visitors: { label: "visitors", read: async (numbers) => (await numbers.totals()).visitors },
  today: { label: "visitors today", read: async (numbers) => (await numbers.totals()).today },
};

const minutesOf = (seconds: number | undefined) =>
  seconds === undefined ? undefined : Math.max(1, Math.round(seconds / 60));

/** The numbers of a site and one of its pages, each read when it is asked for. */
type Numbers = ReturnType<typeof numbersOf>;

function numbersOf(options: PublicRoutesOptions, site: string, page: string) {
  const { engine, journal, totals, now } = options;
  return {
    onSite: () => onlineCount(options, site),
    onPage: () => onlineCount(options, site, page),
    peak: () => journal.peak(site),
    read: async () => {
      const { views, median } = await engine.reading(site, page);
      return views === 0 ? undefined : median;
    },
    /** The views of the page, and the totals of the site. */
    totals: async () => {
      await totals.refresh(site, page, now());
      return totals.numbers(site, page);
    },
  };
}

export function addPublicRoutes<E extends Env>(app: Hono<E>, options: PublicRoutesOptions): void {
  const { connections, forSite, paramsOf, refuse } = options;

  const answerCount: SiteHandler = async (c, site, page) => {
    c.header("Cache-Control", MAX_AGE);
    const asked = paramsOf(c).getAll("page");
    if (asked.length > MAX_PAGES) return refuse(c, "pages");
    const pages = asked.length > 1 ? await countPages(options, site, asked) : undefined;
    if (asked.length > 1 && pages === undefined) return refuse(c, "page");
    const numbers = numbersOf(options, site, page ?? "");
    const [onSite, peak, onPage, sums] = await Promise.all([
      numbers.onSite(),
      numbers.peak(),
      page === undefined ? undefined : numbers.onPage(),
      numbers.totals(),
    ]);
    const { views, total, visitors, today } = sums;
    const numbersOfPage = page === undefined ? {} : { page: onPage, views };
    const stale = connections.stale || undefined;
    return c.json({ site: onSite, peak, total, visitors, today, ...numbersOfPage, pages, stale });
  };
  app.get("/count", etag(), forSite(answerCount));

  const answerBadge: SiteHandler = async (c, site, page) => {
    const params = paramsOf(c);
    const number = params.get("number") ?? "site";
    const label = params.get("label");
    const color = parseColor(params.get("color") ?? USUAL_COLOR);
    const isTooLong = (label?.length ?? 0) > MAX_LABEL_LENGTH;
    if (!isNumberName(number) || color === undefined || isTooLong) return refuse(c, "badge");
    const badge = BADGES[number];
    const value = await badge.read(numbersOf(options, site, page ?? "/"));
    c.header("Cache-Control", MAX_AGE);
    c.header("Content-Type", "image/svg+xml; charset=utf-8");
    return c.body(drawBadge({ label: label ?? badge.label, value: String(value ?? "–"), color }));
  };
  app.get("/badge.svg", etag(), forSite(answerBadge));
}

/** The numbers of several pages by the names they were asked for. Undefined when a name is not valid. */
async function countPages(options: PublicRoutesOptions, site: string, asked: readonly string[]) {
  const { totals, pageName } = options;
  const names = asked.map(pageName);
  const pages = names.filter((name) => name !== undefined);
  if (pages.length < names.length) return undefined;
  const views = await totals.viewsOf(site, pages);
  const online = await Promise.all(pages.map((page) => onlineCount(options, site, page)));
  return Object.fromEntries(names.map((_, at) => [asked[at], { page: online[at], views: views[at] }]));
}
