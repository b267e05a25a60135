//! The decoder: logits of what comes next, by docs/portable-format.md.

use crate::file::Tensors;
use crate::json::Value;
use crate::matrix::{dot, Matrix};
use crate::{fail, Result};

/// Tokens that are read in one pass over the weights.
const AT_ONCE: usize = 16;
/// No size of a model is larger, so that products of two fit 64 bits.
const LARGEST: usize = 1 << 24;

/// The weights, and how they are used.
pub struct Decoder {
    pub vocab_size: usize,
    pub context_length: usize,
    d_model: usize,
    n_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    eps: f32,
    center: bool,
    softcap: f32,
    activation: String,
    /// Radians a position of each rotated pair, and the factor on the tables; none without rotary positions.
    rotary: Option<(Vec<f32>, f32)>,
    tokens: Matrix,
    head: Option<Matrix>,
    positions: Option<Matrix>,
    /// Name, labels, and a row a label.
    conditions: Vec<(String, Vec<String>, Vec<f32>)>,
    layers: Vec<Layer>,
    norm: Norm,
}

struct Layer {
    attention_norm: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    qk_norm: Option<(Vec<f32>, Vec<f32>)>,
    mlp_norm: Norm,
    up: Linear,
    gate: Option<Linear>,
    down: Linear,
}

struct Norm {
    scale: Vec<f32>,
    bias: Option<Vec<f32>>,
}

struct Linear {
    matrix: Matrix,
    bias: Option<Vec<f32>>,
}

