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
};
use crate::codebook::scales::four_bit_scales;
use crate::codebook::signs::{Magnitudes, four_times_seven, with_eighth_sign, write_signed};
use crate::codebook::{Again, Codebook3, Found, PointSearch, Tries};
use crate::codec::codec;
use crate::lanes::{Lanes, Portable};
use crate::number::f32_from_f16;
use crate::words::{self, IQ3_XXS, IQ3_XXS_MAGNITUDES};

/// Weights in a sub-block.
const LENGTH: usize = 32;
/// Sub-blocks.
const COUNT: usize = SUPER_BLOCK / LENGTH;
/// Points of a sub-block.
const POINTS: usize = LENGTH / 4;

const NUMBERS: usize = 2;
const SIGNS: usize = NUMBERS + SUPER_BLOCK / 4;
const BYTES: usize = SIGNS + 4 * COUNT;

/// ggml-quants.c, `quantize_row_iq3_xxs_impl`.
const SEARCH: PointSearch = PointSearch {
    zero_below: 1e-8,
    tries: Tries { count: 15, step: 0.2 },
    again: Again::Inexact,
    undecided: Found::LOWEST,
};

/// Makes the error a little smaller, on average.
const UNIT_FACTOR: f32 = 1.0125;

/// By number.
static LEVELS: [[u8; 4]; 256] = words::levels(&IQ3_XXS, &IQ3_XXS_MAGNITUDES);

/// The codebook for encoding.
static BOOK: LazyLock<Codebook3> = LazyLock::new(|| Codebook3::new(&IQ3_XXS, 2));

codec! {
    Iq3Xxs: DataType::IQ3_XXS,
    importance: Optional,
    activations: Q8_K,
    integers: Units { unit: Half { at: 0, one: 4.0 }, length: 256 },
    decode: decode,
    encode: encode::<Portable>,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[0]),
}

/// The body of [`crate::Codec::decode`].
#[inline(always)]
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut().0) {
        decode_block(block, out);
    }
}

/// The body of [`crate::Codec::encode`], with lanes of type `L`.
#[inline(always)]
pub fn encode<L: Lanes>(
    weights: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    let rows = Rows::new(weights, columns, importance);
    for (number, blocks) in out.as_chunks_mut().0.chunks_mut(BATCH).enumerate() {
        let batch = rows.batch(number * BATCH);
        encode_batch::<L>(&batch.weights, batch.importance.as_ref(), blocks);
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
        let eights = numbers.as_chunks::<2>().0.iter().zip(out.as_chunks_mut::<8>().0);
        for (position, (numbers, out)) in eights.enumerate() {
            let negative = with_eighth_sign(signs >> (7 * position));
            let mut levels = [0; 8];
            levels[..4].copy_from_slice(&LEVELS[usize::from(numbers[0])]);
            levels[4..].copy_from_slice(&LEVELS[usize::from(numbers[1])]);
            write_signed(scale, &levels, negative, out);
        }
    }
}

#[inline(always)]
fn encode_batch<L: Lanes>(
    values: &SuperBlocks,
    importance: Option<&SuperBlocks>,
    blocks: &mut [[u8; BYTES]],
) {
    let weights = match importance {
        None => values.map(|values| values.map(|value| value * value)),
        Some(importance) => importance_weights(values, importance, 2.0),
    };
    let book = &*BOOK;
    for ((block, values), weights) in blocks.iter_mut().zip(values).zip(&weights) {
        encode_block::<L>(book, values, weights, block);
    }
}

#[inline(always)]
fn encode_block<L: Lanes>(
    book: &Codebook3,
    values: &[f32; SUPER_BLOCK],
    weights: &[f32; SUPER_BLOCK],
    block: &mut [u8; BYTES],
) {
    block.fill(0);
    let magnitudes = Magnitudes::with_even_signs(values, weights);
    let mut scales = [0.0; COUNT];
    let mut signs = [0; COUNT];
    let numbers = block[NUMBERS..SIGNS].as_chunks_mut::<POINTS>().0.iter_mut();
    for (position, numbers) in numbers.enumerate() {
        let target = magnitudes.sub_block::<LENGTH>(position);
        let Some(fit) = SEARCH.fit::<L, 4, 8, LENGTH, POINTS>(book, &target) else { continue };
        for (number, found) in numbers.iter_mut().zip(&fit.points) {
            *number = book.number(found.code) as u8;
        }
        let (scale, flips) = fit.positive_scale();
        scales[position] = scale;
        let sub_block = magnitudes.signs.as_chunks::<4>().0[position];
        signs[position] = four_times_seven(sub_block, flips);
    }
    let Some(scales) = four_bit_scales(&scales, UNIT_FACTOR, block) else {
        block.fill(0);
        return;
    };
    let stored = block[SIGNS..].as_chunks_mut().0.iter_mut();
    for (stored, (scale, signs)) in stored.zip(scales.into_iter().zip(signs)) {
        *stored = (signs | u32::from(scale) << 28).to_le_bytes();
    }
}
