/**
 * The journal: how long pages are read, and how many visitors were online when.
 *
 * The journal keeps sums until the engine has taken them, and never what a single visitor did: a view ends up as one
 * more in a bucket of its page's histogram. Views that still go on are recorded too, and moved to a higher bucket as
 * they grow, so a crash loses at most the last 5 s.
 */

import {
  DAY_MINUTES,
  type Log,
  messageOf,
  MINUTE_MS,
  type Peak,
  type ReadingSum,
  type RoomName,
  type StatsEntries,
  type StatsStore,
} from "../engine/engine.ts";
import { LRUCache } from "lru-cache";
import { inPortions } from "../engine/portions.ts";
import { bucketOf } from "../engine/reading.ts";
import type { LiveRoom, LiveSites, PeakSource, RecordedSites } from "./live.ts";
import type { Totals } from "./totals.ts";

/** One view of a page, as the journal sees it. The journal alone changes the fields that are not readonly. */
export interface View {
  /** "" for an observer, who is not recorded. */
  readonly visitor: string;
  readonly room: RoomName;
  beganAt: number;
  /** Since when the reader has been active; undefined while the reader is away. */
  activeSince: number | undefined;
  /** How long the reader was active before that. */
  activeMs: number;
  /** The reading time that is recorded of this view; undefined before the first time. */
  recordedSeconds: number | undefined;
  /** False for an observer, and for a further view of the same page by the same visitor at the same time. */
  isRecorded: boolean;
}

interface JournalOptions {
  readonly store: StatsStore;
  readonly live: LiveSites & PeakSource;
  readonly totals: Totals;
  readonly sites: RecordedSites;
  /** Milliseconds since 1970. */
  readonly wallClock: () => number;
  readonly log: Log;
}

/** How a view begins. */
interface ViewStart {
  /** Whether the visitor has no other view of this page now. */
  readonly isOnlyView: boolean;
  /** Whether the page says that this view was counted before, and lost its connection. */
  readonly isContinued: boolean;
}

/** What is kept of a view that may continue. */
type EndedView = Pick<View, "beganAt" | "activeMs" | "recordedSeconds">;

/** A number that is read from the engine now and then. */
interface Cached {
  value: number | undefined;
  expiresAt: number;
}

interface RecordedPeak extends Peak {
  readonly site: string;
  isStored: boolean;
}

const MIN_VIEW_MS = 1_000; // fifty moves in an instant are not fifty readings
const MAX_VIEW_SECONDS = 3_600;
const CACHE_MS = 60_000; // how old a peak and a median may be when pages show them
const CONTINUE_MS = 120_000; // a view that reconnects later is a new reading
const MAX_ENDED_VIEWS = 20_000;
const MAX_SUMS = 50_000; // what is kept in memory for an engine that cannot take it

const viewKey = ({ visitor, room }: View) => `${room.site} ${visitor} ${room.page}`;

export class Journal {
  /** How often the engine could not take what was to be recorded. */
  failures = 0;
  readonly #options: JournalOptions;
  /** What the engine has not taken yet, by page and bucket. */
  #sums = new Map<RoomName, Map<number, ReadingSum>>();
  #sumCount = 0;
  /** The newest peak of each site. */
  readonly #peaks = new Map<string, RecordedPeak>();
  /** The peak of 24 hours by site, and the median reading time by page. An entry goes with its room. */
  readonly #dayPeaks = new WeakMap<RoomName, Cached>();
  readonly #medians = new WeakMap<RoomName, Cached>();
  readonly #endedViews = new LRUCache<string, EndedView>({ max: MAX_ENDED_VIEWS, ttl: CONTINUE_MS });
  #isFailing = false;

  constructor(options: JournalOptions) {
    this.#options = options;
  }

  /** A view begins, or continues after a reconnect. */
  beginView(view: View, { isOnlyView, isContinued }: ViewStart, now: number): void {
    const ended = isContinued ? this.#endedViews.get(viewKey(view)) : undefined;
    view.beganAt = ended?.beganAt ?? now;
    view.activeSince = now;
    view.activeMs = ended?.activeMs ?? 0;
    view.recordedSeconds = ended?.recordedSeconds;
    view.isRecorded = isOnlyView && view.visitor !== "";
  }

  /** The reader left the page, or came back to it. */
  setActive(view: View, isActive: boolean, now: number): void {
    if (view.activeSince !== undefined) view.activeMs += now - view.activeSince;
    view.activeSince = isActive ? now : undefined;
  }

  /** The view is over. @param mayContinue whether the page may have lost its connection only, and reconnect */
  endView(view: View, mayContinue: boolean, now: number): void {
    this.#measure(view, now);
    if (mayContinue && view.isRecorded) {
      const { beganAt, activeMs, activeSince, recordedSeconds } = view;
      const running = activeSince === undefined ? 0 : now - activeSince;
      this.#endedViews.set(viewKey(view), { beganAt, activeMs: activeMs + running, recordedSeconds });
    }
    view.isRecorded = false;
  }

  /** Whether the last attempt to write has failed. */
  get isFailing(): boolean {
    return this.#isFailing;
  }

