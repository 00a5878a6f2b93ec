/**
 * Reading times and peaks in the SQLite file.
 *
 * The figures of a page are brought up to date when its histogram changes, so a list of pages costs the same however much
 * was recorded. The file is bounded: so many pages of each site, so many sites that are not in SITES, names of bounded
 * length, and 90 days of history. Measured with the longest names, that is at most 25 MB for each site of SITES, and 85 MB
 * for all other sites together. An ordinary site needs 2 to 4 MB.
 */

import type { DatabaseSync } from "node:sqlite";
import { setImmediate } from "node:timers/promises";
import {
  DAY_MINUTES,
  HISTORY_DAYS,
  MAX_MOST_READ,
  MINUTE_MS,
  type PageReading,
  type Peak,
  type Reading,
  type ReadingSum,
  type StatsEntries,
  type StatsStore,
  storedPageName,
} from "./engine.ts";
import { inPortions } from "./portions.ts";
import { addViews, parseHistogram, readingOf } from "./reading.ts";
import type { SqliteFile } from "./sqlite-file.ts";
import { Names, SITE_ID } from "./sqlite-names.ts";
import { statement } from "./sqlite-statements.ts";
import { addPageViews } from "./sqlite-totals.ts";

const FORGET_EVERY_MINUTES = 60;
const MINUTES_PER_READ = 14 * DAY_MINUTES;
const NOT_READ: Reading = { views: 0, seconds: 0, median: 0, p90: 0 };

const SQL = {
  findReading: "SELECT seconds, histogram FROM readings WHERE page = ?",
  putReading: `INSERT INTO readings VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET views = excluded.views,
    seconds = excluded.seconds, median = excluded.median, p90 = excluded.p90, histogram = excluded.histogram`,
  raisePeak: `INSERT INTO history VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET peak = excluded.peak WHERE excluded.peak > peak`,
  raiseHighest: `INSERT INTO highest VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET minute = excluded.minute, peak = excluded.peak WHERE excluded.peak > peak`,
  reading: `SELECT views, CAST(round(seconds) AS INTEGER) AS seconds, median, p90 FROM readings
    WHERE page = (SELECT id FROM pages WHERE site = ${SITE_ID} AND name = ?2)`,
  mostRead: `SELECT name AS page, readings.views, CAST(round(readings.seconds) AS INTEGER) AS seconds, median, p90
    FROM readings JOIN pages ON pages.id = readings.page
    WHERE readings.site = ${SITE_ID} ORDER BY readings.seconds DESC LIMIT ?2`,
  history: `SELECT minute - minute % ?3 AS minute, max(peak) AS peak FROM history
    WHERE site = ${SITE_ID} AND minute >= ?2 AND minute < ?4 GROUP BY 1 ORDER BY 1`,
  highest: `SELECT minute, peak FROM highest WHERE site = ${SITE_ID}`,
  firstMinute: `SELECT min(minute) AS minute FROM (SELECT min(minute) AS minute FROM history WHERE site = ${SITE_ID}
    UNION ALL SELECT minute FROM highest WHERE site = ${SITE_ID})`,
  sites: "SELECT id, is_listed FROM sites",
  forgetHistory: "DELETE FROM history WHERE site = ? AND minute < ?",
  hasHistory: "SELECT 1 FROM history WHERE site = ? LIMIT 1",
};

export class SqliteStatistics implements StatsStore {
  readonly lostEntries = 0;
  readonly #file: SqliteFile;
  /** All history before this minute is forgotten. */
  #oldestMinute = 0;

  constructor(file: SqliteFile) {
    this.#file = file;
  }

