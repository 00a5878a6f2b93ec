/** A load generator, `load.ts`, in a process of its own. */
import { join } from "node:path";
import { adopt } from "../support/leftovers.ts";
import type { Order, Report, Visit } from "./load.ts";

export interface LoadGenerator {
  /** Sends one order and waits for its report. */
  order(order: Order): Promise<Report>;
  /** Kills it, and waits until it is gone. */
  stop(): Promise<unknown>;
}

export function startGenerator(visit: Visit): LoadGenerator {
  let reply = Promise.withResolvers<Report>();
  const command = [process.execPath, join(import.meta.dirname, "load.ts"), JSON.stringify(visit)];
  const load = Bun.spawn(command, {
    ipc: (report: Report) => reply.resolve(report),
    onExit: () => reply.reject(new Error("the load generator ended")),
    stdio: ["ignore", "inherit", "inherit"],
  });
  adopt(load);
  reply.promise.catch(() => {}); // deliberately empty: nobody waits for a report before the first order
  return {
    order(order) {
      reply = Promise.withResolvers();
      load.send(order);
      return reply.promise;
    },
    stop() {
      load.kill("SIGKILL");
      return load.exited;
    },
  };
}
