/** Sockets with a fake clock: heartbeat, repeats, the sweep, slow readers and the drain. */
import { describe, expect, spyOn, test } from "bun:test";
import { claimsOf, connect, FakeClock, FakeSocket, testService } from "../support/unit.ts";

const HEARTBEAT_MS = 25_000;

async function setUp(environment: Record<string, string> = {}) {
  const clock = new FakeClock();
  const service = await testService(environment, clock);
  const { connections } = service;
  /** Lets the time pass as the service does: it flushes every 50 ms, and sweeps every second. */
  const pass = (ms: number) => {
    for (const end = clock.time + ms; clock.time < end;) {
      clock.time += 50;
      connections.flush();
      if (clock.time % 1_000 === 0) connections.sweep();
    }
  };
  return { ...service, service, clock, pass };
}

describe("connections: heartbeat", () => {
  test("a silent peer is terminated after two heartbeats, although it is sent frames all the time", async () => {
    const { service, connections, pass } = await setUp();
    const silent = connect(service, "ann");
    const heartbeat = () => connect(service, `v${Math.random()}`); // one more visitor, and therefore one more frame
    for (let second = 0; second < 50; second += 1) {
      expect(silent.socket.terminated).toBe(false);
      heartbeat();
      pass(1_000);
    }
    pass(2_000);
    expect(silent.socket.terminated).toBe(true);
    expect(silent.socket.sent.length).toBeGreaterThan(20);
    expect(connections.counters.silent).toBeGreaterThanOrEqual(1);
  });

  test("a peer that answers pings stays, and is pinged once per heartbeat", async () => {
    const { service, connections, pass } = await setUp();
    const { connection, socket } = connect(service, "ann");
    for (let second = 0; second < 250; second += 1) {
      pass(1_000);
      connections.heard(connection);
    }
    expect(socket.terminated).toBe(false);
    expect(socket.pings).toBe(10);
    expect(connections.counters.pings).toBe(10);
  });

  test("first pings are spread over the heartbeat", async () => {
    const { service, clock, pass } = await setUp();
    clock.chance = 0;
    const early = connect(service, "ann");
    clock.chance = 0.9;
    const late = connect(service, "ben");
    pass(2_000);
    expect([early.socket.pings, late.socket.pings]).toEqual([1, 0]);
    pass(22_000);
    expect([early.socket.pings, late.socket.pings]).toEqual([1, 1]);
  });

  test("after the process itself was frozen, nobody is taken for silent", async () => {
    const { service, connections, clock, pass } = await setUp();
    const { socket } = connect(service, "ann");
    pass(1_000);
    clock.time += 3 * HEARTBEAT_MS;
    connections.sweep();
    expect(socket.terminated).toBe(false);
    pass(2 * HEARTBEAT_MS + 2_000);
    expect(socket.terminated).toBe(true);
  });

  test("a socket that cannot ping is left to its runtime", async () => {
    const { service, connections, pass } = await setUp();
    const socket = new FakeSocket();
    Object.assign(socket, { ping: undefined, cork: undefined, terminate: undefined });
    connect(service, "ann", "/", socket);
    pass(4 * HEARTBEAT_MS);
    expect(connections.size).toBe(1);
    expect(socket.sent.length).toBeGreaterThan(2); // the repeats
  });
});

describe("connections: repeats", () => {
  test("numbers are repeated every 30 seconds at the latest, although nothing changed", async () => {
    const { service, connections, pass } = await setUp();
    const { connection, socket } = connect(service, "ann");
    for (let minute = 0; minute < 10; minute += 1)
      for (let second = 0; second < 60; second += 1) {
        pass(1_000);
        connections.heard(connection);
      }
    const repeats = socket.sent.length - 1;
    expect(repeats).toBeGreaterThanOrEqual(20);
    expect(repeats).toBeLessThanOrEqual(30);
    for (const frame of socket.sent.slice(1)) expect(frame).toMatchObject({ site: 1, page: 1 });
  });

  test("numbers are repeated together with a ping, in one write, whenever the pings of a connection began", async () => {
    const { service, connections, clock, pass } = await setUp();
    for (const chance of [0, 0.1, 0.5, 0.99]) {
      clock.chance = chance;
      const { connection, socket } = connect(service, `v${chance}`);
      const told = socket.sent.length;
      for (let second = 0; second < 600; second += 1) {
        pass(1_000);
        connections.heard(connection);
      }
      expect(socket.corks).toBe(socket.pings);
      expect(socket.sent.length - told).toBeGreaterThanOrEqual(20);
    }
  });

  test("while the engine is away frames say so, and once more when it is back", async () => {
    const { service, connections } = await setUp();
    const { socket } = connect(service, "ann");
    connections.setStale(true);
    connections.setStale(true);
    connect(service, "ben");
    connections.flush();
    connections.setStale(false);
    const told = socket.sent.map(({ stale }) => stale);
    expect(told).toEqual([undefined, true, true, false]);
  });
});

