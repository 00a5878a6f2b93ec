/** The frames in both directions, and page names. Which frames are refused is tested in test/hostile/frames.test.ts. */
import { expect, test } from "bun:test";
import type { Connection } from "../support/client.ts";
import { expectNoCounts } from "../support/expect.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { joinBoundMs, leaveBoundMs, SharedService } from "../support/site.ts";
import { sleep } from "../support/waiting.ts";

onBothRuntimes("frames", (runtime) => {
  const shared = new SharedService(runtime);

  test("the first frame has the counts of site and page, and comes at once", async () => {
    const site = await shared.site();
    const one = await site.open("/one");
    expect(one.frames[0]).toMatchObject({ site: 1, page: 1 });
    const two = await site.open("/two");
    expect(two.frames[0]).toMatchObject({ site: 2, page: 1 });
    await one.shows({ site: 2, page: 1 }, joinBoundMs);
  });

  test("one page has one name: percent-encoding, query, slash and index.html do not matter", async () => {
    const site = await shared.site();
    const connections: Connection[] = [];
    for (const name of ["/caf\u00e9", "/caf%C3%A9/", "/caf\u00e9/index.html", "/cafe\u0301?utm=1"])
      connections.push(await site.open(name));
    await connections[0]!.shows({ page: 4 });
    expect((await site.count("/caf\u00e9")).page).toBe(4);
    const root = await site.open("/");
    expect((await site.open("/index.html")).frames[0]).toMatchObject({ page: 2 });
    await root.shows({ page: 2, site: 6 });
  });

  test("a page frame moves the page counts and not the site's", async () => {
    const site = await shared.site();
    const [atA, atB, mover] = [await site.open("/a"), await site.open("/b"), await site.open("/a")];
    await atA.shows({ site: 3, page: 2 });
    await atB.shows({ site: 3, page: 1 });
    const [framesOfA, framesOfB] = [atA.frames.length, atB.frames.length];
    mover.send({ page: "/b" });
    await Promise.all([
      atB.shows({ page: 2 }, joinBoundMs),
      mover.shows({ page: 2 }, joinBoundMs),
      atA.shows({ page: 1 }, leaveBoundMs),
    ]);
    const newFrames = [...atA.frames.slice(framesOfA), ...atB.frames.slice(framesOfB)];
    expect(newFrames.filter(({ site = 3 }) => site !== 3)).toEqual([]);
    expect(await site.count("/a")).toMatchObject({ site: 3, page: 1 });
    expect(await site.count("/b")).toMatchObject({ site: 3, page: 2 });
  });

  test("a connection that moves to another page receives its views at once", async () => {
    const site = await shared.site();
    await site.open("/one");
    const reader = await site.open("/one");
    await reader.shows({ views: 2, total: 2 });
    reader.send({ page: "/two" });
    await reader.shows({ views: 1, total: 3 });
    reader.send({ page: "/one" });
    await reader.shows({ views: 3, total: 4 });
  });

  test("a connection that moves to another page receives the counts of that page only", async () => {
    const site = await shared.site();
    const visitor = site.visitor();
    const mover = await visitor.open("/a");
    await site.open("/a");
    await visitor.open("/b");
    await mover.shows({ page: 2, site: 2 });
    mover.send({ page: "/b" });
    await mover.shows({ page: 1 }); // sent although the count of /b has not changed: the visitor has a tab there
    await site.open("/a");
    await mover.shows({ site: 3 });
    expect(mover.now.page).toBe(1);
    await site.open("/b");
    await mover.shows({ site: 4, page: 2 });
  });

  test("walking to other pages and back within grace sends nothing to others", async () => {
    const site = await shared.site();
    const watcher = await site.open("/a");
    const walker = await site.open("/a");
    await watcher.shows({ page: 2, site: 2 });
    const walk = async (): Promise<void> => {
      for (const page of ["/b", "/c", "/a"]) {
        const received = walker.frames.length;
        walker.send({ page });
        await walker.receives(received + 1);
      }
      await sleep(leaveBoundMs);
    };
    await expectNoCounts(watcher, walk, async () => {
      walker.send({ page: "/b" });
      await watcher.shows({ page: 1 });
    });
  });

  test("frames that are part of the contract are accepted, up to 1,024 bytes", async () => {
    const connection = await (await shared.site()).open();
    connection.send({ active: false });
    connection.send({ active: true });
    connection.send({ page: "/next" });
    const longest = `{"page":"/${"x".repeat(1024 - 12)}"}`;
    expect(longest).toHaveLength(1024);
    connection.send(longest);
    await sleep(500);
    expect(connection.open).toBe(true);
  });
});
