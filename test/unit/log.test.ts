import { describe, expect, test } from "bun:test";
import { LineWriter } from "../../edge/log.ts";

type Done = (error: { code?: string } | null, bytesWritten: number) => void;

/** A writer whose output answers when the test says so. */
function setUp() {
  const writes: { text: string; done: Done }[] = [];
  const writer = new LineWriter((chunk, done) => writes.push({ text: Buffer.from(chunk).toString(), done }));
  const answer = (error: { code?: string } | null = null, bytes?: number) => {
    const { text, done } = writes.shift()!;
    done(error, bytes ?? Buffer.byteLength(text));
  };
  return { writer, writes, answer };
}

describe("log", () => {
  test("lines are written one after the other, in order", () => {
    const { writer, writes, answer } = setUp();
    for (const line of ["a", "b", "c"]) writer.add(line);
    const seen: string[] = [];
    while (writes.length > 0) {
      expect(writes).toHaveLength(1);
      seen.push(writes[0]!.text);
      answer();
    }
    expect(seen).toEqual(["a\n", "b\n", "c\n"]);
    expect(writer.dropped).toBe(0);
  });

  test("the rest of a line that was written in part follows", () => {
    const { writer, writes, answer } = setUp();
    writer.add("hello");
    answer(null, 2);
    expect(writes[0]?.text).toBe("llo\n");
    answer();
    expect(writes).toEqual([]);
  });

  test("when nobody reads, at most a megabyte waits, and further lines are dropped and counted", () => {
    const { writer, writes, answer } = setUp();
    const line = "x".repeat(9_999);
    for (let i = 0; i < 200; i += 1) writer.add(line);
    expect(writer.dropped).toBe(200 - 104);
    for (let i = 0; i < 104; i += 1) answer();
    expect(writes).toEqual([]);
    writer.add("again");
    expect(writes[0]?.text).toBe("again\n");
  });

  test("a reader that is gone costs lines, and nothing else", () => {
    const { writer, writes, answer } = setUp();
    writer.add("a");
    writer.add("b");
    answer({ code: "EPIPE" }, 0);
    answer({ code: "EPIPE" }, 0);
    expect(writes).toEqual([]);
    expect(writer.dropped).toBe(2);
  });

  test("a full non-blocking pipe is tried again", async () => {
    const { writer, writes, answer } = setUp();
    writer.add("a");
    answer({ code: "EAGAIN" }, 0);
    expect(writer.dropped).toBe(0);
    const idle = writer.idle(5_000);
    while (writes.length === 0) await Bun.sleep(5);
    answer();
    await idle;
  });
});
