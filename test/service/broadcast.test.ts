/** How soon and how often counts are published. Serial: these bounds are the service's own, without twenty tests beside it. */
import { expect, test } from "bun:test";
import { expectConnected } from "../support/expect.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { joinBoundMs, SharedService } from "../support/site.ts";
import { times } from "../support/target.ts";

onBothRuntimes("broadcast", (runtime) => {
  const shared = new SharedService(runtime);

  test.serial("a new visitor is shown to everybody within a second", async () => {
    const site = await shared.site();
    const watcher = await site.open();
    const began = performance.now();
    const newcomer = await site.open();
    await watcher.shows({ site: 2, page: 2 }, joinBoundMs);
    expect(performance.now() - began).toBeLessThan(joinBoundMs);
    expect(newcomer.now).toMatchObject({ site: 2, page: 2 });
  });

  test.serial("a burst of joins is published in few frames and ends at the right number", async () => {
    const site = await shared.site();
    const watcher = await site.open();
    const tokens = await times(60, 60, async () => {
      const visitor = site.visitor();
      return { visitor, token: (await visitor.token()).json.token };
    });
    const received = watcher.frames.length;
    const began = performance.now();
    for (const { visitor, token } of tokens) await expectConnected(visitor.upgrade(token));
    await watcher.shows({ site: 61, page: 61 }, joinBoundMs);
    const frames = watcher.frames.slice(received);
    const intervals = (performance.now() - began) / 100 + 2;
    expect(frames.length).toBeLessThanOrEqual(2 * intervals); // site and page may come in frames of their own
    const counts = frames.flatMap(({ site }) => site ?? []);
    expect(counts).toEqual([...new Set(counts)].toSorted((one, other) => one - other));
  });
});
