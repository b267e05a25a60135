//! Sentences rewritten: how a sentence is asked for, and whether what was written may stand.

use crate::faithful::Words;
use crate::json::{self, Value};
use crate::{fail, is_white, strip, whole_characters, Finish, Model, Result};

/// Reasons of sentences that there is nothing to say of.
const BLANK: &str = "blank";
const UNCHANGED: &str = "nothing to change";
/// Log-probabilities below it are as good as none.
const LEAST: f64 = -69.0;
/// Code points with nothing to see: blanks, controls, marks of direction.
#[rustfmt::skip]
const UNSEEN: [(u32, u32); 9] = [
    (0, 0x20), (0x7f, 0xa0), (0xad, 0xad), (0x1680, 0x1680), (0x2000, 0x200f), (0x2028, 0x202f), (0x205f, 0x206f),
    (0x3000, 0x3000), (0xfeff, 0xfeff),
];

/// A full stop behind these is no end.
#[rustfmt::skip]
const TITLES: [&str; 23] = [
    "mr", "mrs", "ms", "messrs", "dr", "prof", "rev", "hon", "gen", "col", "lt", "sgt", "capt",
    "cpl", "gov", "sen", "st", "mt", "vs", "viz", "cf", "fig", "ph.d",
];
/// Nor behind these, where a small letter or a digit follows.
#[rustfmt::skip]
const SHORT: [&str; 27] = [
    "al", "etc", "no", "nos", "vol", "pp", "ca", "approx", "inc", "ltd", "co", "corp", "jr", "sr",
    "ft", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec",
];

/// A sentence and what became of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rewrite {
    pub output: String,
    /// The probability that the rewrite is right, by the file's calibration (without one the mean probability of a token);
    /// none where nothing was written.
    pub confidence: Option<f64>,
    pub changed: bool,
    /// Why the sentence stays as it is; empty where it changed.
    pub reason: String,
    /// The mean natural log-probability of what was written.
    pub log_prob: Option<f64>,
}

/// The file's section `[rewrite]`: when a sentence stays.
pub struct Settings {
    threshold: f64,
    calibration: Vec<f64>,
    sentences: bool,
    words: Option<Words>,
    /// Of the search that the model is surer with; this reader writes greedily.
    beams: usize,
}

impl Settings {
    /// Of `config.rewrite`, which older files lack; the words are in the file's `fields`.
    pub fn open(section: Option<&Value>, fields: &Value) -> Result<Settings> {
        let flag = |name| section.and_then(|section| section.get(name)).map_or(Ok(false), Value::flag);
        let number = |name| section.and_then(|section| section.get(name)).map_or(Ok(0.0), Value::number);
        let calibration = match section.and_then(|section| section.get("calibration")) {
            Some(weights) => weights.list()?.iter().map(Value::number).collect::<Result<Vec<f64>>>()?,
            None => Vec::new(),
        };
        if !matches!(calibration.len(), 0 | 4) {
            return fail(format!("rewrite.calibration has {} numbers, not 4; the file is damaged", calibration.len()));
        }
        let words = if flag("faithful")? { Some(Words::open(fields.need("rewrite_words")?)?) } else { None };
        let agreement = section.and_then(|section| section.get("agreement"));
        let beams = agreement.and_then(|section| section.get("beams")).map_or(Ok(0), |beams| beams.count(1 << 20))?;
        Ok(Settings { threshold: number("threshold")?, calibration, sentences: flag("sentences")?, words, beams })
    }

    /// The probability that a rewrite of these log-probabilities is right.
    fn confidence(&self, log_probs: &[f32]) -> Option<f64> {
        if log_probs.is_empty() {
            return None;
        }
        let count = log_probs.len() as f64;
        let sum = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, |sum, value| sum + value);
        if self.calibration.is_empty() {
            return Some((sum(&mut log_probs.iter().map(|value| f64::from(*value))) / count).exp());
        }
        let values = || log_probs.iter().map(|value| f64::from(*value).max(LEAST));
        let features = [1.0, sum(&mut values()), values().fold(0.0, f64::min), count.ln()];
        let score: f64 = self.calibration.iter().zip(features).map(|(weight, value)| weight * value).sum();
        Some(1.0 / (1.0 + (-score.clamp(-500.0, 500.0)).exp()))
    }
}

