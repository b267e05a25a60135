//! Matrices of float32, or of int8 with a float32 scale a row, and their products with vectors.

/// Integer products are summed in i32 in blocks that cannot overflow: 512 * 127 * 32,767 < 2^31.
const BLOCK: usize = 512;

/// A matrix, a row an output.
pub struct Matrix {
    columns: usize,
    weights: Weights,
}

enum Weights {
    Float(Vec<f32>),
    Int8(Vec<i8>, Vec<f32>),
}

impl Matrix {
    pub fn float(columns: usize, data: Vec<f32>) -> Matrix {
        Matrix { columns, weights: Weights::Float(data) }
    }

    pub fn int8(columns: usize, data: Vec<i8>, scales: Vec<f32>) -> Matrix {
        Matrix { columns, weights: Weights::Int8(data, scales) }
    }

    /// Adds a row to `to`.
    pub fn add_row(&self, row: usize, to: &mut [f32]) {
        let place = row * self.columns..(row + 1) * self.columns;
        match &self.weights {
            Weights::Float(data) => to.iter_mut().zip(&data[place]).for_each(|(to, x)| *to += x),
            Weights::Int8(data, scales) => {
                to.iter_mut().zip(&data[place]).for_each(|(to, &x)| *to += f32::from(x) * scales[row])
            }
        }
    }

    /// The products with each of several vectors, one after the other in `x`, as are the results.
    ///
    /// With int8 the vector is rounded to 16 bits (a scale a vector), and what is summed are integers.
    pub fn times(&self, x: &[f32]) -> Vec<f32> {
        let vectors = x.len() / self.columns;
        match &self.weights {
            Weights::Float(data) => {
                let mut out = vec![0.0; data.len() / self.columns * vectors];
                float_rows(data, x, self.columns, &mut out);
                out
            }
            Weights::Int8(data, scales) => {
                let mut rounded = vec![0; x.len()];
                let steps: Vec<f32> = x
                    .chunks_exact(self.columns)
                    .zip(rounded.chunks_exact_mut(self.columns))
                    .map(|(from, to)| round_to_16_bits(from, to))
                    .collect();
                let mut out = vec![0.0; scales.len() * vectors];
                int8_rows(data, &rounded, self.columns, &mut out);
                for (result, step) in out.chunks_exact_mut(scales.len()).zip(steps) {
                    result.iter_mut().zip(scales).for_each(|(y, scale)| *y *= scale * step);
                }
                out
            }
        }
    }
}

/// The whole numbers nearest to `from` over the step that is given back, the largest 32,767.
fn round_to_16_bits(from: &[f32], to: &mut [i16]) -> f32 {
    let largest = from.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    // Also where a number is not finite: what follows from it is found in the logits.
    let by = if largest > 1e-30 && largest < f32::INFINITY { 32_767.0 / largest } else { 0.0 };
    for (to, from) in to.iter_mut().zip(from) {
        // Half away from zero by a cast, which is quicker than `round`.
        *to = (from * by + 0.5f32.copysign(*from)) as i16;
    }
    if largest < f32::INFINITY && !from.iter().any(|x| x.is_nan()) {
        largest / 32_767.0
    } else {
        f32::NAN
    }
}

/// A loop over rows and vectors, with the product of two.
macro_rules! each_product {
    ($data:ident, $x:ident, $columns:ident, $out:ident, $product:expr) => {
        let rows = $data.len() / $columns;
        for (row, weights) in $data.chunks_exact($columns).enumerate() {
            for (vector, x) in $x.chunks_exact($columns).enumerate() {
                $out[vector * rows + row] = $product(weights, x);
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
}

fn float_rows(data: &[f32], x: &[f32], columns: usize, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // Safe: the processor has what the function is compiled for.
        return unsafe { float_rows_avx2(data, x, columns, out) };
    }
    each_product!(data, x, columns, out, dot);
}

fn int8_rows(data: &[i8], x: &[i16], columns: usize, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // Safe: the processor has what the function is compiled for.
        return unsafe { int8_rows_avx2(data, x, columns, out) };
    }
    each_product!(data, x, columns, out, |weights: &[i8], x: &[i16]| {
        let blocks = weights.chunks(BLOCK).zip(x.chunks(BLOCK));
        blocks.map(|(weights, x)| dot_integers(weights, x) as f32).sum()
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn float_rows_avx2(data: &[f32], x: &[f32], columns: usize, out: &mut [f32]) {
    each_product!(data, x, columns, out, dot);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn int8_rows_avx2(data: &[i8], x: &[i16], columns: usize, out: &mut [f32]) {
    each_product!(data, x, columns, out, dot_integers_avx2);
}

/// All blocks, by instructions that compilers do not find by themselves.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn dot_integers_avx2(a: &[i8], b: &[i16]) -> f32 {
    use std::arch::x86_64::*;
    let mut total = 0.0;
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let (a_parts, b_parts) = (a.chunks_exact(32), b.chunks_exact(32));
        let mut rest = dot_integers(a_parts.remainder(), b_parts.remainder());
        let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for (x, y) in a_parts.zip(b_parts) {
            let (first, second) = (_mm_loadu_si128(x.as_ptr().cast()), _mm_loadu_si128(x.as_ptr().add(16).cast()));
            let (third, fourth) =
                (_mm256_loadu_si256(y.as_ptr().cast()), _mm256_loadu_si256(y.as_ptr().add(16).cast()));
            low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_cvtepi8_epi16(first), third));
            high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_cvtepi8_epi16(second), fourth));
        }
        let all = _mm256_add_epi32(low, high);
        let four = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
        let two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0b00_00_11_10));
        rest += _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
        total += rest as f32;
    }
    total
}

