// The model in onnxruntime-web: one text at a time, its cache, and the logits behind each token.
import { AGAIN } from "./files.js";
import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";

// Prompts are read in pieces: the scores of a piece take heads * piece * prompt floats. A graph in int8 rounds the
// activations of a piece together, so what another program computes depends on the piece, in the last digits.
const PIECE = 256;
// Slots by which the cache grows. Those without a token are masked: keys and values stay where they are for long.
const SLOTS = 64;

export class Model {
  /** `card` is `model.json`, `graph` and `runtime` the bytes of the .onnx and the .wasm file. */
  static async open(card, graph, runtime) {
    // One thread: several need headers that static hosts do not send.
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = runtime.buffer;
    ort.env.logLevel = "error";
    const session = await ort.InferenceSession.create(graph, {
      executionProviders: ["wasm"],
      // Every token has shapes of its own, so that none is met again.
      enableMemPattern: false,
    }).catch((error) => {
      throw new Error(`onnxruntime-web cannot open the model (${error.message.slice(0, 200)}); ${AGAIN}`);
    });
    return new Model(card, session);
  }

  constructor(card, session) {
    this.card = card;
    this.session = session;
    this.start([]);
  }

  /** Forgets what was read. `labels`: the number of the label of each condition that is open, -1 for none. */
  start(labels) {
    this.length = this.slots = 0;
    this.cache = Array.from({ length: 2 * this.card.layers }, () => new Float32Array(0));
    this.makeRoom(0);
    const given = this.card.conditions.map((_, index) => BigInt(labels[index] ?? -1));
    this.labels = given.length ? { conditions: new ort.Tensor("int64", BigInt64Array.from(given), [1, given.length]) } : {};
  }

  /** Reads ids; the logits behind the last one. `isStopped` is asked between pieces, and then there are none. */
  async read(ids, isStopped = async () => false) {
    const body = ids.length - 1;
    for (let at = 0; at < body; at += PIECE) {
      await this.run(ids.slice(at, Math.min(body, at + PIECE)));
      if (await isStopped()) return null;
    }
    return this.run(ids.slice(body));
  }

  async run(ids) {
    const tensor = (values) => new ort.Tensor("int64", values, [1, values.length]);
    // The new tokens stand behind all slots.
    const mask = new BigInt64Array(this.slots + ids.length).fill(1n).fill(0n, this.length, this.slots);
    const feeds = { input_ids: tensor(BigInt64Array.from(ids, BigInt)), attention_mask: tensor(mask), ...this.labels, ...this.past };
    if (this.card.position !== "none") {
      feeds.position_ids = tensor(BigInt64Array.from(ids, (_, index) => BigInt(this.length + index)));
    }
    const found = await this.session.run(feeds);
    this.keep(found.new.data, ids.length);
    return found.logits.data;
  }

  /** Takes keys and values `[2 layers, kv_heads, count, head_dim]` into the cache. */
  keep(rows, count) {
    if (this.length + count > this.slots) this.makeRoom(SLOTS * Math.ceil((this.length + count) / SLOTS));
    const { kv_heads: heads, head_dim: width } = this.card;
    this.cache.forEach((part, index) => {
      for (let head = 0; head < heads; head++) {
        const from = (index * heads + head) * count * width;
        part.set(rows.subarray(from, from + count * width), (head * this.slots + this.length) * width);
      }
    });
    this.length += count;
  }

  /** Gives every part of the cache `[kv_heads, slots, head_dim]`, and the inputs that hold them. */
  makeRoom(slots) {
    const { layers, kv_heads: heads, head_dim: width } = this.card;
    this.cache = this.cache.map((part) => {
      const grown = new Float32Array(heads * slots * width);
      for (let head = 0; head < heads; head++) {
        grown.set(part.subarray(head * this.slots * width, (head + 1) * this.slots * width), head * slots * width);
      }
      return grown;
    });
    this.slots = slots;
    const names = Array.from({ length: layers }, (_, layer) => [`${layer}.key`, `${layer}.value`]).flat();
    const tensor = (part) => new ort.Tensor("float32", part, [1, heads, slots, width]);
    this.past = Object.fromEntries(names.map((name, index) => [`past_key_values.${name}`, tensor(this.cache[index])]));
  }
}
