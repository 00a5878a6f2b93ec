import { NumberSet } from "./number-set.ts";

/**
 * The nonces that were spent, kept in two generations for as long as a token lives. One generation fills while the other
 * one ages; after a token's lifetime the older one is dropped.
 */
export class SpentNonces {
  readonly #tokenTtlMs: number;
  #young = new NumberSet();
  #old = new NumberSet();
  #nextTurnAt = 0;

  constructor(tokenTtlMs: number) {
    this.#tokenTtlMs = tokenTtlMs;
  }

  /** False when the nonce was spent before. @param now milliseconds since 1970; the clock may be put back */
  spend(nonce: number, now: number): boolean {
    if (this.#young.has(nonce) || this.#old.has(nonce)) return false;
    const clockWasPutBack = now < this.#nextTurnAt - this.#tokenTtlMs;
    if (now >= this.#nextTurnAt || clockWasPutBack) {
      this.#old = this.#young;
      this.#young = new NumberSet();
      this.#nextTurnAt = now + this.#tokenTtlMs;
    }
    this.#young.add(nonce);
    return true;
  }
}
