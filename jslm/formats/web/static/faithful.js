// Whether a rewrite says what its sentence says: what `jslm.infer.faithful` does, by the words of model.json.
import { isWhite } from "./text.js";

const LETTER = "(?:(?![0-9])[\\p{L}\\p{N}])";
const LETTERS = new RegExp(`${LETTER}+`, "gu");
const WORD = new RegExp(`[0-9][0-9.,:/–-]*[0-9]|[0-9]|${LETTER}+(?:'${LETTER}+)*|[^\\p{L}\\p{N}_]`, "gu");
const CLITICS = ["n't", "'s", "'re", "'ve", "'ll", "'d", "'m"];
const ENDINGS = ["s", "es", "ed", "d", "ing"];
const DOUBLING = "bdgkmnprtv";
// A capital behind one of these and a blank begins a sentence.
const OPENING = ".?!:“\"'(";

/** `difference(source, output, mayAdd)` in words, both in NFC; empty where the output says the same. */
export function makeCheck(words) {
  const same = new Map(Object.entries(words.same));
  const indefinite = new Map(Object.entries(words.indefinite));
  const silent = new Set([...words.auxiliaries, ...words.negative, ...words.light]);
  const pronouns = new Set([...same.keys(), ...same.values()]);
  const [irregular, participles] = [new Map(), new Set()];
  for (const [base, past, participle] of words.verbs.map((verb) => verb.split(" "))) {
    const last = participle.split("/");
    for (const form of new Set([base, ...past.split("/"), ...last])) irregular.set(form, [...(irregular.get(form) ?? []), base]);
    for (const form of last) participles.add(form);
  }

  /** Whether it is a word, a number, or a sign that is no punctuation. Older pages have no list of that. */
  const counts = (word) => /^[\p{L}\p{N}]/u.test(word) || (words.free !== undefined && !words.free.includes(word));

  /** The words that must come again, and how often. */
  function content(found) {
    const tally = new Map();
    found.forEach((word, place) => {
      let kept = null;
      if (word === "one" && found[place - 1] === "no") kept = "one";
      else if (indefinite.has(word)) kept = indefinite.get(word);
      else if (!silent.has(word) && (same.has(word) || counts(word))) kept = same.get(word) ?? word;
      if (kept !== null) tally.set(kept, (tally.get(kept) ?? 0) + 1);
    });
    return tally;
  }

  /** An irregular form behind its prefix: "written" of "rewritten". */
  function bare(word) {
    if (irregular.has(word)) return word;
    const behind = words.prefixes.filter((prefix) => word.startsWith(prefix)).map((prefix) => word.slice(prefix.length));
    return behind.find((rest) => irregular.has(rest)) ?? word;
  }

  /** Whether the last letter stands twice for the sake of an ending. Older pages have no words for it. */
  function isDoubled(stem) {
    const last = stem.at(-1);
    return words.doubled && stem.length > 2 && last === stem.at(-2) && DOUBLING.includes(last) && !words.doubled.includes(stem);
  }

  function bases(word) {
    const verb = bare(word);
    const prefix = word.slice(0, word.length - verb.length);
    const found = new Set([word, ...(irregular.get(verb) ?? []).map((base) => prefix + base)]);
    for (const ending of ENDINGS) {
      const stem = word.slice(0, word.length - ending.length);
      const chars = Array.from(stem);
      if (!word.endsWith(ending) || chars.length < 2) continue;
      const shorter = chars.slice(0, -1).join("");
      const isPast = ending === "ed" || ending === "d";
      if (words.doubled && isPast && irregular.has(verb)) continue;
      if (isDoubled(stem.replace(/e$/u, ""))) {
        if (!stem.endsWith("e") && (ending === "ed" || ending === "ing")) found.add(shorter);
        continue;
      }
      found.add(stem).add(`${stem}e`);
      if (stem.endsWith("i")) found.add(`${shorter}y`);
      // "picnicked" too
      if (stem.endsWith("ck") || (chars.length > 2 && chars.at(-1) === chars.at(-2))) found.add(shorter);
    }
    return found;
  }

  const isParticiple = (word) => /(?:ed|'d)$/u.test(word) || participles.has(bare(word));

  function areForms(word, other) {
    const others = bases(other);
    const common = [...bases(word)].filter((base) => others.has(base));
    return common.length > 0 && (isParticiple(word) || isParticiple(other) || common.some((base) => words.raising.includes(base)));
  }

  /** Words with a capital inside a sentence, or inside themselves, are written as they were. */
  function names(source, output) {
    for (const [text, other] of [[source, output], [output, source]]) {
      const spelled = new Set(other.match(LETTERS) ?? []);
      for (const { 0: name, index } of text.matchAll(LETTERS)) {
        const before = Array.from(text.slice(Math.max(0, index - 3), index));
        const inside = before.length > 1 && before.at(-1) === " " && !isWhite(before.at(-2)) && !OPENING.includes(before.at(-2));
        const [first, ...rest] = Array.from(name);
        const tail = rest.join("");
        if (!(inside && /\p{Uppercase}/u.test(first)) && !/\p{Uppercase}/u.test(tail)) continue;
        const isSpelled = spelled.has(name) || spelled.has(first.toUpperCase() + tail.toLowerCase());
        if (!isSpelled && !pronouns.has(name.toLowerCase())) return `'${name}' is spelled otherwise`;
      }
    }
    return "";
  }

  return function difference(source, output, mayAdd = false) {
    for (const mark of words.marks) {
      const [was, is] = [source, output].map((text) => text.split(mark).length - 1);
      if (was !== is) return `${mark} is there ${is} times, and was ${was}`;
    }
    const [before, after] = [splitWords(source), splitWords(output)];
    const [was, is] = [before, after].map((found) => found.filter((word) => words.negative.includes(word)).length);
    if (was !== is) return was > is ? "a negation is lost" : "a negation is not in the sentence";
    const [old, fresh] = [content(before), content(after)];
    if (mayAdd) for (const word of words.added) if (!old.get(word)) take(fresh, word, 1);
    const [missing, added] = [less(old, fresh), less(fresh, old)];
    for (const word of words.repeated) {
      if (old.get(word) > 0 && fresh.get(word) > 0) {
        missing.delete(word);
        added.delete(word);
      }
    }
    for (const word of [...missing.keys()]) {
      for (const other of [...added.keys()]) {
        const both = Math.min(missing.get(word) ?? 0, added.get(other) ?? 0);
        if (both > 0 && areForms(word, other)) {
          take(missing, word, both);
          take(added, other, both);
        }
      }
    }
    if (missing.size) return `'${missing.keys().next().value}' is lost`;
    if (added.size) return `'${added.keys().next().value}' is not in the sentence`;
    return names(source, output);
  };
}

function less(counts, other) {
  const left = [...counts].map(([word, count]) => [word, count - (other.get(word) ?? 0)]);
  return new Map(left.filter(([, count]) => count > 0));
}

function take(counts, word, count) {
  const left = (counts.get(word) ?? 0) - count;
  if (left > 0) counts.set(word, left);
  else counts.delete(word);
}

/** Words in small letters, numbers and marks; "don't" is "do" and "n't". */
function splitWords(text) {
  const tokens = text.replaceAll("’", "'").toLowerCase().match(WORD) ?? [];
  return tokens.filter((token) => !isWhite(token)).flatMap((token) => {
    if (token === "cannot" || token === "can't") return ["can", "not"];
    const clitic = CLITICS.find((each) => token.endsWith(each));
    return clitic && token !== clitic ? [token.slice(0, -clitic.length), clitic] : [token];
  });
}
