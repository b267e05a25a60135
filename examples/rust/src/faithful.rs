//! Whether a rewrite says what its sentence says, by the words of the file: each of the one is in the other, by lemma.

use crate::is_white;
use crate::json::Value;
use crate::tokenizer::{is_letter, is_word};
use crate::Result;

const CLITICS: [&str; 7] = ["n't", "'s", "'re", "'ve", "'ll", "'d", "'m"];
const DOUBLING: &str = "bdgkmnprtv";
/// A capital behind one of these and a blank begins a sentence.
const OPENING: [char; 8] = ['.', '?', '!', ':', '“', '"', '\'', '('];

/// Small words by what they do, and irregular verbs: base, forms of the past, participles.
pub struct Words {
    silent: Vec<String>,
    negative: Vec<String>,
    same: Vec<(String, String)>,
    indefinite: Vec<(String, String)>,
    repeated: Vec<String>,
    added: Vec<String>,
    raising: Vec<String>,
    marks: Vec<String>,
    prefixes: Vec<String>,
    /// Older files have none: their threshold was chosen without.
    doubled: Option<Vec<String>>,
    /// Punctuation; older files have none, and no other sign counts there.
    free: Option<Vec<String>>,
    verbs: Vec<[Vec<String>; 3]>,
}

/// How often each word comes, in the order of their first places.
struct Counts(Vec<(String, usize)>);

impl Counts {
    fn of(words: Vec<String>) -> Counts {
        let mut counts: Vec<(String, usize)> = Vec::new();
        for word in words {
            match counts.iter_mut().find(|(each, _)| *each == word) {
                Some((_, count)) => *count += 1,
                None => counts.push((word, 1)),
            }
        }
        Counts(counts)
    }

    fn get(&self, word: &str) -> usize {
        self.0.iter().find(|(each, _)| each == word).map_or(0, |(_, count)| *count)
    }

    fn less(&self, other: &Counts) -> Counts {
        let left = self.0.iter().map(|(word, count)| (word.clone(), count.saturating_sub(other.get(word))));
        Counts(left.filter(|(_, count)| *count > 0).collect())
    }

    fn take(&mut self, word: &str, count: usize) {
        for (_, left) in self.0.iter_mut().filter(|(each, _)| each == word) {
            *left = left.saturating_sub(count);
        }
    }

    fn first(&self) -> Option<&str> {
        self.0.iter().find(|(_, count)| *count > 0).map(|(word, _)| word.as_str())
    }
}

impl Words {
    /// From the file's `rewrite_words`.
    pub fn open(fields: &Value) -> Result<Words> {
        let list = |name| -> Result<Vec<String>> {
            fields.need(name)?.list()?.iter().map(|word| Ok(word.text()?.into())).collect()
        };
        let pairs = |name| -> Result<Vec<(String, String)>> {
            fields.need(name)?.pairs()?.iter().map(|(word, other)| Ok((word.clone(), other.text()?.into()))).collect()
        };
        let verb = |text: &String| {
            let mut forms = text.split(' ').map(|forms| forms.split('/').map(String::from).collect());
            [(); 3].map(|_| forms.next().unwrap_or_default())
        };
        let negative = list("negative")?;
        Ok(Words {
            silent: [list("auxiliaries")?, negative.clone(), list("light")?].concat(),
            negative,
            same: pairs("same")?,
            indefinite: pairs("indefinite")?,
            repeated: list("repeated")?,
            added: list("added")?,
            raising: list("raising")?,
            marks: list("marks")?,
            prefixes: list("prefixes")?,
            doubled: if fields.get("doubled").is_some() { Some(list("doubled")?) } else { None },
            free: if fields.get("free").is_some() { Some(list("free")?) } else { None },
            verbs: list("verbs")?.iter().map(verb).collect(),
        })
    }

