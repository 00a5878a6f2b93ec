/** A service whose database has a past. */
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { temporaryFolder } from "./leftovers.ts";
import { startService } from "./own-pages.ts";
import type { Service } from "./service.ts";

/** A service whose file has a past: peaks of the site a.example by minutes ago, and views by seconds. */
export async function startWithPast(peaks: [minutesAgo: number, peak: number][], pages: string[]): Promise<Service> {
  const folder = temporaryFolder();
  await (await startService({ DATA: folder })).stop();
  const database = new DatabaseSync(join(folder, "headcount.db"));
  const now = Math.floor(Date.now() / 60_000);
  const point = database.prepare("INSERT INTO history VALUES ('a.example', ?, ?)");
  const highest = database.prepare("INSERT OR REPLACE INTO highest VALUES ('a.example', ?, ?)");
  const view = database.prepare("INSERT INTO readings VALUES ('a.example', ?, ?, ?, ?)");
  database.exec("BEGIN");
  for (const [minutesAgo, peak] of peaks) point.run(now - minutesAgo, peak);
  highest.run(
    ...(peaks.map(([ago, peak]) => [now - ago, peak] as const).toSorted((a, b) => b[1] - a[1])[0] ?? [now, 0]),
  );
  for (const [index, page] of pages.entries())
    view.run(page, 10 + index, 100 - index, (100 - index) * 1.2 ** (10 + index));
  database.exec("COMMIT");
  database.close();
  return startService({ DATA: folder });
}

/** Peaks of a site that has been there for a year, with days and nights. */
export const year = Array.from({ length: (365 * 1440) / 5 }, (_, index): [number, number] => {
  const minutesAgo = index * 5;
  return [minutesAgo, Math.round(40 + 39 * Math.sin((minutesAgo / 1440) * 2 * Math.PI))];
}).filter(([, peak]) => peak > 0);
