/**
 * Types of the `headcount` event, which the widget dispatches on `document` at each update and each change of state:
 *
 * ```ts
 * document.addEventListener("headcount", ({ detail }) => console.log(detail.site, detail.state));
 * ```
 */

/**
 * `connecting`: there is no number yet. `live`: the service confirms the number. `stale`: this is the last known number,
 * because this page has no connection to the service, or the service has none to Redis.
 */
export type HeadcountState = "connecting" | "live" | "stale";

/** A number is missing until the service has told it, and again after two minutes without a connection. */
export interface HeadcountDetail {
  /** People on the site now. */
  site?: number;
  /** People on this page now. */
  page?: number;
  /** The highest number of people on the site within the last 24 hours. */
  peak?: number;
  /** The median reading time of this page, in seconds. */
  read?: number;
  /** How often this page was viewed, ever. */
  views?: number;
  /** How often pages of the site were viewed, ever. */
  total?: number;
  /** Different visitors of the site, ever. */
  visitors?: number;
  /** Different visitors of the site today. */
  today?: number;
  state: HeadcountState;
}

declare global {
  interface DocumentEventMap {
    headcount: CustomEvent<HeadcountDetail>;
  }
}
