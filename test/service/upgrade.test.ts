/** `GET /ws`: a token opens one connection, once, from its own origin, by a valid handshake. */
import { expect, test } from "bun:test";
import { ask, upgrade, Visitor } from "../support/client.ts";
import { expectConnected, expectProblem, expectStatus, flip } from "../support/expect.ts";
import { handshake, sendRaw } from "../support/raw.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { Service } from "../support/service.ts";
import { leaveBoundMs, SharedService } from "../support/site.ts";
import { mapConcurrently } from "../support/target.ts";
import { sleep, until } from "../support/waiting.ts";

onBothRuntimes("upgrade", (runtime) => {
  const shared = new SharedService(runtime);

  // -------------------------------------------------------------------------------------------------------- tokens

  test("a token opens one connection, and is refused with 403 from then on", async () => {
    const site = await shared.site();
    const visitor = site.visitor();
    const { token } = (await visitor.token()).json;
    const connection = await expectConnected(visitor.upgrade(token));
    await connection.shows({ site: 1 });
    expectProblem(await visitor.upgrade(token), 403, site.origin);
    await connection.close();
    expectProblem(await visitor.upgrade(token), 403, site.origin);
  });

  test("one token in 100 upgrades at once opens exactly one connection", async () => {
    const site = await shared.site();
    const token = await site.token();
    const answers = await Promise.all(Array.from({ length: 100 }, () => site.visitor().upgrade(token)));
    const opened = answers.filter(({ status }) => status === 101);
    expect([opened.length, answers.filter(({ status }) => status === 403).length]).toEqual([1, 99]);
    await opened[0]!.connection!.shows({ site: 1 });
    expect((await site.count()).site).toBe(1);
    opened[0]!.connection!.vanish();
    await until("nobody is counted", async () => (await site.count()).site === 0, leaveBoundMs);
  });

  test("a token that is missing or made up is refused with 403", async () => {
    const site = await shared.site();
    const madeUp = [
      "x",
      ".",
      "..",
      " ",
      "a.b",
      "%",
      "💥",
      "\u0000",
      "é".repeat(200),
      "A".repeat(2_000),
      "x".repeat(8_000),
    ];
    for (const token of [undefined, "", ...madeUp])
      expectProblem(await site.visitor().upgrade(token), 403, site.origin);
  });

  test("a token with one character changed, or of a wrong length, is refused with 403, and does not spend it", async () => {
    const site = await shared.site();
    const visitor = site.visitor();
    const { token } = (await visitor.token()).json;
    const [payload = "", signature = ""] = token.split(".");
    const changed = Array.from({ length: token.length }, (_, at) => flip(token, at));
    const cut = [token.slice(1), token.slice(0, -1), payload, `${payload}.`, `.${signature}`];
    const longer = [`${token}A`, `${token}.`, `.${token}`, token + token];
    await mapConcurrently([...changed, ...cut, ...longer], 8, async (wrong) =>
      expectProblem(await visitor.upgrade(wrong), 403, site.origin),
    );
    await expectConnected(visitor.upgrade(token));
  });

  test("a query with a second token, or with the token under another name, is refused with 403", async () => {
    const site = await shared.site();
    const { url, origin } = site;
    const visitor = site.visitor();
    const { token } = (await visitor.token()).json;
    for (const query of [`token=x&token=${token}`, "token[]=x", "token=%", `TOKEN=${token}`, "&".repeat(1000)])
      expect((await sendRaw(url, handshake(url, origin, `x&${query}`), { answers: 1 })).statuses).toEqual([403]);
    await expectConnected(visitor.upgrade(token));
  });

  test("an expired token is refused with 403", async () => {
    const { url } = await Service.start(runtime, { TOKEN_TTL_SECONDS: 2 });
    const visitor = new Visitor(url, "http://localhost");
    const [early, late] = [(await visitor.token()).json.token, (await visitor.token()).json.token];
    await expectConnected(visitor.upgrade(early));
    await sleep(3100); // two seconds, and up to one more for a clock that counts whole ones
    expectProblem(await visitor.upgrade(late), 403, "http://localhost");
  });

  // ------------------------------------------------------------------------------------------------------- origins

  test("another origin than the token's is refused with 403, also when it is a site", async () => {
    const [site, other] = [await shared.site(), await shared.site()];
    const { url, origin, name } = site;
    const token = await site.token();
    for (const wrong of [other.origin, `http://${name}`, "https://evil.example", "*", "file://", name])
      expectProblem(await upgrade(url, token, { headers: { origin: wrong } }), 403, wrong);
    await expectConnected(upgrade(url, token, { headers: { origin } }));
  });

  test("an upgrade without an origin, or with null or two, is refused with 403, and so is a token", async () => {
    const site = await shared.site();
    const { url, origin } = site;
    const token = await site.token();
    for (const wrong of ["null", undefined, "", `${origin}, ${origin}`]) {
      expectProblem(await upgrade(url, token, { headers: { origin: wrong } }), 403);
      expectProblem(await ask(url, "POST /token", { headers: { origin: wrong } }), 403);
    }
    const twice = await sendRaw(url, handshake(url, origin, token, "Origin: https://other.example"), { answers: 1 });
    expect(twice.statuses).not.toContain(101);
    expect((await site.count()).site).toBe(0);
  });

  test("the origin may be written with capitals and the default port", async () => {
    const site = await shared.site();
    const origin = `https://${site.name.toUpperCase()}:443`;
    await expectConnected(upgrade(site.url, await site.token(), { headers: { origin } }));
  });

  // ----------------------------------------------------------------------------------------------------- handshakes

  test("a plain GET is refused with 426, also with a token", async () => {
    const site = await shared.site();
    for (const route of ["GET /ws", `GET /ws?token=${await site.token()}`]) {
      const answer = await ask(site.url, route, { headers: { origin: site.origin } });
      expectProblem(answer, 426, site.origin);
      expect(answer.headers.get("upgrade")?.toLowerCase()).toBe("websocket");
    }
  });

  test("a wrong version, a bad key or another protocol opens nothing", async () => {
    const site = await shared.site();
    const { url, origin } = site;
    const broken = [
      { "sec-websocket-version": "12" },
      { "sec-websocket-version": undefined },
      { "sec-websocket-key": "x" },
      { "sec-websocket-key": undefined },
      { "sec-websocket-key": "A".repeat(1000) },
      { upgrade: "h2c" },
      { upgrade: undefined },
    ];
    for (const headers of broken) {
      const { status } = await upgrade(url, await site.token(), { headers: { origin, ...headers } });
      expectStatus(JSON.stringify(headers), status, (status) => status === 400 || status === 426);
    }
    await until("nobody is counted", async () => (await site.count()).site === 0, leaveBoundMs);
  });
});
