/** list.js in Chromium: a list of posts beside the widget, counted by the service. */
import { expect, test } from "bun:test";
import { suite } from "../support/needs.ts";
import { endOwnPages } from "../support/own-pages-hooks.ts";
import { newBrowser, open, shows, startService, stopAtTheEnd } from "../support/own-pages.ts";
import { runtimes } from "../support/service.ts";

endOwnPages();

const POSTS = ["/first", "/中文", "/third"];
const LIST = POSTS.map(
  (post) => `<li><a href="${post}">${post}</a> <b data-headcount="views" data-headcount-page="${post}">–</b>
    <i data-headcount="page" data-headcount-page="${post}/index.html">–</i></li>`,
).join("");

suite("list", ["chromium"], () => {
  for (const runtime of runtimes)
    test(`shows the views of each post, and who is there, by one request (${runtime})`, async () => {
      const service = await startService({ SITES: "" }, runtime);
      const tags = ["widget", "list"].map((name) => `<script async src="${service.url}/${name}.js"></script>`).join("");
      const html = `<!doctype html><html lang="en"><meta charset="utf-8"><p data-headcount="views">–</p>${tags}`;
      const server = Bun.serve({
        port: 0,
        hostname: "127.0.0.1",
        fetch: ({ url }) =>
          new Response(new URL(url).pathname === "/" ? `${html}<ul>${LIST}</ul>` : html, {
            headers: { "content-type": "text/html" },
          }),
      });
      stopAtTheEnd({ stop: () => server.stop(true) });
      const url = `http://127.0.0.1:${server.port}`;
      const browser = await newBrowser();
      for (const post of ["/first", "/first", "/中文"]) {
        const { page } = await open(browser, url + post);
        await shows(page, "p", /^[12]$/);
        if (post === "/first") await page.close();
      }

      const { page, errors } = await open(browser, "about:blank");
      const asked: string[] = [];
      page.on("request", (request) => request.url().includes("/count") && asked.push(request.url()));
      await page.goto(`${url}/`);
      const numbers = () => page.locator("li :is(b, i)").allTextContents();
      await shows(page, "b", "2");
      expect(await numbers()).toEqual(["2", "0", "1", "1", "0", "0"]);
      await shows(page, "p", "1"); // the widget, which leaves the list alone
      expect(await numbers()).toEqual(["2", "0", "1", "1", "0", "0"]);
      expect(asked).toHaveLength(1);

      await page.evaluate(`document.body.insertAdjacentHTML("beforeend",
        '<u data-headcount="views" data-headcount-page="/first">–</u><s data-headcount="views" data-headcount-page="/">–</s>')`);
      await shows(page, "u", "2");
      await shows(page, "s", "1");
      expect(asked).toHaveLength(2);
      expect(errors).toEqual([]);
    });
});
