// Logits of exported graphs by onnxruntime-web in node: node onnx_web.mjs DIST. Each line of standard input is JSON,
// [graph, {name: [type, values, dimensions]}]; its answer is a line with the logits as float32, little-endian, in base64.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const dist = process.argv[2];
const ort = await import(pathToFileURL(join(dist, "ort.wasm.bundle.min.mjs")));
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmBinary = readFileSync(join(dist, "ort-wasm-simd-threaded.wasm"));
for await (const line of createInterface({ input: process.stdin })) {
  const [graph, feeds] = JSON.parse(line), inputs = {};
  for (const [name, [type, values, dims]] of Object.entries(feeds)) {
    const array = type === "int64" ? BigInt64Array.from(values, BigInt) : Float32Array.from(values);
    inputs[name] = new ort.Tensor(type, array, dims);
  }
  const session = await ort.InferenceSession.create(readFileSync(graph));
  const { logits } = await session.run(inputs, ["logits"]);
  const { buffer, byteOffset, byteLength } = logits.data;
  console.log(Buffer.from(buffer, byteOffset, byteLength).toString("base64"));
  await session.release();
}
