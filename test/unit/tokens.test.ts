import { describe, expect, test } from "bun:test";
import { type Claims, hashVisitor, Signer } from "../../edge/tokens.ts";

describe("visitors and tokens", () => {
  const signer = new Signer("a secret of some length");
  const id = "A".repeat(22);
  const claims: Claims = { visitor: id, page: "/é", expires: 2_000, nonce: 7, isContinued: true };

  test("visitors: an id is good for the site it was signed for, by whom it was signed", () => {
    const signed = signer.signVisitor("example.com", id);
    expect(signer.readVisitor("example.com", signed)).toBe(id);
    expect(signer.readVisitor("example.org", signed)).toBeUndefined();
    expect(new Signer("another secret").readVisitor("example.com", signed)).toBeUndefined();
    for (const forged of [undefined, "", ".", id, `${id}.`, `${id}.${"B".repeat(22)}`, `${signed}x`, `${signed}.x`])
      expect(signer.readVisitor("example.com", forged)).toBeUndefined();
  });

  test("tokens: what was signed is read again, from the same origin and in time", () => {
    const token = signer.signToken("https://example.com", claims);
    expect(signer.readToken("https://example.com", token, 1_999)).toEqual(claims);
    expect(signer.readToken("https://example.com", token, 2_000)).toBeUndefined();
    expect(signer.readToken("http://example.com", token, 1_999)).toBeUndefined();
    expect(new Signer("another secret").readToken("https://example.com", token, 1_999)).toBeUndefined();
  });

  test("tokens: no other character anywhere makes a good token", () => {
    const token = signer.signToken("https://example.com", claims);
    for (let i = 0; i < token.length; i += 1) {
      const forged = token.slice(0, i) + (token[i] === "A" ? "B" : "A") + token.slice(i + 1);
      expect(signer.readToken("https://example.com", forged, 0)).toBeUndefined();
    }
    for (const forged of ["", ".", token.slice(1), `${token}A`, `${token}.`, signer.signVisitor("example.com", id)])
      expect(signer.readToken("https://example.com", forged, 0)).toBeUndefined();
  });

  test("visitors: a hash is the same for one browser on one site and day, and different otherwise", () => {
    const one = hashVisitor("salt", "example.com", "2001:db8::1", "Firefox");
    expect(hashVisitor("salt", "example.com", "2001:db8::2", "Firefox")).toBe(one);
    expect(hashVisitor("salt2", "example.com", "2001:db8::1", "Firefox")).not.toBe(one);
    expect(hashVisitor("salt", "example.org", "2001:db8::1", "Firefox")).not.toBe(one);
    expect(hashVisitor("salt", "example.com", "2001:db9::1", "Firefox")).not.toBe(one);
    expect(hashVisitor("salt", "example.com", "2001:db8::1", "Chrome")).not.toBe(one);
  });
});
