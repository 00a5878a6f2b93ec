/** Who asks for a token: a visitor with a signed id or, with IDENTITY=hash, whoever has this address and browser today. */

import type { Context } from "hono";
import { getCookie } from "hono/cookie";
import { LRUCache } from "lru-cache";
import { DAY_SECONDS, type SecretStore } from "../engine/engine.ts";
import { dateOf } from "../shared/calendar.ts";
import { isSecure } from "./names.ts";
import type { Settings } from "./settings.ts";
import { hashVisitor, newVisitor, type Signer } from "./tokens.ts";

interface Asker {
  /** "" for an observer. */
  readonly visitor: string;
  readonly isNew: boolean;
  /** The signed id, which the browser keeps; undefined when it keeps none. */
  readonly signed: string | undefined;
}

interface IdentifyOptions {
  readonly settings: Pick<Settings, "IDENTITY" | "TRUST_PROXY">;
  readonly signer: Signer;
  readonly secrets: SecretStore;
  /** The day that it is now. */
  readonly today: () => number;
}

/** @param stored the signed id from the page's storage, for browsers that drop the cookie */
type Identify = (c: Context, address: string, site: string, stored: string | undefined) => Promise<Asker>;

export const OBSERVER: Asker = { visitor: "", isNew: false, signed: undefined };
const CACHED_HASH_VISITORS = 50_000;
const COOKIE_SECONDS = 30 * DAY_SECONDS;

/** Returns a function that tells who asks: the visitor of the cookie, of the page's storage, of the hash, or a new one. */
export function createIdentify(options: IdentifyOptions): Identify {
  const { settings, signer, today } = options;
  if (settings.IDENTITY === "hash") return createIdentifyByHash(options);
  return async (c, _address, site, stored) => {
    const cookie = getCookie(c, cookieName(site, isSecure(c, settings.TRUST_PROXY)));
    for (const signed of [cookie, stored]) {
      const visitor = signer.readVisitor(site, signed);
      if (visitor !== undefined) return { visitor, isNew: false, signed };
    }
    const visitor = newVisitor(today());
    return { visitor, isNew: true, signed: signer.signVisitor(site, visitor) };
  };
}

function createIdentifyByHash({ secrets, today }: IdentifyOptions): Identify {
  let salt = { day: "", value: "" };
  const seen = new LRUCache<string, true>({ max: CACHED_HASH_VISITORS });
  return async (c, address, site) => {
    const day = dateOf(today());
    if (salt.day !== day) {
      salt = { day, value: await secrets.secret("salt", day) };
      seen.clear();
    }
    const visitor = hashVisitor(salt.value, site, address, c.req.header("user-agent") ?? "");
    const isNew = !seen.has(visitor);
    seen.set(visitor, true);
    return { visitor, isNew, signed: undefined };
  };
}

const COOKIE_ATTRIBUTES = `Max-Age=${COOKIE_SECONDS}; Path=/; HttpOnly`;

/** Browsers take a third-party cookie only when it is `Secure` and `Partitioned`. Plain http allows neither. */
export const visitorCookie = (site: string, signed: string, secure: boolean): string =>
  `${cookieName(site, secure)}=${signed}; ${COOKIE_ATTRIBUTES}; ${secure ? "Secure; SameSite=None; Partitioned" : "SameSite=Lax"}`;

/** One cookie per site, so that nobody is followed from one site to another. The prefix `__Host-` needs https. */
const cookieName = (site: string, secure: boolean) =>
  `${secure ? "__Host-" : ""}headcount-${site.replace(/[^\w-]/g, "_")}`;
