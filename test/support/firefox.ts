/** Debian's Firefox over WebDriver BiDi. A user context (a container tab's storage) of its own is a visitor of its own. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Engine, Tab, VisitorBrowser } from "./engines.ts";
import { adopt, temporaryFolder } from "./leftovers.ts";
import { pathOf } from "./needs.ts";
import { within } from "./waiting.ts";

const COMMAND_MS = 30_000;

/** Nothing leaves this machine: everything but loopback goes to a proxy that does not exist. */
const loopbackOnly = {
  "network.proxy.type": 1,
  "network.proxy.http": "127.0.0.1",
  "network.proxy.http_port": 9,
  "network.proxy.ssl": "127.0.0.1",
  "network.proxy.ssl_port": 9,
  "network.proxy.no_proxies_on": "localhost, 127.0.0.1",
  "network.proxy.failover_direct": false,
  "app.normandy.enabled": false,
  "services.settings.server": "http://127.0.0.1:9/v1",
};

/** The commands of a BiDi session; each answer has the id of its command. */
class Session {
  #lastId = 0;
  readonly #waiting = new Map<number, (answer: any) => void>();
  readonly #socket: WebSocket;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.addEventListener("message", ({ data }) => {
      const answer = JSON.parse(String(data));
      this.#waiting.get(answer.id)?.(answer);
      this.#waiting.delete(answer.id);
    });
  }

  static async open(address: string): Promise<Session> {
    const socket = new WebSocket(`${address}/session`);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    socket.addEventListener("open", () => resolve());
    socket.addEventListener("error", () => reject(new Error(`Cannot connect to Firefox at ${address}`)));
    await promise;
    const session = new Session(socket);
    await session.send("session.new", { capabilities: {} });
    return session;
  }

  async send(method: string, params: object): Promise<any> {
    const id = ++this.#lastId;
    const { promise, resolve } = Promise.withResolvers<any>();
    this.#waiting.set(id, resolve);
    this.#socket.send(JSON.stringify({ id, method, params }));
    const answer = await within(COMMAND_MS, `Firefox answers ${method}`, promise);
    if (answer.type === "error") throw new Error(`Firefox refuses ${method}: ${answer.error}, ${answer.message}`);
    return answer.result;
  }
}

/** Starts Firefox and gives the address at which it listens. */
async function launch(preferences: object): Promise<{ address: string; kill: () => void }> {
  const profile = temporaryFolder();
  const lines = Object.entries({ ...loopbackOnly, ...preferences }).map(
    ([name, value]) => `user_pref(${JSON.stringify(name)}, ${JSON.stringify(value)});\n`,
  );
  writeFileSync(join(profile, "user.js"), lines.join(""));
  const command = [
    pathOf("firefox-esr"),
    "--headless",
    "--no-remote",
    "--profile",
    profile,
    "--remote-debugging-port=0",
  ];
  const child = adopt(Bun.spawn(command, { stdout: "ignore", stderr: "pipe", env: { ...process.env, HOME: profile } }));
  const { promise, resolve } = Promise.withResolvers<string>();
  void (async () => {
    let said = "";
    for await (const bytes of child.stderr) {
      said = (said + new TextDecoder().decode(bytes)).slice(-10_000); // read to the end, or the pipe runs full
      const found = /WebDriver BiDi listening on (\S+)/.exec(said)?.[1];
      if (found !== undefined) resolve(found);
    }
  })();
  return { address: await within(60_000, "Firefox says where it listens", promise), kill: () => child.kill("SIGKILL") };
}

class FirefoxTab implements Tab {
  readonly #session: Session;
  readonly #context: string;

  constructor(session: Session, context: string) {
    this.#session = session;
    this.#context = context;
  }

  async goto(url: string): Promise<void> {
    await this.#session.send("browsingContext.navigate", { context: this.#context, url, wait: "complete" });
  }

  async reload(): Promise<void> {
    await this.#session.send("browsingContext.reload", { context: this.#context, wait: "complete" });
  }

  async evaluate<T>(expression: string): Promise<T> {
    const { result, exceptionDetails } = await this.#session.send("script.evaluate", {
      expression: `(async () => JSON.stringify(await (${expression})))()`,
      target: { context: this.#context },
      awaitPromise: true,
    });
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.text}`);
    return JSON.parse(result.value ?? "null");
  }

  async close(): Promise<void> {
    await this.#session.send("browsingContext.close", { context: this.#context });
  }
}

/** @param preferences of about:config */
export function firefox(preferences: object = {}): Engine {
  let running: Promise<{ session: Session; kill: () => void }> | undefined;
  const start = async () => {
    const { address, kill } = await launch(preferences);
    return { session: await Session.open(address), kill };
  };
  return {
    name: "firefox",
    async newVisitor(): Promise<VisitorBrowser> {
      const { session } = await (running ??= start());
      const { userContext } = await session.send("browser.createUserContext", {});
      return {
        async newTab() {
          const { context } = await session.send("browsingContext.create", { type: "tab", userContext });
          return new FirefoxTab(session, context);
        },
        async close() {
          await session.send("browser.removeUserContext", { userContext });
        },
      };
    },
    async end() {
      (await running)?.kill();
      running = undefined;
    },
  };
}
