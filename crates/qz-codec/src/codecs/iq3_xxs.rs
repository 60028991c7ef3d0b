//! IQ3_XXS: 256 weights, every four as a point of a codebook, with signs, and a 4-bit
//! scale for every 32.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | what a scale is worth, binary16 |
//! | 2..66 | numbers of points |
//! | 66..98 | for every 32 weights: four times seven signs, the scale in the upper bits |
//!
//! Of every eight weights the number of negative ones is even, which makes the eighth
//! sign unnecessary.

use std::sync::LazyLock;

use crate::block::{
    BATCH, Rows, SUPER_BLOCK, SuperBlocks, first_non_finite_scale, half_at, importance_weights,
    set_half_at,
};
use crate::codebook::{Codebook, Found, levels_of};
use crate::codec::codec;
use crate::iq3_xxs_words::{MAGNITUDES, WORDS};
use crate::number::{f16_from_f32, f32_from_f16, nearest_integer};

/// Weights in a sub-block.
const LENGTH: usize = 32;
/// Sub-blocks.
const COUNT: usize = SUPER_BLOCK / LENGTH;
/// Points of a sub-block.
const POINTS: usize = LENGTH / 4;

const NUMBERS: usize = 2;
const SIGNS: usize = NUMBERS + SUPER_BLOCK / 4;
const BYTES: usize = SIGNS + 4 * COUNT;

/// A sub-block with no larger magnitude is zero (ggml-quants.c,
/// `GROUP_MAX_EPS_IQ3_XXS`).
const ZERO_BELOW: f32 = 1e-8;

/// The highest level.
const TOP: i32 = 7;

/// What the highest level stands for while encoding.
const LARGEST: f32 = 15.0;

/// Tries on each side of the plain scale.
const TRIES: i8 = 15;

/// The levels of the points, three bits each, lowest first (ggml-quants.c,
/// `iq3xs_init_impl`): the words' digits in the other order.
static CODEBOOK: [u16; 256] = {
    let mut places = [0; 256];
    let mut number = 0;
    while number < places.len() {
        let word = WORDS[number];
        places[number] =
            word >> 9 & 7 | (word >> 6 & 7) << 3 | (word >> 3 & 7) << 6 | (word & 7) << 9;
        number += 1;
    }
    places
};

/// The codebook for encoding.
static GRID: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(&CODEBOOK, 2));

codec! {
    Iq3Xxs: DataType::IQ3_XXS,
    importance: Optional,
    decode: decode,
    encode: encode,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[0]),
}

/// The body of [`Codec::decode`].
#[inline(always)]
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut().0) {
        decode_block(block, out);
    }
}

/// The body of [`Codec::encode`].
#[inline(always)]
pub fn encode(weights: &[f32], columns: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    let rows = Rows::new(weights, columns, importance);
    for (number, blocks) in out.as_chunks_mut().0.chunks_mut(BATCH).enumerate() {
        let batch = rows.batch(number * BATCH);
        encode_batch(&batch.weights, batch.importance.as_ref(), blocks);
    }
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let unit = f32_from_f16(half_at(block, 0));
    let numbers = block[NUMBERS..SIGNS].as_chunks::<POINTS>().0.iter();
    let sub_blocks = numbers.zip(block[SIGNS..].as_chunks().0);
    for ((numbers, signs), out) in sub_blocks.zip(out.as_chunks_mut::<LENGTH>().0) {
        let signs = u32::from_le_bytes(*signs);
        let scale = unit * (0.5 + (signs >> 28) as f32) * 0.5;
        for (position, (number, out)) in numbers.iter().zip(out.as_chunks_mut::<4>().0).enumerate()
        {
            let negative = with_eighth_sign(signs >> (7 * (position / 2))) >> (4 * (position % 2));
            let levels = levels_of(CODEBOOK[usize::from(*number)]);
            for (bit, (value, level)) in out.iter_mut().zip(levels).enumerate() {
                let sign = if negative >> bit & 1 != 0 { -1.0 } else { 1.0 };
                *value = scale * f32::from(MAGNITUDES[usize::from(level)]) * sign;
            }
        }
    }
}

