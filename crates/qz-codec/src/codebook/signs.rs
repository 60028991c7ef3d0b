//! The signs of values, eight by eight, beside the magnitudes that codebooks know.

use super::SubBlock;
use crate::block::SUPER_BLOCK;

/// A super-block as codebooks see it.
pub(crate) struct Magnitudes<'a> {
    values: [f32; SUPER_BLOCK],
    weights: &'a [f32; SUPER_BLOCK],
    roots: [f32; SUPER_BLOCK],
    /// A bit for each negative value.
    pub signs: [u8; SUPER_BLOCK / 8],
}

impl<'a> Magnitudes<'a> {
    /// Any value may be negative.
    #[inline(always)]
    pub(crate) fn with_free_signs(
        values: &[f32; SUPER_BLOCK],
        weights: &'a [f32; SUPER_BLOCK],
    ) -> Self {
        let mut split =
            Self { values: *values, weights, roots: roots(weights), signs: [0; SUPER_BLOCK / 8] };
        let eights = split.values.as_chunks_mut().0.iter_mut().zip(&mut split.signs);
        for (eight, signs) in eights {
            (*eight, *signs) = split_free(eight);
        }
        split
    }

    /// Of each eight values the number of negative ones is even.
    #[inline(always)]
    pub(crate) fn with_even_signs(
        values: &[f32; SUPER_BLOCK],
        weights: &'a [f32; SUPER_BLOCK],
    ) -> Self {
        let mut split =
            Self { values: *values, weights, roots: roots(weights), signs: [0; SUPER_BLOCK / 8] };
        let eights = split.values.as_chunks_mut().0.iter_mut().zip(&mut split.signs);
        for ((eight, signs), weights) in eights.zip(weights.as_chunks().0) {
            (*eight, *signs) = split_even(eight, weights);
        }
        split
    }

    /// A sub-block.
    #[inline(always)]
    pub(crate) fn sub_block<const LENGTH: usize>(&self, number: usize) -> SubBlock<'_, LENGTH> {
        SubBlock {
            values: &self.values.as_chunks().0[number],
            weights: &self.weights.as_chunks().0[number],
            roots: &self.roots.as_chunks().0[number],
        }
    }
}

#[inline(always)]
fn roots(weights: &[f32; SUPER_BLOCK]) -> [f32; SUPER_BLOCK] {
    let mut roots = *weights;
    for root in &mut roots {
        *root = root.sqrt();
    }
    roots
}

/// Magnitudes, and a bit for each negative value.
#[inline(always)]
fn split_free(values: &[f32; 8]) -> ([f32; 8], u8) {
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
fn split_even(values: &[f32; 8], weights: &[f32; 8]) -> ([f32; 8], u8) {
    let (mut magnitudes, mut signs) = split_free(values);
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

/// Four times seven signs, the eighth of each being left out; those in `flips` are
/// inverted.
#[inline(always)]
pub(crate) fn four_times_seven(signs: [u8; 4], flips: u8) -> u32 {
    let mut word = 0;
    for (position, signs) in signs.into_iter().enumerate() {
        word |= u32::from((signs ^ flips) & 127) << (7 * position);
    }
    word
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
