/**
 * Names and addresses: which site, page and address a request is about. Nothing a client sends is used as it is.
 */

import { URL, URLSearchParams } from "node:url";
import type { Context } from "hono";
import ipaddr from "ipaddr.js";
import { canBeName } from "../engine/engine.ts";
import { Memo } from "../shared/memo.ts";
import { siteEntry, type WebOrigin } from "../shared/site-entry.ts";

/** One entry of SITES. All origins that match the entry are counted together, under its name. */
interface AllowedSite {
  readonly name: string;
  matches(origin: URL): boolean;
}

/**
 * Reads an entry of SITES.
 *
 * `example.com` → http and https on their default ports (any port for localhost) · `https://example.com:8443` → exactly
 * that · `*.example.com` → the apex and every subdomain · anything else → undefined
 */
export function parseSite(entry: string): AllowedSite | undefined {
  const isWildcard = entry.startsWith("*.");
  const isOrigin = entry.includes("://");
  const url = webUrl(isOrigin ? entry : `http://${isWildcard ? entry.slice(2) : entry}`);
  const hasMore = url !== undefined && url.href !== `${url.origin}/`; // a path, a query, a user …
  if (url === undefined || hasMore || !HOST_NAME.test(url.hostname)) return undefined;
  const host = url.hostname;
  if (isOrigin) return { name: url.origin, matches: ({ origin }) => origin === url.origin };
  if (url.port !== "") return undefined;
  if (isWildcard)
    return {
      name: entry.toLowerCase(),
      matches: ({ port, hostname }) => port === "" && `.${hostname}`.endsWith(`.${host}`),
    };
  return { name: host, matches: ({ port, hostname }) => hostname === host && (port === "" || host === "localhost") };
}

/** A host name as a URL has it: in lower case and punycode, or an IPv6 address in brackets. */
const HOST_NAME = /^[a-z\d]([a-z\d._-]*[a-z\d])?$|^\[[\da-f:.]+\]$/;
const MAX_ORIGIN_LENGTH = 300; // a host name has at most 253 characters

/** Reads an origin. Undefined when it is missing, `null`, longer than any origin, or neither http nor https. */
export function webUrl(text: string | undefined): URL | undefined {
  if (text === undefined || text.length > MAX_ORIGIN_LENGTH) return undefined; // before a parser whose time is quadratic
  const url = URL.parse(text);
  return url?.protocol === "https:" || url?.protocol === "http:" ? url : undefined;
}