    /// What `output` says otherwise than `source`, both in NFC; empty where it says the same. `may_add`: a subject
    /// "someone" may be new.
    pub fn difference(&self, source: &str, output: &str, may_add: bool) -> String {
        for mark in self.marks.iter().filter(|mark| !mark.is_empty()) {
            let (was, is) = (source.matches(mark.as_str()).count(), output.matches(mark.as_str()).count());
            if was != is {
                return format!("{} is there {} times, and was {}", mark, is, was);
            }
        }
        let (before, after) = (split_words(source), split_words(output));
        let negations = |words: &[String]| words.iter().filter(|word| self.negative.contains(word)).count();
        if negations(&before) != negations(&after) {
            let lost = negations(&before) > negations(&after);
            return if lost { "a negation is lost" } else { "a negation is not in the sentence" }.into();
        }
        let (old, mut new) = (self.content(&before), self.content(&after));
        if may_add {
            for word in self.added.iter().filter(|word| old.get(word) == 0) {
                new.take(word, 1);
            }
        }
        let (mut missing, mut added) = (old.less(&new), new.less(&old));
        for word in self.repeated.iter().filter(|word| old.get(word) > 0 && new.get(word) > 0) {
            missing.take(word, usize::MAX);
            added.take(word, usize::MAX);
        }
        let words = |counts: &Counts| -> Vec<String> { counts.0.iter().map(|(word, _)| word.clone()).collect() };
        for word in words(&missing) {
            for other in words(&added) {
                let both = missing.get(&word).min(added.get(&other));
                if both > 0 && self.are_forms(&word, &other) {
                    missing.take(&word, both);
                    added.take(&other, both);
                }
            }
        }
        match (missing.first(), added.first()) {
            (Some(word), _) => format!("'{}' is lost", word),
            (None, Some(word)) => format!("'{}' is not in the sentence", word),
            (None, None) => self.names(source, output),
        }
    }

    /// The words that must come again, without those that come and go with the voice.
    fn content(&self, words: &[String]) -> Counts {
        let other = |pairs: &[(String, String)], word: &str| -> Option<String> {
            pairs.iter().find(|(each, _)| each == word).map(|(_, other)| other.clone())
        };
        let mut kept = Vec::new();
        for (place, word) in words.iter().enumerate() {
            if word == "one" && place > 0 && words[place - 1] == "no" {
                kept.push(word.clone());
            } else if let Some(found) = other(&self.indefinite, word) {
                kept.push(found);
            } else if !self.silent.contains(word) {
                let same = other(&self.same, word);
                let is_sign = || self.free.as_ref().map_or(false, |free| !free.contains(word));
                if same.is_some() || word.chars().next().map_or(false, is_word) || is_sign() {
                    kept.push(same.unwrap_or_else(|| word.clone()));
                }
            }
        }
        Counts::of(kept)
    }

    /// Words with a capital inside a sentence, or inside themselves, are written as they were.
    fn names(&self, source: &str, output: &str) -> String {
        for (text, other) in [(source, output), (output, source)] {
            let spelled: Vec<String> = runs(other).into_iter().map(|(_, word)| word).collect();
            let chars: Vec<char> = text.chars().collect();
            for (start, name) in runs(text) {
                let inside = start > 1
                    && chars[start - 1] == ' '
                    && !is_white(chars[start - 2])
                    && !OPENING.contains(&chars[start - 2]);
                let first = name.chars().next().map_or(0, char::len_utf8);
                let (head, tail) = name.split_at(first);
                if !(inside && head.contains(char::is_uppercase)) && !tail.contains(char::is_uppercase) {
                    continue;
                }
                let capital = head.to_uppercase() + &tail.to_lowercase();
                let small = name.to_lowercase();
                let is_pronoun = self.same.iter().any(|(one, other)| *one == small || *other == small);
                if !spelled.contains(&name) && !spelled.contains(&capital) && !is_pronoun {
                    return format!("'{}' is spelled otherwise", name);
                }
            }
        }
        String::new()
    }

    /// Whether two words are forms of one verb, one of them a participle.
    fn are_forms(&self, word: &str, other: &str) -> bool {
        let others = self.bases(other);
        let common: Vec<String> = self.bases(word).into_iter().filter(|base| others.contains(base)).collect();
        let participle = |word: &str| {
            let bare = self.bare(word);
            word.ends_with("ed") || word.ends_with("'d") || self.verbs.iter().any(|verb| has(&verb[2], bare))
        };
        !common.is_empty()
            && (participle(word) || participle(other) || common.iter().any(|base| self.raising.contains(base)))
    }

    fn is_irregular(&self, word: &str) -> bool {
        self.verbs.iter().any(|verb| verb.iter().any(|forms| has(forms, word)))
    }

