/** Long work in the thread that counts visitors. */

import { setImmediate } from "node:timers/promises";

const PORTION_MS = 8;

/**
 * Does something with each item, and lets the rest of the process have a turn every few milliseconds.
 * @param now milliseconds that never decrease
 */
export async function inPortions<Item>(
  items: Iterable<Item>,
  work: (item: Item) => void,
  portionMs = PORTION_MS,
  now: () => number = () => performance.now(),
): Promise<void> {
  let pauseAt = now() + portionMs;
  for (const item of items) {
    work(item);
    if (now() < pauseAt) continue;
    await setImmediate();
    pauseAt = now() + portionMs;
  }
}
