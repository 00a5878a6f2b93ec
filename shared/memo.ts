/** Tables of limited size, which forget their oldest entry when they are full. */

/** Puts an entry at the end of a table. The first entry goes when there are more than `max`. */
export function putLast<Value>(table: Map<string, Value>, key: string, value: Value, max: number): void {
  table.delete(key);
  table.set(key, value);
  if (table.size > max) table.delete(table.keys().next().value!);
}

/** Remembers what was made for the last keys, as long as that is neither undefined nor null. */
export class Memo<Value> {
  readonly #values = new Map<string, Value>();
  readonly #make: (key: string) => Value;
  readonly #maxKeys: number;
  readonly #maxKeyLength: number;

  /** @param maxKeyLength values of longer keys are not kept. Set it where strangers choose the keys */
  constructor(make: (key: string) => Value, maxKeys: number, maxKeyLength = Infinity) {
    this.#make = make;
    this.#maxKeys = maxKeys;
    this.#maxKeyLength = maxKeyLength;
  }

  get(key: string): Value {
    return this.#values.get(key) ?? this.#add(key);
  }

  /** The value, if it is remembered. */
  peek(key: string): Value | undefined {
    return this.#values.get(key);
  }

  /** Everything that is remembered. */
  values(): Iterable<Value> {
    return this.#values.values();
  }

  #add(key: string): Value {
    const value = this.#make(key);
    if (key.length <= this.#maxKeyLength) putLast(this.#values, key, value, this.#maxKeys);
    return value;
  }
}