/// The sum of products, in sixteen sums side by side that become vector registers.
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a_parts, b_parts) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_parts.remainder().iter().zip(b_parts.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_parts.zip(b_parts) {
        for i in 0..16 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
#[inline(always)]
fn dot_integers(a: &[i8], b: &[i16]) -> i32 {
    a.iter().zip(b).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum()
}

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub use wasm::{dot, dot_integers};

/// The same in the instructions of WebAssembly's vectors, which compilers do not find by themselves.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm {
    use core::arch::wasm32::*;

    #[inline(always)]
    pub fn dot(a: &[f32], b: &[f32]) -> f32 {
        let (a_parts, b_parts) = (a.chunks_exact(16), b.chunks_exact(16));
        let mut sum: f32 = a_parts.remainder().iter().zip(b_parts.remainder()).map(|(x, y)| x * y).sum();
        let (mut first, mut second, mut third, mut fourth) = (zero(), zero(), zero(), zero());
        for (x, y) in a_parts.zip(b_parts) {
            first = f32x4_add(first, f32x4_mul(four(x, 0), four(y, 0)));
            second = f32x4_add(second, f32x4_mul(four(x, 4), four(y, 4)));
            third = f32x4_add(third, f32x4_mul(four(x, 8), four(y, 8)));
            fourth = f32x4_add(fourth, f32x4_mul(four(x, 12), four(y, 12)));
        }
        let all = f32x4_add(f32x4_add(first, second), f32x4_add(third, fourth));
        sum += f32x4_extract_lane::<0>(all) + f32x4_extract_lane::<1>(all);
        sum + f32x4_extract_lane::<2>(all) + f32x4_extract_lane::<3>(all)
    }

    fn zero() -> v128 {
        f32x4_splat(0.0)
    }

    /// Four of sixteen numbers, from `at` on.
    #[inline(always)]
    fn four(numbers: &[f32], at: usize) -> v128 {
        debug_assert!(at + 4 <= numbers.len());
        // Safe: all callers give sixteen.
        unsafe { v128_load(numbers.as_ptr().add(at).cast()) }
    }

    #[inline(always)]
    pub fn dot_integers(a: &[i8], b: &[i16]) -> i32 {
        let (a_parts, b_parts) = (a.chunks_exact(16), b.chunks_exact(16));
        let rest: i32 =
            a_parts.remainder().iter().zip(b_parts.remainder()).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum();
        let (mut low, mut high) = (i32x4_splat(0), i32x4_splat(0));
        for (x, y) in a_parts.zip(b_parts) {
            // Safe: a part has sixteen numbers.
            let (x, first, second) = unsafe {
                (v128_load(x.as_ptr().cast()), v128_load(y.as_ptr().cast()), v128_load(y.as_ptr().add(8).cast()))
            };
            low = i32x4_add(low, i32x4_dot_i16x8(i16x8_extend_low_i8x16(x), first));
            high = i32x4_add(high, i32x4_dot_i16x8(i16x8_extend_high_i8x16(x), second));
        }
        let all = i32x4_add(low, high);
        let sum = i32x4_extract_lane::<0>(all) + i32x4_extract_lane::<1>(all);
        sum + i32x4_extract_lane::<2>(all) + i32x4_extract_lane::<3>(all) + rest
    }
}
