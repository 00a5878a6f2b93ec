/** The dashboard of a blog that has been read for three months. */
import { Visitor } from "../support/client.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { newBrowser, open, password, shows } from "../support/own-pages.ts";
import { Service } from "../support/service.ts";
import { unlimited } from "../support/site.ts";
import { sqlite } from "../support/unit.ts";
import { once } from "../support/waiting.ts";
import { makeWebp } from "./ffmpeg.ts";

const SITE = "blog.example";
const DAYS = 90;

/** Pages with how many people are there now, and how long most of them read, in seconds. */
const PAGES: [page: string, people: number, seconds: number][] = [
  ["/2026/11/sourdough-at-altitude", 21, 240],
  ["/", 14, 35],
  ["/recipes/rye-with-caraway", 9, 190],
  ["/2026/10/why-crumb-matters", 7, 310],
  ["/recipes", 5, 50],
  ["/about", 2, 40],
  ["/2026/08/a-week-with-one-starter", 2, 280],
];
const NOW = PAGES.reduce((sum, [, people]) => sum + people, 0);

/** The pictures are taken in the afternoon, in a time zone where that is now. */
const AFTERNOON = 16;
const OFFSET_HOURS = ((AFTERNOON - new Date().getUTCHours() + 36) % 24) - 12;
const TIME_ZONE = `Etc/GMT${OFFSET_HOURS > 0 ? "-" : "+"}${Math.abs(OFFSET_HOURS)}`; // POSIX counts to the west
const localMinute = (minute: number): number => minute + OFFSET_HOURS * 60;

/** The same wobble at each run, between -1 and 1. */
const wobble = (at: number): number => (Math.sin(at * 12.9898) + Math.sin(at * 78.233) + Math.sin(at * 3.71)) / 3;
const isWeekend = (day: number): boolean => [2, 3].includes(day % 7); // day 0 was a Thursday
/** How much is read on a day, as a share of what is read today: the blog grows, and rests at weekends. */
const trendOf = (daysAgo: number, day: number): number =>
  (1 - daysAgo / 150) * (isWeekend(day) ? 0.7 : 1) * (1 + 0.16 * wobble(day));

function peopleAt(minute: number, nowMinute: number): number {
  const daysAgo = (nowMinute - minute) / 1440;
  const day = Math.floor(localMinute(minute) / 1440);
  const hour = (localMinute(minute) % 1440) / 60;
  const busy = 0.18 + 0.5 * Math.exp(-(((hour - 11) / 4) ** 2)) + 0.8 * Math.exp(-(((hour - 20) / 2.6) ** 2));
  const people = 85 * busy * trendOf(daysAgo, day) * (1 + 0.12 * wobble(minute));
  // The last half hour leads to the number that is there now.
  const weight = Math.max(0, 1 - (nowMinute - minute) / 30);
  return Math.round(people * (1 - weight) + NOW * weight);
}

/** @returns the folder of its database */
async function past(): Promise<string> {
  const folder = temporaryFolder();
  const engine = sqlite(folder);
  const nowMinute = Math.floor(Date.now() / 60_000);
  const today = Math.floor(localMinute(nowMinute) / 1440);
  const days = Array.from({ length: DAYS }, (_, index) => ({
    daysAgo: DAYS - 1 - index,
    day: today - DAYS + 1 + index,
  }));
  const sizeOf = ({ daysAgo, day }: (typeof days)[number]): number =>
    Math.round((daysAgo === 0 ? 0.6 : 1) * 820 * trendOf(daysAgo, day));
  await engine.record({
    peaks: Array.from({ length: DAYS * 288 }, (_, index) => nowMinute - index * 5).map((minute) => ({
      site: SITE,
      minute,
      peak: peopleAt(minute, nowMinute),
    })),
    readings: PAGES.flatMap(([page, people, median]) =>
      Array.from({ length: 14 }, (_, index) => {
        const bucket = Math.round(Math.log(median) / Math.log(1.2)) - 7 + index;
        const views = Math.round(people * 90 * Math.exp(-(((index - 7) / 4) ** 2)));
        return { site: SITE, page, bucket, views, seconds: views * 1.2 ** bucket };
      }),
    ),
    views: days.map((its) => ({ site: SITE, page: "/", day: its.day, views: Math.round(sizeOf(its) * 2.4) })),
  });
  for (const its of days) {
    const hashes = Array.from({ length: sizeOf(its) }, (_, index) => `${its.day}-${index}`.padStart(16, "0"));
    await engine.countVisitors(hashes.map((hash) => ({ site: SITE, day: its.day, hash, isFirstDay: true })));
  }
  await engine.close();
  return folder;
}

/** One service for all pictures, with people on its pages. */
const busyService = once(async () => {
  const settings = {
    ...unlimited,
    ADMIN_PASSWORD: password,
    SITES: `${SITE},shop.example`,
    TZ: TIME_ZONE,
    DATA: await past(),
  };
  const service = await Service.start("bun", settings);
  for (const [page, people] of PAGES)
    for (let index = 0; index < people; index += 1) await new Visitor(service.url, `https://${SITE}`).open(page);
  for (let index = 0; index < 12; index += 1) await new Visitor(service.url, "https://shop.example").open("/");
  return service;
});

/** @returns the file */
export async function takeDashboard(locale: string, colorScheme: "light" | "dark", file: string): Promise<string> {
  const { url } = await busyService();
  const viewport = { width: 1080, height: 1200 };
  const context = await newBrowser({ locale, colorScheme, viewport, deviceScaleFactor: 1.5, timezoneId: TIME_ZONE });
  const { page } = await open(context, `${url}/dashboard#site=${SITE}&range=week`);
  await shows(page, "#visitors", String(NOW));
  await page.locator("#reading tr").first().waitFor();
  await shows(page, "#days-readout", /\d/);
  const { y, height } = (await page.locator("section", { has: page.locator("#days") }).boundingBox())!;
  makeWebp(await page.screenshot({ clip: { x: 0, y: 0, width: viewport.width, height: y + height + 14 } }), file);
  return file;
}
