/**
 * Several real nodes, Bun and Deno mixed, and a real Redis that is killed, frozen, emptied and replaced. Each scenario has
 * its own Redis and nodes; those that mostly wait run at the same time.
 */
import { afterAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { ask, type Frame, type Page, Visitor } from "./support/client.ts";
import { temporaryFolder } from "./support/leftovers.ts";
import { pathOf, suite } from "./support/needs.ts";
import { startNginx } from "./support/nginx.ts";
import { endRedis, RedisServer } from "./support/redis.ts";
import { refuseToStart, type Runtime, Service, type Settings } from "./support/service.ts";
import { sleep, until, within } from "./support/waiting.ts";

const SITE = "shop.example";
const ORIGIN = `https://${SITE}`;
const ROLLING = Number(process.env["ROLLING"] ?? 1_000); // open pages under the rolling restart

/** One machine plays everybody here. */
const settings: Settings = {
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

async function startNodes(redis: RedisServer, runtimes: Runtime[], more: Settings = {}): Promise<Service[]> {
  const started = runtimes.map((runtime) => Service.start(runtime, { ...settings, REDIS_URL: redis.url, ...more }));
  const nodes = await Promise.all(started);
  services.push(...nodes);
  return nodes;
}

const newVisitor = (node: Service) => new Visitor(node.url, ORIGIN);

/** The same browser, at another node behind the same load balancer. */
function at(node: Service, visitor: Visitor): Visitor {
  const same = new Visitor(node.url, ORIGIN);
  for (const [name, value] of visitor.cookies) same.cookies.set(name, value);
  return same;
}

const openMany = (node: Service, count: number): Promise<Page[]> =>
  Promise.all(Array.from({ length: count }, () => newVisitor(node).open()));

const allShow = (pages: Page[], expected: Frame, ms: number) =>
  Promise.all(pages.map((page) => page.shows(expected, ms)));

/** The site counts that a page was told from now on, so that a dip is not missed. */
function lowest(pages: Page[]): () => number {
  const from = pages.map((page) => page.frames.length);
  return () =>
    Math.min(...pages.flatMap((page, index) => page.frames.slice(from[index]).flatMap(({ site }) => site ?? [])));
}

/** Stopping and killing nodes is what this file does; what they must not do is complain. */
async function end(nodes: Service[]): Promise<void> {
  for (const node of nodes) node.kill();
  for (const { name, logs, errors } of nodes) {
    const complaints = logs.filter(({ level, event }) => level === "error" && !event.includes("journal"));
    expect([name, complaints, errors]).toEqual([name, [], []]);
  }
}

afterAll(async () => {
  for (const service of services) service.kill();
  await endRedis();
});

const scenario = (name: string, body: () => Promise<void>, ms = 60_000) => test.concurrent(name, body, ms);

suite("cluster", ["redis-server"], () => {
  scenario(
    "cluster: a visitor with pages on two nodes counts once, and a change is seen on the other node soon",
    async () => {
      const redis = await RedisServer.start();
      const nodes = await startNodes(redis, ["bun", "deno"]);
      const [bun, deno] = nodes as [Service, Service];
      const ann = newVisitor(bun);
      const first = await ann.open("/");
      await first.shows({ site: 1, page: 1 });
      const second = await at(deno, ann).open("/two");
      await second.shows({ site: 1, page: 1 });
      const delays: number[] = [];
      for (const [node, watcher] of Array.from({ length: 10 }, (_, n) =>
        n % 2 ? ([bun, second] as const) : ([deno, first] as const),
      )) {
        // oxfmt-ignore
        const count = (watcher.now.site ?? 0) + 1;
        const from = performance.now();
        await newVisitor(node).open();
        await watcher.shows({ site: count }, 1_000);
        await allShow([first, second], { site: count }, 1_000);
        delays.push(performance.now() - from);
      }
      await allShow([first, second], { site: 11 }, 1_000);
      const slowest = Math.round(Math.max(...delays));
      process.stderr.write(
        `cluster: a join is seen on the other node after at most ${slowest} ms (token and upgrade included)\n`,
      );
      await first.close();
      await sleep(2_000); // longer than grace: the page on the other node still counts
      expect(second.now.site).toBe(11);
      await second.close();
      await until("ann is gone", async () => (await ask(bun.url, `GET /count?site=${SITE}`)).json.site === 10);
      expect((await ask(deno.url, `GET /count?site=${SITE}&page=/two`)).json).toMatchObject({ site: 10, page: 0 });
      await end(nodes);
    },
  );

  scenario("cluster: one token in 100 parallel upgrades over two nodes opens one socket", async () => {
    const redis = await RedisServer.start();
    const nodes = await startNodes(redis, ["bun", "deno"]);
    for (let round = 0; round < 3; round += 1) {
      const { json } = await newVisitor(nodes[0]!).token();
      const upgrades = Array.from({ length: 100 }, (_, n) => newVisitor(nodes[n % 2]!).upgrade(json.token));
      const answers = (await Promise.all(upgrades)).map(({ status }) => status);
      expect(answers.filter((status) => status === 101)).toHaveLength(1);
      expect(answers.filter((status) => status === 403)).toHaveLength(99);
    }
    await end(nodes);
  });

  scenario("cluster: a killed node's visitors leave within 15 s, but for those who are back elsewhere", async () => {
    const redis = await RedisServer.start();
    const nodes = await startNodes(redis, ["bun", "deno", "bun"]);
    const [dies, deno, bun] = nodes as [Service, Service, Service];
    const watchers = [await newVisitor(deno).open(), await newVisitor(bun).open()];
    const back = newVisitor(dies);
    await back.open();
    const both = newVisitor(dies);
    await both.open();
    await at(bun, both).open();
    await openMany(dies, 20);
    await allShow(watchers, { site: 24 }, 5_000);
    await dies.stop("SIGKILL");
    const from = performance.now();
    await at(deno, back).open();
    const low = lowest(watchers);
    await allShow(watchers, { site: 4 }, 15_000);
    process.stderr.write(`cluster: a killed node is healed after ${Math.round(performance.now() - from)} ms\n`);
    await sleep(1_000);
    expect(low()).toBe(4);
    await end(nodes);
  });

  scenario(
    "cluster: Redis killed for 6 s and back empty: no page reconnects, and counts are exact within 10 s",
    async () => {
      const redis = await RedisServer.start();
      const nodes = await startNodes(redis, ["bun", "deno"]);
      const [bun, deno] = nodes as [Service, Service];
      const pages = [...(await openMany(bun, 10)), ...(await openMany(deno, 10))];
      await allShow(pages, { site: 20 }, 5_000);
      const low = lowest(pages);
      await redis.kill();
      await allShow(pages, { site: 20, stale: true }, 1_000);
      const joined = await newVisitor(bun).open();
      await joined.shows({ site: 21, page: 21, stale: true }, 2_000);
      await pages[0]!.shows({ site: 21 }, 1_000);
      await newVisitor(deno).open();
      await pages[10]!.close();
      await sleep(6_000);
      await redis.begin();
      const from = performance.now();
      const all = [...pages.slice(0, 10), ...pages.slice(11), joined];
      await allShow(all, { site: 21, page: 21, stale: false }, 10_000);
      process.stderr.write(`cluster: exact ${Math.round(performance.now() - from)} ms after Redis is back, empty\n`);
      await sleep(1_000);
      await allShow(all, { site: 21, stale: false }, 1);
      expect(all.every((page) => page.open)).toBe(true);
      expect(low()).toBeGreaterThanOrEqual(19);
      await end(nodes);
    },
  );

  scenario("cluster: Redis frozen for 8 s: calls fail fast, pages stay, new ones come, the count is held", async () => {
    const redis = await RedisServer.start();
    const nodes = await startNodes(redis, ["bun", "deno"]);
    const [bun, deno] = nodes as [Service, Service];
    const pages = [...(await openMany(bun, 5)), ...(await openMany(deno, 5))];
    await allShow(pages, { site: 10 }, 5_000);
    const low = lowest(pages);
    redis.freeze();
    for (const node of [bun, deno]) {
      const from = performance.now();
      const page = await newVisitor(node).open();
      expect(performance.now() - from).toBeLessThan(2_500); // two calls that time out, at the worst
      pages.push(page);
    }
    await allShow(pages, { site: 11, stale: true }, 2_000);
    for (const node of [bun, deno]) {
      const from = performance.now();
      pages.push(await newVisitor(node).open());
      expect(performance.now() - from).toBeLessThan(500); // by now it is known
      expect((await ask(node.url, "GET /readyz")).text).toBe("ok, stale");
      expect((await ask(node.url, "GET /readyz")).status).toBe(200);
      expect(await node.metric("headcount_stale")).toBe(1);
      expect(await node.metric("headcount_engine_errors_total")).toBeGreaterThan(0);
      expect((await ask(node.url, `GET /count?site=${SITE}`)).json.site).toBe(12);
    }
    await sleep(6_000);
    expect(pages.every((page) => page.open)).toBe(true);
    redis.thaw();
    await allShow(pages, { site: 14, stale: false }, 10_000);
    expect((await ask(bun.url, "GET /readyz")).text).toBe("ok");
    expect(low()).toBe(10);
    await end(nodes);
  });

  scenario(
    "cluster: /count of a room elsewhere, Redis away: the last known number, stale, or 503; and no log",
    async () => {
      const redis = await RedisServer.start();
      const nodes = await startNodes(redis, ["bun", "deno"], { SITES: `${SITE}, other.example, new.example` });
      const [has, asks] = nodes as [Service, Service];
      await newVisitor(has).open();
      const watcher = await new Visitor(asks.url, "https://other.example").open();
      const count = (site: string) => ask(asks.url, `GET /count?site=${site}`);
      await until("it is counted", async () => (await count(SITE)).json.site === 1);
      const lines = asks.logs.length;
      await redis.kill();
      await watcher.shows({ stale: true }, 2_000);
      for (let n = 0; n < 200; n += 1) {
        expect((await count(SITE)).json).toMatchObject({ site: 1, stale: true });
        expect((await count("new.example")).status).toBe(503);
      }
      const { authorization } = asks;
      expect((await ask(asks.url, "GET /dashboard/state", { headers: { authorization } })).status).toBe(200);
      expect(asks.logs.slice(lines).map(({ event }) => event)).toEqual([expect.stringContaining("Redis is away")]);
      await redis.begin();
      for (let n = 0; n < 100; n += 1) {
        expect((await count(SITE)).json.site).toBe(1);
        await sleep(50);
      }
      await end(nodes);
    },
  );

  scenario(
    "cluster: FLUSHALL and SCRIPT FLUSH: no page sees a wrong number, and all is there again within 10 s",
    async () => {
      const redis = await RedisServer.start();
      const nodes = await startNodes(redis, ["bun", "deno"]);
      const pages = [...(await openMany(nodes[0]!, 5)), ...(await openMany(nodes[1]!, 5))];
      await allShow(pages, { site: 10, page: 10 }, 5_000);
      const low = lowest(pages);
      await redis.client.script("FLUSH");
      pages.push(await newVisitor(nodes[1]!).open());
      await allShow(pages, { site: 11 }, 1_000);
      await redis.client.flushall();
      const total = async () => Number(await redis.client.hget(`headcount:{${SITE}}:totals`, ""));
      await until("Redis knows all again", async () => (await total()) === 11, 5_000);
      await allShow(pages, { site: 11, stale: false }, 10_000);
      expect(await redis.client.get("headcount:secret:signing")).not.toBeNull();
      expect(low()).toBe(10);
      await end(nodes);
    },
  );

  scenario(
    "cluster: a node frozen for 60 s is reaped, and counts its visitors once when it goes on",
    async () => {
      const redis = await RedisServer.start();
      const nodes = await startNodes(redis, ["bun", "deno"]);
      const [freezes, other] = nodes as [Service, Service];
      const watcher = await newVisitor(other).open();
      const both = newVisitor(freezes);
      const pages = [await both.open(), await at(other, both).open(), ...(await openMany(freezes, 5))];
      await allShow([watcher, ...pages], { site: 7 }, 5_000);
      process.kill(freezes.pid, "SIGSTOP");
      await watcher.shows({ site: 2 }, 15_000);
      await sleep(45_000);
      const low = lowest(pages);
      process.kill(freezes.pid, "SIGCONT");
      await allShow([watcher, ...pages], { site: 7 }, 10_000);
      await sleep(12_000); // longer than the lease of what it had been
      await allShow([watcher, ...pages], { site: 7 }, 1);
      expect(low()).toBeGreaterThanOrEqual(2);
      const { "\n": _epoch, ...refs } = await redis.client.hgetall(`headcount:{${SITE}}:refs`);
      expect(Object.values(refs).toSorted()).toEqual([...Array<string>(12).fill("1"), "2", "2"]);
      await end(nodes);
    },
    120_000,
  );

  scenario(
    "cluster: a stopped node's visitors are held for 15 s, then gone, and when all nodes are gone so are the keys",
    async () => {
      const redis = await RedisServer.start();
      const nodes = await startNodes(redis, ["bun", "deno"]);
      const [stops, other] = nodes as [Service, Service];
      const watcher = await newVisitor(other).open();
      await openMany(stops, 10);
      await watcher.shows({ site: 11 });
      const low = lowest([watcher]);
      expect(await stops.stop()).toBe(0);
      await sleep(12_000);
      expect(low()).toBe(Infinity); // not a word
      await watcher.shows({ site: 1 }, 10_000);
      expect(await other.stop()).toBe(0);
      const left = async () =>
        (await redis.client.keys("*")).toSorted().map((key) => key.replace(/:[^:]{12}$|:\d+$/, ":…"));
      const journal = ["highest", "history:…", "pages", "read:/", "wrote:…"].map((key) => `headcount:{${SITE}}:${key}`);
      const kept = new Set(["headcount:secret:signing", ...journal]);
      await until("only secret and journal are left", async () => (await left()).every((key) => kept.has(key)), 50_000);
      await end(nodes);
    },
    120_000,
  );

  scenario("cluster: Redis Cluster, also when it is killed and comes back empty", async () => {
    const redis = await RedisServer.start([
      "--cluster-enabled",
      "yes",
      "--cluster-announce-ip",
      "127.0.0.1",
      "--maxmemory-policy",
      "allkeys-lru",
    ]);
    await redis.client.call("CLUSTER", "ADDSLOTSRANGE", "0", "16383");
    await until("the cluster is up", async () =>
      String(await redis.client.call("CLUSTER", "INFO")).includes("cluster_state:ok"),
    );
    const nodes = await startNodes(redis, ["bun", "deno"], { SITES: `${SITE}, other.example` });
    for (const { logs } of nodes) expect(logs.some(({ event }) => event.includes("noeviction"))).toBe(true);
    const pages = await Promise.all(
      nodes.flatMap((node) => [newVisitor(node).open("/"), newVisitor(node).open("/two")]),
    );
    const elsewhere = await new Visitor(nodes[0]!.url, "https://other.example").open();
    await allShow(pages, { site: 4, page: 2 }, 2_000);
    await elsewhere.shows({ site: 1 });
    expect((await ask(nodes[1]!.url, "GET /count?site=other.example&page=/")).json).toMatchObject({ site: 1, page: 1 });
    await redis.kill();
    await allShow(pages, { site: 4, stale: true }, 3_000);
    await redis.begin();
    await allShow(pages, { site: 4, page: 2, stale: false }, 15_000);
    pages.push(await newVisitor(nodes[1]!).open());
    await allShow(pages, { site: 5 }, 2_000);
    await end(nodes);
  });

  scenario("cluster: a node waits for Redis to start, and gives up on a wrong password", async () => {
    const redis = await RedisServer.start(["--requirepass", "sesame"]);
    await redis.kill();
    const url = `redis://:sesame@127.0.0.1:${redis.port}`;
    const starting = startNodes(redis, ["bun", "deno"], { REDIS_URL: url });
    await sleep(2_000);
    await redis.begin();
    const nodes = await starting;
    await newVisitor(nodes[0]!).open();
    for (const runtime of ["bun", "deno"] as const) {
      const { code, stderr } = await refuseToStart(runtime, { REDIS_URL: `redis://:wrong@127.0.0.1:${redis.port}` });
      expect(code).toBe(1);
      expect(stderr.trim()).toStartWith("Cannot use REDIS_URL: WRONGPASS");
      expect(stderr).not.toContain(":wrong");
    }
    await end(nodes);
  });
});

suite("cluster: TLS", ["redis-server", "openssl"], () => {
  scenario("cluster: rediss:// with a password, trusted by NODE_EXTRA_CA_CERTS and by nothing less", async () => {
    const folder = temporaryFolder();
    const openssl = (words: string) =>
      Bun.spawnSync([pathOf("openssl"), ...words.split(" ")], { cwd: folder, stderr: "ignore" }).exitCode;
    openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -out ca.pem -keyout ca.key");
    openssl("req -newkey rsa:2048 -nodes -subj /CN=redis -addext subjectAltName=IP:127.0.0.1 -out a.csr -keyout a.key");
    expect(openssl("x509 -req -in a.csr -CA ca.pem -CAkey ca.key -days 2 -copy_extensions copy -out a.pem")).toBe(0);
    const certificate = join(folder, "ca.pem");
    const files = ["--tls-cert-file", join(folder, "a.pem"), "--tls-key-file", join(folder, "a.key")];
    const redis = await RedisServer.start([
      "--tls-port",
      ...files,
      "--tls-auth-clients",
      "no",
      "--requirepass",
      "sesame",
    ]);
    const REDIS_URL = `rediss://:sesame@127.0.0.1:${redis.port}`;
    const nodes = await startNodes(redis, ["bun", "deno"], {
      REDIS_URL,
      NODE_EXTRA_CA_CERTS: certificate,
    });
    const pages = await Promise.all(nodes.map((node) => newVisitor(node).open()));
    await allShow(pages, { site: 2 }, 2_000);
    let trusted = false;
    Service.start("bun", { ...settings, REDIS_URL }).then(
      () => (trusted = true),
      () => {},
    );
    await sleep(3_000);
    expect(trusted).toBe(false);
    await end(nodes);
  });
});

suite("cluster: nginx", ["redis-server", "nginx", "openssl"], () => {
  scenario(
    "cluster: behind the README's nginx, pages are shared out, and a killed node's come back by the other",
    async () => {
      const redis = await RedisServer.start();
      const nodes = await startNodes(redis, ["bun", "bun"], { TRUST_PROXY: 1 });
      const [dies, stays] = nodes as [Service, Service];
      const nginx = await startNginx(dies.host, 60, { second: stays.host });
      const visitors = Array.from({ length: 20 }, () => new Visitor(nginx.url, ORIGIN));
      const pages: Page[] = [];
      for (const visitor of visitors) pages.push(await visitor.open());
      await allShow(pages, { site: 20 }, 2_000);
      const held = await Promise.all(nodes.map((node) => node.metric("headcount_connections")));
      expect(held.reduce((sum, count) => sum + count)).toBe(20);
      expect(Math.min(...held)).toBeGreaterThanOrEqual(5);
      const watcher = await newVisitor(stays).open("/", { observe: true });
      await dies.stop("SIGKILL");
      await until("the killed node's pages are closed", () => pages.filter(({ open }) => !open).length === held[0]);
      const low = lowest([watcher]);
      for (const [index, visitor] of visitors.entries()) if (!pages[index]!.open) await visitor.open();
      await sleep(15_000); // longer than the lease of the node that died
      expect([watcher.now.site, Math.min(low(), 20)]).toEqual([20, 20]);
      expect(await stays.metric("headcount_connections")).toBe(21);
      await nginx.stop();
      await end(nodes);
    },
  );
});

/** A page that comes back as the widget does, to the next node behind the load balancer. */
async function stay(visitor: Visitor, nodes: Service[], isOver: () => boolean): Promise<void> {
  for (let turn = 0; !isOver(); turn += 1) {
    const node = nodes[turn % nodes.length]!;
    const page = await at(node, visitor)
      .open()
      .catch(() => undefined);
    if (page === undefined) {
      await sleep(200);
      continue;
    }
    const { code, reason } = await page.closed;
    expect(code).toBe(1012);
    await sleep(Math.random() * Number(reason) * 1_000);
  }
}

describe("cluster: restart", () => {
  suite("cluster: restart", ["redis-server"], () => {
    test(`cluster: a rolling restart of all nodes under ${ROLLING} pages shows no dip`, async () => {
      const redis = await RedisServer.start();
      const nodes = await startNodes(redis, ["bun", "deno"]);
      let over = false;
      const visitors = Array.from({ length: ROLLING }, () => newVisitor(nodes[0]!));
      for (const visitor of visitors) await visitor.token();
      const staying = visitors.map((visitor, n) => stay(visitor, n % 2 ? nodes : nodes.toReversed(), () => over));
      const site = async (node: Service): Promise<number> => (await ask(node.url, `GET /count?site=${SITE}`)).json.site;
      await until("all are here", async () => (await site(nodes[1]!)) === ROLLING, 30_000);
      for (const node of nodes) {
        const other = nodes.find((one) => one !== node)!;
        const watcher = await newVisitor(other).open("/", { observe: true });
        const low = lowest([watcher]);
        expect(await node.stop()).toBe(0);
        await node.start();
        await sleep(20_000); // the reconnect window, and the lease of what was held
        expect([watcher.now.site, low()]).toEqual([ROLLING, low()]);
        expect(Math.min(low(), ROLLING)).toBe(ROLLING);
        await watcher.close();
      }
      over = true;
      for (const node of nodes) expect(await node.stop()).toBe(0);
      await within(5_000, "all pages are closed", Promise.all(staying));
      await end(nodes);
    }, 120_000);
  });
});
