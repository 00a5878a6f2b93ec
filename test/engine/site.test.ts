/** Messages between nodes: what is noticed when some are lost, and what is no message at all. */
import { describe, expect, test } from "bun:test";
import { parseMessage } from "../../engine/cluster.ts";
import { MessageWatch } from "../../engine/site.ts";

const BEAT = 3_000;

describe("message watch", () => {
  /** A node that has just begun at version 10. */
  const setUp = () => {
    const watch = new MessageWatch(BEAT);
    watch.restart(10);
    return watch;
  };

  test("messages: those that come in order, twice or late leave no gap", () => {
    const watch = setUp();
    expect([11, 12, 12, 11, 13].map((version) => watch.receive(version))).toEqual(Array(5).fill(false));
  });

  test("messages: a gap is noticed once, with the message after it", () => {
    const watch = setUp();
    expect([11, 13, 14].map((version) => watch.receive(version))).toEqual([false, true, false]);
  });

  test("messages: a version that a sync answered must have arrived one beat later", () => {
    const watch = setUp();
    expect(watch.check(11, BEAT)).toBe("nothing missing");
    expect(watch.check(11, 1.5 * BEAT)).toBe("nothing missing");
    expect(watch.check(11, 2 * BEAT)).toBe("messages missing");
    expect(watch.check(11, 3 * BEAT)).toBe("nothing missing"); // the totals were asked for
  });

  test("messages: nothing is missing when the message arrived within the beat", () => {
    const watch = setUp();
    watch.check(11, BEAT);
    watch.receive(11);
    expect(watch.check(12, 2 * BEAT)).toBe("nothing missing");
  });

  test("messages: a version that is lower than the last answer shows that Redis lost writes", () => {
    const watch = setUp();
    watch.check(20, 1);
    watch.receive(20);
    expect(watch.check(15, 2)).toBe("versions went back");
    expect(watch.receive(16)).toBe(false);
  });

  test("messages: an answer that is lower than a message from before the sync shows that the message was forged", () => {
    const watch = setUp();
    watch.receive(1_000);
    watch.syncSent();
    watch.receive(1_001); // may have been published after the answer
    expect(watch.check(11, 1)).toBe("versions went back");
    watch.syncSent();
    watch.receive(12);
    expect(watch.check(11, 2)).toBe("nothing missing");
  });
});

describe("message text", () => {
  test("messages: a message is read as the scripts write it", () => {
    expect(parseMessage('["a.example","1700000000000",7,"",3,"/two",1]')).toEqual({
      site: "a.example",
      epoch: 1_700_000_000_000,
      version: 7,
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
      '[1,"1",2]',
      '["a.example","x",2]',
      '["a.example","1",2,"",-0.5]',
      '["a.example","1",2,"","many"]',
      '["a.example","1",null]',
      '["a.example",1,2]',
      '["a.example","1",-2]',
      '["a.example","1",2,"",-1]',
      '["a.example","1",2,"",4294967296]',
      '["a.example","1",2,"","3"]',
      '["a.example","1",2,"",null]',
      '["a.example","1",2,3,""]',
    ])
      expect(() => parseMessage(text)).toThrow();
  });
});
