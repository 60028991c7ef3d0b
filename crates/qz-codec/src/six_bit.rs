//! What Q4_K and Q5_K share: eight sub-blocks of 32 weights, each with a 6-bit
//! scale and a 6-bit minimum.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | what one unit of a scale is worth, binary16 |
//! | 2..4 | what one unit of a minimum is worth, binary16 |
//! | 4..16 | scales and minimums, see [`pack_six_bits`] |

use crate::block::{SUPER_BLOCK, half_at, importance_weights, set_half_at, sum, sum_of_squares};
use crate::number::{f16_from_f32, f32_from_f16, nearest_integer};
use crate::pack::{pack_six_bits, unpack_six_bits};
use crate::search::affine::{self, Affine, AffineSearch};
use crate::search::positive;

/// Bytes in front of the levels.
pub(crate) const HEADER: usize = 16;
/// Weights in a sub-block.
const LENGTH: usize = 32;
/// Sub-blocks.
const COUNT: usize = SUPER_BLOCK / LENGTH;
/// The largest scale or minimum that fits.
const LARGEST: u8 = 63;

/// Where the two types differ.
pub(crate) struct SixBit {
    /// The search without importance.
    pub plain: AffineSearch,
    /// The search with importance.
    pub with_importance: AffineSearch,
    /// With importance, scales that wrapped below zero become the largest one;
    /// otherwise their excess bits run into their neighbours'.
    pub bound_scales: bool,
}

/// A super-block between search and storage.
struct Fit {
    scales: [f32; COUNT],
    minimums: [f32; COUNT],
    weight_sums: [f32; COUNT],
    levels: [u8; SUPER_BLOCK],
}

impl SixBit {
    /// Finds a super-block's scales and levels, and stores the header.
    pub(crate) fn encode(
        &self,
        values: &[f32; SUPER_BLOCK],
        importance: Option<&[f32; SUPER_BLOCK]>,
        header: &mut [u8],
    ) -> [u8; SUPER_BLOCK] {
        let (search, mut fit) = match importance {
            None => {
                let fit = fit(&self.plain, values, &plain_weights(values));
                store_by_largest(&fit, header);
                (&self.plain, fit)
            }
            Some(importance) => {
                let sigma2 = 2.0 * sum_of_squares(values) / SUPER_BLOCK as f32;
                let weights = importance_weights(values, importance, sigma2);
                let fit = fit(&self.with_importance, values, &weights);
                self.store_by_search(&fit, header);
                (&self.with_importance, fit)
            }
        };
        round_to_stored(header, search.top, values, &mut fit.levels);
        fit.levels
    }

    fn store_by_search(&self, fit: &Fit, header: &mut [u8]) {
        let (mut scales, mut minimums) = ([0; COUNT], [0; COUNT]);
        let unit = positive::search(LARGEST, &fit.scales, &fit.weight_sums, &mut scales);
        let minimum_unit =
            positive::search(LARGEST, &fit.minimums, &fit.weight_sums, &mut minimums);
        if self.bound_scales {
            scales = scales.map(|scale| scale.min(LARGEST));
            minimums = minimums.map(|minimum| minimum.min(LARGEST));
        }
        store(header, unit, minimum_unit, &scales, &minimums);
    }
}

/// Without importance a weight counts by its magnitude plus its sub-block's root
/// mean square.
fn plain_weights(values: &[f32; SUPER_BLOCK]) -> [f32; SUPER_BLOCK] {
    let mut weights = [0.0; SUPER_BLOCK];
    let sub_blocks = values.as_chunks::<LENGTH>().0.iter();
    for (values, weights) in sub_blocks.zip(weights.as_chunks_mut::<LENGTH>().0) {
        let root_mean_square = (sum_of_squares(values) / LENGTH as f32).sqrt();
        for (weight, value) in weights.iter_mut().zip(values) {
            *weight = root_mean_square + value.abs();
        }
    }
    weights
}

fn fit(search: &AffineSearch, values: &[f32; SUPER_BLOCK], weights: &[f32; SUPER_BLOCK]) -> Fit {
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

/// Scales relative to the largest one.
fn store_by_largest(fit: &Fit, header: &mut [u8]) {
    let units = |values: &[f32; COUNT]| {
        let largest = values.iter().fold(0.0, |max, &v| if v > max { v } else { max });
        let inverse = if largest > 0.0 { f32::from(LARGEST) / largest } else { 0.0 };
        // A negative number wraps to a large byte, and so to the largest scale.
        let units = values.map(|value| (nearest_integer(inverse * value) as u8).min(LARGEST));
        (largest / f32::from(LARGEST), units)
    };
    let (unit, scales) = units(&fit.scales);
    let (minimum_unit, minimums) = units(&fit.minimums);
    store(header, unit, minimum_unit, &scales, &minimums);
}

fn store(
    header: &mut [u8],
    unit: f32,
    minimum_unit: f32,
    scales: &[u8; COUNT],
    minimums: &[u8; COUNT],
) {
    set_half_at(header, 0, f16_from_f32(unit));
    set_half_at(header, 2, f16_from_f32(minimum_unit));
    header[4..HEADER].copy_from_slice(&pack_six_bits(scales, minimums));
}

/// Each sub-block's scale and minimum, as decoders see them.
fn stored(header: &[u8]) -> [Affine; COUNT] {
    let unit = f32_from_f16(half_at(header, 0));
    let minimum_unit = f32_from_f16(half_at(header, 2));
    let (scales, minimums) = unpack_six_bits(&header[4..HEADER]);
    std::array::from_fn(|position| Affine {
        scale: unit * f32::from(scales[position]),
        minimum: minimum_unit * f32::from(minimums[position]),
    })
}

/// Rounds the values again, to the scales as stored. Where the stored scale is
/// zero the levels of the search stay, though they mean nothing any more.
fn round_to_stored(
    header: &[u8],
    top: u8,
    values: &[f32; SUPER_BLOCK],
    levels: &mut [u8; SUPER_BLOCK],
) {
    let sub_blocks = values.as_chunks::<LENGTH>().0.iter().zip(levels.as_chunks_mut::<LENGTH>().0);
    for ((values, levels), Affine { scale, minimum }) in sub_blocks.zip(stored(header)) {
        if scale == 0.0 {
            continue;
        }
        for (level, value) in levels.iter_mut().zip(values) {
            let nearest = nearest_integer((value + minimum) / scale);
            *level = nearest.clamp(0, i32::from(top)) as u8;
        }
    }
}

/// Decodes a super-block's levels.
pub(crate) fn decode(header: &[u8], levels: &[u8; SUPER_BLOCK], out: &mut [f32; SUPER_BLOCK]) {
    let sub_blocks = levels.as_chunks::<LENGTH>().0.iter().zip(out.as_chunks_mut::<LENGTH>().0);
    for ((levels, out), Affine { scale, minimum }) in sub_blocks.zip(stored(header)) {
        for (value, level) in out.iter_mut().zip(levels) {
            *value = scale * f32::from(*level) - minimum;
        }
    }
}
