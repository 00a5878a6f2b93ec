/**
 * The token floor: the bare minimum of the same job on Bun. `POST /token` checks the Origin, reads a cookie with a random id
 * or sets one, and answers a random token that is kept in a Map. The upgrade takes the token out of the Map. Distinct ids
 * are counted, and the number is published every 100 ms when a page has come or gone. No signatures, limits, heartbeat or journal.
 *
 * It is a control of the benchmark, as `floor.ts` is: do not make it slower.
 */

import { randomBytes } from "node:crypto";

const ORIGIN = "https://bench.example";
const idsByToken = new Map<string, string>();
const pagesOf = new Map<string, number>();
let hasChanged = false;

const newId = (): string => randomBytes(16).toString("base64url");

function grantToken({ headers }: Request): Response {
  if (headers.get("origin") !== ORIGIN) return new Response("origin", { status: 403 });
  const known = /id=([\w-]{22})/.exec(headers.get("cookie") ?? "")?.[1];
  const id = known ?? newId();
  const token = newId();
  idsByToken.set(token, id);
  const body = `{"token":"${token}"}`;
  if (known !== undefined) return new Response(body);
  return new Response(body, { headers: { "Set-Cookie": `id=${id}; Path=/; HttpOnly; Secure; SameSite=None` } });
}

const server = Bun.serve<string>({
  hostname: "127.0.0.1",
  port: 0,
  fetch(request, bun) {
    if (request.method === "POST") return grantToken(request);
    const token = request.url.slice(request.url.indexOf("?token=") + 7);
    const id = idsByToken.get(token);
    if (id === undefined) return new Response("token", { status: 403 });
    idsByToken.delete(token);
    return bun.upgrade(request, { data: id }) ? undefined : new Response("upgrade required", { status: 426 });
  },
  websocket: {
    idleTimeout: 0,
    open(socket) {
      pagesOf.set(socket.data, (pagesOf.get(socket.data) ?? 0) + 1);
      socket.subscribe("count");
      hasChanged = true;
    },
    message() {},
    close(socket) {
      const pages = (pagesOf.get(socket.data) ?? 1) - 1;
      if (pages > 0) pagesOf.set(socket.data, pages);
      else pagesOf.delete(socket.data);
      hasChanged = true;
    },
  },
});

setInterval(() => {
  if (!hasChanged) return;
  hasChanged = false;
  server.publish("count", `{"site":${pagesOf.size}}`);
}, 100);

console.log(JSON.stringify({ event: "ready", url: server.url.href }));
