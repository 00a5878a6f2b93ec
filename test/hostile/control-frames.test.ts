/** Pings and pongs as fast as sockets can send them: they count as messages, and never stop the event loop. */
import { expect, test } from "bun:test";
import { type Connection, encodeFrame } from "../support/client.ts";
import { differences } from "../support/differences.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { StallProbe } from "../support/stalls.ts";
import { printMeasurement, Target, times } from "../support/target.ts";
import { alone, sleep } from "../support/waiting.ts";

const floodMs = 4_000;
/** Without limits it was 450 to 1,600 ms. Nothing near this bound is left, so a busy machine does not reach it. */
const maxStallMs = 300;
const block = (opcode: number): Buffer =>
  Buffer.concat(Array.from({ length: 5_000 }, () => encodeFrame(opcode, Buffer.from([1]))));

/** Writes until the service closes the connection or the time is over. */
async function flood(connection: Connection, frames: Buffer): Promise<void> {
  const end = performance.now() + floodMs;
  while (connection.open && performance.now() < end) {
    if (connection.unsentBytes < frames.length) connection.write(frames);
    await sleep(1);
  }
}

onBothRuntimes("hostile control frames", (runtime) => {
  for (const [name, opcode, sockets] of [
    ["pings", 9, 50],
    ["pongs", 10, 50],
    ["pongs", 10, 1], // a single one whose bytes never end once stopped Deno altogether
  ] as const)
    test(`${name} of ${sockets} sockets, as many as they can send, do not stop the service`, () =>
      alone(async () => {
        const probe = new StallProbe();
        const target = await Target.start(runtime, probe.settings, probe.launch);
        const connections = await times(sockets, 8, () => target.open());
        probe.reset();
        await Promise.all(connections.map((connection) => flood(connection, block(opcode))));
        const stalledMs = probe.longestMs();
        printMeasurement(runtime, `${name} of ${sockets} sockets: stalls of ${stalledMs.toFixed(0)} ms`);
        expect(stalledMs).toBeLessThan(maxStallMs);
        if (name === "pongs" || differences.refusesPingFloods[runtime])
          for (const connection of connections) expect((await connection.ends()).code).toBeOneOf([1008, 1006]); // or reset
        for (const connection of connections) connection.vanish();
        await target.survives();
      }));
});
