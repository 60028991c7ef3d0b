//! The four-bit floats of MXFP4 and NVFP4: a sign, two exponent bits, one mantissa
//! bit ("OCP Microscaling Formats (MX) Specification", E2M1).

/// Twice what the numbers stand for (ggml-common.h, `kvalues_fp4`); the scales are
/// half as large in return.
pub(crate) const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Halfway between a number and the next one, as `VALUES` has them.
const MIDPOINTS: [f32; 7] = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0];

/// For each value the number that, scaled, is nearest; the first of several
/// (ggml-quants.c, `best_index_mxfp4`). `largest` is the largest magnitude.
#[inline(always)]
pub(crate) fn nearest<const LENGTH: usize>(
    scale: f32,
    largest: f32,
    values: &[f32; LENGTH],
) -> [u8; LENGTH] {
    // The reference compares rounded distances. They keep their order, and are equal
    // at midpoints alone, unless a value is so large that it swallows the numbers.
    if largest <= scale * 1_048_576.0 && scale * 12.0 < f32::INFINITY {
        nearest_by_midpoints(scale, values)
    } else {
        nearest_by_distance(scale, values)
    }
}

/// Of two numbers as near the one of less magnitude, which comes first.
#[inline(always)]
fn nearest_by_midpoints<const LENGTH: usize>(scale: f32, values: &[f32; LENGTH]) -> [u8; LENGTH] {
    let mut numbers = [0u32; LENGTH];
    for midpoint in MIDPOINTS {
        for (number, value) in numbers.iter_mut().zip(values) {
            *number += u32::from(value.abs() > midpoint * scale);
        }
    }
    let mut bytes = [0; LENGTH];
    for (byte, (number, value)) in bytes.iter_mut().zip(numbers.iter().zip(values)) {
        // There is no negative zero: the number for zero comes first.
        let negative = *value < 0.0 && *number > 0;
        *byte = (*number | u32::from(negative) << 3) as u8;
    }
    bytes
}

#[cold]
fn nearest_by_distance<const LENGTH: usize>(scale: f32, values: &[f32; LENGTH]) -> [u8; LENGTH] {
    values.map(|value| {
        let (mut error, mut number) = (f32::INFINITY, 0);
        for (candidate, entry) in (0..).zip(VALUES) {
            let candidate_error = (f32::from(entry) * scale - value).abs();
            if candidate_error < error {
                (error, number) = (candidate_error, candidate);
            }
        }
        number
    })
}

/// The largest magnitude. Those of finite numbers have the order of their bits.
#[inline(always)]
pub(crate) fn largest_magnitude(values: &[f32]) -> f32 {
    let mut largest = 0;
    for value in values {
        largest = (value.to_bits() & 0x7fff_ffff).max(largest);
    }
    f32::from_bits(largest)
}
