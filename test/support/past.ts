/** A service whose database has a past. */
import { temporaryFolder } from "./leftovers.ts";
import { startService } from "./own-pages.ts";
import type { Service } from "./service.ts";
import { sqlite } from "./unit.ts";

/** A service whose file has a past: peaks of the site a.example by minutes ago, and views by seconds. */
export async function startWithPast(peaks: [minutesAgo: number, peak: number][], pages: string[]): Promise<Service> {
  const folder = temporaryFolder();
  const engine = sqlite(folder);
  const now = Math.floor(Date.now() / 60_000);
  await engine.record({
    peaks: peaks.map(([minutesAgo, peak]) => ({ site: "a.example", minute: now - minutesAgo, peak })),
    readings: pages.map((page, index) => {
      const [bucket, views] = [10 + index, 100 - index];
      return { site: "a.example", page, bucket, views, seconds: views * 1.2 ** bucket };
    }),
  });
  await engine.close();
  return startService({ DATA: folder });
}

/** Peaks of a site that has been there for a year, with days and nights. */
export const year = Array.from({ length: (365 * 1440) / 5 }, (_, index): [number, number] => {
  const minutesAgo = index * 5;
  return [minutesAgo, Math.round(40 + 39 * Math.sin((minutesAgo / 1440) * 2 * Math.PI))];
}).filter(([, peak]) => peak > 0);
