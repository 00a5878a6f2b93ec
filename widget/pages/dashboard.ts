/**
 * The operator's page. It asks `dashboard/state` every two seconds while somebody can see it, and the history and the
 * reading times, which change slowly, every twenty. Strangers choose some of the names that it shows, so it writes only
 * `textContent`. Each part of the page has one function that draws it from what was last heard.
 */
// oxlint-disable-next-line import/no-unassigned-import -- it has to run before uPlot is imported
import "./language.ts";
import { dashboard as texts } from "#texts";
import { ask, isRefusedPassword, reasonOf } from "./ask.ts";
import { createChart, type History } from "./chart.ts";
import { createDays } from "./days.ts";
import { base, byId, write } from "./dom.ts";
import { counted, locale, number } from "./locale.ts";
import { wordsOf } from "./refusals.ts";
import { visible } from "./visible.ts";
import { type Counted, fill } from "./words.ts";

interface State {
  /** Missing on a public dashboard, like the refusals. */
  node?: {
    runtime: string;
    startedAt: number;
    memory: number;
    connections: number;
    maxConnections: number;
    engine: "embedded" | "redis";
    engineErrors: number;
    journalErrors: number;
    stale: boolean;
  };
  refusals?: Refusal[];
  sites: Site[];
}
/** Since the start of this node. */
interface Refusal {
  reason: string;
  title: string;
  count: number;
  /** The origins that were refused most recently. */
  origins?: { origin: string; count: number }[];
}
interface Site {
  site: string;
  /** Missing while the number is not known. */
  visitors?: number;
  openPages: number;
  /** Visitors today, and visitors and views ever; missing while the engine is away. */
  totals?: { today: number; visitors: number; total: number };
  peak: number;
  highest?: { minute: number; peak: number };
  pages: { page: string; visitors: number }[];
}
interface Reading {
  page: string;
  views: number;
  seconds: number;
  median: number;
  p90: number;
}

const STATE_MS = 2_000;
const HISTORY_MS = 20_000;
const MINUTE_MS = 60_000; // a new minute is a new point of the history
const FEW_PAGES = 10;
const MANY_ROWS = 25;
const MAX_MOST_READ = 1_000; // the list of reading times never has more pages
const FEW_ROWS = 8; // at first, on a phone
const MILLION = 1_000_000; // three numbers of seven digits do not fit beside each other on a phone

const phone = matchMedia("(max-width: 48rem)");

// ---- What the page knows ----

const asked = new URLSearchParams(location.hash.slice(1));
/** The site that is shown. While it is undefined, the service answers for its own site. */
let site = asked.get("site") ?? undefined;
/** Whether the operator has chosen the site, or somebody was there. From then on no larger site replaces it. */
let isChosen = site !== undefined;
let range = ["hour", "day", "week", "quarter"].find((name) => name === asked.get("range")) ?? "hour";
let state: State | undefined;
let readings: Reading[] = [];
let sorting: { by: keyof Reading; descending: boolean } = { by: "seconds", descending: true };
let allPages = false;
let shownRows = phone.matches ? FEW_ROWS : MANY_ROWS;

let timer = 0; // of the next question for the state
let heardAt: number | undefined; // when the last answer came
let isSignedOut = false; // the service wants a password, or another one than before
let loading = new AbortController(); // of the requests for history and reading times
let loadAt = 0; // when these requests are due again
let loaded = ""; // the range and the site of the last ones

// ---- Words and elements ----

const compact = new Intl.NumberFormat(locale, { notation: "compact", maximumSignificantDigits: 3 });
const date = new Intl.DateTimeFormat(locale, { dateStyle: "medium" });
const clock = new Intl.DateTimeFormat(locale, { timeStyle: "medium" });
/** A number that may not be known. */
const shownCount = (value: number | undefined) => (value === undefined ? "–" : number.format(value));
const inUnit = (value: number, unit: string, options?: Intl.NumberFormatOptions) =>
  new Intl.NumberFormat(locale, { style: "unit", unit, unitDisplay: "narrow", ...options }).format(value);

