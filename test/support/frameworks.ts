/** Pages of a few lines on the real packages of frameworks, bundled with esbuild. */
import { build, type Plugin } from "esbuild";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { compile } from "svelte/compiler";
import { temporaryFolder } from "./leftovers.ts";

const root = join(import.meta.dir, "../..");

/** Counts the widget's events in `events`, and keeps what a framework complains of in `complaints`. */
export const observerScript = `<script>
  globalThis.complaints = [];
  globalThis.events = 0;
  document.addEventListener("headcount", () => events++);
  addEventListener("error", ({ message }) => complaints.push(message));
  for (const kind of ["error", "warn"]) {
    const say = console[kind];
    console[kind] = (...words) => {
      complaints.push(words.join(" "));
      say(...words);
    };
  }
</script>`;

/** Compiles single-file components, for a browser or for the server. */
const svelte = (generate: "client" | "server"): Plugin => ({
  name: "svelte",
  setup(bundler) {
    bundler.onResolve({ filter: /^component:/ }, ({ path }) => ({
      path: path.slice("component:".length),
      namespace: "component",
    }));
    bundler.onLoad({ filter: /./, namespace: "component" }, ({ path }) => ({
      contents: compile(path, { generate, filename: "App.svelte" }).js.code,
      resolveDir: root,
    }));
  },
});

async function bundle(source: string, generate: "client" | "server", development: boolean): Promise<string> {
  const { outputFiles } = await build({
    stdin: { contents: source, resolveDir: root, loader: "jsx" },
    jsx: "automatic",
    bundle: true,
    write: false,
    format: generate === "client" ? "iife" : "esm",
    platform: generate === "client" ? "browser" : "node",
    logLevel: "silent",
    minify: !development,
    define: {
      "process.env.NODE_ENV": JSON.stringify(development ? "development" : "production"),
      __VUE_OPTIONS_API__: "true",
      __VUE_PROD_DEVTOOLS__: "false",
      __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false",
    },
    plugins: [svelte(generate)],
  });
  return outputFiles[0]!.text.replaceAll("</script", "<\\/script");
}

/** An inline script. In development, frameworks say more of what they do not like. */
export const script = async (source: string, { development = false } = {}): Promise<string> =>
  `<script>${await bundle(source, "client", development)}</script>`;

/** What a module evaluates to on a server: `export default` may be a promise. */
export async function onServer<T>(source: string): Promise<T> {
  const file = join(temporaryFolder(), "server.mjs");
  writeFileSync(file, await bundle(source, "server", false));
  return (await import(file)).default;
}
