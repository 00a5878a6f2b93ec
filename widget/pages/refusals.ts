/** Why the service refuses requests, in the language of the page. The service itself says it in English. */
import { refusals } from "#texts";

const words: Partial<Record<string, string>> = refusals;

/** @param title what the service calls the reason, for one that this page does not know */
export const wordsOf = (reason: string, title: string): string => words[reason] ?? title;
