/** The environment: what a wrong one prints, and what the ready line says. What a setting does is tested where it acts. */
import { expect, test } from "bun:test";
import { onBothRuntimes } from "../support/runtimes.ts";
import { refuseToStart, Service } from "../support/service.ts";
import { once } from "../support/waiting.ts";

onBothRuntimes("settings", (runtime) => {
  const service = once(() => Service.start(runtime));

  test("every wrong setting is named with its value and what is expected, and the exit code is 1", async () => {
    const wrong = {
      PORT: "80a",
      SITES: "https://",
      SECRET: "short",
      TRUST_PROXY: "-1",
      DENY: "192.0.2.0/33",
      GRACE_SECONDS: "five",
      HEARTBEAT_SECONDS: "0",
      TOKEN_TTL_SECONDS: "1.5",
      MAX_PAGES_PER_VISITOR: "1e3",
      MAX_PAGES_PER_IP: "-5",
      MAX_TOKENS_PER_IP: "many",
      MAX_VISITORS_PER_IP: "0x10",
      MAX_CONNECTIONS: "∞",
      IDENTITY: "fingerprint",
      COUNT_BOTS: "perhaps",
    };
    const { code, stderr } = await refuseToStart(runtime, wrong);
    expect(code).toBe(1);
    const lines = stderr.trim().split("\n");
    for (const [name, value] of Object.entries(wrong)) {
      const about = lines.filter((line) => line.startsWith(`Cannot read ${name}: `));
      expect([name, about.length]).toEqual([name, 1]);
      if (name !== "SECRET") expect(about[0]).toContain(JSON.stringify(value));
      expect(about[0]).toMatch(/ is not \S+/);
    }
    expect(lines).toHaveLength(Object.keys(wrong).length);
  });

  test("a secret is not printed when it is wrong", async () => {
    const { stderr } = await refuseToStart(runtime, { SECRET: "hunter2", ADMIN_PASSWORD: "hunter3" });
    expect(stderr).toMatch(/SECRET[^]*ADMIN_PASSWORD/);
    expect(stderr).not.toMatch(/hunter/);
  });

  test("the ready line has the URL and the snippet", async () => {
    const { logs, url } = await service();
    const ready = logs.find((line) => line.event === "ready")!;
    expect(ready).toMatchObject({ level: "info", time: expect.stringMatching(/^\d{4}-\d\d-\d\dT/) });
    expect(ready["url"]).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/$/);
    expect(ready["snippet"]).toContain(`src="${url}/widget.js"`);
  });

  test("a port that is taken stops the start with one clear line", async () => {
    const { port } = new URL((await service()).url);
    const { code, stderr } = await refuseToStart(runtime, { PORT: port });
    expect(code).toBe(1);
    expect(stderr).toContain(port);
    expect(stderr.trim().split("\n")).toHaveLength(1);
  });
});
