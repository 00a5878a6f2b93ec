/** The start of a service whose visitors are held over a restart. */
import { expect, test } from "bun:test";
import { startService } from "../../server.ts";
import { setUp } from "../support/routes.ts";

test("start: whoever asks while held visitors are being counted is answered when all are counted", async () => {
  const { service, json, request } = await setUp();
  const gate = Promise.withResolvers<void>();
  service.engine.held = async () => {
    await gate.promise;
    return ["ann", "ben"].map((visitor) => ({ site: "example.com", page: undefined, visitor }));
  };
  const started = startService(service);
  const answered: string[] = [];
  const asked = json("/count?site=example.com").finally(() => answered.push("/count"));
  for (let turn = 0; turn < 5; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  expect(answered).toEqual([]);
  gate.resolve();
  expect(await asked).toMatchObject({ site: 2 });
  const stop = await started;
  await stop();
  expect((await request("/readyz")).status).toBe(503);
});

test("start: an engine that cannot tell who is held does not stop the service", async () => {
  const { service, request } = await setUp();
  service.engine.held = () => Promise.reject(new Error("the disk is broken"));
  const stop = await startService(service);
  expect((await request("/readyz")).status).toBe(200);
  await stop();
});
