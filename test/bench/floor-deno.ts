/**
 * The floor on Deno: the same bare counter as `floor.ts`. Deno has no `publish`, so the loop over open sockets is part of
 * what the bare runtime costs.
 */

const pagesOf = new Map<string, number>();
const sockets = new Set<WebSocket>();
let hasChanged = false;

Deno.serve(
  {
    hostname: "127.0.0.1",
    port: 0,
    onListen: ({ port }) => console.log(JSON.stringify({ event: "ready", url: `http://127.0.0.1:${port}/` })),
  },
  (request) => {
    if (request.headers.get("upgrade") !== "websocket") return new Response("upgrade required", { status: 426 });
    const uid = request.url.slice(request.url.indexOf("?uid=") + 5);
    const { socket, response } = Deno.upgradeWebSocket(request, { idleTimeout: 0 });
    socket.addEventListener("open", () => {
      pagesOf.set(uid, (pagesOf.get(uid) ?? 0) + 1);
      sockets.add(socket);
      hasChanged = true;
    });
    socket.addEventListener("close", () => {
      if (!sockets.delete(socket)) return;
      const pages = (pagesOf.get(uid) ?? 1) - 1;
      if (pages > 0) pagesOf.set(uid, pages);
      else pagesOf.delete(uid);
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
