//! The operations as they are defined: one number after the other, sums in f64. Slow,
//! for tests and for reading.

mod backend;

use qz_codec::codec_for;
use qz_codec::number::{f16_from_f32, f32_from_f16};
use qz_tensor::DataType;

use super::{
    Activation, Attention, Error, ExpertLoad, Gating, RotaryPairs, Rotation, Rounding, Router,
    Scan, ScanWeights, Xielu,
};
use crate::backend::activations::{activation_type, round_activations};

pub use backend::ReferenceBackend;

/// What columns must leave of their own, in parts of it: below this a stored factor would be
/// rounding.
pub(crate) const LEAST_REST: f64 = 1e-9;

/// The smallest normal binary16: what the sum of chosen experts' probabilities is at
/// least (`build_moe_ffn` in llama-graph.cpp).
pub(crate) const LEAST_WEIGHT_SUM: f32 = 6.103_515_6e-5;

/// Weights as numbers.
///
/// # Errors
/// If the type has no codec.
pub fn decode(data_type: DataType, bytes: &[u8]) -> Result<Vec<f32>, Error> {
    let codec = codec_for(data_type).ok_or(Error::NoCodec(data_type))?;
    let blocks = bytes.len() / data_type.block_bytes();
    let mut values = vec![0.0; blocks * data_type.block_elements()];
    codec.decode(bytes, &mut values);
    Ok(values)
}

/// [`super::Backend::matmul`] of weights stored as `data_type`.
///
/// # Errors
/// If the type has no codec.
pub fn matmul(
    rounding: Rounding,
    activations: &[f32],
    columns: usize,
    data_type: DataType,
    bytes: &[u8],
) -> Result<Vec<f32>, Error> {
    let mut activations = activations.to_vec();
    if rounding == Rounding::Engine {
        round_activations(activation_type(data_type), columns, &mut activations);
    }
    let weights = decode(data_type, bytes)?;
    let rows = activations.chunks_exact(columns);
    Ok(rows.flat_map(|row| weights.chunks_exact(columns).map(|w| dot(row, w))).collect())
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}

/// [`super::Backend::rms_norm`] of one row.
pub fn rms_norm(row: &[f32], weights: &[f32], epsilon: f32) -> Vec<f32> {
    let squares: f64 = row.iter().map(|value| f64::from(value * value)).sum();
    let mean = (squares / row.len() as f64) as f32;
    let scale = 1.0 / (mean + epsilon).sqrt();
    row.iter().zip(weights).map(|(value, weight)| value * scale * weight).collect()
}

/// The error function: its series (Abramowitz and Stegun, 7.1.6), which does not cancel; past
/// 6 it is 1 in any number that is stored.
pub fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / (2.0 * f64::from(n) + 1.0);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * libm::exp(-x * x) * sum
}

/// [`super::Backend::layer_norm`] of one row.
pub fn layer_norm(row: &[f32], weights: &[f32], bias: Option<&[f32]>, epsilon: f32) -> Vec<f32> {
    let count = row.len() as f64;
    let mean = row.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
    let distance = |value: &f32| f64::from(*value) - mean;
    let variance = row.iter().map(|value| distance(value) * distance(value)).sum::<f64>() / count;
    let scale = 1.0 / (variance + f64::from(epsilon)).sqrt();
    let scaled = row.iter().zip(weights).enumerate();
    scaled
        .map(|(at, (value, weight))| {
            (distance(value) * scale) as f32 * weight + bias.map_or(0.0, |bias| bias[at])
        })
        .collect()
}

