//! Opens the portable file of jslm, writes on from prompts, and rewrites sentences. The standard library is all it needs.
//!
//! ```no_run
//! let model = jslm_portable::Model::open(&std::fs::read("rewriter.safetensors").unwrap()).unwrap();
//! let found = model.rewrite("The letter was written by the clerk.", &[], None).unwrap();
//! println!("{} {}", found.output, found.reason);
//! ```
//!
//! What the file means stands in jslm's docs/portable-format.md. Nothing in a file makes this panic, or take more memory
//! than a few times its size: a bad one is an [`Error`] of one line.

pub mod json;

mod decoder;
mod exports;
mod faithful;
mod file;
mod marks;
mod matrix;
mod rewriting;
mod tokenizer;

pub use decoder::Cache;
use decoder::Decoder;
use json::Value;
pub use rewriting::Rewrite;
use rewriting::Settings;
use tokenizer::Tokenizer;

/// What is wrong, in one line.
#[derive(Debug, Clone, PartialEq)]
pub struct Error(pub String);

pub type Result<T> = std::result::Result<T, Error>;

fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(Error(message.into()))
}

impl std::fmt::Display for Error {
    fn fmt(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        to.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// A model and its tokenizer.
pub struct Model {
    decoder: Decoder,
    tokenizer: Tokenizer,
    ends_documents: bool,
    normalizes: bool,
    template: String,
    prompt_end: String,
    settings: Settings,
}

/// What ended a text: its end-of-text token, or the limit on its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    Stop,
    Length,
}

/// A text while it is written, token by token.
pub struct Writer<'a> {
    model: &'a Model,
    state: State,
}

/// All of a writer but its model, for callers that keep the two together.
pub struct State {
    cache: Cache,
    next: Vec<u32>,
    logits: Vec<f32>,
    most: usize,
    temperature: f32,
    random: u64,
    /// The bytes of all tokens.
    pub bytes: Vec<u8>,
    pub ids: Vec<u32>,
    /// Natural, under the model's own distribution; the end-of-text token's is the last.
    pub log_probs: Vec<f32>,
    pub finish: Option<Finish>,
}

impl Model {
    /// The model of a file's bytes, which are not needed any more then.
    pub fn open(bytes: &[u8]) -> Result<Model> {
        let (tensors, fields) = file::Tensors::open(bytes)?;
        let config = fields.need("config")?;
        let data = config.need("data")?;
        let decoder = Decoder::open(config.need("model")?, tensors)?;
        let tokenizer = Tokenizer::open(fields.need("tokenizer")?, decoder.vocab_size)?;
        let cleaners = data.need("cleaners")?.list()?;
        Ok(Model {
            decoder,
            tokenizer,
            ends_documents: fields.need("ends_documents")?.flag()?,
            normalizes: cleaners.contains(&Value::Text("normalize".into())),
            template: data.need("template")?.text()?.into(),
            prompt_end: data.need("prompt_end")?.text()?.into(),
            settings: Settings::open(config.get("rewrite"), &fields)?,
        })
    }

