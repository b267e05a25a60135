//! Functions with C's calling convention, for WebAssembly and for other languages; node.mjs shows their use.
//!
//! Texts are UTF-8 in memory of `jslm_alloc`, given as address and length; conditions are lines `name=label`. What a
//! function made or found wrong is text at `jslm_output` up to `jslm_output_length`, until the next call.

use crate::{whole_characters, Error, Finish, Model, Result, Rewrite, State};

/// A model with what is being written.
pub struct Handle {
    model: Option<Model>,
    state: Option<State>,
    given: usize,
    output: Vec<u8>,
    rewrite: Rewrite,
}

impl Handle {
    fn answer(&mut self, found: Result<(i32, String)>) -> i32 {
        let (status, text) = found.unwrap_or_else(|Error(message)| (-1, message));
        self.output = text.into_bytes();
        status
    }

    fn model(&self) -> Result<&Model> {
        self.model.as_ref().ok_or_else(|| Error("no model is open".into()))
    }
}

/// Memory for `length` bytes; 0 where there is none.
#[no_mangle]
pub extern "C" fn jslm_alloc(length: usize) -> *mut u8 {
    let mut bytes: Vec<u8> = Vec::new();
    if bytes.try_reserve_exact(length.max(1)).is_err() {
        return std::ptr::null_mut();
    }
    let address = bytes.as_mut_ptr();
    std::mem::forget(bytes);
    address
}

/// Gives back memory of `jslm_alloc`.
///
/// # Safety
/// `address` and `length` are those of one call of `jslm_alloc`.
#[no_mangle]
pub unsafe extern "C" fn jslm_free(address: *mut u8, length: usize) {
    if !address.is_null() {
        drop(Vec::from_raw_parts(address, 0, length.max(1)));
    }
}

/// Opens a file's bytes, which can be given back then. Where `jslm_ok` is 0, the output says what is wrong.
///
/// # Safety
/// `address` points to `length` bytes.
#[no_mangle]
pub unsafe extern "C" fn jslm_open(address: *const u8, length: usize) -> *mut Handle {
    let mut handle = Handle { model: None, state: None, given: 0, output: Vec::new(), rewrite: Rewrite::default() };
    let opened = Model::open(bytes(address, length));
    let status = opened.map(|model| {
        handle.model = Some(model);
        (0, String::new())
    });
    handle.answer(status);
    Box::into_raw(Box::new(handle))
}

/// Whether a model is open.
///
/// # Safety
/// As all functions below: `handle` is of `jslm_open` and was not closed, and texts are addresses with their lengths.
#[no_mangle]
pub unsafe extern "C" fn jslm_ok(handle: *const Handle) -> i32 {
    i32::from((*handle).model.is_some())
}

/// Frees a model.
///
/// # Safety
/// See `jslm_ok`.
#[no_mangle]
pub unsafe extern "C" fn jslm_close(handle: *mut Handle) {
    drop(Box::from_raw(handle));
}

/// Rewrites a sentence: 1 where it changed, and the output is its rewrite; 0 where it stays, and the output is the reason;
/// -1 for an error. A `threshold` of NaN is the file's own.
///
/// # Safety
/// See `jslm_ok`.
#[no_mangle]
pub unsafe extern "C" fn jslm_rewrite(
    handle: *mut Handle,
    text: *const u8,
    length: usize,
    conditions: *const u8,
    conditions_length: usize,
    threshold: f64,
) -> i32 {
    let handle = &mut *handle;
    let found = (|| {
        let conditions = pairs(string(conditions, conditions_length)?)?;
        let threshold = Some(threshold).filter(|threshold| !threshold.is_nan());
        handle.model()?.rewrite(string(text, length)?, &conditions, threshold)
    })();
    handle.rewrite = found.as_ref().ok().cloned().unwrap_or_default();
    handle
        .answer(found.map(|found| (i32::from(found.changed), if found.changed { found.output } else { found.reason })))
}

/// Of the last rewrite: the probability that it is right; NaN where nothing was written.
///
/// # Safety
/// See `jslm_ok`.
#[no_mangle]
pub unsafe extern "C" fn jslm_confidence(handle: *const Handle) -> f64 {
    (*handle).rewrite.confidence.unwrap_or(f64::NAN)
}

