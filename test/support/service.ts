/** The service as its owner runs it: a child process on Bun or Deno, with its settings, logs and signals. */
import { join } from "node:path";
import { ask, authorizationOf } from "./client.ts";
import { adopt } from "./leftovers.ts";
import { within } from "./waiting.ts";

export type Runtime = "bun" | "deno";
export type Settings = Record<string, string | number | boolean>;
export type LogLine = { time: string; level: string; event: string; [field: string]: unknown };

export const runtimes: Runtime[] = ["bun", "deno"];

const root = join(import.meta.dir, "../..");
const entry = process.env["HEADCOUNT_ENTRY"] ?? "server.ts"; // HEADCOUNT_ENTRY=dist/server.js tests the bundle
const permissions = ["--allow-net", "--allow-env", "--allow-read", "--allow-write"];
const commands: Record<Runtime, string[]> = {
  bun: ["node_modules/.bin/bun", entry],
  deno: ["node_modules/.bin/deno", "run", "--quiet", ...permissions, entry],
};

const services = new Set<Service>();

/** The settings of a test, and of the developer's own environment only what a process needs to run. */
const environment = (settings: Settings): Record<string, string> => ({
  PATH: process.env["PATH"] ?? "",
  HOME: process.env["HOME"] ?? "/tmp",
  DENO_NO_UPDATE_CHECK: "1",
  HOST: "127.0.0.1",
  PORT: "0",
  DATA: ":memory:",
  ...Object.fromEntries(Object.entries(settings).map(([name, value]) => [name, String(value)])),
});

/**
 * `wrapper`: a command that runs the service, such as `ip netns exec NAME`. `preload`: a module that runs first. `args`: what
 * follows on the command line.
 */
export type Launch = { wrapper?: string[]; preload?: string; args?: string[] };

const spawn = (runtime: Runtime, settings: Settings, { wrapper = [], preload, args = [] }: Launch = {}) => {
  const options = { cwd: root, env: environment(settings), stdin: "ignore", stdout: "pipe", stderr: "pipe" } as const;
  const command = commands[runtime].map((word) => (word.startsWith("node_modules/") ? join(root, word) : word));
  if (preload !== undefined) command.splice(-1, 0, "--preload", preload);
  return adopt(Bun.spawn([...wrapper, ...command, ...args], options));
};

