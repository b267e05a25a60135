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
    if largest < f32::INFINITY && !from.iter().any(|x| x.is_nan()) { largest / 32_767.0 } else { f32::NAN }
}

/// A function compiled for AVX2 too, and chosen by what the processor has.
macro_rules! for_each_processor {
    ($name:ident, $wide:ident, $plain:ident, $weight:ty, $number:ty) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn $wide(data: &[$weight], x: &[$number], columns: usize, out: &mut [f32]) {
            $plain(data, x, columns, out)
        }

        fn $name(data: &[$weight], x: &[$number], columns: usize, out: &mut [f32]) {
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // Safe: the processor has what the function was compiled for.
                return unsafe { $wide(data, x, columns, out) };
            }
            $plain(data, x, columns, out)
        }
    };
}

for_each_processor!(float_rows, float_rows_avx2, float_rows_plain, f32, f32);
for_each_processor!(int8_rows, int8_rows_avx2, int8_rows_plain, i8, i16);

#[inline(always)]
fn float_rows_plain(data: &[f32], x: &[f32], columns: usize, out: &mut [f32]) {
    let rows = data.len() / columns;
    for (row, weights) in data.chunks_exact(columns).enumerate() {
        for (vector, x) in x.chunks_exact(columns).enumerate() {
            out[vector * rows + row] = dot(weights, x);
        }
    }
}

#[inline(always)]
fn int8_rows_plain(data: &[i8], x: &[i16], columns: usize, out: &mut [f32]) {
    let rows = data.len() / columns;
    for (row, weights) in data.chunks_exact(columns).enumerate() {
        for (vector, x) in x.chunks_exact(columns).enumerate() {
            let blocks = weights.chunks(BLOCK).zip(x.chunks(BLOCK));
            out[vector * rows + row] = blocks.map(|(weights, x)| dot_integers(weights, x) as f32).sum();
        }
    }
}

/// The sum of products, in sixteen sums side by side that become vector registers.
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

#[inline(always)]
fn dot_integers(a: &[i8], b: &[i16]) -> i32 {
    a.iter().zip(b).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum()
}
