/** Frames that break RFC 6455 or the contract. Each closes its connection, and nothing of them is kept. */
import { expect, test } from "bun:test";
import { ask, encodeFrame } from "../support/client.ts";
import { differences } from "../support/differences.ts";
import { withoutRepeats } from "../support/expect.ts";
import { temporaryFolder } from "../support/leftovers.ts";
import { textFrame } from "../support/raw.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { SharedService } from "../support/site.ts";
import { mapConcurrently, ownSite, Target } from "../support/target.ts";
import { sleep, until } from "../support/waiting.ts";

const bytes = (...values: number[]): Buffer => Buffer.from(values);
const closeWith = (code: number): Buffer => encodeFrame(8, bytes(code >> 8, code & 255));

/** Against RFC 6455, or a close, which may have any code. */
const brokenFrames: [name: string, frame: Uint8Array][] = [
  ["bad UTF-8", encodeFrame(1, bytes(0xc3, 0x28))],
  ["RSV1, as if compressed", encodeFrame(1, Buffer.from("{}"), { first: 0xc1 })],
  ["RSV2", encodeFrame(1, Buffer.from("{}"), { first: 0xa1 })],
  ["RSV3", encodeFrame(1, Buffer.from("{}"), { first: 0x91 })],
  ["opcode 3", encodeFrame(3, Buffer.from("{}"))],
  ["opcode 11", encodeFrame(11, Buffer.from("{}"))],
  ["an orphan continuation", encodeFrame(0, Buffer.from("{}"))],
  ["a ping of 126 bytes", encodeFrame(9, Buffer.alloc(126))],
  ["a fragmented ping", encodeFrame(9, bytes(1), { first: 9 })],
  ["a text inside a text", Buffer.concat([encodeFrame(1, Buffer.from("{"), { first: 1 }), textFrame("{}")])],
  ["a close of one byte", encodeFrame(8, bytes(3))],
  ["a close with 126 bytes", encodeFrame(8, Buffer.alloc(126, 3))],
  ["a close with bad UTF-8", encodeFrame(8, bytes(3, 232, 0xc3, 0x28))],
  ...[0, 999, 1000, 1001, 1004, 1005, 1006, 1011, 1012, 1015, 2999, 3000, 4999, 5000, 65_535].map(
    (code): [string, Uint8Array] => [`close code ${code}`, closeWith(code)],
  ),
];
const unmasked: [string, Uint8Array] = ["unmasked", encodeFrame(1, Buffer.from('{"active":true}'), { masked: false })];

/** Valid texts that are no message of the contract. None may be stored, so each page is named so that it is found. */
const unknownMessages = [
  "[".repeat(1000),
  '{"a":'.repeat(200),
  '{"__proto__":{"page":"/evil"}}',
  '{"page":"/evil","__proto__":1}',
  '{"constructor":1}',
  "NaN",
  '{"page":NaN}',
  '{"page":null}',
  '{"page":1}',
  '{"page":["/evil"]}',
  '{"page":{"toString":1}}',
  '{"active":1}',
  '{"site":99}',
  '{"page":"/evil","x":1}',
  '{"foo":1}',
  "{}",
  "[]",
  "null",
  "5",
  "hello",
  '""',
  "",
  " ",
  "{",
  `{"page":"${"é".repeat(300)}${"/evil".repeat(60)}"}`.padEnd(1025),
  '{"page":""}',
  String.raw`{"page":"/evil\u0000"}`,
  String.raw`{"page":"/evil\u001b[2J"}`,
  String.raw`{"page":"/evil\nx"}`,
  String.raw`{"page":"/evil\r\nx"}`,
  String.raw`{"page":"/evil\u2028"}`,
  String.raw`{"page":"/evil\ud800"}`,
  '{"page":"/evil%0A"}',
];

