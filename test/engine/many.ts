/**
 * A program for `statistics.test.ts`: records the readings of many pages at once, asks for the totals of many rooms at
 * once, and prints what came of it. V8 throws a RangeError for calls with about 129,000 arguments.
 */
import process from "node:process";
import { type ClusterRoom, MAX_PAGES_PER_SITE, OTHER_PAGES } from "../../engine/engine.ts";
import { RedisEngine } from "../../engine/redis.ts";

const SITE = "many.example";
const PAGES = 35_000;
const ROOMS = 150_000;
const READS = 500; // at the same time
const PATIENCE_MS = 30_000;
const LEASE_MS = 100_000; // a command may take 9 s: a busy machine does not make one fail

const url = process.argv[2];
if (url === undefined) throw new Error("Usage: many.ts REDIS_URL");
const engine = await RedisEngine.open(url, { tokenTtlMs: 30_000, leaseMs: LEASE_MS, log: () => {} });

const page = (index: number) => `/${index}`;
const readings = Array.from({ length: PAGES }, (_, index) => ({
  site: SITE,
  page: page(index),
  bucket: 1,
  views: 1,
  seconds: 1,
}));
await engine.record({ readings, peaks: [] });
let views = (await engine.reading(SITE, OTHER_PAGES)).views;
for (let from = 0; from < MAX_PAGES_PER_SITE; from += READS) {
  const some = Array.from({ length: READS }, (_, index) => engine.reading(SITE, page(from + index)));
  for (const reading of await Promise.all(some)) views += reading.views;
}

const counts = new Map<ClusterRoom, number>();
engine.cluster.listen({ count: (room, count) => counts.set(room, count), stale: () => {} });
engine.cluster.opened({ site: SITE, page: undefined, members: new Map() });
for (let index = 0; index < ROOMS; index += 1)
  engine.cluster.opened({ site: SITE, page: page(index), members: new Map() });
const end = performance.now() + PATIENCE_MS;
while (counts.size < ROOMS + 1 && performance.now() < end) await new Promise((wake) => setTimeout(wake, 20));

const { failures, lostEntries } = engine;
process.stdout.write(JSON.stringify({ failures, lostEntries, views, roomsWithCount: counts.size }));
await engine.close();
