/** The service's own pages. */
import { describe, expect, test } from "bun:test";
import { setUp } from "../support/routes.ts";

describe("pages", () => {
  test("the documentation comes along, and its links know where they are", async () => {
    const { request } = await setUp();
    const text = async (path: string) => (await request(path)).text();
    expect(await text("/docs")).toMatch(/^<!-- README.md.html -->.*<a href=docs>/);
    expect(await text("/docs/README.md")).toMatch(/^<!-- README.md.html -->.*<a href=..\/docs>/);
    expect(await text("/docs/proxies.md")).toMatch(/^<!-- docs\/proxies.md.html -->.*<a href=..\/docs>/);
    expect((await request("/docs/package.json")).status).toBe(404);
  });

  test("pages come in the language that the browser prefers, English unless there is another", async () => {
    const { request } = await setUp();
    const languageFor = async (asked: string, path = "/"): Promise<string | undefined> =>
      /^<!-- (.*?)\.html/.exec(await (await request(path, { headers: { "Accept-Language": asked } })).text())?.[1];
    for (const chinese of ["zh-CN,zh;q=0.9,en;q=0.8", "zh", "ZH-tw", "de, zh;q=0.5", "en;q=0.5, zh-Hans-CN", "zh,en"])
      expect([chinese, await languageFor(chinese)]).toEqual([chinese, "home.zh"]);
    for (const english of [
      "",
      "*",
      "de",
      "en-US,en;q=0.9,zh;q=0.8",
      "zh;q=0",
      "zhx",
      "fr, en",
      ',;q=,"',
      "zh;q=0.1,en",
    ])
      expect([english, await languageFor(english)]).toEqual([english, "home.en"]);
    expect(await languageFor("zh", "/check")).toBe("check.zh");
    expect(await languageFor("zh", "/docs")).toBe("README.zh-CN.md");
    const { headers } = await request("/");
    expect(headers.get("vary")).toContain("Accept-Language");
  });

  test("a foreign page learns from /check/request whether a site is allowed, and nothing else", async () => {
    const { request } = await setUp({ TRUST_PROXY: "1" });
    const path = "/check/request?site=https://example.com";
    const headers = { "X-Forwarded-For": "10.0.0.7, 192.0.2.9" };
    const foreign = await (await request(path, { headers })).json();
    expect(foreign).toEqual({ site: "example.com" });
    const own = await (await request(path, { headers: { ...headers, Origin: "http://count.example" } })).json();
    expect(own).toMatchObject({ site: "example.com", address: "192.0.2.9", host: "count.example" });
  });
});
