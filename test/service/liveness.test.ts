/** Heartbeats and repeats: a dead peer leaves, an idle one stays, and each page is sent its numbers again. */
import { expect, test } from "bun:test";
import { onBothRuntimes } from "../support/runtimes.ts";
import { graceSeconds, leaveBoundMs, SharedService } from "../support/site.ts";
import { until } from "../support/waiting.ts";

/** So short that pings come often; a busy machine must still answer within two of them. */
const heartbeatSeconds = 2;
/** Two heartbeats, grace, and a second each for the sweep and the broadcast. */
const goneBoundMs = 2 * heartbeatSeconds * 1000 + leaveBoundMs + 1000;

onBothRuntimes("liveness", (runtime) => {
  const shared = new SharedService(runtime, { HEARTBEAT_SECONDS: heartbeatSeconds });

  test("a silent peer is gone after two heartbeats, while counts change all the time", async () => {
    const site = await shared.site();
    const watcher = await site.open("/watch");
    const dead = await site.open("/dead");
    dead.silent = true;
    const began = performance.now();
    const received = dead.frames.length;
    const isGone = async (): Promise<boolean> => {
      const passerBy = await site.open("/passing"); // changes the site count, which the dead peer is sent as well
      void passerBy.close();
      return (await site.count("/dead")).page === 0;
    };
    await until("the dead peer is not counted", isGone, goneBoundMs);
    expect(performance.now() - began).toBeGreaterThan((heartbeatSeconds + graceSeconds) * 1000 - 100);
    expect(dead.frames.length - received).toBeGreaterThanOrEqual(3); // more often than it is pinged
    await watcher.shows({ site: 1 }, leaveBoundMs);
  });

  test("an idle peer that answers pings stays, and is gone once it does not", async () => {
    const site = await shared.site();
    const idle = await site.open();
    await until("three pings", () => idle.pings >= 3 || !idle.open, 10_000 * heartbeatSeconds);
    expect(idle.open).toBe(true);
    expect(await site.count("/")).toMatchObject({ site: 1, page: 1 });
    idle.silent = true;
    await until("a silent peer is not counted", async () => (await site.count()).site === 0, goneBoundMs);
  });

  test("the site count is sent again every 20 to 30 s although nothing changed", async () => {
    const connection = await (await shared.site()).open();
    const received = connection.frames.length;
    const began = performance.now();
    await connection.receives(received + 1, 31_500);
    expect(connection.frames[received]).toMatchObject({ site: 1 });
    expect(performance.now() - began).toBeGreaterThan(18_000);
  });
});
