/** Assertions that many tests of the service share. */
import { expect } from "bun:test";
import type { Answer, Connection, Frame, Upgrade } from "./client.ts";

/** Asserts an RFC 9457 problem document that shows nothing of the inside, and that a page at `origin` may read. */
export function expectProblem(answer: Answer, status: number, origin?: string): void {
  expect([answer.status, answer.text]).toEqual([status, expect.any(String)]);
  expect(answer.headers.get("content-type")).toStartWith("application/problem+json");
  expect(answer.json).toMatchObject({ type: expect.any(String), status });
  expect(answer.json.title).toMatch(/\w/);
  expect(answer.json.detail).toMatch(/\w/);
  expect(answer.text).not.toMatch(/\bat .*\.ts:\d+/);
  if (origin !== undefined) expectReadableBy(origin, answer);
}

/** Asserts the CORS headers that let a page at `origin` read the answer to a request with credentials. */
export function expectReadableBy(origin: string, { headers }: Answer): void {
  expect(headers.get("access-control-allow-origin")).toBe(origin);
  expect(headers.get("access-control-allow-credentials")).toBe("true");
  expect(headers.get("access-control-expose-headers")?.toLowerCase()).toContain("retry-after");
  expect(headers.get("vary")?.toLowerCase()).toContain("origin");
}

/** Asserts a Retry-After in seconds. */
export function expectRetryAfter({ headers }: Answer, { atLeast = 1, atMost = 60 } = {}): void {
  const seconds = Number(headers.get("retry-after"));
  expect(seconds).toBeGreaterThanOrEqual(atLeast);
  expect(seconds).toBeLessThanOrEqual(atMost);
}

/** Asserts something about a status; the failure names what was asked. */
export function expectStatus(asked: string, status: number | undefined, fits: (status: number) => boolean): void {
  expect([asked, status !== undefined && fits(status) ? "fits" : status]).toEqual([asked, "fits"]);
}

export async function expectConnected(upgrading: Promise<Upgrade>): Promise<Connection> {
  const { status, connection, text } = await upgrading;
  expect([status, text]).toEqual([101, ""]);
  return connection!;
}

/** What a page was told one after the other, without the repeats: numbers are repeated now and then. */
export const withoutRepeats = (counts: readonly number[]): number[] =>
  counts.filter((count, index) => count !== counts[index - 1]);

/**
 * Asserts that `connection` receives no other count while `action` runs. Then `control` makes a change that it must
 * receive, which shows that it would have received others too.
 */
export async function expectNoCounts(
  connection: Connection,
  action: () => Promise<void>,
  control: () => Promise<void>,
): Promise<void> {
  const { length: received } = connection.frames;
  const before = { ...connection.now };
  await action();
  const others = connection.frames
    .slice(received)
    .filter(({ site = before.site, page = before.page }: Frame) => site !== before.site || page !== before.page);
  await control();
  expect(others).toEqual([]);
}

/** The text with one character replaced by another one. */
export const flip = (text: string, at: number): string =>
  text.slice(0, at) + (text[at] === "A" ? "B" : "A") + text.slice(at + 1);
