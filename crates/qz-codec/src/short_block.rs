//! Blocks of 32 weights that stand for themselves: how they are walked, how Q4_0 and
//! Q5_0 find one scale, Q4_1 and Q5_1 a scale and a minimum, and their levels.

use crate::lanes::{self, LANES, Lanes, transpose};
use crate::number::truncate_to_i8;
use crate::search::affine::{Affine, AffineSearch};
use crate::search::signed::extreme;

/// Weights in a block.
pub(crate) const ELEMENTS: usize = 32;

/// The levels of a block.
pub(crate) type Levels = [u8; ELEMENTS];

/// Blocks that are searched together, one in each lane.
pub(crate) struct Batch<'a> {
    /// The number of the first one.
    first: usize,
    pub values: [&'a [f32; ELEMENTS]; LANES],
    /// Their columns' importance.
    importance: Option<[&'a [f32; ELEMENTS]; LANES]>,
}

/// Numbers made from a batch.
type Derived = [[f32; ELEMENTS]; LANES];

impl Batch<'_> {
    /// What a search weighs the values by: their squares without importance; with it,
    /// the importance times the root of sigma² plus the square. `sigma2` is given a
    /// block's number and values.
    #[inline(always)]
    pub(crate) fn weights(&self, sigma2: impl Fn(usize, &[f32; ELEMENTS]) -> f32) -> Derived {
        let Some(importance) = self.importance else {
            return self.values.map(|values| values.map(|value| value * value));
        };
        let mut derived = [[0.0; ELEMENTS]; LANES];
        for (lane, weights) in derived.iter_mut().enumerate() {
            let sigma2 = sigma2(self.first + lane, self.values[lane]);
            let inputs = self.values[lane].iter().zip(importance[lane]);
            for (weight, (value, importance)) in weights.iter_mut().zip(inputs) {
                *weight = importance * (sigma2 + value * value).sqrt();
            }
        }
        derived
    }
}

/// Walks blocks, a batch at a time, with the bytes to write. The last batch may have
/// fewer blocks; the values without a block are zeros.
#[inline(always)]
pub(crate) fn for_each_batch<const BYTES: usize>(
    weights: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
    mut encode: impl FnMut(&Batch, &mut [[u8; BYTES]]),
) {
    static ZEROS: [f32; ELEMENTS] = [0.0; ELEMENTS];
    let per_row = columns / ELEMENTS;
    let weights = weights.as_chunks().0;
    let importance = importance.map(|importance| importance.as_chunks().0);
    for (number, blocks) in out.as_chunks_mut().0.chunks_mut(LANES).enumerate() {
        let first = number * LANES;
        let values = std::array::from_fn(|lane| weights.get(first + lane).unwrap_or(&ZEROS));
        let importance = importance
            .map(|importance| std::array::from_fn(|lane| &importance[(first + lane) % per_row]));
        encode(&Batch { first, values, importance }, blocks);
    }
}

/// The sum of squares, in order.
#[inline(always)]
pub(crate) fn sum_of_squares(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |sum, value| sum + value * value)
}

/// Encodes blocks of one scale and levels stored plus `half`; `store` writes a
/// block's scale and levels. ggml-quants.c, `quantize_row_q4_0_ref`,
/// `quantize_row_q4_0_impl` and their likes for Q5_0.
#[inline(always)]
pub(crate) fn encode_signed<L: Lanes, const BYTES: usize>(
    half: u8,
    weights: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
    store: impl Fn(f32, &Levels, &mut [u8; BYTES]),
) {
    if importance.is_none() {
        for (values, block) in weights.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
            let (scale, levels) = signed_by_extreme(half, values);
            store(scale, &levels, block);
        }
        return;
    }
    let sigma2 = row_mean_squares(weights, columns);
    for_each_batch(weights, columns, importance, out, |batch, blocks| {
        let weights = batch.weights(|block, _| sigma2(block));
        let rows = transpose::<L, ELEMENTS>(&batch.values);
        let fit = lanes::signed::search::<L, ELEMENTS, false>(
            half,
            &rows,
            &transpose(&weights.each_ref()),
        );
        let scales = fit.scale.store();
        let levels = by_block(&fit.levels(half, &rows));
        for ((block, scale), levels) in blocks.iter_mut().zip(scales).zip(&levels) {
            store(scale, levels, block);
        }
    });
}

