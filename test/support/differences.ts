/** Where Bun and Deno differ under attack. All of it was measured on Bun 1.4.5 and Deno 2.9.5, and the docs name it. */
import type { Runtime } from "./service.ts";

export const differences = {
  /** Deno reads a fragmented message to its end, however long. Bun closes the connection at maxPayloadLength. */
  boundsFragments: { bun: true, deno: false },
  /** RFC 6455 5.1 demands that frames without a mask are refused. Deno accepts them. */
  refusesUnmasked: { bun: true, deno: false },
  /** Bun.serve has an idleTimeout that single bytes do not extend. Deno.serve has no timeout of any kind. */
  cutsSlowRequests: { bun: true, deno: false },
  /** Bun ends a connection whether or not the peer answers the close frame. Deno keeps the TCP connection until it does. */
  closesWithoutAnswer: { bun: true, deno: false },
  /** A peer that pings and does not read: Bun answers until 64 KiB are unread, then closes. Deno stops reading and waits. */
  closesPingFloods: { bun: true, deno: false },
  /** Bun tells the service of pings, so that they count as messages. Deno answers them by itself, which costs it little. */
  refusesPingFloods: { bun: true, deno: false },
  /** Bun answers an HTTP/1.1 request without Host with 400, as RFC 9112 3.2 demands. Deno accepts it. */
  demandsHost: { bun: true, deno: false },
  /** Deno speaks HTTP/2 without TLS to clients that begin with it. Bun does not. */
  speaksHttp2WithoutTls: { bun: false, deno: true },
} satisfies Record<string, Record<Runtime, boolean>>;
