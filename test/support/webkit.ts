/**
 * Debian's WebKitGTK over WebDriver, on a display of its own. A session is a browser with an empty profile, so each
 * visitor is a session, and a driver serves only one.
 */
import type { Engine, Tab, VisitorBrowser } from "./engines.ts";
import { adopt } from "./leftovers.ts";
import { pathOf } from "./needs.ts";
import { freePort } from "./redis.ts";
import { until, within } from "./waiting.ts";

const COMMAND_MS = 30_000;
const SCRIPT_MS = 3_000; // a script that waits when its page is left never answers

/** Starts an X server and gives the number of its display. */
async function startDisplay(): Promise<{ display: string; kill: () => void }> {
  const command = [pathOf("xvfb"), "-displayfd", "1", "-screen", "0", "1280x900x24", "-nolisten", "tcp"];
  const child = adopt(Bun.spawn(command, { stdout: "pipe", stderr: "ignore" }));
  const { promise, resolve } = Promise.withResolvers<string>();
  void (async () => {
    let said = "";
    for await (const bytes of child.stdout) {
      said += new TextDecoder().decode(bytes);
      if (said.endsWith("\n")) resolve(said.trim()); // the pipe stays open: Xvfb ends when it cannot write
    }
  })();
  const display = await within(COMMAND_MS, "Xvfb says which display it has", promise);
  return { display: `:${display}`, kill: () => child.kill() };
}

/** One browser. Commands go to the window that was chosen last, so they wait for each other. */
class Session {
  readonly #url: string;
  #last: Promise<unknown> = Promise.resolve();

  constructor(url: string) {
    this.#url = url;
  }

  async send(method: "GET" | "POST" | "DELETE", path: string, body?: object): Promise<any> {
    const answer = await fetch(this.#url + path, {
      method,
      signal: AbortSignal.timeout(COMMAND_MS),
      ...(method === "POST" && { body: JSON.stringify(body ?? {}) }),
    });
    const { value }: any = await answer.json();
    if (value?.error) throw new Error(`WebKit refuses ${path}: ${value.error}, ${value.message}`);
    return value;
  }

  /** Runs the commands with this window chosen, after those of others. */
  in<T>(handle: string, commands: () => Promise<T>): Promise<T> {
    const mine = this.#last.then(async () => {
      await this.send("POST", "/window", { handle });
      return commands();
    });
    this.#last = mine.catch(() => {}); // whoever called has the failure
    return mine;
  }

  newWindow(): Promise<{ handle: string }> {
    const mine = this.#last.then(() => this.send("POST", "/window/new", { type: "tab" }));
    this.#last = mine.catch(() => {}); // whoever called has the failure
    return mine;
  }
}

class WebKitTab implements Tab {
  readonly #session: Session;
  readonly #handle: string;

  constructor(session: Session, handle: string) {
    this.#session = session;
    this.#handle = handle;
  }

  goto(url: string): Promise<void> {
    return this.#in(() => this.#session.send("POST", "/url", { url }));
  }

  reload(): Promise<void> {
    return this.#in(() => this.#session.send("POST", "/refresh"));
  }

  async evaluate<T>(expression: string): Promise<T> {
    const script = `
      const done = arguments[0];
      Promise.resolve().then(() => (${expression})).then(
        (value) => done(JSON.stringify({ value })),
        (error) => done(JSON.stringify({ error: String(error) })),
      );`;
    const text = await this.#in(() => this.#session.send("POST", "/execute/async", { script, args: [] }));
    const { value, error } = JSON.parse(text);
    if (error !== undefined) throw new Error(`${expression}: ${error}`);
    return value;
  }

  close(): Promise<void> {
    return this.#in(() => this.#session.send("DELETE", "/window"));
  }

  #in<T>(commands: () => Promise<T>): Promise<T> {
    return this.#session.in(this.#handle, commands);
  }
}

/** A driver of its own with one session. */
async function startSession(
  display: string,
  environment: Record<string, string>,
): Promise<{ session: Session; end: () => Promise<void> }> {
  const port = await freePort();
  const env = {
    ...process.env,
    DISPLAY: display,
    GDK_BACKEND: "x11",
    LANG: "en_US.UTF-8",
    NO_AT_BRIDGE: "1",
    ...environment,
  };
  const command = [pathOf("webkit2gtk-driver"), "--host=127.0.0.1", `--port=${port}`];
  const child = adopt(Bun.spawn(command, { stdout: "ignore", stderr: "ignore", env }));
  const driver = `http://127.0.0.1:${port}`;
  const isReady = () =>
    fetch(`${driver}/status`).then(
      ({ ok }) => ok,
      () => false,
    );
  await until("WebKitWebDriver listens", isReady, 20_000);
  const answer = await fetch(`${driver}/session`, {
    method: "POST",
    signal: AbortSignal.timeout(COMMAND_MS),
    body: JSON.stringify({
      capabilities: { alwaysMatch: { acceptInsecureCerts: true, timeouts: { script: SCRIPT_MS } } },
    }),
  });
  const { value }: any = await answer.json();
  if (!value.sessionId) throw new Error(`WebKit starts no session: ${JSON.stringify(value)}`);
  const session = new Session(`${driver}/session/${value.sessionId}`);
  return {
    session,
    async end() {
      await session.send("DELETE", "");
      child.kill("SIGKILL");
    },
  };
}

/** @param environment variables for the browser, such as LANG */
export function webkit(environment: Record<string, string> = {}): Engine {
  let running: ReturnType<typeof startDisplay> | undefined;
  const open = new Set<() => Promise<void>>();
  return {
    name: "webkit",
    async newVisitor(): Promise<VisitorBrowser> {
      const { display } = await (running ??= startDisplay());
      const { session, end } = await startSession(display, environment);
      open.add(end);
      let unused: string | undefined = await session.send("GET", "/window");
      return {
        async newTab() {
          const handle = unused ?? (await session.newWindow()).handle;
          unused = undefined;
          return new WebKitTab(session, handle);
        },
        async close() {
          open.delete(end);
          await end();
        },
      };
    },
    async end() {
      await Promise.all(Array.from(open, (end) => end()));
      open.clear();
      (await running)?.kill();
      running = undefined;
    },
  };
}
