/** Who is online: joins, tabs, reloads, leaves, grace and observers, as everybody's page shows them. */
import { expect, test } from "bun:test";
import { expectNoCounts } from "../support/expect.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { Service } from "../support/service.ts";
import { graceSeconds, joinBoundMs, leaveBoundMs, SharedService, TestSite } from "../support/site.ts";
import { times } from "../support/target.ts";
import { sleep } from "../support/waiting.ts";

onBothRuntimes("counting", (runtime) => {
  const shared = new SharedService(runtime);
  const start = async (settings = {}): Promise<TestSite> =>
    new TestSite(await Service.start(runtime, { SITES: "a.example", ...settings }), "a.example");

  // --------------------------------------------------------------------------------------------------------- joins

  test("twenty tabs of a visitor are one, and further tabs send nothing to others", async () => {
    const site = await shared.site();
    const watcher = await site.open();
    const visitor = site.visitor();
    const first = await visitor.open();
    await watcher.shows({ site: 2, page: 2 });
    const openAndCloseTabs = async (): Promise<void> => {
      const tabs = await times(19, 19, () => visitor.open());
      expect(await site.count("/")).toMatchObject({ site: 2, page: 2 });
      for (const tab of tabs) await tab.close();
      await sleep(leaveBoundMs);
    };
    await expectNoCounts(watcher, openAndCloseTabs, async () => {
      await site.open();
      await watcher.shows({ site: 3, page: 3 });
    });
    expect(first.open).toBe(true);
  });

  test("ten reloads within grace send nothing to others, whether the page closes or vanishes", async () => {
    const site = await start({ GRACE_SECONDS: 3 }); // long enough for a reload on a busy machine
    const visitor = site.visitor();
    const watcher = await site.open();
    let tab = await visitor.open();
    await watcher.shows({ site: 2, page: 2 });
    const reload = async (): Promise<void> => {
      for (let turn = 0; turn < 10; turn++) {
        if (turn % 2 === 0) await tab.close();
        else tab.vanish();
        tab = await visitor.open();
        expect(tab.frames[0]).toMatchObject({ site: 2, page: 2 });
      }
      await sleep(4000);
    };
    await expectNoCounts(watcher, reload, async () => {
      await tab.close();
      await watcher.shows({ site: 1, page: 1 });
    });
  });

  test("a token that is not used counts nobody", async () => {
    const site = await shared.site();
    const watcher = await site.open();
    await expectNoCounts(
      watcher,
      async () => {
        await site.token();
        await sleep(joinBoundMs);
        expect((await site.count()).site).toBe(1);
      },
      async () => {
        await site.open();
        await watcher.shows({ site: 2 });
      },
    );
  });

  // -------------------------------------------------------------------------------------------------------- leaves

  test("the last page that closes is −1 after grace, and at most a second later", async () => {
    const site = await shared.site();
    const watcher = await site.open();
    const visitor = site.visitor();
    const [one, two] = [await visitor.open(), await visitor.open()];
    await watcher.shows({ site: 2, page: 2 });
    await one.close();
    await sleep(leaveBoundMs);
    const began = performance.now();
    void two.close();
    await watcher.shows({ site: 1, page: 1 }, leaveBoundMs);
    expect(performance.now() - began).toBeGreaterThan(graceSeconds * 1000 - 50);
    expect(await site.count("/")).toMatchObject({ site: 1, page: 1 });
  });

  test("a visitor who comes back after grace is counted again", async () => {
    const site = await shared.site();
    const watcher = await site.open();
    const visitor = site.visitor();
    const tab = await visitor.open();
    await watcher.shows({ site: 2, page: 2 });
    await tab.close();
    await watcher.shows({ site: 1, page: 1 }, leaveBoundMs);
    const back = await visitor.open();
    expect(back.frames[0]).toMatchObject({ site: 2, page: 2 });
    await watcher.shows({ site: 2, page: 2 }, joinBoundMs);
  });

  test("a browser that is killed leaves like one that closes", async () => {
    const site = await shared.site();
    const watcher = await site.open();
    const killed = await site.open();
    await watcher.shows({ site: 2 });
    killed.vanish();
    await watcher.shows({ site: 1 }, leaveBoundMs);
  });

  test("a visitor who is closed for a broken rule is gone after grace", async () => {
    const site = await shared.site();
    const watcher = await site.open();
    const breaker = await site.open();
    await watcher.shows({ site: 2 });
    breaker.send("nonsense");
    await watcher.shows({ site: 1 }, leaveBoundMs);
  });

  test("grace is 5 seconds by default", async () => {
    const site = await start();
    const watcher = await site.open();
    const leaver = await site.open();
    await watcher.shows({ site: 2 });
    const began = performance.now();
    void leaver.close();
    await watcher.shows({ site: 1 }, 6000);
    expect(performance.now() - began).toBeGreaterThan(4950);
  });

  // ----------------------------------------------------------------------------------------------------- observers

  test("observers see the counts and are not counted", async () => {
    const site = await shared.site();
    const observer = await site.open("/", { observe: true });
    expect(observer.frames[0]).toMatchObject({ site: 0, page: 0 });
    const counted = await site.open();
    expect(counted.frames[0]).toMatchObject({ site: 1, page: 1 });
    await observer.shows({ site: 1, page: 1 }, joinBoundMs);
    const observeAndLeave = async (): Promise<void> => {
      await (await site.open("/", { observe: true })).close();
      await sleep(leaveBoundMs);
    };
    await expectNoCounts(observer, observeAndLeave, async () => {
      await site.open();
      await observer.shows({ site: 2 });
    });
    expect(await site.count("/")).toMatchObject({ site: 2, page: 2 });
  });

  test("a visitor who observes in another tab is still counted once", async () => {
    const site = await shared.site();
    const visitor = site.visitor();
    const tab = await visitor.open();
    const observer = await visitor.open("/", { observe: true });
    expect(observer.frames[0]).toMatchObject({ site: 1, page: 1 });
    await tab.close();
    await observer.shows({ site: 0, page: 0 }, leaveBoundMs);
  });
});
