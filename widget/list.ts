/**
 * Numbers of other pages, for lists of posts: fills `[data-headcount="views"][data-headcount-page="/post"]`, and `page` for
 * the people who are on that page now.
 *
 * One request asks for up to a hundred pages. Elements that come later are asked for when they come. Numbers of people are
 * asked for again every 30 s while somebody can see the list.
 */
import type { HeadcountState } from "./headcount.d.ts";

/** What the service knows of a page; nothing when the page has no valid name. */
interface PageNumbers {
  page?: number;
  views?: number;
}
/** The answer for one page has its numbers beside those of the site. */
interface Answer extends PageNumbers {
  pages?: Record<string, PageNumbers>;
  stale?: boolean;
}

const TARGETS = ["views", "page"].map((kind) => `[data-headcount="${kind}"][data-headcount-page]`).join();
const MAX_PAGES = 100; // of one request, as the service allows
const MAX_QUERY_LENGTH = 4_000; // proxies accept request lines of 8 KiB
const REPEAT_MS = 30_000;
const STALE_MS = 120_000; // then the author's text returns
const SETTLE_MS = 50; // elements that come together are asked for together

const RUNNING = Symbol.for("headcount list");

declare global {
  interface Window {
    [RUNNING]?: boolean;
  }
}

const script = (document.currentScript ?? document.querySelector('script[src*="list.js"]')) as HTMLScriptElement | null;
let server: string; // its address

const known = new Map<string, PageNumbers>();
let state: HeadcountState = "live";
let answeredAt = Date.now();
let resumeAt = 0; // when the pause ends that the service asked for

let settling = 0; // timer
let timer = 0; // of the next repeat
let work = Promise.resolve(); // one update after the other

// ---- Numbers: answer → elements ----

const targets = () => [...document.querySelectorAll<HTMLElement>(TARGETS)];

const paint = () => {
  for (const target of targets()) {
    const { dataset } = target;
    const value = known.get(dataset.headcountPage!)?.[dataset.headcount as keyof PageNumbers];
    let text = (dataset.headcountText ??= target.textContent ?? "");
    if (value !== undefined) text = format(value);
    const targetState = value === undefined ? "connecting" : state;
    if (target.textContent !== text) target.textContent = text;
    if (dataset.headcountState !== targetState) dataset.headcountState = targetState;
  }
};

/** A number in the page's language. */
const format = (value: number) => {
  try {
    return value.toLocaleString(document.documentElement.lang);
  } catch {
    return value.toLocaleString(); // the page has no language, or one that is not valid, such as "en_US"
  }
};

// ---- Asking: pages → requests → numbers ----

const queryOf = (pages: string[]) => new URLSearchParams(pages.map((page) => ["page", page])).toString();

/** Splits the pages so that no request is too long. */
const batchesOf = (pages: string[]) => {
  const batches: string[][] = [];
  let batch: string[] = [];
  let batchLength = Infinity; // of its query
  for (const page of pages) {
    const pageLength = queryOf([page]).length + 1;
    if (batch.length === MAX_PAGES || batchLength + pageLength > MAX_QUERY_LENGTH) {
      batches.push((batch = []));
      batchLength = 0;
    }
    batch.push(page);
    batchLength += pageLength;
  }
  return batches;
};

/** Asks for some pages. A page whose name the service refuses does not take the others with it. */
const ask = async (pages: string[]): Promise<void> => {
  const response = await fetch(server + "count?" + queryOf(pages));
  if (response.status === 400) {
    const half = Math.ceil(pages.length / 2);
    if (half === pages.length) known.set(pages[0]!, {});
    else for (const part of [pages.slice(0, half), pages.slice(half)]) await ask(part);
    return;
  }
  if (!response.ok) throw response;
  const answer: Answer = await response.json();
  const numbers = answer.pages ?? { [pages[0]!]: answer };
  for (const page of pages) known.set(page, numbers[page] ?? {});
  state = answer.stale ? "stale" : "live";
  answeredAt = Date.now();
};

const update = async (repeats: boolean) => {
  const isWanted = ({ dataset }: HTMLElement) =>
    !known.has(dataset.headcountPage!) || (repeats && dataset.headcount === "page");
  const wanted = new Set(
    targets()
      .filter(isWanted)
      .map(({ dataset }) => dataset.headcountPage!),
  );
  try {
    if (Date.now() >= resumeAt) for (const batch of batchesOf([...wanted])) await ask(batch);
  } catch (failure) {
    await fail(failure);
  }
  paint();
};

const fail = async (failure: any) => {
  state = "stale";
  if (Date.now() - answeredAt > STALE_MS) known.clear();
  resumeAt = Date.now() + Math.max(REPEAT_MS / 2, failure.headers?.get("Retry-After") * 1000 || 0);
  if (failure.status !== 403 && failure.status !== 404) return;
  observer.disconnect();
  clearTimeout(timer);
  document.removeEventListener("visibilitychange", repeat);
  console.warn("headcount:", failure.status, await failure.text());
};

// ---- When: elements that come, and every 30 s ----

const enqueue = (repeats: boolean) => {
  work = work.then(() => update(repeats));
};

const observer = new MutationObserver(() => {
  settling ||= setTimeout(() => {
    settling = 0;
    enqueue(false);
  }, SETTLE_MS);
});

const repeat = () => {
  clearTimeout(timer);
  timer = setTimeout(repeat, REPEAT_MS);
  if (!document.hidden) enqueue(true);
};

const start = () => {
  repeat();
  document.addEventListener("visibilitychange", repeat);
  const attributeFilter = ["data-headcount", "data-headcount-page"];
  observer.observe(document, { subtree: true, childList: true, attributeFilter });
};

if (script && !window[RUNNING]) {
  window[RUNNING] = true;
  const base = (script.dataset.server ?? ".").replace(/\/*$/, "/");
  server = new URL(base, script.src || location.href).href;
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", start);
  else start();
}
