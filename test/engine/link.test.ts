/** When Redis counts as away, and when a failure belongs to the command. */
import { describe, expect, test } from "bun:test";
import { EventEmitter } from "node:events";
import { ReplyError } from "ioredis";
import { type Client, isConnectionError, Link } from "../../engine/link.ts";
import { CLAIM } from "../../engine/scripts.ts";

/** A client whose scripts fail as they are told to. */
class FakeClient extends EventEmitter {
  failure: Error | undefined;
  scripts = 0;

  async evalsha(): Promise<number[]> {
    this.scripts += 1;
    if (this.failure !== undefined) throw this.failure;
    return [1];
  }

  async set(): Promise<string> {
    if (this.failure !== undefined) throw this.failure;
    return "OK";
  }

  disconnect(): void {}
}

/** A link with a fake client, and what its listener was told. */
function setUp() {
  const client = new FakeClient();
  const events: string[] = [];
  const listener = {
    away: (reason: string) => void events.push(`away: ${reason}`),
    back: () => void events.push("back"),
  };
  const link = new Link(client as unknown as Client, 60_000, listener);
  const run = (args: number[] = []) => link.run(CLAIM, ["key"], args).then(String, (error: Error) => error.message);
  return { client, events, link, run };
}

const coded = (code: string) => Object.assign(new Error(`connect ${code} 127.0.0.1:1`), { code });

describe("link", () => {
  test("link: an error of the connection or a timeout means that Redis is away, until a probe is answered", async () => {
    const { client, events, link, run } = setUp();
    client.failure = new Error("Command timed out");
    expect(await run()).toBe("Command timed out");
    expect(link.isAway).toBe(true);
    expect(await run()).toBe("Redis is away");
    expect(client.scripts).toBe(1);
    client.failure = undefined;
    client.emit("ready");
    await Promise.resolve();
    expect(events).toEqual(["away: Command timed out", "back"]);
    expect(await run()).toBe("1");
    expect(link.failures).toBe(1);
    link.close();
  });

  test("link: a refusal by Redis, and a call that cannot be made, do not mean that Redis is away", async () => {
    const { client, events, link, run } = setUp();
    for (const failure of [
      new ReplyError("WRONGTYPE Operation against a key"),
      new RangeError("Maximum call stack size exceeded"),
      new TypeError("undefined is not a function"),
    ]) {
      client.failure = failure;
      expect(await run()).toBe(failure.message);
    }
    expect(link.isAway).toBe(false);
    expect(events).toEqual([]);
    expect(link.failures).toBe(3);
    link.close();
  });

  test("link: a call with an unbounded list is refused before it is made, on every runtime", async () => {
    const { client, link, run } = setUp();
    expect(await run(Array.from({ length: 100_000 }, () => 0))).toContain("Cannot send 100001 arguments");
    expect(client.scripts).toBe(0);
    expect(link.isAway).toBe(false);
    link.close();
  });

  test("link: the listener hears nothing after the link was closed", () => {
    const { client, events, link } = setUp();
    link.close();
    client.emit("close");
    expect(events).toEqual([]);
  });

  test("link: errors of connections are told from errors of commands", () => {
    const connection = [
      coded("ECONNREFUSED"),
      coded("ETIMEDOUT"),
      new Error("Connection is closed."),
      new Error("Stream isn't writeable and enableOfflineQueue options is false"),
      new Error("Cluster isn't ready and enableOfflineQueue options is false"),
      new Error("Cluster is disconnected."),
      new Error("Node is disconnected"),
      new Error("None of startup nodes is available"),
      new Error("Failed to refresh slots cache."),
      new Error("Too many Cluster redirections. Last error: Error: Connection is closed."),
      new Error("Socket timeout. Expecting data, but didn't receive any in 1800ms."),
      new Error("Command aborted due to connection close"),
      new Error("Reached the max retries per request limit (which is 0)."),
    ];
    expect(connection.filter((error) => !isConnectionError(error))).toEqual([]);
    const command = [
      new ReplyError("ERR timed out"),
      new RangeError("Connection is closed."),
      new TypeError("timeout"),
      new Error("Invalid argument"),
      "Connection is closed.",
    ];
    expect(command.filter((error) => isConnectionError(error))).toEqual([]);
  });
});
