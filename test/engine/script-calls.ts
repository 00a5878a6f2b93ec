/** The scripts of a site on a real Redis, called as nodes call them. */
import type { Redis } from "ioredis";
import { keyOf } from "../../engine/options.ts";
import { MESSAGE_GAP_MS, REAP, REPAIR, type Script, SYNC } from "../../engine/scripts.ts";
import { until } from "../support/waiting.ts";

export const LEASE_MS = 10_000;
const KEY_TTL_MS = 20_000;
const PREFIX = "headcount:";

let sites = 0;

/** What SYNC answers, by names. The node must begin anew when only claims are answered. */
interface Answer {
  readonly claimed: number[];
  readonly version: number;
  readonly published: number;
  readonly waitMs: number;
  readonly expired: string[];
  readonly totals: (string | number)[];
}

export function answerOf(reply: unknown): Answer {
  const [claimed, , , version, published, waitMs, expired, totals] = reply as [
    ...[number[], string, number, number, number, number, string[], (string | number)[]],
  ];
  return { claimed, version, published, waitMs, expired, totals };
}

/** Calls of the nodes of a site. Unless it is named, the site is a new one. */
export class ScriptCalls {
  readonly client: Redis;
  readonly site: string;
  readonly channel: string;

  constructor(client: Redis, site?: string) {
    sites += 1;
    this.client = client;
    this.site = site ?? `site-${sites}.example`;
    this.channel = site === undefined ? `channel of ${this.site}` : `${PREFIX}0`;
  }

  readonly key = (name: string): string => keyOf(PREFIX, this.site, name);

  readonly sync = (node: string, batch: number, changes: string[], pages: string[] = [], nonces: string[] = []) => {
    const head = [node, batch, LEASE_MS, KEY_TTL_MS, this.channel, this.site, `claimer ${node}`, 60_000];
    const claims = nonces.map((nonce) => this.key(`spent:${nonce}`));
    return this.#run(SYNC, node, [...head, changes.length, ...changes, ...pages], claims);
  };

  readonly reap = (node: string, size = 1_000, isOwn = 0) =>
    this.#run(REAP, node, [node, isOwn, size, KEY_TTL_MS, this.channel, this.site]);

  readonly repair = (node: string) => this.#run(REPAIR, node, []);

  readonly total = async (page = "") => Number(await this.client.hget(this.key("totals"), page));

  readonly version = async () => Number(await this.client.hget(this.key("meta"), "version"));

  /** From now on the site has no credit for a message, as if many had been sent. */
  async beBusy(): Promise<void> {
    const [seconds = 0, microseconds = 0] = (await this.client.time()).map(Number);
    const nowMs = seconds * 1_000 + Math.floor(microseconds / 1_000);
    await this.client.hset(this.key("meta"), "next message", nowMs + 4 * MESSAGE_GAP_MS); // three gaps of credit, and one
  }

  /** Syncs changes, one after the other, until one must wait to be published. Returns its answer, and how many were sent. */
  async syncUntilWaiting(node: string, firstBatch: number, change: (index: number) => string) {
    let sent = 0;
    let answer: Answer | undefined;
    await until("a change must wait", async () => {
      await this.beBusy();
      answer = answerOf(await this.sync(node, firstBatch + sent, [change(sent)]));
      sent += 1;
      return answer.waitMs > 0;
    });
    return { ...answer!, sent };
  }

  /** The messages from now on. */
  async listen(): Promise<unknown[][]> {
    const messages: unknown[][] = [];
    const subscriber = this.client.duplicate({ retryStrategy: () => null }); // it ends with the Redis
    subscriber.on("message", (_channel: string, text: string) => messages.push(JSON.parse(text)));
    await subscriber.subscribe(this.channel);
    return messages;
  }

  #run({ lua }: Script, node: string, args: (string | number)[], more: string[] = []): Promise<unknown> {
    const keys = ["nodes", "meta", "refs", "totals", "dirty", `n:${node}`].map(this.key).concat(more);
    return this.client.eval(lua, keys.length, ...keys, ...args);
  }
}