impl Model {
    /// What a model that learned pairs makes of a sentence, or the sentence and the reason why it stays. Without a
    /// `threshold`, from 0 to 1, the file's own holds. Fails for conditions that the model lacks.
    pub fn rewrite(&self, sentence: &str, conditions: &[(&str, &str)], threshold: Option<f64>) -> Result<Rewrite> {
        // Conditions that the model lacks are an error, whatever the sentence.
        self.start(conditions)?;
        let parts = if self.settings.sentences { split_sentences(sentence) } else { Vec::new() };
        if parts.len() < 2 {
            return self.rewrite_one(sentence, conditions, threshold);
        }
        let found: Vec<Rewrite> =
            parts.iter().map(|part| self.rewrite_one(part, conditions, threshold)).collect::<Result<_>>()?;
        let changed = || found.iter().filter(|part| part.changed);
        if changed().next().is_none() {
            // One with nothing to change counts after the others, a blank one last.
            let rank = |part: &&Rewrite| {
                [UNCHANGED, BLANK].iter().position(|reason| part.reason == *reason).map_or(0, |at| at + 1)
            };
            let told = found.iter().min_by_key(rank).cloned().unwrap_or_default();
            return Ok(Rewrite { output: sentence.into(), ..told });
        }
        let least = |of: fn(&Rewrite) -> Option<f64>| changed().filter_map(of).reduce(f64::min);
        Ok(Rewrite {
            output: found.iter().map(|part| part.output.as_str()).collect(),
            confidence: least(|part| part.confidence),
            changed: true,
            reason: String::new(),
            log_prob: least(|part| part.log_prob),
        })
    }

    /// What a rewrite says otherwise than its sentence, both in NFC; empty where it says the same, and none where the file
    /// has no words to check by. `may_add`: a subject "someone" may be new.
    pub fn difference(&self, source: &str, output: &str, may_add: bool) -> Option<String> {
        self.settings.words.as_ref().map(|words| words.difference(source, output, may_add))
    }

    fn rewrite_one(&self, sentence: &str, conditions: &[(&str, &str)], threshold: Option<f64>) -> Result<Rewrite> {
        let mut found = Rewrite { output: sentence.into(), ..Rewrite::default() };
        let core = strip(sentence);
        let tokens = self.encode(&self.rewrite_prompt(core)?)?.len();
        let (known, stand_ins) = match self.readable(core, tokens) {
            Ok(readable) => readable,
            Err(reason) => return Ok(Rewrite { reason, ..found }),
        };
        let mut state = self.begin(&self.rewrite_prompt(&known)?, conditions, 2 * tokens + 32, 0.0, 0)?;
        let mut ended = false;
        while let Some(token) = self.step(&mut state)? {
            let piece = self.tokenizer.piece(token);
            if let Some(at) = piece.iter().position(|&byte| byte == b'\n') {
                state.bytes.truncate(state.bytes.len() - piece.len() + at);
                // A token counts where some of it is before the line break.
                state.log_probs.truncate(state.log_probs.len() - usize::from(at == 0));
                ended = true;
                break;
            }
        }
        ended |= state.finish == Some(Finish::Stop);
        let written = whole_characters(&state.bytes);
        let back = |char| stand_ins.iter().find(|(_, known)| *known == char).map_or(char, |(unknown, _)| *unknown);
        let text: String = written.chars().map(back).collect();
        let text = strip(&text);
        found.confidence = self.settings.confidence(&state.log_probs);
        if !state.log_probs.is_empty() {
            let sum = state.log_probs.iter().fold(0.0, |sum, value| sum + f64::from(*value));
            found.log_prob = Some(sum / state.log_probs.len() as f64);
        }
        let may_add = conditions.contains(&("agentless", "someone"));
        found.reason = match ended {
            true => self.why_not(core, text, found.confidence, threshold.unwrap_or(self.settings.threshold), may_add),
            false => "the rewrite has not ended in the room there is".into(),
        };
        if found.reason.is_empty() {
            found.output = sentence.replacen(core, text, 1);
            found.changed = true;
        }
        Ok(found)
    }

    /// Why a rewrite that was written is none; empty where it is one.
    fn why_not(&self, core: &str, text: &str, confidence: Option<f64>, threshold: f64, may_add: bool) -> String {
        let sure = match confidence {
            Some(sure) if !text.is_empty() => sure,
            _ => return "nothing was written".into(),
        };
        if text == core {
            return UNCHANGED.into();
        }
        if text.contains('\u{fffd}') {
            return "the rewrite has a character that is none".into();
        }
        let difference = self.settings.words.as_ref().map_or(String::new(), |w| w.difference(core, text, may_add));
        if !difference.is_empty() {
            return format!("the rewrite says something else: {}", difference);
        }
        if sure >= threshold {
            return String::new();
        }
        let without = match self.settings.beams {
            0 => String::new(),
            beams => format!(" (without the {} beams that the model is surer with)", beams),
        };
        // The standard library's formatting of floats is a tenth of the WebAssembly.
        let shown = |share: f64| {
            let hundredths = (share.clamp(0.0, 1.0) * 100.0 + 0.5) as u32;
            format!("{}.{}{}", hundredths / 100, hundredths / 10 % 10, hundredths % 10)
        };
        format!("not sure enough: {}, and {} is asked for{}", shown(sure), shown(threshold), without)
    }

