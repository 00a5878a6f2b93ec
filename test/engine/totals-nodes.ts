/** Two nodes that count views and visitors over one Redis, a naive model of both, and random histories for them. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import * as fc from "fast-check";
import { RedisEngine } from "../../engine/redis.ts";
import { RecordedSites } from "../../stats/live.ts";
import { Totals } from "../../stats/totals.ts";
import { Cable, type RedisServer } from "../support/redis.ts";
import { quiet } from "../support/unit.ts";
import { until } from "../support/waiting.ts";

export const SITE = "example.com";
export const PAGES = ["/a", "/b"];
export const NODES = 2;
const FIRST_DAY = 100;
/** Commands may take 9 % of a lease. */
const LEASE_MS = 4_000;
/** A busy machine may need several attempts. */
const HEAL_MS = 30_000;

/** Lists that remember everybody for ever. An id such as "ann-100" was minted on day 100. */
export class TotalsModel {
  readonly views: { page: string; day: number }[] = [];
  readonly visitors = new Map<number, Set<string>>();

  add(visitor: string, page: string, day: number): void {
    this.views.push({ page, day });
    this.visitors.set(day, (this.visitors.get(day) ?? new Set()).add(visitor));
  }

  numbers(page: string, day: number): Record<string, number> {
    const newcomers = Array.from(this.visitors, ([on, ids]) => [...ids].filter((id) => mintedOn(id) === on).length);
    return {
      views: this.views.filter((view) => view.page === page).length,
      total: this.views.length,
      visitors: newcomers.reduce((sum, count) => sum + count, 0),
      today: this.visitors.get(day)?.size ?? 0,
    };
  }

  get days(): { day: number; views: number; visitors: number }[] {
    const days = new Set([...this.visitors.keys()].toSorted((a, b) => a - b));
    return Array.from(days, (day) => ({
      day,
      views: this.views.filter((view) => view.day === day).length,
      visitors: this.visitors.get(day)?.size ?? 0,
    }));
  }
}

const mintedOn = (visitor: string) => Number(visitor.split("-")[1]);

/** A node without sockets, behind a cable of its own. */
export class TotalsNode {
  readonly cable: Cable;
  readonly clock: { day: number };
  readonly #engine: RedisEngine;
  readonly totals: Totals;
  readonly #awareness: { isAway: boolean };
  #now = 0;

  private constructor(cable: Cable, engine: RedisEngine, awareness: { isAway: boolean }, day: number) {
    this.cable = cable;
    this.clock = { day };
    this.#awareness = awareness;
    this.#engine = engine;
    this.totals = new Totals({
      store: engine,
      secrets: engine,
      today: () => this.clock.day,
      mintedOn,
      sites: new RecordedSites(new Set([SITE])),
      log: quiet,
    });
  }

  static async start(redis: RedisServer, day: number): Promise<TotalsNode> {
    const cable = await Cable.lay(redis.port);
    const awareness = { isAway: false };
    const log = (_level: string, event: string) => {
      if (event.startsWith("Redis is")) awareness.isAway = event.startsWith("Redis is away");
    };
    const engine = await RedisEngine.open(cable.url, { tokenTtlMs: 30_000, log, leaseMs: LEASE_MS });
    const node = new TotalsNode(cable, engine, awareness, day);
    await until("Redis has given the key of the day", () => node.record(), HEAL_MS);
    return node;
  }

  /** Whether the node has noticed that Redis is away. */
  get isAway(): boolean {
    return this.#awareness.isAway;
  }

  async view(visitor: string, page: string): Promise<void> {
    await this.totals.countVisitor(SITE, visitor);
    this.totals.countView(SITE, page);
  }

  /** What happens every 5 s. True when Redis took the views, and all visitors who waited. */
  async record(): Promise<boolean> {
    const views = this.totals.takeViews();
    try {
      await this.#engine.record({ readings: [], peaks: [], views });
      this.totals.viewsStored(views);
      const { failures } = this.totals;
      await this.totals.countWaiting(); // never rejects
      return this.totals.failures === failures;
    } catch {
      this.totals.giveBackViews(views);
      return false;
    }
  }

