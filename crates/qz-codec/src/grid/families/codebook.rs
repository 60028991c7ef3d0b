//! A codebook of four magnitudes to a word, with free signs but for one: of each eight
//! columns an even number is negative, so that seven bits hold eight signs. A lane is
//! these eight columns: two words and their signs.

use super::super::search::{Alphabet, Group, RealLine};

/// Columns of a word.
const WORD: usize = 4;
/// Columns of a lane.
pub(super) const LANE: usize = 2 * WORD;
/// Words looked at where the search has to be quick.
const SHORT: usize = 12;
/// Words that count as a word's neighbours.
const NEAR: usize = 12;
/// Words compared in full where columns are correlated.
const RERANKED: usize = 16;

/// The words, and what is known of them beforehand.
pub(super) struct Codebook {
    /// Ascending.
    magnitudes: [f64; 8],
    words: Vec<[f64; WORD]>,
    /// For each combination of nearest magnitudes, the nearest words.
    shortlists: Vec<[u8; SHORT]>,
    /// For each word, the nearest others.
    neighbours: Vec<[u8; NEAR]>,
}

/// What a lane stores: two words, and a bit for each negative column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    pub words: [u8; 2],
    pub signs: u8,
}

/// A word with signs for half a lane, and its error.
#[derive(Clone, Copy)]
struct Candidate {
    error: f64,
    word: u8,
    signs: u8,
}

/// The best for half a lane with an even and with an odd number of negatives.
type Half = [Candidate; 2];

fn parity(signs: u8) -> usize {
    (signs.count_ones() % 2) as usize
}

