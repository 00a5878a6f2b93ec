/**
 * The nonces that were spent, kept in two generations for as long as a token lives. One generation fills while the other
 * one ages; after a token's lifetime the older one is dropped.
 */
export class SpentNonces {
  readonly #tokenTtlMs: number;
  #young = new Nonces();
  #old = new Nonces();
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
      this.#young = new Nonces();
      this.#nextTurnAt = now + this.#tokenTtlMs;
    }
    this.#young.add(nonce);
    return true;
  }
}

const EMPTY = -1;
const MAX_LOAD = 0.67; // of the slots; then two looks find a nonce on average

/** A hash table of 12 to 24 bytes for each nonce. A `Set` takes up to 120. A nonce is its own hash, because it is random. */
class Nonces {
  #slots = emptySlots(64);
  #size = 0;

  has(nonce: number): boolean {
    return this.#slots[this.#find(nonce)] === nonce;
  }

  /** Adds a nonce that is not in the table yet. */
  add(nonce: number): void {
    if (this.#size >= this.#slots.length * MAX_LOAD) this.#grow();
    this.#slots[this.#find(nonce)] = nonce;
    this.#size += 1;
  }

  /** Where the nonce is or, when it is not in the table, where it belongs. */
  #find(nonce: number): number {
    const slots = this.#slots;
    const mask = slots.length - 1;
    let slot = nonce & mask;
    while (slots[slot] !== EMPTY && slots[slot] !== nonce) slot = (slot + 1) & mask;
    return slot;
  }

  #grow(): void {
    const nonces = this.#slots;
    this.#slots = emptySlots(2 * nonces.length);
    for (const nonce of nonces) if (nonce !== EMPTY) this.#slots[this.#find(nonce)] = nonce;
  }
}

/** @param count a power of two */
function emptySlots(count: number): Float64Array {
  return new Float64Array(count).fill(EMPTY);
}