  /** What a page is told, once all of it is known. */
  numbers(page: string): Promise<Record<string, number | undefined>> {
    return until("Redis answers", async () => {
      this.#now += 10_000;
      await this.totals.refresh(SITE, page, this.#now);
      const numbers = { ...this.totals.numbers(SITE, page) };
      return Object.values(numbers).includes(undefined) ? undefined : numbers;
    });
  }

  days(): Promise<{ day: number; views: number; visitors: number }[]> {
    return until("Redis answers", () => this.#engine.days(SITE, 0).catch(() => undefined)); // it may be slow now
  }

  async close(): Promise<void> {
    await this.#engine.close();
    this.cable.remove();
  }
}

export type TotalsStep =
  | { do: "view"; node: number; visitor: string; page: string }
  | { do: "record" | "restart" | "cut" | "mend" | "yesterday"; node: number }
  | { do: "midnight" | "freeze" | "thaw" | "kill" | "begin" | "flush" | "empty" | "save" | "old" };

const nodes = fc.nat(NODES - 1);

export const views: fc.WeightedArbitrary<TotalsStep> = {
  weight: 12,
  arbitrary: fc.record({
    do: fc.constant("view" as const),
    node: nodes,
    visitor: fc
      .tuple(fc.constantFrom("ann", "ben", "cid", "dan"), fc.integer({ min: FIRST_DAY - 1, max: FIRST_DAY + 2 }))
      .map(([name, day]) => `${name}-${day}`),
    page: fc.constantFrom(...PAGES),
  }),
};

/** Steps of a node. */
export const onNode = (weight: number, ...names: ("record" | "restart" | "cut" | "mend" | "yesterday")[]) => ({
  weight,
  arbitrary: fc.record({ do: fc.constantFrom(...names), node: nodes }),
});

/** Steps of all. */
export const onAll = (
  weight: number,
  ...names: ("midnight" | "freeze" | "thaw" | "kill" | "begin" | "flush" | "empty" | "save" | "old")[]
) => ({ weight, arbitrary: fc.record({ do: fc.constantFrom(...names) }) });

/** One history: the nodes, their Redis, and the model that goes through the same. */
export class TotalsHistory {
  readonly model = new TotalsModel();
  readonly #redis: RedisServer;
  readonly #nodes: TotalsNode[];
  #day = FIRST_DAY;
  #isRunning = true;
  #isFrozen = false;

  private constructor(redis: RedisServer, members: TotalsNode[]) {
    this.#redis = redis;
    this.#nodes = members;
  }

  static async start(redis: RedisServer): Promise<TotalsHistory> {
    rmSync(join(redis.folder, "dump.rdb"), { force: true });
    await redis.client.flushall();
    const members = await Promise.all(Array.from({ length: NODES }, () => TotalsNode.start(redis, FIRST_DAY)));
    return new TotalsHistory(redis, members);
  }

  async do(step: TotalsStep): Promise<void> {
    switch (step.do) {
      case "view":
        this.model.add(step.visitor, step.page, this.#nodes[step.node]!.totals.day);
        return this.#nodes[step.node]!.view(step.visitor, step.page);
      case "record":
        return void (await this.#nodes[step.node]!.record());
      case "restart":
        return this.#restart(step.node);
      case "cut":
        return this.#nodes[step.node]!.cable.cut();
      case "mend":
        return this.#nodes[step.node]!.cable.mend();
      case "yesterday": // until midnight, the clock of the node is wrong
        this.#nodes[step.node]!.clock.day = this.#day - 1;
        return;
      case "midnight":
        return this.#midnight();
      default:
        return this.#doToRedis(step.do);
    }
  }

  /** Ends all faults, and waits until Redis has everything. */
  async heal(): Promise<void> {
    this.#thaw();
    await this.#begin();
    for (const { cable } of this.#nodes) cable.mend();
    // The first call may only confirm what was sent before; the second one sends what is left.
    for (let time = 0; time < 2; time += 1)
      for (const node of this.#nodes) await until("Redis takes everything", () => node.record(), HEAL_MS);
  }

  /** What any node, or its history of days, tells otherwise than the model. Call it after `heal`. */
  async differences(differs: (shown: unknown, expected: unknown) => boolean): Promise<unknown[]> {
    const found: unknown[] = [];
    for (const node of this.#nodes) {
      const { day } = node.totals;
      for (const page of PAGES) {
        const [shown, expected] = [await node.numbers(page), this.model.numbers(page, day)];
        if (differs(shown, expected)) found.push({ page, shown, expected });
      }
      const [shown, expected] = [await node.days(), this.model.days];
      if (differs(shown, expected)) found.push({ shown, expected });
    }
    return found;
  }

  async end(): Promise<void> {
    this.#thaw();
    await this.#begin();
    await Promise.all(this.#nodes.map((node) => node.close()));
  }

  /** SIGTERM writes everything. */
  async #restart(index: number): Promise<void> {
    await this.heal();
    const key = `headcount:secret:day:${this.#day}`;
    await until("other nodes have put the secret back", () => this.#redis.client.exists(key)); // at their next beat
    await this.#nodes[index]!.close();
    this.#nodes[index] = await TotalsNode.start(this.#redis, this.#nodes[index]!.clock.day);
  }

  /** Some seconds around midnight. All nodes go by the clock of Redis. */
  async #midnight(): Promise<void> {
    for (const node of this.#nodes) await node.record();
    this.#day += 1;
    for (const node of this.#nodes) {
      node.clock.day = this.#day;
      await node.record();
    }
  }

  async #doToRedis(step: "freeze" | "thaw" | "kill" | "begin" | "flush" | "empty" | "save" | "old"): Promise<void> {
    if (step === "freeze" && this.#isRunning) {
      this.#redis.freeze();
      this.#isFrozen = true;
      return;
    }
    this.#thaw();
    if (step === "begin") return this.#begin();
    if (!this.#isRunning) return;
    if (step === "save") await this.#redis.client.save();
    if (step === "flush") await this.#redis.client.flushall();
    if (step === "kill") {
      await this.#redis.client.save(); // nothing is lost
      await this.#redis.kill();
      this.#isRunning = false;
    }
    if (step === "empty") rmSync(join(this.#redis.folder, "dump.rdb"), { force: true });
    if (step === "empty" || step === "old") {
      await this.#redis.kill();
      await until("nodes notice", () => this.#nodes.every((node) => node.isAway)); // nothing is on its way
      await this.#redis.begin();
    }
  }

  #thaw(): void {
    if (this.#isFrozen) this.#redis.thaw();
    this.#isFrozen = false;
  }

  async #begin(): Promise<void> {
    if (!this.#isRunning) await this.#redis.begin();
    this.#isRunning = true;
  }
}
