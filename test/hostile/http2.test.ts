/** HTTP/2 without TLS, which Deno speaks and Bun refuses: an honest visitor, and streams that are reset as fast as they open. */
import { expect, test } from "bun:test";
import { type ClientHttp2Session, connect, type OutgoingHttpHeaders } from "node:http2";
import { userAgent } from "../support/client.ts";
import { differences } from "../support/differences.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { Target, times } from "../support/target.ts";
import { alone, sleep } from "../support/waiting.ts";

const cancel = 8; // RFC 9113, 7

/** One request in a stream of its own. Returns the status; 0 where there was no answer. */
function ask(session: ClientHttp2Session, headers: OutgoingHttpHeaders, body = ""): Promise<number> {
  const { promise, resolve } = Promise.withResolvers<number>();
  const stream = session.request({ "user-agent": userAgent, ...headers });
  stream.on("response", ({ ":status": status = 0 }) => resolve(status)).on("error", () => resolve(0));
  stream
    .on("close", () => resolve(0))
    .resume()
    .end(body);
  return promise;
}

async function resetStreams(url: string, count: number): Promise<void> {
  const session = connect(url).on("error", () => {});
  for (let opened = 0; opened < count && !session.closed && !session.destroyed; opened++) {
    const stream = session.request({ ":path": `/count?page=/${opened}` });
    stream.on("error", () => {});
    stream.close(cancel);
    if (opened % 100 === 99) await sleep(1);
  }
  session.destroy();
}

onBothRuntimes("hostile HTTP/2", (runtime) => {
  test("the own site is counted where there is no Host header, and a foreign one is refused", async () => {
    const target = await Target.start(runtime);
    const session = connect(target.url).on("error", () => {});
    const token = (origin: string) => ask(session, { ":path": "/token", ":method": "POST", origin }, '{"page":"/"}');
    const speaksHttp2 = differences.speaksHttp2WithoutTls[runtime];
    expect(await token(target.url)).toBe(speaksHttp2 ? 200 : 0);
    expect(await token("https://evil.example")).toBe(speaksHttp2 ? 403 : 0);
    session.destroy();
    await target.survives();
  });

  test("streams that are reset at once neither stop the service nor fill its standard error", () =>
    alone(async () => {
      const target = await Target.start(runtime);
      await times(50, 4, () => resetStreams(target.url, 1_000));
      await target.survives();
      expect(target.service.errors.length).toBeLessThan(3);
    }));
});
