// Text as models read it, and white space as Python has it: what `jslm.prompts.as_read` and `str.strip` do.

const CONTROL = /[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u2060\ufeff\ufffe\uffff]/gu;
const LINE_BREAK = /\r\n|[\r\x0b\x0c\x85\u2028\u2029]/gu;
const SPACE = /[\xa0\u2000-\u200a\u202f\u205f\u3000]/gu;
// JavaScript's own white space has U+FEFF in it, and lacks U+001C to U+001F and U+0085.
const WHITE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const IS_WHITE = new RegExp(`^[${WHITE}]+$`, "u");
const ENDS = new RegExp(`^[${WHITE}]+|[${WHITE}]+$`, "gu");

/** As the training data had it: line breaks are LF; with `normalize` (a cleaner of the data) also NFC and so on. */
export function asRead(text, normalize) {
  const found = text.replace(/^\ufeff+/u, "").replace(/\r\n?/gu, "\n");
  if (!normalize) return found;
  return found.replace(CONTROL, "").replace(LINE_BREAK, "\n").replace(SPACE, " ").normalize("NFC");
}

/** Without white space at both ends. */
export function strip(text) {
  return text.replace(ENDS, "");
}

/** Whether there is white space and nothing else. */
export function isWhite(text) {
  return IS_WHITE.test(text);
}

/** With U+FFFD for each half of a character that stands alone, as UTF-8 has no such thing. */
export function wellFormed(text) {
  return text.replace(/\p{Surrogate}/gu, "\ufffd");
}
