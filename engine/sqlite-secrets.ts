/**
 * Secrets in the SQLite file. Each function works inside a transaction of its caller.
 *
 * The table has one row per kind, and one per day for the keys of days (kind `day 20345`). It was made first and is never
 * made anew, so it stays at the start of the file, and damage further on costs no secrets.
 */

import type { DatabaseSync } from "node:sqlite";
import { DAY_MS, type SecretKind } from "./engine.ts";

export interface Secret {
  readonly kind: SecretKind;
  readonly name: string;
  readonly value: string;
}

/** For how long the key of a day is kept that is later than today. The clock may have been put back for a while. */
const LATER_DAY_MS = 2 * DAY_MS;

const IS_DAY = "kind LIKE 'day %'";
const DAY = "CAST(name AS INTEGER)";

const SQL = {
  all: "SELECT kind, name, value FROM secrets NOT INDEXED", // the index may be broken where the table is not
  get: "SELECT value FROM secrets WHERE kind = ?",
  add: "INSERT INTO secrets (kind, name, value) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
  keep: `INSERT INTO secrets (kind, name, value) VALUES (?1, ?2, ?3)
    ON CONFLICT DO UPDATE SET name = ?2, value = ?3 WHERE name <> ?2`,
  replace: "INSERT OR REPLACE INTO secrets (kind, name, value) VALUES (?, ?, ?)",
  forgetEarlierDays: `DELETE FROM secrets WHERE ${IS_DAY} AND ${DAY} < ?`,
  isNotLater: `UPDATE secrets SET later_since = NULL WHERE ${IS_DAY} AND ${DAY} = ?`,
  isLater: `UPDATE secrets SET later_since = min(coalesce(later_since, ?2), ?2) WHERE ${IS_DAY} AND ${DAY} > ?1`,
  forgetLaterDays: "DELETE FROM secrets WHERE later_since < ?",
  forgetLaterVisitors: `DELETE FROM day_visitors
    WHERE day > ? AND day NOT IN (SELECT ${DAY} FROM secrets WHERE ${IS_DAY})`,
};

const rowOf = ({ kind, name, value }: Secret) => [kind === "day" ? `day ${name}` : kind, name, value] as const;

/** All secrets, by kind and name. */
export function allSecrets(database: DatabaseSync): Secret[] {
  const rows = database.prepare(SQL.all).all() as unknown as Secret[];
  const ordered = rows.toSorted((a, b) => (a.kind < b.kind ? -1 : 1));
  return ordered.map(({ kind, name, value }) => ({ kind: kind.startsWith("day ") ? "day" : kind, name, value }));
}

/** Adds a secret, unless there is one of its kind. */
export const addSecret = (database: DatabaseSync, secret: Secret): unknown =>
  database.prepare(SQL.add).run(...rowOf(secret));

/** Puts a secret in the place of the one that is there. */
export const replaceSecret = (database: DatabaseSync, secret: Secret): unknown =>
  database.prepare(SQL.replace).run(...rowOf(secret));

/**
 * Keeps a secret, unless it is there already. Another one of its kind is thrown away. Returns the value that is kept.
 * @param now milliseconds since 1970
 */
export function keepSecret(database: DatabaseSync, secret: Secret, now: number): string {
  const row = rowOf(secret);
  database.prepare(SQL.keep).run(...row);
  if (secret.kind === "day") forgetDays(database, Number(secret.name), now);
  return String(database.prepare(SQL.get).get(row[0])?.["value"]);
}

/** Throws the keys of other days away. The key of a later day stays for a while, and with it the visitors of that day. */
function forgetDays(database: DatabaseSync, day: number, now: number): void {
  database.prepare(SQL.forgetEarlierDays).run(day);
  database.prepare(SQL.isNotLater).run(day);
  database.prepare(SQL.isLater).run(day, now);
  database.prepare(SQL.forgetLaterDays).run(now - LATER_DAY_MS);
  database.prepare(SQL.forgetLaterVisitors).run(day);
}
