/** The system's Chromium, one for all tests of a file. A context of its own in it is a visitor of its own. */
import { type Browser, chromium } from "playwright-core";
import { pathOf } from "./needs.ts";

/**
 * The first two are lists of suggestions for the address bar, which nobody sees here: in each window each is a page with a
 * process of its own, and costs as much as the page that is tested. Chromium reads only the last --disable-features, so the
 * others are those that Playwright 1.65 switches off.
 */
const disabledFeatures = [
  "WebUIOmniboxPopup",
  "WebUIOmniboxAimPopup",
  "AimEnabled",
  "AvoidCorsURLLoaderRestartOnRedirect",
  "AvoidUnnecessaryBeforeUnloadCheckSync",
  "DestroyProfileOnBrowserClose",
  "HttpsFirstBalancedModeAutoEnable",
  "HttpsUpgrades",
  "LensOverlay",
  "MediaRouter",
  "NetworkTimeServiceQuerying",
  "OptimizationHints",
  "PaintHolding",
  "PreconnectToSearch",
  "SpareRendererForSitePerProcess",
  "ThirdPartyStoragePartitioning",
];

/** For whoever starts it without Playwright, too. */
export const flags = [
  "--no-sandbox",
  "--headless=new",
  "--disable-gpu",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--no-first-run",
  `--disable-features=${disabledFeatures.join(",")}`,
];

/** Not "HeadlessChrome", whom the service takes for a crawler. */
export const userAgent =
  "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36";

let launched: Promise<Browser> | undefined;

/** With the back/forward cache, which Playwright switches off. */
export const launch = (): Promise<Browser> =>
  (launched ??= chromium.launch({
    executablePath: pathOf("chromium"),
    args: [...flags, "--enable-features=BackForwardCache"],
    ignoreDefaultArgs: ["--disable-back-forward-cache"],
  }));

/** For `afterAll` of a file. */
export async function endChromium(): Promise<void> {
  await (await launched)?.close();
  launched = undefined;
}
