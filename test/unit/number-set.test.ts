import { expect, test } from "bun:test";
import { newNonce } from "../../edge/tokens.ts";
import { NumberSet } from "../../engine/number-set.ts";

test("number set: it has what was added, and nothing else, however large it grows", () => {
  const [numbers, added] = [new NumberSet(), new Set<number>()];
  for (let i = 0; i < 5_000; i += 1) {
    const number = newNonce();
    expect(numbers.has(number)).toBe(added.has(number));
    if (!added.has(number)) numbers.add(number);
    added.add(number);
    expect(numbers.size).toBe(added.size);
  }
  expect([...added].filter((number) => !numbers.has(number))).toEqual([]);
});

test("number set: cleared, it has nothing", () => {
  const numbers = new NumberSet();
  for (const number of [0, 1, 2 ** 48 - 1]) numbers.add(number);
  numbers.clear();
  expect([numbers.size, numbers.has(0), numbers.has(1), numbers.has(2 ** 48 - 1)]).toEqual([0, false, false, false]);
});
