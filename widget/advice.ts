/** What the check page and the debug script advise: the lines that an owner has to paste, and where. */
import { siteEntry } from "../shared/site-entry.ts";

/** The host as SITES has it: Chromium escapes the star of `*.example.com`. */
export const hostOf = (url: URL) => url.hostname.replace("%2A", "*");

/** The web origin that somebody means by `example.com`, `localhost:8080` or `https://example.com/page`. */
export function siteUrl(text: string): URL | undefined {
  const scheme = /^(localhost|127\.|\[::1\])/.test(text) ? "http://" : "https://";
  try {
    const url = new URL(text.includes("://") ? text : scheme + text);
    return /^https?:$/.test(url.protocol) && /^(\*\.)?[^%*]+$/.test(hostOf(url)) ? url : undefined;
  } catch {
    return undefined; // deliberate: the caller says that this is no name of a site
  }
}

/** The setting that allows a site. The browser does not know which other sites the setting has already. */
export const sitesLine = (url: URL): string =>
  `SITES=${siteEntry({ origin: url.origin, hostname: hostOf(url), port: url.port })}`;

/** @param server address of the service, with the slash at its end */
export function policyLines(server: string): string {
  const { origin } = new URL(server);
  return `script-src ${origin}; connect-src ${origin} ${origin.replace("http", "ws")}`;
}

export const UPGRADE_LINES = `proxy_http_version 1.1;
proxy_set_header Upgrade $http_upgrade;
proxy_set_header Connection "upgrade";`;
