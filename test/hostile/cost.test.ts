/**
 * What a request costs: at most 5 ms of CPU for 64 KB, whatever is in it. The cost of a text grows linearly with its length;
 * a text that takes quadratic time would be far above the bound. Bun refuses heads over 16 KB by itself.
 */
import { expect, test } from "bun:test";
import { userAgent } from "../support/client.ts";
import { cpuMsOf } from "../support/process.ts";
import { sendRaw } from "../support/raw.ts";
import { onBothRuntimes } from "../support/runtimes.ts";
import { Target } from "../support/target.ts";
import { alone } from "../support/waiting.ts";

const maxCpuMs = 5;
const lengths = [15_000, 31_000, 63_000];
/** More than a few, since the CPU of a busy machine is slow at times. Work that is too much is too much each time. */
const attempts = 60;

/** For thousands of requests one after the other, while others use this machine too. */
const timeoutMs = 180_000;

type Text = (length: number) => string;
const repeated =
  (piece: string): Text =>
  (length) =>
    piece.repeat(Math.floor(length / piece.length));
const escaped = (text: string): Text => repeated(encodeURIComponent(text));
/** Requests are written in Latin-1, so this writes the UTF-8 of the text. */
const asBytes = (text: string): Text => repeated(Buffer.from(text).toString("latin1"));

/** Texts for a query or a path. */
const urlTexts: Record<string, Text> = {
  "plain letters": repeated("x"),
  "combining marks": escaped("\u0323\u0301"),
  "combining marks that are not escaped": asBytes("\u0323\u0301"),
  "a host that is not escaped": asBytes("ü."),
  "Hangul letters": escaped("\u1100\u1161\u11a8"),
  "a non-ASCII host": escaped("ü."),
  "letters of a host that are mapped": escaped("ǆ☃ß"),
  "right-to-left digits": escaped("א1"),
  ampersands: repeated("&"),
  parameters: repeated("&page=a"),
  "parameters without a value": repeated("&a"),
  "escaped parameters": repeated("&%61"),
  "lone percent signs": repeated("%"),
  "half characters": repeated("%C3"),
  "plus signs": repeated("+"),
  slashes: repeated("/"),
  dots: repeated("."),
  "line ends": repeated("%0d%0a"),
};

/** Values of a header. */
const headerTexts: Record<string, Text> = {
  "plain letters": repeated("x"),
  commas: repeated(","),
  "commas and spaces": repeated(", "),
  cookies: repeated("a=%41; "),
  "its own cookie": repeated("headcount-own_example=%C3; "),
  "Latin-1 letters": repeated("é"),
  colons: repeated("0:"),
  brackets: (length) => `[${repeated("]:1")(length - 1)}`,
  numbers: repeated("1."),
  "a non-ASCII host": (length) => `https://${escaped("ü.")(length - 8)}`,
  "combining marks in a host": (length) => `https://${escaped("\u0323\u0301")(length - 8)}`,
  "combining marks in a path": (length) => `https://own.example/${escaped("\u0323\u0301")(length - 20)}`,
  encodings: repeated("br;q=0.0 "),
  "an encoding and spaces": (length) => `br${repeated(" ")(length - 8)};q=0.1`,
  quotes: repeated('"'),
  "names of crawlers": repeated("Mozilla (compatible; "),
};

const urls = [
  "/count?site=own.example&page=",
  "/count?site=",
  "/badge.svg?site=own.example&page=",
  "/badge.svg?site=",
  "/reading?site=own.example&page=",
  "/reading?site=",
  "/check/request?site=",
  "/ws?token=",
  "/count/",
  "/",
];
const headers = [
  "Referer",
  "Cookie",
  "Origin",
  "User-Agent",
  "X-Forwarded-For",
  "X-Forwarded-Proto",
  "Accept-Encoding",
  "If-None-Match",
  "Authorization",
  "Host",
];
const routes = ["GET /count", "GET /check/request", "GET /widget.js", "GET /dashboard", "POST /token"];

onBothRuntimes(
  "hostile cost",
  (runtime) => {
    const start = () => Target.start(runtime, { TRUST_PROXY: 1, ADMIN_PASSWORD: "the right password" });

    /** The CPU time of one request in milliseconds: of the first attempt within the bound, or else of the best one. */
    const costOf = async ({ service, url }: Target, request: string): Promise<number> => {
      let best = Infinity;
      for (let attempt = 0; attempt < attempts && best > maxCpuMs; attempt++) {
        const before = cpuMsOf(service.pid);
        const { statuses } = await sendRaw(url, Buffer.from(request, "latin1"));
        best = Math.min(best, cpuMsOf(service.pid) - before);
        expect([request.slice(0, 80), (statuses[0] ?? 400) < 500]).toEqual([request.slice(0, 80), true]); // none: a reset
      }
      return best;
    };

    const expectCheap = async (target: Target, name: string, requestOf: Text): Promise<void> => {
      const costs: number[] = [];
      for (const length of lengths) costs.push(await costOf(target, requestOf(length)));
      expect([name, costs.every((ms) => ms <= maxCpuMs) ? "is cheap" : costs]).toEqual([name, "is cheap"]);
    };

    const requestOf = (target: Target, route: string, own: Record<string, string>): string => {
      const all = { Host: new URL(target.url).host, "User-Agent": userAgent, Origin: target.origin, ...own };
      const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}`);
      return [`${route} HTTP/1.1`, "Connection: close", "Content-Length: 0", ...lines, "", ""].join("\r\n");
    };

    test("no text in a query or a path takes more than 5 ms", () =>
      alone(async () => {
        const target = await start();
        for (const url of urls)
          for (const [name, textOf] of Object.entries(urlTexts))
            await expectCheap(target, `${url}<${name}>`, (length) =>
              requestOf(target, `GET ${url}${textOf(length)}`, url.startsWith("/ws") ? { Upgrade: "websocket" } : {}),
            );
        await target.survives();
      }));

    test("no value of a header takes more than 5 ms", () =>
      alone(async () => {
        const target = await start();
        for (const route of routes)
          for (const header of headers)
            for (const [name, textOf] of Object.entries(headerTexts))
              await expectCheap(target, `${route} with ${header}: <${name}>`, (length) =>
                requestOf(target, route, { [header]: textOf(length) }),
              );
        await target.survives();
      }));
  },
  timeoutMs,
);
