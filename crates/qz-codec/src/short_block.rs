//! Blocks of 32 weights that stand for themselves: how they are walked, and what Q4_0,
//! Q5_0, Q4_1 and Q5_1 are made of: a scale, a minimum or none, levels.
//!
//! | bytes | what |
//! |---|---|
//! | 2 | scale, binary16 |
//! | 2 | minimum, binary16, if there is one |
//! | 4 | the levels' fifth bits, if they have five |
//! | 16 | the levels' lower four bits |

use crate::block::{half_at, set_half_at};
use crate::lanes::{self, LANES, Lanes, Mask, transpose};
use crate::number::{f16_from_f32, f32_from_f16};
use crate::pack::{unpack_fifth_bits, unpack_halves};
use crate::search::affine::AffineSearch;

/// Weights in a block.
pub(crate) const ELEMENTS: usize = 32;

/// Bytes of the levels' lower four bits.
const LOW_BYTES: usize = ELEMENTS / 2;

/// Blocks to be taken a batch at a time, one in each lane.
pub(crate) struct Blocks<'a> {
    weights: &'a [[f32; ELEMENTS]],
    /// Of one row, which all rows share.
    importance: Option<&'a [[f32; ELEMENTS]]>,
}

/// Blocks that are searched together.
pub(crate) struct Batch<'a> {
    pub values: [&'a [f32; ELEMENTS]; LANES],
    /// Their columns' importance.
    pub importance: Option<[&'a [f32; ELEMENTS]; LANES]>,
}

/// Numbers made from a batch.
type Derived = [[f32; ELEMENTS]; LANES];

impl<'a> Blocks<'a> {
    #[inline(always)]
    pub(crate) fn new(weights: &'a [f32], columns: usize, importance: Option<&'a [f32]>) -> Self {
        let importance = importance.map(|importance| importance[..columns].as_chunks().0);
        Self { weights: weights.as_chunks().0, importance }
    }

    /// The blocks from `first` on; zeros where there are no more.
    #[inline(always)]
    pub(crate) fn batch(&self, first: usize) -> Batch<'a> {
        static ZEROS: [f32; ELEMENTS] = [0.0; ELEMENTS];
        let mut values = [&ZEROS; LANES];
        for (values, weights) in values.iter_mut().zip(&self.weights[first..]) {
            *values = weights;
        }
        let Some(row) = self.importance else { return Batch { values, importance: None } };
        let mut importance = [&ZEROS; LANES];
        for (lane, importance) in importance.iter_mut().enumerate() {
            *importance = &row[(first + lane) % row.len()];
        }
        Batch { values, importance: Some(importance) }
    }
}

impl Batch<'_> {
    /// What a search weighs the values by: their squares without importance; with it,
    /// the importance times the root of sigma² plus the square.
    #[inline(always)]
    pub(crate) fn weights(&self, sigma2: &[f32; LANES]) -> Derived {
        let mut derived = [[0.0; ELEMENTS]; LANES];
        for (weights, values) in derived.iter_mut().zip(self.values) {
            for (weight, value) in weights.iter_mut().zip(values) {
                *weight = value * value;
            }
        }
        let Some(importance) = self.importance else { return derived };
        for ((weights, importance), sigma2) in derived.iter_mut().zip(importance).zip(sigma2) {
            for (weight, importance) in weights.iter_mut().zip(importance) {
                *weight = importance * (sigma2 + *weight).sqrt();
            }
        }
        derived
    }
}

/// Scales, minimums where there are some, and levels: for each position those of all
/// blocks of a batch.
struct Found<L: Lanes> {
    scales: L,
    minimums: Option<L>,
    levels: [[u8; LANES]; ELEMENTS],
}

