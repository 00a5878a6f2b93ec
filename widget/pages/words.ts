/** Texts of the pages and of `data-debug`, in several languages. */

/** A text that depends on a count. The names are those of `Intl.PluralRules`. */
export interface Counted {
  one?: string;
  other: string;
}

/** The texts of another language: all of them, and as many forms of a counted text as that language has. */
export type TextsOf<Texts> = { [Key in keyof Texts]: Texts[Key] extends string ? string : Counted };

/** A refusal of the service, as a problem document. */
export interface Problem {
  type?: string;
  title?: string;
  detail?: string;
}

/** Why a request was refused, as edge/guard.ts names the reason. */
export const reasonIn = ({ type = "" }: Problem): string => type.replace("urn:headcount:problem:", "");

/** Puts values into a text: `fill("{count} of {most}", { count: 1, most: 2 })` → `1 of 2`. */
export function fill(text: string, values: Record<string, string | number>): string {
  return text.replace(/\{(\w+)\}/g, (place, name: string) => String(values[name] ?? place));
}
