/**
 * What the widget's MutationObserver costs a page that changes all the time: CPU time of Chromium's main thread for
 * 10,000 mutations, with and without the widget in the same run. `bun test/bench/observer.ts`, after a build.
 */
import type { BrowserContext } from "playwright-core";
import { endChromium, launch, userAgent } from "../support/chromium.ts";
import { removeLeftovers } from "../support/leftovers.ts";
import { Service } from "../support/service.ts";
import { serve } from "../support/embedding-site.ts";

const ROUNDS = 9;
const SIZES = [1_000, 10_000]; // elements of the page

/** Ways to change a page 10,000 times; each resolves when it is done. */
const workloads = {
  "one text in one task": `new Promise((resolve) => {
    for (let turn = 0; turn < 10_000; turn++) target.textContent = turn;
    setTimeout(resolve);
  })`,
  "one text in 10,000 tasks": `inTasks((turn) => (target.textContent = turn))`,
  "a new row in 10,000 tasks": `inTasks((turn) => {
    const row = document.createElement("p");
    row.append("row " + turn);
    rows.append(row);
    rows.firstChild.remove();
  })`,
};

const helpers = `<script>
  const target = document.getElementById("target");
  const rows = document.getElementById("rows");
  const inTasks = (work) => new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    let turn = 0;
    port1.onmessage = () => {
      work(turn);
      if (++turn === 10_000) resolve();
      else port2.postMessage("");
    };
    port2.postMessage("");
  });
</script>`;

const page = (elements: number, tag: string): string =>
  `<!doctype html><div id="rows">${"<p>a <b>row</b></p>".repeat(elements / 2)}</div><i id="target"></i><b data-headcount>–</b>${tag}${helpers}`;

/** Milliseconds of CPU for each workload, in a new page. */
async function measure(context: BrowserContext, url: string, hasWidget: boolean): Promise<Record<string, number>> {
  const tab = await context.newPage();
  const session = await context.newCDPSession(tab);
  await session.send("Performance.enable", { timeDomain: "threadTicks" });
  await tab.goto(url);
  if (hasWidget) await tab.locator('[data-headcount-state="live"]').waitFor({ state: "attached" });
  const cpuMs = async (): Promise<number> => {
    const { metrics } = await session.send("Performance.getMetrics");
    return metrics.find(({ name }) => name === "TaskDuration")!.value * 1000;
  };
  const spent: Record<string, number> = {};
  for (const [name, expression] of Object.entries(workloads)) {
    const before = await cpuMs();
    await tab.evaluate(expression);
    spent[name] = (await cpuMs()) - before;
  }
  await tab.close();
  return spent;
}

const median = (values: number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;

const service = await Service.start("bun");
const tag = `<script async src="${service.url}/widget.js"></script>`;
const site = serve(({ pathname }) => page(Number(/\d+/.exec(pathname)?.[0]), pathname.endsWith("/with") ? tag : ""));
const context = await (await launch()).newContext({ userAgent });
for (const size of SIZES) {
  const spent = { with: [] as Record<string, number>[], without: [] as Record<string, number>[] };
  for (let round = 0; round < ROUNDS; round++)
    for (const which of round % 2 ? (["with", "without"] as const) : (["without", "with"] as const))
      spent[which].push(await measure(context, `${site.url}/${size}/${which}`, which === "with"));
  for (const name of Object.keys(workloads)) {
    const [bare, watched] = [spent.without, spent.with].map((rounds) => median(rounds.map((round) => round[name]!)));
    console.log(
      `${size} elements, ${name}: ${bare!.toFixed(1)} ms without, ${watched!.toFixed(1)} ms with (${(watched! / bare!).toFixed(2)} ×)`,
    );
  }
}
await endChromium();
service.kill();
removeLeftovers();
process.exit(0);
