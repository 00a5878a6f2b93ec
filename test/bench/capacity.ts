/**
 * More pages than one process may open files: several nodes, a Redis, and a load generator for each node, on one machine.
 *
 *     npm run bench -- cluster --pages 30000 [--proxy]
 *     npm run bench -- cluster --pages 90000 --nodes 5
 *
 * Every process keeps to the open files that it may have; behind nginx each page takes two of its files. Visitors come
 * from addresses of 127.0.0.0/8, so all limits stay as they are by default.
 */

/* oxlint-disable no-await-in-loop -- one thing is measured at a time */

import { ask } from "../support/client.ts";
import { type Proxy, startNginx } from "../support/nginx.ts";
import { cpuSecondsOf, memoryOf } from "../support/process.ts";
import { endRedis, RedisServer } from "../support/redis.ts";
import { endServices, Service } from "../support/service.ts";
import { sleep } from "../support/waiting.ts";
import { median } from "./figures.ts";
import { type LoadGenerator, startGenerator } from "./generator.ts";

const HOST = "bench.example";
const NGINX_WORKERS = 4; // of 20,000 files each
const CHANGES = 10;
const REST_S = 20;
const MOST_PAGES = 19_000; // of a node, of 20,000 open files

/** The pages that one generator has on one node. */
interface Crowd {
  readonly generator: LoadGenerator;
  readonly pages: number;
}

const print = (line: string) => process.stdout.write(`${line}\n`);

/** Behind nginx all crowds come from the same addresses, and half a household fits twice into the limits. */
const gather = (url: string): LoadGenerator =>
  startGenerator({ url: `${url}/`, hosts: [HOST], tokens: true, secondPages: false, paths: 1, share: 20, lanes: 32 });

async function startNodes(count: number, redis: RedisServer, isProxied: boolean): Promise<Service[]> {
  const settings = {
    SITES: `https://${HOST}`,
    REDIS_URL: redis.url,
    TRUST_PROXY: isProxied ? 1 : 0,
    MAX_CONNECTIONS: MOST_PAGES,
  };
  return Promise.all(Array.from({ length: count }, () => Service.start("bun", settings)));
}

async function startProxy([first, second, ...more]: Service[]): Promise<Proxy> {
  if (first === undefined || second === undefined || more.length > 0) throw new Error("--proxy needs two nodes");
  return startNginx(first.host, 60, { second: second.host, workers: NGINX_WORKERS, plain: true });
}

/** One crowd after the other joins, and at the end all pages show all pages. */
async function joinAll(crowds: Crowd[]): Promise<number> {
  let total = 0;
  for (const { generator, pages } of crowds) {
    const { ms } = await generator.order({ do: "join", pages, elsewhere: total });
    total += pages;
    print(`${pages} pages joined and show ${total} after ${(ms / 1_000).toFixed(1)} s`);
  }
  await Promise.all(
    crowds.map(({ generator, pages }) => generator.order({ do: "join", pages: 0, elsewhere: total - pages })),
  );
  print(`all ${total} pages show ${total}`);
  return total;
}

/** After how many milliseconds a newcomer to the last crowd is on all pages of all crowds. */
async function newcomer(crowds: Crowd[], total: number, number: number): Promise<number> {
  const times = crowds.map(async ({ generator, pages }, index) => {
    const joins = index === crowds.length - 1;
    const elsewhere = total - pages + (joins ? 0 : number);
    return (await generator.order({ do: "join", pages: joins ? 1 : 0, elsewhere })).ms;
  });
  return Math.max(...(await Promise.all(times)));
}

async function printNodes(nodes: Service[], redis: RedisServer): Promise<void> {
  const processes = [redis.pid, ...nodes.map(({ pid }) => pid)];
  const before = processes.map(cpuSecondsOf);
  await sleep(REST_S * 1_000);
  const percent = (pid: number) => (((cpuSecondsOf(pid) - before[processes.indexOf(pid)]!) / REST_S) * 100).toFixed(1);
  for (const node of nodes) {
    const { url, pid } = node;
    const { json } = await ask(url, `GET /count?site=${encodeURIComponent(`https://${HOST}`)}`);
    const pages = await node.metric("headcount_connections");
    const use = `${memoryOf(pid).toFixed(0)} MB, at rest ${percent(pid)} % of a core`;
    print(`${url} holds ${pages} pages and counts ${json.site}: ${use}`);
  }
  print(`Redis: ${memoryOf(redis.pid).toFixed(0)} MB, at rest ${percent(redis.pid)} % of a core`);
}

export async function manyPages(pages: number, nodeCount: number, isProxied: boolean): Promise<void> {
  const redis = await RedisServer.start();
  const nodes = await startNodes(nodeCount, redis, isProxied);
  const nginx = isProxied ? await startProxy(nodes) : undefined;
  const share = Math.ceil(pages / nodeCount);
  const crowds = nodes.map(({ url }, index) => ({
    generator: gather(nginx?.url ?? url),
    pages: Math.min(share, pages - index * share),
  }));
  const total = await joinAll(crowds);
  await printNodes(nodes, redis);

  const times: number[] = [];
  for (let change = 1; change <= CHANGES; change += 1) {
    await sleep(3_000); // a quiet time
    times.push(await newcomer(crowds, total, change));
  }
  const [usual, worst] = [median(times), Math.max(...times)].map(Math.round);
  print(`a newcomer, token and upgrade included, is on all pages after ${usual} ms (at most ${worst} ms)`);

  await Promise.all(crowds.map(({ generator }) => generator.stop()));
  await nginx?.stop();
  endServices();
  await endRedis();
}
