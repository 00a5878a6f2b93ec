/** Reading times as a histogram: pure functions that the journal and both engines share. */

import type { Reading } from "./engine.ts";

/** How many views of a page fall into each bucket. As JSON: `{"0":2,"13":1}`. */
export type Histogram = Record<number, number>;

/**
 * Each bucket is a fifth wider than the one before, so every value is within 9.1 % of the middle of its bucket
 * (DDSketch: Masson, Rim and Lee, VLDB 2019).
 */
const GROWTH = 1.2;

/** The bucket of a reading time. Bucket 0 holds everything below a second. */
export const bucketOf = (seconds: number): number =>
  seconds < 1 ? 0 : 1 + Math.floor(Math.log(seconds) / Math.log(GROWTH));

const middleOf = (bucket: number): number => (bucket === 0 ? 0 : (2 * GROWTH ** bucket) / (GROWTH + 1));

/** Reads a stored histogram. A damaged one counts as empty, so it hinders nothing that is recorded later. */
export function parseHistogram(json: string | null | undefined): Histogram {
  try {
    return { ...(JSON.parse(json ?? "{}") as Histogram) };
  } catch {
    return {};
  }
}

/** Adds views to a bucket, or takes them away. A bucket without views is removed. */
export function addViews(histogram: Histogram, bucket: number, views: number): void {
  const sum = (histogram[bucket] ?? 0) + views;
  if (sum === 0) delete histogram[bucket];
  else histogram[bucket] = sum;
}

/** Summarises the views of a page. @param seconds the sum of their reading times */
export function readingOf(histogram: Histogram, seconds: number): Reading {
  const ascending = Object.entries(histogram); // in the order of the buckets, because these are whole numbers
  const views = ascending.reduce((total, [, inBucket]) => total + inBucket, 0);
  const quantile = (share: number) => {
    const rank = share * (views - 1);
    let viewsSoFar = 0;
    for (const [bucket, inBucket] of ascending) {
      viewsSoFar += inBucket;
      if (viewsSoFar > rank) return Math.round(middleOf(Number(bucket)));
    }
    return 0;
  };
  return { views, seconds: Math.round(seconds), median: quantile(0.5), p90: quantile(0.9) };
}
