/** What the owner reads when the service starts. */

import { existsSync } from "node:fs";
import { isTerminal, log, print } from "./log.ts";
import type { Settings } from "./settings.ts";

/** Tells where the service is and what to paste. On a terminal, the snippet can be copied from there. */
export function announce(
  { HOST, SITES, ADMIN_PASSWORD }: Settings,
  port: number,
  version: string,
  password: string,
): void {
  const host = HOST === "0.0.0.0" || HOST === "::" ? "localhost" : HOST.includes(":") ? `[${HOST}]` : HOST;
  const url = `http://${host}:${port}/`;
  const snippet = `<span data-headcount>–</span> online now\n<script async src="${url}widget.js"></script>`;
  const credentials = ADMIN_PASSWORD === undefined ? { user: "admin", password } : {};
  if (SITES === undefined)
    log("info", "SITES is not set: only pages on this machine are counted (SITES=example.com opens it)");
  if (!isTerminal()) return log("info", "ready", { url, version, snippet, ...credentials });
  const generated = ADMIN_PASSWORD === undefined ? ` (user admin, password ${password})` : "";
  print(`\nHeadcount ${version} is ready: ${url}\n\nPaste this into your pages:\n\n${snippet}\n`);
  print(`Dashboard: ${url}dashboard${generated}`);
}

/** Numbers that an engine does not use are easily taken for lost ones. */
export function warnOfUnusedData({ REDIS_URL, DATA }: Settings): void {
  const file = `${DATA}/headcount.db`;
  if (REDIS_URL === undefined || !existsSync(file)) return;
  log("warn", "DATA holds numbers that are not used, because REDIS_URL is set", {
    file,
    advice: "to move them, run headcount export without REDIS_URL, and headcount import with it (docs/operate.md)",
  });
}
