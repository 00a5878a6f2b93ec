/** Small file systems that a test can fill. */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { atTheEnd, temporaryFolder } from "./leftovers.ts";

/** Mounts a small file system, where this user may; otherwise undefined. */
export function mountSmallDisk(name: string, size: string, ...options: string[]): string | undefined {
  const folder = join(temporaryFolder(), name);
  mkdirSync(folder);
  const command = ["mount", "-t", "tmpfs", "-o", [`size=${size}`, ...options].join(","), "tmpfs", folder];
  if (Bun.which("mount") === null || Bun.spawnSync(command, { stderr: "ignore" }).exitCode !== 0) return undefined;
  atTheEnd(() => Bun.spawnSync(["umount", "-l", folder]));
  return folder;
}

/** Writes until there is no room for one more byte. */
export function fillDisk(file: string): void {
  mkdirSync(dirname(file), { recursive: true });
  for (let size = 1 << 20; size >= 1; size >>= 1)
    for (;;)
      try {
        writeFileSync(file, Buffer.alloc(size), { flag: "a" });
      } catch {
        break; // deliberate: no room for so many bytes, perhaps for half of them
      }
}
