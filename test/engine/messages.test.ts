/** Messages between nodes: what is noticed when some are lost, and what is no message at all. */
import { describe, expect, test } from "bun:test";
import { MessageWatch, parseMessage } from "../../engine/messages.ts";

const BEAT = 3_000;

describe("message watch", () => {
  /** A node that has just begun at version 10. */
  const setUp = () => {
    const watch = new MessageWatch(BEAT);
    watch.restart(10);
    return watch;
  };
  /** A message that follows the one of the version before. */
  const next = (version: number) => ({ version, previous: version - 1 });

  test("messages: those that come in order, twice or late leave no gap", () => {
    const watch = setUp();
    expect([11, 12, 12, 11, 13].map((version) => watch.receive(next(version)))).toEqual(Array(5).fill(false));
  });

  test("messages: a gap is noticed once, with the message after it", () => {
    const watch = setUp();
    expect([11, 13, 14].map((version) => watch.receive(next(version)))).toEqual([false, true, false]);
  });

  test("messages: one message may tell of several versions", () => {
    const watch = setUp();
    expect(watch.receive({ version: 15, previous: 10 })).toBe(false);
    expect(watch.receive({ version: 17, previous: 16 })).toBe(true);
    expect(watch.receive({ version: 20, previous: 12 })).toBe(false);
  });

  test("messages: a version that no message has told yet is not missing", () => {
    const watch = setUp();
    expect([1, 2, 3].map((beat) => watch.check(11, 10, beat * BEAT))).toEqual(Array(3).fill("nothing missing"));
  });

  test("messages: a version that a sync answered must have arrived one beat later", () => {
    const watch = setUp();
    expect(watch.check(11, 11, BEAT)).toBe("nothing missing");
    expect(watch.check(11, 11, 1.5 * BEAT)).toBe("nothing missing");
    expect(watch.check(11, 11, 2 * BEAT)).toBe("messages missing");
    expect(watch.check(11, 11, 3 * BEAT)).toBe("nothing missing"); // the totals were asked for
  });

  test("messages: nothing is missing when the message arrived within the beat", () => {
    const watch = setUp();
    watch.check(11, 11, BEAT);
    watch.receive(next(11));
    expect(watch.check(12, 12, 2 * BEAT)).toBe("nothing missing");
  });

  test("messages: a version that is lower than the last answer shows that Redis lost writes", () => {
    const watch = setUp();
    watch.check(20, 20, 1);
    watch.receive(next(20));
    expect(watch.check(15, 15, 2)).toBe("versions went back");
    expect(watch.receive(next(16))).toBe(false);
  });

  test("messages: an answer that is lower than a message from before the sync shows that the message was forged", () => {
    const watch = setUp();
    watch.receive(next(1_000));
    watch.syncSent();
    watch.receive(next(1_001)); // may have been published after the answer
    expect(watch.check(11, 11, 1)).toBe("versions went back");
    watch.syncSent();
    watch.receive(next(12));
    expect(watch.check(11, 11, 2)).toBe("nothing missing");
  });
});

describe("message text", () => {
  test("messages: a message is read as the scripts write it", () => {
    expect(parseMessage('["a.example","1700000000000",7,5,"",3,"/two",1]')).toEqual({
      site: "a.example",
      epoch: 1_700_000_000_000,
      version: 7,
      previous: 5,
      totals: new Map([
        ["", 3],
        ["/two", 1],
      ]),
    });
  });

  test("messages: what is no message of this service is refused", () => {
    for (const text of [
      "",
      "{}",
      "null",
      "[]",
      '[1,"1",2,1]',
      '["a.example","x",2,1]',
      '["a.example","1",2,1,"",-0.5]',
      '["a.example","1",2,1,"","many"]',
      '["a.example","1",null,1]',
      '["a.example",1,2,1]',
      '["a.example","1",-2,1]',
      '["a.example","1",2]',
      '["a.example","1",2,-1]',
      '["a.example","1",2,"1"]',
      '["a.example","1",2,"",3]',
      '["a.example","1",2,1,"",-1]',
      '["a.example","1",2,1,"",4294967296]',
      '["a.example","1",2,1,"","3"]',
      '["a.example","1",2,1,"",null]',
      '["a.example","1",2,1,3,""]',
    ])
      expect(() => parseMessage(text)).toThrow();
  });
});
