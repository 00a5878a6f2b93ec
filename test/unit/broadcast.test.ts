/** A broadcast to an audience that is so large that its frames go out in several turns of the event loop. */
import { expect, test } from "bun:test";
import { connect, FakeClock, FakeSocket, testService } from "../support/unit.ts";

/** A socket whose frames take a whole portion of a broadcast each. */
class SlowSocket extends FakeSocket {
  readonly #clock: FakeClock;

  constructor(clock: FakeClock) {
    super();
    this.#clock = clock;
  }

  override send(text: string): void {
    super.send(text);
    this.#clock.time += 10;
  }
}

const nextTurn = () => new Promise((resolve) => setImmediate(resolve));

async function setUp(visitors: number) {
  const clock = new FakeClock();
  const service = await testService({}, clock);
  const { connections } = service;
  const open = (visitor: string) => connect(service, visitor, "/", new SlowSocket(clock));
  const pages = Array.from({ length: visitors }, (_, number) => open(`visitor ${number}`));
  await nextTurn();
  clock.time += 1_000;
  connections.flush();
  while (pages.some(({ socket }) => socket.sent.at(-1)?.site !== visitors)) await nextTurn();
  return { connections, open, pages };
}

test("broadcast: pages that close and come meanwhile leave nobody without the new number", async () => {
  const { connections, open, pages } = await setUp(60);
  open("one more");
  for (let turn = 1; turn < 80; turn += 1) {
    await nextTurn();
    const [closing] = pages.splice((turn * 7) % pages.length, turn % 2); // from all parts of the audience
    if (closing !== undefined) connections.closed(closing.connection);
    if (turn % 3 === 0) open(""); // an observer, who changes no number and therefore causes no further broadcast
  }
  expect(pages.length).toBeGreaterThan(10);
  for (const { socket } of pages) expect(socket.sent.at(-1)?.site).toBe(61);
});

test("broadcast: when most pages close at once, the rest are sent the new number", async () => {
  const { connections, open, pages } = await setUp(60);
  open("one more");
  await nextTurn();
  for (const { connection } of pages.splice(5)) connections.closed(connection);
  for (let turn = 0; turn < 80; turn += 1) await nextTurn();
  for (const { socket } of pages) expect(socket.sent.at(-1)?.site).toBe(61);
});

test("broadcast: what is flushed meanwhile adds no frames to a turn", async () => {
  const { connections, open, pages } = await setUp(30);
  const sent = () => pages.reduce((sum, { socket }) => sum + socket.sent.length, 0);
  open("one more");
  await nextTurn();
  for (let turn = 0; turn < 20; turn += 1) {
    const before = sent();
    connections.flush();
    connections.flush();
    await nextTurn();
    expect(sent() - before).toBeLessThanOrEqual(1);
  }
  for (let turn = 0; turn < 20; turn += 1) await nextTurn();
  for (const { socket } of pages) expect(socket.sent.at(-1)?.site).toBe(31);
});
