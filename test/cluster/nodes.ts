/** Several real nodes of one service, and visitors who go from one to another. */
import { expect, test } from "bun:test";
import { type Frame, type Page, Visitor } from "../support/client.ts";
import { endRedis, type RedisServer } from "../support/redis.ts";
import { type Launch, type Runtime, Service, type Settings } from "../support/service.ts";

export const SITE = "shop.example";
export const ORIGIN = `https://${SITE}`;

/** One machine plays everybody here. */
export const settings: Settings = {
  SITES: SITE,
  ADMIN_PASSWORD: "correct horse",
  GRACE_SECONDS: 1,
  HEARTBEAT_SECONDS: 120,
  MAX_PAGES_PER_VISITOR: 1_000,
  MAX_PAGES_PER_IP: 100_000,
  MAX_TOKENS_PER_IP: 100_000,
  MAX_VISITORS_PER_IP: 100_000,
};

const services: Service[] = [];

/** A test with a Redis and nodes of its own. It runs at the same time as the others of its file. */
export const scenario = (name: string, body: () => Promise<void>, ms = 60_000): void => test.concurrent(name, body, ms);

export async function startNode(
  redis: RedisServer,
  runtime: Runtime,
  more: Settings = {},
  launch: Launch = {},
): Promise<Service> {
  const node = await Service.start(runtime, { ...settings, REDIS_URL: redis.url, ...more }, launch);
  services.push(node);
  return node;
}

export const startNodes = (redis: RedisServer, runtimes: Runtime[], more: Settings = {}): Promise<Service[]> =>
  Promise.all(runtimes.map((runtime) => startNode(redis, runtime, more)));

export const newVisitor = (node: Service): Visitor => new Visitor(node.url, ORIGIN);

/** The same browser, at another node behind the same load balancer. */
export function at(node: Service, visitor: Visitor): Visitor {
  const same = new Visitor(node.url, ORIGIN);
  for (const [name, value] of visitor.cookies) same.cookies.set(name, value);
  return same;
}

export const openMany = (node: Service, count: number): Promise<Page[]> =>
  Promise.all(Array.from({ length: count }, () => newVisitor(node).open()));

export const allShow = (pages: Page[], expected: Frame, ms: number): Promise<unknown> =>
  Promise.all(pages.map((page) => page.shows(expected, ms)));

/** The lowest site count that the pages are told from now on, so that a dip is not missed. Infinity without a frame. */
export function lowest(pages: Page[]): () => number {
  const from = pages.map((page) => page.frames.length);
  return () =>
    Math.min(...pages.flatMap((page, index) => page.frames.slice(from[index]).flatMap(({ site }) => site ?? [])));
}

/**
 * Ends nodes that may have been stopped and killed, and fails when one of them has complained.
 * @param known what may be in their standard error
 */
export async function end(nodes: Service[], known?: RegExp): Promise<void> {
  for (const node of nodes) node.kill();
  for (const { name, logs, errors } of nodes) {
    const complaints = logs.filter(({ level, event }) => level === "error" && !event.includes("journal"));
    const surprises = errors.filter((line) => known?.test(line) !== true);
    expect([name, complaints, surprises]).toEqual([name, [], []]);
  }
}

/** For `afterAll` of a file. */
export async function endAll(): Promise<void> {
  for (const service of services) service.kill();
  await endRedis();
}
