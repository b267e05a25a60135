// The model in onnxruntime-web: one text at a time, its cache, and the logits behind each token.
import * as ort from "./onnxruntime/ort.wasm.bundle.min.mjs";

// Prompts are read in pieces: the scores of a piece take heads * piece * prompt floats. A graph in int8 rounds the
// activations of a piece together, so what another program computes depends on the piece, in the last digits.
const PIECE = 256;

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
    });
    return new Model(card, session);
  }

  constructor(card, session) {
    this.card = card;
    this.session = session;
    this.body = Array.from({ length: card.layers }, (_, layer) => [`${layer}.key`, `${layer}.value`]).flat();
    this.ones = new BigInt64Array(card.context).fill(1n);
    this.start([]);
  }

  /** Forgets what was read. `labels`: the number of the label of each condition that is open, -1 for none. */
  start(labels) {
    this.length = 0;
    const { kv_heads: heads, head_dim: width, conditions } = this.card;
    const empty = () => new ort.Tensor("float32", new Float32Array(0), [1, heads, 0, width]);
    this.past = Object.fromEntries(this.body.map((name) => [`past_key_values.${name}`, empty()]));
    const given = conditions.map((_, index) => BigInt(labels[index] ?? -1));
    this.labels = given.length ? { conditions: new ort.Tensor("int64", BigInt64Array.from(given), [1, given.length]) } : {};
  }

  /** Reads ids; the logits behind the last one. `isStopped` is asked between pieces, and then there are none. */
  async read(ids, isStopped = async () => false) {
    const body = ids.length - 1;
    for (let at = 0; at < body; at += PIECE) {
      await this.run(ids.slice(at, Math.min(body, at + PIECE)), false);
      if (await isStopped()) return null;
    }
    return this.run(ids.slice(body), true);
  }

  async run(ids, wantsLogits) {
    const count = ids.length;
    const total = this.length + count;
    const tensor = (values) => new ort.Tensor("int64", values, [1, values.length]);
    const feeds = {
      input_ids: tensor(BigInt64Array.from(ids, BigInt)),
      attention_mask: tensor(this.ones.slice(0, total)),
      ...this.labels,
      ...this.past,
    };
    if (this.card.position !== "none") {
      feeds.position_ids = tensor(BigInt64Array.from(ids, (_, index) => BigInt(this.length + index)));
    }
    const fetches = this.body.map((name) => `present.${name}`);
    if (wantsLogits) fetches.push("logits");
    const found = await this.session.run(feeds, fetches);
    for (const name of this.body) this.past[`past_key_values.${name}`] = found[`present.${name}`];
    this.length = total;
    return wantsLogits ? found.logits.data : null;
  }
}
