/**
 * Visitors and tokens. Both are plain text with an HMAC-SHA256 over everything they mean, so the service remembers nothing
 * about them.
 */

import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { limitKey } from "./names.ts";

/** What a token promises about the connection that it opens. */
export interface Claims {
  /** "" for a page that only observes. */
  readonly visitor: string;
  readonly page: string;
  /** Milliseconds since 1970. */
  readonly expires: number;
  /** Whether this continues a view that was counted: the page has lost its connection. */
  readonly isContinued: boolean;
  /** Makes the token single use. A nonce is unique, not secret: nobody gains by guessing it. */
  readonly nonce: number;
}

/** What is inside a token. The signature vouches for this shape. */
type Payload = [visitor: string, page: string, expires: number, nonce: number, isContinued: 0 | 1];

const SIGNATURE_LENGTH = 22; // 128 bits in base64url
/** 128 random bits, and the day of minting in base 36. Ids of version 0.1 have no day. */
const VISITOR_ID = /^[\w-]{22}(?:[0-9a-z]{4})?$/;

export class Signer {
  readonly #secret: string;

  constructor(secret: string) {
    this.#secret = secret;
  }

  /** Tells two secrets apart, and nothing else about them. */
  get fingerprint(): string {
    return this.#sign("fingerprint");
  }

  /** `id.signature`, which a browser keeps. The signature covers the site, so an id is worth nothing on another site. */
  signVisitor(site: string, id: string): string {
    return `${id}.${this.#sign("visitor", site, id)}`;
  }

  /** The id, if this service signed it for this site. */
  readVisitor(site: string, signed: string | undefined): string | undefined {
    const { text: id, signature } = splitSigned(signed ?? "");
    return VISITOR_ID.test(id) && this.#verify(signature, "visitor", site, id) ? id : undefined;
  }

  /** The signature binds the token to an origin: whoever presents the token must send the same Origin. */
  signToken(origin: string, { visitor, page, expires, nonce, isContinued }: Claims): string {
    const claims: Payload = [visitor, page, expires, nonce, isContinued ? 1 : 0];
    const payload = Buffer.from(JSON.stringify(claims)).toString("base64url");
    return `${payload}.${this.#sign("token", origin, payload)}`;
  }

  /** The claims; undefined when the token is forged, expired, or of another origin. @param now milliseconds since 1970 */
  readToken(origin: string, token: string, now: number): Claims | undefined {
    const { text: payload, signature } = splitSigned(token);
    if (!this.#verify(signature, "token", origin, payload)) return undefined;
    const claims = JSON.parse(Buffer.from(payload, "base64url").toString()) as Payload;
    const [visitor, page, expires, nonce, isContinued] = claims;
    return expires > now ? { visitor, page, expires, nonce, isContinued: isContinued === 1 } : undefined;
  }

  #sign(...parts: string[]): string {
    return hmac(this.#secret, parts);
  }

  #verify(signature: string, ...parts: string[]): boolean {
    const given = Buffer.from(signature);
    const expected = Buffer.from(this.#sign(...parts));
    return given.length === expected.length && timingSafeEqual(given, expected);
  }
}

/** `text.signature` → both parts. A second dot is a part of the signature, which is then not valid. */
function splitSigned(signed: string): { text: string; signature: string } {
  const dot = signed.indexOf(".");
  return dot < 0 ? { text: "", signature: "" } : { text: signed.slice(0, dot), signature: signed.slice(dot + 1) };
}

/**
 * The first 128 bits of the HMAC over a list of texts. As a list, two different meanings never share a signature. The key is
 * a text, because Deno takes twice as long for a key object.
 */
const hmac = (secret: string, parts: string[]) =>
  createHmac("sha256", secret).update(JSON.stringify(parts)).digest("base64url").slice(0, SIGNATURE_LENGTH);

/** A visitor with IDENTITY=hash: one browser has one id per site and day, and nothing is stored in the browser. */
export function hashVisitor(salt: string, site: string, address: string, userAgent: string): string {
  return hmac(salt, [site, limitKey(address), userAgent]);
}

/** 48 random bits. With a million live tokens, one new token in 280 million meets a used nonce, and its page asks again. */
export const newNonce = () => randomBytes(6).readUIntBE(0, 6);
/** @param day the day on which the id is minted */
export const newVisitor = (day: number): string =>
  randomBytes(16).toString("base64url") + day.toString(36).padStart(4, "0");

/** On which day an id was minted; undefined for an id that does not tell. */
export const mintedOn = (id: string): number | undefined => (id.length === 26 ? parseInt(id.slice(22), 36) : undefined);
