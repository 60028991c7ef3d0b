//! Q3_K: 256 weights as 3-bit levels, with a 6-bit scale for every 16.
//!
//! | bytes | what |
//! |---|---|
//! | 0..32 | the levels' upper bits |
//! | 32..96 | the levels' lower two bits |
//! | 96..108 | scales, plus 32 |
//! | 108..110 | what one unit of a scale is worth, binary16 |

use crate::block::{
    BATCH, Batch, Derived, Rows, SUPER_BLOCK, SuperBlocks, first_non_finite_scale, half_at,
    importance_weights, set_half_at, split,
};
use crate::codec::codec;
use crate::lanes::{self, LANES, Lanes, Mask, Portable};
use crate::number::{f16_from_f32, nearest_integer};
use crate::pack::{
    pack_bits, pack_crumbs, pack_sixteen_scales, unpack_bits, unpack_crumbs, unpack_sixteen_scales,
};
use crate::search::{descent, signed};

/// Weights in a sub-block.
const LENGTH: usize = 16;
/// Sub-blocks.
const COUNT: usize = SUPER_BLOCK / LENGTH;
/// Levels and scales are stored plus these.
const HALF: u8 = 4;
const SCALE_HALF: u8 = 32;

const LOW: usize = SUPER_BLOCK / 8;
const SCALES: usize = LOW + SUPER_BLOCK / 4;
const UNIT: usize = SCALES + 12;
const BYTES: usize = UNIT + 2;

codec! {
    Q3K: DataType::Q3_K,
    importance: Optional,
    activations: Q8_K,
    integers: Levels,
    decode: decode::<Portable>,
    encode: encode::<Portable>,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[UNIT]),
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

/// Each sub-block's scale, as decoders see it.
#[inline(always)]
fn stored<L: Lanes>(block: &[u8; BYTES]) -> [f32; COUNT] {
    let scales = L::from_bytes(&unpack_sixteen_scales(&block[SCALES..UNIT]));
    (L::splat_half(half_at(block, UNIT)) * (scales - L::splat(f32::from(SCALE_HALF)))).store()
}

