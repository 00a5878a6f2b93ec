/**
 * Strangers choose the names of pages. Characters that show nothing, or that turn the direction of the text around them, would
 * let a name look like another one.
 */

/** These characters join and separate letters of Persian or Hindi and parts of an emoji, where they are no trick. */
const JOINERS =
  /(?<=[^\p{Script=Latin}\p{Script=Greek}\p{Script=Cyrillic}\p{Script=Common}\p{Script=Inherited}]\p{M}*)[\u200c\u200d](?=\p{L})|(?<=\p{Extended_Pictographic}\ufe0f?)\u200d(?=\p{Extended_Pictographic})|(?<=\p{Extended_Pictographic})\ufe0f/u;
/** Characters without a picture of their own, and spaces other than a single one between two words. */
const INVISIBLE = /(?! )[\p{Default_Ignorable_Code_Point}\p{Cf}\p{Zs}]|^ | (?= |$)/u;
const EITHER = new RegExp(`(?<joiner>${JOINERS.source})|${INVISIBLE.source}`, "gu");

/** The name with each invisible character as its number: `/about⟨U+200B⟩`. */
export const visible = (name: string): string =>
  name.replace(EITHER, (found: string, joiner: string | undefined) => joiner ?? numberOf(found));

const numberOf = (character: string) =>
  `⟨U+${(character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
