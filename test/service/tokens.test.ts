/** `POST /token`: what it answers, and which bodies and browsers it refuses. Limits and origins have files of their own. */
import { expect, test } from "bun:test";
import { ask, userAgent, Visitor } from "../support/client.ts";
import { expectProblem, expectReadableBy } from "../support/expect.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { Service } from "../support/service.ts";
import { SharedService } from "../support/site.ts";

onBothRuntimes("tokens", (runtime) => {
  const shared = new SharedService(runtime);

  test("an empty body gives a token and a visitor", async () => {
    const { origin, url } = await shared.site();
    const answer = await ask(url, "POST /token", { headers: { origin } });
    expect(answer.status).toBe(200);
    expect(answer.json).toEqual({
      token: expect.stringMatching(/^.{20,}$/),
      visitor: expect.stringMatching(/^.{20,}$/),
    });
    expect(answer.headers.get("cache-control")).toContain("no-store");
    expectReadableBy(origin, answer);
  });

  test("an observer gets a token, and neither an id nor a cookie", async () => {
    const answer = await (await shared.site()).visitor().token({ observe: true });
    expect(answer.status).toBe(200);
    expect(answer.json.token).toEqual(expect.any(String));
    expect(answer.json.visitor || undefined).toBeUndefined();
    expect(answer.headers.getSetCookie()).toEqual([]);
  });

  test("a body that is not understood is refused with 400", async () => {
    const site = await shared.site();
    const wrong = ["{", "nonsense", "[]", '"page"', "5", "null", '{"page":5}', '{"visitor":{}}', '{"observe":"yes"}'];
    for (const body of wrong) {
      const answer = await site.visitor().token(body);
      expect([body, answer.status]).toEqual([body, 400]);
      expectProblem(answer, 400, site.origin);
    }
  });

  test("a page name that is empty, too long or has control characters is refused with 400", async () => {
    const site = await shared.site();
    for (const page of [
      "",
      `/${"x".repeat(1024)}`,
      `/${"x".repeat(2048)}`,
      "/a\u0000b",
      "/a\nb",
      "/a%0Ab",
      "/\u001b[31m",
    ])
      expectProblem(await site.visitor().token({ page }), 400, site.origin);
    expect((await site.visitor().token({ page: `/${"x".repeat(1023)}` })).status).toBe(200);
  });

  test("a body of 4 KiB is read, and one byte more is refused with 413", async () => {
    const { origin, url } = await shared.site();
    const full = '{"page":"/"}'.padEnd(4096);
    expect((await ask(url, "POST /token", { headers: { origin }, body: full })).status).toBe(200);
    expectProblem(await ask(url, "POST /token", { headers: { origin }, body: `${full} ` }), 413, origin);
    const chunked = `1001\r\n${full} \r\n0\r\n\r\n`;
    const headers = { origin, "content-length": undefined, "transfer-encoding": "chunked" };
    expectProblem(await ask(url, "POST /token", { headers, body: chunked }), 413, origin);
  });

  test("crawlers and headless browsers are refused with 403, unless COUNT_BOTS is true", async () => {
    const site = await shared.site();
    const bots = ["Googlebot/2.1 (+http://www.google.com/bot.html)", userAgent.replace("Firefox/", "HeadlessChrome/")];
    for (const bot of bots) expectProblem(await site.visitor({ "user-agent": bot }).token(), 403, site.origin);
    const { url } = await Service.start(runtime, { COUNT_BOTS: true });
    const headers = { "user-agent": bots[0] };
    expect((await new Visitor(url, "http://localhost", { headers }).token()).status).toBe(200);
  });
});
