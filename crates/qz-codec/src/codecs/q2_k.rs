//! Q2_K: 256 weights as 2-bit levels, with a 4-bit scale and a 4-bit minimum for
//! every 16.
//!
//! | bytes | what |
//! |---|---|
//! | 0..16 | scales in the low nibbles, minimums in the high ones |
//! | 16..80 | levels |
//! | 80..82 | what one unit of a scale is worth, binary16 |
//! | 82..84 | what one unit of a minimum is worth, binary16 |

use crate::affine_fits::{AffineFits, Units};
use crate::block::{
    BATCH, Batch, Derived, Rows, SUPER_BLOCK, SuperBlocks, first_non_finite_scale, half_at,
    importance_weights, set_half_at,
};
use crate::codec::codec;
use crate::lanes::{self, Lanes, Portable};
use crate::number::f16_from_f32;
use crate::pack::{pack_crumbs, unpack_crumbs};
use crate::search::affine::{Affine, AffineSearch};

/// Weights in a sub-block.
const LENGTH: usize = 16;
/// Sub-blocks.
const COUNT: usize = SUPER_BLOCK / LENGTH;
/// The largest scale or minimum that fits.
const LARGEST: u8 = 15;
/// The highest level.
const TOP: u8 = 3;

const LEVELS: usize = COUNT;
const UNIT: usize = LEVELS + SUPER_BLOCK / 4;
const MINIMUM_UNIT: usize = UNIT + 2;
const BYTES: usize = MINIMUM_UNIT + 2;

/// ggml-quants.c, `quantize_row_q2_K_ref`.
const PLAIN: AffineSearch =
    AffineSearch { top: TOP, first: -0.5, step: 0.1, last: 15, absolute: true };
/// ggml-quants.c, `quantize_row_q2_K_impl`.
const WITH_IMPORTANCE: AffineSearch =
    AffineSearch { top: TOP, first: -0.9, step: 0.05, last: 36, absolute: false };

codec! {
    Q2K: DataType::Q2_K,
    importance: Optional,
    activations: Q8_K,
    integers: Levels,
    decode: decode::<Portable>,
    encode: encode::<Portable>,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[UNIT, MINIMUM_UNIT]),
}

/// The body of [`crate::Codec::decode`], with lanes of type `L`.
#[inline(always)]
pub fn decode<L: Lanes>(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut().0) {
        decode_block::<L>(block, out);
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
        encode_batch::<L>(&batch, blocks);
    }
}

/// Each sub-block's scale, and each one's minimum, as decoders see them.
#[inline(always)]
fn stored<L: Lanes>(block: &[u8; BYTES]) -> ([f32; COUNT], [f32; COUNT]) {
    let (mut scales, mut minimums) = ([0; COUNT], [0; COUNT]);
    for (byte, (scale, minimum)) in block.iter().zip(scales.iter_mut().zip(&mut minimums)) {
        (*scale, *minimum) = (byte & 15, byte >> 4);
    }
    let unit = L::splat_half(half_at(block, UNIT));
    let minimum_unit = L::splat_half(half_at(block, MINIMUM_UNIT));
    let (scales, minimums) = (L::from_bytes(&scales), L::from_bytes(&minimums));
    ((unit * scales).store(), (minimum_unit * minimums).store())
}

#[inline(always)]
fn decode_block<L: Lanes>(block: &[u8; BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let mut levels = [0; SUPER_BLOCK];
    unpack_crumbs(&block[LEVELS..UNIT], &mut levels);
    let sub_blocks = levels.as_chunks::<LENGTH>().0.iter().zip(out.as_chunks_mut::<LENGTH>().0);
    let (scales, minimums) = stored::<L>(block);
    for ((levels, out), (scale, minimum)) in sub_blocks.zip(scales.iter().zip(&minimums)) {
        *out = (L::splat(*scale) * L::from_bytes(levels) - L::splat(*minimum)).store();
    }
}

#[inline(always)]
fn encode_batch<L: Lanes>(batch: &Batch, blocks: &mut [[u8; BYTES]]) {
    let (search, weights, units);
    if let Some(importance) = &batch.importance {
        search = &WITH_IMPORTANCE;
        weights = importance_weights(&batch.weights, importance, 1.0);
        let fits = AffineFits::find::<L, LENGTH>(search, &batch.weights, &weights, blocks.len());
        units = fits.units_by_search::<L>(LARGEST);
    } else {
        (search, weights) = (&PLAIN, magnitudes(&batch.weights));
        let fits = AffineFits::find::<L, LENGTH>(search, &batch.weights, &weights, blocks.len());
        // Units that wrapped run into the minimum beside them.
        units = fits.units_by_largest(LARGEST, u8::MAX);
    }
    for (position, block) in blocks.iter_mut().enumerate() {
        store_units(&units[position], block);
        let levels =
            round_to_stored::<L>(block, search, batch.weights[position], &weights[position]);
        pack_crumbs(&levels, &mut block[LEVELS..UNIT]);
    }
}

#[inline(always)]
fn magnitudes(values: &SuperBlocks) -> Derived {
    let mut derived = [[0.0; SUPER_BLOCK]; BATCH];
    for (weights, values) in derived.iter_mut().zip(values) {
        for (weight, value) in weights.iter_mut().zip(*values) {
            *weight = value.abs();
        }
    }
    derived
}

#[inline(always)]
fn store_units(units: &Units<COUNT>, block: &mut [u8; BYTES]) {
    for ((byte, scale), minimum) in block.iter_mut().zip(units.scales).zip(units.minimums) {
        *byte = scale | minimum << 4;
    }
    set_half_at(block, UNIT, f16_from_f32(units.unit));
    set_half_at(block, MINIMUM_UNIT, f16_from_f32(units.minimum_unit));
}

#[inline(always)]
fn round_to_stored<L: Lanes>(
    block: &[u8; BYTES],
    search: &AffineSearch,
    values: &[f32; SUPER_BLOCK],
    weights: &[f32; SUPER_BLOCK],
) -> [u8; SUPER_BLOCK] {
    let mut levels = [0; SUPER_BLOCK];
    let sub_blocks = values.as_chunks().0.iter().zip(weights.as_chunks().0);
    let sub_blocks = sub_blocks.zip(levels.as_chunks_mut::<LENGTH>().0);
    let (scales, minimums) = stored::<L>(block);
    for (position, ((values, weights), levels)) in sub_blocks.enumerate() {
        let stored = Affine { scale: scales[position], minimum: minimums[position] };
        lanes::affine::round_to_stored::<L, LENGTH>(search, &stored, values, weights, levels);
    }
    levels
}
