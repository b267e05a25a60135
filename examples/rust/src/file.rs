//! The safetensors file around a model: a header of JSON, and the bytes of its tensors.

use crate::json::{parse, shown, Value};
use crate::matrix::Matrix;
use crate::{fail, Result};

const LONGEST_HEADER: u64 = 100_000_000;

/// One tensor: its type, its shape and its bytes, whose number fits both.
struct Tensor<'a> {
    kind: String,
    shape: Vec<u64>,
    bytes: &'a [u8],
}

/// The tensors of a file by name, each to be taken once.
pub struct Tensors<'a> {
    found: Vec<(String, Tensor<'a>)>,
    int8: bool,
}

impl<'a> Tensors<'a> {
    /// The tensors of a portable file, and the JSON object of its metadata.
    pub fn open(data: &'a [u8]) -> Result<(Tensors<'a>, Value)> {
        let start = data.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        let size = match start {
            Some(size) if size <= LONGEST_HEADER && size <= data.len() as u64 - 8 => size as usize,
            _ => return fail("no safetensors file, or cut short"),
        };
        let header = match std::str::from_utf8(&data[8..8 + size]) {
            Ok(text) => parse(text)?,
            Err(_) => return fail("its header is no UTF-8; the file is damaged"),
        };
        let body = &data[8 + size..];
        let mut found = Vec::new();
        let mut fields = Value::Null;
        let mut total = 0u64;
        for (name, entry) in header.pairs()? {
            if name == "__metadata__" {
                fields = parse(entry.need("jslm")?.text()?)?;
                continue;
            }
            let kind = entry.need("dtype")?.text()?.to_string();
            let shape: Vec<u64> = entry
                .need("shape")?
                .list()?
                .iter()
                .map(|n| Ok(n.count(usize::MAX / 2)? as u64))
                .collect::<Result<_>>()?;
            let offsets = entry.need("data_offsets")?.list()?;
            let bytes = match offsets {
                [start, end] => body.get(start.count(usize::MAX / 2)?..end.count(usize::MAX / 2)?),
                _ => None,
            };
            let width = match kind.as_str() {
                "F32" => 4,
                "F16" | "BF16" => 2,
                "I8" => 1,
                _ => return fail(format!("{} is of type {}, which this does not read", shown(name), shown(&kind))),
            };
            let wanted = shape.iter().try_fold(width, |size: u64, &n| size.checked_mul(n));
            match bytes {
                Some(bytes) if wanted == Some(bytes.len() as u64) => {
                    total += bytes.len() as u64;
                    found.push((name.clone(), Tensor { kind, shape, bytes }))
                }
                _ => return fail(format!("{} does not fit its place; the file is damaged", shown(name))),
            };
        }
        if total != body.len() as u64 {
            return fail("its tensors do not fill the file; cut short or damaged");
        }
        let version = fields.need("version")?.number()?;
        if version != 1.0 && version != 2.0 {
            return fail("another version of the portable file; this reads 1 and 2");
        }
        if version == 2.0 && fields.need("quantisation")?.text()? != "int8_rows" {
            return fail("another quantisation; this reads int8_rows");
        }
        Ok((Tensors { found, int8: version == 2.0 }, fields))
    }

    /// A vector or table in float32, which has to have this shape.
    pub fn floats(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.take(name, shape)?;
        decode(&tensor.kind, tensor.bytes)
    }

    /// The matrices of all layers (of the model itself: one), each with `rows` outputs and `columns` inputs.
    pub fn matrices(&mut self, name: &str, layers: Option<usize>, rows: usize, columns: usize) -> Result<Vec<Matrix>> {
        let outer: Vec<usize> = layers.into_iter().collect();
        let shape = |inner: &[usize]| [outer.as_slice(), inner].concat();
        let is_kernel = name.ends_with("/kernel");
        if self.int8 {
            let scales = self.floats(&format!("{}/scales", name), &shape(&[rows]))?;
            if !scales.iter().all(|scale| (0.0..=f32::MAX / 127.0).contains(scale)) {
                return fail(format!("{}: a scale is negative, too large or not finite; the file is damaged", name));
            }
            let tensor = self.take(&format!("{}/rows", name), &shape(&[rows, columns]))?;
            if tensor.kind != "I8" || tensor.bytes.contains(&0x80) {
                return fail(format!("{}: no integers from -127 to 127; the file is damaged", name));
            }
            let integers = tensor.bytes.chunks_exact(rows * columns);
            return Ok(integers
                .zip(scales.chunks_exact(rows))
                .map(|(part, scales)| Matrix::int8(columns, part.iter().map(|&b| b as i8).collect(), scales.to_vec()))
                .collect());
        }
        let stored = if is_kernel { shape(&[columns, rows]) } else { shape(&[rows, columns]) };
        let numbers = self.floats(name, &stored)?;
        Ok(numbers
            .chunks_exact(rows * columns)
            .map(|part| Matrix::float(columns, if is_kernel { turned(part, rows) } else { part.to_vec() }))
            .collect())
    }

    /// Fails where a tensor was not taken: it would mean something that this does not compute.
    pub fn finish(self) -> Result<()> {
        match self.found.first() {
            Some((name, _)) => fail(format!("{} has no place by its config; the file is damaged", shown(name))),
            None => Ok(()),
        }
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor<'a>> {
        let at = self.found.iter().position(|(each, _)| each == name);
        match at.map(|at| self.found.swap_remove(at).1) {
            Some(tensor) if tensor.shape.iter().copied().eq(shape.iter().map(|&n| n as u64)) => Ok(tensor),
            Some(_) => fail(format!("{} is of another shape than its config says; the file is damaged", name)),
            None => fail(format!("no tensor {}, which its config asks for; the file is incomplete", name)),
        }
    }
}

fn decode(kind: &str, bytes: &[u8]) -> Result<Vec<f32>> {
    let halves = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    Ok(match kind {
        "F32" => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        "BF16" => halves().map(|half| f32::from_bits(u32::from(half) << 16)).collect(),
        "F16" => halves().map(half_to_float).collect(),
        _ => return fail("integers where float numbers are expected; the file is damaged"),
    })
}

/// IEEE 754 binary16.
fn half_to_float(half: u16) -> f32 {
    let (exponent, fraction) = (u32::from(half >> 10) & 31, f32::from(half & 1023));
    let size = match exponent {
        0 => fraction / 16_777_216.0,
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction / 1024.0) * f32::from_bits((exponent + 112) << 23),
    };
    if half >> 15 == 1 {
        -size
    } else {
        size
    }
}

/// `[columns, rows]` as `[rows, columns]`.
fn turned(part: &[f32], rows: usize) -> Vec<f32> {
    (0..rows).flat_map(|row| part.iter().skip(row).step_by(rows).copied()).collect()
}
