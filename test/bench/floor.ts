/**
 * The floor: the least that any live counter on Bun must do, and nothing else. One WebSocket server counts distinct
 * `?uid=` and publishes the number every 100 ms when a page has come or gone. No limits, tokens, identity, heartbeat or journal.
 *
 * It is the control of the benchmark, so it is kept as fast as so little code can be: do not make it slower.
 */

const pagesOf = new Map<string, number>();
let hasChanged = false;

const server = Bun.serve<string>({
  hostname: "127.0.0.1",
  port: 0,
  fetch(request, bun) {
    const uid = request.url.slice(request.url.indexOf("?uid=") + 5);
    return bun.upgrade(request, { data: uid }) ? undefined : new Response("upgrade required", { status: 426 });
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
