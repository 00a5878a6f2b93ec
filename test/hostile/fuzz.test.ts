/** A few seconds of the fuzzer. Longer: `npm run fuzz`. */
import { test } from "bun:test";
import { onBothRuntimes } from "../support/runtimes.ts";
import { alone } from "../support/waiting.ts";
import { Fuzz } from "./fuzz.ts";

onBothRuntimes("fuzz", (runtime) => {
  test("the service survives six seconds of random requests, handshakes and frames", () =>
    alone(async () => {
      const fuzz = await Fuzz.start(runtime);
      await fuzz.run({ seed: Number(process.env["SEED"] ?? Date.now() % 1_000_000), seconds: 6 });
      await fuzz.expectSound();
    }));
});