    /// The sentence in characters that the model knows, and what stands for which; or why it can't be read.
    fn readable(&self, core: &str, tokens: usize) -> std::result::Result<(String, Vec<(char, char)>), String> {
        let context = self.context_length();
        if core.is_empty() {
            return Err(BLANK.into());
        }
        if tokens + 2 > context {
            return Err(format!("{} tokens, the context of this model is {}", tokens, context));
        }
        let read = crate::as_read(core, self.normalizes);
        let mut unknown: Vec<char> = read.chars().filter(|char| !self.tokenizer.knows(*char)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        let mut spare: Vec<char> = match unknown.len() {
            0 => Vec::new(),
            _ => self
                .tokenizer
                .characters()
                .filter(|char| !char.is_ascii() && is_seen(*char) && !read.contains(*char))
                .collect(),
        };
        let mut stand_ins = Vec::new();
        for char in &unknown {
            match spare.iter().rposition(|known| kind_of(*known) == kind_of(*char)) {
                Some(at) => stand_ins.push((*char, spare.remove(at))),
                None => {
                    let shown: Vec<String> = unknown.iter().take(10).map(|char| shown(*char)).collect();
                    let more = if unknown.len() > 10 { ", ..." } else { "" };
                    return Err(format!("the tokenizer has never seen {}{}", shown.join(", "), more));
                }
            }
        }
        let end = if self.prompt_end.is_empty() { "\n" } else { &self.prompt_end };
        if core.contains(end) {
            let end = end.replace('\n', "\\n").replace('\t', "\\t");
            return Err(format!("'{}' in it, which for this model ends a prompt", end));
        }
        let put = |char| stand_ins.iter().find(|(unknown, _)| *unknown == char).map_or(char, |(_, known)| *known);
        Ok((core.chars().map(put).collect(), stand_ins))
    }

    /// The template up to the end of the prompt, or up to the completion.
    fn rewrite_prompt(&self, sentence: &str) -> Result<String> {
        let (end, mut prompt, mut literal) = (&self.prompt_end, String::new(), String::new());
        let in_a_literal = literals(&self.template).iter().any(|part| !end.is_empty() && part.contains(end.as_str()));
        let mut chars = self.template.chars().peekable();
        loop {
            let char = chars.next();
            match char {
                Some('{' | '}') if chars.peek() == char.as_ref() => literal.extend(chars.next()),
                Some('{') | None => {
                    if let Some(at) = literal.find(end.as_str()).filter(|_| !end.is_empty()) {
                        return Ok(prompt + &literal[..at + end.len()]);
                    }
                    prompt.push_str(&literal);
                    literal.clear();
                    if char.is_none() {
                        return Ok(sentence.to_string() + if end.is_empty() { "\n" } else { end });
                    }
                    let name: String = chars.by_ref().take_while(|char| *char != '}').collect();
                    match name.as_str() {
                        "prompt" => prompt.push_str(sentence),
                        "completion" if !in_a_literal => return Ok(prompt),
                        "completion" => {}
                        _ => return fail(format!("the template wants {} besides the sentence", json::shown(&name))),
                    }
                }
                Some(char) => literal.push(char),
            }
        }
    }
}

/// A character in a reason: in quotes, and by its number where there would be nothing to see.
fn shown(char: char) -> String {
    match is_seen(char) {
        true => format!("'{}'", char),
        false => format!("U+{:04X}", u32::from(char)),
    }
}

fn is_seen(char: char) -> bool {
    !UNSEEN.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(char)))
}

/// Characters of one kind may stand for each other: capitals 0, letters 1, all else 2.
fn kind_of(char: char) -> u8 {
    match char {
        _ if char.is_uppercase() => 0,
        _ if crate::tokenizer::is_alphabetic(char) => 1,
        _ => 2,
    }
}

/// Sentences with the white space behind them: each ends with marks, and closing ones, before white space, or a blank line.
fn split_sentences(text: &str) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let mut at = text.find(|char| !is_white(char)).unwrap_or(text.len());
    while let Some(found) = text[at..].find(is_white) {
        let white = at + found;
        at = text[white..].find(|char| !is_white(char)).map_or(text.len(), |end| white + end);
        if text[white..at].matches('\n').count() > 1 {
            parts.extend(split_paragraph(&text[start..at]));
            start = at;
        }
    }
    parts.extend(split_paragraph(&text[start..]));
    parts
}

