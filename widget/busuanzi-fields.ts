/**
 * What a page expects of busuanzi 2.3, busuanzi.cc 3.6 or Vercount: numbers in elements that have certain ids, containers
 * that are hidden until there is a number, `bszCaller`, `bszTag`, and the numbers in `localStorage.visitorCountData`.
 * All numbers come from the widget's event. A theme that inserts the tag again runs the whole script again: the widget
 * counts the view, and this part has nothing to do, because it is there already.
 */
import type { HeadcountDetail } from "./headcount.d.ts";

/** An element that a theme made for a number, or the container of one. */
interface Field extends HTMLElement {
  /** The value that was written last. The text is not compared with it, so another script may format the number. */
  bszShown?: string | number | undefined;
  /** What the author had put there, such as a spinner. */
  bszAuthor?: ChildNode[];
}

/** Numbers by the names that themes know. A number that is not known yet is undefined. */
type Numbers = Record<string, number | undefined>;

declare global {
  interface Window {
    bszCaller?: { fetch(url: string, callback: (numbers: Numbers) => void): void };
    bszTag?: { bszs: string[]; texts(numbers: Numbers): void; shows(): void; hides(): void };
  }
}

const NAMES = ["site_pv", "page_pv", "site_uv"]; // the numbers of busuanzi 2.3 and of Vercount

let numbers: Numbers = {};
let path: string; // of the page that the numbers belong to
let callbacks: ((numbers: Numbers) => void)[] = [];

const fill = () => {
  for (const field of document.querySelectorAll<Field>("[id^=busuanzi_],[id^=vercount_]")) {
    const [, container, name] = /_(container_)?(?:value_)?([a-z]+_[pu]v|online)$/.exec(field.id) ?? [];
    const number = numbers[name!];
    const shown = container ? (number! >= 0 ? "inline" : "none") : number;
    if (!name || shown === field.bszShown) continue;
    field.bszShown = shown;
    if (container) field.style.display = shown as string;
    else {
      field.bszAuthor ??= [...field.childNodes];
      field.replaceChildren(...(number! >= 0 ? ["" + number] : field.bszAuthor));
    }
  }
};

/** Gives the numbers to the callbacks that wait, once all numbers are known and belong to this page. */
const answer = () => {
  if (path !== location.pathname || NAMES.some((name) => !(numbers[name]! >= 0))) return;
  for (const callback of callbacks) queueMicrotask(() => callback(numbers));
  callbacks = [];
  try {
    localStorage.visitorCountData = JSON.stringify(numbers, NAMES);
  } catch {
    // Storage is forbidden or full. Nothing here needs it.
  }
};

const receive = ({ detail }: CustomEvent<HeadcountDetail>) => {
  const { total: site_pv, views: page_pv, visitors: site_uv, today: today_uv, site: online } = detail;
  numbers = { site_pv, page_pv, site_uv, today_uv, online };
  path = location.pathname;
  fill();
  answer();
};

const change = (part: string, act: (element: HTMLElement, name: string) => void) => {
  for (const name of NAMES) {
    const element = document.getElementById(`busuanzi_${part}_${name}`);
    if (element) act(element, name);
  }
};

const display = (value: string) => () => change("container", ({ style }) => (style.display = value));

/** What themes call after a navigation without a load. */
const offerCalls = () => {
  window.bszCaller = {
    fetch(_url, callback) {
      callbacks.push(callback);
      answer();
    },
  };
  window.bszTag = {
    bszs: NAMES,
    texts: (values) => change("value", (element, name) => (element.textContent = "" + values[name])),
    shows: display("inline"),
    hides: display("none"),
  };
};

if (!window.bszCaller) {
  offerCalls();
  document.addEventListener("headcount", receive);
  new MutationObserver(fill).observe(document, { childList: true, subtree: true });
  fill();
}
