// Builds the page into ../dist (or the folder named as argument): the same bytes from the same sources, always.
import { build } from "esbuild";
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "../dist");
await mkdir(out, { recursive: true });

const options = {
  absWorkingDir: here,
  bundle: true,
  minify: true,
  charset: "utf8",
  target: "es2022",
  legalComments: "none",
  logLevel: "warning",
  metafile: true,
};
const script = await build({ ...options, entryPoints: ["src/main.ts"], format: "esm", outfile: join(out, "page.js") });
await build({ ...options, entryPoints: ["page.css"], outfile: join(out, "page.css") });
for (const file of ["index.html", "icon.svg"]) await copyFile(join(here, file), join(out, file));

// What others wrote and is in the script keeps its licence beside it.
const packages = new Set();
for (const input of Object.keys(script.metafile.inputs)) {
  const found = input.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//);
  if (found) packages.add(found[1]);
}
let licenses = "page.js holds, beside moodstream's own code (Apache-2.0), these packages:\n";
for (const name of [...packages].sort()) {
  const folder = join(here, "node_modules", name);
  const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const text = await readFile(join(folder, "LICENSE.md"), "utf8");
  licenses += `\n${"-".repeat(72)}\n${name} ${version} (${license})\n\n${text.trim()}\n`;
}
await writeFile(join(out, "licenses.txt"), licenses);
