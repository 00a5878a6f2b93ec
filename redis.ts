import type { Engine } from "./server.ts";

export class RedisEngine {
  static async open(_url: string, _options: { tokenTtlMs: number; log: typeof import("./server.ts").log }): Promise<Engine> {
    throw new Error("not written yet");
  }
}
