/** How each test file of the service's own pages ends. Not in `own-pages.ts`, which also serves outside of tests. */
import { afterAll, afterEach } from "bun:test";
import { closeContexts, endAll } from "./own-pages.ts";

/** Closes the browsers after each test, and ends everything after the last one. */
export function endOwnPages(): void {
  afterEach(closeContexts);
  afterAll(endAll);
}
