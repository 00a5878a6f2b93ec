/** The widget: the token request and the socket that follows. */
import { describe, expect, test } from "bun:test";
import { Page } from "../support/fake-browser.ts";

describe("widget: connection", () => {
  test("asks for a token without preflight, and opens the socket with it", async () => {
    const page = await Page.open();
    const [{ url, init, body } = {} as never] = page.tokens;
    expect(url).toBe("https://count.example/token");
    expect(init).toMatchObject({ method: "POST", credentials: "include" });
    expect(init.headers).toBeUndefined(); // a text body and no header: a simple request
    expect(body).toEqual({ page: "/page", again: false, observe: false });
    expect(page.socket.url).toBe("wss://count.example/ws?token=a.token");
  });

  test.each([
    ['src="https://count.example/widget.js"', "https://count.example/"],
    ['src="https://count.example/widget.js?v=a/b"', "https://count.example/"],
    ['src="https://site.example/count/widget.js"', "https://site.example/count/"],
    ['src="https://cdn.example/w.js" data-server="https://count.example"', "https://count.example/"],
    ['src="https://cdn.example/w.js" data-server="https://count.example/base"', "https://count.example/base/"],
    ['src="https://cdn.example/w.js" data-server="http://localhost:3000/base/"', "http://localhost:3000/base/"],
    ['data-server="https://count.example"', "https://count.example/"], // inline, without src
  ])("%s is served by %s", async (attributes, server) => {
    const page = await Page.open({ tag: `<script ${attributes}></script>` });
    expect(page.requests[0]!.url).toBe(`${server}token`);
    expect(page.socket.url).toBe(`${server.replace("http", "ws")}ws?token=a.token`);
  });

  test("does nothing without a script of its own, and says so once", () => {
    const page = new Page({ tag: "" });
    expect(page.requests).toEqual([]);
    expect(page.events).toEqual([]);
    expect(page.warnings).toEqual(["headcount: no <script>"]);
  });
});