/// Encodes blocks of a scale, a minimum and levels up to the search's top. As
/// `quantize_row_q4_1_ref`, `quantize_row_q4_1_impl` and their likes for Q5_1.
#[inline(always)]
pub(crate) fn encode_affine<L: Lanes, const BYTES: usize>(
    search: &AffineSearch,
    weights: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
    store: impl Fn(Affine, &Levels, &mut [u8; BYTES]),
) {
    if importance.is_none() {
        for (values, block) in weights.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
            let (affine, levels) = affine_by_range(search.top, values);
            store(affine, &levels, block);
        }
        return;
    }
    let sigma2 = row_mean_squares(weights, columns);
    for_each_batch(weights, columns, importance, out, |batch, blocks| {
        let weights = batch.weights(|block, _| sigma2(block));
        let rows = transpose::<L, ELEMENTS>(&batch.values);
        let weight_rows = transpose(&weights.each_ref());
        let fit = lanes::affine::search(search, &rows, &weight_rows);
        let (scales, minimums) = (fit.scale.store(), fit.minimum.store());
        let levels = by_block(&fit.levels(search.top, &rows));
        for (lane, block) in blocks.iter_mut().enumerate() {
            let affine = Affine { scale: scales[lane], minimum: minimums[lane] };
            store(affine, &levels[lane], block);
        }
    });
}

/// The scale that puts the value of largest magnitude at the negative end.
#[inline(always)]
fn signed_by_extreme(half: u8, values: &[f32; ELEMENTS]) -> (f32, Levels) {
    let scale = extreme(values) / -f32::from(half);
    let inverse = inverse(scale);
    // The value opposite to the extreme one would be one level too high.
    let top = 2 * half as i8 - 1;
    let middle = f32::from(half) + 0.5;
    let levels = values.map(|value| truncate_to_i8(value * inverse + middle).min(top) as u8);
    (scale, levels)
}

/// The scale and minimum whose lowest and highest levels are the lowest and the
/// highest value.
#[inline(always)]
fn affine_by_range(top: u8, values: &[f32; ELEMENTS]) -> (Affine, Levels) {
    let (mut lowest, mut highest) = (f32::MAX, f32::MIN);
    for &value in values {
        lowest = if value < lowest { value } else { lowest };
        highest = if value > highest { value } else { highest };
    }
    let scale = (highest - lowest) / f32::from(top);
    let inverse = inverse(scale);
    let levels = values.map(|value| {
        let level = truncate_to_i8((value - lowest) * inverse + 0.5);
        level.min(top as i8) as u8
    });
    (Affine { scale, minimum: -lowest }, levels)
}

/// A subnormal scale may have an infinite inverse, whose levels are zero.
#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale != 0.0 { 1.0 / scale } else { 0.0 }
}

/// The levels of each lane.
#[inline(always)]
fn by_block<L: Lanes>(levels: &[L; ELEMENTS]) -> [Levels; LANES] {
    let mut blocks = [[0; ELEMENTS]; LANES];
    for (position, levels) in levels.iter().enumerate() {
        for (block, level) in blocks.iter_mut().zip(levels.store()) {
            block[position] = level as u8;
        }
    }
    blocks
}

/// The mean square of a block's whole row, given the block's number; zero past the
/// last one.
#[inline(always)]
fn row_mean_squares(weights: &[f32], columns: usize) -> impl Fn(usize) -> f32 {
    let rows = weights.chunks_exact(columns);
    let mean_squares: Vec<f32> = rows.map(|row| sum_of_squares(row) / columns as f32).collect();
    move |block| mean_squares.get(block * ELEMENTS / columns).copied().unwrap_or(0.0)
}
