/** The routes of the service without a port. */
import type { Connection } from "../../server.ts";
import { authorizationOf } from "./client.ts";
import { FakeClock, PASSWORD, testService } from "./unit.ts";

export const FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
export const OPERATOR = { Authorization: authorizationOf(PASSWORD) };

export const answer = async (response: Response) => (await response.json()) as { token: string; visitor: string };

/** The routes over real parts; `connect` lets a connection in as the runtime would. */
export async function setUp(environment: Record<string, string> = {}) {
  const clock = new FakeClock();
  const service = await testService(environment, clock);
  const { app } = service;
  const admitted: Connection[] = [];
  const upgrade = (connection: Connection) => {
    admitted.push(connection);
    return new Response(null, { status: 101 });
  };
  const request = async (
    path: string,
    init: { method?: string; body?: string; headers?: Record<string, string> } = {},
    address = "192.0.2.1",
  ) => {
    const headers = { Host: "count.example", Origin: "https://example.com", "User-Agent": FIREFOX, ...init.headers };
    return app.request(path, { ...init, headers }, { address, upgrade });
  };
  const token = async (body: object = {}, headers: Record<string, string> = {}, address?: string) =>
    request("/token", { method: "POST", body: JSON.stringify(body), headers }, address);
  const granted = async (body: object = {}) => answer(await token(body));
  const ticket = async (body: object = {}) => (await granted(body)).token;
  const connect = async (ticketText: string, headers: Record<string, string> = {}) =>
    request(`/ws?token=${ticketText}`, { headers: { Upgrade: "websocket", ...headers } });
  const json = async (path: string) => (await request(path)).json();
  return { ...service, service, clock, json, admitted, request, token, granted, ticket, connect };
}
