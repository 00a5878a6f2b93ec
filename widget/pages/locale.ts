/** Numbers and dates as the language of the page writes them. */
import { type Counted, fill } from "./words.ts";

/** The browser's own flavour of a language: `en-GB` for `en` when the browser prefers that one. */
function preferred(language: string): string {
  const [base] = language.split("-");
  // Returns only a tag that begins with the language: WebKitGTK may have "C", which Intl refuses.
  return navigator.languages.find((own) => new RegExp(`^${base}(-\\w+)*$`, "i").test(own)) ?? language;
}

export const locale: string = preferred(document.documentElement.lang);
export const number = new Intl.NumberFormat(locale);
const plurals = new Intl.PluralRules(locale);

/** The form of the text for a count, with the count and other values in it. */
export function counted({ one, other }: Counted, count: number, values: Record<string, string | number> = {}): string {
  const form = plurals.select(count) === "one" ? (one ?? other) : other;
  return fill(form, { count: number.format(count), ...values });
}
