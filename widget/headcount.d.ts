/**
 * Types of the `headcount` event, which the widget dispatches on `document` at each update and each change of state:
 *
 * ```ts
 * document.addEventListener("headcount", ({ detail }) => console.log(detail.site, detail.state));
 * ```
 */

/** `live`: confirmed by the service; `stale`: the last known number, the connection is gone; `connecting`: none yet. */
export type HeadcountState = "connecting" | "live" | "stale";

/** Every number is `undefined` until the service has told it, and again after two minutes `stale`. */
export interface HeadcountDetail {
  /** People on the site now. */
  site: number | undefined;
  /** People on this page now. */
  page: number | undefined;
  /** The highest number of people on the site in the last 24 hours. */
  peak: number | undefined;
  /** The median reading time of this page in seconds. */
  read: number | undefined;
  state: HeadcountState;
}

declare global {
  interface DocumentEventMap {
    headcount: CustomEvent<HeadcountDetail>;
  }
}
