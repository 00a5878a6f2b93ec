/** What must not outlive the tests, however they end: child processes and folders. */
import type { Subprocess } from "bun";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const children = new Set<Subprocess>();
const folders = new Set<string>();

/** Marks a child process as one to be killed at the end, if it still runs then. */
export function adopt<Child extends Subprocess>(child: Child): Child {
  children.add(child);
  void child.exited.then(() => children.delete(child));
  return child;
}

/** An empty folder that is removed at the end. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "headcount-test-"));
  folders.add(folder);
  return folder;
}

const undone: (() => void)[] = [];

/** Undoes at the end what is neither a process nor a folder, such as a mount. */
export function atTheEnd(undo: () => void): void {
  undone.push(undo);
}

export function removeLeftovers(): void {
  for (const child of children) child.kill("SIGKILL");
  for (const undo of undone.splice(0)) undo();
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
  folders.clear();
}
