//! IQ2_S: 256 weights, every eight as a point of a codebook of 1024, with signs, and a
//! 4-bit scale for every 16.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | what a scale is worth, binary16 |
//! | 2..34 | the points' numbers, lower eight bits |
//! | 34..66 | signs |
//! | 66..74 | the points' numbers, upper two bits |
//! | 74..82 | scales, the first of two in the lower half |

use std::sync::LazyLock;

use crate::block::{
    BATCH, Derived, Rows, SUPER_BLOCK, SuperBlocks, first_non_finite_scale, half_at,
    importance_weights, sums_of_squares,
};
use crate::codebook::scales::{four_bit_scales, four_bits_at, pack_scales};
use crate::codebook::signs::{Magnitudes, write_signed};
use crate::codebook::{Again, Codebook2, Found, PointSearch, Tries};
use crate::codec::codec;
use crate::lanes::{Lanes, Portable};
use crate::number::f32_from_f16;
use crate::words::{self, IQ2_MAGNITUDES, IQ2_S};

/// Weights in a sub-block.
const LENGTH: usize = 16;
/// Sub-blocks.
const COUNT: usize = SUPER_BLOCK / LENGTH;
/// Points of a sub-block.
const POINTS: usize = LENGTH / 8;

const NUMBERS: usize = 2;
const SIGNS: usize = NUMBERS + SUPER_BLOCK / 8;
const UPPER: usize = SIGNS + SUPER_BLOCK / 8;
const SCALES: usize = UPPER + SUPER_BLOCK / 32;
const BYTES: usize = SCALES + COUNT / 2;

/// ggml-quants.c, `quantize_row_iq2_s_impl`.
const SEARCH: PointSearch = PointSearch {
    zero_below: 1e-8,
    tries: Tries { count: 9, step: 0.1 },
    again: Again::Inexact,
    undecided: Found::LOWEST,
};

/// Makes the error a little smaller, on average.
const UNIT_FACTOR: f32 = 0.9875;

/// By number.
static LEVELS: [[u8; 8]; 1024] = words::levels(&IQ2_S, &IQ2_MAGNITUDES);

/// The codebook for encoding.
static BOOK: LazyLock<Codebook2> = LazyLock::new(|| Codebook2::new(&IQ2_S, 1));

codec! {
    Iq2S: DataType::IQ2_S,
    importance: Optional,
    activations: Q8_K,
    integers: Units { unit: Half { at: 0, one: 8.0 }, length: 256 },
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
    for (position, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = four_bits_at(&block[SCALES..], position / POINTS);
        let scale = unit * (0.5 + f32::from(scale)) * 0.25;
        let upper = block[UPPER + position / 4] >> (2 * (position % 4)) & 3;
        let number = usize::from(block[NUMBERS + position]) | usize::from(upper) << 8;
        write_signed(scale, &LEVELS[number], block[SIGNS + position], out);
    }
}

#[inline(always)]
fn encode_batch<L: Lanes>(
    values: &SuperBlocks,
    importance: Option<&SuperBlocks>,
    blocks: &mut [[u8; BYTES]],
) {
    let weights = match importance {
        None => plain_weights(values),
        Some(importance) => importance_weights(values, importance, 2.0),
    };
    let book = &*BOOK;
    for ((block, values), weights) in blocks.iter_mut().zip(values).zip(&weights) {
        encode_block::<L>(book, values, weights, block);
    }
}

#[inline(always)]
fn encode_block<L: Lanes>(
    book: &Codebook2,
    values: &[f32; SUPER_BLOCK],
    weights: &[f32; SUPER_BLOCK],
    block: &mut [u8; BYTES],
) {
    block.fill(0);
    let magnitudes = Magnitudes::with_free_signs(values, weights);
    let mut scales = [0.0; COUNT];
    for (sub_block, stored) in scales.iter_mut().enumerate() {
        let target = magnitudes.sub_block::<LENGTH>(sub_block);
        let Some(fit) = SEARCH.fit::<L, 8, 4, LENGTH, POINTS>(book, &target) else { continue };
        let (scale, flips) = fit.positive_scale();
        *stored = scale;
        for (number, found) in fit.points.iter().enumerate() {
            let position = POINTS * sub_block + number;
            let [lower, upper] = book.number(found.code).to_le_bytes();
            block[NUMBERS + position] = lower;
            block[SIGNS + position] = magnitudes.signs[position] ^ flips;
            block[UPPER + position / 4] |= upper << (2 * (position % 4));
        }
    }
    if let Some(scales) = four_bit_scales(&scales, UNIT_FACTOR, block) {
        pack_scales(&scales, &mut block[SCALES..]);
    }
}

/// Without importance: squares, and half of their mean.
#[inline(always)]
fn plain_weights(values: &SuperBlocks) -> Derived {
    let sums = sums_of_squares(values);
    let mut derived = [[0.0; SUPER_BLOCK]; BATCH];
    for ((weights, values), sum) in derived.iter_mut().zip(values).zip(sums) {
        let sigma2 = 2.0 * sum / SUPER_BLOCK as f32;
        for (weight, value) in weights.iter_mut().zip(*values) {
            *weight = 0.25 * sigma2 + value * value;
        }
    }
    derived
}
