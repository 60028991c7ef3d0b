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
use crate::number::f16_from_f32;
use crate::pack::{pack_halves, unpack_fifth_bits, unpack_halves};
use crate::search::affine::AffineSearch;
use crate::search::signed;

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
        let Some(sigma2) = &sigma2 else {
            signed_by_extreme::<L, BYTES>(half, &batch, blocks);
            continue;
        };
        let rows = transpose::<L, ELEMENTS>(&batch.values);
        let weights = transpose(&batch.weights(&sigma2.of_batch(number)).each_ref());
        let fit = lanes::signed::search::<L, ELEMENTS, true>(half, &rows, &weights);
        let levels = by_block(&fit.levels(half, &rows));
        let scales = halves(fit.scale);
        for (lane, block) in blocks.iter_mut().enumerate() {
            store::<L, BYTES>(scales[lane], None, &levels[lane], block);
        }
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
        let Some(sigma2) = &sigma2 else {
            affine_by_range::<L, BYTES>(search.top, &batch, blocks);
            continue;
        };
        let rows = transpose::<L, ELEMENTS>(&batch.values);
        let weights = transpose(&batch.weights(&sigma2.of_batch(number)).each_ref());
        let fit = lanes::affine::search(search, &rows, &weights);
        let levels = by_block(&fit.levels(search.top, &rows));
        let (scales, minimums) = (halves(fit.scale), halves(-fit.minimum));
        for (lane, block) in blocks.iter_mut().enumerate() {
            store::<L, BYTES>(scales[lane], Some(minimums[lane]), &levels[lane], block);
        }
    }
}

/// The scale that puts the value of largest magnitude at the negative end.
#[inline(always)]
fn signed_by_extreme<L: Lanes, const BYTES: usize>(
    half: u8,
    batch: &Batch,
    blocks: &mut [[u8; BYTES]],
) {
    let scales = extremes::<L>(&batch.values) / L::splat(-f32::from(half));
    let middle = L::splat(f32::from(half) + 0.5);
    let (inverse, scales) = (inverse(scales).store(), halves(scales));
    for (lane, block) in blocks.iter_mut().enumerate() {
        let inverse = L::splat(inverse[lane]);
        let mut levels = [0; ELEMENTS];
        let values = batch.values[lane].as_chunks().0;
        for (levels, values) in levels.as_chunks_mut().0.iter_mut().zip(values) {
            // The value opposite to the extreme one would be one level too high.
            *levels = bounded(2 * half - 1, (L::load(values) * inverse + middle).to_levels());
        }
        store::<L, BYTES>(scales[lane], None, &levels, block);
    }
}

/// The scale and minimum whose lowest and highest levels are the lowest and the
/// highest value.
#[inline(always)]
fn affine_by_range<L: Lanes, const BYTES: usize>(
    top: u8,
    batch: &Batch,
    blocks: &mut [[u8; BYTES]],
) {
    let (mut lowest, mut highest) = L::ranges(&batch.values);
    if lowest.equal(L::zero()).any() {
        // The first zero's sign is stored.
        (lowest, highest) = ranges_in_order(&batch.values);
    }
    let scales = (highest - lowest) / L::splat(f32::from(top));
    let (inverse, scales) = (inverse(scales).store(), halves(scales));
    let (lowest, minimums) = (lowest.store(), halves(lowest));
    for (lane, block) in blocks.iter_mut().enumerate() {
        let (inverse, lowest) = (L::splat(inverse[lane]), L::splat(lowest[lane]));
        let mut levels = [0; ELEMENTS];
        let values = batch.values[lane].as_chunks().0;
        for (levels, values) in levels.as_chunks_mut().0.iter_mut().zip(values) {
            let level = (L::load(values) - lowest) * inverse + L::splat(0.5);
            *levels = bounded(top, level.to_levels());
        }
        store::<L, BYTES>(scales[lane], Some(minimums[lane]), &levels, block);
    }
}

/// The first value of largest magnitude of each block.
#[inline(always)]
fn extremes<L: Lanes>(values: &[&[f32; ELEMENTS]; LANES]) -> L {
    let (least, greatest) = L::ranges(values);
    let largest = greatest.max(-least);
    let extremes = greatest.equal(largest).select(greatest, least);
    // Which of two is the first has to be looked up; of zeros none is chosen.
    let zero = largest.equal(L::zero());
    let extremes = zero.select(L::zero(), extremes);
    let open = greatest.equal(-least) & largest.greater(L::zero());
    if !open.any() {
        return extremes;
    }
    let open = open.select(L::splat(1.0), L::zero()).store();
    let mut extremes = extremes.store();
    for (lane, extreme) in extremes.iter_mut().enumerate() {
        if open[lane] != 0.0 {
            *extreme = signed::extreme(values[lane]);
        }
    }
    L::load(&extremes)
}

