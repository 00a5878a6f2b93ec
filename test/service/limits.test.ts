/** How many pages, tokens and new visitors one visitor or one address may have. Races for them are in test/hostile. */
import { expect, test } from "bun:test";
import { type Answer, type Connection, Visitor } from "../support/client.ts";
import { expectConnected, expectProblem, expectRetryAfter } from "../support/expect.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { Service } from "../support/service.ts";
import { graceSeconds, SharedService, TestSite, unlimited } from "../support/site.ts";
import { times } from "../support/target.ts";
import { once, until } from "../support/waiting.ts";

onBothRuntimes("limits", (runtime) => {
  const shared = new SharedService(runtime);
  /** Small limits behind one proxy. Each test comes from addresses of its own. */
  const limited = once(() =>
    Service.start(runtime, {
      SITES: "a.example",
      TRUST_PROXY: 1,
      MAX_TOKENS_PER_IP: 5,
      MAX_VISITORS_PER_IP: 3,
      MAX_PAGES_PER_IP: 2,
    }),
  );
  const origin = "https://a.example";
  const visitorFrom = async (address: string): Promise<Visitor> =>
    new Visitor((await limited()).url, origin, { headers: { "x-forwarded-for": address } });

  test("the 21st open page of a visitor is refused with 429, at the token and at the upgrade", async () => {
    const site = await shared.site();
    const visitor = site.visitor();
    await visitor.token();
    const tokens: string[] = [];
    for (let tab = 1; tab <= 21; tab++) tokens.push((await visitor.token()).json.token);
    const last = tokens.pop();
    const tabs = await Promise.all(tokens.map((token) => expectConnected(visitor.upgrade(token))));

    for (const refusal of [await visitor.upgrade(last), await visitor.token()]) {
      expectProblem(refusal, 429, site.origin);
      expectRetryAfter(refusal, { atMost: 3600 });
    }
    await site.open(); // another visitor of the same address is not affected
    await tabs[0]!.close();
    await until("a closed page makes room", async () => (await visitor.token()).status === 200);
    await visitor.open();
  });

  test("open pages of one address are limited with 429, at the token and at the upgrade", async () => {
    const [one, two] = [await visitorFrom("10.2.0.1"), await visitorFrom("10.2.0.1")];
    const [first, second, third] = [await one.token(), await two.token(), await one.token()];
    await expectConnected(one.upgrade(first.json.token));
    const closing = await expectConnected(two.upgrade(second.json.token));
    for (const refusal of [await one.upgrade(third.json.token), await one.token()]) {
      expectProblem(refusal, 429, origin);
      expectRetryAfter(refusal, { atMost: 3600 });
    }
    await (await visitorFrom("10.2.0.2")).open();
    await closing.close();
    await until("a closed page makes room", async () => (await one.token()).status === 200);
  });

  test("token requests of one address are limited with 429 and Retry-After, and ten times as many deny it", async () => {
    const visitor = await visitorFrom("10.3.0.1");
    const answers: Answer[] = [];
    for (let request = 1; request <= 52; request++) answers.push(await visitor.token({ observe: true }));
    const statuses = answers.map(({ status }) => status);
    expect(statuses.slice(0, 5)).toEqual([200, 200, 200, 200, 200]);
    expect(new Set(statuses.slice(5, 50))).toEqual(new Set([429]));
    expectProblem(answers[5]!, 429, origin);
    expectRetryAfter(answers[5]!);

    const denied = [answers[51]!, await visitor.token(), await visitor.upgrade(answers[4]!.json.token)];
    for (const answer of denied) {
      expectProblem(answer, 403, origin);
      expectRetryAfter(answer, { atLeast: 500, atMost: 600 });
    }
    expect((await (await visitorFrom("10.3.0.2")).token()).status).toBe(200);
  });

  test("new visitors of one address are limited with 429 and Retry-After, known ones are not", async () => {
    const known = await visitorFrom("10.4.0.1");
    await known.token();
    await (await visitorFrom("10.4.0.1")).token();
    await (await visitorFrom("10.4.0.1")).token();
    const refused = await (await visitorFrom("10.4.0.1")).token();
    expectProblem(refused, 429, origin);
    expectRetryAfter(refused);
    expect((await known.token()).status).toBe(200);
  });

  test("over MAX_CONNECTIONS newcomers get 503 with Retry-After, and open pages still see each change", async () => {
    const capacity = 50;
    const settings = { ...unlimited, SITES: "a.example", MAX_CONNECTIONS: capacity, GRACE_SECONDS: graceSeconds };
    const site = new TestSite(await Service.start(runtime, settings), "a.example");
    const newcomer = site.visitor();
    const { token } = (await newcomer.token()).json;
    const connections = await times(capacity, 8, () => site.open());
    const allShow = (count: number) =>
      Promise.all(connections.map((connection: Connection) => connection.shows({ site: count })));

    for (const refusal of [await newcomer.upgrade(token), await newcomer.token()]) {
      expectProblem(refusal, 503, site.origin);
      expectRetryAfter(refusal, { atMost: 3600 });
    }
    await allShow(capacity);
    connections.pop()!.vanish();
    await allShow(capacity - 1);
    connections.push(await newcomer.open());
    await allShow(capacity);
  });
});
