/** What the dashboard asks of its service. */
import { ask as texts } from "#texts";
import { wordsOf } from "./refusals.ts";

const PATIENCE_MS = 10_000; // for an answer

/** Relative addresses would inherit a user and a password from the address bar, and `fetch` refuses those. */
export const base = new URL(".", location.origin + location.pathname).href;

/** @throws {Response | Error} */
export async function ask<Answer>(path: string, signal?: AbortSignal): Promise<Answer> {
  const patience = AbortSignal.timeout(PATIENCE_MS);
  const response = await fetch(base + path, { signal: signal ? AbortSignal.any([signal, patience]) : patience });
  if (!response.ok) throw response;
  return response.json();
}

/** What went wrong, in words. */
export async function reasonOf(failure: unknown): Promise<string> {
  if (!(failure instanceof Response)) return texts.noAnswer;
  const { type = "", title = `HTTP ${failure.status}` } = await failure.json().catch(() => ({}));
  return wordsOf(type.replace("urn:headcount:problem:", ""), title);
}

/** The operator's password is not, or no longer, the one that the browser sends. */
export const isRefusedPassword = (failure: unknown): boolean => failure instanceof Response && failure.status === 401;
