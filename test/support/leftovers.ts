/** Child processes, folders and mounts of the tests, which must not outlive them. */
import type { Subprocess } from "bun";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const children = new Set<Subprocess>();
const folders = new Set<string>();

/** Registers a child process, to be killed at the end if it still runs then. */
export function adopt<Child extends Subprocess>(child: Child): Child {
  children.add(child);
  void child.exited.then(() => children.delete(child));
  return child;
}

/** Makes an empty folder, which is removed at the end. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "headcount-test-"));
  folders.add(folder);
  return folder;
}

const undone: (() => void)[] = [];

/** Registers a function that undoes something at the end, such as a mount. */
export function atTheEnd(undo: () => void): void {
  undone.push(undo);
}

export function removeLeftovers(): void {
  for (const child of children) child.kill("SIGKILL");
  for (const undo of undone.splice(0)) undo();
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
  folders.clear();
}
