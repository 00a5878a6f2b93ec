/**
 * `npm run pictures`: makes the pictures of the READMEs from the service as it is, in docs/pictures/. It needs Chromium,
 * ffmpeg and, for the Chinese ones, a font with Chinese characters.
 */
import { statSync } from "node:fs";
import { join } from "node:path";
import { endChromium } from "../support/chromium.ts";
import { endSites } from "../support/embedding-site.ts";
import { removeLeftovers } from "../support/leftovers.ts";
import { closeContexts } from "../support/own-pages.ts";
import { endServices } from "../support/service.ts";
import { takeDashboard } from "./dashboard.ts";
import { takeTwoWindows } from "./two-windows.ts";

const folder = join(import.meta.dir, "../../docs/pictures");

/** What a picture may weigh: the READMEs load them all. */
const MAX_BYTES: Record<string, number> = { gif: 400_000, webp: 120_000 };

const LANGUAGES = [
  { locale: "en-US", suffix: "" },
  { locale: "zh-CN", suffix: ".zh-CN" },
] as const;

try {
  const files: string[] = [];
  for (const { locale, suffix } of LANGUAGES) {
    files.push(await takeTwoWindows(locale, join(folder, `two-windows${suffix}.gif`)));
    for (const colorScheme of ["light", "dark"] as const)
      files.push(await takeDashboard(locale, colorScheme, join(folder, `dashboard-${colorScheme}${suffix}.webp`)));
  }
  for (const file of files) {
    const { size } = statSync(file);
    console.log(`${file}: ${size} bytes`);
    if (size > MAX_BYTES[file.split(".").at(-1)!]!) throw new Error(`${file} is too large`);
  }
} finally {
  await closeContexts();
  await endChromium();
  endSites();
  endServices();
  removeLeftovers();
}
