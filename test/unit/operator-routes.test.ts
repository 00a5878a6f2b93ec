/** What only the operator sees. */
import { describe, expect, test } from "bun:test";
import { NotYetKnownError } from "../../engine/engine.ts";
import { authorizationOf } from "../support/client.ts";
import { OPERATOR, setUp } from "../support/routes.ts";
import { connect, PASSWORD, viewer } from "../support/unit.ts";

describe("the operator's routes", () => {
  test("the operator's pages want the password, and ten wrong ones are enough", async () => {
    const { request } = await setUp();
    const asked = await request("/dashboard");
    expect(asked.status).toBe(401);
    expect(asked.headers.get("www-authenticate")).toStartWith("Basic ");
    const asScript = await request("/dashboard/state", { headers: { "Sec-Fetch-Dest": "empty" } });
    expect([asScript.status, asScript.headers.get("www-authenticate")]).toEqual([401, null]); // no browser asks
    const give = async (path: string, password: string, address?: string) =>
      (await request(path, { headers: { Authorization: authorizationOf(password) } }, address)).status;
    for (const path of ["/dashboard", "/dashboard/state", "/metrics"]) {
      expect(await give(path, PASSWORD)).toBe(200);
      expect((await request(path)).headers.get("access-control-allow-origin")).toBeNull();
    }
    for (let i = 0; i < 10; i += 1) expect(await give("/metrics", `guess ${i}`)).toBe(401);
    expect(await give("/metrics", PASSWORD)).toBe(429);
    expect(await give("/metrics", PASSWORD, "192.0.2.7")).toBe(200);
  });

  test("metrics tell tokens, upgrades, refusals by reason and visitors by site", async () => {
    const { request, token, ticket, connect } = await setUp();
    await connect(await ticket());
    await token({}, { Origin: "https://evil.example" });
    await token({}, { Origin: "https://evil.example" });
    const response = await request("/metrics", { headers: OPERATOR });
    expect(response.headers.get("content-type")).toStartWith("text/plain; version=0.0.4");
    const lines = (await response.text()).split("\n");
    for (const line of [
      'headcount_visitors_online{site="example.com"} 1',
      'headcount_pages_online{site="example.com"} 1',
      "headcount_connections 1",
      "headcount_tokens_total 1",
      "headcount_upgrades_total 1",
      'headcount_refusals_total{reason="origin"} 2',
      "headcount_journal_errors_total 0",
      "# TYPE headcount_frames_sent_total counter",
      "# TYPE headcount_broadcast_delay_seconds histogram",
    ])
      expect(lines).toContain(line);
  });

  test("a second look at the metrics tells the same, since nothing is counted twice by reading it", async () => {
    const { request, ticket, connect } = await setUp();
    await connect(await ticket());
    const look = async () =>
      (await (await request("/metrics", { headers: OPERATOR })).text()).match(/^headcount_\w+_total.*$/gm);
    expect(await look()).toEqual(await look());
  });

  test("sites that a Host invents never take the place of those of SITES", async () => {
    const { request, rooms } = await setUp({ SITES: "example.com" });
    for (let at = 0; at < 120; at += 1)
      for (const visitor of ["a", "b"]) rooms.open(viewer(visitor), `invented-${at}.example`, "/", 0);
    rooms.open(viewer("a"), "example.com", "/", 0);
    const metrics = await (await request("/metrics", { headers: OPERATOR })).text();
    expect(metrics).toContain('headcount_visitors_online{site="example.com"} 1');
    const { sites } = (await (await request("/dashboard/state", { headers: OPERATOR })).json()) as {
      sites: { site: string }[];
    };
    expect(sites.map(({ site }) => site)).toContain("example.com");
    expect(sites.length).toBe(100);
  });

  test("a count that the cluster cannot tell now is left out, and is no 0", async () => {
    const { request, engine } = await setUp();
    const state = async () => {
      const answer = await request("/dashboard/state", { headers: OPERATOR });
      return ((await answer.json()) as { sites: object[] }).sites;
    };
    expect(await state()).toMatchObject([{ site: "example.com", visitors: 0 }]);
    const unknown = { count: () => Promise.reject(new NotYetKnownError("not yet")) };
    Object.assign(engine, { cluster: unknown });
    const [site] = await state();
    expect(site).toMatchObject({ site: "example.com" });
    expect(site).not.toHaveProperty("visitors");
  });

  test("the history has one point for each step in which somebody was there", async () => {
    const { request, engine } = await setUp();
    const now = Math.floor(Date.now() / 60_000);
    const peaks = [0, 1, 50, 2_000].map((ago) => ({ site: "example.com", minute: now - ago, peak: 5 + ago }));
    await engine.record({ readings: [], peaks, views: [] });
    const history = async (range: string) => {
      const response = await request(`/dashboard/history?site=example.com&range=${range}`, { headers: OPERATOR });
      return (await response.json()) as { step: number; since: number; points: { minute: number; peak: number }[] };
    };
    expect((await history("hour")).points.map(({ peak }) => peak)).toEqual([55, 6, 5]);
    const week = await history("week");
    expect(week.step).toBe(14);
    expect(Math.max(...week.points.map(({ peak }) => peak))).toBe(2_005);
    for (const { minute } of week.points) expect(minute % week.step).toBe(0);
    expect((await history("quarter")).step).toBe(180);
    for (const range of ["hour", "quarter"]) expect((await history(range)).since).toBe(now - 2_000);
    expect(await history("constructor")).toMatchObject({ status: 400 });
  });

  test("with PUBLIC_DASHBOARD everybody sees the numbers, and only the operator the node", async () => {
    const { request } = await setUp({ PUBLIC_DASHBOARD: "true" });
    const state = (await (await request("/dashboard/state")).json()) as object;
    expect(Object.keys(state)).toEqual(["sites"]);
    expect((await request("/dashboard/history?site=example.com")).status).toBe(200);
    expect((await request("/metrics")).status).toBe(401);
  });

  test("a listed site that nobody is on has a series at 0", async () => {
    const { request } = await setUp();
    const metrics = await (await request("/metrics", { headers: OPERATOR })).text();
    expect(metrics).toContain('headcount_visitors_online{site="example.com"} 0');
  });

  test("has views and visitors by day, for the operator", async () => {
    const { service, request } = await setUp();
    const { connection } = connect(service, "ann", "/a");
    await service.connections.countAndRefresh(connection);
    await service.connections.record();
    expect((await request("/dashboard/days?site=example.com")).status).toBe(401);
    const date = new Date().toISOString().slice(0, 10);
    for (const range of ["month", "year", "all"]) {
      const answer = await (
        await request(`/dashboard/days?site=example.com&range=${range}`, { headers: OPERATOR })
      ).json();
      expect(answer).toEqual({ today: date, days: [{ date, views: 1, visitors: 1 }] });
    }
    expect((await request("/dashboard/days?site=example.com&range=x", { headers: OPERATOR })).status).toBe(400);
    const { sites } = (await (await request("/dashboard/state", { headers: OPERATOR })).json()) as { sites: object[] };
    expect(sites).toMatchObject([{ site: "example.com", visitors: 1, totals: { total: 1, visitors: 0, today: 1 } }]);
  });
});
