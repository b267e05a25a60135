// Opens a portable file of jslm in node or a browser by jslm_portable.wasm; nothing else is needed.
//
//   node node.mjs model.safetensors rewrite "The letter was written by the clerk." [style=casual]
//   node node.mjs model.safetensors write "Once upon a time" [tokens] [temperature] [seed]
//   node node.mjs model.safetensors speed
//   node node.mjs check FOLDER        every test vector of the folder
//
// In a page: import { open } from "./node.mjs"; const model = await open(wasmBytes, modelBytes);

const UTF8 = new TextEncoder(), TEXT = new TextDecoder();

/** The model of a portable file's bytes, by the module's bytes (or a compiled WebAssembly.Module). */
export async function open(wasm, file) {
  const found = await WebAssembly.instantiate(wasm, {});
  return new Model((found.instance ?? found).exports, file);
}

/** A model in the module's memory. Errors are thrown with the module's line. `close` gives the memory back. */
export class Model {
  constructor(exports, file) {
    this.exports = exports;
    this.handle = this.#withBytes([file], (address, length) => exports.jslm_open(address, length));
    if (!exports.jslm_ok(this.handle)) {
      const message = this.#output();
      this.close();
      throw new Error(message);
    }
  }

  /** {output, changed, confidence, reason, logprob}: the sentence itself where it stays, and why. A threshold of null is the file's. */
  rewrite(sentence, conditions = {}, threshold = null) {
    const parts = [UTF8.encode(sentence.normalize("NFC")), lines(conditions)];
    const call = (...places) => this.exports.jslm_rewrite(this.handle, ...places, threshold ?? NaN);
    const changed = this.#check(this.#withBytes(parts, call)) === 1;
    const number = (value) => (Number.isNaN(value) ? null : value);
    return {
      // What stays is the caller's own spelling, whatever its normal form.
      output: changed ? this.#output() : sentence,
      changed,
      confidence: number(this.exports.jslm_confidence(this.handle)),
      reason: changed ? "" : this.#output(),
      logprob: number(this.exports.jslm_log_prob(this.handle)),
    };
  }

  /** Pieces {id, text} as they come; the last has no id, and `finish`: "stop" or "length". Temperature 0 is greedy. */
  *write(prompt, { tokens = 200, temperature = 0, seed = 0, conditions = {} } = {}) {
    const parts = [UTF8.encode(prompt.normalize("NFC")), lines(conditions)];
    const begin = (...places) => this.exports.jslm_begin(this.handle, ...places, tokens, temperature, seed);
    this.#check(this.#withBytes(parts, begin));
    for (;;) {
      const id = this.#next();
      const text = this.#output();
      if (id < 0) {
        yield { text, finish: id === -2 ? "stop" : "length" };
        return;
      }
      yield { id, text };
    }
  }

  /** A copy of the logits that the last token was chosen from. */
  logits() {
    const address = this.exports.jslm_logits(this.handle);
    return new Float32Array(this.exports.memory.buffer, address, this.exports.jslm_vocab_size(this.handle)).slice();
  }

  close() {
    this.exports.jslm_close(this.handle);
    this.handle = 0;
  }

  #next() {
    const id = this.exports.jslm_next(this.handle);
    return id === -1 ? this.#check(id) : id;
  }

  #check(status) {
    if (status === -1) throw new Error(this.#output());
    return status;
  }

  #output() {
    const address = this.exports.jslm_output(this.handle), length = this.exports.jslm_output_length(this.handle);
    return TEXT.decode(new Uint8Array(this.exports.memory.buffer, address, length));
  }

  #withBytes(parts, call) {
    const places = [];
    try {
      for (const bytes of parts) {
        const address = this.exports.jslm_alloc(bytes.length);
        if (!address) throw new Error(`no memory for ${bytes.length} bytes`);
        places.push(address, bytes.length);
        new Uint8Array(this.exports.memory.buffer, address, bytes.length).set(bytes);
      }
      return call(...places);
    } finally {
      for (let i = 0; i < places.length; i += 2) this.exports.jslm_free(places[i], places[i + 1]);
    }
  }
}

