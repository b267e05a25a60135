//! Text to ids and back: characters, bytes, and byte-level BPE.

use crate::json::{shown, Value};
use crate::marks::MARKS;
use crate::{fail, Result};

const CONTRACTIONS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];

/// A tokenizer of a portable file. One of another kind opens too, and encodes nothing.
pub struct Tokenizer {
    kind: Kind,
    /// The bytes that each id stands for.
    pieces: Vec<Vec<u8>>,
    /// The id that ends a document and begins the next.
    pub end: u32,
    /// The id of characters that the model never saw; of the kind `char` alone.
    pub unknown: Option<u32>,
}

enum Kind {
    Char(Table),
    Byte,
    /// The id of each byte, and of each pair of ids that is joined: its rank and the id of the two together, as `both`.
    Bpe(Vec<u32>, Table),
    Other(String),
}

/// Numbers by their keys, sorted: a map of the standard library takes three times as much code.
struct Table(Vec<(u64, u64)>);

impl Table {
    /// Of several with one key the least counts.
    fn new(pairs: impl Iterator<Item = (u64, u64)>) -> Table {
        let mut pairs: Vec<(u64, u64)> = pairs.collect();
        pairs.sort();
        pairs.dedup_by_key(|(key, _)| *key);
        Table(pairs)
    }

    fn get(&self, key: u64) -> Option<u64> {
        self.0.binary_search_by_key(&key, |(each, _)| *each).ok().map(|at| self.0[at].1)
    }
}

/// Two numbers as one.
fn both(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Tokenizer {
    /// From the `tokenizer` of the file's metadata; `size` is the model's vocabulary.
    pub fn open(fields: &Value, size: usize) -> Result<Tokenizer> {
        if fields.need("vocab_size")?.count(usize::MAX / 2)? != size {
            return fail("its tokenizer has another vocabulary than its config; the file is damaged");
        }
        let kind = fields.need("kind")?.text()?;
        let mut pieces = vec![Vec::new(); size];
        let id = |value: &Value| Ok(value.count(size - 1)? as u32);
        let special: Vec<(&str, u32)> = fields
            .need("special_tokens")?
            .pairs()?
            .iter()
            .map(|(name, at)| Ok((&**name, id(at)?)))
            .collect::<Result<_>>()?;
        for (name, at) in &special {
            pieces[*at as usize] = name.as_bytes().to_vec();
        }
        let special_id = |wanted: &str| special.iter().find(|(name, _)| *name == wanted).map(|(_, at)| *at);
        let damaged = "its tokenizer does not agree with itself; the file is damaged";
        let mut unknown = None;
        let found = match kind {
            "char" => {
                let characters: Vec<char> = fields.need("characters")?.text()?.chars().collect();
                unknown = special_id("<|unk|>");
                if special.len() + characters.len() != size || unknown.is_none() {
                    return fail(damaged);
                }
                pieces[unknown.unwrap_or(0) as usize] = "\u{fffd}".into();
                let numbered = characters.iter().zip(special.len()..);
                numbered.clone().for_each(|(char, at)| pieces[at] = char.encode_utf8(&mut [0; 4]).as_bytes().to_vec());
                Kind::Char(Table::new(numbered.map(|(char, at)| (u64::from(u32::from(*char)), at as u64))))
            }
            "byte" if size >= 256 => {
                (0..=255).for_each(|byte| pieces[usize::from(byte)] = vec![byte]);
                Kind::Byte
            }
            "bpe" => {
                let model = fields.need("tokenizers")?.need("model")?;
                let spelled = byte_spelling();
                let byte_of = Table::new(spelled.iter().map(|char| u64::from(u32::from(*char))).zip(0..));
                let mut ids = Vec::new();
                for (token, at) in model.need("vocab")?.pairs()? {
                    if special_id(token).is_none() {
                        let bytes: Option<Vec<u8>> = token
                            .chars()
                            .map(|char| byte_of.get(u32::from(char).into()).map(|byte| byte as u8))
                            .collect();
                        let (at, bytes) = (id(at)?, bytes.filter(|bytes| !bytes.is_empty()));
                        match bytes {
                            Some(bytes) => pieces[at as usize] = bytes,
                            None => return fail(damaged),
                        }
                        ids.push((token.as_str(), at));
                    }
                }
                ids.sort();
                let of = |token: &str| ids.binary_search_by_key(&token, |(each, _)| each).ok().map(|at| ids[at].1);
                let bytes: Option<Vec<u32>> = spelled.iter().map(|char| of(char.encode_utf8(&mut [0; 4]))).collect();
                let mut merges = Vec::new();
                for (rank, merge) in model.need("merges")?.list()?.iter().enumerate() {
                    match merge.list()? {
                        [left, right] => {
                            match (of(left.text()?), of(right.text()?), of(&[left.text()?, right.text()?].concat())) {
                                (Some(left), Some(right), Some(joined)) => {
                                    merges.push((both(left, right), both(rank as u32, joined)))
                                }
                                _ => return fail(damaged),
                            }
                        }
                        _ => return fail(damaged),
                    };
                }
                match bytes {
                    Some(bytes) => Kind::Bpe(bytes, Table::new(merges.into_iter())),
                    None => return fail(damaged),
                }
            }
            other => Kind::Other(shown(other)),
        };
        match special_id("<|endoftext|>") {
            Some(end) => Ok(Tokenizer { kind: found, pieces, end, unknown }),
            // Kinds of other programs have names of their own for it.
            None if matches!(found, Kind::Other(_)) => Ok(Tokenizer { kind: found, pieces, end: u32::MAX, unknown }),
            None => fail(damaged),
        }
    }

    /// The bytes that an id of the vocabulary stands for.
    pub fn piece(&self, id: u32) -> &[u8] {
        self.pieces.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// Whether a character has an id of its own, or bytes that have.
    pub fn knows(&self, char: char) -> bool {
        match &self.kind {
            Kind::Char(ids) => ids.get(u32::from(char).into()).is_some(),
            _ => true,
        }
    }

    /// The characters of the kind `char`, by their ids.
    pub fn characters(&self) -> impl Iterator<Item = char> + '_ {
        let whole = |piece: &Vec<u8>| match std::str::from_utf8(piece)
            .map(|text| (text.chars().next(), text.chars().count()))
        {
            Ok((found, 1)) => found.filter(|char| *char != '\u{fffd}'),
            _ => None,
        };
        self.pieces.iter().filter_map(whole)
    }

    /// Ids of a text, in which no spelling is a special token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(match &self.kind {
            Kind::Char(ids) => text
                .chars()
                .map(|c| ids.get(u32::from(c).into()).map(|id| id as u32).or(self.unknown).unwrap_or(0))
                .collect(),
            Kind::Byte => text.bytes().map(u32::from).collect(),
            Kind::Bpe(bytes, merges) => {
                let words = split_words(text).into_iter();
                words.flat_map(|word| join(word.bytes().map(|b| bytes[usize::from(b)]).collect(), merges)).collect()
            }
            Kind::Other(kind) => return fail(format!("tokenizer kind {}; this reads char, byte and bpe", kind)),
        })
    }
}

