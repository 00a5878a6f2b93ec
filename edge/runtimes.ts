/** What differs between Bun and Deno: serving requests, and sockets. */

import { messageOf } from "../engine/engine.ts";
import { guarded, report } from "./log.ts";

/** What the sockets of both runtimes have in common. `bufferedAmount` exists on Deno, the optional methods on Bun. */
export interface Socket {
  readonly readyState: number;
  readonly bufferedAmount?: number;
  send(text: string): unknown;
  close(code: number, reason: string): void;
  ping?(): unknown;
  /** Sends everything that the callback sends in one write. */
  cork?(callback: () => void): unknown;
  terminate?(): void;
}

/** What a runtime knows about a request besides the request itself. */
export interface Client<Connection> {
  /** The address at the other end of the socket. Bun looks for it when it is read. */
  readonly address: string;
  /** Upgrades the request: a 101, or undefined when the handshake is broken or the client is gone. */
  upgrade(connection: Connection): Response | undefined;
}

/** What routes find beside a request: the client, and its address behind the trusted proxies. */
export interface RequestEnv<Connection> {
  Bindings: Client<Connection>;
  Variables: {
    readonly address: string;
    /** What the limits of the address are counted by. */
    readonly addressKey: string;
  };
}

/** Is told what happens to sockets. Each socket belongs to the connection that `upgrade` was called with. */
export interface SocketEvents<Connection> {
  opened(connection: Connection, socket: Socket): void;
  received(connection: Connection, data: unknown): void;
  /** A ping or a pong came. */
  heard(connection: Connection): void;
  /** May be called twice for one socket. */
  closed(connection: Connection): void;
}

interface ServeOptions<Connection> {
  readonly hostname: string;
  readonly port: number;
  readonly fetch: (request: Request, client: Client<Connection>) => Response | Promise<Response>;
  readonly events: SocketEvents<Connection>;
  readonly maxFrameBytes: number;
  /** A reader who leaves more than this unread is closed. Only Bun does that by itself. */
  readonly maxBufferedBytes: number;
  /** A silent socket is closed after this time. Only Deno does that by itself. */
  readonly idleSeconds: number;
}

/**
 * Frames are sent for this long before everything else gets a turn. Deno writes frames after the turn, which takes about five
 * times as long as `send`: after 10 ms of sending to 18,000 pages, the event loop stood still for 137 ms
 * (`npm run bench -- stalls deno`).
 */
export const SEND_PORTION_MS = typeof Deno === "undefined" ? 10 : 3;

// ── Bun ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** What `fetch` returns once Bun has answered the upgrade by itself. */
const UPGRADED = new Response(null, { status: 101 });

function serveOnBun(options: ServeOptions<object>): number {
  const { hostname, port, fetch, events } = options;
  const server = Bun.serve<object>({
    port,
    hostname,
    idleTimeout: 10, // seconds, of requests; sockets have their own
    fetch: (request, bun) =>
      fetch(request, {
        get address() {
          return bun.requestIP(request)?.address ?? "";
        },
        upgrade: (connection) => (bun.upgrade(request, { data: connection }) ? UPGRADED : undefined),
      }),
    websocket: {
      // Any send re-arms Bun's idle timeout (1.4.5), so a dead peer would never be closed. `Connections.sweep` pings.
      idleTimeout: 0,
      sendPings: false,
      maxPayloadLength: options.maxFrameBytes,
      backpressureLimit: options.maxBufferedBytes,
      closeOnBackpressureLimit: true,
      open: guarded((socket) => events.opened(socket.data, socket)),
      message: guarded((socket, data) => events.received(socket.data, data)),
      ping: guarded((socket) => events.heard(socket.data)),
      pong: guarded((socket) => events.heard(socket.data)),
      close: guarded((socket) => events.closed(socket.data)),
    },
  });
  return server.port ?? port;
}

// ── Deno ────────────────────────────────────────────────────────────────────────────────────────────────────────────

const WEBSOCKET_KEY = /^[\w+/]{22}==$/; // 16 bytes (RFC 6455, 4.1)
const RELISTEN_MS = 100;

/** A method of Deno's sockets that Deno (2.9.5) calls for each text, binary and pong frame. Undefined where there is none. */
const FRAME_CAME =
  typeof Deno === "undefined"
    ? undefined
    : Object.getOwnPropertySymbols(WebSocket.prototype).find(
        ({ description }) => description === "[[serverHandleIdleTimeout]]",
      );

/**
 * Deno has no event for pongs, and one connection that sends pongs as fast as it can would stop the service. So this listens
 * to a method of Deno's own. A frame was a pong when no message follows it; that is known with the next frame.
 * @returns a function to be called when a message comes
 */
function onPong(socket: WebSocket, heard: () => void): () => void {
  if (FRAME_CAME === undefined) return () => {};
  const methods = socket as unknown as Record<symbol, () => void>;
  const handleFrame = methods[FRAME_CAME];
  let mayBePong = false;
  methods[FRAME_CAME] = () => {
    if (mayBePong) heard();
    mayBePong = true;
    handleFrame?.call(socket);
  };
  return () => {
    mayBePong = false;
  };
}

function upgradeOnDeno(
  request: Request,
  connection: object,
  { events, idleSeconds }: ServeOptions<object>,
): Response | undefined {
  try {
    const { headers } = request; // Deno checks neither the version nor the key
    const hasKey = WEBSOCKET_KEY.test(headers.get("sec-websocket-key") ?? "");
    if (headers.get("sec-websocket-version") !== "13" || !hasKey) return undefined;
    const { socket, response } = Deno.upgradeWebSocket(request, { idleTimeout: idleSeconds }); // Deno pings at half of it
    socket.binaryType = "arraybuffer";
    const messageCame = onPong(
      socket,
      guarded(() => events.heard(connection)),
    );
    socket.onopen = guarded(() => events.opened(connection, socket));
    socket.onmessage = guarded(({ data }) => {
      messageCame();
      events.received(connection, data);
    });
    socket.onclose = guarded(() => events.closed(connection));
    socket.onerror = guarded(() => events.closed(connection));
    return response;
  } catch {
    return undefined; // deliberate: Deno throws for a broken handshake, and the client is told so
  }
}

function serveOnDeno(options: ServeOptions<object>, port = options.port): number {
  const { hostname, fetch } = options;
  const server = Deno.serve({ port, hostname, onListen: () => {} }, (request, info) =>
    fetch(request, {
      address: info.remoteAddr.hostname,
      upgrade: (connection) => upgradeOnDeno(request, connection, options),
    }),
  );
  server.finished.catch((error: unknown) => listenAgainOnDeno(error, options, server.addr.port));
  return server.addr.port;
}

/** With no file left for a new socket, Deno stops listening. Open sockets live on meanwhile. */
function listenAgainOnDeno(error: unknown, options: ServeOptions<object>, port: number): void {
  report(error);
  setTimeout(() => {
    try {
      serveOnDeno(options, port);
    } catch (again) {
      listenAgainOnDeno(again, options, port);
    }
  }, RELISTEN_MS);
}

/**
 * Opens the port.
 * @returns its number
 * @throws {Error} that names the address, which the errors of the runtimes do not
 */
export function listen<Connection extends object>(options: ServeOptions<Connection>): number {
  try {
    return typeof Bun === "undefined" ? serveOnDeno(options) : serveOnBun(options);
  } catch (error) {
    throw new Error(`Cannot listen on ${options.hostname}:${options.port}: ${messageOf(error)}`, { cause: error });
  }
}
