// What becomes of a rewrite that was written: what `jslm.infer.judgement` does, by the settings of model.json.
import { makeCheck } from "./faithful.js";
import { asRead, isWhite, strip } from "./text.js";

const LEAST = -69;
const [BLANK, UNCHANGED] = ["blank", "nothing to change"];
// Code points with nothing to see: blanks, controls, marks of direction.
const UNSEEN = /[\0-\x20\x7f-\xa0\xad\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff]/u;

export const kept = (source, reason, confidence = null, logprob = null) => ({ source, output: source, changed: false, confidence, reason, logprob });

// A full stop behind these is no end, nor behind the others where a small letter or a digit follows.
const TITLES = "mr mrs ms messrs dr prof rev hon gen col lt sgt capt cpl gov sen st mt vs viz cf fig ph.d".split(" ");
const SHORT = "al etc no nos vol pp ca approx inc ltd co corp jr sr ft jan feb mar apr jun jul aug sep sept oct nov dec".split(" ");

/** Whether a full stop before white space is that of "Mr.", of initials, or of "etc." inside a sentence. */
function isAbbreviation(chars, at, follows) {
  if (chars[at] !== "." || !isWhite(chars[at + 1])) return false;
  const before = chars.slice(Math.max(0, at - 10), at);
  const start = before.findLastIndex((char) => isWhite(char) || "\"'“‘([".includes(char)) + 1;
  const raw = before.slice(start).join("");
  const word = raw.toLowerCase();
  const parts = word.split(".");
  const initials = parts.every((part) => Array.from(part).length === 1 && !/[0-9]/u.test(part));
  if (initials && (parts.length > 1 || (/\p{Uppercase}/u.test(raw) && raw !== "I"))) return true;
  const goesOn = follows !== undefined && /[\p{Lowercase}0-9]/u.test(follows);
  return TITLES.includes(word) || (SHORT.includes(word) && goesOn);
}

/** Sentences with the white space behind them: each ends with marks, and closing ones, before white space, or a blank line. */
export function splitSentences(text) {
  const chars = Array.from(text);
  const parts = [];
  let [start, at] = [0, 0];
  while (at < chars.length && isWhite(chars[at])) at++;
  while (at < chars.length) {
    let [next, lines] = [at, 0];
    for (; next < chars.length && isWhite(chars[next]); next++) lines += chars[next] === "\n";
    if (lines > 1) {
      parts.push(...splitParagraph(chars.slice(start, next)));
      start = next;
    }
    at = Math.max(next, at + 1);
  }
  return [...parts, ...splitParagraph(chars.slice(start))];
}

function splitParagraph(chars) {
  const run = (from, fits) => {
    let at = from;
    while (at < chars.length && fits(chars[at])) at++;
    return at;
  };
  const parts = [];
  let start = 0;
  for (let at = 1; at < chars.length;) {
    const marks = run(at, (char) => ".!?…".includes(char));
    if (marks === at) {
      at++;
      continue;
    }
    const closed = run(marks, (char) => "\"'”’)]".includes(char));
    const next = run(closed, isWhite);
    if (next > closed && !isAbbreviation(chars, at, chars[next])) {
      parts.push(chars.slice(start, next).join(""));
      start = next;
      at = next + 1;
    } else {
      at = marks;
    }
  }
  if (start < chars.length) parts.push(chars.slice(start).join(""));
  return parts;
}

/** One rewrite of several sentences' ones; as sure as the least sure of those that changed. */
export function joined(source, parts) {
  const changed = parts.filter((part) => part.changed);
  if (!changed.length) {
    // One with nothing to change counts after the others, a blank one last.
    const of = (fits) => parts.find((part) => fits(part.reason));
    const told = of((reason) => reason !== BLANK && reason !== UNCHANGED) ?? of((reason) => reason !== BLANK) ?? parts[0];
    return kept(source, told.reason, told.confidence, told.logprob);
  }
  const least = (name) => Math.min(...changed.map((part) => part[name]));
  const output = parts.map((part) => part.output).join("");
  return { source, output, changed: true, confidence: least("confidence"), reason: "", logprob: least("logprob") };
}

