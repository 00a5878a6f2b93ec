/** How nodes find Redis: a Redis Cluster, a Redis that starts later, a password, TLS. */
import { afterAll, expect } from "bun:test";

import { join } from "node:path";
import { ask, Visitor } from "../support/client.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { pathOf, suite } from "../support/needs.ts";
import { RedisServer } from "../support/redis.ts";
import { refuseToStart, Service } from "../support/service.ts";
import { sleep, until } from "../support/waiting.ts";
import { allShow, end, endAll, newVisitor, scenario, settings, SITE, startNodes } from "./nodes.ts";

afterAll(endAll);

suite("cluster connecting", ["redis-server"], () => {
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
    // While the cluster is away, ioredis listens again and again to a socket of its own that is closed already. The
    // first such warning of a process also says how to trace it.
    await end(nodes, /MaxListenersExceededWarning: .* close listeners added to \[Socket\]|^\(Use `.* --trace-warnings/);
  });

  scenario("cluster: a node with numbers in DATA says that they are not used, and how to move them", async () => {
    const folder = temporaryFolder();
    await (await Service.start("bun", { ...settings, DATA: folder })).stop();
    const redis = await RedisServer.start();
    const nodes = await startNodes(redis, ["bun", "deno"], { DATA: folder });
    for (const { logs } of nodes) {
      const warning = logs.find(({ event }) => event.includes("not used"));
      expect(warning).toMatchObject({
        level: "warn",
        file: `${folder}/headcount.db`,
        advice: expect.stringContaining("headcount export"),
      });
    }
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