/// The lowest seven signs, and the one that makes their number even.
#[inline(always)]
fn with_eighth_sign(signs: u32) -> u8 {
    let seven = signs as u8 & 127;
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// ggml-quants.c, `quantize_row_iq3_xxs_impl`.
#[inline(always)]
fn encode_batch(
    values: &SuperBlocks,
    importance: Option<&SuperBlocks>,
    blocks: &mut [[u8; BYTES]],
) {
    let weights = match importance {
        None => values.map(|values| values.map(|value| value * value)),
        Some(importance) => importance_weights(values, importance, 2.0),
    };
    let grid = &*GRID;
    for ((block, values), weights) in blocks.iter_mut().zip(values).zip(&weights) {
        encode_block(grid, values, weights, block);
    }
}

#[inline(always)]
fn encode_block(
    grid: &Codebook,
    values: &[f32; SUPER_BLOCK],
    weights: &[f32; SUPER_BLOCK],
    block: &mut [u8; BYTES],
) {
    let mut fits = [Fit::ZERO; COUNT];
    let sub_blocks = values.as_chunks().0.iter().zip(weights.as_chunks().0);
    for (fit, (values, weights)) in fits.iter_mut().zip(sub_blocks) {
        *fit = search(grid, values, weights);
    }
    block.fill(0);
    // A NaN, with which the reference ends the process, stays one, to be noticed.
    let largest = fits.iter().fold(0.0f32, |largest, fit| {
        if largest.is_nan() || largest > fit.scale { largest } else { fit.scale }
    });
    if largest == 0.0 {
        return;
    }
    let unit = largest / 31.0;
    // The factor makes the error a little smaller, on average.
    set_half_at(block, 0, f16_from_f32(unit * 1.0125));
    let inverse = 1.0 / unit;
    let (numbers, signs) = block[NUMBERS..].split_at_mut(SIGNS - NUMBERS);
    let sub_blocks = numbers.as_chunks_mut().0.iter_mut().zip(signs.as_chunks_mut().0);
    for ((numbers, signs), fit) in sub_blocks.zip(&fits) {
        *numbers = fit.numbers;
        let scale = nearest_integer(0.5 * (inverse * fit.scale - 1.0)).clamp(0, 15);
        *signs = (fit.signs | (scale as u32) << 28).to_le_bytes();
    }
}

/// What is found for a sub-block.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    numbers: [u8; POINTS],
    signs: u32,
}

impl Fit {
    /// The first point is that of the lowest levels.
    const ZERO: Self = Self { scale: 0.0, numbers: [0; POINTS], signs: 0 };
}

/// The first point, at the lowest levels: what a search ends with that finds nothing.
const NOTHING_FOUND: Found = Found { number: 0, exact: true };

#[inline(always)]
fn search(grid: &Codebook, values: &[f32; LENGTH], weights: &[f32; LENGTH]) -> Fit {
    let (magnitudes, signs) = split_signs(values, weights);
    let start = magnitudes[0];
    let largest =
        magnitudes.iter().fold(start, |max, &value| if max > value { max } else { value });
    if largest < ZERO_BELOW {
        return Fit::ZERO;
    }
    let target = Target { grid, values: &magnitudes, weights, roots: &weights.map(f32::sqrt) };
    let mut scale = largest / LARGEST;
    let mut found = [NOTHING_FOUND; POINTS];
    let mut best = 0.0;
    for number in -TRIES..=TRIES {
        let inverse = (LARGEST + f32::from(number) * 0.2) / largest;
        let candidate = target.points(inverse, 1.0 / inverse);
        let (sum_xq, sum_q2) = target.sums(&candidate);
        if sum_q2 > 0.0 && sum_xq * sum_xq > best * sum_q2 {
            scale = sum_xq / sum_q2;
            best = scale * sum_xq;
            found = candidate;
        }
    }
    if scale > 0.0 && found.iter().any(|found| !found.exact) {
        scale = target.refine(scale, &mut found);
    }
    let numbers = found.map(|found| found.number as u8);
    if scale < 0.0 {
        return Fit { scale: -scale, numbers, signs: !signs & 0x0fff_ffff };
    }
    Fit { scale, numbers, signs }
}

