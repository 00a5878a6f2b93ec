import { expect, test } from "bun:test";
import { newNonce } from "../../edge/tokens.ts";
import { SpentNonces } from "../../engine/spent-nonces.ts";

const TTL_MS = 30_000;

test("spent nonces: each of fifty thousand is spent once, those that differ in their high bits as well", () => {
  const spent = new SpentNonces(TTL_MS);
  const random = Array.from({ length: 50_000 }, newNonce);
  const alike = Array.from({ length: 500 }, (_, high) => high * 2 ** 32 + 1);
  const nonces = [0, 2 ** 48 - 1, ...new Set([...random, ...alike])];
  expect(nonces.filter((nonce) => !spent.spend(nonce, 0))).toEqual([]);
  expect(nonces.filter((nonce) => spent.spend(nonce, TTL_MS - 1))).toEqual([]);
});

test("spent nonces: they are forgotten after two lifetimes of a token, and not before one", () => {
  const spent = new SpentNonces(TTL_MS);
  spent.spend(1, TTL_MS - 1);
  expect(spent.spend(1, 2 * TTL_MS - 2)).toBe(false);
  spent.spend(2, 2 * TTL_MS - 1);
  spent.spend(3, 3 * TTL_MS - 1);
  expect(spent.spend(1, 3 * TTL_MS - 1)).toBe(true);
});
