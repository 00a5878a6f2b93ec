/** One site of a node, with a Redis that answers what a test says. */
import { describe, expect, test } from "bun:test";
import { durationsOf } from "../../engine/options.ts";
import { sleep, until } from "../support/waiting.ts";
import { SITE, LEASE_MS, OLD, answer, UNKNOWN, setUp } from "./site-link.ts";

describe("shared site", () => {
  test("site: visitors and rooms go with one sync, and the answer is reported", async () => {
    const { site, calls, answers, totals, open } = setUp();
    open(undefined, "ann");
    open("/", "ann");
    answers.push(answer(["", 3, "/", 1]));
    await site.sync();
    expect(calls).toMatchObject([{ script: "SYNC", batch: 1, changes: ["+ann", "+ann /"], pages: ["", "/"] }]);
    expect(Object.fromEntries(totals)).toEqual({ "": 3, "/": 1 });
    expect(site.isStale).toBe(false);
  });

  test("site: a visitor who came and left between two syncs is not sent", async () => {
    const { site, calls, open } = setUp();
    const opened = open(undefined, "ann", "ben");
    site.changed(opened, "ben", false);
    await site.sync();
    expect(calls).toMatchObject([{ changes: ["+ann"] }]);
  });

  test("site: a script gets at most a thousand changes and a thousand pages", async () => {
    const { site, calls, open } = setUp();
    open(undefined, ...Array.from({ length: 2_500 }, (_, index) => `visitor${index}`));
    for (let index = 0; index < 3_500; index += 1) open(`/${index}`);
    await site.sync();
    site.stop();
    expect(Math.max(...calls.map(({ changes }) => changes.length))).toBe(1_000);
    expect(Math.max(...calls.map(({ pages }) => pages.length))).toBe(1_000);
    expect(new Set(calls.flatMap(({ changes }) => changes)).size).toBeGreaterThanOrEqual(2_000);
    expect(calls.map(({ batch }) => batch)).toEqual(calls.map((_, index) => index + 1));
  });

  test("site: a batch without an answer is sent again as it was, and later changes follow in the next batch", async () => {
    const { site, calls, answers, open } = setUp();
    const opened = open(undefined, "ann");
    answers.push(new Error("Command timed out"));
    await site.sync();
    site.changed(opened, "ben", true);
    await site.sync();
    expect(calls.slice(0, 3)).toMatchObject([
      { batch: 1, changes: ["+ann"] },
      { batch: 1, changes: ["+ann"] },
      { batch: 2, changes: ["+ben"] },
    ]);
  });

  test("site: without an answer totals are the last known ones plus local changes, until Redis has answered for all", async () => {
    const { site, answers, totals, open } = setUp();
    const opened = open(undefined, "ann");
    answers.push(answer(["", 10]));
    await site.sync();
    site.changed(opened, "ben", true);
    answers.push(new Error("Command timed out"));
    await site.sync();
    expect([site.isStale, totals.get("")]).toEqual([true, 11]);
    site.changed(opened, "cid", true);
    site.changed(opened, "ann", false);
    expect(totals.get("")).toBe(11);
    answers.push(answer(["", 12]), answer(["", 13]));
    await site.sync();
    expect([site.isStale, totals.get("")]).toEqual([false, 13]);
  });

  test("site: while the epoch is young the total is an estimate, since other nodes may not have told theirs", async () => {
    const { site, answers, totals, open } = setUp();
    open(undefined, "ann");
    answers.push(answer(["", 10]));
    await site.sync();
    site.estimate();
    answers.push(answer(["", 1], { epoch: "2", ageMs: 0 }));
    await site.sync();
    expect([site.isStale, totals.get("")]).toEqual([true, 10]);
    await sleep(durationsOf(LEASE_MS).settleMs + 20);
    answers.push(answer(["", 9], { epoch: "2" }));
    await site.sync();
    expect([site.isStale, totals.get("")]).toEqual([false, 9]);
  });

  test("site: estimates end only when the totals of all rooms were answered", async () => {
    const { site, calls, answers, open } = setUp();
    for (let index = 0; index < 1_500; index += 1) open(`/${index}`);
    site.estimate();
    answers.push(answer([]), new Error("Command timed out"));
    await site.sync();
    expect(calls).toHaveLength(2);
    expect(site.isStale).toBe(true);
    await site.sync();
    expect(site.isStale).toBe(false);
    expect(new Set(calls.flatMap(({ pages }) => pages)).size).toBe(1_500);
  });

  test("site: a node that Redis does not know begins anew under another name, and removes the former one", async () => {
    const { site, calls, answers, open } = setUp();
    open(undefined, "ann", "ben");
    await site.sync();
    answers.push(UNKNOWN);
    await site.sync();
    await sleep(1);
    const first = calls[0]!.node;
    expect(calls[1]).toMatchObject({ node: first, batch: 2, changes: [] });
    expect(calls[2]).toMatchObject({ batch: 1, changes: ["+ann", "+ben"] });
    expect(calls[2]!.node).not.toBe(first);
    expect(calls.filter(({ script, node }) => script === "REAP" && node === first)).toHaveLength(1);
  });

  test("site: a node that Redis never knows does not ask without a pause", async () => {
    const { site, calls, answers, open } = setUp();
    open(undefined, "ann");
    answers.push(...Array.from({ length: 100 }, () => UNKNOWN));
    await site.sync();
    expect(calls.length).toBeLessThan(10);
    expect(site.isStale).toBe(true);
  });

  test("site: expired nodes are removed, but not just after an outage, when all leases have expired", async () => {
    const { site, link, calls, answers, open } = setUp();
    open(undefined, "ann");
    link.answeringMs = 10;
    answers.push(answer([], { expired: ["dead"] }), answer([], { expired: ["dead"] }));
    await site.sync();
    expect(calls.filter(({ script }) => script === "REAP")).toEqual([]);
    link.answeringMs = OLD;
    await site.sync();
    expect(calls.filter(({ script }) => script === "REAP")).toMatchObject([{ node: "dead" }]);
  });

  test("site: a total is never reported below the visitors of this node", async () => {
    const { site, answers, totals, open } = setUp();
    open(undefined, "ann", "ben");
    answers.push(answer(["", 1]));
    await site.sync();
    expect(totals.get("")).toBe(2);
  });

  test("site: messages bring totals; older ones and those of another epoch do not", async () => {
    const { site, answers, totals, open } = setUp();
    open(undefined);
    answers.push(answer(["", 5], { version: 7 }));
    await site.sync();
    const receive = (version: number, total: number, epoch = 1) =>
      site.received({ site: SITE, epoch, version, previous: version - 1, totals: new Map([["", total]]) });
    receive(8, 6);
    receive(7, 4);
    receive(9, 3, 0);
    receive(9, 2, 2);
    expect(totals.get("")).toBe(6);
  });

  test("site: a gap between messages makes the node ask for all totals", async () => {
    const { site, calls, answers, open } = setUp();
    open(undefined);
    open("/");
    answers.push(answer([], { version: 7 }));
    await site.sync();
    site.received({ site: SITE, epoch: 1, version: 9, previous: 8, totals: new Map() });
    await site.sync();
    expect(calls[1]!.pages).toEqual(["", "/"]);
  });

  test("site: when versions go back, older totals are believed again", async () => {
    const { site, answers, totals, open } = setUp();
    open(undefined);
    answers.push(answer(["", 5], { version: 70 }), answer([], { version: 70 }), answer(["", 2], { version: 60 }));
    await site.sync();
    await site.sync();
    await site.sync();
    expect(totals.get("")).toBe(2);
  });

  test("site: a message that does not arrive within a beat is reported, and all totals are asked for", async () => {
    const { site, calls, answers, open, missing } = setUp();
    const { beatMs } = durationsOf(LEASE_MS);
    open(undefined);
    answers.push(answer([], { version: 1 }), answer([], { version: 2 }), answer([], { version: 2 }));
    await site.sync();
    await sleep(beatMs + 10);
    await site.sync();
    expect(missing()).toBe(0);
    await sleep(beatMs + 10);
    await site.sync();
    expect(missing()).toBe(1);
    await site.sync();
    expect(calls.at(-1)!.pages).toEqual([""]);
  });

  test("site: claims go with the changes in one call, and each gets its answer", async () => {
    const { site, calls, answers, open } = setUp();
    const opened = open(undefined, "ann");
    await site.sync();
    site.changed(opened, "ben", true);
    const claims = Promise.all([10, 11].map((nonce) => site.claim(nonce)));
    answers.push(answer(["", 2], { claimed: [1, 0] }));
    await site.sync();
    expect(await claims).toEqual([true, false]);
    const keys = ["a", "b"].map((nonce) => `{${SITE}}:spent:${nonce}`);
    expect(calls[1]).toMatchObject({ batch: 2, claims: keys, changes: ["+ben"] });
  });

  test("site: a claim without an answer is undecided, and is sent again with its batch", async () => {
    const { site, calls, answers, open } = setUp();
    open(undefined, "ann");
    await site.sync();
    const claim = site.claim(10);
    answers.push(new Error("Command timed out"));
    await site.sync();
    expect(await claim).toBeUndefined();
    expect(await site.claim(11)).toBeUndefined(); // the site is not live
    await site.sync();
    expect(calls.slice(1, 3)).toMatchObject([2, 2].map((batch) => ({ batch, claims: [`{${SITE}}:spent:a`] })));
    expect(calls.slice(3).every(({ claims }) => claims.length === 0)).toBe(true);
  });

  test("site: claims that wait are given up when Redis goes away, when the node begins anew, and when it stops", async () => {
    for (const end of ["away", "anew", "stop"] as const) {
      const { site, answers, open } = setUp();
      open(undefined, "ann");
      await site.sync();
      if (end === "anew") answers.push([[1]]);
      const claim = site.claim(10);
      if (end === "away") site.estimate();
      else if (end === "stop") site.stop();
      else await site.sync();
      expect(await claim).toBe(end === "anew" ? true : undefined);
    }
  });

  test("site: on a link that answers, a quiet site syncs by itself at once, and a busy one gathers", async () => {
    const { site, link, calls, open } = setUp();
    const opened = open(undefined, "ann");
    await site.sync();
    link.isAway = false;
    site.changed(opened, "ben", true);
    await sleep(5);
    expect(calls.length).toBe(2);
    for (let index = 0; index < 100; index += 1) {
      site.changed(opened, `visitor${index}`, true);
      await sleep(1);
    }
    await until("all are sent", () => calls.flatMap(({ changes }) => changes).length === 102);
    expect(calls.length).toBeLessThan(15);
    site.stop();
  });

  test("site: what a sync left unpublished makes the site sync again, unless a message comes before", async () => {
    const { site, link, calls, answers, open } = setUp();
    open(undefined, "ann");
    answers.push(answer(["", 1], { version: 7 }));
    await site.sync();
    link.isAway = false;
    answers.push(answer([], { version: 8, published: 7, waitMs: 1 }), answer([], { version: 8 }));
    await site.sync();
    await until("the site syncs again", () => calls.length === 3, 1_000);
    const message = { site: SITE, epoch: 1, totals: new Map<string, number>() };
    site.received({ ...message, version: 8, previous: 7 });
    answers.push(answer([], { version: 9, published: 8, waitMs: 1 }));
    await site.sync();
    site.received({ ...message, version: 9, previous: 8 });
    await sleep(200);
    expect(calls.length).toBe(4);
    site.stop();
  });
});
