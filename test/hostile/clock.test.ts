/** A machine whose clock jumps: nobody leaves, newcomers come in, tokens stay single use, and the journal is written. */
import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { ask } from "../support/client.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { ownSite, Target } from "../support/target.ts";
import { sleep, until } from "../support/waiting.ts";

const preload = new URL("../support/jumping-clock.ts", import.meta.url).pathname;
const hourMs = 3_600_000;
const yearMs = 365 * 24 * hourMs;

onBothRuntimes("hostile clock", (runtime) => {
  for (const [name, jumps] of [
    ["forward by an hour and back by two", [hourMs, -hourMs]],
    ["forward by 30 years and back", [30 * yearMs, 0]],
    ["to 1970 and back", [-Date.now() + hourMs, 0]],
  ] as const)
    test(`a clock that jumps ${name}`, async () => {
      const folder = temporaryFolder();
      const file = join(folder, "clock");
      writeFileSync(file, "0");
      const settings = { CLOCK_FILE: file, DATA: join(folder, "data"), HEARTBEAT_SECONDS: 5 };
      const target = await Target.start(runtime, settings, { preload });
      const connections = [await target.open("/a"), await target.open("/b")];
      for (const offsetMs of jumps) {
        const early = await target.visitor().token();
        const shown = target.watcher.frames.length;
        writeFileSync(file, String(offsetMs));
        const { status, connection } = await target.visitor().upgrade(early.json.token);
        expect(status).toBeOneOf([101, 403]); // it may have expired
        connection?.vanish();
        const visitor = target.visitor();
        const { json } = await visitor.token({ page: "/new" });
        const uses = await Promise.all([1, 2, 3].map(() => visitor.upgrade(json.token)));
        expect(uses.map((use) => use.status).toSorted((a, b) => a - b)).toEqual([101, 403, 403]);
        connections.push(uses.find(({ connection }) => connection !== undefined)!.connection!);
        await sleep(6_000); // the journal is written every 5 s
        expect((await ask(target.url, "GET /readyz")).text).toBe("ok");
        const { peak } = (await ask(target.url, `GET /count?site=${ownSite}`)).json;
        expect(peak).toBeGreaterThanOrEqual(connections.length + 1);
        const lowest = Math.min(...target.watcher.frames.slice(shown).map(({ site = Infinity }) => site));
        expect(lowest).toBeGreaterThanOrEqual(3);
      }
      expect(connections.every(({ open }) => open)).toBe(true);
      const read = async () => (await ask(target.url, `GET /reading?site=${ownSite}&page=/a`)).json;
      await until("the reading of /a is recorded", async () => (await read()).views === 1, 10_000);
      expect((await read()).seconds).toBeLessThan(60);
      expect(await target.service.metric("headcount_journal_errors_total")).toBe(0);
      await target.survives(connections.length);
      for (const connection of connections) connection.vanish();
      await target.survives();
    });
});
