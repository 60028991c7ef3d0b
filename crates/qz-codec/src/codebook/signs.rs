//! The signs of eight values, beside the magnitudes that codebooks know.

/// Magnitudes, and a bit for each negative value.
#[inline(always)]
pub(crate) fn split(values: &[f32; 8]) -> ([f32; 8], u8) {
    let mut magnitudes = *values;
    let mut signs = 0;
    for (position, magnitude) in magnitudes.iter_mut().enumerate() {
        let negative = *magnitude < 0.0;
        *magnitude = if negative { -*magnitude } else { *magnitude };
        signs |= u8::from(negative) << position;
    }
    (magnitudes, signs)
}

/// Magnitudes and signs where the number of negative values is even. Where it is not,
/// the value that matters least changes its sign, and its "magnitude" is negative.
#[inline(always)]
pub(crate) fn split_even(values: &[f32; 8], weights: &[f32; 8]) -> ([f32; 8], u8) {
    let (mut magnitudes, mut signs) = split(values);
    if signs.count_ones() % 2 == 1 {
        let mut matters = *weights;
        for (matters, value) in matters.iter_mut().zip(values) {
            *matters = *matters * value * value;
        }
        let mut least = 0;
        for position in 1..8 {
            if matters[position] < matters[least] {
                least = position;
            }
        }
        magnitudes[least] = -magnitudes[least];
        signs ^= 1 << least;
    }
    (magnitudes, signs)
}

/// The lowest seven signs, and the one that makes their number even.
#[inline(always)]
pub(crate) fn with_eighth_sign(signs: u32) -> u8 {
    let seven = signs as u8 & 127;
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// Signed multiples of a scale.
#[inline(always)]
pub(crate) fn write_signed<const DIM: usize>(
    scale: f32,
    levels: &[u8; DIM],
    signs: u8,
    out: &mut [f32; DIM],
) {
    for (bit, (value, level)) in out.iter_mut().zip(levels).enumerate() {
        let sign = if signs & (1 << bit) != 0 { -1.0 } else { 1.0 };
        *value = scale * f32::from(*level) * sign;
    }
}
