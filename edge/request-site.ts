/** Which site a request is about. */

import type { Context, Handler } from "hono";
import { NotYetKnownError } from "../engine/engine.ts";
import { report } from "./log.ts";
import {
  type AllowedSites,
  hostOf,
  memoOfHeaders,
  originOf,
  ownOrigin,
  pageName,
  queryOf,
  refererUrl,
  webUrl,
} from "./names.ts";

/** The origin of a request, and the site that it belongs to. No site: the origin is not allowed. */
interface Embedder {
  readonly origin: string;
  readonly site: string | undefined;
}

export type EmbedderOf = (c: Context) => Embedder;

/** Returns a function that finds the embedder of a request. Results are cached by Origin and Host. */
export function createEmbedderLookup(allowedSites: AllowedSites): EmbedderOf {
  const embedders = memoOfHeaders((key): Embedder => {
    const [header, host = ""] = key.split("\n");
    const origin = webUrl(header);
    return { origin: origin?.origin ?? "", site: allowedSites.byOrigin(origin, host) };
  });
  return (c) => embedders.get(`${originOf(c)}\n${hostOf(c)}`); // no header can contain a line break
}

/** Answers for a site, or for one page of it. */
type SiteHandler = (c: Context, site: string, page: string | undefined) => Response | Promise<Response>;

interface SiteQuestionsOptions {
  /** How many proxies are trusted. */
  readonly trustProxy: number;
  readonly allowedSites: AllowedSites;
  readonly connections: { readonly stale: boolean };
  readonly refuse: (c: Context, reason: "site" | "page" | "numbers") => Response;
}

/**
 * Returns a wrapper for handlers that answer for one site, or for one page of it. The site is the one that the query
 * names, else the site of the asking page, else the service's own.
 */
export function createSiteQuestions({ trustProxy, allowedSites, connections, refuse }: SiteQuestionsOptions) {
  const siteOfService = (c: Context, host: string) =>
    allowedSites.byOrigin(webUrl(ownOrigin(c, trustProxy)), host) ?? host;
  return (answer: SiteHandler): Handler =>
    async (c) => {
      const name = queryOf(c, "site");
      const rawPage = queryOf(c, "page");
      if (name === undefined) c.header("Vary", "Referer");
      const host = hostOf(c);
      const asking = webUrl(c.req.header("origin")) ?? refererUrl(c.req.header("referer"));
      const site =
        name === undefined
          ? (allowedSites.byOrigin(asking, host) ?? siteOfService(c, host))
          : allowedSites.byName(name, host);
      if (site === undefined) return refuse(c, "site");
      const page = rawPage === undefined ? undefined : pageName(rawPage);
      if (page === undefined && rawPage !== undefined) return refuse(c, "page");
      try {
        return await answer(c, site, page);
      } catch (error) {
        const isExpected = connections.stale || error instanceof NotYetKnownError; // the log has said that the engine is away
        if (!isExpected) report(error);
        return refuse(c, "numbers");
      }
    };
}