/// Encodes blocks of one scale and levels stored plus `half`. ggml-quants.c,
/// `quantize_row_q4_0_ref`, `quantize_row_q4_0_impl` and their likes for Q5_0.
#[inline(always)]
pub(crate) fn encode_signed<L: Lanes, const BYTES: usize>(
    half: u8,
    weights: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    let input = Blocks::new(weights, columns, importance);
    let sigma2 = importance.map(|_| RowMeanSquares::of(weights, columns));
    for (number, blocks) in out.as_chunks_mut().0.chunks_mut(LANES).enumerate() {
        let batch = input.batch(number * LANES);
        let rows = transpose::<L, ELEMENTS>(&batch.values);
        let found = if let Some(sigma2) = &sigma2 {
            let weights = transpose(&batch.weights(&sigma2.of_batch(number)).each_ref());
            let fit = lanes::signed::search::<L, ELEMENTS, true>(half, &rows, &weights);
            let levels = to_bytes(&fit.levels(half, &rows));
            Found { scales: fit.scale, minimums: None, levels }
        } else {
            signed_by_extreme(half, &rows)
        };
        store::<L, BYTES>(&found, blocks);
    }
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
) {
    let input = Blocks::new(weights, columns, importance);
    let sigma2 = importance.map(|_| RowMeanSquares::of(weights, columns));
    for (number, blocks) in out.as_chunks_mut().0.chunks_mut(LANES).enumerate() {
        let batch = input.batch(number * LANES);
        let rows = transpose::<L, ELEMENTS>(&batch.values);
        let found = if let Some(sigma2) = &sigma2 {
            let weights = transpose(&batch.weights(&sigma2.of_batch(number)).each_ref());
            let fit = lanes::affine::search(search, &rows, &weights);
            let levels = to_bytes(&fit.levels(search.top, &rows));
            Found { scales: fit.scale, minimums: Some(-fit.minimum), levels }
        } else {
            affine_by_range(search.top, &rows)
        };
        store::<L, BYTES>(&found, blocks);
    }
}

/// The scale that puts the value of largest magnitude at the negative end.
#[inline(always)]
fn signed_by_extreme<L: Lanes>(half: u8, rows: &[L; ELEMENTS]) -> Found<L> {
    let scales = lanes::signed::extreme(rows) / L::splat(-f32::from(half));
    let inverse = inverse(scales);
    let middle = L::splat(f32::from(half) + 0.5);
    let mut levels = [[0; LANES]; ELEMENTS];
    for (levels, &row) in levels.iter_mut().zip(rows) {
        // The value opposite to the extreme one would be one level too high.
        *levels = bounded(2 * half - 1, (row * inverse + middle).to_truncated_bytes());
    }
    Found { scales, minimums: None, levels }
}

/// The scale and minimum whose lowest and highest levels are the lowest and the
/// highest value.
#[inline(always)]
fn affine_by_range<L: Lanes>(top: u8, rows: &[L; ELEMENTS]) -> Found<L> {
    let (mut lowest, mut highest) = (L::splat(f32::MAX), L::splat(f32::MIN));
    for &row in rows {
        lowest = row.min(lowest);
        highest = row.max(highest);
    }
    let scales = (highest - lowest) / L::splat(f32::from(top));
    let inverse = inverse(scales);
    let mut levels = [[0; LANES]; ELEMENTS];
    for (levels, &row) in levels.iter_mut().zip(rows) {
        let level = (row - lowest) * inverse + L::splat(0.5);
        *levels = bounded(top, level.to_truncated_bytes());
    }
    Found { scales, minimums: Some(lowest), levels }
}

/// A subnormal scale may have an infinite inverse, whose levels are zero.
#[inline(always)]
fn inverse<L: Lanes>(scale: L) -> L {
    scale.unequal(L::zero()).select(L::splat(1.0) / scale, L::zero())
}

/// Levels, which are signed bytes here, at or below the highest.
#[inline(always)]
fn bounded(top: u8, mut levels: [u8; LANES]) -> [u8; LANES] {
    for level in &mut levels {
        *level = (*level as i8).min(top as i8) as u8;
    }
    levels
}

#[inline(always)]
fn to_bytes<L: Lanes>(levels: &[L; ELEMENTS]) -> [[u8; LANES]; ELEMENTS] {
    let mut bytes = [[0; LANES]; ELEMENTS];
    for (bytes, level) in bytes.iter_mut().zip(levels) {
        *bytes = level.to_bytes();
    }
    bytes
}

/// Writes a batch's blocks.
#[inline(always)]
fn store<L: Lanes, const BYTES: usize>(found: &Found<L>, blocks: &mut [[u8; BYTES]]) {
    let scales = halves(found.scales);
    let minimums = found.minimums.map(halves);
    let low = L::transpose_bytes(&low_bits(&found.levels));
    let fifth = fifth_bits(&found.levels);
    let header = if minimums.is_some() { 4 } else { 2 };
    for (lane, block) in blocks.iter_mut().enumerate() {
        set_half_at(block, 0, scales[lane]);
        if let Some(minimums) = minimums {
            set_half_at(block, 2, minimums[lane]);
        }
        if BYTES - LOW_BYTES > header {
            for (byte, bits) in block[header..header + 4].iter_mut().zip(&fifth) {
                *byte = bits[lane];
            }
        }
        block[BYTES - LOW_BYTES..].copy_from_slice(&low[lane]);
    }
}