/// What a text so far has left behind: keys and values of each layer, and what its conditions add to each token.
pub struct Cache {
    added: Vec<f32>,
    length: usize,
    layers: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Decoder {
    /// From the `model` section of the config and the tensors, all of which have to be used.
    pub fn open(config: &Value, mut tensors: Tensors) -> Result<Decoder> {
        let size = |key: &str| config.need(key)?.count(LARGEST);
        let at_least_one = |key: &str| match size(key)? {
            0 => fail(format!("model.{} is 0; the file is damaged", key)),
            found => Ok(found),
        };
        let flag = |key: &str| config.need(key)?.flag();
        let (n_layers, d_model, n_heads) =
            (at_least_one("n_layers")?, at_least_one("d_model")?, at_least_one("n_heads")?);
        let (vocab_size, context_length) = (at_least_one("vocab_size")?, at_least_one("context_length")?);
        let or = |found: usize, default: usize| if found == 0 { default } else { found };
        let kv_heads = or(size("n_kv_heads")?, n_heads);
        let head_dim = or(size("head_dim")?, d_model / n_heads);
        let activation = config.need("activation")?.text()?.to_string();
        if !["swiglu", "geglu", "gelu", "gelu_exact", "relu", "relu2"].contains(&activation.as_str()) {
            return fail("model.activation is none that this computes");
        }
        let gated = activation.ends_with("glu");
        let d_ff = or(size("d_ff")?, if gated { (8 * d_model + 191) / 192 * 64 } else { 4 * d_model });
        let (position, norm) = (config.need("position")?.text()?, config.need("norm")?.text()?);
        if !["rope", "learned", "none"].contains(&position) || !["rmsnorm", "layernorm"].contains(&norm) {
            return fail("model.position or model.norm is none that this computes");
        }
        if n_heads % kv_heads != 0 || head_dim == 0 || (position == "rope" && head_dim % 2 == 1) {
            return fail("model: its heads do not fit together; the file is damaged");
        }
        let width = |heads: usize| match heads.checked_mul(head_dim) {
            Some(width) if width <= LARGEST => Ok(width),
            _ => fail("model: its heads are too wide; the file is damaged"),
        };
        let (q_width, kv_width) = (width(n_heads)?, width(kv_heads)?);
        let center = norm == "layernorm";
        let norm_bias = center && flag("norm_bias")?;
        let (qkv_bias, out_bias, mlp_bias) = (flag("qkv_bias")?, flag("out_bias")?, flag("mlp_bias")?);

        let mut conditions = Vec::new();
        for condition in config.need("conditions")?.list()? {
            let name = condition.need("name")?.text()?.to_string();
            let labels = condition.need("labels")?.list()?;
            let labels: Vec<String> =
                labels.iter().map(|label| Ok(label.text()?.to_string())).collect::<Result<_>>()?;
            let rows = tensors.floats(&format!("embed/conditions/{}", name), &[labels.len(), d_model])?;
            conditions.push((name, labels, rows));
        }
        let mut single =
            |name: &str, rows: usize| tensors.matrices(name, None, rows, d_model).map(|mut found| found.pop());
        let tokens = single("embed/tokens", vocab_size)?;
        let positions = if position == "learned" { single("embed/positions", context_length)? } else { None };
        let head = if flag("tie_embeddings")? { None } else { single("head/tokens", vocab_size)? };
        let tokens = match tokens {
            Some(tokens) => tokens,
            None => return fail("no embed/tokens; the file is damaged"),
        };

        let mut vectors = |name: &str, width: usize, there: bool| -> Result<Vec<Option<Vec<f32>>>> {
            if !there {
                // As many as the file has layers: a matrix of each was found before.
                return Ok((0..n_layers).map(|_| None).collect());
            }
            let found = tensors.floats(&format!("layers/{}", name), &[n_layers, width])?;
            Ok(found.chunks_exact(width).map(|part| Some(part.to_vec())).collect())
        };
        // First of all, as `n_layers` is believed from then on.
        let mut scales = vectors("attention_norm/scale", d_model, true)?.into_iter();
        let mut mlp_scales = vectors("mlp_norm/scale", d_model, true)?.into_iter();
        let mut biases = vectors("attention_norm/bias", d_model, norm_bias)?.into_iter();
        let mut mlp_biases = vectors("mlp_norm/bias", d_model, norm_bias)?.into_iter();
        let qk_norm = flag("qk_norm")?;
        let mut q_scales = vectors("attention/q_norm/scale", head_dim, qk_norm)?.into_iter();
        let mut k_scales = vectors("attention/k_norm/scale", head_dim, qk_norm)?.into_iter();
        let mut linear = |name: &str, columns: usize, rows: usize, bias: bool| -> Result<std::vec::IntoIter<Linear>> {
            let matrices = tensors.matrices(&format!("layers/{}/kernel", name), Some(n_layers), rows, columns)?;
            let mut biases = Vec::new();
            if bias {
                let found = tensors.floats(&format!("layers/{}/bias", name), &[n_layers, rows])?;
                biases = found.chunks_exact(rows).map(<[f32]>::to_vec).collect();
            }
            let mut biases = biases.into_iter();
            let found: Vec<Linear> =
                matrices.into_iter().map(|matrix| Linear { matrix, bias: biases.next() }).collect();
            Ok(found.into_iter())
        };
        let mut q = linear("attention/q", d_model, q_width, qkv_bias)?;
        let mut k = linear("attention/k", d_model, kv_width, qkv_bias)?;
        let mut v = linear("attention/v", d_model, kv_width, qkv_bias)?;
        let mut out = linear("attention/out", q_width, d_model, out_bias)?;
        let mut up = linear("mlp/up", d_model, d_ff, mlp_bias)?;
        let mut gate = if gated { linear("mlp/gate", d_model, d_ff, mlp_bias)? } else { Vec::new().into_iter() };
        let mut down = linear("mlp/down", d_ff, d_model, mlp_bias)?;
        let mut layers = Vec::new();
        let norm = |scale: Option<Option<Vec<f32>>>, bias: Option<Option<Vec<f32>>>| {
            scale.flatten().map(|scale| Norm { scale, bias: bias.flatten() })
        };
        while let (Some(attention_norm), Some(mlp_norm), Some(q), Some(k), Some(v), Some(out), Some(up), Some(down)) = (
            norm(scales.next(), biases.next()),
            norm(mlp_scales.next(), mlp_biases.next()),
            q.next(),
            k.next(),
            v.next(),
            out.next(),
            up.next(),
            down.next(),
        ) {
            let qk_norm = q_scales.next().flatten().zip(k_scales.next().flatten());
            layers.push(Layer { attention_norm, q, k, v, out, qk_norm, mlp_norm, up, gate: gate.next(), down });
        }
        let bias = if norm_bias { Some(tensors.floats("final_norm/bias", &[d_model])?) } else { None };
        let norm = Norm { scale: tensors.floats("final_norm/scale", &[d_model])?, bias };
        tensors.finish()?;
        let rotary = if position == "rope" { Some(frequencies(config, head_dim, context_length)?) } else { None };
        let eps = config.need("norm_eps")?.number()? as f32;
        let softcap = config.need("logit_softcap")?.number()? as f32;
        Ok(Decoder {
            vocab_size,
            context_length,
            d_model,
            n_heads,
            kv_heads,
            head_dim,
            eps,
            center,
            softcap,
            activation,
            rotary,
            tokens,
            head,
            positions,
            conditions,
            layers,
            norm,
        })
    }

    /// An empty cache for a text of these conditions, such as `[("style", "formal")]`.
    pub fn start(&self, conditions: &[(&str, &str)]) -> Result<Cache> {
        let mut added = vec![0.0; self.d_model];
        for (name, label) in conditions {
            let known = self.conditions.iter().find(|(known, _, _)| known == name);
            let row = known.and_then(|(_, labels, rows)| {
                let at = labels.iter().position(|each| each == label)?;
                rows.chunks_exact(self.d_model).nth(at)
            });
            match row {
                Some(row) => added.iter_mut().zip(row).for_each(|(to, x)| *to += x),
                None => return fail(format!("this model has no condition {}={}", name, label)),
            }
        }
        Ok(Cache { added, length: 0, layers: self.layers.iter().map(|_| (Vec::new(), Vec::new())).collect() })
    }

    /// Reads ids that follow those read before, and gives the logits of what comes after the last of them.
    pub fn read(&self, cache: &mut Cache, ids: &[u32]) -> Result<Vec<f32>> {
        if ids.is_empty() || ids.len() > self.context_length - cache.length.min(self.context_length) {
            return fail("no ids, or more than the context of this model");
        }
        if ids.iter().any(|&id| id as usize >= self.vocab_size) {
            return fail("an id is outside the vocabulary of this model");
        }
        let mut last = Vec::new();
        for part in ids.chunks(AT_ONCE) {
            let mut x = Vec::with_capacity(part.len() * self.d_model);
            for (at, &id) in part.iter().enumerate() {
                let mut row = cache.added.clone();
                self.tokens.add_row(id as usize, &mut row);
                if let Some(positions) = &self.positions {
                    positions.add_row(cache.length + at, &mut row);
                }
                x.extend(row);
            }
            for (layer, (keys, values)) in self.layers.iter().zip(&mut cache.layers) {
                let y = self.attend(layer, &self.normalize(&x, &layer.attention_norm), keys, values, cache.length);
                add(&mut x, &y);
                let y = self.feed_forward(layer, &self.normalize(&x, &layer.mlp_norm));
                add(&mut x, &y);
            }
            cache.length += part.len();
            last = x.split_off(x.len() - self.d_model);
        }
        let mut logits = self.head.as_ref().unwrap_or(&self.tokens).times(&self.normalize(&last, &self.norm));
        if self.softcap > 0.0 {
            logits.iter_mut().for_each(|logit| *logit = self.softcap * (*logit / self.softcap).tanh());
        }
        Ok(logits)
    }

    fn normalize(&self, x: &[f32], norm: &Norm) -> Vec<f32> {
        let mut y = x.to_vec();
        for row in y.chunks_exact_mut(self.d_model) {
            if self.center {
                let mean = row.iter().sum::<f32>() / row.len() as f32;
                row.iter_mut().for_each(|y| *y -= mean);
            }
            scale_to_one(row, &norm.scale, self.eps);
        }
        if let Some(bias) = &norm.bias {
            y.chunks_exact_mut(self.d_model).for_each(|row| add(row, bias));
        }
        y
    }

    fn attend(&self, layer: &Layer, x: &[f32], keys: &mut Vec<f32>, values: &mut Vec<f32>, start: usize) -> Vec<f32> {
        let (dim, kv_width) = (self.head_dim, self.kv_heads * self.head_dim);
        let (mut q, mut k) = (layer.q.apply(x), layer.k.apply(x));
        if let Some((q_scale, k_scale)) = &layer.qk_norm {
            q.chunks_exact_mut(dim).for_each(|head| scale_to_one(head, q_scale, self.eps));
            k.chunks_exact_mut(dim).for_each(|head| scale_to_one(head, k_scale, self.eps));
        }
        if let Some((frequencies, amplitude)) = &self.rotary {
            for (width, heads) in [(self.n_heads * dim, &mut q), (kv_width, &mut k)] {
                for (at, row) in heads.chunks_exact_mut(width).enumerate() {
                    rotate(row, dim, (start + at) as f32, frequencies, *amplitude);
                }
            }
        }
        keys.extend(k);
        values.extend(layer.v.apply(x));
        let mut y = vec![0.0; q.len()];
        let group = self.n_heads / self.kv_heads;
        let by = 1.0 / (dim as f32).sqrt();
        for (head, (q, y)) in q.chunks_exact(dim).zip(y.chunks_exact_mut(dim)).enumerate() {
            let seen = start + head / self.n_heads + 1;
            let from = head % self.n_heads / group * dim;
            let mut shares: Vec<f32> =
                keys.chunks_exact(kv_width).take(seen).map(|row| dot(q, &row[from..from + dim]) * by).collect();
            let top = shares.iter().fold(f32::NEG_INFINITY, |top, &score| top.max(score));
            shares.iter_mut().for_each(|score| *score = (*score - top).exp());
            let total: f32 = shares.iter().sum();
            for (share, row) in shares.iter().zip(values.chunks_exact(kv_width)) {
                let share = share / total;
                y.iter_mut().zip(&row[from..from + dim]).for_each(|(y, v)| *y += share * v);
            }
        }
        layer.out.apply(&y)
    }

    fn feed_forward(&self, layer: &Layer, x: &[f32]) -> Vec<f32> {
        let up = layer.up.apply(x);
        let mut hidden = layer.gate.as_ref().map_or_else(|| up.clone(), |gate| gate.apply(x));
        let function: fn(f32) -> f32 = match self.activation.as_str() {
            "swiglu" => |x| x / (1.0 + (-x).exp()),
            "geglu" | "gelu" => |x| 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh()),
            "gelu_exact" => |x| 0.5 * x * (1.0 + erf(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2) as f32),
            "relu" => |x| x.max(0.0),
            _ => |x| x.max(0.0) * x.max(0.0),
        };
        hidden.iter_mut().for_each(|x| *x = function(*x));
        if layer.gate.is_some() {
            hidden.iter_mut().zip(&up).for_each(|(gate, up)| *gate *= up);
        }
        layer.down.apply(&hidden)
    }
}

