//! The levels that TQ1_0 and TQ2_0 pack.

use crate::block::SUPER_BLOCK;
use crate::four_bit_float::largest_magnitude;

/// The largest magnitude as the scale, and the levels -1, 0 and 1 plus 1. Halves
/// are rounded away from zero.
#[inline(always)]
pub(crate) fn ternary(weights: &[f32; SUPER_BLOCK]) -> (f32, [u8; SUPER_BLOCK]) {
    let scale = largest_magnitude(weights);
    let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
    let mut levels = [0; SUPER_BLOCK];
    for (level, weight) in levels.iter_mut().zip(weights) {
        let relative = weight * inverse;
        // A subnormal scale may have an infinite inverse. C's conversion of an
        // infinity or a NaN to a long has 0 in its low bytes, on x86-64.
        let relative = if relative.is_finite() { relative } else { 0.0 };
        *level = 1 + u8::from(relative >= 0.5) - u8::from(relative <= -0.5);
    }
    (scale, levels)
}
