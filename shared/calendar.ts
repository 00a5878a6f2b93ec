/** When a day begins: days are counted in the time zone of the owner, as numbers that grow by one at midnight. */

const MINUTE_MS = 60_000;
const DAY_MS = 1_440 * MINUTE_MS;

/** Returns a function from a time (milliseconds since 1970) to a day: days since 1970-01-01 on the calendar of the zone. */
export function createCalendar(timeZone: string): (wallMs: number) => number {
  const format = new Intl.DateTimeFormat("en", { timeZone, year: "numeric", month: "numeric", day: "numeric" });
  let minute = NaN;
  let day = 0;
  return (wallMs) => {
    const asked = Math.floor(wallMs / MINUTE_MS); // no zone changes its day within a minute
    if (asked !== minute) {
      const parts = Object.fromEntries(format.formatToParts(wallMs).map(({ type, value }) => [type, Number(value)]));
      day = Date.UTC(parts["year"] ?? 0, (parts["month"] ?? 1) - 1, parts["day"] ?? 1) / DAY_MS;
      minute = asked;
    }
    return day;
  };
}

/** `2026-11-24` */
export const dateOf = (day: number): string => new Date(day * DAY_MS).toISOString().slice(0, 10);
