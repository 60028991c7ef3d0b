//! A codebook of eight levels -1, 0 or 1 to a word, all of them shifted by the same.

use super::super::Metric;
use super::super::search::{Group, RealLine};
use crate::three_levels::SHIFT;
use crate::words::IQ1;

/// Columns of a word, and of a lane.
pub(super) const LANE: usize = 8;
/// Columns of half a word: 8 bits of its code.
const HALF: usize = LANE / 2;
/// What the bits of half a word can be.
const HALVES: usize = 1 << (2 * HALF);
/// Words looked at where the search has to be quick.
const SHORT: usize = 13;

/// What the levels can be shifted by.
pub(super) const SHIFTS: [f64; 2] = [SHIFT as f64, -SHIFT as f64];

/// A word's number, and that of its shift.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    pub number: u16,
    pub shift: usize,
}

/// What is known of the words beforehand.
pub(super) struct Words {
    /// For each combination of levels, by its digits to base 3: the nearest words, of
    /// equally near ones the lowest number first.
    shortlists: Vec<[u16; SHORT]>,
}

/// What the errors of half a word cost.
struct Half {
    errors: [[f64; HALF]; HALVES],
    costs: [f64; HALVES],
}

fn digit(code: u16, column: usize) -> usize {
    usize::from(code >> (2 * column) & 3)
}

/// A combination's place among the shortlists.
fn place(digits: impl Iterator<Item = usize>) -> usize {
    digits.fold(0, |place, digit| 3 * place + digit)
}

impl Words {
    pub(super) fn new() -> Self {
        let combinations = 3usize.pow(LANE as u32);
        let shortlists = (0..combinations).map(|number| {
            let digits: [usize; LANE] =
                std::array::from_fn(|column| number / 3usize.pow((LANE - 1 - column) as u32) % 3);
            let mut order: Vec<(usize, u16)> = Vec::with_capacity(IQ1.len());
            for (number, code) in (0..).zip(&IQ1) {
                let distance = (0..LANE).map(|at| digits[at].abs_diff(digit(*code, at)).pow(2));
                order.push((distance.sum(), number));
            }
            order.select_nth_unstable(SHORT);
            order.truncate(SHORT);
            order.sort_unstable();
            std::array::from_fn(|position| order[position].1)
        });
        Self { shortlists: shortlists.collect() }
    }

    /// What a word's columns are multiples of the scale by.
    pub(super) fn levels(&self, word: Word) -> [f64; LANE] {
        let code = IQ1[usize::from(word.number)];
        std::array::from_fn(|column| level(digit(code, column), word.shift))
    }

    /// Other words that are near.
    pub(super) fn neighbours(&self, number: u16) -> impl Iterator<Item = u16> {
        let code = IQ1[usize::from(number)];
        let near = self.shortlists[place((0..LANE).map(|column| digit(code, column)))];
        // The nearest is the word itself.
        near.into_iter().skip(1)
    }

    /// The word with the least error, of those with some shifts.
    pub(super) fn nearest(
        &self,
        target: &[f64; LANE],
        metric: Metric<'_>,
        shifts: &[usize],
    ) -> Word {
        let block = block(metric);
        let is_diagonal = matches!(metric, Metric::Diagonal(_));
        let mut best = (f64::INFINITY, Word { number: 0, shift: shifts[0] });
        for &shift in shifts {
            let [low, high] = [0, HALF].map(|first| Half::new(target, &block, first, shift));
            // What half the errors pull the others with.
            let pulls: Vec<[f64; HALF]> = match is_diagonal {
                true => Vec::new(),
                false => low.errors.iter().map(|errors| pull(errors, &block)).collect(),
            };
            for (number, code) in (0..).zip(&IQ1) {
                let (a, b) = (usize::from(code & 0xff), usize::from(code >> 8));
                let mut cost = low.costs[a] + high.costs[b];
                if let Some(pull) = pulls.get(a) {
                    let products = pull.iter().zip(&high.errors[b]);
                    cost += products.map(|(pull, error)| pull * error).sum::<f64>();
                }
                if cost < best.0 {
                    best = (cost, Word { number, shift });
                }
            }
        }
        best.1
    }

    /// Rounds a group's lanes to near words, each with any of some shifts.
    pub(super) fn round(
        &self,
        line: RealLine,
        group: Group<'_>,
        shifts: &[usize],
        levels: &mut [f64],
    ) {
        let inverse = 1.0 / line.scale;
        let values = group.values.as_chunks::<LANE>().0.iter();
        let weights = group.weights.as_chunks::<LANE>().0;
        let levels = levels.as_chunks_mut::<LANE>().0;
        for ((values, weights), levels) in values.zip(weights).zip(levels) {
            let target = values.map(|value| f64::from(value) * inverse);
            let word = self.near(&target, weights, shifts);
            *levels = self.levels(word);
        }
    }

    /// The best word of the shortlists.
    fn near(&self, target: &[f64; LANE], weights: &[f32; LANE], shifts: &[usize]) -> Word {
        let mut best = (f64::INFINITY, Word { number: 0, shift: shifts[0] });
        for &shift in shifts {
            let nearest = |value: &f64| (value - SHIFTS[shift]).round().clamp(-1.0, 1.0);
            let cell = place(target.iter().map(|value| (nearest(value) + 1.0) as usize));
            for number in self.shortlists[cell] {
                let word = Word { number, shift };
                let columns = self.levels(word).into_iter().zip(target).zip(weights);
                let error = columns.fold(0.0, |sum, ((level, value), weight)| {
                    sum + f64::from(*weight) * (level - value) * (level - value)
                });
                if error < best.0 {
                    best = (error, word);
                }
            }
        }
        best.1
    }
}

impl Half {
    /// For the half of the columns that begins at `first`.
    fn new(target: &[f64; LANE], block: &[[f64; LANE]; LANE], first: usize, shift: usize) -> Self {
        let mut half = Self { errors: [[0.0; HALF]; HALVES], costs: [0.0; HALVES] };
        for code in 0..HALVES {
            let digits: [usize; HALF] = std::array::from_fn(|column| digit(code as u16, column));
            if digits.contains(&3) {
                continue;
            }
            let errors: [f64; HALF] =
                std::array::from_fn(|column| level(digits[column], shift) - target[first + column]);
            let rows = errors.iter().enumerate().map(|(row, error)| {
                let entries = block[first + row][first..].iter().zip(&errors);
                error * entries.map(|(entry, error)| entry * error).sum::<f64>()
            });
            half.costs[code] = rows.sum();
            half.errors[code] = errors;
        }
        half
    }
}

fn level(digit: usize, shift: usize) -> f64 {
    digit as f64 - 1.0 + SHIFTS[shift]
}

/// The metric as a matrix.
fn block(metric: Metric<'_>) -> [[f64; LANE]; LANE] {
    let mut block = [[0.0; LANE]; LANE];
    for (row, entries) in block.iter_mut().enumerate() {
        match metric {
            Metric::Diagonal(weights) => entries[row] = f64::from(weights[row]),
            Metric::Block(rows) => {
                *entries = std::array::from_fn(|at| f64::from(rows.row(row)[at]))
            }
        }
    }
    block
}

/// Twice the first half's errors times the corner of the block between the halves.
fn pull(errors: &[f64; HALF], block: &[[f64; LANE]; LANE]) -> [f64; HALF] {
    std::array::from_fn(|column| {
        let entries =
            errors.iter().enumerate().map(|(row, error)| error * block[row][HALF + column]);
        2.0 * entries.sum::<f64>()
    })
}