fn split_paragraph(text: &str) -> Vec<&str> {
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    let place = |at: usize| chars.get(at).map_or(text.len(), |(place, _)| *place);
    let run = |from: usize, fits: &dyn Fn(char) -> bool| {
        from + chars[from..].iter().take_while(|(_, char)| fits(*char)).count()
    };
    let (mut parts, mut start, mut at) = (Vec::new(), 0, 1);
    while at < chars.len() {
        let marks = run(at, &|char| ".!?…".contains(char));
        if marks == at {
            at += 1;
            continue;
        }
        let closed = run(marks, &|char| "\"'”’)]".contains(char));
        let next = run(closed, &is_white);
        if next > closed && !is_abbreviation(&chars, at, next) {
            parts.push(&text[place(start)..place(next)]);
            start = next;
            at = next + 1;
        } else {
            at = marks;
        }
    }
    if start < chars.len() {
        parts.push(&text[place(start)..]);
    }
    parts
}

/// Whether a full stop before white space is that of "Mr.", of initials, or of "etc." inside a sentence.
fn is_abbreviation(chars: &[(usize, char)], at: usize, next: usize) -> bool {
    if chars[at].1 != '.' || !chars.get(at + 1).map_or(false, |(_, char)| is_white(*char)) {
        return false;
    }
    let before: Vec<char> = chars[at.saturating_sub(10)..at].iter().map(|(_, char)| *char).collect();
    let start = before.iter().rposition(|char| is_white(*char) || "\"'“‘([".contains(*char)).map_or(0, |at| at + 1);
    let raw: String = before[start..].iter().collect();
    let word = raw.to_lowercase();
    let single = |part: &str| part.chars().count() == 1 && !part.contains(|char: char| char.is_ascii_digit());
    let alone = raw.contains(char::is_uppercase) && raw != "I";
    if word.split('.').all(single) && (word.contains('.') || alone) {
        return true;
    }
    let goes_on = chars.get(next).map_or(false, |(_, char)| char.is_lowercase() || char.is_ascii_digit());
    TITLES.contains(&word.as_str()) || (SHORT.contains(&word.as_str()) && goes_on)
}

/// The literal parts of a template, without what stands in braces.
fn literals(template: &str) -> Vec<String> {
    let doubled = template.replace("{{", "\u{1}").replace("}}", "\u{2}");
    let parts = doubled.split('{').enumerate();
    let outside =
        parts.map(|(at, part)| if at == 0 { part } else { part.split_once('}').map_or("", |(_, rest)| rest) });
    outside.map(|part| part.replace('\u{1}', "{").replace('\u{2}', "}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewriter() -> Model {
        let beside = option_env!("CARGO_MANIFEST_DIR").map(|here| format!("{}/../../tests/vectors", here));
        let folder = std::env::var("JSLM_VECTORS").ok().or(beside).expect("JSLM_VECTORS names no folder");
        Model::open(&std::fs::read(folder + "/rewriter.safetensors").unwrap()).unwrap()
    }

    #[test]
    fn prompts_are_those_of_jslm() {
        let mut model = rewriter();
        for (template, end, prompt) in [
            ("", "", "S\n"),
            ("", "\t", "S\t"),
            ("{prompt}\t{completion}", "\t", "S\t"),
            ("Fix: {prompt}\n=> {completion}", "", "Fix: S\n=> "),
            ("{{{prompt}}} -> {completion}", "->", "{S} ->"),
            ("{{prompt}} {prompt}", "", "S\n"),
            ("{completion} of {prompt}:", ":", " of S:"),
        ] {
            model.template = template.into();
            model.prompt_end = end.into();
            assert_eq!(model.rewrite_prompt("S").unwrap(), prompt, "{:?}", template);
        }
        model.template = "{prompt} {colour} {completion}".into();
        assert!(model.rewrite_prompt("S").is_err());
    }

    #[test]
    fn texts_are_split_into_sentences() {
        for (text, parts) in [
            ("", vec![]),
            ("A b.", vec!["A b."]),
            (" A b.  C? (D!) E", vec![" A b.  ", "C? ", "(D!) ", "E"]),
            ("... Mr. X: 3.5 \u{201c}No!\u{201d} he\u{2026}\n\n.", vec!["... ", "Mr. X: 3.5 “No!” ", "he…\n\n", "."]),
            ("Dr. S. So did I. Then", vec!["Dr. S. So did I. ", "Then"]),
            ("\n\n A\nb \r\n\r\nMr.\n \nC", vec!["\n\n A\nb \r\n\r\n", "Mr.\n \n", "C"]),
            ("Nr. 5. (e.g. C) et al. in etc. I", vec!["Nr. ", "5. ", "(e.g. C) et al. in etc. ", "I"]),
        ] {
            assert_eq!(split_sentences(text), parts);
        }
        assert_eq!(literals("{{a}} {prompt} b {completion}c"), ["{a} ", " b ", "c"]);
    }
}