describe("connections: admission", () => {
  test("a connection whose socket does not follow within 5 s is freed, and its visitor leaves after grace", async () => {
    const { connections, rooms, pass } = await setUp();
    const claims = claimsOf("ann");
    const connection = connections.admit("example.com", claims, "192.0.2.1");
    pass(5_000);
    expect(connections.size).toBe(1);
    pass(1_000);
    expect(connections.size).toBe(0);
    const socket = new FakeSocket();
    connections.opened(connection, socket);
    expect(socket.closed?.code).toBe(1001);
    pass(5_100);
    expect(rooms.count("example.com") ?? 0).toBe(0);
  });

  test("a socket that closes twice leaves once", async () => {
    const { service, connections, rooms, pass } = await setUp();
    const ann = connect(service, "ann");
    connect(service, "ann");
    connections.closed(ann.connection);
    connections.closed(ann.connection);
    pass(6_000);
    expect(connections.size).toBe(1);
    expect(rooms.count("example.com")).toBe(1);
  });
});

describe("connections: frames", () => {
  test("frames that are not part of the contract close with 1008, and long ones with 1009", async () => {
    const { service, connections } = await setUp();
    const close = (data: unknown) => {
      const { connection, socket } = connect(service, "ann");
      connections.received(connection, data);
      return socket.closed?.code;
    };
    for (const data of ["", "{", "[]", "{}", "null", '{"page":1}', '{"active":1}', '{"x":true}', '{"page":""}'])
      expect(close(data)).toBe(1008);
    expect(close(new Uint8Array(3))).toBe(1008);
    expect(close(`{"page":"/${"x".repeat(1_014)}"}`)).toBe(1009);
    expect(close('{"page":"/next"}')).toBeUndefined();
    expect(close('{"active":false}')).toBeUndefined();
  });

  test("more than 60 messages a minute close with 1008, one a second does not", async () => {
    const { service, connections, clock } = await setUp();
    const steady = connect(service, "ann");
    for (let second = 0; second < 200; second += 1) {
      clock.time += 1_000;
      connections.received(steady.connection, '{"active":true}');
    }
    expect(steady.socket.closed).toBeUndefined();
    const hasty = connect(service, "ben");
    for (let i = 0; i < 60; i += 1) connections.received(hasty.connection, '{"active":true}');
    expect(hasty.socket.closed).toBeUndefined();
    connections.received(hasty.connection, '{"active":true}');
    expect(hasty.socket.closed).toEqual({ code: 1008, reason: "too many messages" });
  });

  test("control frames count as messages, except the pong that answers a ping", async () => {
    const { service, connections, clock } = await setUp();
    const polite = connect(service, "ann");
    for (let i = 0; i < 200; i += 1) {
      clock.time += HEARTBEAT_MS;
      connections.heard(polite.connection); // so that the sweep finds it alive
      connections.sweep();
      connections.heard(polite.connection);
    }
    expect(polite.socket.closed).toBeUndefined();
    const noisy = connect(service, "ben");
    for (let i = 0; i < 61; i += 1) connections.heard(noisy.connection);
    expect(noisy.socket.closed?.code).toBe(1008);
  });

  test("a reader that leaves 64 KiB unread is terminated and counted", async () => {
    const { service, connections } = await setUp();
    const slow = connect(service, "ann");
    slow.socket.bufferedAmount = 65_537;
    connect(service, "ben");
    connections.flush();
    expect(slow.socket.terminated).toBe(true);
    expect(connections.counters.slow).toBe(1);
  });

  test("where sockets cannot be terminated, a slow reader is closed, and 64 KiB unread are not too much", async () => {
    const { service, connections } = await setUp();
    const socket = new FakeSocket();
    Object.assign(socket, { terminate: undefined, bufferedAmount: 65_536 });
    const { connection } = connect(service, "ann", "/", socket);
    expect(connections.size).toBe(1);
    socket.bufferedAmount += 1;
    connections.received(connection, '{"page":"/next"}');
    connections.flush();
    expect([socket.closed?.code, connections.size, connections.counters.slow]).toEqual([1008, 0, 1]);
  });

  test("a page that moves is sent the numbers of its new page at the end of the turn", async () => {
    const { service, connections } = await setUp();
    const { connection, socket } = connect(service, "ann", "/a");
    connect(service, "ben", "/b");
    connections.received(connection, '{"page":"/b/index.html"}');
    await new Promise(setImmediate);
    expect(socket.sent.at(-1)).toMatchObject({ site: 2, page: 2 });
    expect(connection.room.page).toBe("/b");
  });

  test("a page that moves fifty times in one turn is sent one frame, and its median is asked for once", async () => {
    const { service, connections } = await setUp();
    const readings = spyOn(service.journal, "refresh");
    const { connection, socket } = connect(service, "ann", "/a");
    connections.flush();
    const before = socket.sent.length;
    for (let i = 0; i < 50; i += 1) connections.received(connection, `{"page":"/${i}"}`);
    connections.flush();
    expect(socket.sent.slice(before)).toEqual([expect.objectContaining({ page: 1 })]);
    connections.refreshMoved();
    await Bun.sleep(20); // each counts its visitor first
    connections.refreshMoved();
    await Bun.sleep(20); // each counts its visitor first
    expect(readings).toHaveBeenCalledTimes(1);
    expect(readings.mock.calls[0]?.[1]).toMatchObject({ page: "/49" });
  });

  test("of many pages that move at once, those that have not closed ask for their medians in portions", async () => {
    const { service, connections } = await setUp();
    const readings = spyOn(service.journal, "refresh");
    const pages = Array.from({ length: 150 }, (_, i) => connect(service, `v${i}`).connection);
    for (const page of pages) connections.received(page, '{"page":"/next"}');
    connections.flush();
    connections.closed(pages[149]!);
    connections.refreshMoved();
    await Bun.sleep(20); // each counts its visitor first
    expect(readings).toHaveBeenCalledTimes(100);
    connections.refreshMoved();
    await Bun.sleep(20); // each counts its visitor first
    expect(readings).toHaveBeenCalledTimes(149);
  });
});

