//! Scale only, levels from a table that is denser around zero.

use super::ZERO_BELOW;
use super::signed::extreme;

/// What the sixteen levels stand for (ggml-common.h, `kvalues_iq4nl`).
pub static LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// From where on a level is followed by the next one.
pub(crate) const MIDPOINTS: [f32; 15] = {
    let mut midpoints = [0.0; 15];
    let mut position = 0;
    while position < 15 {
        midpoints[position] = (LEVELS[position] as f32 + LEVELS[position + 1] as f32) / 2.0;
        position += 1;
    }
    midpoints
};

/// Tries on each side of the plain scale.
pub(crate) const TRIES: i8 = 7;

/// The nearest level, the upper one of two as near, the highest for a NaN: as
/// ggml-quants.c, `best_index_int8`, finds it. That compares rounded distances to
/// two levels; close to their midpoint, where it matters, both are exact.
#[inline(always)]
pub fn nearest(value: f32) -> u8 {
    let mut level = 0;
    for midpoint in MIDPOINTS {
        // Not `>=`, because of the NaN.
        level += if value < midpoint { 0 } else { 1 };
    }
    level
}

/// What the level of largest magnitude is at a try.
#[inline(always)]
pub(crate) fn divisions(number: i8) -> f32 {
    f32::from(number) + f32::from(LEVELS[0])
}

/// Finds the scale of one sub-block (the search in ggml-quants.c,
/// `quantize_row_iq4_nl_impl`). The levels are those nearest to the scale.
pub fn search(values: &[f32], weights: &[f32]) -> f32 {
    let extreme = extreme(values);
    if extreme.abs() < ZERO_BELOW {
        return 0.0;
    }
    let plain = -extreme / f32::from(LEVELS[0]);
    let (sum_xq, sum_q2) = sums(1.0 / plain, values, weights);
    let mut scale = if sum_q2 > 0.0 { sum_xq / sum_q2 } else { 0.0 };
    let mut best = scale * sum_xq;
    for number in -TRIES..=TRIES {
        let (sum_xq, sum_q2) = sums(divisions(number) / extreme, values, weights);
        if sum_q2 > 0.0 && sum_xq * sum_xq > best * sum_q2 {
            scale = sum_xq / sum_q2;
            best = scale * sum_xq;
        }
    }
    scale
}

fn sums(inverse: f32, values: &[f32], weights: &[f32]) -> (f32, f32) {
    let (mut sum_xq, mut sum_q2) = (0.0f32, 0.0f32);
    for (&value, &weight) in values.iter().zip(weights) {
        let level = f32::from(LEVELS[usize::from(nearest(inverse * value))]);
        sum_xq += weight * level * value;
        sum_q2 += weight * level * level;
    }
    (sum_xq, sum_q2)
}