impl Linear {
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut y = self.matrix.times(x);
        if let Some(bias) = &self.bias {
            y.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
        }
        y
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, x)| *to += x);
}

/// Divided by the root of the mean square, and times `scale`.
fn scale_to_one(row: &mut [f32], scale: &[f32], eps: f32) {
    let inverse = 1.0 / (dot(row, row) / row.len() as f32 + eps).sqrt();
    row.iter_mut().zip(scale).for_each(|(y, scale)| *y = *y * inverse * scale);
}

/// Turns the pairs (i, i + half) of each head by the angle of the position.
fn rotate(row: &mut [f32], dim: usize, position: f32, frequencies: &[f32], amplitude: f32) {
    for (pair, frequency) in frequencies.iter().enumerate() {
        let (sin, cos) = (position * frequency).sin_cos();
        let (sin, cos) = (sin * amplitude, cos * amplitude);
        for head in row.chunks_exact_mut(dim) {
            let (first, second) = (head[pair], head[pair + dim / 2]);
            head[pair] = first * cos - second * sin;
            head[pair + dim / 2] = second * cos + first * sin;
        }
    }
}

/// Radians a position of each pair, and the factor on cosines and sines.
fn frequencies(config: &Value, head_dim: usize, context_length: usize) -> Result<(Vec<f32>, f32)> {
    let scaling = config.need("rope_scaling")?;
    let number = |key: &str| scaling.need(key)?.number();
    let (theta, factor, dim) = (config.need("rope_theta")?.number()?, number("factor")?, head_dim as f64);
    let known = number("original_context_length")?;
    let original = if known > 0.0 { known } else { context_length as f64 / factor };
    let plain = |theta: f64| (0..head_dim / 2).map(|pair| theta.powf(-2.0 * pair as f64 / dim)).collect::<Vec<f64>>();
    let turns = |frequency: f64| original * frequency / (2.0 * std::f64::consts::PI);
    let mut amplitude = 1.0;
    let found = match scaling.need("kind")?.text()? {
        "none" => plain(theta),
        "linear" => plain(theta).iter().map(|plain| plain / factor).collect(),
        "ntk" => plain(theta * factor.powf(dim / (dim - 2.0).max(1.0))),
        "yarn" => {
            let pair = |turns: f64| dim * (original / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln());
            let low = pair(number("beta_fast")?).floor().max(0.0);
            let high = pair(number("beta_slow")?).ceil().min(dim - 1.0);
            let given = number("attention_factor")?;
            amplitude = if given > 0.0 { given } else { 0.1 * factor.ln() + 1.0 };
            let ramp = |pair: usize| ((pair as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            let each = plain(theta).into_iter().enumerate();
            each.map(|(pair, plain)| plain * (1.0 - ramp(pair)) + plain / factor * ramp(pair)).collect()
        }
        "llama3" => {
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            let kept = |plain: f64| ((turns(plain) - low) / (high - low)).clamp(0.0, 1.0);
            plain(theta).iter().map(|&plain| plain * (kept(plain) + (1.0 - kept(plain)) / factor)).collect()
        }
        _ => return fail("model.rope_scaling.kind is none that this computes"),
    };
    Ok((found.iter().map(|&frequency| frequency as f32).collect(), amplitude as f32))
}

/// The error function, to 1e-9 or better: its series, and for large numbers its continued fraction.
fn erf(x: f64) -> f64 {
    let size = x.abs();
    let found = if size < 2.5 {
        let (mut term, mut sum) = (size, size);
        for n in 1..40 {
            term *= -size * size / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        2.0 / std::f64::consts::PI.sqrt() * sum
    } else {
        let fraction = (1..40).rev().fold(size, |rest, n| size + f64::from(n) / 2.0 / rest);
        1.0 - (-size * size).exp() / (std::f64::consts::PI.sqrt() * fraction)
    };
    found.copysign(x)
}
