/** A TCP or TLS socket that is read by length or up to a delimiter. */
import { createConnection, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { within } from "./waiting.ts";

/** Keeps the bytes that arrived until somebody takes them. */
export class BufferedSocket {
  readonly raw: Socket;
  #arrived: Uint8Array[] = [];
  #length = 0;
  #over = false;
  #wake: () => void = () => {};

  constructor(socket: Socket) {
    this.raw = socket;
    const end = (): void => {
      this.#over = true;
      this.#wake();
    };
    socket.on("data", (bytes: Uint8Array) => {
      this.#arrived.push(bytes);
      this.#length += bytes.length;
      this.#wake();
    });
    socket.on("error", end).on("end", end).on("close", end);
  }

  static open(url: string, from?: string): Promise<BufferedSocket> {
    const { hostname, port, protocol } = new URL(url);
    const secure = protocol === "https:";
    const where = { host: hostname, port: Number(port) || (secure ? 443 : 80), ...(from && { localAddress: from }) };
    const { promise, resolve, reject } = Promise.withResolvers<BufferedSocket>();
    const socket = secure ? connectTls({ ...where, rejectUnauthorized: false }) : createConnection(where);
    socket.once("error", reject);
    socket.once(secure ? "secureConnect" : "connect", () => resolve(new BufferedSocket(socket)));
    return within(20_000, `a connection to ${url}`, promise);
  }

  /** Exactly `count` bytes, or undefined when the connection ended before. */
  async take(count: number): Promise<Uint8Array | undefined> {
    while (this.#length < count) {
      if (this.#over) return undefined;
      await this.#more();
    }
    const all = this.#join();
    this.#keep(all.subarray(count));
    return all.subarray(0, count);
  }

  /** The text up to and without `end`, or undefined. */
  async takeUntil(end: string): Promise<string | undefined> {
    for (;;) {
      const all = this.#join();
      const at = Buffer.from(all.buffer, all.byteOffset, all.length).indexOf(end);
      if (at >= 0) {
        this.#keep(all.subarray(at + end.length));
        return new TextDecoder().decode(all.subarray(0, at));
      }
      if (this.#over) return undefined;
      await this.#more();
    }
  }

  async takeAll(): Promise<Uint8Array> {
    while (!this.#over) await this.#more();
    const all = this.#join();
    this.#keep(new Uint8Array());
    return all;
  }

  #join(): Uint8Array {
    const all = this.#arrived.length === 1 ? this.#arrived[0]! : Buffer.concat(this.#arrived);
    this.#arrived = [all];
    return all;
  }

  #keep(rest: Uint8Array): void {
    this.#arrived = rest.length ? [rest] : [];
    this.#length = rest.length;
  }

  #more(): Promise<void> {
    return new Promise((wake) => (this.#wake = wake));
  }
}
