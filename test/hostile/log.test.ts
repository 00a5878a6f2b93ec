/** Errors and strangers' text in the log: each is one line of JSON, whatever is in it. */
import { expect, test } from "bun:test";
import { expectStatus } from "../support/expect.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { ignoreErrors, Target, times } from "../support/target.ts";
import { until } from "../support/waiting.ts";

/** A module that runs before the service: after it, code that looks at a page named boom throws. */
const preload = new URL("../support/faulty.ts", import.meta.url).pathname;

onBothRuntimes("hostile log", (runtime) => {
  test("a handler that throws is logged once, and nobody else notices", async () => {
    const target = await Target.start(runtime, {}, { preload });
    const victim = await target.open();
    victim.send({ page: "/boom" });
    expect((await target.visitor().token({ page: "/boom" })).status).toBe(500);
    expect((await target.visitor().token({ page: "/boom" })).text).not.toMatch(/boom|server\.[jt]s/);
    const messages = () => target.service.logs.flatMap(({ level, message }) => (level === "error" ? message : []));
    await until("it is logged", () => messages().length > 0);
    await target.survives(1);
    expect(messages()).toEqual(["boom \r\n\u001b[31m"]); // thrown three times within ten seconds, and logged once
    ignoreErrors(target.service, /^unexpected error$/);
    victim.vanish();
    await target.survives();
  });

  test("CR, LF and ANSI escapes in page names and headers never break a log line", async () => {
    const target = await Target.start(runtime, { TRUST_PROXY: 1, MAX_TOKENS_PER_IP: 1 }, { preload });
    for (const value of ["\u001b[31mred\u001b]0;title\u0007", "a\rb", "[31m\u0085\u2028"])
      for (const name of ["user-agent", "referer", "cookie", "origin", "x-forwarded-for"])
        expectStatus(name, (await target.visitor({ [name]: value }).token()).status, (status) => status < 500);
    const visitorFrom = (address: string) => target.visitor({ "x-forwarded-for": `[1m\u0085, ${address}` });
    for (const page of ['/a\r\n{"level":"info"}', "/\u001b[31m", "/%0d%0aX", "/\u0085"]) {
      const { status } = await visitorFrom("198.51.100.1").token({ page });
      expectStatus(page, status, (status) => status === 400 || status === 429);
    }
    // This error is logged with CR, LF and ESC in its message.
    expect((await visitorFrom("198.51.100.2").token({ page: "/boom" })).status).toBe(500);
    await times(12, 4, () => visitorFrom("198.51.100.2").token());
    const { service } = target;
    await until("the denial is logged", () => service.logs.some(({ event }) => event.startsWith("address denied")));
    ignoreErrors(service, /^unexpected error$/);
    expect(service.logs.filter(({ event }) => event === "not a JSON log line")).toEqual([]);
    target.watcher.vanish();
  });
});
