// Prints, as JSON, what h5wasm reads: node h5wasm_reader.mjs FOLDER_OF_H5WASM ARCHIVE RUN
import { pathToFileURL } from "node:url";

const [folder, archive, name] = process.argv.slice(2);
const { default: h5wasm } = await import(pathToFileURL(`${folder}/dist/node/hdf5_hl.js`));
await h5wasm.ready;
const file = new h5wasm.File(archive, "r");
const run = file.get(name);
console.log(JSON.stringify({
  title: file.attrs.title.value,
  layers: run.get("layer").value,
  sid: Array.from(run.get("sid").value),
  shape: run.get("sid_map").shape,
  map: Array.from(run.get("sid_map").slice([[3, 4], [2, 3]])),
}));
file.close();
