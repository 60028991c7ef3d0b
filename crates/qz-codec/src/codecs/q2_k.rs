//! Q2_K: 256 weights as 2-bit levels, with a 4-bit scale and a 4-bit minimum for
//! every 16.
//!
//! | bytes | what |
//! |---|---|
//! | 0..16 | scales in the low nibbles, minimums in the high ones |
//! | 16..80 | levels |
//! | 80..82 | what one unit of a scale is worth, binary16 |
//! | 82..84 | what one unit of a minimum is worth, binary16 |

use qz_tensor::DataType;

use crate::block::{
    SUPER_BLOCK, first_non_finite_scale, for_each_super_block, half_at, importance_weights,
    set_half_at, sum, sum_of_squares,
};
use crate::codec::{Codec, CodecSpec, ImportanceUse};
use crate::number::{f16_from_f32, f32_from_f16, nearest_integer};
use crate::pack::{pack_crumbs, unpack_crumbs};
use crate::search::affine::{self, Affine, AffineSearch};
use crate::search::positive;

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
static PLAIN: AffineSearch =
    AffineSearch { top: TOP, first: -0.5, step: 0.1, last: 15, absolute: true };
/// ggml-quants.c, `quantize_row_q2_K_impl`.
static WITH_IMPORTANCE: AffineSearch =
    AffineSearch { top: TOP, first: -0.9, step: 0.05, last: 36, absolute: false };

pub(crate) struct Q2K;

static SPEC: CodecSpec =
    CodecSpec { data_type: DataType::Q2_K, importance: ImportanceUse::Optional };

impl Codec for Q2K {
    fn spec(&self) -> &CodecSpec {
        &SPEC
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut().0) {
            decode_block(block, out);
        }
    }

    fn encode(&self, weights: &[f32], columns: usize, importance: Option<&[f32]>, out: &mut [u8]) {
        for_each_super_block(weights, columns, importance, out, encode_block);
    }

    fn first_non_finite_block(&self, bytes: &[u8]) -> Option<usize> {
        first_non_finite_scale::<BYTES>(bytes, &[UNIT, MINIMUM_UNIT])
    }
}

/// Each sub-block's scale and minimum, as decoders see them.
fn stored(block: &[u8; BYTES]) -> [Affine; COUNT] {
    let unit = f32_from_f16(half_at(block, UNIT));
    let minimum_unit = f32_from_f16(half_at(block, MINIMUM_UNIT));
    std::array::from_fn(|position| Affine {
        scale: unit * f32::from(block[position] & 15),
        minimum: minimum_unit * f32::from(block[position] >> 4),
    })
}

fn decode_block(block: &[u8; BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let mut levels = [0; SUPER_BLOCK];
    unpack_crumbs(&block[LEVELS..UNIT], &mut levels);
    let sub_blocks = levels.as_chunks::<LENGTH>().0.iter().zip(out.as_chunks_mut::<LENGTH>().0);
    for ((levels, out), Affine { scale, minimum }) in sub_blocks.zip(stored(block)) {
        for (value, level) in out.iter_mut().zip(levels) {
            *value = scale * f32::from(*level) - minimum;
        }
    }
}

fn encode_block(
    values: &[f32; SUPER_BLOCK],
    importance: Option<&[f32; SUPER_BLOCK]>,
    block: &mut [u8; BYTES],
) {
    let mut fit = match importance {
        None => {
            let fit = Fit::find(&PLAIN, values, &values.map(f32::abs));
            fit.store_by_largest(block);
            fit
        }
        Some(importance) => {
            let sigma2 = sum_of_squares(values) / SUPER_BLOCK as f32;
            let weights = importance_weights(values, importance, sigma2);
            let fit = Fit::find(&WITH_IMPORTANCE, values, &weights);
            fit.store_by_search(block);
            fit
        }
    };
    round_to_stored(block, values, &mut fit.levels);
    pack_crumbs(&fit.levels, &mut block[LEVELS..UNIT]);
}

/// A super-block between search and storage.
struct Fit {
    scales: [f32; COUNT],
    minimums: [f32; COUNT],
    weight_sums: [f32; COUNT],
    levels: [u8; SUPER_BLOCK],
}

impl Fit {
    fn find(
        search: &AffineSearch,
        values: &[f32; SUPER_BLOCK],
        weights: &[f32; SUPER_BLOCK],
    ) -> Self {
        let mut fit = Fit {
            scales: [0.0; COUNT],
            minimums: [0.0; COUNT],
            weight_sums: [0.0; COUNT],
            levels: [0; SUPER_BLOCK],
        };
        let values = values.as_chunks::<LENGTH>().0.iter();
        let weights = weights.as_chunks::<LENGTH>().0;
        let levels = fit.levels.as_chunks_mut::<LENGTH>().0;
        for (position, ((values, weights), levels)) in values.zip(weights).zip(levels).enumerate() {
            let Affine { scale, minimum } = affine::search(search, values, weights, levels);
            fit.scales[position] = scale;
            fit.minimums[position] = minimum;
            fit.weight_sums[position] = sum(weights);
        }
        fit
    }

    /// Scales relative to the largest one. Negative ones wrap, and run into the
    /// minimum beside them.
    fn store_by_largest(&self, block: &mut [u8; BYTES]) {
        let units = |values: &[f32; COUNT]| {
            let largest = values.iter().fold(0.0, |max, &v| if v > max { v } else { max });
            if largest > 0.0 {
                let inverse = f32::from(LARGEST) / largest;
                let units = values.map(|value| nearest_integer(inverse * value) as u8);
                (largest / f32::from(LARGEST), units)
            } else {
                (0.0, [0; COUNT])
            }
        };
        let (unit, scales) = units(&self.scales);
        let (minimum_unit, minimums) = units(&self.minimums);
        store(block, unit, minimum_unit, &scales, &minimums);
    }

    fn store_by_search(&self, block: &mut [u8; BYTES]) {
        let (mut scales, mut minimums) = ([0; COUNT], [0; COUNT]);
        let unit = positive::search(LARGEST, &self.scales, &self.weight_sums, &mut scales);
        let minimum_unit =
            positive::search(LARGEST, &self.minimums, &self.weight_sums, &mut minimums);
        store(block, unit, minimum_unit, &scales, &minimums);
    }
}

fn store(
    block: &mut [u8; BYTES],
    unit: f32,
    minimum_unit: f32,
    scales: &[u8; COUNT],
    minimums: &[u8; COUNT],
) {
    for ((byte, scale), minimum) in block.iter_mut().zip(scales).zip(minimums) {
        *byte = scale | minimum << 4;
    }
    set_half_at(block, UNIT, f16_from_f32(unit));
    set_half_at(block, MINIMUM_UNIT, f16_from_f32(minimum_unit));
}

/// Rounds the values again, to the scales as stored. Where the stored scale is
/// zero the levels of the search stay, though they mean nothing any more.
fn round_to_stored(
    block: &[u8; BYTES],
    values: &[f32; SUPER_BLOCK],
    levels: &mut [u8; SUPER_BLOCK],
) {
    let sub_blocks = values.as_chunks::<LENGTH>().0.iter().zip(levels.as_chunks_mut::<LENGTH>().0);
    for ((values, levels), Affine { scale, minimum }) in sub_blocks.zip(stored(block)) {
        if scale == 0.0 {
            continue;
        }
        for (level, value) in levels.iter_mut().zip(values) {
            let nearest = nearest_integer((value + minimum) / scale);
            *level = nearest.clamp(0, i32::from(TOP)) as u8;
        }
    }
}
