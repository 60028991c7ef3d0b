//! IQ2_XXS: 256 weights, every eight as a point of a codebook of 256, with signs, and a
//! 4-bit scale for every 32.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | what a scale is worth, binary16 |
//! | 2..66 | for every 32 weights: four numbers of points, then four times seven signs, the scale in the upper bits |
//!
//! Of every eight weights the number of negative ones is even, which makes the eighth
//! sign unnecessary.

use std::sync::LazyLock;

use crate::block::{
    BATCH, ONES, Rows, SUPER_BLOCK, SuperBlocks, first_non_finite_scale, half_at,
    importance_weights,
};
use crate::codebook::scales::four_bit_scales;
use crate::codebook::signs::{Magnitudes, four_times_seven, with_eighth_sign, write_signed};
use crate::codebook::{Again, Codebook2, Found, PointFit, SubBlock, Tries};
use crate::codec::codec;
use crate::lanes::{LANES, Lanes, Portable, positive, transpose};
use crate::number::f32_from_f16;
use crate::search::ZERO_BELOW;
use crate::words::{self, IQ2_MAGNITUDES, IQ2_XXS};

/// Weights in a sub-block.
const LENGTH: usize = 32;
/// Sub-blocks.
const COUNT: usize = SUPER_BLOCK / LENGTH;
/// Points of a sub-block.
const POINTS: usize = LENGTH / 8;

const WORDS: usize = 2;
const BYTES: usize = WORDS + SUPER_BLOCK / 4;

/// Super-blocks whose scales are searched at once, one sub-block in each lane.
const AT_ONCE: usize = LANES / COUNT;

/// The highest level of the search for the first scale, where levels need no codebook.
const TOP: u8 = 4;

/// What the highest level is taken for in that search's result.
const TOP_OF_RESULT: f32 = 3.0;

const TRIES: Tries = Tries { count: 6, step: 0.1 };

/// By number.
static LEVELS: [[u8; 8]; 256] = words::levels(&IQ2_XXS, &IQ2_MAGNITUDES);

/// The codebook for encoding.
static BOOK: LazyLock<Codebook2> = LazyLock::new(|| Codebook2::new(&IQ2_XXS, 2));

codec! {
    Iq2Xxs: DataType::IQ2_XXS,
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
    let words = block[WORDS..].as_chunks::<4>().0.as_chunks::<2>().0.iter();
    for ([numbers, signs], out) in words.zip(out.as_chunks_mut::<LENGTH>().0) {
        let signs = u32::from_le_bytes(*signs);
        let scale = unit * (0.5 + (signs >> 28) as f32) * 0.25;
        let eights = numbers.iter().zip(out.as_chunks_mut::<8>().0);
        for (position, (number, out)) in eights.enumerate() {
            let negative = with_eighth_sign(signs >> (7 * position));
            write_signed(scale, &LEVELS[usize::from(*number)], negative, out);
        }
    }
}

#[inline(always)]
fn encode_batch<L: Lanes>(
    values: &SuperBlocks,
    importance: Option<&SuperBlocks>,
    blocks: &mut [[u8; BYTES]],
) {
    let weights = importance_weights(values, importance.unwrap_or(&ONES), 1.0);
    let book = &*BOOK;
    let parts = values.as_chunks::<AT_ONCE>().0.iter().zip(weights.as_chunks::<AT_ONCE>().0);
    for (blocks, (values, weights)) in blocks.chunks_mut(AT_ONCE).zip(parts) {
        let magnitudes = [
            Magnitudes::with_even_signs(values[0], &weights[0]),
            Magnitudes::with_even_signs(values[1], &weights[1]),
        ];
        let scales = first_scales::<L>(&magnitudes);
        for (at, block) in blocks.iter_mut().enumerate() {
            let scales = &scales.as_chunks().0[at];
            encode_block::<L>(book, &magnitudes[at], scales, block);
        }
    }
}

/// The scales that fit best where levels need no codebook.
#[inline(always)]
fn first_scales<L: Lanes>(magnitudes: &[Magnitudes; AT_ONCE]) -> [f32; LANES] {
    let zeros = [0.0; LENGTH];
    let (mut values, mut weights) = ([&zeros; LANES], [&zeros; LANES]);
    for lane in 0..LANES {
        let sub_block = magnitudes[lane / COUNT].sub_block::<LENGTH>(lane % COUNT);
        (values[lane], weights[lane]) = (sub_block.values, sub_block.weights);
    }
    let (values, weights) = (transpose::<L, LENGTH>(&values), transpose::<L, LENGTH>(&weights));
    positive::search(TOP, &values, &weights).0.store()
}

#[inline(always)]
fn encode_block<L: Lanes>(
    book: &Codebook2,
    magnitudes: &Magnitudes,
    first_scales: &[f32; COUNT],
    block: &mut [u8; BYTES],
) {
    block.fill(0);
    let mut scales = [0.0; COUNT];
    let mut all_signs = [0; COUNT];
    let words = block[WORDS..].as_chunks_mut::<4>().0.as_chunks_mut::<2>().0.iter_mut();
    for (position, [numbers, _]) in words.enumerate() {
        let target = magnitudes.sub_block::<LENGTH>(position);
        let Some(fit) = fit::<L>(book, first_scales[position], &target) else { continue };
        for (number, found) in numbers.iter_mut().zip(&fit.points) {
            *number = book.number(found.code) as u8;
        }
        let (scale, flips) = fit.positive_scale();
        scales[position] = scale;
        let signs = magnitudes.signs.as_chunks().0[position];
        all_signs[position] = four_times_seven(signs, flips);
    }
    let Some(scales) = four_bit_scales(&scales, 1.0, block) else {
        block.fill(0);
        return;
    };
    let words = block[WORDS..].as_chunks_mut::<4>().0.as_chunks_mut::<2>().0.iter_mut();
    for ([_, stored], (scale, signs)) in words.zip(scales.into_iter().zip(all_signs)) {
        *stored = (signs | u32::from(scale) << 28).to_le_bytes();
    }
}

/// The fit of a sub-block; none if it is zero (ggml-quants.c,
/// `quantize_row_iq2_xxs_impl`).
#[inline(always)]
fn fit<L: Lanes>(
    book: &Codebook2,
    first_scale: f32,
    target: &SubBlock<LENGTH>,
) -> Option<PointFit<POINTS>> {
    let effective = first_scale * TOP_OF_RESULT;
    if target.largest() < ZERO_BELOW || effective <= 0.0 {
        return None;
    }
    let mut fit = PointFit { scale: first_scale, points: [Found::LOWEST; POINTS] };
    book.try_scales::<L, LENGTH, POINTS>(TRIES, effective, target, &mut fit);
    if fit.scale > 0.0 {
        book.seek_again::<L, LENGTH, POINTS>(Again::All, target, &mut fit);
    }
    Some(fit)
}
