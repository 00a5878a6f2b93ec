/**
 * The SQLite file: private, used by one write at a time, and replaced when it is broken.
 *
 * SQLite runs in the thread that counts visitors. A long write therefore pauses every few milliseconds (`inPortions`), and
 * nothing reads all of the file: there is no check at the start. SQLite reports a damaged page when it reads the page. Then
 * the file is set aside, and a new one begins with the same secrets.
 *
 * A copy of the folder is a backup: once a minute, and at the end, everything moves from the write-ahead log to
 * `headcount.db`. That file changes at no other time, except when the log has grown to 4 MB. A copy that was made during
 * such a moment may be broken; `sqlite3 headcount.db "VACUUM INTO 'copy.db'"` makes one that never is.
 */

import { chmodSync, closeSync, existsSync, mkdirSync, openSync, renameSync } from "node:fs";
import { dirname } from "node:path";
import type { DatabaseSync } from "node:sqlite";
import { ImportRefusal, type Log, messageOf } from "./engine.ts";
import { migrate, NewerFileError } from "./sqlite-schema.ts";
import { addSecret, allSecrets, type Secret } from "./sqlite-secrets.ts";

/** Imported here, and not above, so that a bundle on a runtime without it can still say that this is the wrong runtime. */
const sqlite = await import("node:sqlite");

const MEMORY = ":memory:";
const SIDE_FILES = ["", "-journal", "-wal", "-shm"];
/** The journal tries again later. A longer wait for a lock would delay everybody's counts. */
const LOCK_WAIT_MS = 50;
const CHECKPOINT_MS = 60_000;
/** Then the disk is to blame rather than the file, and another copy of the file helps nobody. */
const MAX_FILES_SET_ASIDE = 5;

const SETTINGS = `
  PRAGMA busy_timeout = ${LOCK_WAIT_MS};
  PRAGMA cell_size_check = ON; -- finds more damage when a page is read
  PRAGMA journal_mode = WAL;
  PRAGMA synchronous = NORMAL`;

/** Whether the folder or the file is not writable, or cannot be made, until its owner changes something. */
const isForbidden = (error: unknown): boolean =>
  /EACCES|EPERM|EROFS|EEXIST|ENOTDIR|EISDIR|readonly database/.test(messageOf(error));
const isBroken = (error: unknown): boolean => /malformed|not a database/.test(messageOf(error));

export class SqliteFile {
  failures = 0;
  readonly #path: string;
  readonly #log: Log;
  /** undefined until it is first used, and after a failure: the next use opens the file again. */
  #database: DatabaseSync | undefined;
  #lastTransaction: Promise<unknown> = Promise.resolve();
  #nextCheckpointAt = 0;
  #filesSetAside = 0;
  /** The secrets of a file that is gone, for the next one. */
  #rescuedSecrets: Secret[] = [];

  private constructor(path: string, log: Log) {
    this.#path = path;
    this.#log = log;
  }

  /**
   * Opens the file, and makes it where there is none. A file that is locked or broken, or on a full disk, is tried again at
   * each use.
   * @throws {Error} when a newer version of the service wrote the file, or this process may not write to it
   */
  static open(path: string, log: Log): SqliteFile {
    const file = new SqliteFile(path, log);
    try {
      file.#use();
    } catch (error) {
      if (error instanceof NewerFileError || isForbidden(error)) throw file.#failureOf(error);
      // deliberate: whoever needs the file first reports the failure
    }
    return file;
  }

