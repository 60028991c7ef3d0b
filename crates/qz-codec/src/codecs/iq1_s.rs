//! IQ1_S: 256 weights, every eight a word of three levels, with a 3-bit scale and a
//! direction of the levels' shift for every 32.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | what a scale is worth, binary16 |
//! | 2..34 | the lowest eight bits of the words' numbers |
//! | 34..50 | for every 32 weights: four times the upper three bits of a word's number, the scale, and a bit that is set if the levels are shifted down |

use crate::block::{
    BATCH, Batch, Derived, Rows, SUPER_BLOCK, first_non_finite_scale, half_at, importance_weights,
    set_half_at, sub_blocks,
};
use crate::codebook::Codebook2;
use crate::codebook::scales::odd_multiples;
use crate::codec::codec;
use crate::lanes::{LANES, Lanes, Mask, Portable};
use crate::number::{f16_from_f32, f32_from_f16};
use crate::three_levels::{
    Best, CODEBOOK, DOWN, Split, Target, UP, ascending, codes, decode_words,
};

/// Weights in a sub-block.
const LENGTH: usize = 32;
/// Where a sub-block can be split: before or after each value.
const ENDS: usize = LENGTH + 1;
/// Sub-blocks.
const COUNT: usize = SUPER_BLOCK / LENGTH;
/// Words of a sub-block.
const WORDS: usize = LENGTH / 8;
/// Super-blocks whose sub-blocks fill the lanes.
const TOGETHER: usize = LANES / COUNT;

const NUMBERS: usize = 2;
const SCALES: usize = NUMBERS + SUPER_BLOCK / 8;
const BYTES: usize = SCALES + 2 * COUNT;

/// The highest scale: it is multiplied by two, plus one.
const TOP: u8 = 7;

/// A sub-block with no larger magnitude is zero (ggml-quants.c,
/// `GROUP_MAX_EPS_IQ1_S`).
const ZERO_BELOW: f32 = 1e-12;

/// What makes the error a little smaller, on average.
const FACTOR: f32 = 1.125;

codec! {
    Iq1S: DataType::IQ1_S,
    importance: Required,
    activations: Q8_K,
    integers: Units { unit: Half { at: 0, one: 8.0 }, length: 256 },
    decode: decode::<Portable>,
    encode: encode::<Portable>,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[0]),
}

/// The body of [`crate::Codec::decode`], with lanes of type `L`.
#[inline(always)]
pub fn decode<L: Lanes>(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut().0) {
        decode_block::<L>(block, out);
    }
}

/// The body of [`crate::Codec::encode`], with lanes of type `L`. Without importance, for
/// which the reference has no encoding, errors count as they do for IQ1_M.
#[inline(always)]
pub fn encode<L: Lanes>(
    weights: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    let rows = Rows::new(weights, columns, importance);
    let book = &*CODEBOOK;
    for (number, blocks) in out.as_chunks_mut::<BYTES>().0.chunks_mut(BATCH).enumerate() {
        let batch = rows.batch(number * BATCH);
        let weights = match &batch.importance {
            None => batch.weights.map(|values| values.map(|value| value * value)),
            Some(importance) => importance_weights(&batch.weights, importance, 2.0),
        };
        for (position, blocks) in blocks.chunks_mut(TOGETHER).enumerate() {
            encode_together::<L>(book, &batch, &weights, position * TOGETHER, blocks);
        }
    }
}

#[inline(always)]
fn decode_block<L: Lanes>(block: &[u8; BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let unit = f32_from_f16(half_at(block, 0));
    let numbers = block[NUMBERS..SCALES].as_chunks::<WORDS>().0.iter();
    let sub_blocks = numbers.zip(block[SCALES..].as_chunks::<2>().0);
    for ((low, upper), out) in sub_blocks.zip(out.as_chunks_mut::<LENGTH>().0) {
        let upper = u16::from_le_bytes(*upper);
        let scale = L::splat(unit * f32::from(2 * (upper >> 12 & 7) + 1));
        let offsets = L::splat(if upper >> 15 == 1 { DOWN.first } else { UP.first });
        for (pair, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let mut numbers = [0; 2];
            for (word, number) in (2 * pair..).zip(&mut numbers) {
                *number = u16::from(low[word]) | (upper >> (3 * word) & 7) << 8;
            }
            decode_words::<L>(numbers, offsets, scale, out);
        }
    }
}

/// What is found for a sub-block.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    numbers: [u16; WORDS],
    /// The levels are shifted down.
    down: bool,
}

impl Fit {
    /// The first word is that of the lowest levels.
    const ZERO: Self = Self { scale: 0.0, numbers: [0; WORDS], down: false };
}

/// Encodes the super-blocks from `first` on, whose sub-blocks fill the lanes
/// (ggml-quants.c, `quantize_row_iq1_s_impl`).
#[inline(always)]
fn encode_together<L: Lanes>(
    book: &Codebook2,
    batch: &Batch,
    weights: &Derived,
    first: usize,
    blocks: &mut [[u8; BYTES]],
) {
    let values = sub_blocks::<LENGTH>(&batch.weights, first);
    let weights = sub_blocks::<LENGTH>(&weights.each_ref(), first);
    let mut orders = [[0; LENGTH]; LANES];
    for (order, values) in orders.iter_mut().zip(values) {
        *order = ascending(values);
    }
    let splits = best_splits(&Prefixes::<L>::new(&values, &weights, &orders));
    for (position, block) in blocks.iter_mut().enumerate() {
        let mut fits = [Fit::ZERO; COUNT];
        for (sub_block, fit) in fits.iter_mut().enumerate() {
            let lane = position * COUNT + sub_block;
            *fit = fit_words::<L>(book, values[lane], weights[lane], &orders[lane], &splits[lane]);
        }
        store(&fits, block);
    }
}

