/**
 * The widget beside frameworks that own the page. Each page shows a number. Then its framework does what puts the author's
 * text back or brings another element, and the number must be there again at once, without a frame from the service.
 */
import { afterAll, expect, test } from "bun:test";
import { type Engine, engines } from "../support/engines.ts";
import { observerScript, onServer, script } from "../support/frameworks.ts";
import { suite } from "../support/needs.ts";
import { endServices, Service } from "../support/service.ts";
import { endSites, serve, shows } from "../support/embedding-site.ts";
import { once, sleep, until } from "../support/waiting.ts";

const AT_ONCE_MS = 1000; // the service repeats its numbers after 20 s at the earliest

interface Page {
  /** What the server sends as the page. */
  markup: string;
  /** Defines `act`, which does to the page what its framework does. */
  script: string;
  /** Other pages of the site, or parts of pages, by path. */
  others?: Record<string, string>;
}

const number = '<p><span id="count" data-headcount="">–</span> here</p>';

/** `createElement` of React and Preact. */
const vdom = `
  const view = (h, attributes = {}) =>
    h("p", null, h("span", { id: "count", "data-headcount": "", ...attributes }, attributes.dangerouslySetInnerHTML ? undefined : "–"), " here");`;

const react = (use: string) => `
  import { createElement as h, useState } from "react";
  import { createRoot, hydrateRoot } from "react-dom/client";
  ${vdom}
  const root = document.getElementById("root");
  ${use}`;
const rendered = '<div id="root"><p><span id="count" data-headcount="">–</span> here</p></div>';

const svelteComponent = `<script>let { label } = $props();</script><p><span id="count" data-headcount>{label}</span> here</p>`;

const turbo = async (act: string): Promise<Page> => ({
  markup: `<main>${number}</main>`,
  others: { "/two": `<main><h1>Two</h1>${number}</main>` },
  script: await script(`
    import { visit } from "@hotwired/turbo";
    const loaded = () => new Promise((resolve) => addEventListener("turbo:load", resolve, { once: true }));
    globalThis.act = async () => {
      ${act};
      await loaded();
    };`),
});

const pages: Record<string, () => Promise<Page>> = {
  "React hydrates": async () => ({
    markup: rendered,
    script: await script(react("globalThis.act = () => void hydrateRoot(root, view(h), { onRecoverableError() {} });")),
  }),
  "React mounts an element later, as in a dialog": async () => ({
    markup: `${number}<div id="root"></div>`,
    script: await script(
      react(`
        let open;
        const Dialog = () => {
          const [isOpen, setOpen] = useState(false);
          open = () => setOpen(true);
          return isOpen && h("dialog", { open: true }, h("b", { id: "later", "data-headcount": "" }, "–"));
        };
        createRoot(root).render(h(Dialog));
        globalThis.act = () => open();`),
    ),
  }),
  "React writes another text": async () => ({
    markup: '<div id="root"></div>',
    script: await script(
      react(`
        let say;
        const App = () => {
          const [text, setText] = useState("–");
          say = setText;
          return h("span", { id: "count", "data-headcount": "" }, text);
        };
        createRoot(root).render(h(App));
        globalThis.act = () => say("loading");`),
    ),
  }),
  "Preact hydrates": async () => ({
    markup: rendered,
    script: await script(`
      import { h, hydrate } from "preact";
      ${vdom}
      globalThis.act = () => hydrate(view(h), document.getElementById("root"));`),
  }),
  "Vue hydrates": async () => ({
    markup: '<div id="root"><p><span id="count" data-headcount="">–</span> here</p></div>',
    script: await script(`
      import { createSSRApp, h } from "vue";
      const App = { render: () => h("p", [h("span", { id: "count", "data-headcount": "" }, "–"), " here"]) };
      globalThis.act = () => void createSSRApp(App).mount("#root");`),
  }),
  "Svelte hydrates": async () => ({
    markup: `<div id="root">${await onServer<string>(`
      import { render } from "svelte/server";
      import App from ${JSON.stringify(`component:${svelteComponent}`)};
      export default render(App, { props: { label: "–" } }).body;`)}</div>`,
    script: await script(`
      import { hydrate } from "svelte";
      import App from ${JSON.stringify(`component:${svelteComponent}`)};
      globalThis.act = () => void hydrate(App, { target: document.getElementById("root"), props: { label: "–" } });`),
  }),
  "htmx swaps a part": async () => ({
    markup: `<main>${number}</main>`,
    others: { "/part": number },
    script: await script(`
      import "htmx.org";
      globalThis.act = () => globalThis.htmx.ajax("GET", "/part", { target: "main", swap: "innerHTML" });`),
  }),
  "Turbo visits another page": async () => turbo('visit("/two")'),
  "Turbo comes back to a cached page": async () => turbo('visit("/two"); await loaded(); history.back()'),
  "swup replaces the content": async () => ({
    markup: `<main id="swup" class="transition-main">${number}</main>`,
    others: { "/two": `<title>Two</title><main id="swup" class="transition-main"><h1>Two</h1>${number}</main>` },
    script: await script(`
      import Swup from "swup";
      const swup = new Swup({ animationSelector: false });
      globalThis.act = () => new Promise((resolve) => {
        swup.hooks.once("page:view", resolve);
        swup.navigate("/two");
      });`),
  }),
};

afterAll(() => {
  endSites();
  endServices();
});

const bundled = Object.fromEntries(Object.entries(pages).map(([name, make]) => [name, once(make)]));

for (const { engine, needs } of engines)
  suite(`widget beside frameworks (${engine.name})`, needs, () => frameworks(engine));

function frameworks(engine: Engine): void {
  const start = once(() => Service.start("bun"));
  const onlyTab = once(async () => (await engine.newVisitor()).newTab());
  afterAll(() => engine.end());

  test.each(Object.keys(pages))("%s, and the number stays", async (name) => {
    const { url } = await start();
    const { markup, script, others = {} } = await bundled[name]!();
    const head = `<!doctype html><title>One</title>${observerScript}<script async data-page="/" src="${url}/widget.js"></script>`; // another name would bring a frame
    const site = serve(({ pathname }) =>
      pathname === "/"
        ? head + markup + script
        : pathname === "/part"
          ? others[pathname]
          : others[pathname] && head + others[pathname],
    );
    const tab = await onlyTab();
    await tab.goto(site.url);
    await shows(tab, "1 live", { selector: "#count" });
    await sleep(100); // whatever the first frame causes
    const events = await tab.evaluate<number>("events");
    await tab.evaluate("act()");
    const selector = name.includes("dialog") ? "#later" : "#count";
    await shows(tab, "1 live", { selector, ms: AT_ONCE_MS });
    const authorsText = () => tab.evaluate<string>(`document.querySelector("${selector}").dataset.headcountText ?? ""`);
    await until("the author's text is known", authorsText, AT_ONCE_MS); // the framework may act only now
    expect(await authorsText()).toBe("–");
    expect(await tab.evaluate<number>("events")).toBe(events);
  });
}
