/** Chance that can be repeated. */

/** A random number generator with a seed: mulberry32, which gives the same numbers on every machine. */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  chance(share: number): boolean {
    return this.next() < share;
  }

  pick<T>(choices: readonly [T, ...T[]]): T {
    return choices[this.below(choices.length)] ?? choices[0];
  }

  bytes(limit: number): Buffer {
    return Buffer.from(Array.from({ length: this.below(limit) }, () => this.below(256)));
  }

  /** Changes, removes, adds or doubles some of the bytes. */
  corrupt(bytes: Buffer): Buffer {
    const corrupted = [...bytes];
    for (let times = 1 + this.below(4); times > 0; times--) {
      const at = this.below(corrupted.length + 1);
      const what = this.below(4);
      if (what === 0) corrupted[at] = this.below(256);
      else if (what === 1) corrupted.splice(at, 1 + this.below(8));
      else if (what === 2) corrupted.splice(at, 0, ...this.bytes(20));
      else corrupted.splice(at, 0, ...corrupted.slice(at, at + this.below(200)));
    }
    return Buffer.from(corrupted);
  }
}
