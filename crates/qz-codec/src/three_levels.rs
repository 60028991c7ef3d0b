//! Sub-blocks of IQ1_S and IQ1_M: their values become -1, 0 or 1, all plus an eighth or
//! all minus an eighth, eight values a word of a codebook.
//!
//! The best split of the sorted values into three levels is found by trying all of
//! them; words that the codebook lacks are replaced by near ones.

use std::sync::LazyLock;

use crate::codebook::{Codebook2, Line};
use crate::lanes::{LANES, Lanes, Mask};
use crate::words::{IQ1, levels};

/// What the levels are moved by.
pub(crate) const SHIFT: f32 = 0.125;

/// The levels, an eighth up.
pub(crate) const UP: Line = Line { first: -1.0 + SHIFT, step: 1.0 };

/// The levels, an eighth down.
pub(crate) const DOWN: Line = Line { first: -1.0 - SHIFT, step: 1.0 };

/// Each word's levels plus 1, by number.
pub(crate) static LEVELS: [[u8; 8]; 2048] = levels(&IQ1, &[0, 1, 2]);

/// The codebook for encoding.
pub(crate) static CODEBOOK: LazyLock<Codebook2> = LazyLock::new(|| Codebook2::new(&IQ1, 3));

/// The values of a word.
#[inline(always)]
pub(crate) fn decode_word(number: u16, shift: f32, scale: f32, out: &mut [f32; 8]) {
    for (value, level) in out.iter_mut().zip(LEVELS[usize::from(number)]) {
        *value = scale * (f32::from(level) - 1.0 + shift);
    }
}

/// The positions of the values in ascending order, of equal ones in their own order.
/// The reference sorts with C's `qsort`, which leaves open the order of equal keys;
/// glibc's is a merge sort for so few, and keeps it.
#[inline(always)]
pub(crate) fn ascending<const LENGTH: usize>(values: &[f32; LENGTH]) -> [u8; LENGTH] {
    let mut keys = [0; LENGTH];
    for (position, (key, value)) in keys.iter_mut().zip(values).enumerate() {
        // Both zeros are equal. Integers in the order of the floats: all bits of
        // negative ones turned, the sign of others.
        let bits = (value + 0.0).to_bits();
        let turned = bits ^ ((bits as i32 >> 31) as u32 | 0x8000_0000);
        *key = u64::from(turned) << 32 | position as u64;
    }
    keys.sort_unstable();
    keys.map(|key| key as u8)
}

/// The codes of the words in which the values below rank `ends.0` have the lowest
/// level, those from rank `ends.1` on the highest, or the other way around.
#[inline(always)]
pub(crate) fn codes<const LENGTH: usize, const WORDS: usize>(
    order: &[u8; LENGTH],
    ends: (usize, usize),
    turned: bool,
) -> [u16; WORDS] {
    let mut levels = 0u64;
    for (rank, position) in order.iter().enumerate() {
        let level = u64::from(rank >= ends.0) + u64::from(rank >= ends.1);
        levels |= level << (2 * position);
    }
    if turned {
        // The digits are at most 2, so nothing is borrowed.
        levels = 0xaaaa_aaaa_aaaa_aaaa - levels;
    }
    let mut codes = [0; WORDS];
    for (word, code) in codes.iter_mut().enumerate() {
        *code = (levels >> (16 * word)) as u16;
    }
    codes
}

/// A split of sorted values into three levels, and the scale with the least error.
#[derive(Clone, Copy, Default)]
pub(crate) struct Split {
    pub scale: f32,
    /// The ranks at which the second and the third level begin; none if no split has
    /// an error.
    pub ends: Option<(usize, usize)>,
    /// Which of the ways to shift the levels.
    pub shift: usize,
}

/// The best split so far in each lane, of `ENDS` places to split at and `SHIFTS` ways
/// to shift the levels.
pub(crate) struct Best<L, const ENDS: usize, const SHIFTS: usize> {
    score: L,
    scale: L,
    /// The split's number; -1 if there is none.
    number: L,
}

impl<L: Lanes, const ENDS: usize, const SHIFTS: usize> Best<L, ENDS, SHIFTS> {
    #[inline(always)]
    pub(crate) fn none() -> Self {
        Self { score: L::splat(-f32::MAX), scale: L::zero(), number: L::splat(-1.0) }
    }

    /// Where a split is better than the best.
    #[inline(always)]
    pub(crate) fn is_below(&self, sum_xq: L, sum_q2: L) -> L::Mask {
        sum_q2.greater(L::zero()) & (sum_xq * sum_xq).greater(self.score * sum_q2)
    }

    /// Takes a split where it is better.
    #[inline(always)]
    pub(crate) fn improve(&mut self, sum_xq: L, sum_q2: L, ends: (usize, usize), shift: usize) {
        let number = (ends.0 * ENDS + ends.1) * SHIFTS + shift;
        let better = self.is_below(sum_xq, sum_q2);
        self.scale = better.select(sum_xq / sum_q2, self.scale);
        self.score = better.select(self.scale * sum_xq, self.score);
        self.number = better.select(L::splat(number as f32), self.number);
    }