/// [`super::Backend::scan`]; a sequence begins with a state of zeros.
pub fn scan(
    shape: &Scan,
    weights: &ScanWeights<'_, [f32]>,
    state: &mut [f32],
    input: &[f32],
) -> Vec<f32> {
    let silu = |x: f64| x / (1.0 + libm::exp(-x));
    let (inner, convolved, size) = (shape.inner(), shape.convolved(), shape.state_size);
    let rows: Vec<&[f32]> = input.chunks_exact(shape.width()).collect();
    let (last, states) = state.split_at_mut((shape.taps - 1) * convolved);
    // What the convolution sees: the last rows before these, and these.
    let own = rows.iter().flat_map(|row| &row[inner..inner + convolved]);
    let all: Vec<f32> = last.iter().chain(own).copied().collect();
    let mut sums: Vec<f64> = states.iter().map(|state| f64::from(*state)).collect();
    let mut out = Vec::with_capacity(rows.len() * inner);
    for (at, row) in rows.iter().enumerate() {
        let seen = |number: usize| {
            let taps = weights.convolution[number * shape.taps..][..shape.taps].iter();
            let products = taps.enumerate().map(|(tap, weight)| {
                f64::from(*weight) * f64::from(all[(at + tap) * convolved + number])
            });
            silu(products.sum::<f64>() + f64::from(weights.convolution_bias[number]))
        };
        let seen: Vec<f64> = (0..convolved).map(seen).collect();
        for number in 0..inner {
            let head = number / shape.head_size;
            let group = head * shape.groups / shape.heads;
            let write = &seen[inner + group * size..][..size];
            let read = &seen[inner + (shape.groups + group) * size..][..size];
            let step = f64::from(row[inner + convolved + head] + weights.time_step[head]);
            let step = libm::log1p(libm::exp(step));
            let kept = libm::exp(step * f64::from(weights.decay[head]));
            let state = &mut sums[number * size..][..size];
            let mut sum = f64::from(weights.skip[head]) * seen[number];
            for ((state, write), read) in state.iter_mut().zip(write).zip(read) {
                *state = *state * kept + step * seen[number] * write;
                sum += *state * read;
            }
            out.push((sum * silu(f64::from(row[number]))) as f32);
        }
    }
    let kept = all.len() - last.len();
    last.copy_from_slice(&all[kept..]);
    states.iter_mut().zip(sums).for_each(|(state, sum)| *state = sum as f32);
    out
}

/// [`super::Backend::rotate`] of one head; `table` has the cosine and sine of each pair.
pub fn rotate(head: &mut [f32], rotation: &Rotation, table: &[f32]) {
    let head = &mut head[rotation.first..rotation.first + rotation.count];
    let half = head.len() / 2;
    for (pair, angle) in table.chunks_exact(2).enumerate() {
        let (first, second) = match rotation.pairs {
            RotaryPairs::Adjacent => (2 * pair, 2 * pair + 1),
            RotaryPairs::Halves => (pair, pair + half),
        };
        let (x, y) = (head[first], head[second]);
        head[first] = x * angle[0] - y * angle[1];
        head[second] = x * angle[1] + y * angle[0];
    }
}

