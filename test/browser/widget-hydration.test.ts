/** The lines of docs/frameworks.md that keep a hydration quiet, in Chromium with the development builds of the frameworks. */
import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import { engines } from "../support/engines.ts";
import { observerScript, onServer, script } from "../support/frameworks.ts";
import { suite } from "../support/needs.ts";
import { endServices, Service } from "../support/service.ts";
import { endSites, serve, shows } from "../support/embedding-site.ts";
import { once, sleep, until } from "../support/waiting.ts";

const { engine, needs } = engines[0]!;

afterAll(async () => {
  await engine.end();
  endSites();
  endServices();
});

const inRoot = (inside: string): string => `<div id="root">${inside}</div>`;
const rendered = inRoot('<p><span data-headcount="">–</span> here</p>');

const react = (attributes: string, children: string) => ({
  markup: rendered,
  source: `
    import { createElement as h } from "react";
    import { hydrateRoot } from "react-dom/client";
    const view = h("p", null, h("span", ${attributes}, ${children}), " here");
    globalThis.act = () => void hydrateRoot(document.getElementById("root"), view);`,
});

const vue = (attributes: string, markup = rendered) => ({
  markup,
  source: `
    import { createSSRApp, h } from "vue";
    const App = { render: () => h("p", [h("span", ${attributes}, "–"), " here"]) };
    globalThis.act = () => void createSSRApp(App).mount("#root");`,
});

const svelte = async (component: string) => ({
  markup: inRoot(
    await onServer<string>(`
      import { render } from "svelte/server";
      import App from ${JSON.stringify(`component:${component}`)};
      export default render(App, {}).body;`),
  ),
  source: `
    import { hydrate } from "svelte";
    import App from ${JSON.stringify(`component:${component}`)};
    globalThis.act = () => void hydrate(App, { target: document.getElementById("root") });`,
});

const preact = (attributes: string, children: string) => ({
  markup: rendered,
  source: `
    import "preact/debug";
    import { h, hydrate } from "preact";
    const view = h("p", null, h("span", ${attributes}, ${children}), " here");
    globalThis.act = () => hydrate(view, document.getElementById("root"));`,
});

suite("widget and hydration", needs, () => {
  const start = once(() => Service.start("bun"));
  const onlyTab = once(async () => (await engine.newVisitor()).newTab());

  /** What the framework complains of when it hydrates a page that shows its number already. */
  const complaintsOf = async ({ markup, source }: { markup: string; source: string }): Promise<string[]> => {
    const tag = `<script async src="${(await start()).url}/widget.js"></script>`;
    const html = `<!doctype html>${observerScript}${tag}${markup}${await script(source, { development: true })}`;
    const tab = await onlyTab();
    await tab.goto(serve(({ pathname }) => (pathname === "/" ? html : undefined)).url);
    await shows(tab, "1 live");
    await tab.evaluate("act()");
    await sleep(300);
    await shows(tab, "1 live", { ms: 1000 });
    return tab.evaluate("complaints");
  };

  test("React complains, and does not with suppressHydrationWarning", async () => {
    expect((await complaintsOf(react(`{ "data-headcount": "" }`, `"–"`))).join()).toContain("Hydration failed");
    expect(await complaintsOf(react(`{ "data-headcount": "", suppressHydrationWarning: true }`, `"–"`))).toEqual([]);
  });

  test("the component that listens to the event shows the number", async () => {
    const docs = await Bun.file(join(import.meta.dir, "../../docs/frameworks.md")).text();
    const component = /```jsx\n([^]*?)```/.exec(docs)![1]!.replace("<span>", '<span id="online">');
    const source = `
      import { createRoot } from "react-dom/client";
      ${component}
      createRoot(document.getElementById("root")).render(<Online />);`;
    const html = `<!doctype html>${inRoot("")}${await script(source)}<script async src="${(await start()).url}/widget.js"></script>`;
    const tab = await onlyTab();
    await tab.goto(serve(({ pathname }) => (pathname === "/" ? html : undefined)).url);
    await until("1", () => tab.evaluate("document.getElementById('online').textContent === '1'"));
  });

  test("the hooks of the recipes show the number: React's hydrates quietly, and Vue's is a ref", async () => {
    const docs = await Bun.file(join(import.meta.dir, "../../docs/recipes.md")).text();
    const [reactHook, vueHook] = Array.from(
      docs.matchAll(/```js\n((?:"use client";\n)?import [^]*?)```/g),
      ([, code]) => code!,
    );
    const component = `
      ${reactHook}
      function Online() {
        const { site, state } = useHeadcount();
        return <b id="online" className={state}>{site ?? "–"}</b>;
      }`;
    const inReact = await onServer<string>(`
      import { renderToString } from "react-dom/server";
      ${component}
      export default renderToString(<Online />);`);
    expect(inReact).toBe('<b id="online" class="connecting">–</b>');
    const hydrating = `
      import { hydrateRoot } from "react-dom/client";
      ${component}
      hydrateRoot(document.getElementById("root"), <Online />);`;
    const inVue = `
      import { createApp, h } from "vue";
      ${vueHook}
      createApp({
        setup() {
          const numbers = useHeadcount();
          return () => h("b", { id: "online", class: numbers.value.state }, numbers.value.site ?? "–");
        },
      }).mount("#root");`;
    for (const [source, rendering] of [
      [hydrating, inReact],
      [inVue, ""],
    ] as const) {
      const root = `<div id="root">${rendering}</div>${await script(source, { development: true })}`;
      const html = `<!doctype html>${observerScript}${root}<script async src="${(await start()).url}/widget.js"></script>`;
      const tab = await onlyTab();
      await tab.goto(serve(({ pathname }) => (pathname === "/" ? html : undefined)).url);
      const online = "document.getElementById('online')";
      await until("1 live", () => tab.evaluate(`${online}.textContent + ${online}.className === "1live"`));
      const said = await tab.evaluate<string[]>("complaints");
      expect(said.filter((words) => !/feature flag|development version|DevTools/i.test(words))).toEqual([]);
    }
  });

  test("Preact complains of nothing, with or without dangerouslySetInnerHTML", async () => {
    expect(await complaintsOf(preact(`{ "data-headcount": "" }`, `"–"`))).toEqual([]);
    const inner = `{ "data-headcount": "", dangerouslySetInnerHTML: { __html: "–" } }`;
    expect(await complaintsOf(preact(inner, "undefined"))).toEqual([]);
  });

  test("Vue complains, and does not with data-allow-mismatch", async () => {
    const noise = /feature flag|development version/i;
    const complaints = async (attributes: string, markup?: string): Promise<string> =>
      (await complaintsOf(vue(attributes, markup))).filter((words) => !noise.test(words)).join();
    expect(await complaints(`{ "data-headcount": "" }`)).toContain("Hydration text");
    const allowed = rendered.replace("span ", 'span data-allow-mismatch="text" '); // Vue's server writes it as well
    expect(await complaints(`{ "data-headcount": "", "data-allow-mismatch": "text" }`, allowed)).toBe("");
  });

  test("Svelte complains of nothing", async () => {
    expect(await complaintsOf(await svelte("<p><span data-headcount>–</span> here</p>"))).toEqual([]);
  });
});