/// Numbers as binary16.
#[inline(always)]
pub(crate) fn halves<L: Lanes>(numbers: L) -> [u16; LANES] {
    let mut halves = [0; LANES];
    for (half, number) in halves.iter_mut().zip(numbers.store()) {
        *half = f16_from_f32(number);
    }
    halves
}

/// Byte `l` of a block holds the low bits of levels `l` and `l + 16`.
#[inline(always)]
pub(crate) fn low_bits(levels: &[[u8; LANES]; ELEMENTS]) -> [[u8; LANES]; LOW_BYTES] {
    let mut bytes = [[0; LANES]; LOW_BYTES];
    let (low, high) = levels.split_at(LOW_BYTES);
    for (bytes, (low, high)) in bytes.iter_mut().zip(low.iter().zip(high)) {
        for (byte, (low, high)) in bytes.iter_mut().zip(low.iter().zip(high)) {
            *byte = low & 15 | high << 4;
        }
    }
    bytes
}

/// Bit `l` of a block's four bytes is that of level `l`.
#[inline(always)]
fn fifth_bits(levels: &[[u8; LANES]; ELEMENTS]) -> [[u8; LANES]; 4] {
    let mut bytes = [[0; LANES]; 4];
    for (bytes, levels) in bytes.iter_mut().zip(levels.as_chunks::<8>().0) {
        for (bit, levels) in levels.iter().enumerate() {
            for (byte, level) in bytes.iter_mut().zip(levels) {
                *byte |= (level >> 4 & 1) << bit;
            }
        }
    }
    bytes
}

/// The levels of a block, of `BYTES` with a header of `header`.
#[inline(always)]
fn unpack<const BYTES: usize>(block: &[u8; BYTES], header: usize) -> [u8; ELEMENTS] {
    let mut levels = [0; ELEMENTS];
    unpack_halves(&block[BYTES - LOW_BYTES..], &mut levels);
    if BYTES - LOW_BYTES > header {
        let bits = [block[header], block[header + 1], block[header + 2], block[header + 3]];
        unpack_fifth_bits(bits, &mut levels);
    }
    levels
}

/// Decodes blocks of one scale and levels stored plus `half`.
#[inline(always)]
pub(crate) fn decode_signed<const BYTES: usize>(half: u8, bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<BYTES>().0.iter();
    for (block, out) in blocks.zip(out.as_chunks_mut::<ELEMENTS>().0) {
        let scale = f32_from_f16(half_at(block, 0));
        let levels = unpack(block, 2);
        for (value, level) in out.iter_mut().zip(&levels) {
            *value = (f32::from(*level) - f32::from(half)) * scale;
        }
    }
}

/// Decodes blocks of a scale, a minimum and levels.
#[inline(always)]
pub(crate) fn decode_affine<const BYTES: usize>(bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<BYTES>().0.iter();
    for (block, out) in blocks.zip(out.as_chunks_mut::<ELEMENTS>().0) {
        let scale = f32_from_f16(half_at(block, 0));
        let minimum = f32_from_f16(half_at(block, 2));
        let levels = unpack(block, 4);
        for (value, level) in out.iter_mut().zip(&levels) {
            *value = f32::from(*level) * scale + minimum;
        }
    }
}

/// The mean squares of all rows.
struct RowMeanSquares {
    rows: Vec<f32>,
    blocks_per_row: usize,
}

impl RowMeanSquares {
    fn of(weights: &[f32], columns: usize) -> Self {
        let sum = |row: &[f32]| row.iter().fold(0.0, |sum, value| sum + value * value);
        let rows = weights.chunks_exact(columns).map(|row| sum(row) / columns as f32);
        Self { rows: rows.collect(), blocks_per_row: columns / ELEMENTS }
    }

    /// For each block of a batch that of its row; zero past the last one.
    #[inline(always)]
    fn of_batch(&self, number: usize) -> [f32; LANES] {
        let mut sigma2 = [0.0; LANES];
        for (lane, sigma2) in sigma2.iter_mut().enumerate() {
            let row = (number * LANES + lane) / self.blocks_per_row;
            *sigma2 = if row < self.rows.len() { self.rows[row] } else { 0.0 };
        }
        sigma2
    }
}
