//! The register tile over unsigned levels: bytes are multiplied and summed in 16 bits as
//! long as they fit, then multiplied with their sub-block's scale.

use super::dwords::{Dwords, SimdOfGroups};
use super::formats::{self, Format, Layout, Minimums, with_format};
use super::panels::{ROWS, TokenPanels, WeightPanels};
use crate::vector::{Instructions, Vector, for_instructions};

/// Columns that are multiplied before the next rows are taken: a panel of tokens stays in
/// the first cache.
const COLUMNS: usize = 1024;

/// Unpacks rows of weights.
pub(super) fn unpack(
    instructions: Instructions,
    layout: Layout,
    bytes: &[u8],
    columns: usize,
    to: &mut WeightPanels,
) {
    with_format!(layout, unpack_format, instructions, bytes, columns, to);
}

for_instructions! {
    eight lanes:
    fn unpack_format<F: Format>(bytes: &[u8], columns: usize, to: &mut WeightPanels) =
        unpack_levels;
}

#[inline(always)]
fn unpack_levels<S: SimdOfGroups, F: Format>(
    simd: S,
    bytes: &[u8],
    columns: usize,
    to: &mut WeightPanels,
) {
    to.unpack_levels::<S, F>(simd, bytes, columns);
}

/// Adds the products of a panel of tokens with all rows: `sums` has the panel's tokens
/// for each row.
pub(super) fn add(
    instructions: Instructions,
    layout: Layout,
    tokens: &TokenPanels,
    panel: usize,
    weights: &WeightPanels,
    sums: &mut [f32],
) {
    with_format!(layout, add_format, instructions, tokens, panel, weights, sums);
}

for_instructions! {
    fn add_format<F: Format>(
        tokens: &TokenPanels,
        panel: usize,
        weights: &WeightPanels,
        sums: &mut [f32],
    ) = add_panel;
}

#[inline(always)]
fn add_panel<S: SimdOfGroups, F: Format>(
    simd: S,
    tokens: &TokenPanels,
    panel: usize,
    weights: &WeightPanels,
    sums: &mut [f32],
) {
    if tokens.width == S::LANES {
        add_vectors::<S, F, 1>(simd, tokens, panel, weights, sums);
    } else {
        add_vectors::<S, F, 2>(simd, tokens, panel, weights, sums);
    }
}

/// What is multiplied in one go: some blocks of a panel of tokens, or of rows.
#[derive(Clone, Copy)]
struct Blocks<'a> {
    levels: &'a [i32],
    /// Sums of tokens, minimums of weights.
    pairs: &'a [i32],
    /// Integer scales; tokens have none.
    scales: &'a [i32],
    units: &'a [f32],
    /// Tokens have none.
    minimum_units: &'a [f32],
}

#[inline(always)]
fn add_vectors<S: SimdOfGroups, F: Format, const VECTORS: usize>(
    simd: S,
    tokens: &TokenPanels,
    panel: usize,
    weights: &WeightPanels,
    sums: &mut [f32],
) {
    let width = tokens.width;
    let sub_blocks = F::BLOCK / F::SUB_BLOCK;
    let (groups, pairs) = (F::BLOCK / 4, sub_blocks.div_ceil(2));
    for first in (0..weights.blocks).step_by(COLUMNS / F::BLOCK) {
        let count = (weights.blocks - first).min(COLUMNS / F::BLOCK);
        let at = panel * tokens.blocks + first;
        let own = Blocks {
            levels: &tokens.levels[at * groups * width..][..count * groups * width],
            pairs: &tokens.sums[at * pairs * width..][..count * pairs * width],
            scales: &[],
            units: &tokens.scales[at * width..][..count * width],
            minimum_units: &[],
        };
        for (row, sums) in sums.chunks_exact_mut(ROWS * width).enumerate() {
            let at = (row * weights.blocks + first) * ROWS;
            let rows = Blocks {
                levels: &weights.levels[at * groups..][..count * groups * ROWS],
                pairs: &weights.minimums[at * pairs..][..count * pairs * ROWS],
                scales: &weights.scales[at * sub_blocks..][..count * sub_blocks * ROWS],
                units: &weights.units[at..][..count * ROWS],
                minimum_units: &weights.minimum_units[at..][..count * ROWS],
            };
            add_tile::<S, F, VECTORS>(simd, own, rows, sums);
        }
    }
}

type Tile<S, const VECTORS: usize> = [[<S as SimdOfGroups>::Dwords; VECTORS]; ROWS];

