/** An SVG badge with one number, for READMEs and pages without JavaScript. */

import { escapeMarkup } from "../shared/markup.ts";

export interface Badge {
  readonly label: string;
  readonly value: string;
  /** A color that CSS knows. */
  readonly color: string;
}

export const MAX_LABEL_LENGTH = 40;
export const USUAL_COLOR = "#1a7f4b"; // green
const HEIGHT = 20;
const PADDING = 7;
/** Widths of characters in Verdana at 11 px, and a little more, because the reader may have another font. */
const NARROW = 7;
const WIDE = 11; // Chinese, Japanese, Korean and pictures

const widthOf = (text: string): number => {
  const widths = Array.from(text, (character) => ((character.codePointAt(0) ?? 0) < 0x1100 ? NARROW : WIDE));
  return widths.reduce((sum, width) => sum + width, 0) + 2 * PADDING;
};

/** `4c1`, `#4c1`, `red` → a color that CSS knows; anything else → undefined */
export function parseColor(text: string): string | undefined {
  const hex = /^#?([\da-f]{3}|[\da-f]{6})$/i.exec(text)?.[1];
  if (hex !== undefined) return `#${hex}`;
  return /^[a-z]{3,20}$/i.test(text) ? text : undefined;
}

export function drawBadge({ label, value, color }: Badge): string {
  const left = label === "" ? 0 : widthOf(label);
  const right = widthOf(value);
  const [labelText, valueText, name] = [label, value, `${value} ${label}`.trim()].map(escapeMarkup);
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${left + right}" height="${HEIGHT}" role="img" aria-label="${name}">
<title>${name}</title>
<clipPath id="c"><rect width="${left + right}" height="${HEIGHT}" rx="4"/></clipPath>
<g clip-path="url(#c)"><rect width="${left}" height="${HEIGHT}" fill="#444"/><rect x="${left}" width="${right}" height="${HEIGHT}" fill="${escapeMarkup(color)}"/></g>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">
<text x="${left / 2}" y="14">${labelText}</text><text x="${left + right / 2}" y="14">${valueText}</text>
</g>
</svg>
`;
}
