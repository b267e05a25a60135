// The model's own thread, so that the page stays responsive. Messages in: {id, work, ...} with work "open", "write",
// "rewrite" or "stop"; out: {id, ...} with "done", "failed" (a message), "progress", "tokens" or "rewrite".
import { download, json } from "./files.js";
import { Model } from "./model.js";
import { makeTokenizer } from "./tokenizer.js";
import { rewrite, write } from "./writing.js";

// Tokens are sent together, some twenty times a second.
const SEND_MS = 50;
let model;
let tokenizer;
let stopped = new Set();

const works = { open, write: writeText, rewrite: rewriteAll };

addEventListener("message", async ({ data }) => {
  if (data.work === "stop") { stopped.add(data.stops); return; }
  const send = (found) => postMessage({ id: data.id, ...found });
  try {
    send({ done: await works[data.work](data, send) });
  } catch (error) {
    send({ failed: error.message });
  }
  stopped.delete(data.id);
});

async function open(_, send) {
  const card = await json("model.json");
  const [graph, runtime] = await download(card.files, (loaded, total) => send({ progress: { loaded, total } }));
  tokenizer = makeTokenizer(card.tokenizer);
  model = await Model.open(card, graph, runtime);
  const { tokenizer: _vocabulary, ...rest } = card;
  return rest;
}

/** What says whether work is to stop; messages are read only between tasks, and awaiting the model ends none. */
function watch(id) {
  let last = performance.now();
  return async () => {
    if (performance.now() - last > SEND_MS) {
      await new Promise(soon);
      last = performance.now();
    }
    return stopped.has(id);
  };
}

const channel = new MessageChannel();
function soon(action) {
  channel.port1.onmessage = action;
  channel.port2.postMessage(null);
}

async function writeText({ id, prompt, settings, labels }, send) {
  let waiting = [];
  let sent = performance.now();
  const started = sent;
  let [count, first] = [0, started];
  const flush = () => {
    if (waiting.length) send({ tokens: waiting });
    [waiting, sent] = [[], performance.now()];
  };
  for await (const { end, token, text, logprob, top } of write(model, tokenizer, prompt, settings, labels, watch(id))) {
    if (end) {
      flush();
      const now = performance.now();
      return { end, count, readMs: first - started, writeMs: now - first };
    }
    if (!count++) first = performance.now();
    waiting.push({ id: token, text, shown: tokenizer.shown(token), logprob, top: top.map(([one, value]) => [tokenizer.shown(one), value]) });
    if (performance.now() - sent > SEND_MS) flush();
  }
}

async function rewriteAll({ id, sentences, labels }, send) {
  const isStopped = watch(id);
  for (const sentence of sentences) {
    const found = await rewrite(model, tokenizer, sentence, labels, isStopped);
    if (!found) return { end: "stopped" };
    send({ rewrite: found });
  }
  return { end: "stop" };
}
