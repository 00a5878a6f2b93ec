/** The options of the Redis engine, the durations that follow from them, and the names of its keys. */

import { DAY_SECONDS, type Log, type SecretKind } from "./engine.ts";

export interface Options {
  readonly tokenTtlMs: number;
  readonly log: Log;
  /** How long a node counts after its last sync. @default {10_000} */
  readonly leaseMs?: number;
  /** What all keys begin with. @default {"headcount:"} */
  readonly prefix?: string;
}

/** All durations are shares of the lease, so a test with short leases runs the same story in less time. */
export interface Durations {
  readonly leaseMs: number;
  /** The lease of a node that stops and expects its visitors to come back somewhere. */
  readonly holdLeaseMs: number;
  /** How long the keys of a site outlive its last sync. Longer than any lease. */
  readonly keyTtlMs: number;
  /** A site syncs at least this often. Two beats may fail before the lease expires. */
  readonly beatMs: number;
  /** Within this time every living node has synced once. */
  readonly settleMs: number;
  /** How long a command may take. */
  readonly commandTimeoutMs: number;
  /** How often a node looks whether something is due. */
  readonly tickMs: number;
}

export const durationsOf = (leaseMs: number): Durations => ({
  leaseMs,
  holdLeaseMs: leaseMs * 1.5,
  keyTtlMs: leaseMs * 2,
  beatMs: leaseMs * 0.3,
  settleMs: leaseMs * 0.4,
  commandTimeoutMs: leaseMs * 0.09,
  tickMs: leaseMs * 0.05,
});

export const withDefaults = (options: Options): Required<Options> => ({
  leaseMs: 10_000,
  prefix: "headcount:",
  ...options,
});

/** Who claims the nonces of tokens. */
export interface Claimer {
  /** A random name. Each nonce is claimed at most once under it. */
  readonly name: string;
  /** How long a claim is kept. */
  readonly ttlMs: number;
}

/** The key `name` of a site. The braces make a hash tag. A host name may hold braces too, so they are encoded. */
export const keyOf = (prefix: string, site: string, name: string): string =>
  `${prefix}{${site.replace(/[{}%]/g, encodeURIComponent)}}:${name}`;

/** The key that claims the nonce of a token of a site. */
export const claimKeyOf = (prefix: string, site: string, nonce: number): string =>
  keyOf(prefix, site, `spent:${nonce.toString(36)}`);

/** The site and the name of one of its keys. */
export function siteOfKey(prefix: string, key: string): { readonly site: string; readonly name: string } {
  const end = key.indexOf("}:", prefix.length);
  const site = key.slice(prefix.length + 1, end).replace(/%7B|%7D|%25/g, decodeURIComponent);
  return { site, name: key.slice(end + 2) };
}

const DAILY_SECRET_TTL_SECONDS = 2 * DAY_SECONDS;

export const secretKey = (prefix: string, kind: SecretKind, name: string): string =>
  `${prefix}secret:${kind}${name && `:${name}`}`;

/** For how long a secret is kept; undefined for ever. */
export const ttlOfSecret = (kind: SecretKind): number | undefined =>
  kind === "salt" || kind === "day" ? DAILY_SECRET_TTL_SECONDS : undefined;
