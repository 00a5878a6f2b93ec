/** The entry of SITES that allows a page, as the log of the service, /check and `data-debug` advise it. */

/** The parts of a URL that matter here. */
export interface WebOrigin {
  readonly origin: string;
  readonly hostname: string;
  readonly port: string;
}

/** `www.` before a name that has a dot itself: `www.com` is a domain of its own. */
const WWW = /^www\.(?=[^.]+\.)/;

/**
 * `https://example.com/page` → `example.com` · `https://example.com:8443` → that origin, because an entry with a port needs
 * a scheme too · `http://localhost:5173` → `localhost` · `https://www.example.com` → `*.example.com`, because a name with
 * and without `www.` is usually one site, and two entries would be two sites with a count each
 */
export function siteEntry({ origin, hostname, port }: WebOrigin): string {
  if (port !== "" && hostname !== "localhost") return origin;
  return hostname.replace(WWW, "*.");
}