fn squares(a: &[f64; WORD], b: &[f64; WORD]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

impl Codebook {
    /// A codebook from words of four octal digits, the first column's lowest.
    pub(super) fn new(magnitudes: [u8; 8], words: &[u16]) -> Self {
        let magnitudes = magnitudes.map(f64::from);
        let digits = |word: u16| -> [f64; WORD] {
            std::array::from_fn(|column| magnitudes[usize::from(word >> (3 * column) & 7)])
        };
        let words: Vec<_> = words.iter().map(|word| digits(*word)).collect();
        let nearest = |point: &[f64; WORD]| {
            let mut order: Vec<u8> = (0..words.len()).map(|word| word as u8).collect();
            order.sort_by(|a, b| {
                let distance = |word: &u8| squares(&words[usize::from(*word)], point);
                distance(a).total_cmp(&distance(b)).then(a.cmp(b))
            });
            order
        };
        let shortlists = (0..1 << (3 * WORD)).map(|cell| {
            let order = nearest(&digits(cell));
            std::array::from_fn(|position| order[position])
        });
        let neighbours = words.iter().map(|word| {
            let order = nearest(word);
            std::array::from_fn(|position| order[position + 1])
        });
        Self {
            magnitudes,
            shortlists: shortlists.collect(),
            neighbours: neighbours.collect(),
            words,
        }
    }

    /// The signed levels of a choice.
    pub(super) fn levels(&self, choice: Choice) -> [f64; LANE] {
        std::array::from_fn(|column| {
            let magnitude = self.words[usize::from(choice.words[column / WORD])][column % WORD];
            if choice.signs >> column & 1 == 1 { -magnitude } else { magnitude }
        })
    }

    /// The best choice for a lane whose columns' errors count each alone. Among
    /// all words if `all`, else among a few.
    pub(super) fn nearest(&self, target: &[f64; LANE], weights: &[f64; LANE], all: bool) -> Choice {
        let halves = self.halves(target, weights, all);
        let [even, odd] = [0, 1].map(|parity| joined(&halves, parity));
        if odd.0 < even.0 { odd.1 } else { even.1 }
    }

    fn halves(&self, target: &[f64; LANE], weights: &[f64; LANE], all: bool) -> [Half; 2] {
        [0, 1].map(|half| {
            let (target, weights) = (part(target, half), part(weights, half));
            if all {
                self.best(&target, &weights, 0..=u8::MAX)
            } else {
                let cell = self.cell(&target);
                self.best(&target, &weights, self.shortlists[cell].iter().copied())
            }
        })
    }

    /// The combination of magnitudes nearest to a target.
    fn cell(&self, target: &[f64; WORD]) -> usize {
        target.iter().rev().fold(0, |cell, value| {
            let above =
                self.magnitudes.windows(2).filter(|pair| 2.0 * value.abs() > pair[0] + pair[1]);
            cell << 3 | above.count()
        })
    }

    /// The best word for each parity. Signs are the target's own, or with the other
    /// parity all but the one that costs least: any other choice has more wrong ones.
    fn best(
        &self,
        target: &[f64; WORD],
        weights: &[f64; WORD],
        words: impl Iterator<Item = u8>,
    ) -> Half {
        let signs = negatives(target);
        let magnitudes = target.map(f64::abs);
        let none = Candidate { error: f64::INFINITY, word: 0, signs };
        let (mut right, mut wrong) = (none, Candidate { signs: signs ^ 1, ..none });
        for word in words {
            let levels = &self.words[usize::from(word)];
            let (mut error, mut cheapest, mut flipped) = (0.0, f64::INFINITY, 0);
            for column in 0..WORD {
                let difference = magnitudes[column] - levels[column];
                error += weights[column] * difference * difference;
                let flip = 4.0 * weights[column] * magnitudes[column] * levels[column];
                if flip < cheapest {
                    (cheapest, flipped) = (flip, column);
                }
            }
            if error < right.error {
                right = Candidate { error, word, signs };
            }
            if error + cheapest < wrong.error {
                let signs = signs ^ 1 << flipped;
                wrong = Candidate { error: error + cheapest, word, signs };
            }
        }
        if parity(signs) == 0 { [right, wrong] } else { [wrong, right] }
    }

    /// A choice with a small error under a block: from the best by the diagonal with
    /// even halves and with odd ones, each half improved in turn.
    pub(super) fn nearest_in_block(
        &self,
        target: &[f64; LANE],
        block: &[[f64; LANE]; LANE],
    ) -> Choice {
        let diagonal = std::array::from_fn(|column| block[column][column]);
        let halves = self.halves(target, &diagonal, true);
        let improved = [0, 1].map(|parity| self.improve(target, block, joined(&halves, parity).1));
        if improved[1].0 < improved[0].0 { improved[1].1 } else { improved[0].1 }
    }

    fn improve(
        &self,
        target: &[f64; LANE],
        block: &[[f64; LANE]; LANE],
        start: Choice,
    ) -> (f64, Choice) {
        let mut best = (self.block_error(target, block, start), start);
        for _ in 0..3 {
            let before = best.0;
            for half in [0, 1] {
                let choice = self.other_half(target, block, best.1, half);
                let error = self.block_error(target, block, choice);
                if error < best.0 {
                    best = (error, choice);
                }
            }
            if best.0 >= before {
                break;
            }
        }
        best
    }

    /// The choice with one half replaced by what is best beside the other.
    fn other_half(
        &self,
        target: &[f64; LANE],
        block: &[[f64; LANE]; LANE],
        mut choice: Choice,
        half: usize,
    ) -> Choice {
        let (own, other) = (half * WORD, (1 - half) * WORD);
        let levels = self.levels(choice);
        let corner: [[f64; WORD]; WORD] =
            std::array::from_fn(|i| std::array::from_fn(|j| block[own + i][own + j]));
        let pull = std::array::from_fn(|j| {
            (0..WORD)
                .map(|i| (target[other + i] - levels[other + i]) * block[other + i][own + j])
                .sum()
        });
        let wanted = solve(corner, pull);
        let wanted: [f64; WORD] =
            std::array::from_fn(|column| target[own + column] + wanted[column]);
        let diagonal = std::array::from_fn(|column| corner[column][column]);
        let needed = parity(choice.signs >> other & 15);
        let mut best = f64::INFINITY;
        for word in self.best_words(&wanted, &diagonal) {
            for signs in (0..16u8).filter(|signs| parity(*signs) == needed) {
                let error = self.half_error(&wanted, &corner, word, signs);
                if error < best {
                    best = error;
                    choice.words[half] = word;
                    choice.signs = choice.signs & !(15 << own) | signs << own;
                }
            }
        }
        choice
    }

    fn half_error(
        &self,
        target: &[f64; WORD],
        corner: &[[f64; WORD]; WORD],
        word: u8,
        signs: u8,
    ) -> f64 {
        let errors: [f64; WORD] = std::array::from_fn(|column| {
            let level = self.words[usize::from(word)][column];
            target[column] - if signs >> column & 1 == 1 { -level } else { level }
        });
        quadratic(&errors, corner)
    }

    /// The words with the least error by a diagonal, whatever their signs.
    fn best_words(&self, target: &[f64; WORD], weights: &[f64; WORD]) -> Vec<u8> {
        let error = |word: u8| -> f64 {
            let columns = self.words[usize::from(word)].iter().zip(target).zip(weights);
            columns.map(|((level, value), weight)| weight * (value.abs() - level).powi(2)).sum()
        };
        let mut order: Vec<(f64, u8)> =
            (0..self.words.len()).map(|word| (error(word as u8), word as u8)).collect();
        let ascending = |a: &(f64, u8), b: &(f64, u8)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        order.select_nth_unstable_by(RERANKED, ascending);
        order.truncate(RERANKED);
        order.into_iter().map(|(_, word)| word).collect()
    }

    fn block_error(
        &self,
        target: &[f64; LANE],
        block: &[[f64; LANE]; LANE],
        choice: Choice,
    ) -> f64 {
        let levels = self.levels(choice);
        let errors: [f64; LANE] = std::array::from_fn(|column| target[column] - levels[column]);
        quadratic(&errors, block)
    }

    /// Choices a small step away: one word replaced by a near one, or two signs turned.
    pub(super) fn neighbours(&self, choice: Choice, mut visit: impl FnMut(Choice)) {
        for half in [0, 1] {
            for word in self.neighbours[usize::from(choice.words[half])] {
                let mut other = choice;
                other.words[half] = word;
                visit(other);
            }
        }
        for first in 0..LANE {
            for second in first + 1..LANE {
                visit(Choice { signs: choice.signs ^ 1 << first ^ 1 << second, ..choice });
            }
        }
    }
}

/// Half of a lane.
fn part(lane: &[f64; LANE], half: usize) -> [f64; WORD] {
    std::array::from_fn(|column| lane[half * WORD + column])
}

fn negatives(target: &[f64; WORD]) -> u8 {
    (0..WORD).map(|column| u8::from(target[column] < 0.0) << column).sum()
}

/// Two halves of the same parity, and their error.
fn joined(halves: &[Half; 2], parity: usize) -> (f64, Choice) {
    let [low, high] = halves.map(|half| half[parity]);
    let choice = Choice { words: [low.word, high.word], signs: low.signs | high.signs << WORD };
    (low.error + high.error, choice)
}

fn quadratic<const N: usize>(vector: &[f64; N], matrix: &[[f64; N]; N]) -> f64 {
    let products = matrix.iter().zip(vector).map(|(row, factor)| {
        factor * row.iter().zip(vector).map(|(entry, value)| entry * value).sum::<f64>()
    });
    products.sum()
}

/// Solves `x A = b` for a symmetric positive definite matrix by elimination; zeros if
/// it is not.
fn solve(mut matrix: [[f64; WORD]; WORD], mut right: [f64; WORD]) -> [f64; WORD] {
    for pivot in 0..WORD {
        let row = matrix[pivot];
        if row[pivot] <= 0.0 || !row[pivot].is_finite() {
            return [0.0; WORD];
        }
        for below in pivot + 1..WORD {
            let factor = matrix[below][pivot] / row[pivot];
            for (entry, above) in matrix[below].iter_mut().zip(row) {
                *entry -= factor * above;
            }
            right[below] -= factor * right[pivot];
        }
    }
    for pivot in (0..WORD).rev() {
        for later in pivot + 1..WORD {
            right[pivot] -= matrix[pivot][later] * right[later];
        }
        right[pivot] /= matrix[pivot][pivot];
    }
    right
}

impl Alphabet for Codebook {
    fn lowest(&self) -> f64 {
        -self.magnitudes[7]
    }

    fn highest(&self) -> f64 {
        self.magnitudes[7]
    }

    fn gap(&self) -> f64 {
        self.magnitudes[7] - self.magnitudes[6]
    }

    fn round(&self, line: RealLine, group: Group<'_>, levels: &mut [f64]) {
        let inverse = 1.0 / line.scale;
        let values = group.values.as_chunks::<LANE>().0.iter();
        let weights = group.weights.as_chunks::<LANE>().0;
        let levels = levels.as_chunks_mut::<LANE>().0;
        for ((values, weights), levels) in values.zip(weights).zip(levels) {
            let target = values.map(|value| f64::from(value) * inverse);
            *levels = self.levels(self.nearest(&target, &weights.map(f64::from), false));
        }
    }
}