/// [`super::Backend::attend`] of one query head, given its keys and values of all
/// positions, one behind the other. `length` is the sequence's. `added` is what is added to the
/// score of a key.
pub fn attend(
    shape: &Attention,
    sink: Option<f32>,
    added: &dyn Fn(usize) -> f32,
    (position, length): (usize, usize),
    query: &[f32],
    keys: &[f32],
    values: &[f32],
) -> Vec<f32> {
    let visible = shape.visible(position, length);
    let score = |at: usize| {
        let score = dot(query, &keys[at * shape.key_size..][..shape.key_size]) * shape.scale;
        shape.soft_cap.map_or(score, |cap| soft_capped(score, cap)) + added(at)
    };
    let mut scores: Vec<f32> = visible.clone().map(score).chain(sink).collect();
    softmax(&mut scores);
    let mut sums = vec![0.0f64; shape.value_size];
    for (at, probability) in visible.zip(scores) {
        let values = &values[at * shape.value_size..][..shape.value_size];
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += f64::from(probability) * f64::from(*value);
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// A number that comes near `cap`, and no further.
#[inline]
pub fn soft_capped(number: f32, cap: f32) -> f32 {
    cap * libm::tanhf(number / cap)
}

/// Exponentials of the distance to the largest, divided by their sum.
pub fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().fold(f32::NEG_INFINITY, |largest, score| largest.max(*score));
    let mut sum = 0.0f64;
    for score in scores.iter_mut() {
        *score = libm::expf(*score - largest);
        sum += f64::from(*score);
    }
    let inverse = (1.0 / sum) as f32;
    scores.iter_mut().for_each(|score| *score *= inverse);
}

/// The square root of 2 / π, and what is added of a number's third power: GELU with the
/// hyperbolic tangent.
pub(crate) const GELU: [f32; 2] = [0.797_884_6, 0.044_715];
/// The largest gate, and the slope of [`Activation::ClampedSilu`].
pub(crate) const CLAMPED_SILU: [f32; 2] = [7.0, 1.702];

/// [`super::Backend::activate_times`] of one number.
pub fn activate_times(activation: Activation, gate: f32, up: f32) -> f32 {
    match activation {
        Activation::Silu => gate / (1.0 + libm::expf(-gate)) * up,
        Activation::GeluTanh => {
            let along = GELU[0] * (gate + GELU[1] * gate * gate * gate);
            0.5 * gate * (1.0 + libm::tanhf(along)) * up
        }
        Activation::GeluHalf if gate <= -10.0 => 0.0,
        Activation::GeluHalf if gate >= 10.0 => gate * up,
        Activation::GeluHalf => {
            let gate = f32_from_f16(f16_from_f32(gate));
            let gelu = activate_times(Activation::GeluTanh, gate, 1.0);
            f32_from_f16(f16_from_f32(gelu)) * up
        }
        Activation::GeluErf => {
            let x = f64::from(gate);
            (0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))) as f32 * up
        }
        Activation::ClampedSilu => {
            let [limit, slope] = CLAMPED_SILU;
            let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
            gate / (1.0 + libm::expf(-slope * gate)) * (up + 1.0)
        }
        Activation::Identity => gate * up,
        Activation::Sigmoid => up / (1.0 + libm::expf(-gate)),
        Activation::ReluSquared => gate.max(0.0).powi(2) * up,
        Activation::Tanh => libm::tanhf(gate) * up,
        Activation::Xielu(Xielu { above, below, slope, limit }) => {
            let curve = match gate > 0.0 {
                true => above * gate * gate,
                false => (libm::expm1f(gate.min(limit)) - gate) * below,
            };
            (curve + slope * gate) * up
        }
    }
}

/// [`super::Backend::route`].
pub fn route(router: &Router, scores: &[f32], bias: Option<&[f32]>) -> Vec<ExpertLoad> {
    let mut loads = vec![ExpertLoad::default(); router.experts];
    for (token, scores) in scores.chunks_exact(router.experts).enumerate() {
        for (expert, weight) in route_token(router, scores, bias) {
            loads[expert].tokens.push(token);
            loads[expert].weights.push(weight);
        }
    }
    loads
}

/// How far, relative to the larger of the two, a score may be below the best to come near it:
/// twice `router_jitter_noise` of Phi 3.5 with experts.
const NEAR: f32 = 0.02;

/// The experts of one token that SparseMixer chooses, with their weights (`sparsemixer` in
/// transformers' modeling_phimoe.py).
fn mixed_sparsely(scores: &[f32], used: usize) -> Vec<(usize, f32)> {
    let mut left = scores.to_vec();
    let choose = |_| {
        // Of equals the first.
        let better = |best: usize, at: usize| if left[at] > left[best] { at } else { best };
        let chosen = (0..left.len()).reduce(better).unwrap_or_default();
        let best = left[chosen];
        let is_far = |score: f32| (best - score) / score.abs().max(best) > NEAR;
        let near = left.iter().filter(|score| !is_far(**score));
        let sum: f32 = near.map(|score| libm::expf(score - best)).sum();
        left[chosen] = f32::NEG_INFINITY;
        (chosen, sum.recip())
    };
    (0..used.min(scores.len())).map(choose).collect()
}

