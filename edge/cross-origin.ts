/** CORS: answers and refusals that a page on another origin can read. */

import type { Context } from "hono";

/** Lets every page read the answer: public answers are for everybody, and a page must be able to read a refusal. */
export function allowAllOrigins(c: Context): void {
  const { headers } = c.res;
  if (headers.has("Access-Control-Allow-Origin")) return; // `/token` sets them itself
  for (const [name, value] of Object.entries(crossOriginHeaders(c))) headers.append(name, value);
}

export const crossOriginHeaders = (c: Context) => ({
  "Access-Control-Allow-Origin": c.req.header("origin") ?? "*",
  "Access-Control-Allow-Credentials": "true",
  "Access-Control-Expose-Headers": "Retry-After",
  "Cross-Origin-Resource-Policy": "cross-origin", // for pages with COEP
  Vary: "Origin",
});

export function answerPreflight(c: Context): Response {
  c.header("Access-Control-Allow-Methods", "GET, POST");
  c.header("Access-Control-Max-Age", "86400");
  return c.body(null, 204);
}
