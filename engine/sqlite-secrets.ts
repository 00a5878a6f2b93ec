/** Secrets in the SQLite file. Each function works inside a transaction of its caller. */

import type { DatabaseSync } from "node:sqlite";
import type { SecretKind } from "./engine.ts";

/** A row of the table `secrets`. */
export interface Secret {
  readonly kind: SecretKind;
  readonly name: string;
  readonly value: string;
}

/** For how long the key of a day is kept that is later than today. The clock may have been put back for a while. */
const LATER_DAY_MS = 2 * 86_400_000;

const SQL = {
  all: "SELECT kind, name, value FROM secrets ORDER BY kind, name",
  get: "SELECT value FROM secrets WHERE kind = ? AND name = ?",
  add: "INSERT INTO secrets (kind, name, value) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
  forgetOthers: "DELETE FROM secrets WHERE kind = ? AND name <> ?",
  forgetEarlierDays: "DELETE FROM secrets WHERE kind = 'day' AND CAST(name AS INTEGER) < ?",
  isNotLater: "UPDATE secrets SET later_since = NULL WHERE kind = 'day' AND CAST(name AS INTEGER) = ?",
  isLater: `UPDATE secrets SET later_since = min(coalesce(later_since, ?2), ?2)
    WHERE kind = 'day' AND CAST(name AS INTEGER) > ?1`,
  forgetLaterDays: "DELETE FROM secrets WHERE kind = 'day' AND later_since < ?",
  forgetLaterVisitors: `DELETE FROM day_visitors
    WHERE day > ? AND day NOT IN (SELECT CAST(name AS INTEGER) FROM secrets WHERE kind = 'day')`,
};

export const allSecrets = (database: DatabaseSync): Secret[] =>
  database.prepare(SQL.all).all().map(({ kind, name, value }) => ({ kind, name, value }) as unknown as Secret); // oxfmt-ignore

/** Adds a secret, unless there is one of this kind and name. */
export function addSecret(database: DatabaseSync, { kind, name, value }: Secret): void {
  database.prepare(SQL.add).run(kind, name, value);
}

/**
 * Keeps a secret instead of the others of its kind, unless it is there already. Returns the value that is kept.
 * @param now milliseconds since 1970
 */
export function keepSecret(database: DatabaseSync, secret: Secret, now: number): string {
  const { kind, name } = secret;
  if (kind === "day") forgetDays(database, Number(name), now);
  else database.prepare(SQL.forgetOthers).run(kind, name);
  addSecret(database, secret);
  return String(database.prepare(SQL.get).get(kind, name)?.["value"]);
}

/** Throws the keys of other days away. The key of a later day stays for a while, and with it the visitors of that day. */
function forgetDays(database: DatabaseSync, day: number, now: number): void {
  database.prepare(SQL.forgetEarlierDays).run(day);
  database.prepare(SQL.isNotLater).run(day);
  database.prepare(SQL.isLater).run(day, now);
  database.prepare(SQL.forgetLaterDays).run(now - LATER_DAY_MS);
  database.prepare(SQL.forgetLaterVisitors).run(day);
}