  /**
   * Reads something. While a write pauses, this sees what was written so far.
   * @throws {Error} when the file cannot be used
   */
  async read<Result>(work: (database: DatabaseSync) => Result): Promise<Result> {
    try {
      return work(this.#use());
    } catch (error) {
      throw this.#failureOf(error);
    }
  }

  /**
   * Does the work in one transaction. Writes wait for each other.
   * @throws {ImportRefusal} when the work refuses; then nothing was changed
   * @throws {Error} when the file cannot be used; then nothing was changed
   */
  write<Result>(work: (database: DatabaseSync) => Result | Promise<Result>): Promise<Result> {
    return this.#inTurn("BEGIN IMMEDIATE", work);
  }

  /**
   * Reads several things as they are at one moment. Other processes may write meanwhile.
   * @throws {Error} when the file cannot be used
   */
  readAtOnce<Result>(work: (database: DatabaseSync) => Result): Promise<Result> {
    return this.#inTurn("BEGIN", work);
  }

  /** Ends when all transactions have ended. */
  async close(): Promise<void> {
    await this.#lastTransaction;
    if (this.#database !== undefined) this.#checkpoint(this.#database);
    this.#database?.close();
    this.#database = undefined;
  }

  #inTurn<Result>(begin: string, work: (database: DatabaseSync) => Result | Promise<Result>): Promise<Result> {
    const turn = this.#lastTransaction.then(() => this.#transact(begin, work));
    this.#lastTransaction = turn.catch(() => {}); // the caller gets the error
    return turn;
  }

  async #transact<Result>(begin: string, work: (database: DatabaseSync) => Result | Promise<Result>): Promise<Result> {
    try {
      this.#noticeDeletion();
      const database = this.#use();
      database.exec(begin);
      const result = await work(database);
      database.exec("COMMIT");
      const now = performance.now();
      if (now >= this.#nextCheckpointAt) {
        this.#nextCheckpointAt = now + CHECKPOINT_MS;
        this.#checkpoint(database);
      }
      return result;
    } catch (error) {
      if (!(error instanceof ImportRefusal)) throw this.#failureOf(error);
      this.#database?.exec("ROLLBACK");
      throw error;
    }
  }

  /** Moves everything from the write-ahead log to the file. */
  #checkpoint(database: DatabaseSync): void {
    try {
      database.exec("PRAGMA wal_checkpoint(TRUNCATE)");
    } catch {
      this.failures += 1; // the log keeps everything until the next checkpoint
    }
  }

  #use(): DatabaseSync {
    while (this.#database === undefined) {
      try {
        this.#open();
      } catch (error) {
        const isSetAside = this.#setAside(error);
        this.#letGo();
        if (!isSetAside) throw error;
      }
    }
    return this.#database;
  }

  #open(): void {
    if (this.#path !== MEMORY) makePrivate(this.#path);
    this.#database = new sqlite.DatabaseSync(this.#path);
    this.#database.exec(SETTINGS);
    migrate(this.#database, () =>
      this.#log("info", "the database is brought to a newer version", { file: this.#path }),
    );
    for (const secret of this.#rescuedSecrets) addSecret(this.#database, secret);
    this.#rescuedSecrets = [];
  }

  #failureOf(error: unknown): Error {
    this.failures += 1;
    if (!this.#setAside(error)) this.#letGo(); // rolls back
    return new Error(`Cannot use ${this.#path}: ${messageOf(error)}`, { cause: error });
  }

  /** Sets the file aside if the error says that it is broken. The next use makes a new one. */
  #setAside(error: unknown): boolean {
    const isHopeless = this.#path === MEMORY || !isBroken(error) || this.#filesSetAside >= MAX_FILES_SET_ASIDE;
    if (isHopeless) return false;
    this.#rescueSecrets();
    this.#letGo();
    this.#filesSetAside += 1;
    const aside = `${this.#path}.broken-${Date.now()}`;
    for (const suffix of SIDE_FILES)
      if (existsSync(this.#path + suffix)) renameSync(this.#path + suffix, aside + suffix);
    this.#log("error", "the database was broken and is set aside; a new one begins", {
      aside,
      message: messageOf(error),
    });
    return true;
  }

  /** What is written to a file that somebody deleted is lost. */
  #noticeDeletion(): void {
    if (this.#database === undefined || this.#path === MEMORY || existsSync(this.#path)) return;
    this.#rescueSecrets();
    this.#letGo();
    this.#log("error", "the database was deleted; a new one begins", { file: this.#path });
  }

  #rescueSecrets(): void {
    try {
      const secrets = this.#database === undefined ? [] : allSecrets(this.#database);
      if (secrets.length > 0) this.#rescuedSecrets = secrets;
    } catch {
      // deliberate: they are lost, and every visitor will be a new one after a restart
    }
  }

  #letGo(): void {
    const database = this.#database;
    this.#database = undefined;
    database?.close();
  }
}

/**
 * Makes the file. It is private before its first byte is written, because it holds the secret that signs visitors. SQLite
 * gives the mode of the file to the files that it makes beside it.
 */
function makePrivate(path: string): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  closeSync(openSync(path, "a", 0o600));
  for (const suffix of SIDE_FILES) if (existsSync(path + suffix)) chmodSync(path + suffix, 0o600);
}
