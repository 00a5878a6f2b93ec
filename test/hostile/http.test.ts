/** HTTP requests that are malformed, slow, huge, cut off, or several in one. */
import { expect, test } from "bun:test";
import { connect } from "node:net";
import { differences } from "../support/differences.ts";
import { expectStatus } from "../support/expect.ts";
import { reset, sendRaw } from "../support/raw.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { SharedService, type TestSite } from "../support/site.ts";
import { Target, times } from "../support/target.ts";
import { sleep, until } from "../support/waiting.ts";

const hostOf = ({ url }: TestSite): string => new URL(url).host;
const tokenRequest = (site: TestSite): string =>
  `POST /token HTTP/1.1\r\nHost: ${hostOf(site)}\r\nOrigin: ${site.origin}\r\n`;

onBothRuntimes("hostile HTTP", (runtime) => {
  const shared = new SharedService(runtime);
  const newTarget = async (): Promise<Target> => Target.on(await shared.site());

  test("a malformed Host, a head of 64 KiB and 1,000 headers are refused with 4xx, without a stack trace", async () => {
    const target = await newTarget();
    const host = `Host: ${hostOf(target)}`;
    const request = (...lines: string[]): string =>
      ["GET /count HTTP/1.1", ...lines, "Connection: close", "", ""].join("\r\n");
    const hosts = ["[::1", "a b", "a/b", "a?b", "a#b", "a@b", "a\\b", '"><script>', "%", "a:99999", "é"];
    const heavy = [
      request(host, `X: ${"a".repeat(65_536)}`),
      request(host, ...Array.from({ length: 1000 }, (_, at) => `X${at}: 1`)),
      `GET /${"a".repeat(65_536)} HTTP/1.1\r\n${host}\r\n\r\n`,
      request(host, host.replace("Host", "host"), "Host: other.example"),
    ];
    for (const bytes of [...hosts.map((name) => request(`Host: ${name}`)), ...heavy]) {
      const { statuses, text } = await sendRaw(target.url, bytes);
      expectStatus(bytes.slice(0, 60), statuses[0], (status) => status >= 400 && status < 500);
      expect(text).not.toMatch(/\bat .*\.[jt]s:\d+|node_modules|\/work\//);
    }
    const withoutHost = (await sendRaw(target.url, request())).statuses[0];
    expect(withoutHost).toBe(differences.demandsHost[runtime] ? 400 : 200);
    await target.survives();
  });

  test("slow request heads and bodies are closed within 15 s", async () => {
    const target = await newTarget();
    const head = tokenRequest(target);
    const slow: [start: string, drip: string | undefined][] = [
      ["", undefined],
      ["GET /", "a"],
      [head, "a"],
      [head, "X: y\r\n"],
      [head, undefined],
      [`${head}Content-Length: 4000\r\n\r\n{`, " "],
      [`${head}Content-Length: 4000\r\n\r\n{`, undefined],
      [`${head}Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n`, "1\r\n \r\n"],
    ];
    const isCut = differences.cutsSlowRequests[runtime];
    const ends = await Promise.all(
      slow.map(([start, drip]) => sendRaw(target.url, start, { ...(drip && { drip }), ms: isCut ? 20_000 : 3_000 })),
    );
    if (isCut) for (const { closed, ms } of ends) expect([closed, ms < 15_000]).toEqual([true, true]);
    await target.survives();
  });

  test("a body of 200 MB is refused with 413 and not read, whether its length is given or it comes in chunks", async () => {
    const target = await Target.start(runtime);
    const head = tokenRequest(target);
    const declared = await sendRaw(target.url, `${head}Content-Length: 200000000\r\n\r\n{`, { ms: 3_000 });
    expect(declared.statuses).toEqual([413]);
    for (const length of ["Content-Length: 200000000", "Transfer-Encoding: chunked"]) {
      const { sent, status } = await pour(target.url, `${head}${length}\r\n\r\n`, length.startsWith("T"));
      expect([status ?? 413, sent < 40_000_000]).toEqual([413, true]); // no status: reset before the answer was read
    }
    await target.survives();
  });

  test("a request whose body ends early is no error of the service", async () => {
    const target = await newTarget();
    const head = tokenRequest(target);
    for (const more of ["Content-Length: 100\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n5\r\n{"]) {
      await times(5, 5, () => reset(target.url, head + more, 50));
      await sendRaw(target.url, head + more, { ms: 200 });
    }
    await target.survives();
    expect(target.service.logs.filter(({ level }) => level === "error")).toEqual([]);
  });

  test("500 requests in one connection get 500 answers", async () => {
    const target = await newTarget();
    const host = `Host: ${hostOf(target)}\r\n`;
    const get = `GET /healthz HTTP/1.1\r\n${host}\r\n`;
    const last = get.replace(host, `${host}Connection: close\r\n`);
    const { statuses } = await sendRaw(target.url, get.repeat(499) + last, { ms: 20_000 });
    expect(statuses).toEqual(Array.from({ length: 500 }, () => 200));
    await target.survives();
  });

  test("a request that hides another one behind its length is refused", async () => {
    const target = await newTarget();
    const get = `GET /healthz HTTP/1.1\r\nHost: ${hostOf(target)}\r\n\r\n`;
    const post = tokenRequest(target);
    const smuggled = [
      `Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${get}`,
      `Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}${get}`,
      `Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n${get}`,
      `Content-Length: -1\r\n\r\n${get}`,
      `Content-Length: 0x10\r\n\r\n${get}`,
      `Content-Length : 2\r\n\r\n{}${get}`,
      `Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n{}${get}`,
    ];
    for (const rest of smuggled) {
      const { statuses } = await sendRaw(target.url, post + rest, { ms: 1_500 });
      expect([rest, statuses.length < 2 && statuses[0] !== 200]).toEqual([rest, true]);
    }
    await target.survives();
  });

  test("no method on any route is an error of the service", async () => {
    const target = await newTarget();
    const host = `Host: ${hostOf(target)}\r\n`;
    for (const method of ["HEAD", "OPTIONS", "TRACE", "CONNECT", "PUT", "DELETE", "PATCH", "BREW"])
      for (const path of ["/", "/ws", "/token", "/count", "/metrics", "/dashboard", "/widget.js", "/check/request"]) {
        const request = `${method} ${path} HTTP/1.1\r\n${host}Connection: close\r\n\r\n`;
        const { statuses } = await sendRaw(target.url, request, { answers: 1, ms: 3_000 });
        expectStatus(`${method} ${path}`, statuses[0] ?? 0, (status) => status < 500);
      }
    await target.survives();
  });
});

/** Sends up to 200 MB behind a head, until there is an answer. Returns how much it sent, and the status if it arrived. */
async function pour(
  url: string,
  head: string,
  isChunked: boolean,
): Promise<{ sent: number; status: number | undefined }> {
  const { hostname, port } = new URL(url);
  const socket = connect({ host: hostname, port: Number(port) });
  const answer = { text: "", over: false };
  const end = (): void => {
    answer.over = true;
  };
  socket.on("data", (data: Buffer) => (answer.text += data.toString("latin1")));
  socket.on("data", end).on("error", end).on("close", end);
  socket.write(head);
  const block = Buffer.alloc(1 << 20, 32);
  const piece = isChunked ? Buffer.concat([Buffer.from("100000\r\n"), block, Buffer.from("\r\n")]) : block;
  let sent = 0;
  while (sent < 200_000_000 && !answer.over) {
    socket.write(piece);
    sent += piece.length;
    await until("it is read or answered", () => answer.over || socket.writableLength === 0, 10_000);
    await sleep(5);
  }
  socket.destroy();
  return { sent, status: Number(/^HTTP\/1\.1 (\d+)/.exec(answer.text)?.[1]) || undefined };
}