function lines(conditions) {
  return UTF8.encode(Object.entries(conditions).map(([name, label]) => `${name}=${label}`).join("\n"));
}

/** Compares a model with its test vectors; returns how many texts and sentences it compared. */
function check(model, vectors) {
  let count = 0;
  const same = (found, wanted, what) => {
    if (JSON.stringify(found) !== JSON.stringify(wanted)) {
      throw new Error(`${vectors.model}: ${JSON.stringify(what)}: ${JSON.stringify(found)}, expected ${JSON.stringify(wanted)}`);
    }
    count++;
  };
  for (const { prompt, conditions, prompt_ids, greedy_ids, greedy_text, finish, positions, logits } of vectors.cases) {
    const pieces = [];
    for (const piece of model.write(prompt, { tokens: vectors.max_new_tokens, conditions })) {
      const at = positions.indexOf(prompt_ids.length - 1 + pieces.length);
      if (at >= 0 && piece.id !== undefined) {
        const apart = Math.max(...model.logits().map((logit, i) => Math.abs(logit - logits[at][i])));
        if (!(apart < (vectors.model.includes("int8") ? 2e-3 : 5e-5))) throw new Error(`${vectors.model}: logits ${apart} apart`);
      }
      pieces.push(piece);
    }
    same(pieces.slice(0, -1).map((piece) => piece.id), greedy_ids, prompt);
    same(pieces.map((piece) => piece.text).join(""), greedy_text, prompt);
    same(pieces.at(-1).finish, finish, prompt);
  }
  for (const { source, conditions, output, confidence, reason, logprob } of vectors.rewrites ?? []) {
    const found = model.rewrite(source, conditions);
    for (const [name, wanted] of Object.entries({ confidence, logprob })) {
      if ((wanted === null) !== (found[name] === null) || Math.abs(found[name] - wanted) > 5e-3) {
        throw new Error(`${vectors.model}: ${JSON.stringify(source)}: ${name} ${found[name]}, expected ${wanted}`);
      }
    }
    // Its last digits are those of another order of summation.
    const plain = (text) => text.replace(/0\.\d+/u, "0.x");
    same([found.output, plain(found.reason)], [output, plain(reason)], source);
  }
  return count;
}

async function main([path, action, text = "", ...rest]) {
  const { readFileSync, readdirSync } = await import("node:fs");
  const wasm = readFileSync(process.env.JSLM_WASM ?? new URL("jslm_portable.wasm", import.meta.url));
  if (path === "check") {
    for (const name of readdirSync(action).filter((name) => name.endsWith(".json")).sort()) {
      const vectors = JSON.parse(readFileSync(`${action}/${name}`, "utf8"));
      const model = await open(wasm, readFileSync(`${action}/${vectors.model}`));
      console.log(`${name}: ${check(model, vectors)} alike`);
      model.close();
    }
    return;
  }
  const model = await open(wasm, readFileSync(path));
  const conditions = Object.fromEntries(rest.filter((each) => each.includes("=")).map((each) => each.split("=", 2)));
  const [tokens = 200, temperature = 0, seed = 0] = rest.filter((each) => !each.includes("=")).map(Number);
  if (action === "rewrite") {
    const { output, reason } = model.rewrite(text, conditions);
    console.log(output);
    if (reason) console.error(`left as it is: ${reason}`);
  } else if (action === "write") {
    process.stdout.write(text);
    for (const piece of model.write(text, { tokens, temperature, seed, conditions })) process.stdout.write(piece.text);
    process.stdout.write("\n");
  } else if (action === "speed") {
    let best = 0;
    for (let round = 0; round < 20; round++) {
      const started = performance.now();
      const count = [...model.write("T", { tokens: Number(text || 200) })].length - 1;
      best = Math.max(best, (1000 * count) / (performance.now() - started));
    }
    console.log(`${best.toFixed(0)} tokens/s`);
  } else {
    throw new Error("expected rewrite, write, speed or check");
  }
}

if (typeof process !== "undefined" && process.argv[1] && import.meta.url === (await import("node:url")).pathToFileURL(process.argv[1]).href) {
  await main(process.argv.slice(2)).catch((error) => {
    console.error(`node.mjs: ${error.message}`);
    process.exitCode = 2;
  });
}
