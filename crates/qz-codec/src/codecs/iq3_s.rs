//! IQ3_S: 256 weights, every four as a point of a codebook of 512, with signs, and a
//! 4-bit scale for every 32.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | what a scale is worth, binary16 |
//! | 2..66 | the points' numbers, lower eight bits |
//! | 66..74 | the points' numbers, highest bit |
//! | 74..106 | signs |
//! | 106..110 | scales, the first of two in the lower half |

use std::sync::LazyLock;

use crate::block::{
    BATCH, Rows, SUPER_BLOCK, SuperBlocks, first_non_finite_scale, half_at, importance_weights,
};
use crate::codebook::scales::{four_bit_scales, four_bits_at, pack_scales};
use crate::codebook::signs::{Magnitudes, write_signed};
use crate::codebook::{Again, Codebook3, Found, PointSearch, Tries};
use crate::codec::codec;
use crate::lanes::{Lanes, Portable};
use crate::number::f32_from_f16;
use crate::words::{self, IQ3_S, IQ3_S_MAGNITUDES};

/// Weights in a sub-block.
const LENGTH: usize = 32;
/// Sub-blocks.
const COUNT: usize = SUPER_BLOCK / LENGTH;
/// Points of a sub-block.
const POINTS: usize = LENGTH / 4;
/// Bytes of a sub-block's signs.
const EIGHTS: usize = LENGTH / 8;

const NUMBERS: usize = 2;
const UPPER: usize = NUMBERS + SUPER_BLOCK / 4;
const SIGNS: usize = UPPER + SUPER_BLOCK / 32;
const SCALES: usize = SIGNS + SUPER_BLOCK / 8;
const BYTES: usize = SCALES + COUNT / 2;

/// ggml-quants.c, `quantize_row_iq3_s_impl`.
const SEARCH: PointSearch = PointSearch {
    // The least positive number: only zeros are a zero sub-block.
    zero_below: f32::from_bits(1),
    tries: Tries { count: 9, step: 0.2 },
    again: Again::All,
    undecided: Found { exact: false, ..Found::LOWEST },
};

/// Makes the error a little smaller, on average.
const UNIT_FACTOR: f32 = 1.033;

/// By number.
static LEVELS: [[u8; 4]; 512] = words::levels(&IQ3_S, &IQ3_S_MAGNITUDES);

/// The codebook for encoding.
static BOOK: LazyLock<Codebook3> = LazyLock::new(|| Codebook3::new(&IQ3_S, 3));

codec! {
    Iq3S: DataType::IQ3_S,
    importance: Optional,
    activations: Q8_K,
    integers: Units { unit: Half { at: 0, one: 1.0 }, length: 256 },
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
        let scale = four_bits_at(&block[SCALES..], position / EIGHTS);
        let scale = unit * f32::from(1 + 2 * scale);
        let upper = block[UPPER + position / EIGHTS] >> (2 * (position % EIGHTS));
        let numbers = &block[NUMBERS + 2 * position..][..2];
        let first = usize::from(numbers[0]) | usize::from(upper & 1) << 8;
        let second = usize::from(numbers[1]) | usize::from(upper & 2) << 7;
        let mut levels = [0; 8];
        levels[..4].copy_from_slice(&LEVELS[first]);
        levels[4..].copy_from_slice(&LEVELS[second]);
        write_signed(scale, &levels, block[SIGNS + position], out);
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
    let magnitudes = Magnitudes::with_free_signs(values, weights);
    let mut scales = [0.0; COUNT];
    // The reference writes nothing for a zero sub-block and does not step over its
    // place either: numbers and signs of later ones move up, their highest bits and
    // scales do not.
    let mut place = 0;
    for (position, stored) in scales.iter_mut().enumerate() {
        let target = magnitudes.sub_block::<LENGTH>(position);
        let Some(fit) = SEARCH.fit::<L, 4, 8, LENGTH, POINTS>(book, &target) else { continue };
        let (scale, flips) = fit.positive_scale();
        *stored = scale;
        for (number, found) in fit.points.iter().enumerate() {
            let [lower, upper] = book.number(found.code).to_le_bytes();
            block[NUMBERS + POINTS * place + number] = lower;
            block[UPPER + position] |= upper << number;
        }
        let signs = magnitudes.signs.as_chunks::<EIGHTS>().0[position];
        for (number, signs) in signs.into_iter().enumerate() {
            block[SIGNS + EIGHTS * place + number] = signs ^ flips;
        }
        place += 1;
    }
    if let Some(scales) = four_bit_scales(&scales, UNIT_FACTOR, block) {
        pack_scales(&scales, &mut block[SCALES..]);
    }
}
