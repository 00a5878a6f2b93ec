/** What the dashboard asks of its service. */
import { ask as texts } from "#texts";
import { base } from "./dom.ts";
import { wordsOf } from "./refusals.ts";
import { type Problem, reasonIn } from "./words.ts";

const PATIENCE_MS = 10_000; // for an answer

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
  const problem: Problem = await failure.json().catch(() => ({}));
  return wordsOf(reasonIn(problem), problem.title ?? `HTTP ${failure.status}`);
}

/** The operator's password is not, or no longer, the one that the browser sends. */
export const isRefusedPassword = (failure: unknown): boolean => failure instanceof Response && failure.status === 401;
