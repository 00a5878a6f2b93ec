/** The home page: words for what the widget says in numbers, and the copy button. */
import type { HeadcountState } from "../headcount.d.ts";

const byId = (id: string) => document.getElementById(id)!;

const HINTS: Record<HeadcountState, string> = {
  connecting: "Connecting …",
  live: "Counted by the tag below. Open this page in another browser, and watch.",
  stale: "The connection is lost. This was the last number; trying again.",
};

const write = (id: string, text: string) => {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text; // a status is read out only when it changes
};

document.addEventListener("headcount", ({ detail: { site, state } }) => {
  write("people", site === 1 ? "person here now: you" : "people here now");
  write("hint", HINTS[state]);
});

/** Copies the lines to paste; without a clipboard (plain HTTP has none) selects them, ready for the keyboard. */
async function copy(): Promise<string> {
  const lines = byId("snippet");
  try {
    await navigator.clipboard.writeText(lines.textContent);
    return "Copied";
  } catch {
    getSelection()?.selectAllChildren(lines);
    return "Selected";
  }
}

byId("copy").addEventListener("click", async () => {
  write("copy", await copy());
  setTimeout(write, 2000, "copy", "Copy");
});