/// Magnitudes and signs. Where the number of negative values among eight is odd, the
/// one that matters least changes its sign, and its "magnitude" is negative.
#[inline(always)]
fn split_signs(values: &[f32; LENGTH], weights: &[f32; LENGTH]) -> ([f32; LENGTH], u32) {
    let mut magnitudes = values.map(|value| if value >= 0.0 { value } else { -value });
    let mut all = 0;
    for group in 0..LENGTH / 8 {
        let range = 8 * group..8 * (group + 1);
        let (values, weights) = (&values[range.clone()], &weights[range.clone()]);
        let mut signs = 0u32;
        let matters = |position: usize| weights[position] * values[position] * values[position];
        let mut least_position = 0;
        for (position, value) in values.iter().enumerate() {
            signs |= u32::from(*value < 0.0) << position;
            if matters(position) < matters(least_position) {
                least_position = position;
            }
        }
        if signs.count_ones() % 2 == 1 {
            let magnitude = &mut magnitudes[range][least_position];
            *magnitude = -*magnitude;
            signs ^= 1 << least_position;
        }
        all |= (signs & 127) << (7 * group);
    }
    (magnitudes, all)
}

/// What points are sought for.
struct Target<'a> {
    grid: &'a Codebook,
    values: &'a [f32; LENGTH],
    weights: &'a [f32; LENGTH],
    /// The weights' roots, by which neighbours are compared.
    roots: &'a [f32; LENGTH],
}

impl Target<'_> {
    /// The points of all values, for levels of the inverse scale.
    #[inline(always)]
    fn points(&self, inverse: f32, scale: f32) -> [Found; POINTS] {
        let mut found = [NOTHING_FOUND; POINTS];
        for (position, found) in found.iter_mut().enumerate() {
            *found = self.point(position, inverse, scale);
        }
        found
    }

    #[inline(always)]
    fn point(&self, position: usize, inverse: f32, scale: f32) -> Found {
        let values = &self.values.as_chunks().0[position];
        let levels =
            values.map(|value| nearest_integer(0.5 * (inverse * value - 1.0)).clamp(0, TOP) as u8);
        self.grid.find(levels, scale, values, &self.roots.as_chunks().0[position])
    }

    /// Weighted sums of the products of values and levels, and of squared levels.
    #[inline(always)]
    fn sums(&self, found: &[Found; POINTS]) -> (f32, f32) {
        let (mut sum_xq, mut sum_q2) = (0.0f32, 0.0f32);
        let values = self.values.as_chunks::<4>().0.iter().zip(self.weights.as_chunks::<4>().0);
        for ((values, weights), found) in values.zip(found) {
            let levels = self.grid.point(found.number);
            for ((value, weight), level) in values.iter().zip(weights).zip(levels) {
                sum_xq += weight * value * level;
                sum_q2 += weight * level * level;
            }
        }
        (sum_xq, sum_q2)
    }

    /// Seeks the points that are neighbours again, with the scale that came of them;
    /// returns the scale that comes of the new ones.
    #[inline(always)]
    fn refine(&self, scale: f32, found: &mut [Found; POINTS]) -> f32 {
        let inverse = 1.0 / scale;
        for (position, found) in found.iter_mut().enumerate() {
            if !found.exact {
                *found = self.point(position, inverse, scale);
            }
        }
        let (sum_xq, sum_q2) = self.sums(found);
        if sum_q2 > 0.0 { sum_xq / sum_q2 } else { scale }
    }
}