/// The experts of one token, with their weights.
fn route_token(router: &Router, scores: &[f32], bias: Option<&[f32]>) -> Vec<(usize, f32)> {
    if router.gating == Gating::SparseMixer {
        return mixed_sparsely(scores, router.used);
    }
    let mut weights = scores.to_vec();
    match router.gating {
        Gating::Softmax => softmax(&mut weights),
        Gating::Sigmoid => {
            weights.iter_mut().for_each(|score| *score = 1.0 / (1.0 + libm::expf(-*score)));
        }
        Gating::SoftmaxOfChosen | Gating::SparseMixer => {}
    }
    let mut wanted = weights.clone();
    for (wanted, bias) in wanted.iter_mut().zip(bias.unwrap_or_default()) {
        *wanted += bias;
    }
    if let Some((groups, used)) = router.groups {
        leave_groups(&mut wanted, groups, used);
    }
    let mut order: Vec<usize> = (0..router.experts).collect();
    // Of equals the first; `total_cmp` has an order for NaN, too.
    order.sort_by(|a, b| wanted[*b].total_cmp(&wanted[*a]));
    order.truncate(router.used);
    let mut chosen: Vec<f32> = order.iter().map(|expert| weights[*expert]).collect();
    if router.gating == Gating::SoftmaxOfChosen {
        softmax(&mut chosen);
    }
    if router.normalize {
        let sum: f32 = chosen.iter().sum();
        chosen.iter_mut().for_each(|weight| *weight /= sum.max(LEAST_WEIGHT_SUM));
    }
    if router.scale != 1.0 {
        chosen.iter_mut().for_each(|weight| *weight *= router.scale);
    }
    order.into_iter().zip(chosen).collect()
}

/// Makes experts of all but the best groups the last that are chosen.
fn leave_groups(wanted: &mut [f32], groups: usize, used: usize) {
    let size = wanted.len() / groups.max(1);
    let worth = |group: &[f32]| {
        let mut sorted = group.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        sorted.iter().take(2).sum::<f32>()
    };
    let mut order: Vec<(usize, f32)> = wanted.chunks(size.max(1)).map(worth).enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (group, _) in order.into_iter().skip(used) {
        wanted[group * size..(group + 1) * size].fill(f32::NEG_INFINITY);
    }
}

/// R of a symmetric matrix `R Rᵀ`, from its last column on; zeros below the diagonal.
pub fn factor(size: usize, matrix: Vec<f32>) -> Result<Vec<f32>, usize> {
    let mut factor = vec![0.0f64; size * size];
    for column in (0..size).rev() {
        for row in (0..=column).rev() {
            let later = column + 1..size;
            let known: f64 =
                later.map(|k| factor[row * size + k] * factor[column * size + k]).sum();
            let whole = f64::from(matrix[row * size + column]);
            let rest = whole - known;
            factor[row * size + column] = if row < column {
                rest / factor[column * (size + 1)]
            } else if rest > whole.abs() * LEAST_REST && rest.is_finite() {
                rest.sqrt()
            } else {
                return Err(column);
            };
        }
    }
    Ok(factor.into_iter().map(|entry| entry as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scores whose experts and weights transformers' `sparsemixer` gives, too.
    #[test]
    fn a_sparse_mixer_leaves_out_what_is_far() {
        let check = |scores: &[f32], expected: [(usize, f32); 2]| {
            for (found, expected) in mixed_sparsely(scores, 2).iter().zip(expected) {
                assert_eq!(found.0, expected.0);
                assert!((found.1 - expected.1).abs() < 1e-6, "{scores:?}: {found:?}");
            }
        };
        check(&[1.0, 3.0, 2.0, -4.0], [(1, 1.0), (2, 1.0)]);
        check(&[3.0, 2.97, 1.0, 2.96], [(0, 0.341_153), (1, 0.502_5)]);
        check(&[-1.0, -1.01, -3.0, -2.0], [(0, 0.502_5), (1, 1.0)]);
    }
}
