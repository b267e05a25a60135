// Texts and rewrites, token by token: what `jslm.infer` does with a prompt.
import { joined, judge, kept, readable, splitSentences } from "./judging.js";
import { choose, Draws, largest, logSum, penalise } from "./sampling.js";
import { asRead, strip } from "./text.js";
import { TextStream } from "./tokenizer.js";

const TOP = 5;
// A rewrite that takes more than twice the tokens of its sentence and these is no rewrite.
const SLACK = 32;
const GREEDY = { temperature: 0, top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1, seed: 0 };

/** What the model is shown for a prompt, and how many tokens it may write then. Throws where it does not fit. */
export function begin(model, tokenizer, prompt, maxTokens) {
  const { context, ends_documents: ends, normalize, longest } = model.card;
  const text = asRead(prompt, normalize);
  if (text.length > longest * context) throw new Error(`the prompt has ${text.length} characters, more than this model reads (its context is ${context} tokens); shorten it`);
  let ids = tokenizer.encode(text);
  if (ids.length > context - 1) throw new Error(`the prompt is ${ids.length} tokens, the context of this model is ${context}; shorten it`);
  if (ends && ids.length + 1 < context) ids = [tokenizer.bos, ...ids];
  else if (!ids.length) ids = neutralStart(tokenizer);
  const limit = Math.min(maxTokens, context - ids.length);
  if (limit < 1) throw new Error(`the context of this model is ${context} tokens, which leaves no room to write in`);
  return { ids, limit };
}

/** What stands for nothing where documents do not begin with a token of their own: a line break. */
function neutralStart(tokenizer) {
  const found = tokenizer.encode("\n");
  return found.length === 1 && !tokenizer.unknown("\n").length ? found : [tokenizer.bos];
}

/**
 * The continuation of a prompt: `{token, text, logprob, top}` for each token, `text` being what is certain by then, and
 * last `{end, logprob}`: "stop" (with the end-of-text token's logprob), "length", or "stopped" where `isStopped` says so.
 */
export async function* write(model, tokenizer, prompt, settings, labels, isStopped) {
  const { ids, limit } = begin(model, tokenizer, prompt, settings.max_tokens);
  const draws = new Draws(settings.seed);
  const stream = new TextStream(!prompt && tokenizer.leadingSpace);
  // Where one starts the document it is no repetition: a penalty on it would keep documents from ending.
  const seen = new Set(ids.filter((id) => id !== tokenizer.bos && id !== tokenizer.eot));
  model.start(labels);
  let logits = await model.read(ids, isStopped);
  for (let count = 0; count < limit; count++) {
    if (!logits || (await isStopped())) { yield { end: "stopped" }; return; }
    const whole = logSum(logits);
    if (!Number.isFinite(whole)) throw new Error("the model's logits are not finite: its training has diverged; export another checkpoint");
    const judged = settings.repetition_penalty === 1 ? logits : penalise(logits, seen, settings.repetition_penalty);
    const token = choose(judged, settings, draws);
    const logprob = logits[token] - whole;
    if (token === tokenizer.eot) { yield { end: "stop", logprob }; return; }
    const top = largest(logits, TOP).map((id) => [id, logits[id] - whole]);
    yield { token, text: stream.push(tokenizer.pieces[token]), logprob, top };
    seen.add(token);
    if (count + 1 < limit) logits = await model.read([token]);
  }
  yield { end: "length" };
}

/**
 * A sentence and what became of it: `{source, output, changed, confidence, reason, logprob}`, as `jslm.load().rewrite` has
 * it; null where `isStopped` says so.
 */
export async function rewrite(model, tokenizer, sentence, labels, isStopped) {
  const parts = model.card.rewrite.settings.sentences ? splitSentences(sentence) : [];
  if (parts.length < 2) return rewriteOne(model, tokenizer, sentence, labels, isStopped);
  const found = [];
  for (const part of parts) {
    const one = await rewriteOne(model, tokenizer, part, labels, isStopped);
    if (!one) return null;
    found.push(one);
  }
  return joined(sentence, found);
}

async function rewriteOne(model, tokenizer, sentence, labels, isStopped) {
  const { normalize, rewrite: pair } = model.card;
  const core = strip(sentence).normalize("NFC");
  const tokens = tokenizer.encode(asRead(pair.parts.join(core), normalize)).length;
  const { text: shown, back, reason } = readable(model.card, tokenizer, core, tokens);
  if (reason) return kept(sentence, reason);
  const logprobs = [];
  let [text, end] = ["", ""];
  const settings = { ...GREEDY, max_tokens: 2 * tokens + SLACK };
  for await (const piece of write(model, tokenizer, pair.parts.join(shown), settings, labels, isStopped)) {
    if (piece.end) {
      end = piece.end;
      if (piece.logprob !== undefined) logprobs.push(piece.logprob);
      break;
    }
    const before = text.length;
    text += piece.text;
    const cut = text.indexOf("\n");
    // A token that begins before the line break counts; one that is the line break does not.
    if (cut < 0 || before < cut) logprobs.push(piece.logprob);
    if (cut >= 0) {
      text = text.slice(0, cut);
      end = "stop";
      break;
    }
  }
  if (end === "stopped") return null;
  return judge(pair, sentence, core, back(text), logprobs, end, addsSomeone(model.card, labels));
}

/** Whether the chosen labels ask for a subject that the sentence does not have (`agentless = someone`). */
function addsSomeone(card, labels) {
  const folded = card.rewrite.may_add ?? false;
  return folded || card.conditions.some(({ name, labels: names }, i) => name === "agentless" && names[labels[i]] === "someone");
}
