//! IQ1_M: 256 weights, every eight a word of three levels with a direction of the
//! levels' shift, and a 3-bit scale for every 16.
//!
//! | bytes | what |
//! |---|---|
//! | 0..32 | the lowest eight bits of the words' numbers |
//! | 32..48 | a nibble for each word: the upper three bits of its number, and a bit that is set if its levels are shifted down |
//! | 48..56 | four 16-bit numbers: four scales each, and in the upper four bits a nibble of what a scale is worth, binary16 |

use crate::block::{
    BATCH, Rows, SUPER_BLOCK, first_non_finite_by, half_at, importance_weights, set_half_at,
    sub_blocks,
};
use crate::codebook::scales::odd_multiples;
use crate::codebook::{Codebook2, Line};
use crate::codec::codec;
use crate::lanes::{LANES, Lanes, Mask, Portable};
use crate::number::{f16_from_f32, f16_is_non_finite, f32_from_f16};
use crate::three_levels::{
    Best, CODEBOOK, DOWN, Split, Target, UP, ascending, codes, decode_words, levels_of,
};

/// Weights in a sub-block.
const LENGTH: usize = 16;
/// Where a sub-block can be split: before or after each value.
const ENDS: usize = LENGTH + 1;
/// Sub-blocks: as many as there are lanes.
const COUNT: usize = SUPER_BLOCK / LENGTH;
/// Words of a sub-block.
const WORDS: usize = LENGTH / 8;

const UPPER: usize = SUPER_BLOCK / 8;
const SCALES: usize = UPPER + SUPER_BLOCK / 16;
const BYTES: usize = SCALES + 8;

/// The highest scale: it is multiplied by two, plus one.
const TOP: u8 = 7;

/// A sub-block with no larger magnitude is zero (ggml-quants.c,
/// `GROUP_MAX_EPS_IQ1_M`).
const ZERO_BELOW: f32 = 1e-7;

/// What makes the error a little smaller, on average.
const FACTOR: f32 = 1.1125;

/// For each word of a sub-block, whether its levels are shifted down.
type Shifts = [bool; WORDS];

/// In the order in which they are tried.
const SHIFTS: [Shifts; 4] = [[false, false], [false, true], [true, false], [true, true]];

codec! {
    Iq1M: DataType::IQ1_M,
    importance: Optional,
    activations: Q8_K,
    integers: Units { unit: Nibbles, length: 256 },
    decode: decode::<Portable>,
    encode: encode::<Portable>,
    first_non_finite_block: |bytes| first_non_finite_by(bytes, |block: &[u8; BYTES]| f16_is_non_finite(unit(block))),
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
    let book = &*CODEBOOK;
    for (number, blocks) in out.as_chunks_mut::<BYTES>().0.chunks_mut(BATCH).enumerate() {
        let batch = rows.batch(number * BATCH);
        let weights = match &batch.importance {
            None => batch.weights.map(|values| values.map(|value| value * value)),
            Some(importance) => importance_weights(&batch.weights, importance, 2.0),
        };
        for (position, block) in blocks.iter_mut().enumerate() {
            let values = sub_blocks::<LENGTH>(&batch.weights, position);
            let weights = sub_blocks::<LENGTH>(&weights.each_ref(), position);
            encode_block::<L>(book, &values, &weights, block);
        }
    }
}

/// What a scale is worth.
#[inline(always)]
fn unit(block: &[u8; BYTES]) -> u16 {
    let mut unit = 0;
    for nibble in 0..4 {
        unit |= half_at(block, SCALES + 2 * nibble) >> 12 << (4 * nibble);
    }
    unit
}

/// What the levels plus 1 of a sub-block are moved by, by the shifts of its words, the
/// first word's in the lowest bit.
static OFFSETS: [[f32; LENGTH]; 4] = {
    let mut offsets = [[UP.first; LENGTH]; 4];
    let mut at = 0;
    while at < 4 * LENGTH {
        let (shifts, position) = (at / LENGTH, at % LENGTH);
        if shifts >> (position / 8) & 1 == 1 {
            offsets[shifts][position] = DOWN.first;
        }
        at += 1;
    }
    offsets
};

#[inline(always)]
fn decode_block<L: Lanes>(block: &[u8; BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let unit = f32_from_f16(unit(block));
    for (sub_block, out) in out.as_chunks_mut::<LENGTH>().0.iter_mut().enumerate() {
        let scale = half_at(block, SCALES + 2 * (sub_block / 4)) >> (3 * (sub_block % 4)) & 7;
        let scale = unit * f32::from(2 * scale + 1);
        let upper = block[UPPER + sub_block];
        let mut numbers = [0; WORDS];
        for (word, number) in numbers.iter_mut().enumerate() {
            let upper = u16::from(upper >> (4 * word) & 7);
            *number = u16::from(block[WORDS * sub_block + word]) | upper << 8;
        }
        let offsets = &OFFSETS[usize::from(upper >> 3 & 1 | upper >> 6 & 2)];
        decode_words::<L>(numbers, L::load(offsets), L::splat(scale), out);
    }
}

/// What is found for a sub-block.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    codes: [u16; WORDS],
    shifts: Shifts,
}