/** 5025 → "1h 23m": the two largest units. */
function duration(seconds: number): string {
  const units = { day: 86_400, hour: 3_600, minute: 60, second: 1 };
  const parts = Object.entries(units).map(([unit, size], index, all) => {
    const larger = all[index - 1]?.[1] ?? Infinity;
    return { unit, value: Math.floor((seconds % larger) / size) };
  });
  const first = parts.findIndex(({ value }) => value > 0);
  const shown = first < 0 ? parts.slice(-1) : parts.slice(first, first + 2).filter(({ value }) => value > 0);
  return shown.map(({ unit, value }) => inUnit(value, unit)).join(" ");
}

const chart = createChart(byId("chart"), byId("readout"));
const days = createDays(byId("days"), byId("days-readout"), byId("day-ranges"));

function create<Name extends keyof HTMLElementTagNameMap>(name: Name, ...inside: (Node | string)[]) {
  const element = document.createElement(name);
  element.append(...inside);
  return element;
}

/** Makes these the children, in this order. The element that has the focus keeps it. */
function arrange(parent: HTMLElement, children: HTMLElement[]): void {
  if (children.length === parent.children.length && children.every((child, index) => child === parent.children[index]))
    return;
  const focused = document.activeElement;
  parent.replaceChildren(...children);
  if (focused instanceof HTMLElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

/** Shows a list of names with bars. The bar of the largest number is as wide as the list. */
function showBars(list: HTMLElement, bars: { name: string; value: number }[]): void {
  const most = Math.max(...bars.map(({ value }) => value));
  const items = bars.map(({ name, value }, index) => {
    const item = (list.children[index] as HTMLLIElement | undefined) ?? create("li", create("span"), create("b"));
    const [label, figure] = item.children as unknown as [HTMLElement, HTMLElement];
    write(label, name);
    label.title = name;
    write(figure, number.format(value));
    item.style.setProperty("--share", `${(100 * value) / most}%`);
    return item;
  });
  arrange(list, items);
}

// ---- Drawing ----

function showLink(what: "connecting" | "live" | "stale" | "lost", words: string): void {
  const link = byId("link");
  link.dataset["link"] = what;
  write(link, words);
}

const siteButtons = new Map<string, HTMLButtonElement>();

/** Lists the sites, the largest first. While the mouse is over the list, no site moves. */
function showSites(sites: Site[]): void {
  const nav = byId("sites");
  const counts = new Map(sites.map((entry) => [entry.site, entry.visitors]));
  const names = new Set([...counts.keys(), ...(site === undefined ? [] : [site])]);
  for (const name of siteButtons.keys()) if (!names.has(name)) siteButtons.delete(name);
  for (const name of names) {
    const button = siteButtons.get(name) ?? create("button", create("span", name), create("b"));
    siteButtons.set(name, button);
    button.type = "button";
    button.onclick = () => choose(name, range);
    button.ariaPressed = String(name === site);
    write(button.lastElementChild as HTMLElement, shownCount(counts.has(name) ? counts.get(name) : 0));
  }
  const largestFirst = Array.from(names, (name) => siteButtons.get(name)!);
  const asTheyAre = Array.from(nav.children as HTMLCollectionOf<HTMLButtonElement>).filter((one) =>
    largestFirst.includes(one),
  );
  arrange(nav, nav.matches(":hover") ? [...new Set([...asTheyAre, ...largestFirst])] : largestFirst);
  nav.hidden = names.size < 2;
}

function show(news: State): void {
  const { node, refusals = [], sites } = news;
  showSites(sites);
  showNow(news);
  for (const card of document.querySelectorAll("details")) card.hidden = node === undefined;
  showRefusals(refusals);
  if (node) showNode(node);
}

const rangeButtons = byId("ranges").querySelectorAll("button");

function showRanges(): void {
  for (const button of rangeButtons) button.ariaPressed = String(button.value === range);
}

function showNow({ node, sites }: State): void {
  const entry = sites.find((one) => one.site === site);
  const visitors = entry === undefined ? 0 : entry.visitors;
  write(byId("site"), site ?? location.host);
  write(byId("visitors"), shownCount(visitors));
  write(byId("open-pages"), number.format(entry?.openPages ?? 0));
  write(byId("visitors-word"), counted(texts.peopleNow, visitors ?? 0));
  write(byId("open-pages-word"), counted(texts.openPages, entry?.openPages ?? 0));
  write(byId("peak"), entry ? number.format(entry.peak) : "–");
  write(byId("highest"), entry?.highest ? number.format(entry.highest.peak) : "–");
  write(byId("highest-at"), entry?.highest ? `(${date.format(entry.highest.minute * MINUTE_MS)})` : "");
  showTotals(entry?.totals);
  byId("visitors").classList.toggle("stale", node?.stale === true);
  const title = fill(texts.title, { count: shownCount(visitors) });
  if (document.title !== title) document.title = title;
  if (visitors !== undefined) chart.raise(visitors);
  showPages(entry?.pages ?? []);
}

function showTotals(totals: Site["totals"]): void {
  const sums: [id: string, sum: number | undefined, words: Counted][] = [
    ["today", totals?.today, texts.today],
    ["all-visitors", totals?.visitors, texts.allVisitors],
    ["all-views", totals?.total, texts.allViews],
  ];
  for (const [id, sum, words] of sums) {
    write(byId(`${id}-word`), counted(words, sum ?? 0));
    write(byId(id), sum === undefined ? "–" : (sum < MILLION ? number : compact).format(sum));
    byId(id).title = sum === undefined ? "" : number.format(sum);
  }
}

function showPages(pages: Site["pages"]): void {
  const open = pages
    .filter(({ visitors }) => visitors > 0)
    .map(({ page, visitors }) => ({ name: visible(page), value: visitors }));
  showBars(byId("pages"), allPages ? open : open.slice(0, FEW_PAGES));
  byId("no-pages").hidden = open.length > 0;
  const more = byId("more-pages");
  more.hidden = open.length <= FEW_PAGES;
  write(more, allPages ? texts.fewer : fill(texts.allPages, { count: number.format(open.length) }));
}

function showRefusals(refusals: Refusal[]): void {
  const items = byCount(refusals).flatMap(({ reason, title, count, origins = [] }) =>
    [rowOf(wordsOf(reason, title), count)].concat(byCount(origins).map(originRow)),
  );
  const list = byId("refusals");
  if (list.textContent !== items.map(({ textContent }) => textContent).join("")) list.replaceChildren(...items);
  byId("no-refusals").hidden = refusals.length > 0;
}

function byCount<Item extends { count: number }>(items: Item[]): Item[] {
  const sorted = [...items];
  sorted.sort((a, b) => b.count - a.count);
  return sorted;
}

/** Links to the check page, which names the setting that allows the origin. */
function originRow({ origin, count }: { origin: string; count: number }): HTMLElement {
  const link = create("a", origin);
  link.href = `${base}check?site=${encodeURIComponent(origin)}`;
  const row = rowOf(link, count);
  row.className = "part";
  return row;
}

const rowOf = (name: Node | string, count: number): HTMLElement =>
  create("div", create("dt", name), create("dd", number.format(count)));

function showNode(node: NonNullable<State["node"]>): void {
  const { engine, stale, connections, maxConnections } = node;
  const rows: [name: string, value: string, isBad?: boolean][] = [
    [texts.state, stale ? texts.noRedis : texts.ok, stale],
    [texts.runningFor, duration(Math.max(0, Date.now() - node.startedAt) / 1000)],
    [
      texts.connections,
      fill(texts.connectionsOf, { count: number.format(connections), most: number.format(maxConnections) }),
      connections > 0.9 * maxConnections,
    ],
    [texts.memory, inUnit(node.memory / 2 ** 20, "megabyte", { maximumFractionDigits: 0, unitDisplay: "short" })],
    [texts.engine, engine === "redis" ? texts.redis : "SQLite"],
    [texts.engineErrors, number.format(node.engineErrors), node.engineErrors > 0],
    [texts.journalErrors, number.format(node.journalErrors), node.journalErrors > 0],
    [texts.runtime, node.runtime],
  ];
  const list = byId("node");
  for (const [index, [name, value, isBad = false]] of rows.entries()) {
    const row =
      (list.children[index] as HTMLElement | undefined) ??
      list.appendChild(create("div", create("dt", name), create("dd")));
    const figure = row.lastElementChild as HTMLElement;
    write(figure, value);
    figure.classList.toggle("bad", isBad);
  }
}

const COLUMNS: [by: keyof Reading, words: string][] = [
  ["page", texts.page],
  ["views", texts.viewsColumn],
  ["seconds", texts.seconds],
  ["median", texts.median],
  ["p90", texts.p90],
];

function showReadings(): void {
  const { by, descending } = sorting;
  for (const [index, [key]] of COLUMNS.entries())
    byId("columns").children[index]!.ariaSort = key === by ? (descending ? "descending" : "ascending") : "none";
  const collator = new Intl.Collator(locale, { numeric: true });
  const compare = (a: Reading, b: Reading) =>
    by === "page" ? collator.compare(a.page, b.page) : a[by] - b[by] || b.seconds - a.seconds;
  const sorted = [...readings];
  sorted.sort((a, b) => (descending ? compare(b, a) : compare(a, b)));
  const cells = sorted.slice(0, shownRows).map(({ page, views, seconds, median, p90 }) => {
    const shown = visible(page);
    const name = create("th", create("span", shown));
    name.scope = "row";
    name.title = shown;
    const figures = [number.format(views), duration(seconds), duration(median), duration(p90)];
    return create("tr", name, ...figures.map((figure) => create("td", figure)));
  });
  byId("reading").replaceChildren(...cells);
  byId("no-reading").hidden = readings.length > 0;
  byId("columns").closest("table")!.hidden = readings.length === 0;
  const left = readings.length - cells.length;
  byId("more-reading").hidden = left === 0;
  write(
    byId("more-reading"),
    fill(texts.moreRows, { count: number.format(Math.min(left, MANY_ROWS)), left: number.format(left) }),
  );
  const sum = (key: "views" | "seconds") => readings.reduce((total, reading) => total + reading[key], 0);
  const words = counted(texts.views, sum("views"), { time: duration(sum("seconds")) });
  const isCut = readings.length >= MAX_MOST_READ;
  const whole = isCut ? fill(texts.mostRead, { sum: words, count: number.format(MAX_MOST_READ) }) : words;
  write(byId("reading-sum"), readings.length === 0 ? "" : whole);
}

// ---- Asking ----

async function poll(): Promise<void> {
  clearTimeout(timer);
  if (document.hidden || isSignedOut) return;
  try {
    hear(await ask<State>("dashboard/state"));
  } catch (failure) {
    if (isRefusedPassword(failure)) return signOut();
    await showLoss(failure);
  }
  clearTimeout(timer);
  timer = setTimeout(poll, STATE_MS);
}

function hear(news: State): void {
  state = news;
  heardAt = Date.now();
  if (!isChosen) {
    const [largest] = news.sites;
    site = largest?.site;
    isChosen = (largest?.visitors ?? 0) > 0;
  }
  if (news.node?.stale) showLink("stale", texts.stale);
  else showLink("live", texts.live);
  show(news);
  if (heardAt >= loadAt || loaded !== key()) void load();
}

async function showLoss(failure: unknown): Promise<void> {
  const reason = await reasonOf(failure);
  const isReachable = failure instanceof Response;
  const [atOnce, since] = isReachable
    ? [texts.noNumbers, texts.noNumbersSince]
    : [texts.notReachable, texts.notReachableSince];
  const time = heardAt && clock.format(heardAt);
  showLink("lost", time ? fill(since, { reason, time }) : fill(atOnce, { reason }));
  document.title = texts.notLiveTitle;
}

/** Asks nothing more: the browser would send the old password, and ten wrong ones in a minute are a guess too many. */
function signOut(): void {
  isSignedOut = true;
  loading.abort();
  showLink("lost", texts.signIn);
  document.title = `${texts.signIn} – Headcount`;
  byId("sign-in").hidden = false;
  for (const part of document.querySelectorAll<HTMLElement>("header ~ *")) part.inert = true;
}

const key = () => `${range} ${site ?? ""}`;

async function load(): Promise<void> {
  loading.abort();
  const { signal } = (loading = new AbortController());
  const isNew = loaded !== key();
  loaded = key();
  const now = Date.now();
  loadAt = Math.min(now + HISTORY_MS, now - (now % MINUTE_MS) + MINUTE_MS);
  void days.load(site);
  const about = site === undefined ? "" : `site=${encodeURIComponent(site)}`;
  try {
    const [history, reading] = await Promise.all([
      ask<History>(`dashboard/history?range=${range}&${about}`, signal),
      ask<{ pages: Reading[] }>(`reading?${about}`, signal),
    ]);
    byId("chart").classList.remove("unknown");
    chart.show({ ...history, since: firstKnownMinute(history) }, isNew);
    readings = reading.pages;
    showReadings();
    if (state) showNow(state);
  } catch (failure) {
    if (signal.aborted) return;
    byId("chart").classList.toggle("unknown", isNew);
    write(byId("readout"), fill(texts.noHistory, { reason: await reasonOf(failure) }));
  }
}

/** The first minute of which the number of people is known. Since its start the service knows when nobody was there. */
function firstKnownMinute({ since = Infinity }: History): number {
  return Math.min(since, Math.floor((state?.node?.startedAt ?? Date.now()) / MINUTE_MS));
}

// ---- Choosing ----

function choose(nextSite: string | undefined, nextRange: string): void {
  if (nextSite !== site) {
    allPages = false;
    shownRows = phone.matches ? FEW_ROWS : MANY_ROWS;
    readings = [];
    showReadings();
  }
  site = nextSite;
  isChosen = site !== undefined;
  range = nextRange;
  history.replaceState(null, "", `#${new URLSearchParams({ ...(site !== undefined && { site }), range }).toString()}`);
  showRanges();
  if (state) show(state);
  void load();
}

/** Folds the last cards on a phone. */
function fold(): void {
  for (const card of document.querySelectorAll("details")) card.open = !phone.matches;
}

function start(): void {
  fold();
  phone.addEventListener("change", fold);
  for (const button of rangeButtons) button.onclick = () => choose(site, button.value);
  for (const [by, words] of COLUMNS) {
    const button = create("button", words);
    button.type = "button";
    button.onclick = () => {
      sorting = { by, descending: by === sorting.by ? !sorting.descending : by !== "page" };
      showReadings();
    };
    const header = create("th", button);
    header.scope = "col";
    byId("columns").append(header);
  }
  byId("more-reading").onclick = () => {
    shownRows += MANY_ROWS;
    showReadings();
  };
  byId("more-pages").onclick = () => {
    allPages = !allPages;
    if (state) showNow(state);
  };
  byId("sign-in").onclick = () => location.reload(); // then the browser asks for the password
  document.addEventListener("visibilitychange", () => void poll());
  showRanges();
  showReadings();
  void poll();
}

start();
