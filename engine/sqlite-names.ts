/** The ids of sites and pages in the SQLite file. Strangers invent names, so the number of names is limited here. */

import type { DatabaseSync } from "node:sqlite";
import {
  MAX_PAGES_PER_SITE,
  MAX_PAGES_PER_UNLISTED_SITE,
  MAX_UNLISTED_SITES,
  OTHER_PAGES,
  storedPageName,
} from "./engine.ts";
import { statement } from "./sqlite-statements.ts";

/** The id of the site that the first parameter of a statement names. */
export const SITE_ID = "(SELECT id FROM sites WHERE name = ?1)";

export interface SiteRow {
  readonly id: number;
  readonly isListed: boolean;
  pageCount: number;
}

const SQL = {
  findSite: "SELECT id, is_listed AS isListed, page_count AS pageCount FROM sites WHERE name = ?",
  addSite: "INSERT INTO sites (name, is_listed, page_count) VALUES (?, ?, 0)",
  setListed: "UPDATE sites SET is_listed = ? WHERE id = ?",
  countUnlisted: "SELECT count(*) AS count FROM sites WHERE is_listed = 0",
  findPage: "SELECT id FROM pages WHERE site = ? AND name = ?",
  addPage: "INSERT INTO pages (site, name) VALUES (?, ?)",
  countPage: "UPDATE sites SET page_count = page_count + 1 WHERE id = ?",
};

/** For writing: makes an id for a new name, and keeps the limits. An instance lives as long as a transaction. */
export class Names {
  readonly #database: DatabaseSync;
  readonly #unlistedSites: ReadonlySet<string>;
  readonly #sites = new Map<string, SiteRow>();

  /** @param unlistedSites which of the sites are not in SITES */
  constructor(database: DatabaseSync, unlistedSites: ReadonlySet<string>) {
    this.#database = database;
    this.#unlistedSites = unlistedSites;
  }

  /** Undefined for a new site that is not listed, when there are many of them already. */
  site(name: string): SiteRow | undefined {
    const site = this.#sites.get(name) ?? this.#findSite(name) ?? this.#addSite(name);
    if (site !== undefined) this.#sites.set(name, site);
    return site;
  }

  /** The id of a page; of OTHER_PAGES, when the page is new and the site has too many pages. */
  page(site: SiteRow, page: string): number {
    const name = storedPageName(page);
    const known = this.#statement("findPage").get(site.id, name)?.["id"];
    if (known !== undefined) return Number(known);
    const limit = site.isListed ? MAX_PAGES_PER_SITE : MAX_PAGES_PER_UNLISTED_SITE;
    if (site.pageCount >= limit && name !== OTHER_PAGES) return this.page(site, OTHER_PAGES);
    site.pageCount += 1;
    this.#statement("countPage").run(site.id);
    return Number(this.#statement("addPage").run(site.id, name).lastInsertRowid);
  }

  #isListed(name: string): boolean {
    return !this.#unlistedSites.has(name);
  }

  /** The site as it is in the file, where it is noted whether SITES lists the site now. */
  #findSite(name: string): SiteRow | undefined {
    const row = this.#statement("findSite").get(name);
    if (row === undefined) return undefined;
    const site = { id: Number(row["id"]), isListed: this.#isListed(name), pageCount: Number(row["pageCount"]) };
    if (site.isListed !== (row["isListed"] === 1)) this.#statement("setListed").run(Number(site.isListed), site.id);
    return site;
  }

  #addSite(name: string): SiteRow | undefined {
    const isListed = this.#isListed(name);
    if (!isListed && Number(this.#statement("countUnlisted").get()?.["count"]) >= MAX_UNLISTED_SITES) return undefined;
    const { lastInsertRowid } = this.#statement("addSite").run(name, Number(isListed));
    return { id: Number(lastInsertRowid), isListed, pageCount: 0 };
  }

  #statement(name: keyof typeof SQL) {
    return statement(this.#database, SQL[name]);
  }
}