impl Fit {
    /// The first word is that of the lowest levels.
    const ZERO: Self = Self { scale: 0.0, codes: [0; WORDS], shifts: SHIFTS[0] };

    #[inline(always)]
    fn lines(&self) -> [Line; WORDS] {
        lines(self.shifts)
    }
}

#[inline(always)]
fn lines(shifts: Shifts) -> [Line; WORDS] {
    shifts.map(|down| if down { DOWN } else { UP })
}

/// A super-block's sub-blocks, or what their errors count.
type SubBlocks<'a> = [&'a [f32; LENGTH]; COUNT];

/// ggml-quants.c, `quantize_row_iq1_m_impl`.
#[inline(always)]
fn encode_block<L: Lanes>(
    book: &Codebook2,
    values: &SubBlocks,
    weights: &SubBlocks,
    block: &mut [u8; BYTES],
) {
    let mut orders = [[0; LENGTH]; LANES];
    for (order, values) in orders.iter_mut().zip(values) {
        *order = ascending(values);
    }
    let splits = best_splits(&Prefixes::<L>::new(values, weights, &orders));
    let mut fits = [Fit::ZERO; COUNT];
    for (position, fit) in fits.iter_mut().enumerate() {
        let target = target(values[position], weights[position]);
        *fit = fit_words::<L>(book, &target, &orders[position], &splits[position]);
    }
    store(book, values, weights, &fits, block);
}

#[inline(always)]
fn target<'a>(values: &'a [f32; LENGTH], weights: &'a [f32; LENGTH]) -> Target<'a> {
    Target { values: values.as_chunks().0, weights: weights.as_chunks().0 }
}

/// For each word, the weighted sums of its values among those of the lowest ranks, and
/// of their weights.
struct Prefixes<L> {
    x: [[L; ENDS]; WORDS],
    w: [[L; ENDS]; WORDS],
}

impl<L: Lanes> Prefixes<L> {
    #[inline(always)]
    fn new(values: &SubBlocks, weights: &SubBlocks, orders: &[[u8; LENGTH]; LANES]) -> Self {
        // Zeros at the ranks of the other word's values.
        let mut products = [[[0.0; LANES]; LENGTH]; WORDS];
        let mut sorted = [[[0.0; LANES]; LENGTH]; WORDS];
        for (lane, order) in orders.iter().enumerate() {
            for (rank, position) in order.iter().enumerate() {
                let position = usize::from(*position) % LENGTH;
                let weight = weights[lane][position];
                products[position / 8][rank][lane] = weight * values[lane][position];
                sorted[position / 8][rank][lane] = weight;
            }
        }
        let zeros = [[L::zero(); ENDS]; WORDS];
        let mut sums = Self { x: zeros, w: zeros };
        for word in 0..WORDS {
            let (x, w) = (&mut sums.x[word], &mut sums.w[word]);
            for rank in 0..LENGTH {
                x[rank + 1] = x[rank] + L::load(&products[word][rank]);
                w[rank + 1] = w[rank] + L::load(&sorted[word][rank]);
            }
        }
        sums
    }
}

/// What both sums of a word are with one shift, split by split.
struct Part<L> {
    /// The weighted sum of all values with the highest level.
    all_x: L,
    /// The same of the squared levels.
    all_w: L,
    /// What a weight of the lowest level adds to that, less what one of the middle
    /// level does.
    low: L,
    /// What a weight at each rank's second end adds.
    high: [L; ENDS],
}

impl<L: Lanes> Part<L> {
    #[inline(always)]
    fn new(x: &[L; ENDS], w: &[L; ENDS], line: Line) -> Self {
        let [low, middle, high] = [0.0, 1.0, 2.0].map(|level| line.first + level);
        let top = L::splat(high);
        let step = L::splat(middle * middle - high * high);
        let mut part = Self {
            all_x: x[LENGTH] * top,
            all_w: w[LENGTH] * top * top,
            low: L::splat(low * low - middle * middle),
            high: [L::zero(); ENDS],
        };
        for (high, w) in part.high.iter_mut().zip(w) {
            *high = *w * step;
        }
        part
    }
}