  async record({ readings, peaks, views = [], unlistedSites = new Set() }: StatsEntries): Promise<void> {
    await this.#file.write(async (database) => {
      const names = new Names(database, unlistedSites);
      await addReadings(database, names, readings);
      await addPeaks(database, names, peaks);
      await addPageViews(database, names, views);
      await this.#forget(database);
    });
  }

  async reading(site: string, page: string): Promise<Reading> {
    const read = (database: DatabaseSync) => statement(database, SQL.reading).get(site, storedPageName(page));
    return ((await this.#file.read(read)) as Reading | undefined) ?? NOT_READ;
  }

  async mostRead(site: string): Promise<PageReading[]> {
    const read = (database: DatabaseSync) => statement(database, SQL.mostRead).all(site, MAX_MOST_READ);
    return (await this.#file.read(read)) as unknown as PageReading[];
  }

  /** Reads two weeks at a time: all 90 days at once would hold everybody up for 50 ms. */
  async history(site: string, fromMinute: number, step: number): Promise<Peak[]> {
    const now = Math.floor(Date.now() / MINUTE_MS);
    const peaks: Peak[][] = [];
    let from = fromMinute;
    do {
      const next = from + MINUTES_PER_READ - ((from + MINUTES_PER_READ) % step); // a step is not cut in two
      const to = next > now ? Infinity : next; // the clock may have been put back
      const read = (database: DatabaseSync) => statement(database, SQL.history).all(site, from, step, to);
      peaks.push((await this.#file.read(read)) as unknown as Peak[]);
      from = next;
      if (from <= now) await setImmediate();
    } while (from <= now);
    return peaks.flat();
  }

  async highest(site: string): Promise<Peak | undefined> {
    const read = (database: DatabaseSync) => statement(database, SQL.highest).get(site);
    return (await this.#file.read(read)) as Peak | undefined;
  }

  async firstMinute(site: string): Promise<number | undefined> {
    const read = (database: DatabaseSync) => statement(database, SQL.firstMinute).get(site);
    return ((await this.#file.read(read)) as { minute: number | null }).minute ?? undefined;
  }

  /** Forgets old history, and the sites that are not listed and have no history left, which makes room for others. */
  async #forget(database: DatabaseSync): Promise<void> {
    const oldest = Math.floor(Date.now() / MINUTE_MS) - HISTORY_DAYS * DAY_MINUTES;
    if (oldest < this.#oldestMinute + FORGET_EVERY_MINUTES) return;
    this.#oldestMinute = oldest;
    const forgetHistory = statement(database, SQL.forgetHistory);
    const hasHistory = statement(database, SQL.hasHistory);
    await inPortions(statement(database, SQL.sites).all(), (site) => {
      const id = Number(site["id"]);
      forgetHistory.run(id, oldest);
      if (site["is_listed"] === 0 && hasHistory.get(id) === undefined) forgetSite(database, id);
    });
  }
}

async function addReadings(database: DatabaseSync, names: Names, readings: readonly ReadingSum[]): Promise<void> {
  const find = statement(database, SQL.findReading);
  const put = statement(database, SQL.putReading);
  await inPortions(pageRuns(readings), ({ site: siteName, page: pageName, sums }) => {
    const site = names.site(siteName);
    if (site === undefined) return;
    const page = names.page(site, pageName);
    const known = find.get(page);
    const histogram = parseHistogram(known?.["histogram"] as string | undefined);
    for (const { bucket, views } of sums) addViews(histogram, bucket, views);
    const seconds = sums.reduce((total, sum) => total + sum.seconds, Number(known?.["seconds"] ?? 0));
    const { views, median, p90 } = readingOf(histogram, seconds);
    put.run(page, site.id, views, seconds, median, p90, JSON.stringify(histogram));
  });
}

/** Entries of one page. */
interface PageRun {
  readonly site: string;
  readonly page: string;
  readonly sums: ReadingSum[];
}

/** Puts entries of the same page together where they follow each other. That is how the journal gives them. */
function* pageRuns(readings: readonly ReadingSum[]): Generator<PageRun> {
  let run: PageRun | undefined;
  for (const sum of readings) {
    const { site, page } = sum;
    if (run?.site === site && run.page === page) run.sums.push(sum);
    else {
      if (run !== undefined) yield run;
      run = { site, page, sums: [sum] };
    }
  }
  if (run !== undefined) yield run;
}

async function addPeaks(database: DatabaseSync, names: Names, peaks: StatsEntries["peaks"]): Promise<void> {
  const raisePeak = statement(database, SQL.raisePeak);
  const raiseHighest = statement(database, SQL.raiseHighest);
  await inPortions(peaks, ({ site: name, minute, peak }) => {
    const site = names.site(name);
    if (site === undefined) return;
    raisePeak.run(site.id, minute, peak);
    raiseHighest.run(site.id, minute, peak);
  });
}

function forgetSite(database: DatabaseSync, id: number): void {
  database.prepare("DELETE FROM imported_pages WHERE import IN (SELECT id FROM imports WHERE site = ?)").run(id);
  for (const table of ["readings", "pages", "highest", "days", "day_visitors", "imports"])
    database.prepare(`DELETE FROM ${table} WHERE site = ?`).run(id);
  database.prepare("DELETE FROM sites WHERE id = ?").run(id);
}
