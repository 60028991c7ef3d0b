//! Scale only, levels on both sides of zero: `value = scale * (level - half)`.

use super::ZERO_BELOW;
use crate::number::nearest_integer;

/// Finds scale and levels of one sub-block (ggml-quants.c, `make_qx_quants` with
/// an rmse type of 1). Levels are stored plus `half`, so they lie in
/// `0..2 * half`; the value of largest magnitude goes to the negative end, which
/// reaches one further. A zero sub-block has levels 0 (not `half`) and scale 0.
pub fn search(half: u8, values: &[f32], weights: &[f32], levels: &mut [u8]) -> f32 {
    let extreme = extreme(values);
    if extreme.abs() < ZERO_BELOW {
        levels.fill(0);
        return 0.0;
    }
    let mut inverse = -f32::from(half) / extreme;
    let (sum_xl, sum_l2) = sums(half, inverse, values, weights);
    let mut scale = if sum_l2 != 0.0 { sum_xl / sum_l2 } else { 0.0 };
    let mut best = scale * sum_xl;
    for number in TRIES {
        let candidate = -divisions(half, number) / extreme;
        let (sum_xl, sum_l2) = sums(half, candidate, values, weights);
        if sum_l2 > 0.0 && sum_xl * sum_xl > best * sum_l2 {
            inverse = candidate;
            scale = sum_xl / sum_l2;
            best = scale * sum_xl;
        }
    }
    for (level, &value) in levels.iter_mut().zip(values) {
        *level = (round(half, inverse, value) + i32::from(half)) as u8;
    }
    scale
}

/// The scales tried after the plain one, in tenths of a level.
pub(crate) const TRIES: [i8; 18] = [-9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9];

/// How many levels the extreme value is divided into at a try.
#[inline(always)]
pub(crate) fn divisions(half: u8, number: i8) -> f32 {
    f32::from(half) + 0.1 * f32::from(number)
}

/// The first value of largest magnitude.
#[inline(always)]
pub(crate) fn extreme(values: &[f32]) -> f32 {
    let (mut extreme, mut largest) = (0.0, 0.0f32);
    for &value in values {
        if value.abs() > largest {
            largest = value.abs();
            extreme = value;
        }
    }
    extreme
}

/// The level of a value, before `half` is added.
pub(crate) fn round(half: u8, inverse: f32, value: f32) -> i32 {
    let half = i32::from(half);
    nearest_integer(inverse * value).clamp(-half, half - 1)
}

fn sums(half: u8, inverse: f32, values: &[f32], weights: &[f32]) -> (f32, f32) {
    let (mut sum_xl, mut sum_l2) = (0.0f32, 0.0f32);
    for (&value, &weight) in values.iter().zip(weights) {
        let level = round(half, inverse, value) as f32;
        sum_xl += weight * value * level;
        sum_l2 += weight * level * level;
    }
    (sum_xl, sum_l2)
}
