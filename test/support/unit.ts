/** The service's parts without a port, a process or real time. */
import { SqliteEngine } from "../../engine/sqlite.ts";
import { ASSETS, type Assets } from "../../edge/pages.ts";
import { type Socket } from "../../edge/runtimes.ts";
import { readSettings } from "../../edge/settings.ts";
import { type Claims } from "../../edge/tokens.ts";
import { type Clock, type Connection, createService, type Service, type Viewer } from "../../server.ts";

const TOKEN_TTL_MS = 30_000;
export const PASSWORD = "correct horse";

export const quiet = (): void => {};

/** A SQLite engine; in memory unless a folder is given. */
export const sqlite = (folder = ":memory:"): SqliteEngine =>
  SqliteEngine.open({ folder, tokenTtlMs: TOKEN_TTL_MS, log: quiet });

/** What `Rooms` fills in when it opens. */
export const viewer = (visitor: string): Viewer => ({ visitor }) as Viewer;

/** Time passes only when a test says so, or while somebody sleeps. */
export class FakeClock implements Clock {
  time = 1_000;
  chance = 0.5;

  now(): number {
    return this.time;
  }

  random(): number {
    return this.chance;
  }

  async sleep(ms: number): Promise<void> {
    this.time += ms;
  }
}

/** A socket that remembers what happened to it. */
export class FakeSocket implements Socket {
  readyState = 1;
  bufferedAmount = 0;
  readonly sent: Record<string, unknown>[] = [];
  pings = 0;
  closed: { code: number; reason: string } | undefined;
  terminated = false;
  /** How often several things were sent in one write. */
  corks = 0;

  send(text: string): void {
    this.sent.push(JSON.parse(text));
  }

  close(code: number, reason: string): void {
    this.closed = { code, reason };
    this.readyState = 3;
  }

  ping(): void {
    this.pings += 1;
  }

  cork(write: () => void): void {
    this.corks += 1;
    write();
  }

  terminate(): void {
    this.terminated = true;
    this.readyState = 3;
  }
}

const html = "<p nonce={{nonce}}>{{origin}}<a href={{root}}docs>";
const assets = Object.fromEntries(
  ASSETS.map((name) => [name, name.endsWith(".html") ? `<!-- ${name} -->${html}` : `/* ${name} */`]),
) as Assets;

/** The service as `main` builds it, over an engine in memory. */
export const testService = (environment: Record<string, string> = {}, clock?: Clock): Promise<Service> =>
  createService({
    settings: readSettings({ SITES: "example.com", ADMIN_PASSWORD: PASSWORD, ...environment }),
    engine: sqlite(),
    assets,
    ...(clock && { clock }),
  });

/** What a token for this visitor and page promises. */
export const claimsOf = (visitor: string, page = "/", isContinued = false): Claims => ({
  visitor,
  page,
  expires: 0,
  nonce: 0,
  isContinued,
});

/** A connection with its socket, as the routes and the runtime let it in. */
export function connect(
  { connections }: Service,
  visitor: string,
  page = "/",
  socket = new FakeSocket(),
): { connection: Connection; socket: FakeSocket } {
  const claims = claimsOf(visitor, page);
  const connection = connections.admit("example.com", claims, "192.0.2.1");
  connections.opened(connection, socket);
  return { connection, socket };
}
