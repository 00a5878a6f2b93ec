/** The home page: words for what the widget says in numbers, and the copy button. */
import { home as texts } from "#texts";
import type { HeadcountState } from "../headcount.d.ts";

const byId = (id: string) => document.getElementById(id)!;

const HINTS: Record<HeadcountState, string> = {
  connecting: texts.connecting,
  live: texts.live,
  stale: texts.stale,
};

const write = (id: string, text: string) => {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text; // a status is read out only when it changes
};

// The service does not know under which path a proxy serves it, and the browser does.
write("address", `"${new URL("widget.js", location.origin + location.pathname).href}"`);

document.addEventListener("headcount", ({ detail: { state } }) => {
  write("hint", HINTS[state]);
});

/** Copies the lines to paste; without a clipboard (plain HTTP has none) selects them, ready for the keyboard. */
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
  write("copy", await copy());
  setTimeout(write, 2000, "copy", texts.copy);
});
