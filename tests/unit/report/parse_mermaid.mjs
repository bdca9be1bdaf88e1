// Parse diagrams with Mermaid's own parser: node parse_mermaid.mjs FOLDER FILE…
// FOLDER holds node_modules with mermaid and jsdom.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

const [folder, ...files] = process.argv.slice(2);
const require = createRequire(path.join(path.resolve(folder), "package.json"));
const { JSDOM } = require("jsdom");
const { window } = new JSDOM("<!DOCTYPE html><body></body>");
globalThis.window = window;
globalThis.document = window.document;
const entry = path.join(path.resolve(folder), "node_modules/mermaid/dist/mermaid.esm.mjs");
const mermaid = (await import(pathToFileURL(entry))).default;
let failed = 0;
for (const file of files) {
  try {
    const found = await mermaid.parse(readFileSync(file, "utf8"));
    console.log(path.basename(file), found.diagramType);
  } catch (error) {
    failed += 1;
    console.error(file, error.message);
  }
}
process.exit(failed ? 1 : 0);
