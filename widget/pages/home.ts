/** The home page: words for what the widget says in numbers, the numbers of another site (`?site=`), and the copy button. */
import { home as texts } from "#texts";
import type { HeadcountState } from "../headcount.d.ts";
import { isNumberName, NUMBERS } from "../../shared/numbers.ts";
import { base, byId, write } from "./dom.ts";
import { number } from "./locale.ts";
import { fill } from "./words.ts";

const HINTS: Record<HeadcountState, string> = {
  connecting: texts.connecting,
  live: texts.live,
  stale: texts.stale,
};

// The service does not know under which path a proxy serves it, and the browser does.
write(byId("address"), `"${base}widget.js"`);

const ASK_MS = 10_000;
const isOfSite = (name: string) => isNumberName(name) && NUMBERS[name] === "site";

/** Shows the numbers of another site. The widget leaves the elements alone, because they lose their attribute. */
function showSite(site: string): void {
  const elements = new Map<string, Element>();
  for (const element of document.querySelectorAll("dd[data-headcount]")) {
    const kind = element.getAttribute("data-headcount") || "site";
    element.removeAttribute("data-headcount");
    elements.set(kind, element);
    element.parentElement!.hidden = !isOfSite(kind);
  }
  const now = document.querySelector<HTMLElement>(".now strong")!;
  now.removeAttribute("data-headcount");
  const say = (state: HeadcountState, words: string) => {
    now.dataset["headcountState"] = state;
    write(byId("hint"), fill(words, { site }));
  };

  const ask = async () => {
    try {
      const response = await fetch(`${base}count?site=${encodeURIComponent(site)}`);
      if (response.status === 404) return write(byId("hint"), fill(texts.siteFailed, { site }));
      if (!response.ok) throw response;
      const answer = await response.json();
      for (const [kind, element] of elements) element.textContent = number.format(answer[kind] ?? 0);
      now.textContent = number.format(answer.site);
      if (answer.stale) say("stale", texts.siteStale);
      else say("live", texts.siteShown);
    } catch {
      say("stale", texts.stale);
    }
    setTimeout(ask, ASK_MS);
  };
  void ask();
}

const askedSite = new URLSearchParams(location.search).get("site");
if (askedSite !== null) showSite(askedSite);
else document.addEventListener("headcount", ({ detail: { state } }) => write(byId("hint"), HINTS[state]));

/** Copies the lines to paste. Without a clipboard, as over plain HTTP, selects them for a copy by keyboard. */
async function copy(): Promise<string> {
  const lines = byId("snippet");
  try {
    await navigator.clipboard.writeText(lines.textContent);
    return texts.copied;
  } catch {
    getSelection()?.selectAllChildren(lines);
    return texts.selected;
  }
}

byId("copy").addEventListener("click", async () => {
  write(byId("copy"), await copy());
  setTimeout(write, 2000, byId("copy"), texts.copy);
});