#[inline(always)]
fn add_tile<S: SimdOfGroups, F: Format, const VECTORS: usize>(
    simd: S,
    tokens: Blocks<'_>,
    rows: Blocks<'_>,
    sums: &mut [f32],
) {
    let lanes = S::LANES;
    let width = VECTORS * lanes;
    let sub_blocks = F::BLOCK / F::SUB_BLOCK;
    let (groups, pairs) = (F::BLOCK / 4, sub_blocks.div_ceil(2));
    let sums = &mut sums[..ROWS * width];
    let token_blocks = tokens
        .levels
        .chunks_exact(groups * width)
        .zip(tokens.pairs.chunks_exact(pairs * width))
        .zip(tokens.units.chunks_exact(width));
    let row_blocks = rows
        .levels
        .chunks_exact(groups * ROWS)
        .zip(rows.pairs.chunks_exact(pairs * ROWS))
        .zip(rows.scales.chunks_exact(sub_blocks * ROWS))
        .zip(rows.units.chunks_exact(ROWS).zip(rows.minimum_units.chunks_exact(ROWS)));
    for (((levels, token_sums), token_scales), (((row_levels, minimums), scales), units)) in
        token_blocks.zip(row_blocks)
    {
        let negative = minimum_products::<S, VECTORS>(simd, token_sums, minimums);
        let (mut integers, zero) = (negative, [[simd.zero_groups(); VECTORS]; ROWS]);
        if F::MINIMUMS == Minimums::OfTheirOwn {
            integers = zero;
        }
        let of_tokens = levels.chunks_exact(F::SUB_BLOCK / 4 * width);
        let of_rows = row_levels.chunks_exact(F::SUB_BLOCK / 4 * ROWS);
        for ((levels, row_levels), scales) in of_tokens.zip(of_rows).zip(scales.chunks_exact(ROWS))
        {
            add_sub_block::<S, F, VECTORS>(simd, levels, row_levels, scales, &mut integers);
        }
        for row in 0..ROWS {
            let unit = simd.splat(units.0[row]);
            let minimum_unit = simd.splat(units.1[row]);
            for vector in 0..VECTORS {
                let own = &mut sums[row * width + vector * lanes..][..lanes];
                let scale = simd.load(&token_scales[vector * lanes..][..lanes]);
                let mut sum = simd.load(own);
                let of_levels = integers[row][vector].to_floats();
                sum = sum.add_product(of_levels, unit.times(scale));
                if F::MINIMUMS == Minimums::OfTheirOwn {
                    let of_minimums = negative[row][vector].to_floats();
                    sum = sum.add_product(of_minimums, minimum_unit.times(scale));
                }
                sum.store(own);
            }
        }
    }
}

/// The sums of sub-blocks' levels times their minimums.
#[inline(always)]
fn minimum_products<S: SimdOfGroups, const VECTORS: usize>(
    simd: S,
    token_sums: &[i32],
    minimums: &[i32],
) -> Tile<S, VECTORS> {
    let lanes = S::LANES;
    let mut products = [[simd.zero_groups(); VECTORS]; ROWS];
    let pairs = token_sums.chunks_exact(VECTORS * lanes).zip(minimums.chunks_exact(ROWS));
    for (token_sums, minimums) in pairs {
        for (vector, token_sums) in token_sums.chunks_exact(lanes).enumerate() {
            let token_sums = simd.load_groups(token_sums);
            for row in 0..ROWS {
                let product = token_sums.multiply_pairs(simd.splat_group(minimums[row]));
                products[row][vector] = products[row][vector].add(product);
            }
        }
    }
    products
}

#[inline(always)]
fn add_sub_block<S: SimdOfGroups, F: Format, const VECTORS: usize>(
    simd: S,
    levels: &[i32],
    row_levels: &[i32],
    scales: &[i32],
    integers: &mut Tile<S, VECTORS>,
) {
    let lanes = S::LANES;
    let width = VECTORS * lanes;
    let of_tokens = levels.chunks_exact(F::RUN * width);
    for (levels, row_levels) in of_tokens.zip(row_levels.chunks_exact(F::RUN * ROWS)) {
        let mut sums = [[simd.zero_groups(); VECTORS]; ROWS];
        for group in 0..F::RUN {
            let levels = &levels[group * width..][..width];
            let row_levels = &row_levels[group * ROWS..][..ROWS];
            let mut own = [simd.zero_groups(); VECTORS];
            for (own, levels) in own.iter_mut().zip(levels.chunks_exact(lanes)) {
                *own = simd.load_groups(levels);
            }
            for row in 0..ROWS {
                let weights = simd.splat_group(row_levels[row]);
                for vector in 0..VECTORS {
                    let product = weights.multiply_bytes(own[vector]);
                    sums[row][vector] = sums[row][vector].add_pairs(product).here();
                }
            }
        }
        for row in 0..ROWS {
            let scale = simd.splat_group(scales[row]);
            for vector in 0..VECTORS {
                let product = sums[row][vector].multiply_pairs(scale);
                integers[row][vector] = integers[row][vector].add(product);
            }
        }
    }
}
