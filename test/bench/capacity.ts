/**
 * More pages than one process may open files: two nodes, a Redis, and a load generator for each, on one machine.
 *
 *     npm run bench -- cluster --pages 30000 [--proxy]
 *
 * Every process keeps to the open files that it may have; behind nginx each page takes two of its files. Visitors come
 * from addresses of 127.0.0.0/8, so all limits stay as they are by default.
 */

/* oxlint-disable no-await-in-loop -- one thing is measured at a time */

import { ask } from "../support/client.ts";
import { startNginx } from "../support/nginx.ts";
import { memoryOf } from "../support/process.ts";
import { endRedis, RedisServer } from "../support/redis.ts";
import { endServices, Service } from "../support/service.ts";
import { sleep } from "../support/waiting.ts";
import { median } from "./figures.ts";
import { type LoadGenerator, startGenerator } from "./generator.ts";

const HOST = "bench.example";
const NGINX_WORKERS = 4; // of 20,000 files each
const CHANGES = 10;

/** Behind nginx both crowds come from the same addresses, and half a household fits twice into the limits. */
const gather = (url: string): LoadGenerator =>
  startGenerator({ url: `${url}/`, hosts: [HOST], tokens: true, secondPages: false, paths: 1, share: 20, lanes: 32 });

async function print(nodes: Service[]): Promise<void> {
  for (const node of nodes) {
    const pages = await node.metric("headcount_connections");
    const { json } = await ask(node.url, `GET /count?site=${encodeURIComponent(`https://${HOST}`)}`);
    const memory = memoryOf(node.pid).toFixed(0);
    process.stdout.write(`${node.url} holds ${pages} pages in ${memory} MB and counts ${json.site}\n`);
  }
}

export async function manyPages(pages: number, isProxied: boolean): Promise<void> {
  const redis = await RedisServer.start();
  const settings = { SITES: `https://${HOST}`, REDIS_URL: redis.url, TRUST_PROXY: isProxied ? 1 : 0 };
  const nodes = [await Service.start("bun", settings), await Service.start("bun", settings)] as const;
  const options = { second: nodes[1].host, workers: NGINX_WORKERS, plain: true };
  const nginx = isProxied ? await startNginx(nodes[0].host, 60, options) : undefined;
  const [first, second] = nodes.map(({ url }) => gather(nginx?.url ?? url)) as [LoadGenerator, LoadGenerator];

  const half = Math.ceil(pages / 2);
  const joined = await first.order({ do: "join", pages: half });
  process.stdout.write(`${half} pages joined and all show ${half} after ${(joined.ms / 1_000).toFixed(1)} s\n`);
  const more = await second.order({ do: "join", pages: pages - half, elsewhere: half });
  await first.order({ do: "join", pages: 0, elsewhere: pages - half });
  process.stdout.write(
    `${pages - half} more joined and all ${pages} show ${pages} after ${(more.ms / 1_000).toFixed(1)} s\n`,
  );
  await print([...nodes]);

  const times: number[] = [];
  for (let change = 1; change <= CHANGES; change += 1) {
    await sleep(3_000); // a quiet time
    const seen = first.order({ do: "join", pages: 0, elsewhere: pages - half + change });
    const { ms } = await second.order({ do: "join", pages: 1, elsewhere: half });
    times.push(Math.max(ms, (await seen).ms));
  }
  const [usual, worst] = [median(times), Math.max(...times)].map(Math.round);
  process.stdout.write(
    `a newcomer, token and upgrade included, is on all pages after ${usual} ms (at most ${worst} ms)\n`,
  );

  await Promise.all([first.stop(), second.stop()]);
  await nginx?.stop();
  endServices();
  await endRedis();
}