describe("connections: drain", () => {
  test("every page is closed with 1012 and its window, and newcomers are refused", async () => {
    const { service, connections } = await setUp();
    const sockets = Array.from({ length: 10 }, (_, i) => connect(service, `v${i}`));
    const drained = connections.drain();
    for (const { socket } of sockets) expect(socket.closed).toEqual({ code: 1012, reason: "1" });
    expect(connections.refusal("example.com", "new", "192.0.2.9")).toBe("draining");
    for (const { connection } of sockets) connections.closed(connection);
    await drained;
    expect(connections.size).toBe(0);
  });

  test("the window grows with the pages, and is at most 8 s", async () => {
    const { service, connections } = await setUp({ MAX_PAGES_PER_IP: "50000", MAX_CONNECTIONS: "50000" });
    const sockets = Array.from({ length: 5_001 }, (_, i) => connect(service, `v${i}`));
    await connections.drain();
    expect(sockets[0]?.socket.closed?.reason).toBe("3");
    const many = await setUp({ MAX_PAGES_PER_IP: "50000", MAX_CONNECTIONS: "50000" });
    const first = connect(many.service, "first");
    for (let i = 0; i < 30_000; i += 1) many.connections.admit("example.com", claimsOf(`v${i}`), "192.0.2.1");
    await many.connections.drain();
    expect(first.socket.closed?.reason).toBe("8");
  });

  test("a page that does not answer delays the drain by 8 s at most", async () => {
    const { service, connections, clock } = await setUp();
    connect(service, "ann");
    const start = clock.time;
    await connections.drain();
    expect(connections.size).toBe(1);
    expect(clock.time - start).toBeGreaterThanOrEqual(8_000);
    expect(clock.time - start).toBeLessThan(8_100);
  });

  test("a socket that opens after the drain began is closed with 1012 too", async () => {
    const { connections } = await setUp();
    const claims = claimsOf("ann");
    const connection = connections.admit("example.com", claims, "192.0.2.1");
    const drained = connections.drain();
    const socket = new FakeSocket();
    connections.opened(connection, socket);
    expect(socket.closed).toEqual({ code: 1012, reason: "1" });
    expect(socket.sent).toEqual([]);
    connections.closed(connection);
    await drained;
  });
});

describe("connections: statistics", () => {
  test("while the engine is slow, statistics are given to it once at a time", async () => {
    const { service, connections, engine } = await setUp();
    connect(service, "ann");
    const stored = Promise.withResolvers<void>();
    const record = spyOn(engine, "record").mockReturnValue(stored.promise);
    const finished: string[] = [];
    const first = connections.record().then(() => finished.push("first"));
    const second = connections.record().then(() => finished.push("second"));
    await Bun.sleep(20);
    expect(finished).toEqual([]);
    stored.resolve();
    await Promise.all([first, second]);
    expect(record).toHaveBeenCalledTimes(1);
  });
});
