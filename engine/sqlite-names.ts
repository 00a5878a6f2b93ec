/** The ids of sites and pages in the SQLite file. Strangers invent names, so the number of names is limited here. */

import type { DatabaseSync, StatementSync } from "node:sqlite";
import {
  MAX_PAGES_PER_SITE,
  MAX_PAGES_PER_UNLISTED_SITE,
  MAX_UNLISTED_SITES,
  OTHER_PAGES,
  storedPageName,
} from "./engine.ts";

/** The id of the site that the first parameter of a statement names. */
export const SITE_ID = "(SELECT id FROM sites WHERE name = ?1)";

export interface SiteRow {
  readonly id: number;
  isListed: boolean;
  pageCount: number;
}

/** For writing: makes an id for a new name, and keeps the limits. An instance lives as long as a transaction. */
export class Names {
  readonly #database: DatabaseSync;
  readonly #unlistedSites: ReadonlySet<string>;
  readonly #sites: Map<string, SiteRow>;
  readonly #findPage: StatementSync;
  readonly #addPage: StatementSync;
  readonly #countPage: StatementSync;

  /** @param unlistedSites those of the sites to come that are not in SITES */
  constructor(database: DatabaseSync, unlistedSites: ReadonlySet<string>) {
    this.#database = database;
    this.#unlistedSites = unlistedSites;
    this.#sites = readSites(database);
    this.#findPage = database.prepare("SELECT id FROM pages WHERE site = ? AND name = ?");
    this.#addPage = database.prepare("INSERT INTO pages (site, name) VALUES (?, ?)");
    this.#countPage = database.prepare("UPDATE sites SET page_count = page_count + 1 WHERE id = ?");
  }

  get sites(): Iterable<SiteRow> {
    return this.#sites.values();
  }

  /** Undefined for a new site that is not listed, when there are many of them already. */
  site(name: string): SiteRow | undefined {
    const isListed = !this.#unlistedSites.has(name);
    const known = this.#sites.get(name);
    if (known === undefined) return isListed || this.#hasRoom() ? this.#addSite(name, isListed) : undefined;
    if (known.isListed !== isListed) this.#setListed(known, isListed);
    return known;
  }

  /** The id of a page; of OTHER_PAGES, when the page is new and the site has too many pages. */
  page(site: SiteRow, page: string): number {
    const name = storedPageName(page);
    const known = this.#findPage.get(site.id, name)?.["id"];
    if (known !== undefined) return Number(known);
    const limit = site.isListed ? MAX_PAGES_PER_SITE : MAX_PAGES_PER_UNLISTED_SITE;
    if (site.pageCount >= limit && name !== OTHER_PAGES) return this.page(site, OTHER_PAGES);
    site.pageCount += 1;
    this.#countPage.run(site.id);
    return Number(this.#addPage.run(site.id, name).lastInsertRowid);
  }

  /** Whether there is room for another site that is not listed. */
  #hasRoom(): boolean {
    const unlisted = [...this.#sites.values()].filter(({ isListed }) => !isListed);
    return unlisted.length < MAX_UNLISTED_SITES;
  }

  #addSite(name: string, isListed: boolean): SiteRow {
    const add = this.#database.prepare("INSERT INTO sites (name, is_listed, page_count) VALUES (?, ?, 0)");
    const row = { id: Number(add.run(name, Number(isListed)).lastInsertRowid), isListed, pageCount: 0 };
    this.#sites.set(name, row);
    return row;
  }

  #setListed(site: SiteRow, isListed: boolean): void {
    site.isListed = isListed;
    this.#database.prepare("UPDATE sites SET is_listed = ? WHERE id = ?").run(Number(isListed), site.id);
  }
}

function readSites(database: DatabaseSync): Map<string, SiteRow> {
  const rows = database.prepare("SELECT id, name, is_listed, page_count FROM sites").all();
  return new Map(
    rows.map(({ id, name, is_listed: isListed, page_count: pageCount }) => [
      String(name),
      { id: Number(id), isListed: isListed === 1, pageCount: Number(pageCount) },
    ]),
  );
}