    #[inline(always)]
    pub(crate) fn splits(self) -> [Split; LANES] {
        let (scales, numbers) = (self.scale.store(), self.number.store());
        let mut splits = [Split::default(); LANES];
        for (split, (scale, found)) in splits.iter_mut().zip(scales.into_iter().zip(numbers)) {
            let number = found as usize;
            let ends = (number / SHIFTS / ENDS, number / SHIFTS % ENDS);
            let ends = (found >= 0.0).then_some(ends);
            *split = Split { scale, ends, shift: number % SHIFTS };
        }
        splits
    }
}

/// A sub-block's values, in words, and what their errors count.
pub(crate) struct Target<'a> {
    pub values: &'a [[f32; 8]],
    pub weights: &'a [[f32; 8]],
}

impl Target<'_> {
    /// Puts the codes on points of the codebook (ggml-quants.c,
    /// `iq1_find_best_neighbour2`), and gives the scale that comes of them: the same if
    /// they are there already. It is not a number where the reference ends the process.
    ///
    /// Where all neighbours' errors overflow, the reference goes on to compare all
    /// points with values from outside the sub-block, which seldom changes that.
    #[inline(always)]
    pub(crate) fn move_to_points<L: Lanes, const WORDS: usize>(
        &self,
        book: &Codebook2,
        lines: &[Line; WORDS],
        codes: &mut [u16; WORDS],
        scale: f32,
    ) -> f32 {
        let (mut exact, mut lost) = (true, false);
        for (word, code) in codes.iter_mut().enumerate() {
            let (line, values, weights) = (lines[word], &self.values[word], &self.weights[word]);
            let found = book.find::<L>(line, *code, scale, values, weights);
            *code = found.code;
            if !found.exact {
                exact = false;
                let error = error(line, found.code, scale, values, weights);
                lost |= error.is_nan() || error >= f32::MAX;
            }
        }
        // False for NaNs.
        let is_scale = scale >= 0.0;
        if lost || !is_scale {
            return f32::NAN;
        }
        if exact {
            return scale;
        }
        let (mut sum_xq, mut sum_q2) = (0.0, 0.0);
        for (word, code) in codes.iter().enumerate() {
            let levels = levels_of(lines[word], *code);
            (sum_xq, sum_q2) = self.add_word(word, &levels, sum_xq, sum_q2);
        }
        if sum_xq > 0.0 && sum_q2 > 0.0 { sum_xq / sum_q2 } else { scale }
    }

    /// Adds a word's weighted products of values and levels, and of levels with
    /// themselves, to the sums.
    #[inline(always)]
    pub(crate) fn add_word(
        &self,
        word: usize,
        levels: &[f32; 8],
        mut sum_xq: f32,
        mut sum_q2: f32,
    ) -> (f32, f32) {
        let pairs = self.values[word].iter().zip(&self.weights[word]);
        for ((value, weight), level) in pairs.zip(levels) {
            sum_xq += weight * level * value;
            sum_q2 += weight * level * level;
        }
        (sum_xq, sum_q2)
    }
}

/// What the levels of a code stand for.
#[inline(always)]
pub(crate) fn levels_of(line: Line, code: u16) -> [f32; 8] {
    let mut levels = [0.0; 8];
    for (level, digit) in levels.iter_mut().zip(Codebook2::levels(code)) {
        *level = line.first + f32::from(digit);
    }
    levels
}

/// A word's weighted squared error.
#[inline(always)]
fn error(line: Line, code: u16, scale: f32, values: &[f32; 8], weights: &[f32; 8]) -> f32 {
    let mut error = 0.0;
    for ((level, value), weight) in levels_of(line, code).iter().zip(values).zip(weights) {
        let difference = scale * level - value;
        error += weight * difference * difference;
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_keep_their_order() {
        let check = |values: [f32; 8], expected: [u8; 8]| {
            assert_eq!(ascending(&values), expected, "{values:?}");
        };
        check([0.0, -0.0, 0.0, -0.0, 0.0, -0.0, 0.0, -0.0], [0, 1, 2, 3, 4, 5, 6, 7]);
        check([2.0, 1.0, 2.0, 1.0, -1.0, -2.0, -1.0, -2.0], [5, 7, 4, 6, 1, 3, 0, 2]);
        check([f32::MAX, 1e-45, f32::MIN, -1e-45, 0.0, 1.0, -1.0, -0.0], [2, 6, 3, 4, 7, 1, 5, 0]);
    }

    #[test]
    fn ranks_become_levels() {
        let order = [3, 2, 1, 0, 7, 6, 5, 4];
        let check = |ends: (usize, usize), turned: bool, expected: u16| {
            assert_eq!(codes::<8, 1>(&order, ends, turned), [expected], "{ends:?} {turned}");
        };
        check((0, 0), false, 0xaaaa);
        check((8, 8), false, 0);
        check((0, 0), true, 0);
        check((1, 7), false, 0b01_01_01_10_00_01_01_01);
        check((1, 7), true, 0b01_01_01_00_10_01_01_01);
    }
}
