/** Reading times as a histogram: pure functions. */

import type { ReadingSum } from "../engine/engine.ts";

/** How a page was read. `seconds` is the sum over all views; `median` and `p90` are seconds of one view, within 10 %. */
export interface Reading {
  readonly views: number;
  readonly seconds: number;
  readonly median: number;
  readonly p90: number;
}

/**
 * Each bucket is a fifth wider than the one before, so every value is within 9.1 % of the middle of its bucket
 * (DDSketch: Masson, Rim and Lee, VLDB 2019).
 */
const GROWTH = 1.2;

/** The bucket of a reading time. Bucket 0 holds everything below a second. */
export const bucketOf = (seconds: number): number =>
  seconds < 1 ? 0 : 1 + Math.floor(Math.log(seconds) / Math.log(GROWTH));

const middleOf = (bucket: number): number => (bucket === 0 ? 0 : (2 * GROWTH ** bucket) / (GROWTH + 1));

/** Summarises the histogram of a page, or the histograms of several pages as if they were one. */
export function readingOf(sums: readonly ReadingSum[]): Reading {
  const ascending = sums.toSorted((a, b) => a.bucket - b.bucket);
  const views = sums.reduce((total, sum) => total + sum.views, 0);
  const seconds = sums.reduce((total, sum) => total + sum.seconds, 0);
  const quantile = (share: number) => {
    const rank = share * (views - 1);
    let viewsSoFar = 0;
    for (const { bucket, views: inBucket } of ascending) {
      viewsSoFar += inBucket;
      if (viewsSoFar > rank) return Math.round(middleOf(bucket));
    }
    return 0;
  };
  return { views, seconds: Math.round(seconds), median: quantile(0.5), p90: quantile(0.9) };
}
