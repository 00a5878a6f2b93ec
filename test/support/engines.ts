/** What a test asks of a browser, and the same three commands in Chromium, Firefox and WebKit. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type BrowserContext, chromium as playwright, type Page } from "playwright-core";
import { endChromium, flags, launch, userAgent } from "./chromium.ts";
import { firefox } from "./firefox.ts";
import { temporaryFolder } from "./leftovers.ts";
import { type Need, pathOf } from "./needs.ts";
import { webkit } from "./webkit.ts";

export interface Engine {
  readonly name: "chromium" | "firefox" | "webkit";
  /** A browser with an empty profile. */
  newVisitor(): Promise<VisitorBrowser>;
  /** For `afterAll` of a file. */
  end(): Promise<void>;
}

export interface VisitorBrowser {
  newTab(): Promise<Tab>;
  /** Closes all of its tabs. */
  close(): Promise<void>;
}

export interface Tab {
  /** Resolves when the page has loaded. */
  goto(url: string): Promise<void>;
  reload(): Promise<void>;
  /** The value of an expression in the page, awaited; what JSON does not know is lost. */
  evaluate<T>(expression: string): Promise<T>;
  close(): Promise<void>;
}

class ChromiumTab implements Tab {
  readonly #page: Page;

  constructor(page: Page) {
    this.#page = page;
  }

  async goto(url: string): Promise<void> {
    await this.#page.goto(url);
  }

  async reload(): Promise<void> {
    await this.#page.reload();
  }

  evaluate<T>(expression: string): Promise<T> {
    return this.#page.evaluate<T>(expression);
  }

  close(): Promise<void> {
    return this.#page.close();
  }
}

const browserOf = (context: BrowserContext): VisitorBrowser => ({
  newTab: async () => new ChromiumTab(await context.newPage()),
  close: () => context.close(),
});

const chromium = (): Engine => ({
  name: "chromium",
  newVisitor: async () => browserOf(await (await launch()).newContext({ userAgent })),
  end: endChromium,
});

/** Chromium with "block all site data" in its settings. */
export const chromiumWithoutStorage = (): Engine => ({
  name: "chromium",
  async newVisitor() {
    const profile = temporaryFolder();
    mkdirSync(join(profile, "Default"));
    const settings = { profile: { default_content_setting_values: { cookies: 2 } } };
    writeFileSync(join(profile, "Default/Preferences"), JSON.stringify(settings));
    const options = { executablePath: pathOf("chromium"), args: flags, userAgent };
    return browserOf(await playwright.launchPersistentContext(profile, options));
  },
  end: () => Promise.resolve(), // closing the visitor's browser ends the process
});

/** Each engine, with what it needs on the machine. */
export const engines: { engine: Engine; needs: Need[] }[] = [
  { engine: chromium(), needs: ["chromium"] },
  { engine: firefox(), needs: ["firefox-esr"] },
  { engine: webkit(), needs: ["webkit2gtk-driver", "xvfb"] },
];