/// The best split of each lane. Levels are one apart, so a sum over the three parts of a
/// split is the highest level's share of all values less the sums up to both ends.
#[inline(always)]
fn best_splits<L: Lanes>(sums: &Prefixes<L>) -> [Split; LANES] {
    let up = [Part::new(&sums.x[0], &sums.w[0], UP), Part::new(&sums.x[1], &sums.w[1], UP)];
    let down = [Part::new(&sums.x[0], &sums.w[0], DOWN), Part::new(&sums.x[1], &sums.w[1], DOWN)];
    let mut best = Best::<L, ENDS, { SHIFTS.len() }>::none();
    for first in 0..ENDS {
        let (x, w) = ([sums.x[0][first], sums.x[1][first]], [sums.w[0][first], sums.w[1][first]]);
        let low_up = [up[0].all_w + w[0] * up[0].low, up[1].all_w + w[1] * up[1].low];
        let low_down = [down[0].all_w + w[0] * down[0].low, down[1].all_w + w[1] * down[1].low];
        for second in first..ENDS {
            let x = [x[0] + sums.x[0][second], x[1] + sums.x[1][second]];
            let xq_up = [up[0].all_x - x[0], up[1].all_x - x[1]];
            let xq_down = [down[0].all_x - x[0], down[1].all_x - x[1]];
            let q2_up = [low_up[0] + up[0].high[second], low_up[1] + up[1].high[second]];
            let q2_down = [low_down[0] + down[0].high[second], low_down[1] + down[1].high[second]];
            // In the order of `SHIFTS`.
            let tries = [
                (xq_up[0] + xq_up[1], q2_up[0] + q2_up[1]),
                (xq_up[0] + xq_down[1], q2_up[0] + q2_down[1]),
                (xq_down[0] + xq_up[1], q2_down[0] + q2_up[1]),
                (xq_down[0] + xq_down[1], q2_down[0] + q2_down[1]),
            ];
            let better = (best.is_below(tries[0].0, tries[0].1)
                | best.is_below(tries[1].0, tries[1].1))
                | (best.is_below(tries[2].0, tries[2].1) | best.is_below(tries[3].0, tries[3].1));
            if better.any() {
                for (shift, (sum_xq, sum_q2)) in tries.into_iter().enumerate() {
                    best.improve(sum_xq, sum_q2, (first, second), shift);
                }
            }
        }
    }
    best.splits()
}

/// The words of a split sub-block.
#[inline(always)]
fn fit_words<L: Lanes>(
    book: &Codebook2,
    target: &Target<'_>,
    order: &[u8; LENGTH],
    split: &Split,
) -> Fit {
    // The values of largest magnitude are at the ends.
    let [lowest, .., highest] = order;
    let magnitude = |at: &u8| target.values.as_flattened()[usize::from(*at)].abs();
    let is_zero = magnitude(lowest) < ZERO_BELOW && magnitude(highest) < ZERO_BELOW;
    let Some(ends) = split.ends.filter(|_| !is_zero) else { return Fit::ZERO };
    let turned = split.scale < 0.0;
    let shifts = SHIFTS[split.shift].map(|down| down != turned);
    let scale = if turned { -split.scale } else { split.scale };
    let mut codes = codes(order, ends, turned);
    let scale = target.move_to_points::<L, WORDS>(book, &lines(shifts), &mut codes, scale);
    Fit { scale, codes, shifts }
}

#[inline(always)]
fn store(
    book: &Codebook2,
    values: &SubBlocks,
    weights: &SubBlocks,
    fits: &[Fit; COUNT],
    block: &mut [u8; BYTES],
) {
    block.fill(0);
    for (position, fit) in fits.iter().enumerate() {
        for (word, code) in fit.codes.into_iter().enumerate() {
            let number = book.number(code);
            block[WORDS * position + word] = number as u8;
            block[UPPER + position] |= ((number >> 8) as u8) << (4 * word);
        }
    }
    let Some((unit, scales)) = odd_multiples(&fits.map(|fit| fit.scale), TOP) else { return };
    let mut packed = [0u16; 4];
    for (position, (fit, scale)) in fits.iter().zip(scales).enumerate() {
        packed[position / 4] |= u16::from(scale) << (3 * (position % 4));
        for (word, down) in fit.shifts.into_iter().enumerate() {
            block[UPPER + position] |= u8::from(down) << (4 * word + 3);
        }
    }
    let unit = if unit.is_nan() { unit } else { refit(values, weights, fits, &scales, unit) };
    let half = f16_from_f32(unit * FACTOR);
    for (nibble, packed) in packed.into_iter().enumerate() {
        set_half_at(block, SCALES + 2 * nibble, packed | half >> (4 * nibble) << 12);
    }
}

/// What a scale is worth with the least error for all words and scales as they are.
#[inline(always)]
fn refit(
    values: &SubBlocks,
    weights: &SubBlocks,
    fits: &[Fit; COUNT],
    scales: &[u8; COUNT],
    unit: f32,
) -> f32 {
    let (mut sum_xq, mut sum_q2) = (0.0, 0.0);
    for (position, fit) in fits.iter().enumerate() {
        let target = target(values[position], weights[position]);
        let scale = f32::from(2 * scales[position] + 1);
        for (word, (line, code)) in fit.lines().into_iter().zip(fit.codes).enumerate() {
            let levels = levels_of(line, code).map(|level| level * scale);
            (sum_xq, sum_q2) = target.add_word(word, &levels, sum_xq, sum_q2);
        }
    }
    if sum_q2 > 0.0 { sum_xq / sum_q2 } else { unit }
}