/** `{text, back}`, the sentence in characters that the model knows and a function back; or `{reason}`: it can't be read. */
export function readable(card, tokenizer, core, tokens) {
  if (!core) return { reason: BLANK };
  if (tokens + 2 > card.context) return { reason: `${tokens} tokens, the context of this model is ${card.context}` };
  const read = asRead(core, card.normalize);
  const unknown = tokenizer.unknown(read);
  const free = unknown.length ? tokenizer.characters.filter((char) => char > "\x7f" && char !== "\ufffd" && !UNSEEN.test(char) && !read.includes(char)) : [];
  const table = new Map();
  for (const char of unknown) {
    const at = free.findLastIndex((known) => kindOf(known) === kindOf(char));
    if (at < 0) return { reason: `the tokenizer has never seen ${unknown.slice(0, 10).map(shown).join(", ")}${unknown.length > 10 ? ", ..." : ""}` };
    table.set(char, free.splice(at, 1)[0]);
  }
  const end = card.rewrite.end;
  if (core.includes(end)) {
    return { reason: `'${end.replaceAll("\n", "\\n").replaceAll("\t", "\\t")}' in it, which for this model ends a prompt` };
  }
  const inverse = new Map([...table].map(([char, known]) => [known, char]));
  const by = (map) => (text) => Array.from(text, (char) => map.get(char) ?? char).join("");
  return { text: by(table)(core), back: by(inverse) };
}

/** The rewrite of a sentence, or the sentence and the reason why it stays; `core` and `text` are in NFC. */
export function judge({ settings, words }, source, core, text, logprobs, end, mayAdd) {
  const found = strip(text);
  const confidence = confidenceOf(settings.calibration, logprobs);
  const logprob = logprobs.length ? sum(logprobs) / logprobs.length : null;
  const keep = (reason) => kept(source, reason, confidence, logprob);
  if (end === "length") return keep("the rewrite has not ended in the room there is");
  if (!found || confidence === null) return keep("nothing was written");
  if (found === core) return keep(UNCHANGED);
  if (found.includes("\ufffd")) return keep("the rewrite has a character that is none");
  const difference = words ? makeCheck(words)(core, found, mayAdd) : "";
  if (difference) return keep(`the rewrite says something else: ${difference}`);
  if (confidence < settings.threshold) {
    const without = settings.beams ? ` (without the ${settings.beams} beams that the model is surer with)` : "";
    return keep(`not sure enough: ${confidence.toFixed(2)}, and ${settings.threshold.toFixed(2)} is asked for${without}`);
  }
  const own = strip(source);
  const at = source.indexOf(own);
  const output = source.slice(0, at) + found + source.slice(at + own.length);
  return { source, output, changed: true, confidence, reason: "", logprob };
}

/** The probability that a rewrite is right; without a calibration the mean probability of a token. */
function confidenceOf(weights, logprobs) {
  if (!logprobs.length) return null;
  if (!weights.length) return Math.exp(sum(logprobs) / logprobs.length);
  const values = logprobs.map((value) => Math.max(value, LEAST));
  const features = [1, sum(values), Math.min(...values), Math.log(values.length)];
  const score = sum(weights.map((weight, i) => weight * features[i]));
  return 1 / (1 + Math.exp(-Math.max(Math.min(score, 500), -500)));
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

/** A character in a reason: in quotes, and by its number where there would be nothing to see. */
function shown(char) {
  return UNSEEN.test(char) ? `U+${char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}` : `'${char}'`;
}

/** Characters of one kind may stand for each other. */
function kindOf(char) {
  return /\p{Uppercase}/u.test(char) ? "upper" : /\p{L}/u.test(char) ? "lower" : "other";
}
