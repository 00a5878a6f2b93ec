/** The settings: the environment, read once at the start. All wrong settings are reported together, and nothing starts. */

import * as v from "valibot";
import type { SharedSettings } from "../engine/engine.ts";
import { type AllowedSites, parseBlock, parseSite } from "./names.ts";

const integer = (min: number, max: number, what = "a number") => {
  const expected = `${what} (${min}–${max})`;
  return v.pipe(
    v.string(),
    v.regex(/^\d+$/, expected),
    v.transform(Number),
    v.minValue(min, expected),
    v.maxValue(max, expected),
  );
};
const limit = integer(1, 10_000_000);

const flag = v.picklist(["true", "false"], "true or false");

const entriesOf = (text: string) => text.split(/[\s,]+/).filter(Boolean);

/** A list, separated by commas or spaces. `parse` returns undefined for an entry that it cannot read. */
const listOf = <T>(parse: (entry: string) => T | undefined, expected: string) =>
  v.pipe(
    v.string(),
    v.check(
      (text) => !entriesOf(text).map(parse).includes(undefined),
      ({ input }) => `${expected}: ${JSON.stringify(entriesOf(input).find((entry) => !parse(entry)))} is none of them`,
    ),
    v.transform((text) =>
      entriesOf(text)
        .map(parse)
        .filter((entry) => entry !== undefined),
    ),
  );
const SITE_LIST = "a list of sites such as example.com, https://example.com:8443 or *.example.com";
const BLOCK_LIST = "a list of addresses and CIDR blocks such as 192.0.2.1 or 2001:db8::/32";

export const isTimeZone = (name: string): boolean => {
  try {
    return Boolean(new Intl.DateTimeFormat("en", { timeZone: name }));
  } catch {
    return false; // deliberate: this is how the runtime says that it does not know the zone
  }
};

const Environment = v.object({
  PORT: v.optional(integer(0, 65_535, "a port"), "3000"),
  HOST: v.optional(v.string(), "0.0.0.0"),
  SITES: v.optional(listOf(parseSite, SITE_LIST)),
  SECRET: v.optional(v.pipe(v.string(), v.minLength(16, "a secret of at least 16 characters"))),
  TRUST_PROXY: v.optional(integer(0, 16, "the number of proxies in front"), "0"),
  DENY: v.optional(listOf(parseBlock, BLOCK_LIST), ""),
  DATA: v.optional(v.string(), "./data"),
  REDIS_URL: v.optional(v.pipe(v.string(), v.regex(/^rediss?:\/\/./, "a URL such as redis://:password@host:6379/0"))),
  PUBLIC_DASHBOARD: v.optional(flag, "false"),
  ADMIN_PASSWORD: v.optional(v.pipe(v.string(), v.minLength(8, "a password of at least 8 characters"))),
  GRACE_SECONDS: v.optional(integer(0, 3_600, "a number of seconds"), "5"),
  HEARTBEAT_SECONDS: v.optional(integer(1, 120, "a number of seconds"), "25"), // two of them are below nginx's 60 s
  TZ: v.optional(v.pipe(v.string(), v.check(isTimeZone, "a time zone such as Europe/Berlin")), "UTC"),
  TOKEN_TTL_SECONDS: v.optional(integer(1, 3_600, "a number of seconds"), "30"),
  MAX_PAGES_PER_VISITOR: v.optional(limit, "20"),
  MAX_PAGES_PER_IP: v.optional(limit, "200"), // an office, or a school
  MAX_TOKENS_PER_IP: v.optional(limit, "120"),
  MAX_VISITORS_PER_IP: v.optional(limit, "60"),
  MAX_CONNECTIONS: v.optional(limit),
  IDENTITY: v.optional(v.picklist(["cookie", "hash"], "cookie or hash"), "cookie"),
  COUNT_BOTS: v.optional(flag, "false"),
});

export type Settings = v.InferOutput<typeof Environment> & { MAX_CONNECTIONS: number };

const MAX_CONNECTIONS_SHARE = 0.9; // of the open-files limit
const ASSUMED_OPEN_FILES = 10_000; // where the limit is unknown

/**
 * Reads the settings from an environment. An empty value counts as unset.
 * @param maxFiles how many files this process may open; Infinity where that is unknown
 * @throws {Error} with one line per wrong setting: `Cannot read PORT: "80a" is not a port (0–65535)`
 */
export function readSettings(environment: Record<string, string | undefined>, maxFiles = Infinity): Settings {
  const given = Object.fromEntries(Object.entries(environment).filter(([, value]) => value !== ""));
  const { success, output, issues } = v.safeParse(Environment, given);
  const openFiles = maxFiles === Infinity ? ASSUMED_OPEN_FILES : maxFiles;
  if (success)
    return { ...output, MAX_CONNECTIONS: output.MAX_CONNECTIONS ?? Math.floor(openFiles * MAX_CONNECTIONS_SHARE) };
  const wrong = new Map(issues.map((issue) => [v.getDotPath(issue)?.split(".")[0] ?? "", issue.message]));
  const lines = Array.from(
    wrong,
    ([name, expected]) => `Cannot read ${name}: ${quoted(name, given[name])} is not ${expected}`,
  );
  throw new Error(lines.join("\n"));
}

/** A value as it may stand in a log: quoted and escaped. Of a secret only the length is told. */
const quoted = (name: string, value = "") =>
  /SECRET|PASSWORD|URL/.test(name) ? `a value of ${value.length} characters` : JSON.stringify(value);

/** What all nodes of one service must have in common, so that each accepts the visitors and tokens of the others. */
export function sharedSettings(settings: Settings, { names }: AllowedSites, fingerprint: string): SharedSettings {
  const { GRACE_SECONDS, TOKEN_TTL_SECONDS, IDENTITY, TZ } = settings;
  return {
    SECRET: fingerprint,
    SITES: [...names].toSorted().join(" "),
    GRACE_SECONDS: String(GRACE_SECONDS),
    TOKEN_TTL_SECONDS: String(TOKEN_TTL_SECONDS),
    IDENTITY,
    TZ,
  };
}
