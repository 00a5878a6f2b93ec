/** The token floor on Deno: the same bare minimum as `token-floor.ts`, with the loop over open sockets of `floor-deno.ts`. */

import { randomBytes } from "node:crypto";

const ORIGIN = "https://bench.example";
const idsByToken = new Map<string, string>();
const pagesOf = new Map<string, number>();
const sockets = new Set<WebSocket>();
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

Deno.serve(
  {
    hostname: "127.0.0.1",
    port: 0,
    onListen: ({ port }) => console.log(JSON.stringify({ event: "ready", url: `http://127.0.0.1:${port}/` })),
  },
  (request) => {
    if (request.method === "POST") return grantToken(request);
    const token = request.url.slice(request.url.indexOf("?token=") + 7);
    const id = idsByToken.get(token);
    if (id === undefined) return new Response("token", { status: 403 });
    idsByToken.delete(token);
    const { socket, response } = Deno.upgradeWebSocket(request, { idleTimeout: 0 });
    socket.addEventListener("open", () => {
      pagesOf.set(id, (pagesOf.get(id) ?? 0) + 1);
      sockets.add(socket);
      hasChanged = true;
    });
    socket.addEventListener("close", () => {
      if (!sockets.delete(socket)) return;
      const pages = (pagesOf.get(id) ?? 1) - 1;
      if (pages > 0) pagesOf.set(id, pages);
      else pagesOf.delete(id);
      hasChanged = true;
    });
    return response;
  },
);

setInterval(() => {
  if (!hasChanged) return;
  hasChanged = false;
  const frame = `{"site":${pagesOf.size}}`;
  for (const socket of sockets) if (socket.readyState === WebSocket.OPEN) socket.send(frame);
}, 100);
