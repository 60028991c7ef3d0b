//! The four-bit floats of MXFP4 and NVFP4: a sign, two exponent bits, one mantissa
//! bit ("OCP Microscaling Formats (MX) Specification", E2M1).

/// Twice what the numbers stand for (ggml-common.h, `kvalues_fp4`); the scales are
/// half as large in return.
pub(crate) const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// For each value the number that, scaled, is nearest; the first of several
/// (ggml-quants.c, `best_index_mxfp4`).
#[inline(always)]
pub(crate) fn nearest<const LENGTH: usize>(scale: f32, values: &[f32; LENGTH]) -> [u8; LENGTH] {
    let (mut errors, mut numbers) = (values.map(f32::abs), [0; LENGTH]);
    for (number, candidate) in VALUES.into_iter().enumerate().skip(1) {
        let candidate = f32::from(candidate) * scale;
        for ((best, error), value) in numbers.iter_mut().zip(&mut errors).zip(values) {
            let new_error = (candidate - value).abs();
            let better = new_error < *error;
            *error = if better { new_error } else { *error };
            *best = if better { number as u32 } else { *best };
        }
    }
    numbers.map(|number| number as u8)
}

/// The largest magnitude.
#[inline(always)]
pub(crate) fn largest_magnitude(values: &[f32]) -> f32 {
    values
        .iter()
        .fold(0.0, |largest, value| if largest < value.abs() { value.abs() } else { largest })
}