  /** Gives everything to the engine, views that still go on included. The journal keeps and retries what the engine refuses. */
  async record(views: Iterable<View>, now: number): Promise<void> {
    await inPortions(views, (view) => this.#measure(view, now));
    this.#notePeaks();
    const sums = this.#sums;
    const readings = [...sums.values()].flatMap((buckets) => Array.from(buckets.values()));
    const peaks = [...this.#peaks.values()].filter((peak) => !peak.isStored);
    const viewSums = this.#options.totals.takeViews();
    if (readings.length === 0 && peaks.length === 0 && viewSums.length === 0)
      return this.#options.totals.viewsStored([]);
    this.#sums = new Map();
    this.#sumCount = 0;
    try {
      await this.#store({ readings, peaks, views: viewSums, unlistedSites: this.#options.sites.unlisted });
      for (const peak of peaks) peak.isStored = true;
      this.#options.totals.viewsStored(viewSums);
    } catch {
      // #store has reported the failure
      this.#options.totals.giveBackViews(viewSums);
      for (const [room, buckets] of sums)
        for (const { bucket, views: count, seconds } of buckets.values()) this.#add(room, bucket, count, seconds);
    }
  }

  /**
   * Reads the site's peak and the page's median again where they are old.
   * @returns true when either has changed; undefined when there is nothing to read
   */
  refresh(site: LiveRoom, page: RoomName, now: number): Promise<boolean> | undefined {
    const peak = this.#dayPeaks.get(site);
    const median = this.#medians.get(page);
    const areFresh = peak !== undefined && median !== undefined && now < peak.expiresAt && now < median.expiresAt;
    return areFresh ? undefined : this.#refreshBoth(site, page, now);
  }

  async #refreshBoth(site: LiveRoom, page: RoomName, now: number): Promise<boolean> {
    const [peakChanged, medianChanged] = await Promise.all([
      this.#refresh(this.#dayPeaks, site, now, () => this.peak(site.site)),
      this.#refresh(this.#medians, page, now, (known) => this.#readMedian(page, known)),
    ]);
    return peakChanged || medianChanged;
  }

  /** The highest count of the site in 24 hours as pages are told it: at most a minute old, and never below the current count. */
  dayPeak(site: LiveRoom): number | undefined {
    const cached = this.#dayPeaks.get(site);
    if (cached?.value === undefined) return undefined;
    cached.value = Math.max(cached.value, site.count ?? 0);
    return cached.value;
  }

  /** The median reading time of the page in seconds as pages are told it: at most a minute old; undefined while unknown. */
  median(page: RoomName): number | undefined {
    return this.#medians.get(page)?.value;
  }

  /** The highest count of a site in the last 24 hours, the current count included. */
  async peak(site: string): Promise<number> {
    const from = Math.floor(this.#options.wallClock() / MINUTE_MS) - DAY_MINUTES;
    const past = await this.#options.store.history(site, from, DAY_MINUTES).catch(() => []); // then what is known here
    const noted = this.#peaks.get(site);
    const recent = noted !== undefined && noted.minute >= from ? noted.peak : 0;
    return Math.max(this.#options.live.count(site) ?? 0, recent, ...past.map(({ peak }) => peak));
  }

  async #refresh(
    cache: WeakMap<RoomName, Cached>,
    room: RoomName,
    now: number,
    read: (known: number | undefined) => Promise<number | undefined>,
  ): Promise<boolean> {
    const cached = cache.get(room) ?? { value: undefined, expiresAt: 0 };
    if (now < cached.expiresAt) return false;
    cached.expiresAt = now + CACHE_MS; // before the answer, so that it is asked for once
    cache.set(room, cached);
    const before = cached.value;
    cached.value = await read(before);
    return cached.value !== before;
  }

  /** While the engine is away, the median is the one known before. */
  async #readMedian({ site, page }: RoomName, known: number | undefined): Promise<number | undefined> {
    const reading = await this.#options.store.reading(site, page ?? "").catch(() => undefined);
    if (reading === undefined) return known;
    return reading.views === 0 ? undefined : reading.median;
  }

  async #store(entries: StatsEntries): Promise<void> {
    try {
      await this.#options.store.record(entries);
      this.#isFailing = false;
    } catch (error) {
      this.failures += 1;
      const message = messageOf(error);
      if (!this.#isFailing) this.#options.log("error", "the journal cannot be written and is tried again", { message });
      this.#isFailing = true;
      throw error;
    }
  }

  /** Moves a view to the bucket that it has reached by now. */
  #measure(view: View, now: number): void {
    const { room, recordedSeconds: recorded } = view;
    if (!view.isRecorded || now - view.beganAt < MIN_VIEW_MS) return;
    const running = view.activeSince === undefined ? 0 : now - view.activeSince;
    const seconds = Math.min(MAX_VIEW_SECONDS, (view.activeMs + running) / 1_000);
    if (seconds === recorded || !this.#options.sites.admit(room.site)) return;
    const bucket = bucketOf(seconds);
    if (recorded !== undefined && bucketOf(recorded) === bucket) this.#add(room, bucket, 0, seconds - recorded);
    else {
      if (recorded !== undefined) this.#add(room, bucketOf(recorded), -1, -recorded);
      this.#add(room, bucket, 1, seconds);
    }
    view.recordedSeconds = seconds;
  }

  #add(room: RoomName, bucket: number, views: number, seconds: number): void {
    const sums = this.#sums.get(room) ?? new Map<number, ReadingSum>();
    const sum = sums.get(bucket);
    if (sum !== undefined) {
      sum.views += views;
      sum.seconds += seconds;
    } else if (this.#sumCount < MAX_SUMS) {
      this.#sumCount += 1;
      this.#sums.set(room, sums.set(bucket, { site: room.site, page: room.page ?? "", bucket, views, seconds }));
    }
  }

  /** Notes the highest count of each site since the last time, as a peak of the current minute. */
  #notePeaks(): void {
    const minute = Math.floor(this.#options.wallClock() / MINUTE_MS);
    for (const { site, peak } of this.#options.live.takePeaks()) {
      const noted = this.#peaks.get(site);
      const isKnown = noted?.minute === minute && noted.peak >= peak;
      if (peak > 0 && !isKnown && this.#options.sites.admit(site))
        this.#peaks.set(site, { site, minute, peak, isStored: false });
    }
  }
}
