/** The tag in each engine: as a module, imported, evaluated, twice, of two services, and elements as JSX writes them. */
import { afterAll, expect, test } from "bun:test";
import { ask } from "../support/client.ts";
import { type Engine, engines, type Tab } from "../support/engines.ts";
import { suite } from "../support/needs.ts";
import { endServices, Service } from "../support/service.ts";
import { endSites, recorder, serve, settled, shows, tag, warnings } from "../support/embedding-site.ts";
import { once, sleep } from "../support/waiting.ts";

afterAll(() => {
  endSites();
  endServices();
});

for (const { engine, needs } of engines) suite(`widget tag (${engine.name})`, needs, () => tags(engine));

function tags(engine: Engine): void {
  const start = once(() => Service.start("bun", { GRACE_SECONDS: 0 }));
  const onlyTab = once(async () => (await engine.newVisitor()).newTab());
  afterAll(() => engine.end());

  const open = async (html: string): Promise<Tab> => {
    const tab = await onlyTab();
    await tab.goto(serve(() => `<!doctype html>${recorder}${html}`).url);
    return tab;
  };
  const element = "<b data-headcount>–</b>";

  test("a module finds its tag, and what the tag says", async () => {
    const { url } = await start();
    const tab = await open(
      `${element}<b id="page" data-headcount="page">–</b><script type="module" data-page="/named" src="${url}/widget.js"></script>`,
    );
    await shows(tab, "1 live", { selector: "#page" });
    expect((await ask(url, "GET /count?site=localhost&page=/named")).json.page).toBe(1);
    expect(await warnings(tab)).toEqual([]);
  });

  test("import() of the widget works beside a tag that is never run, and asks for one otherwise", async () => {
    const { url } = await start();
    const imported = `<script type="module">import("${url}/widget.js")</script>`;
    const beside = await open(`${element}<script type="text/plain" src="${url}/widget.js"></script>${imported}`);
    await shows(beside, "1 live");
    const alone = await open(element + imported);
    expect((await settled(alone, 500)).warned).toEqual(["headcount: no <script>"]);
  });

  test("eval of the widget's text asks for a tag, once", async () => {
    const { url } = await start();
    const tab = await open(
      `${element}<script type="module">eval(await (await fetch("${url}/widget.js")).text())</script>`,
    );
    expect(await settled(tab, 500)).toEqual({
      warned: ["headcount: no <script>"],
      asked: [`${url}/widget.js`],
    });
  });

  test("of two services on one page one counts, and the console says which", async () => {
    const { url } = await start();
    const other = await Service.start("bun");
    const tab = await open(
      `${element}<script src="${url}/widget.js"></script><script src="${other.url}/widget.js"></script>`,
    );
    await shows(tab, "1 live");
    expect(await warnings(tab)).toEqual([`headcount: counted by ${url}/`]);
    expect((await ask(other.url, "GET /count?site=localhost")).json.site).toBe(0);
  });

  test("the tag of one service pasted twice asks for one token", async () => {
    const { url } = await start();
    const tab = await open(tag(url) + tag(url));
    await shows(tab, "1 live");
    await sleep(500);
    expect(await tab.evaluate<string[]>("asked")).toEqual([`${url}/token`]);
    expect(await warnings(tab)).toEqual([]);
  });

  test("an attribute that JSX wrote as true means the site", async () => {
    const { url } = await start();
    const tab = await open(`<b data-headcount="true">–</b><script async src="${url}/widget.js"></script>`);
    await shows(tab, "1 live");
  });
}
