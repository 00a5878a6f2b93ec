/** Statements that are run often. To prepare a statement takes about as long as to run it, so each one is prepared once. */

import type { DatabaseSync, StatementSync } from "node:sqlite";

const prepared = new WeakMap<DatabaseSync, Map<string, StatementSync>>();

/** The statement for an SQL text that never changes. */
export function statement(database: DatabaseSync, sql: string): StatementSync {
  return prepared.get(database)?.get(sql) ?? prepare(database, sql);
}

function prepare(database: DatabaseSync, sql: string): StatementSync {
  const statements = prepared.get(database) ?? new Map<string, StatementSync>();
  const made = database.prepare(sql);
  prepared.set(database, statements.set(sql, made));
  return made;
}
