/** Requests and handshakes as bytes, for what no HTTP client would send. */
import { connect } from "node:net";
import { encodeFrame } from "./client.ts";
import { sleep } from "./waiting.ts";

/** What came back: the text, the status codes in it, whether the peer closed the connection, and after how long. */
export type RawAnswer = { text: string; statuses: number[]; closed: boolean; ms: number };
export type RawOptions = {
  /** Sent again and again. */
  drip?: string;
  dripEveryMs?: number;
  /** How many answers to wait for, when the peer may keep the connection open after them. */
  answers?: number;
  /** How long to wait for the peer to close the connection. */
  ms?: number;
};

/** Sends bytes over TCP as they are, and collects what comes back until the connection ends or `ms` have passed. */
export function sendRaw(
  url: string,
  bytes: string | Uint8Array,
  { drip, dripEveryMs = 2_000, answers = Infinity, ms = 5_000 }: RawOptions = {},
): Promise<RawAnswer> {
  const { hostname, port } = new URL(url);
  const began = performance.now();
  const { promise, resolve } = Promise.withResolvers<RawAnswer>();
  const parts: Buffer[] = [];
  const socket = connect({ host: hostname, port: Number(port) });
  const read = () => {
    const text = Buffer.concat(parts).toString("latin1");
    const statuses = [...text.matchAll(/HTTP\/1\.[01] (\d+)/g)].map(([, status]) => Number(status));
    return { text, statuses };
  };
  const end = (closed: boolean): void => {
    clearTimeout(timer);
    clearInterval(dripping);
    socket.destroy();
    resolve({ ...read(), closed, ms: performance.now() - began });
  };
  const timer = setTimeout(() => end(false), ms);
  const dripping = drip === undefined ? undefined : setInterval(() => socket.write(drip), dripEveryMs);
  socket
    .on("data", (data: Buffer) => {
      parts.push(data);
      if (read().statuses.length >= answers) end(false);
    })
    .on("error", () => end(true))
    .on("end", () => end(true))
    .on("close", () => end(true));
  socket.write(bytes);
  return promise;
}

/** Opens connections, sends bytes on each of them, and keeps them open. Returns a function that closes them. */
export function holdOpen(url: string, bytes: string, count: number): () => void {
  const { hostname, port } = new URL(url);
  const sockets = Array.from({ length: count }, () => {
    const socket = connect({ host: hostname, port: Number(port) });
    socket.on("error", () => {}).on("data", () => {}); // the service may close it before
    socket.write(bytes);
    return socket;
  });
  return () => sockets.forEach((socket) => socket.destroy());
}

/** A WebSocket handshake as text, to be sent with what should not be in it. */
export const handshake = (url: string, origin: string, token: string, more = ""): string =>
  [
    `GET /ws?token=${token} HTTP/1.1`,
    `Host: ${new URL(url).host}`,
    `Origin: ${origin}`,
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    `Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==`,
    `${more}\r\n`,
  ].join("\r\n") + (more ? "\r\n" : "");

/** Sends bytes and then resets the connection, so that the peer receives a RST in the middle of its work. */
export async function reset(url: string, bytes: string, afterMs = 0): Promise<void> {
  const { hostname, port } = new URL(url);
  const socket = connect({ host: hostname, port: Number(port) });
  socket.on("error", () => {});
  await new Promise((resolve) => socket.once("connect", resolve).once("close", resolve));
  socket.write(bytes);
  if (afterMs) await sleep(afterMs);
  socket.resetAndDestroy();
}

export const textFrame = (text: string): Buffer => encodeFrame(1, Buffer.from(text));
