//! Scale only, levels from zero: how scales and minimums of sub-blocks are
//! themselves stored.

use super::ZERO_BELOW;
use crate::number::nearest_integer;

/// The scales tried after the plain one, in tenths of a level.
pub(crate) const TRIES: [i8; 8] = [-4, -3, -2, -1, 1, 2, 3, 4];

/// Passes over the values at most.
pub(crate) const PASSES: usize = 5;

/// Finds scale and levels for values that should not be negative (ggml-quants.c,
/// `make_qp_quants`). Levels are bytes as in the reference: nothing keeps the
/// level of a negative value from wrapping, and later steps read the wrapped one.
pub fn search(top: u8, values: &[f32], weights: &[f32], levels: &mut [u8]) -> f32 {
    // A NaN is passed over, unless it comes last.
    let maximum = values.iter().fold(0.0f32, |max, &value| if max > value { max } else { value });
    if maximum < ZERO_BELOW {
        levels.fill(0);
        return 0.0;
    }
    let inverse = best_inverse(top, maximum, values, weights);
    let (mut sum_xl, mut sum_l2) = (0.0f32, 0.0f32);
    for ((&value, &weight), stored) in values.iter().zip(weights).zip(levels.iter_mut()) {
        let level = nearest_integer(inverse * value).min(i32::from(top));
        *stored = level as u8;
        sum_xl += weight * value * level as f32;
        sum_l2 += weight * level as f32 * level as f32;
    }
    for _ in 0..PASSES {
        let mut changed = false;
        for ((&value, &weight), level) in values.iter().zip(weights).zip(levels.iter_mut()) {
            if let Some(better) = improve(top, value, weight, *level, sum_xl, sum_l2) {
                (*level, sum_xl, sum_l2) = better;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    if sum_l2 > 0.0 { sum_xl / sum_l2 } else { 0.0 }
}

/// The inverse scale with the least weighted squared error.
fn best_inverse(top: u8, maximum: f32, values: &[f32], weights: &[f32]) -> f32 {
    let mut inverse = f32::from(top) / maximum;
    // The plain scale's levels wrap to bytes and have no upper bound.
    let mut best = error(inverse, values, weights, |level| i32::from(level as u8));
    for number in TRIES {
        let candidate = (0.1 * f32::from(number) + f32::from(top)) / maximum;
        let error = error(candidate, values, weights, |level| level.min(i32::from(top)));
        if error < best {
            (best, inverse) = (error, candidate);
        }
    }
    inverse
}

fn error(inverse: f32, values: &[f32], weights: &[f32], bound: impl Fn(i32) -> i32) -> f32 {
    let scale = 1.0 / inverse;
    let mut sum = 0.0f32;
    for (&value, &weight) in values.iter().zip(weights) {
        let difference = value - scale * bound(nearest_integer(inverse * value)) as f32;
        sum += weight * difference * difference;
    }
    sum
}

/// The best level for one value with the others kept, and the sums with it, if
/// they fit better than before.
fn improve(
    top: u8,
    value: f32,
    weight: f32,
    level: u8,
    sum_xl: f32,
    sum_l2: f32,
) -> Option<(u8, f32, f32)> {
    let old = f32::from(level);
    let other_xl = sum_xl - weight * value * old;
    let other_l2 = sum_l2 - weight * old * old;
    let solvable = other_xl > 0.0 && other_l2 > 0.0;
    if !solvable {
        return None;
    }
    let new = nearest_integer(value * other_l2 / other_xl).min(i32::from(top));
    if new == i32::from(level) {
        return None;
    }
    let new_xl = other_xl + weight * value * new as f32;
    let new_l2 = other_l2 + weight * new as f32 * new as f32;
    (new_xl * new_xl * sum_l2 > sum_xl * sum_xl * new_l2).then_some((new as u8, new_xl, new_l2))
}
