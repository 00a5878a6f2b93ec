/** Two windows on one site: the second one opens and closes, and the number changes in the first. */
import type { BrowserContextOptions, Page } from "playwright-core";
import { serve } from "../support/embedding-site.ts";
import { newBrowser } from "../support/own-pages.ts";
import { Service } from "../support/service.ts";
import { until } from "../support/waiting.ts";
import { makeGif, type Shot } from "./ffmpeg.ts";

const WORDS: Record<string, { lang: string; blog: string; title: string; online: string }> = {
  "en-US": { lang: "en", blog: "Salt & Crumb", title: "Sourdough at altitude", online: "online now" },
  "zh-CN": { lang: "zh-CN", blog: "盐与面包", title: "高原上的酸面包", online: "人在线" },
};
const WINDOW = { width: 400, height: 264 };
const FADE = [0.25, 0.6, 0.9];

/** The page of a blog; the lines of its text are grey bars. */
const blog = (server: string, locale: string): string => {
  const { lang, blog: name, title, online } = WORDS[locale]!;
  const bars = [96, 88, 93, 61, 0, 90, 97, 72].map((width) => `<i style="width:${width}%"></i>`).join("");
  return `<!doctype html><html lang="${lang}"><meta charset="utf-8"><style>
    body { margin: 0; padding: 18px 24px; font: 15px system-ui, sans-serif; color: #1b1d1b; background: #fff; }
    header { display: flex; justify-content: space-between; align-items: center; font-weight: 600; }
    h1 { margin: 18px 0 14px; font-size: 25px; letter-spacing: -0.02em; }
    i { display: block; height: 8px; margin-top: 11px; border-radius: 4px; background: #e4e6e2; }
    header p { margin: 0; padding: 5px 12px; border-radius: 20px; background: #e0f5eb; color: #0b6b45; font-size: 17px; }
    header p::before { content: ""; display: inline-block; width: 9px; height: 9px; margin-right: 8px; border-radius: 50%; background: #12a36b; }
  </style><header>${name}<p><span data-headcount>–</span> ${online}</p></header><h1>${title}</h1>${bars}
  <script async src="${server}/widget.js"></script>`;
};

/** Two windows on a desk. `setWindow(index, opacity, picture)` shows one of them. */
const desk = `<!doctype html><meta charset="utf-8"><style>
  body { margin: 0; width: 880px; height: 340px; background: #dfe7e3; font: 12px system-ui, sans-serif; }
  div { position: absolute; top: 22px; width: 400px; border-radius: 9px; overflow: hidden; background: #fff; outline: 1px solid #c3cdc8; }
  div:nth-of-type(1) { left: 26px } div:nth-of-type(2) { left: 454px }
  p { margin: 0; padding: 8px 12px; height: 14px; background: #f1f4f2; color: #60645f; text-align: center; }
  b { float: left; width: 10px; height: 10px; margin: 2px 6px 0 0; border-radius: 50%; background: #c9d1cd; }
  img { display: block; width: 400px; height: 264px; }
</style>${"<div><p><b></b><b></b><b></b>blog.example</p><img></div>".repeat(2)}`;

const numberIn = (page: Page): Promise<string | null> => page.locator("[data-headcount]").textContent();

class Desk {
  readonly shots: Shot[] = [];
  readonly #page: Page;

  constructor(page: Page) {
    this.#page = page;
  }

  async show(index: number, opacity: number, page?: Page): Promise<void> {
    const picture = page && `data:image/png;base64,${(await page.screenshot()).toString("base64")}`;
    await this.#page.locator("div").nth(index).evaluate(setWindow, { opacity, picture });
  }

  async keep(seconds: number): Promise<void> {
    this.shots.push({ png: await this.#page.screenshot(), seconds });
  }
}

/** Runs in the page of the desk. */
async function setWindow(element: any, { opacity, picture }: { opacity: number; picture: string | undefined }) {
  element.style.opacity = String(opacity);
  const image = element.querySelector("img");
  if (picture !== undefined) image.src = picture;
  if (picture !== undefined) await image.decode();
}

/** @returns the file */
export async function takeTwoWindows(locale: string, file: string): Promise<string> {
  const service = await Service.start("bun", { GRACE_SECONDS: 1 });
  const { url } = serve(() => blog(service.url, locale));
  const options: BrowserContextOptions = { locale, deviceScaleFactor: 2 };
  const visitor = async (): Promise<Page> => (await newBrowser({ ...options, viewport: WINDOW })).newPage();
  const isLive = (page: Page, wanted: string): Promise<unknown> =>
    until(`${wanted} in the window`, async () => (await numberIn(page)) === wanted);

  const deskPage = await (await newBrowser({ ...options, viewport: { width: 880, height: 340 } })).newPage();
  await deskPage.setContent(desk);
  const scene = new Desk(deskPage);
  const [first, second] = [await visitor(), await visitor()];
  await first.goto(url);
  await isLive(first, "1");
  await scene.show(0, 1, first);
  await scene.show(1, 0);
  await scene.keep(1.8);

  await second.route("**/token", () => {}); // until the window is there
  await second.goto(url);
  for (const opacity of FADE) {
    await scene.show(1, opacity, second);
    await scene.keep(0.07);
  }
  await scene.show(1, 1);
  await scene.keep(0.5);
  await second.unroute("**/token");
  await second.reload();
  await Promise.all([isLive(first, "2"), isLive(second, "2")]);
  await scene.show(0, 1, first);
  await scene.show(1, 1, second);
  await scene.keep(2.6);

  for (const opacity of FADE.toReversed()) {
    await scene.show(1, opacity);
    await scene.keep(0.07);
  }
  await second.close();
  await scene.show(1, 0);
  await scene.show(0, 1, first);
  await scene.keep(1.2); // grace
  await isLive(first, "1");
  await scene.show(0, 1, first);
  await scene.keep(1);
  makeGif(scene.shots, file);
  return file;
}