#[inline(always)]
fn decode_block<L: Lanes>(block: &[u8; BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let mut levels = [0; SUPER_BLOCK];
    unpack_crumbs(&block[LOW..SCALES], &mut levels);
    unpack_bits(&block[..LOW], 2, &mut levels);
    let sub_blocks = levels.as_chunks::<LENGTH>().0.iter().zip(out.as_chunks_mut::<LENGTH>().0);
    for ((levels, out), scale) in sub_blocks.zip(&stored::<L>(block)) {
        let centred = L::from_bytes(levels) - L::splat(f32::from(HALF));
        *out = (L::splat(*scale) * centred).store();
    }
}

/// A super-block's scales in units, and what the unit is worth.
#[derive(Clone, Copy)]
struct Units {
    unit: f32,
    scales: [u8; COUNT],
}

impl Units {
    const ZERO: Self = Self { unit: 0.0, scales: [0; COUNT] };
}

/// ggml-quants.c, `quantize_row_q3_K_ref` and `quantize_row_q3_K_impl`.
#[inline(always)]
fn encode_batch<L: Lanes>(batch: &Batch, blocks: &mut [[u8; BYTES]]) {
    let values = &batch.weights;
    let (weights, units);
    if let Some(importance) = &batch.importance {
        let searched = importance_weights(values, importance, 2.0);
        units = units_by_search::<L>(values, &searched, blocks.len());
        weights = Some(searched);
    } else {
        units = units_by_largest::<L>(values, blocks.len());
        weights = None;
    }
    for (position, block) in blocks.iter_mut().enumerate() {
        let Units { unit, scales } = &units[position];
        block[SCALES..UNIT].copy_from_slice(&pack_sixteen_scales(scales));
        set_half_at(block, UNIT, f16_from_f32(*unit));
        let weights = weights.as_ref().map(|weights| &weights[position]);
        let levels = round_to_stored::<L>(block, values[position], weights);
        pack_bits(&levels, 2, &mut block[..LOW]);
        pack_crumbs(&levels, &mut block[LOW..SCALES]);
    }
}

#[inline(always)]
fn units_by_largest<L: Lanes>(values: &SuperBlocks, blocks: usize) -> [Units; BATCH] {
    match L::REGISTERS {
        1 => units_by_largest_in_groups::<L, 8>(values, blocks),
        2 => units_by_largest_in_groups::<L, 4>(values, blocks),
        _ => units_by_largest_in_groups::<L, 1>(values, blocks),
    }
}

/// Searches `GROUPS` super-blocks at once, in one pass; then the few sub-blocks that
/// need more passes, side by side.
#[inline(always)]
fn units_by_largest_in_groups<L: Lanes, const GROUPS: usize>(
    values: &SuperBlocks,
    blocks: usize,
) -> [Units; BATCH] {
    let mut scales = [[0.0; COUNT]; BATCH];
    let mut unfinished = [0; BATCH * COUNT];
    let mut count = 0;
    for first in (0..blocks).step_by(GROUPS) {
        let mut rows = [[L::zero(); LENGTH]; GROUPS];
        for (rows, values) in rows.iter_mut().zip(&values[first..]) {
            *rows = transpose_super_block(values);
        }
        let found = lanes::descent::descend(1, HALF, &rows);
        for (group, scales) in scales[first..].iter_mut().take(GROUPS).enumerate() {
            *scales = found.scales[group].store();
            let flags = found.unfinished[group].select(L::splat(1.0), L::zero()).store();
            for (position, flag) in flags.into_iter().enumerate() {
                unfinished[count] = (first + group) * COUNT + position;
                count += usize::from(flag != 0.0);
            }
        }
    }
    for numbers in unfinished[..count].chunks(LANES) {
        let mut sub_blocks = [&[0.0; LENGTH]; LANES];
        for (sub_block, number) in sub_blocks.iter_mut().zip(numbers) {
            *sub_block = &values[number / COUNT].as_chunks().0[number % COUNT];
        }
        let [found] = lanes::descent::search(HALF, &[lanes::transpose::<L, LENGTH>(&sub_blocks)]);
        for (scale, number) in found.store().into_iter().zip(numbers) {
            scales[number / COUNT][number % COUNT] = scale;
        }
    }
    let mut units = [Units::ZERO; BATCH];
    for (units, scales) in units.iter_mut().zip(&scales) {
        *units = relative_to_extreme(scales);
    }
    units
}

/// The unit lets the scale of largest magnitude be -32 units.
#[inline(always)]
fn relative_to_extreme(scales: &[f32; COUNT]) -> Units {
    let mut units = Units::ZERO;
    let extreme = signed::extreme(scales);
    if extreme != 0.0 {
        let inverse = -f32::from(SCALE_HALF) / extreme;
        units.unit = 1.0 / inverse;
        for (units, scale) in units.scales.iter_mut().zip(scales) {
            // A byte before it is clamped, as in the reference.
            let scale = nearest_integer(inverse * scale) as i8;
            *units = (scale.clamp(-32, 31) + 32) as u8;
        }
    }
    units
}

/// Units by the reference's search, which weighs a scale by its sub-block.
#[inline(always)]
fn units_by_search<L: Lanes>(
    values: &SuperBlocks,
    weights: &Derived,
    blocks: usize,
) -> [Units; BATCH] {
    let (mut scales, mut sums) = ([[0.0; COUNT]; LANES], [[0.0; COUNT]; LANES]);
    for block in 0..blocks {
        let rows = transpose_super_block(values[block]);
        let weights = transpose_super_block(&weights[block]);
        let fit = lanes::signed::search::<L, LENGTH, true>(HALF, &rows, &weights);
        scales[block] = fit.scale.store();
        let mut sum = L::zero();
        for weight in weights {
            sum = sum + weight;
        }
        sums[block] = sum.store();
    }
    // Now a super-block in each lane; those from `BATCH` on are idle. A scale may
    // be infinite.
    let scales = lanes::transpose(&scales.each_ref());
    let sums = lanes::transpose(&sums.each_ref());
    let fit = lanes::signed::search::<L, COUNT, false>(SCALE_HALF, &scales, &sums);
    let unit = fit.scale.store();
    let mut units = [Units::ZERO; BATCH];
    for (position, levels) in fit.levels(SCALE_HALF, &scales).into_iter().enumerate() {
        for (units, level) in units.iter_mut().zip(levels.to_bytes()) {
            units.scales[position] = level;
        }
    }
    for (units, unit) in units.iter_mut().zip(unit) {
        units.unit = unit;
    }
    units
}

#[inline(always)]
fn transpose_super_block<L: Lanes>(values: &[f32; SUPER_BLOCK]) -> [L; LENGTH] {
    lanes::transpose(&split(values))
}

#[inline(always)]
fn round_to_stored<L: Lanes>(
    block: &[u8; BYTES],
    values: &[f32; SUPER_BLOCK],
    weights: Option<&[f32; SUPER_BLOCK]>,
) -> [u8; SUPER_BLOCK] {
    let mut levels = [0; SUPER_BLOCK];
    let sub_blocks = values.as_chunks::<LENGTH>().0.iter().zip(levels.as_chunks_mut().0);
    for (position, ((values, levels), scale)) in sub_blocks.zip(stored::<L>(block)).enumerate() {
        if scale != 0.0 {
            lanes::signed::round_to_stored::<L>(HALF, scale, values, levels);
        } else if let Some(weights) = weights {
            // Levels that mean nothing any more stay those of the search. Found
            // again: it is rare, and the lanes do not keep them.
            signed::search(HALF, values, &weights.as_chunks::<LENGTH>().0[position], levels);
        } else {
            descent::search(HALF, values, levels);
        }
    }
    levels
}
