//! IQ2_XS: 256 weights, every eight as a point of a codebook of 512, with signs, and a
//! 4-bit scale for every 16.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | what a scale is worth, binary16 |
//! | 2..66 | for every eight weights: the point's number, seven signs in the upper bits |
//! | 66..74 | scales, the first of two in the lower half |
//!
//! Of every eight weights the number of negative ones is even, which makes the eighth
//! sign unnecessary.

use std::sync::LazyLock;

use crate::block::{
    BATCH, ONES, Rows, SUPER_BLOCK, SuperBlocks, first_non_finite_scale, half_at,
    importance_weights,
};
use crate::codebook::scales::{four_bit_scales, four_bits_at, pack_scales};
use crate::codebook::signs::{Magnitudes, with_eighth_sign, write_signed};
use crate::codebook::{Again, Codebook2, Found, PointSearch, Tries};
use crate::codec::codec;
use crate::lanes::{Lanes, Portable};
use crate::number::f32_from_f16;
use crate::search::ZERO_BELOW;
use crate::words::{self, IQ2_MAGNITUDES, IQ2_XS};

/// Weights in a sub-block.
const LENGTH: usize = 16;
/// Sub-blocks.
const COUNT: usize = SUPER_BLOCK / LENGTH;
/// Points of a sub-block.
const POINTS: usize = LENGTH / 8;

const POINT_WORDS: usize = 2;
const SCALES: usize = POINT_WORDS + SUPER_BLOCK / 4;
const BYTES: usize = SCALES + COUNT / 2;

/// Bits of a point's number.
const NUMBER_BITS: u32 = 9;

/// ggml-quants.c, `quantize_row_iq2_xs_impl`.
const SEARCH: PointSearch = PointSearch {
    zero_below: ZERO_BELOW,
    tries: Tries { count: 9, step: 0.1 },
    again: Again::Inexact,
    undecided: Found::LOWEST,
};

/// By number.
static LEVELS: [[u8; 8]; 512] = words::levels(&IQ2_XS, &IQ2_MAGNITUDES);

/// The codebook for encoding.
static BOOK: LazyLock<Codebook2> = LazyLock::new(|| Codebook2::new(&IQ2_XS, 2));

codec! {
    Iq2Xs: DataType::IQ2_XS,
    importance: Required,
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
    let words = block[POINT_WORDS..SCALES].as_chunks::<2>().0.as_chunks::<POINTS>().0.iter();
    let sub_blocks = words.zip(out.as_chunks_mut::<LENGTH>().0);
    for (position, (words, out)) in sub_blocks.enumerate() {
        let scale = four_bits_at(&block[SCALES..], position);
        let scale = unit * (0.5 + f32::from(scale)) * 0.25;
        for (word, out) in words.iter().zip(out.as_chunks_mut::<8>().0) {
            let word = u16::from_le_bytes(*word);
            let number = usize::from(word) % LEVELS.len();
            let negative = with_eighth_sign(u32::from(word >> NUMBER_BITS));
            write_signed(scale, &LEVELS[number], negative, out);
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
        None => importance_weights(values, &ONES, 1.0),
        Some(importance) => importance_weights(values, importance, 1.0),
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
    let magnitudes = Magnitudes::with_even_signs(values, weights);
    let mut scales = [0.0; COUNT];
    let stored = block[POINT_WORDS..SCALES].as_chunks_mut::<2>().0.as_chunks_mut::<POINTS>().0;
    for (position, stored) in stored.iter_mut().enumerate() {
        let target = magnitudes.sub_block::<LENGTH>(position);
        let Some(fit) = SEARCH.fit::<L, 8, 4, LENGTH, POINTS>(book, &target) else { continue };
        let (scale, flips) = fit.positive_scale();
        scales[position] = scale;
        let signs = magnitudes.signs.as_chunks::<POINTS>().0[position];
        for (stored, (found, signs)) in stored.iter_mut().zip(fit.points.iter().zip(signs)) {
            let signs = u16::from((signs ^ flips) & 127);
            *stored = (book.number(found.code) | signs << NUMBER_BITS).to_le_bytes();
        }
    }
    match four_bit_scales(&scales, 1.0, block) {
        None => block.fill(0),
        Some(scales) => pack_scales(&scales, &mut block[SCALES..]),
    }
}