    /// An irregular form behind its prefix: "written" of "rewritten".
    fn bare<'a>(&self, word: &'a str) -> &'a str {
        if self.is_irregular(word) {
            return word;
        }
        let behind = self.prefixes.iter().filter_map(|prefix| word.strip_prefix(prefix.as_str()));
        behind.into_iter().find(|rest| self.is_irregular(rest)).unwrap_or(word)
    }

    /// Whether the last letter stands twice for the sake of an ending: "humm" of "hummed".
    fn is_doubled(&self, stem: &str) -> bool {
        let mut chars = stem.chars().rev();
        let (last, before) = (chars.next(), chars.next());
        let known = |words: &Vec<String>| !has(words, stem);
        chars.next().is_some()
            && last == before
            && last.map_or(false, |char| DOUBLING.contains(char))
            && self.doubled.as_ref().map_or(false, known)
    }

    /// What a form may be a form of: the word itself, its irregular base, and what regular endings leave.
    fn bases(&self, word: &str) -> Vec<String> {
        let mut found = vec![word.to_string()];
        let bare = self.bare(word);
        let prefix = &word[..word.len() - bare.len()];
        let bare_is_irregular = self.is_irregular(bare);
        for verb in self.verbs.iter().filter(|verb| verb.iter().any(|forms| has(forms, bare))) {
            found.push(prefix.to_string() + verb[0].first().map_or("", String::as_str));
        }
        for ending in ["s", "es", "ed", "d", "ing"] {
            let stem = match word.strip_suffix(ending) {
                Some(stem) if stem.chars().count() >= 2 => stem,
                _ => continue,
            };
            if self.doubled.is_some() && bare_is_irregular && (ending == "ed" || ending == "d") {
                continue;
            }
            if self.is_doubled(stem.strip_suffix('e').unwrap_or(stem)) {
                if !stem.ends_with('e') && (ending == "ed" || ending == "ing") {
                    found.push(stem[..stem.len() - 1].into());
                }
                continue;
            }
            found.push(stem.into());
            found.push(stem.to_string() + "e");
            let mut chars = stem.chars().rev();
            let (last, before, more) = (chars.next(), chars.next(), chars.next());
            let shorter = &stem[..stem.len() - last.map_or(0, char::len_utf8)];
            if last == Some('i') {
                found.push(shorter.to_string() + "y");
            }
            // "picnicked" too
            if (last, before) == (Some('k'), Some('c')) || (more.is_some() && last == before) {
                found.push(shorter.into());
            }
        }
        found
    }
}

fn has(forms: &[String], word: &str) -> bool {
    forms.iter().any(|form| form == word)
}

/// Runs of letters, and the places of their first characters.
fn runs(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (place, char) in text.chars().enumerate() {
        let letter = is_letter(char);
        match found.last_mut() {
            Some((_, word)) if letter && goes_on => word.push(char),
            _ if letter => found.push((place, char.into())),
            _ => {}
        }
        goes_on = letter;
    }
    found
}

/// Words in small letters, numbers and marks; "don't" is "do" and "n't".
fn split_words(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.replace('’', "'").to_lowercase().chars().collect();
    let run =
        |from: usize, fits: &dyn Fn(char) -> bool| from + chars[from..].iter().take_while(|&&char| fits(char)).count();
    let (mut words, mut at) = (Vec::new(), 0);
    while at < chars.len() {
        let mut end = at + 1;
        if chars[at].is_ascii_digit() {
            end = run(at, &|char| char.is_ascii_digit() || ".,:/–-".contains(char));
            while !chars[end - 1].is_ascii_digit() {
                end -= 1;
            }
        } else if is_letter(chars[at]) {
            end = run(at, &is_letter);
            while end + 1 < chars.len() && chars[end] == '\'' && is_letter(chars[end + 1]) {
                end = run(end + 1, &is_letter);
            }
        } else if is_white(chars[at]) || chars[at] == '_' {
            at += 1;
            continue;
        }
        let token: String = chars[at..end].iter().collect();
        let clitic = CLITICS.iter().find(|clitic| token.ends_with(**clitic)).copied().unwrap_or("");
        if token == "cannot" || token == "can't" {
            words.extend(["can".to_string(), "not".to_string()]);
        } else if !clitic.is_empty() && token != clitic {
            words.extend([token[..token.len() - clitic.len()].to_string(), clitic.to_string()]);
        } else {
            words.push(token);
        }
        at = end;
    }
    words
}