/// Of the last rewrite: the mean natural log-probability of what was written; NaN for nothing.
///
/// # Safety
/// See `jslm_ok`.
#[no_mangle]
pub unsafe extern "C" fn jslm_log_prob(handle: *const Handle) -> f64 {
    (*handle).rewrite.log_prob.unwrap_or(f64::NAN)
}

/// Begins to write after a prompt, up to `most` tokens; 0, or -1 for an error.
///
/// # Safety
/// See `jslm_ok`.
#[no_mangle]
pub unsafe extern "C" fn jslm_begin(
    handle: *mut Handle,
    text: *const u8,
    length: usize,
    conditions: *const u8,
    conditions_length: usize,
    most: u32,
    temperature: f32,
    seed: u32,
) -> i32 {
    let handle = &mut *handle;
    handle.given = 0;
    handle.state = None;
    let found = (|| {
        let conditions = pairs(string(conditions, conditions_length)?)?;
        handle.model()?.begin(string(text, length)?, &conditions, most as usize, temperature, seed.into())
    })();
    let status = found.map(|state| {
        handle.state = Some(state);
        (0, String::new())
    });
    handle.answer(status)
}

/// The next token's id; -2 at an end of text, -3 at the limit, -1 for an error. The output is the text that it completes.
///
/// # Safety
/// See `jslm_ok`.
#[no_mangle]
pub unsafe extern "C" fn jslm_next(handle: *mut Handle) -> i32 {
    let handle = &mut *handle;
    let found = match (handle.model.as_ref(), handle.state.as_mut()) {
        (Some(model), Some(state)) => model.step(state).map(|token| {
            let text = whole_characters(&state.bytes[handle.given..]);
            // Wrong bytes are three in the text and one or more here: what is left over is counted from the end.
            let left = unfinished(&state.bytes[handle.given..]);
            handle.given = state.bytes.len() - left;
            match (token, state.finish) {
                (Some(token), _) => (token as i32, text),
                (None, Some(Finish::Stop)) => (-2, text),
                (None, _) => (-3, text),
            }
        }),
        _ => Err(Error("nothing is being written".into())),
    };
    handle.answer(found)
}

/// Address of the logits that the last token was chosen from; as many as `jslm_vocab_size`.
///
/// # Safety
/// See `jslm_ok`; the address holds until the next call.
#[no_mangle]
pub unsafe extern "C" fn jslm_logits(handle: *const Handle) -> *const f32 {
    let state = (*handle).state.as_ref().filter(|state| !state.logits.is_empty());
    state.map_or(std::ptr::null(), |state| state.logits.as_ptr())
}

/// Ids of the vocabulary; 0 without a model.
///
/// # Safety
/// See `jslm_ok`.
#[no_mangle]
pub unsafe extern "C" fn jslm_vocab_size(handle: *const Handle) -> u32 {
    (*handle).model.as_ref().map_or(0, |model| model.vocab_size() as u32)
}

/// Address of the last call's output.
///
/// # Safety
/// See `jslm_ok`.
#[no_mangle]
pub unsafe extern "C" fn jslm_output(handle: *const Handle) -> *const u8 {
    (*handle).output.as_ptr()
}

/// Bytes of the last call's output.
///
/// # Safety
/// See `jslm_ok`.
#[no_mangle]
pub unsafe extern "C" fn jslm_output_length(handle: *const Handle) -> usize {
    (*handle).output.len()
}

unsafe fn bytes<'a>(address: *const u8, length: usize) -> &'a [u8] {
    if address.is_null() || length == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(address, length)
    }
}

unsafe fn string<'a>(address: *const u8, length: usize) -> Result<&'a str> {
    std::str::from_utf8(bytes(address, length)).map_err(|_| Error("a text that is no UTF-8".into()))
}

fn pairs(lines: &str) -> Result<Vec<(&str, &str)>> {
    let of = |line| str::split_once(line, '=').ok_or_else(|| Error("a condition that is no name=label".into()));
    lines.lines().map(of).collect()
}

/// How many bytes at the end are the beginning of a character.
fn unfinished(mut bytes: &[u8]) -> usize {
    loop {
        match std::str::from_utf8(bytes) {
            Ok(_) => return 0,
            Err(error) => match error.error_len() {
                Some(wrong) => bytes = &bytes[error.valid_up_to() + wrong..],
                None => return bytes.len() - error.valid_up_to(),
            },
        }
    }
}
