/** A proxy with faults in front of a service. */
import { connect, createServer, type Server } from "node:net";
import { stopAtTheEnd } from "./own-pages.ts";
import type { Service } from "./service.ts";

/** What a proxy does to the heads of requests and answers, and how long it lets a connection be silent. */
export type Faults = { request?: (head: string) => string; answer?: (head: string) => string; patienceMs?: number };

/** Starts the proxy and gives its address. */
export async function proxy(service: Service, { request, answer, patienceMs = 0 }: Faults): Promise<string> {
  const bend = (
    chunk: Buffer | string,
    first: RegExp,
    change: ((head: string) => string) | undefined,
  ): Buffer | string =>
    change && first.test(chunk.toString("latin1")) ? Buffer.from(change(chunk.toString("latin1")), "latin1") : chunk;
  const server: Server = createServer((client) => {
    const upstream = connect(Number(new URL(service.url).port), "127.0.0.1");
    const end = (): void => {
      client.destroy();
      upstream.destroy();
    };
    client.on("data", (chunk) => upstream.write(bend(chunk, /^(GET|POST) /, request)));
    upstream.on("data", (chunk) => client.write(bend(chunk, /^HTTP/, answer)));
    for (const socket of [client, upstream]) socket.on("error", end).on("close", end).setTimeout(patienceMs, end);
  });
  const { promise, resolve } = Promise.withResolvers<void>();
  server.listen(0, "127.0.0.1", resolve);
  await promise;
  stopAtTheEnd({ stop: () => server.close() });
  const address = server.address();
  return `http://127.0.0.1:${typeof address === "object" && address ? address.port : 0}`;
}

/** As every proxy should, it says who is asking. */
export const forwarded = (head: string): string => head.replace("\r\n", "\r\nX-Forwarded-For: 192.0.2.7\r\n");
export const withoutUpgrade = (head: string): string => head.replace(/^(upgrade|connection): .*\r\n/gim, "");
export const withoutCookie = (head: string): string => head.replace(/^set-cookie: .*\r\n/gim, "");
