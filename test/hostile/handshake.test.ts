/** Handshakes that are cut off, doubled or filled with what does not belong there. Tokens and origins: test/service/upgrade. */
import { expect, test } from "bun:test";
import { connect } from "node:net";
import { encodeFrame } from "../support/client.ts";
import { handshake, reset, sendRaw, textFrame } from "../support/raw.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { SharedService } from "../support/site.ts";
import { Target, times } from "../support/target.ts";
import { until } from "../support/waiting.ts";

onBothRuntimes("hostile handshakes", (runtime) => {
  const shared = new SharedService(runtime);

  test("a reset between token and upgrade, or during the upgrade, frees the slot of the page within 5 s", async () => {
    const target = await Target.start(runtime, { MAX_PAGES_PER_IP: 41, MAX_CONNECTIONS: 41 });
    const { url, origin } = target;
    await times(40, 4, () => target.token()); // never used
    const whole = async (): Promise<string> => handshake(url, origin, await target.token());
    await times(20, 4, async () => reset(url, await whole()));
    await times(20, 4, async () => reset(url, await whole(), 3));
    await times(20, 4, async () => reset(url, (await whole()).slice(0, -2)));
    const began = performance.now();
    await until("all slots are free", async () => (await target.connections()) === 1, 10_000);
    expect(performance.now() - began).toBeLessThan(7_500); // 5 s, found by a sweep each second
    const connections = await times(40, 8, () => target.open());
    await target.survives(40);
    for (const connection of connections) connection.vanish();
    await target.survives();
  });

  test("a handshake with a body opens at most one connection", async () => {
    const target = await Target.on(await shared.site());
    const { url, origin } = target;
    const bytes = `${handshake(url, origin, await target.token(), "Content-Length: 10")}0123456789`;
    expect((await sendRaw(url, bytes, { ms: 4_000 })).statuses.length).toBe(1);
    await target.survives();
  });

  test("compression is not agreed to", async () => {
    const target = await Target.on(await shared.site());
    const { url, origin } = target;
    const extensions = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=8; x";
    const more = `${extensions}\r\nSec-WebSocket-Protocol: a, b`;
    const bytes = handshake(url, origin, await target.token(), more);
    expect((await sendRaw(url, bytes, { ms: 4_000 })).text).not.toMatch(/permessage-deflate/i);
    await target.survives();
  });

  test("a handshake with frames or a second handshake behind it opens one connection at most", async () => {
    const target = await Target.on(await shared.site());
    const { url, origin } = target;
    const shake = async (): Promise<string> => handshake(url, origin, await target.token());
    const close = encodeFrame(8, Buffer.from([1000 >> 8, 1000 & 255]));
    const early = Buffer.concat([Buffer.from(await shake()), textFrame('{"page":"/early"}'), close]);
    // RFC 6455 4.1 lets a client send more after the answer only. Bun may refuse or close a connection that sends it before.
    const both = (await shake()) + (await shake());
    for (const bytes of [early, both]) {
      const { statuses } = await sendRaw(url, bytes, { ms: 4_000 });
      expect([[101], [400], []]).toContainEqual(statuses);
    }
    await target.survives();
  });

  test("a client that closes its side right after the handshake is not counted", async () => {
    const target = await Target.on(await shared.site());
    const { hostname, port } = new URL(target.url);
    await times(10, 1, async () => {
      const half = connect({ host: hostname, port: Number(port), allowHalfOpen: true });
      half.on("error", () => {}).on("data", () => {});
      half.end(handshake(target.url, target.origin, await target.token()));
    });
    await target.survives();
  });
});
