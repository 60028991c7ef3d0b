//! The register tile over 16-bit integers, for every type that splits into such.

use super::dwords::{Dwords, SimdOfGroups};
use super::panels::{ROWS, TokenPanels, WeightPanels};
use super::split::Split;
use crate::vector::{Vector, for_instructions};

/// Columns that are multiplied before the next rows are taken: a panel of tokens stays in
/// the first cache.
const COLUMNS: usize = 512;

for_instructions! {
    /// Adds the products of a panel of tokens with all rows: `sums` has the panel's tokens
    /// for each row.
    pub(super) fn add(
        split: &Split,
        tokens: &TokenPanels,
        panel: usize,
        weights: &WeightPanels,
        sums: &mut [f32],
    ) = add_panel;
}

/// What is multiplied in one go: some units' weights of a few rows, and as many levels of
/// a panel of tokens with their scales, one for each unit.
#[derive(Clone, Copy)]
struct Units<'a> {
    levels: &'a [i32],
    units: &'a [f32],
}

#[inline(always)]
fn add_panel<S: SimdOfGroups>(
    simd: S,
    split: &Split,
    tokens: &TokenPanels,
    panel: usize,
    weights: &WeightPanels,
    sums: &mut [f32],
) {
    match (split.length, tokens.width == S::LANES) {
        (16, true) => add_vectors::<S, 1, 16>(simd, tokens, panel, weights, sums),
        (16, false) => add_vectors::<S, 2, 16>(simd, tokens, panel, weights, sums),
        (32, true) => add_vectors::<S, 1, 32>(simd, tokens, panel, weights, sums),
        (32, false) => add_vectors::<S, 2, 32>(simd, tokens, panel, weights, sums),
        (256, true) => add_vectors::<S, 1, 256>(simd, tokens, panel, weights, sums),
        (256, false) => add_vectors::<S, 2, 256>(simd, tokens, panel, weights, sums),
        (length, _) => unreachable!("no type has {length} weights to a unit"),
    }
}

#[inline(always)]
fn add_vectors<S: SimdOfGroups, const VECTORS: usize, const LENGTH: usize>(
    simd: S,
    tokens: &TokenPanels,
    panel: usize,
    weights: &WeightPanels,
    sums: &mut [f32],
) {
    let (width, groups) = (tokens.width, LENGTH / 2);
    let step = COLUMNS / LENGTH;
    // A block of activations is one unit of weights, or two.
    let units_of_scale = weights.blocks / tokens.blocks;
    for first in (0..weights.blocks).step_by(step) {
        let count = (weights.blocks - first).min(step);
        let levels = &tokens.levels[(panel * weights.blocks + first) * groups * width..];
        let from = (panel * tokens.blocks + first / units_of_scale) * width;
        let own = Units {
            levels: &levels[..count * groups * width],
            units: &tokens.scales[from..][..count / units_of_scale * width],
        };
        for (row, sums) in sums.chunks_exact_mut(ROWS * width).enumerate() {
            let at = (row * weights.blocks + first) * ROWS;
            let rows = Units {
                levels: &weights.levels[at * groups..][..count * groups * ROWS],
                units: &weights.units[at..][..count * ROWS],
            };
            add_tile::<S, VECTORS, LENGTH>(simd, units_of_scale, own, rows, sums);
        }
    }
}

#[inline(always)]
fn add_tile<S: SimdOfGroups, const VECTORS: usize, const LENGTH: usize>(
    simd: S,
    units_of_scale: usize,
    tokens: Units<'_>,
    rows: Units<'_>,
    sums: &mut [f32],
) {
    let lanes = S::LANES;
    let (width, groups) = (VECTORS * lanes, LENGTH / 2);
    let sums = &mut sums[..ROWS * width];
    let of_tokens = tokens.levels.chunks_exact(groups * width);
    let of_rows = rows.levels.chunks_exact(groups * ROWS).zip(rows.units.chunks_exact(ROWS));
    let (mut scale, mut left) = (0, units_of_scale);
    for (levels, (row_levels, units)) in of_tokens.zip(of_rows) {
        let scales = &tokens.units[scale * width..][..width];
        left -= 1;
        if left == 0 {
            (scale, left) = (scale + 1, units_of_scale);
        }
        let integers = products::<S, VECTORS, LENGTH>(simd, levels, row_levels);
        for row in 0..ROWS {
            let unit = simd.splat(units[row]);
            for vector in 0..VECTORS {
                let own = &mut sums[row * width + vector * lanes..][..lanes];
                let scale = simd.load(&scales[vector * lanes..][..lanes]);
                let sum = simd.load(own);
                let integers = integers[row][vector].to_floats();
                sum.add_product(integers, unit.times(scale)).store(own);
            }
        }
    }
}

#[inline(always)]
fn products<S: SimdOfGroups, const VECTORS: usize, const LENGTH: usize>(
    simd: S,
    levels: &[i32],
    row_levels: &[i32],
) -> [[S::Dwords; VECTORS]; ROWS] {
    let lanes = S::LANES;
    let width = VECTORS * lanes;
    let (levels, row_levels) = (&levels[..LENGTH / 2 * width], &row_levels[..LENGTH / 2 * ROWS]);
    let mut sums = [[simd.zero_groups(); VECTORS]; ROWS];
    for group in 0..LENGTH / 2 {
        let levels = &levels[group * width..][..width];
        let row_levels = &row_levels[group * ROWS..][..ROWS];
        let mut own = [simd.zero_groups(); VECTORS];
        for (own, levels) in own.iter_mut().zip(levels.chunks_exact(lanes)) {
            *own = simd.load_groups(levels);
        }
        for row in 0..ROWS {
            let weights = simd.splat_group(row_levels[row]);
            for vector in 0..VECTORS {
                let product = weights.multiply_pairs(own[vector]);
                sums[row][vector] = sums[row][vector].add(product).here();
            }
        }
    }
    sums
}
