/** The numbers that a page can show, by the value of `data-headcount`, and what each of them is a number of. */
export const NUMBERS = {
  site: "site",
  page: "page",
  peak: "site",
  read: "page",
  views: "page",
  total: "site",
  visitors: "site",
  today: "site",
} as const;

export type NumberName = keyof typeof NUMBERS;

export const NUMBER_NAMES = Object.keys(NUMBERS) as readonly NumberName[];

export const isNumberName = (name: string): name is NumberName => Object.hasOwn(NUMBERS, name);
