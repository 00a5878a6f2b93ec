/** A site of a node over a link that answers what a test says. */
import type { ClusterRoom } from "../../engine/engine.ts";
import { durationsOf } from "../../engine/options.ts";
import { type Script, SYNC } from "../../engine/scripts.ts";
import { SharedSite } from "../../engine/site.ts";
import { quiet } from "../support/unit.ts";

export const SITE = "a.example";
export const LEASE_MS = 200; // a site settles after 80 ms
export const OLD = 60_000; // the age of an epoch that all nodes know

/** A call of SYNC or REAP, read as the script reads it. */
interface Call {
  readonly script: "SYNC" | "REAP";
  readonly node: string;
  readonly batch: number;
  readonly claims: string[];
  readonly changes: string[];
  readonly pages: string[];
}

/** An answer of SYNC. Without `published` a message has told all versions. */
export const answer = (
  totals: (string | number)[],
  {
    version = 1,
    published = -1,
    waitMs = 0,
    ageMs = OLD,
    epoch = "1",
    expired = [] as string[],
    claimed = [] as number[],
  } = {},
) => [claimed, epoch, ageMs, version, published < 0 ? version : published, waitMs, expired, totals];

/** The answer of SYNC to a node that must begin anew. */
export const UNKNOWN = [[]];

function readCall({ lua }: Script, keys: readonly string[], args: readonly (string | number)[]): Call {
  const [node, batch, , , , , , , count] = args;
  const script = lua === SYNC.lua ? "SYNC" : "REAP";
  const list = script === "SYNC" ? args.slice(9).map(String) : [];
  const changes = list.slice(0, Number(count));
  return {
    script,
    node: String(node),
    batch: Number(batch),
    claims: keys.slice(6),
    changes,
    pages: list.slice(changes.length),
  };
}

/** A site, the calls that it made, and the totals that it reported last. */
export function setUp() {
  const calls: Call[] = [];
  const answers: unknown[] = [];
  const totals = new Map<string, number>();
  let missing = 0;
  const link = {
    isAway: true, // then the site syncs only when a test says so
    answeringMs: OLD,
    run: async (script: Script, keys: readonly string[], args: readonly (string | number)[]) => {
      const call = readCall(script, keys, args);
      calls.push(call);
      const next = call.script === "SYNC" ? (answers.shift() ?? answer([])) : [0, 0];
      if (next instanceof Error) throw next;
      return next;
    },
  };
  const site = new SharedSite(
    SITE,
    {
      link,
      durations: durationsOf(LEASE_MS),
      log: quiet,
      prefix: "",
      claimer: { name: "me", ttlMs: 1_000 },
      channel: "",
    },
    {
      total: (room, total) => void totals.set(room.page ?? "", total),
      staleChanged: quiet,
      messagesMissing: () => void (missing += 1),
      emptied: quiet,
    },
  );
  const room = (page: string | undefined, ...visitors: string[]): ClusterRoom => ({
    site: SITE,
    page,
    members: new Map(visitors.map((visitor) => [visitor, 1])),
  });
  /** Opens a room with visitors. */
  const open = (page: string | undefined, ...visitors: string[]): ClusterRoom => {
    const opened = room(page, ...visitors);
    site.opened(opened);
    for (const visitor of visitors) site.changed(opened, visitor, true);
    return opened;
  };
  return { site, link, calls, answers, totals, open, missing: () => missing };
}
