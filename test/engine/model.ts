/** A naive model of who is online, and random histories of people that real nodes and the model go through alike. */
import * as fc from "fast-check";
import type { Engine } from "../../engine/engine.ts";
import { Rooms, type Viewer } from "../../server.ts";
import { viewer } from "../support/unit.ts";

export const SITES = ["a.example", "b.example"];
export const PAGES = ["/", "/two", "/drei ß"];
const VISITORS = ["ann", "ben", "cid", "dan", "eve"];

/** Somebody who has a page open on a node. */
interface OpenPage {
  readonly node: number;
  readonly visitor: string;
  readonly site: string;
  page: string;
}

/** A node without sockets: its engine, its rooms, and the connections that are open there. */
export interface TestNode {
  readonly engine: Engine;
  readonly rooms: Rooms;
  readonly connections: Viewer[];
}

/** What people do. */
export type PeopleStep =
  | { do: "enter"; node: number; visitor: string; site: string; page: string }
  | { do: "leave" | "move"; which: number; page: string };

/** Who has which pages open on which node, and nothing else. */
export class Model {
  readonly open: OpenPage[] = [];

  count(site: string, page?: string): number {
    const there = this.open.filter((one) => one.site === site && (page === undefined || one.page === page));
    return new Set(there.map(({ visitor }) => visitor)).size;
  }

  forget(node: number): void {
    for (const one of this.open.filter((other) => other.node === node)) this.open.splice(this.open.indexOf(one), 1);
  }

  /** Member of a site → on how many nodes, as Redis keeps it. */
  refs(site: string): Record<string, string> {
    const nodes = new Map<string, Set<number>>();
    for (const one of this.open.filter((other) => other.site === site))
      for (const member of [one.visitor, `${one.visitor} ${one.page}`])
        nodes.set(member, (nodes.get(member) ?? new Set()).add(one.node));
    return Object.fromEntries(Array.from(nodes, ([member, on]) => [member, String(on.size)]));
  }

  /** "site page" → count, without zeros. */
  get counts(): Record<string, number> {
    const all = SITES.flatMap((site) =>
      [undefined, ...PAGES].map((page) => [`${site} ${page ?? ""}`, this.count(site, page)] as const),
    );
    return Object.fromEntries(all.filter(([, count]) => count > 0));
  }
}

/** The time of all rooms. */
let now = 1_000;

/** Lets time pass for the rooms. They have no grace: whoever left is gone after one tick. */
export function tick(rooms: Rooms, ms = 51): void {
  now += ms;
  rooms.tick(now);
}

export function open({ rooms, connections }: TestNode, visitor: string, site: string, page: string): void {
  const connection = viewer(visitor);
  rooms.open(connection, site, page, now);
  connections.push(connection);
  tick(rooms);
}

export function closeAll({ rooms, connections }: TestNode): void {
  for (const connection of connections.splice(0)) rooms.close(connection, now);
  tick(rooms);
}

/** Counts visitors who were online before a restart. */
export async function hold({ engine, rooms }: TestNode, ms: number): Promise<void> {
  for (const member of await engine.held("signer")) rooms.hold(member, now + ms, now);
}

/** What people do, in the model and on its nodes. */
export function act(step: PeopleStep, model: Model, nodes: readonly TestNode[]): void {
  if (step.do === "enter") {
    const { node, visitor, site, page } = step;
    open(nodes[node]!, visitor, site, page);
    model.open.push({ node, visitor, site, page });
    return;
  }
  if (model.open.length === 0) return;
  const one = model.open[step.which % model.open.length]!;
  const { rooms, connections } = nodes[one.node]!;
  const connection = connections.find(
    ({ visitor, site, room }) => visitor === one.visitor && site.room.site === one.site && room.page === one.page,
  )!;
  if (step.do === "move" && step.page !== one.page) {
    rooms.move(connection, step.page, now);
    one.page = step.page;
  } else if (step.do === "leave") {
    rooms.close(connection, now);
    connections.splice(connections.indexOf(connection), 1);
    model.open.splice(model.open.indexOf(one), 1);
  }
  tick(rooms);
}

/** Random people on so many nodes. */
export const people = (nodes: number): fc.WeightedArbitrary<PeopleStep>[] => [
  {
    weight: 12,
    arbitrary: fc.record({
      do: fc.constant("enter" as const),
      node: fc.nat(nodes - 1),
      visitor: fc.constantFrom(...VISITORS),
      site: fc.constantFrom(...SITES),
      page: fc.constantFrom(...PAGES),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constantFrom("leave" as const, "leave" as const, "move" as const),
      which: fc.nat(99),
      page: fc.constantFrom(...PAGES),
    }),
  },
];
