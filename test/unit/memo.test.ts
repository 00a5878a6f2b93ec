import { expect, test } from "bun:test";
import { Memo } from "../../shared/memo.ts";

/** A memo of three keys, each of at most four characters, and the keys that it computed. */
function memo() {
  const computed: string[] = [];
  const values = new Memo((key) => computed.push(key) > 0 && key.startsWith("yes"), 3, 4);
  return { values, computed };
}

test("memo: a value is computed once, also when it is false", () => {
  const { values, computed } = memo();
  expect([values.get("yes"), values.get("no"), values.get("yes"), values.get("no")]).toEqual([
    true,
    false,
    true,
    false,
  ]);
  expect(computed).toEqual(["yes", "no"]);
  expect([...values.values()]).toEqual([true, false]);
});

test("memo: it never holds more keys than it may, and computes again what it has forgotten", () => {
  const { values, computed } = memo();
  for (let round = 0; round < 3; round += 1)
    for (const key of ["a", "b", "c", "d"]) {
      values.get(key);
      expect([...values.values()].length).toBeLessThanOrEqual(3);
    }
  expect(computed.filter((key) => key === "a")).toHaveLength(3);
});

test("memo: the oldest key is forgotten first", () => {
  const { values } = memo();
  for (const key of ["yes", "a", "b", "c"]) values.get(key);
  expect(["yes", "a", "b", "c"].map((key) => values.peek(key))).toEqual([undefined, false, false, false]);
});

test("memo: the value of a long key is told and not kept", () => {
  const { values, computed } = memo();
  expect([values.get("yes, long"), values.get("yes, long")]).toEqual([true, true]);
  expect(computed).toHaveLength(2);
  expect([...values.values()]).toEqual([]);
});