    /// Ids of a text as the model reads it. Where the model's texts were normalised, `text` has to be in Unicode's NFC.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(&as_read(text, self.normalizes))
    }

    /// The text of ids; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.tokenizer.piece(id).iter().copied()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn vocab_size(&self) -> usize {
        self.decoder.vocab_size
    }

    pub fn context_length(&self) -> usize {
        self.decoder.context_length
    }

    /// An empty cache for a text of these conditions, such as `[("style", "formal")]`.
    pub fn start(&self, conditions: &[(&str, &str)]) -> Result<Cache> {
        self.decoder.start(conditions)
    }

    /// Reads ids that follow those read before; the logits of what comes after the last of them.
    pub fn read(&self, cache: &mut Cache, ids: &[u32]) -> Result<Vec<f32>> {
        self.decoder.read(cache, ids)
    }

    /// Ids of a prompt, with what begins a document before them.
    pub fn prompt_ids(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode(text)?;
        let context = self.decoder.context_length;
        if ids.len() + 1 > context {
            return fail(format!("the prompt is {} tokens, the context of this model is {}", ids.len(), context));
        }
        if self.ends_documents && ids.len() + 1 < context {
            ids.insert(0, self.tokenizer.end);
        } else if ids.is_empty() {
            // What stands for nothing where documents do not begin with the end-of-text token.
            let neutral = self.tokenizer.encode("\n")?;
            let known = neutral.len() == 1 && Some(neutral[0]) != self.tokenizer.unknown;
            ids = if known { neutral } else { vec![self.tokenizer.end] };
        }
        Ok(ids)
    }

    /// Begins to write up to `most` tokens after a prompt; temperature 0 takes the likeliest, others draw by `seed`.
    pub fn write(
        &self,
        prompt: &str,
        conditions: &[(&str, &str)],
        most: usize,
        temperature: f32,
        seed: u64,
    ) -> Result<Writer<'_>> {
        Ok(Writer { model: self, state: self.begin(prompt, conditions, most, temperature, seed)? })
    }

    /// As `write`, apart from the model.
    pub fn begin(
        &self,
        prompt: &str,
        conditions: &[(&str, &str)],
        most: usize,
        temperature: f32,
        seed: u64,
    ) -> Result<State> {
        let next = self.prompt_ids(prompt)?;
        let most = most.min(self.decoder.context_length - next.len());
        let finish = if most == 0 { Some(Finish::Length) } else { None };
        let (logits, bytes, ids, log_probs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let cache = self.start(conditions)?;
        Ok(State { cache, next, logits, most, temperature, random: seed, bytes, ids, log_probs, finish })
    }

    /// The next token; none at the end. Fails where the logits are not finite: the file is damaged, or training diverged.
    pub fn step(&self, state: &mut State) -> Result<Option<u32>> {
        if state.finish.is_some() {
            return Ok(None);
        }
        state.logits = self.read(&mut state.cache, &state.next)?;
        let logits = &state.logits;
        // Of those that tie the first.
        let best = logits.iter().enumerate().fold(0, |best, (at, logit)| if *logit > logits[best] { at } else { best });
        if !logits.iter().all(|logit| logit.is_finite()) {
            return fail("the model's logits are not finite; the file is damaged, or its training has diverged");
        }
        let top = logits[best];
        let token = match state.temperature {
            hot if hot > 0.0 => draw(logits, top, hot, &mut state.random),
            _ => best,
        };
        let total: f32 = logits.iter().map(|logit| (logit - top).exp()).sum();
        state.log_probs.push(logits[token] - top - total.ln());
        let token = token as u32;
        if token == self.tokenizer.end {
            state.finish = Some(Finish::Stop);
            return Ok(None);
        }
        state.ids.push(token);
        state.bytes.extend_from_slice(self.tokenizer.piece(token));
        state.next = vec![token];
        if state.ids.len() >= state.most {
            state.finish = Some(Finish::Length);
        }
        Ok(Some(token))
    }
}

impl Writer<'_> {
    /// All that was written, without a character that it ends in the middle of.
    pub fn text(&self) -> String {
        whole_characters(&self.state.bytes)
    }

    pub fn state(&self) -> &State {
        &self.state
    }
}

impl Iterator for Writer<'_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Result<u32>> {
        let found = self.model.step(&mut self.state).transpose();
        if let Some(Err(_)) = found {
            self.state.finish = Some(Finish::Length);
        }
        found
    }
}

/// A prompt as the model's texts were read.
fn as_read(text: &str, normalizes: bool) -> String {
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n");
    if !normalizes {
        return text;
    }
    let gone = |char: char| {
        matches!(char, '\0'..='\u{8}' | '\u{e}'..='\u{1f}' | '\u{7f}'..='\u{84}' | '\u{86}'..='\u{9f}')
            || matches!(char, '\u{ad}' | '\u{200b}' | '\u{2060}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    let plain = |char: char| match char {
        '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => '\n',
        '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => ' ',
        other => other,
    };
    text.chars().filter(|char| !gone(*char)).map(plain).collect()
}

/// Without white space at both ends, of which Python counts four separators too.
fn strip(text: &str) -> &str {
    text.trim_matches(is_white)
}

fn is_white(char: char) -> bool {
    char.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&char)
}

/// UTF-8 with wrong bytes as U+FFFD, up to a character that is not whole yet.
pub fn whole_characters(mut bytes: &[u8]) -> String {
    let mut text = String::new();
    loop {
        match std::str::from_utf8(bytes) {
            Ok(rest) => return text + rest,
            Err(error) => {
                text.push_str(std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or(""));
                match error.error_len() {
                    Some(wrong) => bytes = &bytes[error.valid_up_to() + wrong..],
                    None => return text,
                }
                text.push('\u{fffd}');
            }
        }
    }
}

/// A token by its share at a temperature: one number of SplitMix64 (Steele et al. 2014) on the running sum.
fn draw(logits: &[f32], top: f32, temperature: f32, random: &mut u64) -> usize {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = (*random ^ (*random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let share = |logit: &f32| f64::from((logit - top) / temperature).exp();
    let at = ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64 * logits.iter().map(share).sum::<f64>();
    let mut until = 0.0;
    let found = logits.iter().position(|logit| {
        until += share(logit);
        until > at
    });
    found.unwrap_or(logits.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_in_training() {
        assert_eq!(as_read("\u{feff}\u{feff}a\r\nb\rc\u{a0}\u{7}", false), "a\nb\nc\u{a0}\u{7}");
        assert_eq!(as_read("a\u{7}\u{a0}\u{2028}\u{ad}b\tc", true), "a \nb\tc");
        assert_eq!(strip(" \u{1c}\u{3000}a b\u{1f}\n"), "a b");
        assert_eq!(whole_characters(b"a\xff\xe4\xbd\xa0\xe4\xbd"), "a\u{fffd}\u{4f60}");
    }
}
