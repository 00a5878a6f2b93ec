/** Sites for black-box tests: one service for all tests of a file, and a site on it for each test. */
import { expect } from "bun:test";
import { ask, type Connection, Visitor } from "./client.ts";
import { type Runtime, Service, type Settings } from "./service.ts";
import { once } from "./waiting.ts";

/** Shorter than the default of 5 s, so that the tests are short. */
export const graceSeconds = 1;

/** Bounds of the accuracy contract: everybody sees a join, and a leave after grace, within a second. */
export const joinBoundMs = 1000;
export const leaveBoundMs = (graceSeconds + 1) * 1000;

/** One machine plays all visitors, so no limit of an address may be in the way. */
export const unlimited: Settings = {
  MAX_TOKENS_PER_IP: 1_000_000,
  MAX_VISITORS_PER_IP: 1_000_000,
  MAX_PAGES_PER_IP: 1_000_000,
};

/** A site of a service, with no other visitors than those of the test. */
export class TestSite {
  readonly service: Service;
  readonly name: string;
  /** Where visitors reach the service; not the service's own address when a proxy or a link is in between. */
  readonly url: string;

  constructor(service: Service, name: string, url = service.url) {
    this.service = service;
    this.name = name;
    this.url = url;
  }

  get origin(): string {
    return `https://${this.name}`;
  }

  /** A new browser, which has no cookie yet. */
  visitor(headers = {}): Visitor {
    return new Visitor(this.url, this.origin, { headers });
  }

  /** A page of a new visitor. */
  open(page = "/", more: object = {}): Promise<Connection> {
    return this.visitor().open(page, more);
  }

  /** A token of a new visitor. */
  async token(body?: object): Promise<string> {
    return (await this.visitor().token(body)).json.token;
  }

  /** What `GET /count` answers. */
  async count(page?: string): Promise<{ site: number; page?: number }> {
    const query = new URLSearchParams({ site: this.name, ...(page && { page }) }).toString();
    const answer = await ask(this.url, `GET /count?${query}`);
    expect(answer.status).toBe(200);
    return answer.json;
  }
}

const names = Array.from({ length: 120 }, (_, number) => `s${number}.example`);

/** A service that the tests of a suite share, started by the first of them. Each test takes a site of its own. */
export class SharedService {
  /** The service, which also serves the `SITES` of the settings. */
  readonly started: () => Promise<Service>;
  #used = 0;

  constructor(runtime: Runtime, { SITES = "", ...settings }: Settings = {}) {
    const sites = [...names, SITES].filter(Boolean).join(",");
    const all = { ...unlimited, GRACE_SECONDS: graceSeconds, SITES: sites, ...settings };
    this.started = once(() => Service.start(runtime, all));
  }

  async url(): Promise<string> {
    return (await this.started()).url;
  }

  async site(): Promise<TestSite> {
    const name = names[this.#used++];
    if (name === undefined) throw new Error("No site is left on the shared service");
    return new TestSite(await this.started(), name);
  }
}
