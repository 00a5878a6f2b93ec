/** Network links that a test can cut. */
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import type { Connection } from "./client.ts";
import { atTheEnd } from "./leftovers.ts";

const ignoreAll = { stdin: "ignore", stdout: "ignore", stderr: "ignore" } as const;
/** Asynchronous, because a dozen of these take seconds on a busy machine, and other tests run meanwhile. */
const run = async (...command: string[]): Promise<boolean> => (await Bun.spawn(command, ignoreAll).exited) === 0;

/** A network link to a service. It can be cut for one connection, so that neither side receives a FIN or a RST. */
export interface Link {
  /** The command that the service has to be started with, and its address behind the link. */
  readonly wrapper: string[];
  readonly host: string;
  readonly name: string;
  /** The URL for visitors of a service that listens at `url`. */
  to(url: string): Promise<string>;
  cut(connection: Connection): Promise<void>;
}

let namespaces = 0;

/** A network namespace with a firewall, where this user may make one, otherwise a TCP proxy. */
export async function makeLink(): Promise<Link> {
  const id = `hc${process.pid % 1_000_000}x${namespaces++}`;
  const net = `10.${200 + Math.floor(Math.random() * 50)}.${Math.floor(Math.random() * 256)}`;
  const [here, there] = [`${net}.1`, `${net}.2`];
  const wrapper = ["ip", "netns", "exec", id];
  const steps = [
    `ip netns add ${id}`,
    `ip link add ${id} type veth peer name up0 netns ${id}`,
    `ip addr add ${here}/30 dev ${id}`,
    `ip link set ${id} up`,
    `ip -n ${id} addr add ${there}/30 dev up0`,
    `ip -n ${id} link set up0 up`,
    `ip -n ${id} link set lo up`,
    `ip netns exec ${id} iptables -L -n`,
  ];
  atTheEnd(() => Bun.which("ip", { PATH: toolPath }) && Bun.spawnSync(["ip", "netns", "del", id], ignoreAll));
  if (Bun.which("ip", { PATH: toolPath }) === null) return new StallingProxy();
  for (const step of steps) if (!(await run(...step.split(" ")))) return new StallingProxy();
  const drop = async (...packets: string[]): Promise<void> => {
    if (!(await run(...wrapper, "iptables", "-A", ...packets, "-j", "DROP"))) throw new Error("Cannot drop packets");
  };
  return {
    wrapper,
    host: there,
    name: "packets dropped both ways in a network namespace",
    to: (url) => Promise.resolve(url),
    cut: async ({ port }) => {
      // Only on the link's interface: behind it, nginx may talk to the service from a port of the same number.
      await drop("INPUT", "-i", "up0", "-p", "tcp", "--sport", String(port));
      await drop("OUTPUT", "-o", "up0", "-p", "tcp", "--dport", String(port));
    },
  };
}

const toolPath = [process.env["PATH"], "/usr/sbin", "/sbin"].join(":");

/** Forwards bytes until a connection is cut. Then neither side receives anything, and both stay connected. */
class StallingProxy implements Link {
  readonly wrapper = [];
  readonly host = "127.0.0.1";
  readonly name = "a TCP proxy that stops forwarding";
  readonly #server: Server = createServer({ allowHalfOpen: true });
  readonly #pairs = new Map<number, [Socket, Socket]>();

  async to(url: string): Promise<string> {
    const { protocol, hostname, port } = new URL(url);
    this.#server.on("connection", (near: Socket) => {
      const far = connect({ host: hostname, port: Number(port) });
      this.#pairs.set(near.remotePort ?? 0, [near, far]);
      near.pipe(far).pipe(near);
      near.on("error", () => far.destroy());
      far.on("error", () => near.destroy());
    });
    atTheEnd(() => this.#server.close());
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `${protocol}//127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async cut({ port }: Connection): Promise<void> {
    const [near, far] = this.#pairs.get(port) ?? [];
    if (!near || !far) throw new Error("Cannot find the link to cut");
    near.unpipe(far).pause();
    far.unpipe(near).pause();
  }
}
