/** Remembers what was computed for a key. When the memo is full it forgets everything: whatever was in it can be computed again. */
export class Memo<Value> {
  readonly #values = new Map<string, Value>();
  readonly #compute: (key: string) => Value;
  readonly #maxKeys: number;
  readonly #maxKeyLength: number;

  /** @param maxKeyLength the value of a longer key is not kept, where strangers choose the keys */
  constructor(compute: (key: string) => Value, maxKeys: number, maxKeyLength = Infinity) {
    this.#compute = compute;
    this.#maxKeys = maxKeys;
    this.#maxKeyLength = maxKeyLength;
  }

  get(key: string): Value {
    return this.#values.get(key) ?? this.#add(key);
  }

  /** What is remembered now. */
  values(): Iterable<Value> {
    return this.#values.values();
  }

  #add(key: string): Value {
    const value = this.#compute(key);
    if (key.length > this.#maxKeyLength) return value;
    if (this.#values.size >= this.#maxKeys) this.#values.clear();
    this.#values.set(key, value);
    return value;
  }
}
