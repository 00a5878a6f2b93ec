/** Who is a visitor: the signed id, in a cookie and in the body of `POST /token`, and `IDENTITY=hash`. */
import { expect, test } from "bun:test";
import { ask, upgrade, userAgent, Visitor } from "../support/client.ts";
import { expectConnected, expectProblem, flip } from "../support/expect.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { Service } from "../support/service.ts";
import { graceSeconds, SharedService } from "../support/site.ts";

onBothRuntimes("visitors", (runtime) => {
  const start = (settings = {}) => Service.start(runtime, settings);
  const shared = new SharedService(runtime);

  // ------------------------------------------------------------------------------------------------------- cookies

  test("over http a site has one cookie, which is HttpOnly and SameSite=Lax", async () => {
    const [one, other] = [await shared.site(), await shared.site()];
    const cookie = (await one.visitor().token()).headers.getSetCookie();
    expect(cookie).toHaveLength(1);
    expect(cookie[0]).toMatch(/^headcount-[\w-]+=[^;]+; /);
    expect(cookie[0]).toMatch(/; HttpOnly/i);
    expect(cookie[0]).toMatch(/; SameSite=Lax/i);
    expect(cookie[0]).toMatch(/; Path=\/(;|$)/i);
    expect(cookie[0]).not.toMatch(/; (Secure|Partitioned|Domain)/i);
    const cookieOfOther = (await other.visitor().token()).headers.getSetCookie()[0];
    expect(cookieOfOther?.split("=")[0]).not.toBe(cookie[0]!.split("=")[0]!);
  });

  test("behind a trusted proxy with https the cookie is __Host-, Secure, SameSite=None and Partitioned", async () => {
    const { url } = await start({ SITES: "a.example", TRUST_PROXY: 1 });
    const headers = { "x-forwarded-for": "10.1.0.1", "x-forwarded-proto": "https" };
    const cookie = (await new Visitor(url, "https://a.example", { headers }).token()).headers.getSetCookie();
    expect(cookie).toHaveLength(1);
    expect(cookie[0]).toMatch(/^__Host-headcount-[\w-]+=[^;]+; /);
    for (const attribute of [/; HttpOnly/i, /; Secure/i, /; SameSite=None/i, /; Partitioned/i, /; Path=\/(;|$)/i])
      expect(cookie[0]).toMatch(attribute);
    expect(cookie[0]).not.toMatch(/; Domain/i);
  });

  test("without a trusted proxy X-Forwarded-Proto does not change the cookie", async () => {
    const visitor = (await shared.site()).visitor({ "x-forwarded-proto": "https" });
    expect((await visitor.token()).headers.getSetCookie()[0]).toStartWith("headcount-");
  });

  // ----------------------------------------------------------------------------------------------------------- ids

  test("a visitor stays the same by cookie, and by the body alone", async () => {
    const site = await shared.site();
    const visitor = site.visitor();
    const { visitor: id } = (await visitor.token()).json;
    expect((await visitor.token()).json.visitor).toBe(id);
    expect((await site.visitor().token({ visitor: id })).json.visitor).toBe(id);
    expect((await site.visitor().token()).json.visitor).not.toBe(id);

    const byCookie = await visitor.open();
    const byBody = await site.open("/", { visitor: id });
    const byBodyAgain = await site.open("/", { visitor: id });
    expect([byCookie.now.site, byBody.now.site, byBodyAgain.now.site]).toEqual([1, 1, 1]);
    expect((await site.count()).site).toBe(1);
  });

  test("a forged id in the body is replaced", async () => {
    const site = await shared.site();
    const { visitor: id } = (await site.visitor().token()).json;
    for (const forged of [flip(id, 3), flip(id, id.length - 3), id.slice(1), `${id}A`, "", "x", ".", "💥".repeat(50)]) {
      const answer = await site.visitor().token({ visitor: forged });
      expect(answer.status).toBe(200);
      expect(answer.json.visitor).not.toBe(forged);
      expect(answer.json.visitor).not.toBe(id);
    }
  });

  test("forged cookies, broken ones and sixty at once are replaced by one new cookie", async () => {
    const site = await shared.site();
    const visitor = site.visitor();
    await visitor.token();
    const [[name, value] = ["", ""]] = [...visitor.cookies];
    visitor.cookies.set(name, flip(value, 3));
    expect((await visitor.token()).headers.getSetCookie()).toHaveLength(1);

    const many = Array.from({ length: 60 }, (_, at) => `c${at}=${"x".repeat(50)}`);
    const forged = [
      `${name}=${"A".repeat(22)}.${"A".repeat(22)}`,
      `${name}=`,
      name,
      `${name}=%`,
      `${name}=a.b.c`,
      `${name}="`,
      `${name}=1; ${name}=2`,
      "=",
      ";;;",
      "\u00e9=\u00ff",
    ];
    for (const cookie of [many.join("; "), ...forged, [...many, ...forged].join("; ")]) {
      const answer = await site.visitor({ cookie }).token();
      expect([cookie, answer.status, answer.headers.getSetCookie().length]).toEqual([cookie, 200, 1]);
    }
  });

  test("the id of another site is replaced", async () => {
    const [site, other] = [await shared.site(), await shared.site()];
    const { visitor: id } = (await other.visitor().token()).json;
    const answer = await site.visitor().token({ visitor: id });
    expect(answer.status).toBe(200);
    expect(answer.json.visitor).not.toBe(id);
  });

  test("IDENTITY=hash keeps nothing in the browser and counts it once", async () => {
    const { url } = await start({ IDENTITY: "hash", GRACE_SECONDS: graceSeconds, TRUST_PROXY: 1 });
    const otherAgent = userAgent.replaceAll("145", "146");
    const browser = (agent: string, address: string) =>
      new Visitor(url, "http://localhost", { headers: { "user-agent": agent, "x-forwarded-for": address } });
    const answer = await browser(userAgent, "10.0.0.1").token();
    expect(answer.headers.getSetCookie()).toEqual([]);
    expect(answer.json.visitor || undefined).toBeUndefined();
    const first = await browser(userAgent, "10.0.0.1").open();
    expect((await browser(userAgent, "10.0.0.1").open()).frames[0]).toMatchObject({ site: 1 });
    expect((await browser(otherAgent, "10.0.0.1").open()).frames[0]).toMatchObject({ site: 2 });
    expect((await browser(userAgent, "10.9.0.1").open()).frames[0]).toMatchObject({ site: 3 });
    await first.shows({ site: 3 });
  });

  // ------------------------------------------------------------------------------------------------------- secrets

  test("processes with the same SECRET accept each other's tokens and ids, and no other process does", async () => {
    const settings = { SECRET: "correct horse battery staple" };
    const [one, other] = [await start(settings), await start(settings)];
    const visitor = new Visitor(one.url, "http://localhost");
    const { token, visitor: id } = (await visitor.token()).json;
    const headers = { origin: "http://localhost" };
    await expectConnected(upgrade(other.url, token, { headers }));
    const answer = await ask(other.url, "POST /token", { headers, body: JSON.stringify({ visitor: id }) });
    expect(answer.json.visitor).toBe(id);
    const stranger = await start();
    expectProblem(await upgrade(stranger.url, (await visitor.token()).json.token, { headers }), 403);
  });

  test("a generated secret is kept in DATA, so that visitors stay the same after a restart", async () => {
    const service = await start({ DATA: temporaryFolder(), GRACE_SECONDS: graceSeconds });
    const visitor = new Visitor(service.url, "http://localhost");
    const { visitor: id } = (await visitor.token()).json;
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      await service.stop(signal);
      await service.start();
      const answer = await visitor.token();
      expect([signal, answer.status, answer.json.visitor]).toEqual([signal, 200, id]);
    }
  });
});