/// The weighted sums of the values of the lowest ranks, and of their weights.
struct Prefixes<L> {
    x: [L; ENDS],
    w: [L; ENDS],
}

impl<L: Lanes> Prefixes<L> {
    #[inline(always)]
    fn new(
        values: &[&[f32; LENGTH]; LANES],
        weights: &[&[f32; LENGTH]; LANES],
        orders: &[[u8; LENGTH]; LANES],
    ) -> Self {
        let mut products = [[0.0; LANES]; LENGTH];
        let mut sorted = [[0.0; LANES]; LENGTH];
        for (lane, order) in orders.iter().enumerate() {
            for (rank, position) in order.iter().enumerate() {
                let position = usize::from(*position) % LENGTH;
                let weight = weights[lane][position];
                products[rank][lane] = weight * values[lane][position];
                sorted[rank][lane] = weight;
            }
        }
        let mut sums = Self { x: [L::zero(); ENDS], w: [L::zero(); ENDS] };
        for rank in 0..LENGTH {
            sums.x[rank + 1] = sums.x[rank] + L::load(&products[rank]);
            sums.w[rank + 1] = sums.w[rank] + L::load(&sorted[rank]);
        }
        sums
    }

    /// What the values of the highest ranks add to both sums, from each rank on, with
    /// a level.
    #[inline(always)]
    fn highest(&self, level: f32) -> Self {
        let level = L::splat(level);
        let mut parts = Self { x: [L::zero(); ENDS], w: [L::zero(); ENDS] };
        for end in 0..ENDS {
            parts.x[end] = (self.x[LENGTH] - self.x[end]) * level;
            parts.w[end] = (self.w[LENGTH] - self.w[end]) * level * level;
        }
        parts
    }
}

/// The best split of each lane. A split's error depends on sums over its three parts;
/// these are kept apart in the order of the reference's own additions. The lowest
/// level's part changes with the first end alone, the highest level's with the second.
#[inline(always)]
fn best_splits<L: Lanes>(sums: &Prefixes<L>) -> [Split; LANES] {
    let middle = L::splat(UP.first + UP.step);
    let [up, down] = [UP, DOWN].map(|line| (line.first, line.first + 2.0));
    let (high_up, high_down) = (sums.highest(up.1), sums.highest(down.1));
    let (low_up, low_down) = (L::splat(up.0), L::splat(down.0));
    let mut best = Best::<L, ENDS, 2>::none();
    for first in 0..ENDS {
        let (x, w) = (sums.x[first], sums.w[first]);
        let (x_up, x_down) = (x * low_up, x * low_down);
        let (w_up, w_down) = (w * low_up * low_up, w * low_down * low_down);
        for second in first..ENDS {
            // The middle level is an eighth, up or down.
            let x = (sums.x[second] - x) * middle;
            let w = (sums.w[second] - w) * middle * middle;
            let xq_up = x_up + x + high_up.x[second];
            let q2_up = w_up + w + high_up.w[second];
            let xq_down = x_down - x + high_down.x[second];
            let q2_down = w_down + w + high_down.w[second];
            if (best.is_below(xq_up, q2_up) | best.is_below(xq_down, q2_down)).any() {
                best.improve(xq_up, q2_up, (first, second), 0);
                best.improve(xq_down, q2_down, (first, second), 1);
            }
        }
    }
    best.splits()
}

/// The words of a split sub-block.
#[inline(always)]
fn fit_words<L: Lanes>(
    book: &Codebook2,
    values: &[f32; LENGTH],
    weights: &[f32; LENGTH],
    order: &[u8; LENGTH],
    split: &Split,
) -> Fit {
    // The values of largest magnitude are at the ends.
    let [lowest, .., highest] = order;
    let [lowest, highest] = [lowest, highest].map(|at| values[usize::from(*at) % LENGTH].abs());
    let Some(ends) = split.ends.filter(|_| lowest >= ZERO_BELOW || highest >= ZERO_BELOW) else {
        return Fit::ZERO;
    };
    let turned = split.scale < 0.0;
    let down = (split.shift == 1) != turned;
    let scale = if turned { -split.scale } else { split.scale };
    let mut codes = codes(order, ends, turned);
    let lines = [if down { DOWN } else { UP }; WORDS];
    let target = Target { values: values.as_chunks().0, weights: weights.as_chunks().0 };
    let scale = target.move_to_points::<L, WORDS>(book, &lines, &mut codes, scale);
    Fit { scale, numbers: codes.map(|code| book.number(code)), down }
}

#[inline(always)]
fn store(fits: &[Fit; COUNT], block: &mut [u8; BYTES]) {
    block.fill(0);
    let mut upper = [0u16; COUNT];
    let numbers = block[NUMBERS..SCALES].as_chunks_mut::<WORDS>().0.iter_mut();
    for ((bytes, upper), fit) in numbers.zip(&mut upper).zip(fits) {
        for (word, number) in fit.numbers.into_iter().enumerate() {
            bytes[word] = number as u8;
            *upper |= number >> 8 << (3 * word);
        }
    }
    if let Some((unit, scales)) = odd_multiples(&fits.map(|fit| fit.scale), TOP) {
        set_half_at(block, 0, f16_from_f32(unit * FACTOR));
        for ((upper, fit), scale) in upper.iter_mut().zip(fits).zip(scales) {
            *upper |= u16::from(scale) << 12 | u16::from(fit.down) << 15;
        }
    }
    for (bytes, upper) in block[SCALES..].as_chunks_mut().0.iter_mut().zip(upper) {
        *bytes = upper.to_le_bytes();
    }
}
