/** Which origins may embed the widget, and which site each of them is. */
import { expect, test } from "bun:test";
import { ask, type Connection, Visitor } from "../support/client.ts";
import { expectProblem } from "../support/expect.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { Service } from "../support/service.ts";
import { SharedService } from "../support/site.ts";

onBothRuntimes("sites", (runtime) => {
  const start = (settings = {}) => Service.start(runtime, settings);
  const shared = new SharedService(runtime, {
    SITES: "*.wild.example,https://port.example:8443,plain.example",
    TRUST_PROXY: 1,
  });
  const status = async (origin: string): Promise<number> =>
    (await new Visitor(await shared.url(), origin).token()).status;

  test("a bare host is its http and https origin on the default port", async () => {
    for (const origin of [
      "https://plain.example",
      "http://plain.example",
      "https://plain.example:443",
      "http://plain.example:80",
      "HTTPS://Plain.Example",
    ]) {
      const connection = await new Visitor(await shared.url(), origin).open();
      await connection.close();
    }
  });

  test("another port, a trailing dot and lookalikes are refused with 403", async () => {
    const wrong = [
      "https://plain.example:8443",
      "http://plain.example:8080",
      "https://plain.example.",
      "https://plain.example.evil.com",
      "https://plain.example%2eevil.com",
      "https://evilplain.example",
      "https://xn--plain-example",
      "https://sub.plain.example",
      "https://plain.example@evil.com",
      "https://evil.com/plain.example",
      "https://evil.com#plain.example",
      "ftp://plain.example",
      "plain.example",
      "https://",
      "file://",
    ];
    for (const origin of wrong) {
      const answer = await new Visitor(await shared.url(), origin).token();
      expect([origin, answer.status]).toEqual([origin, 403]);
      expectProblem(answer, 403, origin);
    }
  });

  test("an origin with a port is that one alone", async () => {
    expect(await status("https://port.example:8443")).toBe(200);
    for (const origin of ["https://port.example", "http://port.example:8443", "https://port.example:8444"])
      expect([origin, await status(origin)]).toEqual([origin, 403]);
  });

  test("a wildcard is the apex and every subdomain, counted together", async () => {
    const url = await shared.url();
    const connections: Connection[] = [];
    for (const origin of ["https://wild.example", "https://www.wild.example", "http://a.b.wild.example"])
      connections.push(await new Visitor(url, origin).open());
    for (const connection of connections) await connection.shows({ site: 3, page: 3 });
    for (const name of ["*.wild.example", "wild.example", "www.wild.example"])
      expect((await ask(url, `GET /count?site=${name}`)).json.site).toBe(3);
    for (const origin of ["https://evilwild.example", "https://wild.example.evil.com", "https://www.wild.example:444"])
      expect([origin, await status(origin)]).toEqual([origin, 403]);
  });

  test("localhost is not served when SITES does not name it", async () => {
    expect(await status("http://localhost:5173")).toBe(403);
  });

  test("with SITES unset localhost is one site on any port, and a log line says so", async () => {
    const service = await start();
    const connections: Connection[] = [];
    for (const origin of ["http://localhost", "http://localhost:5173", "https://127.0.0.1:8443", "http://[::1]:3000"])
      connections.push(await new Visitor(service.url, origin).open());
    await connections[0]!.shows({ site: 4 });
    expect((await ask(service.url, "GET /count?site=localhost")).json.site).toBe(4);
    for (const origin of ["https://example.com", "http://localhost.example.com", "http://128.0.0.1"])
      expectProblem(await new Visitor(service.url, origin).token(), 403, origin);
    expect(service.logs.filter((line) => line.event.startsWith("SITES is not set"))).toHaveLength(1);
  });

  test("with SITES=localhost any port is served", async () => {
    const { url } = await start({ SITES: "localhost" });
    for (const origin of ["http://localhost", "http://localhost:5173"])
      expect((await new Visitor(url, origin).token()).status).toBe(200);
  });

  test("the service's own origin is a site named by its host, with SITES and without", async () => {
    for (const service of [await shared.started(), await start()]) {
      await new Visitor(service.url, service.url).open();
      expect((await ask(service.url, `GET /count?site=${service.host}`)).json.site).toBe(1);
    }
  });

  test("behind a proxy the own origin is the public one", async () => {
    const url = await shared.url();
    const headers = { host: "count.example", "x-forwarded-proto": "https", "x-forwarded-for": "10.6.0.1" };
    const connection = await new Visitor(url, "https://count.example", { headers }).open();
    await connection.shows({ site: 1 });
    expect((await ask(url, "GET /count?site=count.example", { headers })).json.site).toBe(1);
  });
});