/** Calls `onLine` with each line as it arrives; resolves at the end of the stream. */
async function readLines(stream: ReadableStream<Uint8Array>, onLine: (line: string) => void): Promise<void> {
  let rest = "";
  const text = new TextDecoder();
  for await (const chunk of stream) {
    const lines = (rest + text.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    lines.forEach(onLine);
  }
  if (rest) onLine(rest);
}

export class Service {
  readonly runtime: Runtime;
  readonly settings: Settings;
  /** Where it listens, without the slash at the end: `http://127.0.0.1:41234`. */
  url = "";
  logs: LogLine[] = [];
  errors: string[] = [];
  #child: ReturnType<typeof spawn> | undefined;
  #stopped = false;
  #launch: Launch;

  private constructor(runtime: Runtime, settings: Settings, launch: Launch) {
    this.runtime = runtime;
    this.settings = settings;
    this.#launch = launch;
  }

  static async start(runtime: Runtime, settings: Settings = {}, launch: Launch = {}): Promise<Service> {
    const service = new Service(runtime, settings, launch);
    services.add(service);
    await service.#run();
    return service;
  }

  get host(): string {
    return new URL(this.url).host;
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  /** Ends the process and gives its exit code; SIGTERM lets it close its pages, SIGKILL does not. */
  async stop(signal: "SIGTERM" | "SIGINT" | "SIGKILL" = "SIGTERM"): Promise<number> {
    this.#stopped = true;
    this.#child?.kill(signal);
    return within(10_000, `${this.name} ends after ${signal}`, this.exited);
  }

  get exited(): Promise<number> {
    return this.#child?.exited ?? Promise.resolve(0);
  }

  /** Starts it again after `stop`, at the same address and with the same data, as a supervisor would. */
  async start(): Promise<void> {
    await this.#run({ PORT: new URL(this.url).port });
  }

  /** The Authorization header of the operator, whose password is set, or was generated for this run and logged. */
  get authorization(): string {
    const made = this.logs.findLast(({ event }) => event === "ready")?.["password"];
    return authorizationOf(String(this.settings["ADMIN_PASSWORD"] ?? made));
  }

  /** All metrics, as Prometheus reads them. */
  async metrics(): Promise<string> {
    return (await ask(this.url, "GET /metrics", { headers: { authorization: this.authorization } })).text;
  }

  /** The value of a metric, the first one where it has labels; NaN when there is none. */
  async metric(name: string): Promise<number> {
    return Number(new RegExp(`^${name}(?:{.*})? (\\S+)$`, "m").exec(await this.metrics())?.[1]);
  }

  get name(): string {
    return `the service on ${this.runtime} (${this.url || "no address yet"})`;
  }

  /** What is wrong: the service died although nobody stopped it, or it logged an error. */
  get complaint(): string | undefined {
    const died = !this.#stopped && this.#child?.exitCode != null;
    const error = this.logs.find((line) => line.level === "error");
    if (!died && !error) return undefined;
    return `${this.name} ${died ? "died" : "complained"}: ${JSON.stringify(error ?? "")}\n${this.errors.join("\n")}`;
  }

  kill(): void {
    this.#stopped = true;
    this.#child?.kill("SIGKILL");
  }

  async #run(more: Settings = {}): Promise<void> {
    const child = spawn(this.runtime, { ...this.settings, ...more }, this.#launch);
    this.#child = child;
    this.#stopped = false;
    const ready = new Promise<LogLine>((found) => {
      void readLines(child.stdout, (line) => {
        const log = parseLog(line);
        this.logs.push(log);
        if (log.event === "ready") found(log);
      });
    });
    const output = readLines(child.stderr, (line) => this.errors.push(line));
    const died = child.exited.then(async (code) => {
      await output;
      throw new Error(`${this.name} ended with ${code} before it was ready:\n${this.errors.join("\n")}`);
    });
    died.catch(() => {}); // `complaint` reports an end after the service was ready
    const line = await within(30_000, `${this.name} is ready`, Promise.race([ready, died]));
    this.url = String(line["url"]).replace(/\/$/, "");
  }
}

const parseLog = (line: string): LogLine => {
  try {
    const log: LogLine = JSON.parse(line);
    return log;
  } catch {
    return { time: "", level: "error", event: "not a JSON log line", line };
  }
};

/** Starts the service with settings that it must refuse. Returns its exit code and what it printed. */
export async function refuseToStart(runtime: Runtime, settings: Settings): Promise<{ code: number; stderr: string }> {
  const child = spawn(runtime, settings);
  const stderr = new Response(child.stderr).text();
  try {
    return { code: await within(30_000, "it gives up", child.exited), stderr: await stderr };
  } finally {
    child.kill("SIGKILL");
  }
}

/** Runs a command of the command line to its end, such as `["export"]`. */
export async function runCommand(
  runtime: Runtime,
  args: string[],
  settings: Settings,
): Promise<{ code: number; stdout: string; stderr: string }> {
  const child = spawn(runtime, settings, { args });
  const output = Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  try {
    const code = await within(30_000, `${args.join(" ")} ends`, child.exited);
    const [stdout, stderr] = await output;
    return { code, stdout, stderr };
  } finally {
    child.kill("SIGKILL");
  }
}

/** For `afterAll` of a file: ends all its services, and fails if one of them died by itself or logged an error. */
export function endServices(): void {
  const complaints = [...services].flatMap((service) => service.complaint ?? []);
  for (const service of services) service.kill();
  services.clear();
  if (complaints.length) throw new Error(complaints.join("\n"));
}
