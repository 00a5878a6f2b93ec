/** A Redis of the test's own: a child process on a free port with its own folder, which can be frozen, killed and begun anew. */
import { createConnection, createServer, type Server, type Socket } from "node:net";
import { Redis } from "ioredis";
import { pathOf } from "./needs.ts";
import { adopt, temporaryFolder } from "./leftovers.ts";
import { until } from "./waiting.ts";

const START_MS = 30_000; // a busy machine takes its time

const servers = new Set<RedisServer>();

export class RedisServer {
  readonly port: number;
  readonly folder = temporaryFolder();
  readonly #options: string[];
  #child: ReturnType<typeof Bun.spawn> | undefined;
  #client: Redis | undefined;

  private constructor(port: number, options: string[]) {
    this.port = port;
    this.#options = options;
  }

  /** With further options of the command line, such as `["--cluster-enabled", "yes"]`. */
  static async start(options: string[] = []): Promise<RedisServer> {
    const server = new RedisServer(await freePort(), options);
    servers.add(server);
    await server.begin();
    return server;
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  /** A client of the test's own, for looking inside. */
  get client(): Redis {
    this.#client ??= new Redis(this.url, { retryStrategy: () => 20, maxRetriesPerRequest: null }).on("error", () => {});
    return this.#client;
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  /** Starts it, empty: nothing is ever saved. */
  async begin(): Promise<void> {
    const tls = this.#options.includes("--tls-port");
    const own = [
      "--bind",
      "127.0.0.1",
      "--dir",
      this.folder,
      "--save",
      "",
      "--appendonly",
      "no",
      "--loglevel",
      "warning",
    ];
    const port = tls ? ["--port", "0", "--tls-port", String(this.port)] : ["--port", String(this.port)];
    const options = this.#options.filter((option) => option !== "--tls-port");
    const command = [pathOf("redis-server"), ...own, ...port, ...options];
    this.#child = adopt(Bun.spawn(command, { stdio: ["ignore", "ignore", "ignore"] }));
    await until("Redis listens", () => listens(this.port), START_MS);
  }

  async kill(): Promise<void> {
    this.#child?.kill("SIGKILL");
    await this.#child?.exited;
  }

  freeze(): void {
    this.#child?.kill("SIGSTOP");
  }

  thaw(): void {
    this.#child?.kill("SIGCONT");
  }

  async stop(): Promise<void> {
    this.#client?.disconnect();
    await this.kill();
    servers.delete(this);
  }
}

/** For `afterAll` of a file. */
export async function endRedis(): Promise<void> {
  for (const server of servers) await server.stop();
}

/** A port that nobody has, below those that the system gives to whoever asks for any: it is not gone a moment later. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000);
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const server = createServer().on("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
    if (await promise) return port;
  }
}

function listens(port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = createConnection(port, "127.0.0.1");
  socket.on("connect", () => resolve(true)).on("error", () => resolve(false));
  return promise.finally(() => socket.destroy());
}

/** A cable between a node and its Redis, which can be cut without either end being told. */
export class Cable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #cut = false;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async lay(port: number): Promise<Cable> {
    const server = createServer();
    const cable = new Cable(server);
    server.on("connection", (near) => cable.#join(near, createConnection(port, "127.0.0.1")));
    const { promise, resolve } = Promise.withResolvers<void>();
    server.listen(0, "127.0.0.1", resolve);
    await promise;
    return cable;
  }

  get url(): string {
    const address = this.#server.address();
    return `redis://127.0.0.1:${typeof address === "object" && address ? address.port : 0}`;
  }

  cut(): void {
    this.#cut = true;
    for (const socket of this.#sockets) socket.pause();
  }

  mend(): void {
    this.#cut = false;
    for (const socket of this.#sockets) socket.resume();
  }

  remove(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #join(near: Socket, far: Socket): void {
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      this.#sockets.add(from);
      from.on("data", (bytes) => to.write(bytes));
      from.on("error", () => {});
      from.on("close", () => {
        this.#sockets.delete(from);
        to.destroy();
      });
      if (this.#cut) from.pause();
    }
  }
}