/// Joins, again and again, the pair of the lowest rank, the first of several.
fn join(mut ids: Vec<u32>, merges: &Table) -> Vec<u32> {
    loop {
        let pairs = ids.windows(2).enumerate();
        let best =
            pairs.filter_map(|(at, pair)| merges.get(both(pair[0], pair[1])).map(|m| (m >> 32, at, m as u32))).min();
        match best {
            Some((_, at, joined)) => {
                ids[at] = joined;
                ids.remove(at + 1);
            }
            None => return ids,
        }
    }
}

/// GPT-2's words: a contraction, letters, digits or other marks with a blank before them, or white space.
fn split_words(text: &str) -> Vec<&str> {
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    let place = |at: usize| chars.get(at).map_or(text.len(), |(place, _)| *place);
    let kind = |at: usize| chars.get(at).map(|(_, char)| kind_of(*char));
    let (mut words, mut at) = (Vec::new(), 0);
    while at < chars.len() {
        let rest = &text[place(at)..];
        let mut end;
        if let Some(found) = CONTRACTIONS.iter().find(|each| rest.starts_with(**each)) {
            end = at + found.len();
        } else {
            let blank = chars[at].1 == ' ' && kind(at + 1).map_or(false, |next| next != 0);
            let start = at + usize::from(blank);
            end = start;
            while end < chars.len() && kind(end) == kind(start) {
                end += 1;
            }
            // The last blank belongs to the word after it.
            if kind(start) == Some(0) && end < chars.len() && end - at > 1 {
                end -= 1;
            }
        }
        words.push(&text[place(at)..place(end)]);
        at = end;
    }
    words
}

/// Letters and numbers, as Python's `str.isalnum`.
pub fn is_word(char: char) -> bool {
    char.is_numeric() || is_alphabetic(char)
}

/// As `is_word`, but for the ten digits.
pub fn is_letter(char: char) -> bool {
    is_word(char) && !char.is_ascii_digit()
}

/// Letters, as Python's `str.isalpha`.
pub fn is_alphabetic(char: char) -> bool {
    kind_of(char) == 1
}

/// White space 0, letters 1, digits 2, all else 3.
fn kind_of(char: char) -> u8 {
    let is_mark = || {
        MARKS
            .binary_search_by(|&(first, last)| {
                let code = char as u32;
                if last < code {
                    std::cmp::Ordering::Less
                } else if first > code {
                    std::cmp::Ordering::Greater
                } else {
                    std::cmp::Ordering::Equal
                }
            })
            .is_ok()
    };
    match char {
        _ if char.is_whitespace() => 0,
        _ if char.is_numeric() => 2,
        _ if char.is_alphabetic() && !is_mark() => 1,
        _ => 3,
    }
}

/// The character that stands for each byte in a BPE vocabulary.
fn byte_spelling() -> Vec<char> {
    let mut others = 0x100..;
    let spell = |byte: u32| {
        if matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) {
            byte
        } else {
            others.next().unwrap_or(0)
        }
    };
    (0..256).map(spell).map(|code| char::from_u32(code).unwrap_or(' ')).collect()
}
