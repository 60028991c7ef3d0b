//! Scale only, levels on both sides of zero, improved one level at a time.

use super::signed::{extreme, round};
use super::{LONGEST, ZERO_BELOW};
use crate::number::nearest_integer;

/// Passes over the values at most.
pub(crate) const PASSES: usize = 5;

/// Finds scale and levels of one sub-block; every value weighs its own square
/// (ggml-quants.c, `make_q3_quants`). Levels are stored plus `half`; a zero
/// sub-block has levels 0 (not `half`) and scale 0.
pub fn search(half: u8, values: &[f32], levels: &mut [u8]) -> f32 {
    let extreme = extreme(values);
    if extreme.abs() < ZERO_BELOW {
        levels.fill(0);
        return 0.0;
    }
    let inverse = -f32::from(half) / extreme;
    let mut buffer = [0i32; LONGEST];
    let signed = &mut buffer[..values.len()];
    let (mut sum_xl, mut sum_l2) = (0.0f32, 0.0f32);
    for (level, &value) in signed.iter_mut().zip(values) {
        *level = round(half, inverse, value);
        let weight = value * value;
        sum_xl += weight * value * *level as f32;
        sum_l2 += weight * *level as f32 * *level as f32;
    }
    for _ in 0..PASSES {
        let mut changed = false;
        for (level, &value) in signed.iter_mut().zip(values) {
            if let Some(better) = improve(half, value, *level, sum_xl, sum_l2) {
                (*level, sum_xl, sum_l2) = better;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    for (level, signed) in levels.iter_mut().zip(signed) {
        *level = (*signed + i32::from(half)) as u8;
    }
    if sum_l2 > 0.0 { sum_xl / sum_l2 } else { 0.0 }
}

/// The best level for one value with the others kept, and the sums with it, if
/// they fit better than before.
fn improve(half: u8, value: f32, level: i32, sum_xl: f32, sum_l2: f32) -> Option<(i32, f32, f32)> {
    let weight = value * value;
    let other_xl = sum_xl - weight * value * level as f32;
    // Named, because a NaN must fail too.
    let solvable = other_xl > 0.0;
    if !solvable {
        return None;
    }
    let other_l2 = sum_l2 - weight * level as f32 * level as f32;
    let half = i32::from(half);
    let new = nearest_integer(value * other_l2 / other_xl).clamp(-half, half - 1);
    if new == level {
        return None;
    }
    let new_xl = other_xl + weight * value * new as f32;
    let new_l2 = other_l2 + weight * new as f32 * new as f32;
    let better = new_l2 > 0.0 && new_xl * new_xl * sum_l2 > sum_xl * sum_xl * new_l2;
    better.then_some((new, new_xl, new_l2))
}