/** The origin of a Referer, whose path may be long. */
export const refererUrl = (text: string | undefined): URL | undefined =>
  webUrl(/^https?:\/\/[^/?#\\\s]*/i.exec(text ?? "")?.[0]);

const LOOPBACK_HOSTS = new Set(["localhost", "127.0.0.1", "[::1]"]);
/** The site while SITES is unset: pages on this machine are counted, and pages of everybody else are refused. */
const LOCALHOST: AllowedSite = { name: "localhost", matches: ({ hostname }) => LOOPBACK_HOSTS.has(hostname) };

/** Finds sites by origin or by name: first those of SITES, then the service's own origin, then (without SITES) localhost. */
export class AllowedSites {
  /** The names of the entries of SITES. The service's own site is not among them. */
  readonly names: ReadonlySet<string>;
  readonly #entries: readonly AllowedSite[];
  readonly #fallback: readonly AllowedSite[];

  /** @param entries the entries of SITES; undefined when SITES is unset */
  constructor(entries: readonly AllowedSite[] | undefined) {
    this.#entries = entries ?? [];
    this.#fallback = entries === undefined ? [LOCALHOST] : [];
    this.names = new Set(this.#entries.concat(this.#fallback).map(({ name }) => name));
  }

  /** The name of the site that an origin belongs to. @param host the Host header of the same request */
  byOrigin(origin: URL | undefined, host: string): string | undefined {
    if (origin === undefined) return undefined;
    const matches = (site: AllowedSite) => site.matches(origin);
    const ownHost = URL.parse(`${origin.protocol}//${host}`)?.host; // in lower case and without a default port
    return (
      this.#entries.find(matches)?.name ?? (origin.host === ownHost ? ownHost : this.#fallback.find(matches)?.name)
    );
  }

  /**
   * The setting that allows a page, and all that is allowed now. When either of a name with and without `www.` is an entry
   * already, a wildcard takes the place of that entry, because two entries would be two sites with a count each.
   */
  adviceFor(page: WebOrigin): string {
    const entry = siteEntry(page);
    const apex = entry.replace("*.", "");
    const names = this.#entries.map(({ name }) => name);
    const others = names.filter((name) => name !== apex && name !== `www.${apex}`);
    const isVariant = others.length < names.length;
    return `SITES=${[...others, isVariant ? `*.${apex}` : entry].join(",")}`;
  }

  /** The site of this name, if there is one. A host that an entry covers stands for the site of that entry. */
  byName(name: string, host: string): string | undefined {
    if (this.names.has(name) || name === host) return name;
    return this.byOrigin(webUrl(`https://${name}`), host);
  }

  /** The site that numbers from elsewhere are imported for: one of SITES or, without SITES, any that a page may have. */
  forImport(name: string): string | undefined {
    if (name === "") return undefined;
    if (this.#fallback.length === 0) return this.byName(name, "");
    return parseSite(name)?.name ?? (isValidHost(name) ? name.toLowerCase() : undefined);
  }
}

const MAX_PAGE_NAME_LENGTH = 1_024;
/** Normalising takes quadratic time in a run of marks. Text of any language has at most 30 in a row (Unicode TR 15, 13). */
const TOO_MANY_MARKS = /\p{M}{31}/u;

/**
 * The one name of a page: `/caf%C3%A9/index.html?x=1` and `/café/` → `/café`. Undefined when the name is empty, longer
 * than 1,024 characters, or holds control characters, half a surrogate pair or more than 30 combining marks in a row.
 */
export function pageName(text: string): string | undefined {
  const path = decoded(text.replace(/\?[^#]*/, ""));
  if (text === "" || path.length > MAX_PAGE_NAME_LENGTH || TOO_MANY_MARKS.test(path)) return undefined;
  const name = path.normalize("NFC").replace(/\/(index\.html?)?$/, "") || "/";
  return name.length <= MAX_PAGE_NAME_LENGTH && canBeName(name) ? name : undefined;
}

function decoded(path: string): string {
  try {
    return decodeURI(path);
  } catch {
    return path; // deliberate: a lone % is a legal, if odd, part of a name
  }
}

/** Addresses that share their first `bits` bits. */
export type AddressBlock = readonly [ipaddr.IPv4 | ipaddr.IPv6, bits: number];

/** `192.0.2.1`, `192.0.2.0/24`, `2001:db8::/32` → a block; anything else → undefined. IPv4-mapped IPv6 becomes IPv4. */
export function parseBlock(entry: string): AddressBlock | undefined {
  const isIPv6 = entry.includes(":");
  const cidr = entry.includes("/") ? entry : `${entry}/${isIPv6 ? 128 : 32}`;
  if (!(isIPv6 ? ipaddr.IPv6.isValidCIDR(cidr) : ipaddr.IPv4.isValidCIDRFourPartDecimal(cidr))) return undefined;
  const [address, bits] = ipaddr.parseCIDR(cidr);
  const isMapped = address instanceof ipaddr.IPv6 && address.isIPv4MappedAddress() && bits >= 96;
  return isMapped ? [address.toIPv4Address(), bits - 96] : [address, bits];
}

const MAX_FORWARDED_LENGTH = 64; // an entry is an IPv6 address in brackets, with a port and a comma
const CANONICAL_IPV4 = /^(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}$/;

/**
 * The client's address: the address of the socket or, behind `hops` trusted proxies, the `hops`-th entry of
 * X-Forwarded-For from the right. The outermost trusted proxy wrote that entry; clients can invent all entries further left.
 * @param client its address is that of the socket. It is only read when it is needed, since Bun takes 4 µs to find it
 */
export function clientAddress(
  client: { readonly address: string },
  forwardedFor: string | undefined,
  hops: number,
): string {
  const trusted = hops > 0 ? forwardedFor?.slice(-hops * MAX_FORWARDED_LENGTH) : undefined; // clients invent the rest
  const entry = trusted?.split(",").at(-hops)?.trim() ?? client.address;
  if (CANONICAL_IPV4.test(entry)) return entry; // the common case needs no parsing
  const claimed = entry.replace(/^\[(.*)\](?::\d+)?$|^([\d.]+):\d+$/, "$1$2"); // some proxies write the port too
  const address = ipaddr.isValid(claimed) ? claimed : client.address;
  return ipaddr.isValid(address) ? ipaddr.process(address).toString() : "0.0.0.0";
}

/** Whether the text can be a Host header. HTTP/1.0 allows an empty one. */
export const isValidHost = (host: string) =>
  host === "" || (/^[\w.:[\]-]{1,300}$/.test(host) && URL.canParse(`http://${host}`));

/** What limits are counted by: an IPv4 address as it is, an IPv6 address by its /64, because one household owns all of it. */
export function limitKey(address: string): string {
  return address.includes(":") ? ipv6Block(address, 64) : address;
}

const ipv6Block = (address: string, bits: number) =>
  `${ipaddr.IPv6.networkAddressFromCIDR(`${address}/${bits}`).toString()}/${bits}`;

/** A block of addresses, and how many times the limit of one address all of them together have. */
export interface LimitBlock {
  readonly name: string;
  readonly factor: number;
}

/**
 * The blocks that a `limitKey` is limited by. A provider gives its customer a /56 or a /48 of IPv6, which is 256 or
 * 65,536 times a /64; such a block has twice or four times the limit of a single address.
 */
export function limitBlocks(key: string): readonly LimitBlock[] {
  const itself = { name: key, factor: 1 };
  if (!key.includes(":")) return [itself];
  const address = key.replace("/64", "");
  return [itself, { name: ipv6Block(address, 56), factor: 2 }, { name: ipv6Block(address, 48), factor: 4 }];
}

/** The address of a limit for a log line: enough to see a pattern, too little to identify a household. */
export const coarseAddress = (key: string): string =>
  key.includes(":") ? ipv6Block(key.replace(/\/\d+$/, ""), 48) : key.replace(/\.\d+$/, ".x");

// What a request says about itself. The Host header decides which site is the service's own.

const MAX_HEADER_LENGTH = 1_000; // the rest of a longer Origin or User-Agent is ignored
const MAX_MEMO_HEADERS = 1_000;
const MAX_MEMO_HEADER_LENGTH = 400; // an Origin and a Host, or a User-Agent
const MAX_URL_LENGTH = 16_384; // a page name of 1,024 characters has up to 9,216 characters when each is escaped

/** Remembers what was found out about the last headers. It keeps no long ones, because strangers choose them. */
export const memoOfHeaders = <Value>(judge: (header: string) => Value) =>
  new Memo(judge, MAX_MEMO_HEADERS, MAX_MEMO_HEADER_LENGTH);

/** Bun refuses longer heads by itself. */
export const isTooLong = (url: string): boolean => url.length > MAX_URL_LENGTH;

/** The parameters in the query. Hono's own reader takes quadratic time for a query that is made of `&`. */
export const paramsOf = (c: Context): URLSearchParams => new URLSearchParams(/\?([^#]*)/.exec(c.req.url)?.[1]);

/** The first value of a parameter in the query. */
export const queryOf = (c: Context, name: string): string | undefined => paramsOf(c).get(name) ?? undefined;

/** The token in the address of a socket; "" without one. It is not decoded, since no character of a token is escaped. */
export const tokenOf = (url: string): string => /[?&]token=([^&#]*)/.exec(url)?.[1] ?? "";

/** The Host header, in lower case. HTTP/2 without TLS has none, and names the host in the URL instead. */
export const hostOf = (c: Context): string => (c.req.header("host") ?? URL.parse(c.req.url)?.host ?? "").toLowerCase();
export const originOf = (c: Context): string => c.req.header("origin")?.slice(0, MAX_HEADER_LENGTH) ?? "";
export const userAgentOf = (c: Context): string => c.req.header("user-agent")?.slice(0, MAX_HEADER_LENGTH) ?? "";

/** Whether the browser used https. Only a trusted proxy can tell. @param trustProxy how many proxies are trusted */
export const isSecure = (c: Context, trustProxy: number): boolean =>
  trustProxy > 0 && lastEntry(c.req.header("x-forwarded-proto") ?? "") === "https";

/** The last entry of a list, which the nearest proxy wrote. Clients may have written thousands of others before it. */
const lastEntry = (list: string): string => list.slice(list.lastIndexOf(",") + 1).trim();

/** The origin under which the browser sees this service. */
export const ownOrigin = (c: Context, trustProxy: number): string =>
  `${isSecure(c, trustProxy) ? "https" : "http"}://${hostOf(c)}`;