onBothRuntimes("hostile frames", (runtime) => {
  const shared = new SharedService(runtime);

  test("a text of 1,025 bytes, endless fragments and a header of 2^40 bytes are closed, and memory stays", async () => {
    const target = await Target.start(runtime);
    for (const message of [Buffer.alloc(1025, 97), Buffer.from(`{"page":"/${"x".repeat(1025 - 12)}"}`)]) {
      const long = await target.open();
      long.write(encodeFrame(1, message));
      expect((await long.ends()).code).toBe(1009);
    }
    for (const length of [bytes(0, 0, 1, 0, 0, 0, 0, 0), bytes(255, 255, 255, 255, 255, 255, 255, 255)]) {
      const huge = await target.open();
      huge.write(Buffer.concat([bytes(0x81, 0xff), length, bytes(1, 2, 3, 4), Buffer.alloc(1000)]));
      expect((await huge.ends()).code).toBeOneOf([1009, 1006]);
    }
    const endless = await target.open();
    endless.write(encodeFrame(1, bytes(97), { first: 1 }));
    const fragment = encodeFrame(0, Buffer.alloc(60_000, 97), { first: 0 });
    for (let sent = 0; sent < 400 && endless.open; sent++) {
      endless.write(fragment);
      await sleep(2);
    }
    if (differences.boundsFragments[runtime]) expect((await endless.ends()).code).toBe(1009);
    endless.vanish();
    await target.survives();
  });

  test("a frame that breaks RFC 6455, or a close with any code, closes the connection, with one leave", async () => {
    const frames = differences.refusesUnmasked[runtime] ? [...brokenFrames, unmasked] : brokenFrames;
    await mapConcurrently(frames, 8, async ([name, frame]) => {
      const target = await Target.on(await shared.site());
      const { watcher } = target;
      const connection = await target.open();
      await watcher.shows({ site: 2 });
      const received = watcher.frames.length;
      connection.write(frame);
      connection.write(frame); // once more, while it is being closed
      await connection.ends().catch((error: unknown) => {
        throw new Error(`${name} is not closed`, { cause: error });
      });
      await watcher.shows({ site: 1 }, 10_000);
      await sleep(300);
      const counts = watcher.frames.slice(received).flatMap(({ site }) => site ?? []);
      expect([name, withoutRepeats([2, ...counts])]).toEqual([name, [2, 1]]);
      watcher.vanish();
    });
    await (await Target.on(await shared.site())).survives();
  });

  test("a message that is not of the contract closes the connection with 1008, and nothing of it is stored", async () => {
    const target = await Target.start(runtime, { DATA: temporaryFolder() });
    const reader = await target.open();
    const close = async (message: string): Promise<unknown> => {
      const connection = await target.open();
      connection.send(message);
      return (await connection.ends()).code;
    };
    await mapConcurrently(unknownMessages, 6, async (message) =>
      expect([message, await close(message)]).toEqual([message, Buffer.byteLength(message) > 1024 ? 1009 : 1008]),
    );
    for (const message of ['{"page":"/evil"}', '{"page":"/"}']) {
      const binary = await target.open();
      binary.write(encodeFrame(2, Buffer.from(message)));
      expect((await binary.ends()).code).toBe(1008);
    }
    const readings = async (): Promise<string> => (await ask(target.url, `GET /reading?site=${ownSite}`)).text;
    await until("views are recorded", async () => (await readings()).includes('"/"'), 10_000);
    expect(await readings()).not.toMatch(/evil/);
    reader.vanish();
    await target.survives();
  });

  test("more than 60 messages in a minute close the connection with 1008", async () => {
    const target = await Target.on(await shared.site());
    const connection = await target.open();
    for (let sent = 0; sent < 59; sent++) connection.send({ page: `/${sent}` });
    await connection.shows({ page: 1 });
    expect(connection.open).toBe(true);
    for (let sent = 0; sent < 5; sent++) {
      connection.send({ active: true });
      await Promise.race([connection.ends(), sleep(500)]); // Deno drops the close frame when there is more to read
    }
    expect((await connection.ends()).code).toBe(1008);
    await target.survives();
  });
});