/// The first of the least and the first of the greatest values of each block.
#[inline(always)]
fn ranges_in_order<L: Lanes>(values: &[&[f32; ELEMENTS]; LANES]) -> (L, L) {
    let (mut lowest, mut highest) = (L::splat(f32::MAX), L::splat(f32::MIN));
    for row in transpose::<L, ELEMENTS>(values) {
        lowest = row.min(lowest);
        highest = row.max(highest);
    }
    (lowest, highest)
}

/// A subnormal scale may have an infinite inverse, whose levels are zero.
#[inline(always)]
fn inverse<L: Lanes>(scale: L) -> L {
    scale.unequal(L::zero()).select(L::splat(1.0) / scale, L::zero())
}

/// Levels at or below the highest.
#[inline(always)]
fn bounded(top: u8, mut levels: [u8; LANES]) -> [u8; LANES] {
    for level in &mut levels {
        *level = (*level).min(top);
    }
    levels
}

/// The levels of each lane's block.
#[inline(always)]
pub(crate) fn by_block<L: Lanes>(levels: &[L; ELEMENTS]) -> [[u8; ELEMENTS]; LANES] {
    let mut blocks = [[0; ELEMENTS]; LANES];
    for (half, levels) in levels.as_chunks::<LANES>().0.iter().enumerate() {
        let mut rows = [[0; LANES]; LANES];
        for (row, level) in rows.iter_mut().zip(levels) {
            *row = level.to_bytes();
        }
        for (block, levels) in blocks.iter_mut().zip(L::transpose_bytes(&rows)) {
            block.as_chunks_mut().0[half] = levels;
        }
    }
    blocks
}

/// Writes a block.
#[inline(always)]
fn store<L: Lanes, const BYTES: usize>(
    scale: u16,
    minimum: Option<u16>,
    levels: &[u8; ELEMENTS],
    block: &mut [u8; BYTES],
) {
    set_half_at(block, 0, scale);
    if let Some(minimum) = minimum {
        set_half_at(block, 2, minimum);
    }
    let header = if minimum.is_some() { 4 } else { 2 };
    if BYTES - LOW_BYTES > header {
        block[header..header + 4].copy_from_slice(&fifth_bits::<L>(levels).to_le_bytes());
    }
    pack_halves(levels, &mut block[BYTES - LOW_BYTES..]);
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

/// Bit `l` is that of level `l`.
#[inline(always)]
fn fifth_bits<L: Lanes>(levels: &[u8; ELEMENTS]) -> u32 {
    let mut bits = 0;
    for (half, levels) in levels.as_chunks::<LANES>().0.iter().enumerate() {
        let mut top = *levels;
        for level in &mut top {
            *level <<= 3;
        }
        bits |= u32::from(L::top_bits(&top)) << (LANES * half);
    }
    bits
}

/// The levels of a block, of `BYTES` with a header of `header`, in two halves.
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
pub(crate) fn decode_signed<L: Lanes, const BYTES: usize>(half: u8, bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<BYTES>().0.iter();
    for (block, out) in blocks.zip(out.as_chunks_mut::<ELEMENTS>().0) {
        let scale = L::splat_half(half_at(block, 0));
        let levels = unpack(block, 2);
        for (out, levels) in out.as_chunks_mut().0.iter_mut().zip(levels.as_chunks().0) {
            *out = ((L::from_bytes(levels) - L::splat(f32::from(half))) * scale).store();
        }
    }
}

/// Decodes blocks of a scale, a minimum and levels.
#[inline(always)]
pub(crate) fn decode_affine<L: Lanes, const BYTES: usize>(bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<BYTES>().0.iter();
    for (block, out) in blocks.zip(out.as_chunks_mut::<ELEMENTS>().0) {
        let scale = L::splat_half(half_at(block, 0));
        let minimum = L::splat_half(half_at(block, 2));
        let levels = unpack(block, 4);
        for (out, levels) in out.as_chunks_mut().0.iter_mut().zip(levels.as_chunks().0) {
            *out = (L::from_bytes(levels) * scale + minimum).store();
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
