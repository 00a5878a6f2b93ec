/** The home page: words for what the widget says in numbers, and the copy button. */
import type { HeadcountState } from "../headcount.d.ts";

const byId = (id: string) => document.getElementById(id)!;

const HINTS: Record<HeadcountState, string> = {
  connecting: "Connecting …",
  live: "The tag below counts this page. Open the page in another browser and watch the number change.",
  stale: "The connection is lost. This is the last known number. Reconnecting …",
};

const write = (id: string, text: string) => {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text; // a status is read out only when it changes
};

document.addEventListener("headcount", ({ detail: { state } }) => {
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
