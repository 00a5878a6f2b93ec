/** 20,000 visitors on 10,000 pages who are held over a restart: counted at once, and gone 15 s later if they are not back. */
import { expect, test } from "bun:test";
import { SqliteEngine } from "../../engine/sqlite.ts";
import { Signer } from "../../edge/tokens.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { Service } from "../support/service.ts";
import { graceSeconds, TestSite, unlimited } from "../support/site.ts";
import { StallProbe } from "../support/stalls.ts";
import { ownSite, printMeasurement } from "../support/target.ts";
import { alone, sleep } from "../support/waiting.ts";
import { quiet } from "../support/unit.ts";

const visitors = 20_000;
const pages = 10_000;
const secret = "of those who are held";
const maxStallMs = 250;

function* members() {
  for (let number = 0; number < visitors; number++) {
    const visitor = `visitor${number}`.padEnd(22, "x");
    yield { site: ownSite, page: undefined, visitor };
    yield { site: ownSite, page: `/page/${number % pages}`, visitor };
  }
}

onBothRuntimes("hostile held visitors", (runtime) => {
  test("20,000 held visitors are counted from the start, and leave together without a stall", () =>
    alone(async () => {
      const folder = temporaryFolder();
      const engine = SqliteEngine.open({ folder, tokenTtlMs: 30_000, log: quiet });
      await engine.hold(members(), new Signer(secret).fingerprint);
      await engine.close();
      const probe = new StallProbe();
      const settings = {
        ...unlimited,
        ...probe.settings,
        SECRET: secret,
        DATA: folder,
        SITES: ownSite,
        GRACE_SECONDS: graceSeconds,
      };
      const began = performance.now();
      const site = new TestSite(await Service.start(runtime, settings, probe.launch), ownSite);
      const startMs = performance.now() - began;
      const watcher = await site.open("/page/1");
      await watcher.shows({ site: visitors + 1, page: visitors / pages + 1 }, 2_000);
      const atStart = probe.longestMs();
      probe.reset();
      await watcher.shows({ site: 1, page: 1 }, 25_000);
      await sleep(1_000);
      const atEnd = probe.longestMs();
      const stalls = [atStart, atEnd].map((ms) => ms.toFixed(0));
      printMeasurement(
        runtime,
        `${visitors} held: ready after ${startMs.toFixed(0)} ms, stalls of ${stalls.join(" and ")} ms`,
      );
      expect(atEnd).toBeLessThan(maxStallMs);
      expect(await site.count()).toMatchObject({ site: 1 });
    }));
});
