/** A few seconds of the fuzzer. Longer: `npm run fuzz`. */
import { test } from "bun:test";
import { onBothRuntimes } from "../support/runtimes.ts";
import { Target } from "../support/target.ts";
import { alone } from "../support/waiting.ts";
import { fuzz } from "./fuzz.ts";

onBothRuntimes("fuzz", (runtime) => {
  test("the service survives six seconds of random requests, handshakes and frames", () =>
    alone(async () => {
      const target = await Target.start(runtime);
      await fuzz(target, { seed: Number(process.env["SEED"] ?? Date.now() % 1_000_000), seconds: 6 });
      await target.survives();
    }));
});
