/** The routes of the statistics: reading times for everybody, and the operator's dashboard and metrics. */

import process from "node:process";
import { setImmediate } from "node:timers/promises";
import type { Context, Env, Handler, Hono, MiddlewareHandler } from "hono";
import { LRUCache } from "lru-cache";
import { DAY_MINUTES, type Engine, HISTORY_DAYS, MINUTE_MS, type StatsStore } from "../engine/engine.ts";
import { dateOf } from "../shared/calendar.ts";
import type { Journal } from "./journal.ts";
import { largestSites, type LiveConnections, type LiveSites, MAX_SHOWN_SITES, onlineCount } from "./live.ts";
import { type Metrics, METRICS_CONTENT_TYPE, runtimeName } from "./metrics.ts";
import type { Totals } from "./totals.ts";

interface StatsRoutesOptions {
  readonly journal: Journal;
  readonly totals: Totals;
  readonly engine: Engine;
  readonly live: LiveSites;
  readonly listedSites: ReadonlySet<string>;
  readonly connections: LiveConnections;
  readonly metrics: Metrics;
  readonly maxConnections: number;
  readonly version: string;
  /** Lets only the operator pass. */
  readonly operatorOnly: MiddlewareHandler;
  /** Whether everybody may see the dashboard, without refusals and the details of the node. */
  readonly isPublic: boolean;
  /** Wraps a handler that answers for one site, or for one page of it; refuses unknown sites. */
  readonly forSite: (answer: SiteHandler) => Handler;
  readonly refuse: (c: Context, reason: "range") => Response;
  /** The title of a reason to refuse. */
  readonly titleOf: (reason: string) => string;
}

/** Answers a request for a site, or for one page of it. */
export type SiteHandler = (c: Context, site: string, page?: string) => Response | Promise<Response>;

const RANGES_MINUTES = new Map([
  ["hour", 60],
  ["day", DAY_MINUTES],
  ["week", 7 * DAY_MINUTES],
  ["quarter", HISTORY_DAYS * DAY_MINUTES],
]);
const DAY_RANGES = new Map([
  ["month", 30],
  ["year", 365],
  ["all", Infinity],
]);
const MAX_SHOWN_PAGES = 100; // of one site
const MAX_CHART_POINTS = 720;
const LIST_CACHE_MS = 5_000; // the journal is written as often

export function addStatsRoutes<E extends Env>(app: Hono<E>, options: StatsRoutesOptions): void {
  addReadingRoute(app, options);
  addOperatorRoutes(app, options);
}

function addReadingRoute<E extends Env>(app: Hono<E>, { engine, listedSites, forSite }: StatsRoutesOptions): void {
  const readList = createLists(engine, listedSites);
  const answer: SiteHandler = async (c, site, page) => {
    if (page !== undefined) return c.json(await engine.reading(site, page));
    return c.body(await readList(site), 200, { "Content-Type": "application/json" });
  };
  app.get("/reading", forSite(answer));
}

/**
 * Returns a function that reads the list of the most read pages of a site. Anybody may ask for lists, so they are read one
 * after the other, and each one serves all who wait for it. Only lists of SITES are cached: a Host header can invent
 * others.
 */
function createLists(store: StatsStore, listedSites: ReadonlySet<string>): (site: string) => Promise<string> {
  const cached = new LRUCache<string, Promise<string>>({ max: Math.max(1, listedSites.size), ttl: LIST_CACHE_MS });
  const awaited = new Map<string, Promise<string>>();
  let last: Promise<unknown> = Promise.resolve();
  const read = (site: string): Promise<string> => {
    const list = last.then(async () => JSON.stringify({ pages: await store.mostRead(site) }));
    last = list.catch(() => {}); // those who wait for the list get the error
    awaited.set(site, list);
    void last.then(() => awaited.delete(site));
    if (listedSites.has(site)) cached.set(site, list);
    return list;
  };
  return (site) => cached.get(site) ?? awaited.get(site) ?? read(site);
}

function addOperatorRoutes<E extends Env>(app: Hono<E>, options: StatsRoutesOptions): void {
  const { engine, metrics, totals, operatorOnly, isPublic, forSite, refuse, titleOf } = options;
  if (!isPublic) app.use("/dashboard/*", operatorOnly);
  app.use("/metrics", operatorOnly);

  app.get("/metrics", async (c) => c.text(await metrics.text(), 200, { "Content-Type": METRICS_CONTENT_TYPE }));

  app.get("/dashboard/state", async (c) => {
    const sites: Awaited<ReturnType<typeof siteState>>[] = [];
    for (const site of shownSites(options)) {
      sites.push(await siteState(options, site));
      await setImmediate(); // a hundred sites with a long past would hold everybody up
    }
    if (isPublic) return c.json({ sites });
    const refusals = (await metrics.refusals()).map((refusal) =>
      Object.assign({ title: titleOf(refusal.reason) }, refusal),
    );
    return c.json({ node: nodeState(options), refusals, sites });
  });

  const answerHistory: SiteHandler = async (c, site) => {
    const minutes = RANGES_MINUTES.get(c.req.query("range") ?? "hour");
    if (minutes === undefined) return refuse(c, "range");
    const step = Math.ceil(minutes / MAX_CHART_POINTS);
    const to = Math.floor(engine.wallClock() / MINUTE_MS);
    const from = (Math.floor((to - minutes) / step) + 1) * step;
    const [points, since] = await Promise.all([engine.history(site, from, step), engine.firstMinute(site)]);
    return c.json({ from, to, step, since, points });
  };
  app.get("/dashboard/history", forSite(answerHistory));

  const answerDays: SiteHandler = async (c, site) => {
    const days = DAY_RANGES.get(c.req.query("range") ?? "month");
    if (days === undefined) return refuse(c, "range");
    const today = totals.day;
    const rows = await engine.days(site, Math.max(0, today - days + 1));
    return c.json({
      today: dateOf(today),
      days: rows.map(({ day, ...counts }) => Object.assign({ date: dateOf(day) }, counts)),
    });
  };
  app.get("/dashboard/days", forSite(answerDays));
}

function nodeState({ connections, engine, journal, maxConnections, version }: StatsRoutesOptions) {
  return {
    version,
    runtime: runtimeName(),
    startedAt: Math.round(performance.timeOrigin),
    memory: process.memoryUsage.rss(),
    connections: connections.size,
    maxConnections,
    engine: engine.name,
    engineErrors: engine.failures,
    journalErrors: journal.failures,
    stale: connections.stale,
  };
}

/** The largest sites, and the sites of SITES where nobody is now, because their past is worth a look. */
function shownSites({ live, listedSites }: StatsRoutesOptions): string[] {
  const names = largestSites(live, listedSites).map(({ room }) => room.site);
  return [...new Set(names.concat(...listedSites))].slice(0, MAX_SHOWN_SITES);
}

/** What is known of a site. A number that is not known now is left out. */
async function siteState(options: StatsRoutesOptions, name: string) {
  const { live, engine, journal, totals } = options;
  const site = live.site(name);
  const pages = Array.from(site?.pages.values() ?? [], ({ page, count }) => ({ page, visitors: count ?? 0 }));
  return {
    site: name,
    visitors: await onlineCount(options, name).catch(() => undefined),
    openPages: site?.audience ?? 0,
    totals: await engine.siteTotals(name, totals.day).catch(() => undefined),
    peak: await journal.peak(name),
    highest: await engine.highest(name).catch(() => undefined),
    pages: pages.toSorted((a, b) => b.visitors - a.visitors).slice(0, MAX_SHOWN_PAGES),
  };
}
