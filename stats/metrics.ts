/**
 * Metrics for Prometheus. The parts of the service feed the counters and histograms; gauges are read from the parts at
 * the moment somebody asks.
 */

import process from "node:process";
import { LRUCache } from "lru-cache";
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import { largestSites, type LiveConnections, type LiveSite, type LiveSites } from "./live.ts";

/** Where the gauges are read. */
interface Sources {
  readonly live: LiveSites;
  readonly listedSites: ReadonlySet<string>;
  readonly connections: LiveConnections;
  readonly journal: { readonly failures: number };
  readonly totals: { readonly failures: number };
  readonly engine: { readonly failures: number; readonly lostEntries: number };
  readonly droppedLines: () => number;
  readonly version: string;
}

/** How often requests were refused for one reason since the start. */
interface RefusalCount {
  readonly reason: string;
  readonly count: number;
  /** For a refused Origin: the origins that were refused most recently. */
  readonly origins?: readonly { readonly origin: string; readonly count: number }[];
}

export interface Metrics {
  readonly broadcastDelay: Histogram;
  readonly claimDuration: Histogram;
  /** Plain numbers, because each join changes them. */
  readonly counters: { tokens: number; upgrades: number };
  /** Counts a refusal. @param origin the Origin of the request, when it was the reason */
  refused(reason: string, origin?: string): void;
  refusals(): Promise<RefusalCount[]>;
  /** Registers the gauges. */
  watch(sources: Sources): void;
  /** All metrics in the Prometheus text format. */
  text(): Promise<string>;
}

export const METRICS_CONTENT_TYPE = Registry.PROMETHEUS_CONTENT_TYPE;
const BUCKETS_SECONDS = [0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1, 2];
const MAX_REFUSED_ORIGINS = 20;

export function createMetrics(): Metrics {
  const registry = new Registry();
  const registers = [registry];
  const readers: (() => void)[] = [];
  const refusedOrigins = new LRUCache<string, number>({ max: MAX_REFUSED_ORIGINS });
  const refusals = new Counter({
    name: "headcount_refusals_total",
    help: "Refused requests",
    labelNames: ["reason"],
    registers,
  });
  const histogram = (name: string, help: string) => new Histogram({ name, help, buckets: BUCKETS_SECONDS, registers });
  const counters = { tokens: 0, upgrades: 0 };
  const counter = (name: string, help: string, read: () => number) =>
    readers.push(reader(new Counter({ name, help, registers }), read));
  counter("headcount_tokens_total", "Granted tokens", () => counters.tokens);
  counter("headcount_upgrades_total", "Opened sockets", () => counters.upgrades);
  return {
    counters,
    broadcastDelay: histogram("headcount_broadcast_delay_seconds", "From a change to its last frame"),
    claimDuration: histogram("headcount_engine_seconds", "Time that the engine took to claim a token"),
    refused(reason, origin) {
      refusals.inc({ reason });
      if (origin !== undefined) refusedOrigins.set(origin, (refusedOrigins.get(origin) ?? 0) + 1);
    },
    async refusals() {
      const origins = Array.from(refusedOrigins.entries(), ([origin, count]) => ({ origin, count }));
      const { values } = await refusals.get();
      return values.map(({ labels, value: count }) => {
        const reason = String(labels["reason"]);
        return reason === "origin" ? { reason, count, origins } : { reason, count };
      });
    },
    watch: (sources) => readers.push(...gauges(registry, sources)),
    text() {
      for (const read of readers) read();
      return registry.metrics();
    },
  };
}

/** Such as `Bun 1.4.5`. */
export const runtimeName = (): string =>
  typeof Bun === "undefined" ? `Deno ${Deno.version.deno}` : `Bun ${Bun.version}`;

/** Returns a function that brings a metric up to date. */
const reader = (metric: Counter | Gauge, read: () => number) => () => {
  metric.reset();
  metric.inc(read());
};

/** Registers the gauges, and returns the functions that bring them up to date. */
function gauges(
  registry: Registry,
  { live, listedSites, connections, journal, totals, engine, droppedLines, version }: Sources,
): (() => void)[] {
  const registers = [registry];
  const { counters } = connections;
  const gauge = (name: string, help: string, read: () => number) => reader(new Gauge({ name, help, registers }), read);
  const counter = (name: string, help: string, read: () => number) =>
    reader(new Counter({ name, help, registers }), read);
  const perSite = (name: string, help: string, read: (site: LiveSite) => number) => {
    const metric = new Gauge({ name, help, labelNames: ["site"], registers });
    return () => {
      metric.reset();
      for (const site of listedSites) metric.set({ site }, 0); // so that a quiet site is 0, and not missing
      for (const site of largestSites(live, listedSites)) metric.set({ site: site.room.site }, read(site));
    };
  };
  const runtime = runtimeName();
  new Gauge({ name: "headcount_build_info", help: "1", labelNames: ["version", "runtime"], registers }).set(
    { version, runtime },
    1,
  );
  return [
    perSite("headcount_visitors_online", "Distinct visitors", ({ room }) => room.count ?? 0),
    perSite("headcount_pages_online", "Open pages on this node, observers included", ({ audience }) => audience),
    gauge("headcount_connections", "Open sockets of this node", () => connections.size),
    gauge("headcount_stale", "1 while the engine is away", () => Number(connections.stale)),
    counter("headcount_frames_sent_total", "Frames sent to pages", () => counters.frames),
    counter("headcount_pings_sent_total", "Pings sent to pages", () => counters.pings),
    counter("headcount_pings_lost_total", "Sockets closed because nothing came back", () => counters.silent),
    counter("headcount_slow_readers_total", "Sockets closed because too much was unread", () => counters.slow),
    counter("headcount_journal_errors_total", "Times the journal could not be written", () => journal.failures),
    counter("headcount_totals_errors_total", "Times visitors could not be counted at once", () => totals.failures),
    counter("headcount_engine_errors_total", "Calls of the engine that failed", () => engine.failures),
    counter("headcount_statistics_lost_total", "Statistics entries that the engine gave up", () => engine.lostEntries),
    counter("headcount_log_lines_dropped_total", "Log lines that nobody read in time", droppedLines),
    gauge("process_resident_memory_bytes", "Resident memory", () => process.memoryUsage.rss()),
    gauge("process_start_time_seconds", "When this process started", () => performance.timeOrigin / 1_000),
  ];
}
