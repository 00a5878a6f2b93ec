/** Hints for the owner, when the settings do not fit the requests that come. */

import type { Context } from "hono";
import { type Reason, REFUSALS } from "./guard.ts";
import { log } from "./log.ts";
import { type AllowedSites, webUrl } from "./names.ts";

const MAX_LOGGED_SITES = 20; // strangers can invent more

/** @param trustProxy how many proxies are trusted. Each hint is logged once. */
export function createHints(trustProxy: number, allowedSites: AllowedSites) {
  let hasSeenProxy = false;
  const refusedSites = new Set<string>();
  return {
    /** Notices a proxy that is not trusted: all visitors then share its address. */
    lookAt(c: Context): void {
      if (hasSeenProxy || trustProxy > 0 || c.req.header("x-forwarded-for") === undefined) return;
      hasSeenProxy = true;
      log("warn", "X-Forwarded-For is ignored, so all visitors behind a proxy share its address and its limits", {
        advice: "behind a proxy, set TRUST_PROXY=1",
      });
    },

    /** A limit that may only have been reached because a proxy is not trusted. */
    detailOf(c: Context, reason: Reason): string | undefined {
      const isOfAddress = ["address", "tokens", "visitors", "address_pages"].includes(reason);
      if (!isOfAddress || trustProxy > 0 || c.req.header("x-forwarded-for") === undefined) return undefined;
      return `${REFUSALS[reason][2]}. All visitors behind a proxy share one address here, because TRUST_PROXY is 0`;
    },

    originRefused(origin: string): void {
      const url = webUrl(origin);
      if (url === undefined || refusedSites.has(url.host) || refusedSites.size >= MAX_LOGGED_SITES) return;
      refusedSites.add(url.host);
      log("info", "a page was refused because its site is not allowed", {
        origin,
        advice: allowedSites.adviceFor(url),
      });
    },
  };
}
