//! The operations as they are defined: one number after the other, sums in f64. Slow,
//! for tests and for reading.

use qz_codec::codec_for;
use qz_tensor::DataType;

use super::{Attention, Error, ExpertLoad, RotaryPairs, Rounding};
use crate::backend::activations::{activation_type, round_activations};

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

/// [`super::Backend::rotate`] of one head; `table` has the cosine and sine of each pair.
pub fn rotate(head: &mut [f32], pairs: RotaryPairs, table: &[f32]) {
    let half = head.len() / 2;
    for (pair, angle) in table.chunks_exact(2).enumerate() {
        let (first, second) = match pairs {
            RotaryPairs::Adjacent => (2 * pair, 2 * pair + 1),
            RotaryPairs::Halves => (pair, pair + half),
        };
        let (x, y) = (head[first], head[second]);
        head[first] = x * angle[0] - y * angle[1];
        head[second] = x * angle[1] + y * angle[0];
    }
}

/// [`super::Backend::attend`] of one query head, given its keys and values of all
/// positions, one behind the other.
pub fn attend(
    shape: &Attention,
    position: usize,
    query: &[f32],
    keys: &[f32],
    values: &[f32],
) -> Vec<f32> {
    let visible = shape.visible(position);
    let row = |rows: &'_ [f32], at: usize| rows[at * shape.head_size..][..shape.head_size].to_vec();
    let mut scores: Vec<f32> =
        visible.clone().map(|at| dot(query, &row(keys, at)) * shape.scale).collect();
    softmax(&mut scores);
    let mut sums = vec![0.0f64; shape.head_size];
    for (at, probability) in visible.zip(scores) {
        for (sum, value) in sums.iter_mut().zip(row(values, at)) {
            *sum += f64::from(probability) * f64::from(value);
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// Exponentials of the distance to the largest, divided by their sum.
pub fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().fold(f32::NEG_INFINITY, |largest, score| largest.max(*score));
    let mut sum = 0.0f64;
    for score in scores.iter_mut() {
        *score = (*score - largest).exp();
        sum += f64::from(*score);
    }
    let inverse = (1.0 / sum) as f32;
    scores.iter_mut().for_each(|score| *score *= inverse);
}

/// [`super::Backend::silu_times`] of one number.
#[inline(always)]
pub fn silu_times(gate: f32, up: f32) -> f32 {
    gate / (1.0 + (-gate).exp()) * up
}

/// [`super::Backend::route`].
pub fn route(scores: &[f32], experts: usize, used: usize) -> Vec<ExpertLoad> {
    let mut loads = vec![ExpertLoad::default(); experts];
    for (token, scores) in scores.chunks_exact(experts).enumerate() {
        let mut probabilities = scores.to_vec();
        softmax(&mut probabilities);
        let mut order: Vec<usize> = (0..experts).collect();
        // Of equals the first; `total_cmp` has an order for NaN, too.
        order.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]));
        order.truncate(used);
        let sum: f32 = order.iter().map(|expert| probabilities[*expert]).sum();
        for expert in order {
            loads[expert].tokens.push(token);
            loads[expert].weights.push(probabilities[expert] / sum.max(LEAST_WEIGHT_SUM));
        }
    }
    loads
}
