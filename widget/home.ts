/** The home page: words for what the widget says in numbers, and the copy button. */
import type {} from "./headcount.d.ts";

const byId = (id: string) => document.getElementById(id)!;

const HINTS = {
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

/** Copies an element's text; without the clipboard (plain HTTP has none) it selects the text, ready for the keyboard. */
async function copy(source: HTMLElement): Promise<string> {
  try {
    await navigator.clipboard.writeText(source.textContent);
    return "Copied";
  } catch {
    getSelection()?.selectAllChildren(source);
    return "Selected";
  }
}

const button = byId("copy");
button.addEventListener("click", () => {
  void copy(byId("snippet")).then((done) => {
    button.textContent = done;
    setTimeout(() => {
      button.textContent = "Copy";
    }, 2000);
  });
});
