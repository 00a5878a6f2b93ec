/**
 * For how long the event loop of the service stands still: `npm run bench -- stalls [deno]`, about four minutes.
 *
 * 18,000 pages come in one storm to 10,000 page names of a site, stay while the journal is written and while an operator
 * asks for everything, are sent away, and are held over a restart. Then a service starts with the journal of a year. A stall
 * is the smaller one of its wall clock time and its CPU time, since other processes stall the service, too.
 */

/* oxlint-disable no-await-in-loop -- one thing is measured at a time */

import { DatabaseSync } from "node:sqlite";
import { join } from "node:path";
import { ask } from "../support/client.ts";
import { removeLeftovers, temporaryFolder } from "../support/leftovers.ts";
import { endServices, type Runtime, Service } from "../support/service.ts";
import { StallProbe } from "../support/stalls.ts";
import { sqlite } from "../support/unit.ts";
import { sleep } from "../support/waiting.ts";
import { type LoadGenerator, startGenerator } from "./generator.ts";

const SITE = "bench.example";
const PAGES = 18_000;
const NAMES = 10_000;
const WATCH_MS = 16_000; // the journal is written three times
const HELD_MS = 20_000; // 15 s, and the departures
const ASK_MS = 300;
const ASKS = 20; // the journal is written meanwhile
const NOTE_MS = 100;
const YEAR_SITES = 100;
const DAYS = 365;
const HISTORY_MINUTES = 90 * 1440;
const BUSY_SETTINGS = { TRUST_PROXY: 1, MAX_CONNECTIONS: 19_900, ADMIN_PASSWORD: "correct horse" };

/** A service with a probe inside. */
interface Watched {
  readonly service: Service;
  readonly probe: StallProbe;
  /** From the start of the process until it was ready. */
  readonly startMs: number;
}

async function start(runtime: Runtime, folder: string, sites: string): Promise<Watched> {
  const probe = new StallProbe();
  const settings = { ...BUSY_SETTINGS, ...probe.settings, DATA: folder, SITES: sites };
  const from = performance.now();
  const service = await Service.start(runtime, settings, probe.launch);
  return { service, probe, startMs: performance.now() - from };
}

/** Prints the longest stall since the last row. The probe notes a stall once it is over. */
async function print(what: string, probe: StallProbe): Promise<void> {
  await sleep(NOTE_MS);
  const { ms, cpuMs } = probe.longest();
  process.stdout.write(
    `| ${what} | ${Math.min(ms, cpuMs).toFixed(0)} ms | ${ms.toFixed(0)} ms, ${cpuMs.toFixed(0)} ms |\n`,
  );
  probe.reset();
}

/** Asks for one thing after the other, each again and again. */
async function askAll({ service, probe }: Watched, site: string): Promise<void> {
  const pages = Array.from({ length: 100 }, (_, page) => `&page=/${page}`).join("");
  const paths = [
    "/metrics",
    "/dashboard/state",
    `/dashboard/history?site=${site}&range=quarter`,
    `/dashboard/days?site=${site}&range=year`,
    `/count?site=${site}${pages}`,
    `/reading?site=${site}`,
  ];
  for (const path of paths) {
    for (let times = 0; times < ASKS; times++) {
      const { status, text } = await ask(service.url, `GET ${path}`, {
        headers: { authorization: service.authorization },
      });
      if (status !== 200) throw new Error(`${path} was answered with ${status}: ${text}`);
      await sleep(ASK_MS);
    }
    await print(`the same, ${path.replace(/[?&].*/, "")} is asked`, probe);
  }
}

const visitors = (service: Service): LoadGenerator => {
  const url = `${service.url}/`;
  return startGenerator({ url, hosts: [SITE], tokens: true, secondPages: true, paths: NAMES, share: 40, lanes: 64 });
};

async function manyPages(runtime: Runtime): Promise<void> {
  const watched = await start(runtime, temporaryFolder(), `https://${SITE}`);
  const { service, probe } = watched;
  const site = encodeURIComponent(`https://${SITE}`);
  await print("start with nothing", probe);
  const load = visitors(service);
  await load.order({ do: "join", pages: PAGES });
  await print(`storm of ${PAGES} pages of newcomers on ${NAMES} names`, probe);
  await sleep(WATCH_MS);
  await print(`${PAGES} pages, the journal is written each 5 s`, probe);
  await askAll(watched, site);
  const gone = load.order({ do: "part" });
  await service.stop();
  await gone;
  await load.stop();
  await print(`drain of ${PAGES} pages`, probe);
  await service.start();
  await print("start with their visitors held", probe);
  await sleep(HELD_MS);
  await print("until they are back no more", probe);
  await service.stop();
}

/** Writes a year of 100 sites with 10,000 pages each into the file. */
async function writeYear(folder: string, sites: readonly string[]): Promise<void> {
  await sqlite(folder).close(); // makes the tables
  const database = new DatabaseSync(join(folder, "headcount.db"));
  const now = Math.floor(Date.now() / 60_000);
  const today = Math.floor(now / 1440);
  const upTo = (last: number) =>
    `WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ${last - 1})`;
  database.exec("PRAGMA synchronous = OFF; BEGIN");
  const add = database.prepare("INSERT INTO sites VALUES (NULL, ?, 1, ?, 1000000, 100000)");
  for (const site of sites) add.run(site, NAMES);
  database.exec(`
    ${upTo(NAMES)} INSERT INTO pages SELECT NULL, sites.id, '/' || i, 100 FROM sites, n;
    INSERT INTO readings SELECT pages.id, site, 100, 100 * (pages.id % 977), 10, 60, '{"13":100}' FROM pages;
    ${upTo(HISTORY_MINUTES)} INSERT INTO history SELECT sites.id, ${now} - i, 1 + i % 50 FROM sites, n;
    INSERT INTO highest SELECT id, ${now}, 50 FROM sites;
    ${upTo(DAYS)} INSERT INTO days SELECT sites.id, ${today} - i, 2000, 300 FROM sites, n;
    COMMIT`);
  database.close();
}

async function yearOfJournal(runtime: Runtime): Promise<void> {
  const folder = temporaryFolder();
  const sites = Array.from({ length: YEAR_SITES }, (_, site) => (site === 0 ? SITE : `s${site}.example`));
  await writeYear(folder, sites);
  const watched = await start(runtime, folder, sites.join(","));
  const { service, probe, startMs } = watched;
  const from = performance.now();
  const { status } = await ask(service.url, `GET /count?site=${SITE}&page=/1`);
  const firstMs = startMs + performance.now() - from;
  await print(`start with a year of ${YEAR_SITES} sites: answers ${status} after ${firstMs.toFixed(0)} ms`, probe);
  await askAll(watched, SITE);
  await service.stop();
}

/** Prints the longest stall of each case. */
export async function stalls(runtime: Runtime): Promise<void> {
  process.stdout.write(`| what (${runtime}) | longest stall | wall clock, CPU |\n| --- | ---: | ---: |\n`);
  await manyPages(runtime);
  await yearOfJournal(runtime);
  endServices();
  removeLeftovers();
}
