// Text to ids and back, with the ids that jslm gives. The kinds: char, byte, bpe, gpt2, sentencepiece.
import { joinAll } from "./joining.js";
import { wellFormed } from "./text.js";

const UTF8 = new TextEncoder();
// GPT-2's pattern. Its \s is Unicode's White_Space, which JavaScript's is not.
const WHITE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const WORD = new RegExp(
  `'(?:s|t|re|ve|m|ll|d)| ?\\p{L}+| ?\\p{N}+| ?[^${WHITE}\\p{L}\\p{N}]+|[${WHITE}]+(?![^${WHITE}])|[${WHITE}]+`, "gu");

/**
 * The tokenizer of `model.json`: `encode(text)` gives ids, and no spelling of a special token becomes one;
 * `pieces[id]` are the bytes that an id stands for; `unknown(text)` lists the characters that it does not know,
 * `characters` those that it does, where they are ids.
 */
export function makeTokenizer(fields) {
  const made = { char, byte, bpe, gpt2, sentencepiece }[fields.kind](fields);
  const shown = (id) => show(id, fields.special, made.pieces[id]);
  return { unknown: () => [], ...made, shown, bos: fields.bos, eot: fields.eot, leadingSpace: fields.leading_space };
}

/** Bytes to text, as they come; a character is held back until it is whole. */
export class TextStream {
  constructor(dropsSpace) {
    this.decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    this.dropsSpace = dropsSpace;
  }
  push(bytes) {
    const text = this.decoder.decode(bytes, { stream: true });
    if (!text || !this.dropsSpace) return text;
    this.dropsSpace = false;
    return text.startsWith(" ") ? text.slice(1) : text;
  }
}

function char({ special, characters, unknown }) {
  const names = specialPieces(special);
  const alphabet = Array.from(characters);
  const ids = new Map(alphabet.map((one, index) => [one, names.length + index]));
  const pieces = [...names, ...alphabet.map((one) => UTF8.encode(one))];
  pieces[unknown] = UTF8.encode("\ufffd");
  return {
    pieces,
    characters: alphabet,
    encode: (text) => Array.from(text, (one) => ids.get(one) ?? unknown),
    unknown: (text) => [...new Set(Array.from(text).filter((one) => !ids.has(one)))].sort((one, other) => one.codePointAt(0) - other.codePointAt(0)),
  };
}

function byte({ special }) {
  const pieces = [...Array.from({ length: 256 }, (_, value) => Uint8Array.of(value)), ...specialPieces(special)];
  return { pieces, encode: (text) => Array.from(UTF8.encode(text)) };
}

/** Merges by rank: `merges` are pairs of ids, one after the other. */
function bpe({ special, tokens, merges }) {
  const names = specialPieces(special);
  const ids = new Map(tokens.map((token, index) => [token, names.length + index]));
  const table = new Map();
  for (let i = 0; i < merges.length; i += 2) {
    const [left, right] = [merges[i], merges[i + 1]];
    const joined = ids.get(tokens[left - names.length] + tokens[right - names.length]);
    table.set(left * 2 ** 26 + right, { rank: i / 2, joined });
  }
  const find = (left, right) => table.get(left * 2 ** 26 + right);
  const bytes = spelling();
  return {
    pieces: [...names, ...unspelled(tokens)],
    encode: byWords((word) => joinAll(Array.from(UTF8.encode(word), (value) => ids.get(bytes[value])), find)),
  };
}

/** Any two tokens that make a third join, the lowest id first. */
function gpt2({ special, tokens }) {
  const ids = new Map(tokens.map((token, index) => [token, index]));
  const find = (left, right) => {
    const joined = ids.get(tokens[left] + tokens[right]);
    return joined === undefined ? undefined : { rank: joined, joined };
  };
  const bytes = spelling();
  return {
    pieces: [...unspelled(tokens), ...specialPieces(special)],
    encode: byWords((word) => {
      const spelled = Array.from(UTF8.encode(word), (value) => bytes[value]);
      const whole = ids.get(spelled.join(""));
      return whole === undefined ? joinAll(spelled.map((one) => ids.get(one)), find) : [whole];
    }),
  };
}

/** Pieces with scores, the best first, and bytes for what they lack; a space goes before a text. */
function sentencepiece({ special, pieces: texts, scores }) {
  const first = Object.keys(special).length;
  const ordinary = first + 256;
  const ids = new Map();
  // Backwards, so that the first of two equal pieces wins.
  for (let id = texts.length - 1; id >= ordinary; id--) ids.set(texts[id], id);
  const find = (left, right) => {
    const joined = left + right;
    const id = ids.get(joined);
    const joins = id !== undefined && scores[id] > -1e10 && ids.has(left) && ids.has(right);
    return joins ? { rank: -scores[id], joined } : undefined;
  };
  const idsOf = (symbol) => ids.has(symbol) ? [ids.get(symbol)] : Array.from(UTF8.encode(symbol), (value) => first + value);
  // Where no piece goes on after a space, no pair is joined across the start of a word.
  const hasWords = ![...ids.keys()].some((piece) => /[^ ] /u.test(piece));
  const split = (text) => hasWords ? text.match(/ *[^ ]+| +/gu) : [text];
  const bytes = Array.from({ length: 256 }, (_, value) => Uint8Array.of(value));
  return {
    pieces: [...specialPieces(special), ...bytes, ...texts.slice(ordinary).map((one) => UTF8.encode(one))],
    encode: (text) => text ? split(` ${wellFormed(text)}`).flatMap((word) => joinAll(Array.from(word), find).flatMap(idsOf)) : [],
  };
}

/** Ids of a text word by word; words come again. */
function byWords(encode) {
  const known = new Map();
  return (text) => (wellFormed(text).match(WORD) ?? []).flatMap((word) => {
    if (!known.has(word)) {
      if (known.size > 65536) known.clear();
      known.set(word, encode(word));
    }
    return known.get(word);
  });
}

const specialPieces = (special) => Object.entries(special).sort((one, other) => one[1] - other[1]).map(([name]) => UTF8.encode(name));

/** GPT-2's printable character for each byte: itself where Latin-1 prints it, else the next one from U+0100 on. */
function spelling() {
  let others = 0;
  return Array.from({ length: 256 }, (_, value) => {
    const prints = (value > 0x20 && value < 0x7f) || (value > 0xa0 && value !== 0xad);
    return String.fromCodePoint(prints ? value : 256 + others++);
  });
}

function unspelled(tokens) {
  const values = new Map(spelling().map((one, value) => [one, value]));
  return tokens.map((token) => Uint8Array.from(token, (one) => values.get(one)));
}

/** A token for people to read. */
function show(id, special, piece) {
  const name = Object.keys(special).find((one) => special[one] === id);
  if (name !== undefined) return name;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(piece);
  } catch {
    return `bytes ${Array.from(piece, (value) => value.toString(16).padStart(2, "0")).join(" ")}`;
  }
}
