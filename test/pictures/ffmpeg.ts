/** Turns screenshots into small pictures. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../support/leftovers.ts";

export interface Shot {
  readonly png: Buffer;
  readonly seconds: number;
}

function ffmpeg(...options: string[]): void {
  const program = Bun.which("ffmpeg");
  if (program === null) throw new Error("Cannot make pictures without ffmpeg. On Debian: apt-get install ffmpeg");
  const { exitCode, stderr } = Bun.spawnSync([program, "-v", "error", "-y", ...options]);
  if (exitCode !== 0) throw new Error(`ffmpeg ended with ${exitCode}: ${stderr.toString()}`);
}

/** A GIF that repeats for ever, with one palette for all frames. */
export function makeGif(shots: Shot[], file: string): void {
  const folder = temporaryFolder();
  const lines = shots.map(({ png, seconds }, index) => {
    writeFileSync(join(folder, `${index}.png`), png);
    return `file ${index}.png\nduration ${seconds}\n`;
  });
  // The list says a duration until the next frame, so the last frame stands there twice.
  writeFileSync(join(folder, "list"), `${lines.join("")}file ${shots.length - 1}.png\n`);
  const palette = "split[a][b];[a]palettegen=stats_mode=full[p];[b][p]paletteuse=dither=none:diff_mode=rectangle";
  ffmpeg("-f", "concat", "-i", join(folder, "list"), "-fps_mode", "vfr", "-vf", palette, "-loop", "0", file);
}

export function makeWebp(png: Buffer, file: string): void {
  const source = join(temporaryFolder(), "picture.png");
  writeFileSync(source, png);
  ffmpeg("-i", source, "-c:v", "libwebp", "-quality", "82", "-compression_level", "6", file);
}
