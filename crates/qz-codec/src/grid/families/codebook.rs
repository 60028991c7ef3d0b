//! A codebook of four or eight magnitudes to a word, with signs: free ones, or free but
//! for one, where of each eight columns an even number is negative, so that seven bits
//! hold eight signs. A lane is eight columns: a word or two, and their signs.

use super::super::search::{Alphabet, Group, RealLine};

/// Columns of a lane.
pub(in super::super) const LANE: usize = 8;
/// Words looked at where the search has to be quick.
const SHORT: usize = 12;
/// Words that count as a word's neighbours.
const NEAR: usize = 12;
/// Words compared in full where columns are correlated.
const RERANKED: usize = 16;

/// The words, of `WORD` columns each, and what is known of them beforehand.
pub(super) struct Codebook<const WORD: usize> {
    /// Ascending.
    magnitudes: Vec<f64>,
    words: Vec<[f64; WORD]>,
    /// For each combination of nearest magnitudes, the nearest words.
    shortlists: Vec<[u16; SHORT]>,
    /// For each word, the nearest others.
    neighbours: Vec<[u16; NEAR]>,
    negatives: Negatives,
}

/// Which columns of a lane may be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Negatives {
    /// Any.
    Free,
    /// An even number of them.
    Even,
}

/// What a lane stores: a word or two, and a bit for each negative column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Choice {
    pub words: [u16; 2],
    pub signs: u8,
}

/// A word with signs for its part of a lane, and its error.
#[derive(Clone, Copy)]
struct Candidate {
    error: f64,
    word: u16,
    signs: u8,
}

/// The best for a part of a lane with an even and with an odd number of negatives.
type Part = [Candidate; 2];

fn parity(signs: u8) -> usize {
    (signs.count_ones() % 2) as usize
}

fn squares<const WORD: usize>(a: &[f64; WORD], b: &[f64; WORD]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// The nearest `COUNT` of some words, after the first `skipped`.
fn nearest<const WORD: usize, const COUNT: usize>(
    words: &[[f64; WORD]],
    point: &[f64; WORD],
    skipped: usize,
) -> [u16; COUNT] {
    let distances = words.iter().map(|word| squares(word, point));
    let mut order: Vec<(f64, u16)> = distances.zip(0..).collect();
    let ascending = |a: &(f64, u16), b: &(f64, u16)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
    order.select_nth_unstable_by(skipped + COUNT, ascending);
    order.truncate(skipped + COUNT);
    order.sort_by(ascending);
    std::array::from_fn(|position| order[skipped + position].1)
}

impl<const WORD: usize> Codebook<WORD> {
    /// Words of a lane.
    const PARTS: usize = LANE / WORD;

    /// A codebook from packed words (`crate::words`).
    pub(super) fn new(magnitudes: &[u8], words: &[u16], negatives: Negatives) -> Self {
        let magnitudes: Vec<f64> = magnitudes.iter().copied().map(f64::from).collect();
        let bits = if WORD == LANE { 2 } else { 3 };
        let digits = |word: &u16| -> [f64; WORD] {
            let digit = |column: usize| word >> (bits * column) & ((1 << bits) - 1);
            std::array::from_fn(|column| magnitudes[usize::from(digit(column))])
        };
        let words: Vec<_> = words.iter().map(digits).collect();
        let cells = 0..magnitudes.len().pow(WORD as u32);
        let shortlists = cells.map(|cell| {
            let digit = |column| cell / magnitudes.len().pow(column) % magnitudes.len();
            let corner = std::array::from_fn(|column| magnitudes[digit(column as u32)]);
            nearest(&words, &corner, 0)
        });
        let shortlists = shortlists.collect();
        let neighbours = words.iter().map(|word| nearest(&words, word, 1)).collect();
        Self { magnitudes, shortlists, neighbours, words, negatives }
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
        let [even, odd] = joined::<WORD>(self.parts(target, weights, all));
        match self.negatives {
            Negatives::Free if odd.0 < even.0 => odd.1,
            _ => even.1,
        }
    }

    /// The best of each part.
    fn parts(
        &self,
        target: &[f64; LANE],
        weights: &[f64; LANE],
        all: bool,
    ) -> impl Iterator<Item = Part> {
        let parts = target.as_chunks::<WORD>().0.iter().zip(weights.as_chunks::<WORD>().0);
        parts.map(move |(target, weights)| {
            if all {
                self.best(target, weights, 0..self.words.len() as u16)
            } else {
                let cell = self.cell(target);
                self.best(target, weights, self.shortlists[cell].iter().copied())
            }
        })
    }

    /// The combination of magnitudes nearest to a target.
    fn cell(&self, target: &[f64; WORD]) -> usize {
        target.iter().rev().fold(0, |cell, value| {
            let above =
                self.magnitudes.windows(2).filter(|pair| 2.0 * value.abs() > pair[0] + pair[1]);
            cell * self.magnitudes.len() + above.count()
        })
    }

    /// The best word for each parity. Signs are the target's own, or with the other
    /// parity all but the one that costs least: any other choice has more wrong ones.
    fn best(
        &self,
        target: &[f64; WORD],
        weights: &[f64; WORD],
        words: impl Iterator<Item = u16>,
    ) -> Part {
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
    /// even parts and with odd ones, each part improved in turn.
    pub(super) fn nearest_in_block(
        &self,
        target: &[f64; LANE],
        block: &[[f64; LANE]; LANE],
    ) -> Choice {
        let diagonal = std::array::from_fn(|column| block[column][column]);
        let parts: Vec<Part> = self.parts(target, &diagonal, true).collect();
        let mut best = (f64::INFINITY, Choice::default());
        for parities in 0..1u8 << Self::PARTS {
            if self.allows(parities) {
                let chosen = (0..).zip(&parts).map(|(at, part)| part[bit(parities, at)]);
                let start = chosen.enumerate().fold(Choice::default(), Choice::with::<WORD>);
                let improved = self.improve(target, block, start);
                if improved.0 < best.0 {
                    best = improved;
                }
            }
        }
        best.1
    }

    /// True if these columns may be negative, or as many.
    fn allows(&self, signs: u8) -> bool {
        self.negatives == Negatives::Free || parity(signs) == 0
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
            for part in 0..Self::PARTS {
                let choice = self.other_part(target, block, best.1, part);
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

    /// The choice with one part replaced by what is best beside the other.
    fn other_part(
        &self,
        target: &[f64; LANE],
        block: &[[f64; LANE]; LANE],
        mut choice: Choice,
        part: usize,
    ) -> Choice {
        let own = part * WORD;
        let levels = self.levels(choice);
        let corner: [[f64; WORD]; WORD] =
            std::array::from_fn(|i| std::array::from_fn(|j| block[own + i][own + j]));
        let others = || (0..LANE).filter(|column| !(own..own + WORD).contains(column));
        let pull = std::array::from_fn(|j| {
            others().map(|i| (target[i] - levels[i]) * block[i][own + j]).sum()
        });
        let wanted = solve(corner, pull);
        let wanted: [f64; WORD] =
            std::array::from_fn(|column| target[own + column] + wanted[column]);
        let diagonal = std::array::from_fn(|column| corner[column][column]);
        let kept = choice.signs & !part_mask::<WORD>(own);
        let mut best = f64::INFINITY;
        for word in self.best_words(&wanted, &diagonal) {
            for signs in sign_patterns::<WORD>(negatives(&wanted)) {
                let all_signs = kept | signs << own;
                let error = self.part_error(&wanted, &corner, word, signs);
                if self.allows(all_signs) && error < best {
                    best = error;
                    choice.words[part] = word;
                    choice.signs = all_signs;
                }
            }
        }
        choice
    }

    fn part_error(
        &self,
        target: &[f64; WORD],
        corner: &[[f64; WORD]; WORD],
        word: u16,
        signs: u8,
    ) -> f64 {
        let errors: [f64; WORD] = std::array::from_fn(|column| {
            let level = self.words[usize::from(word)][column];
            target[column] - if signs >> column & 1 == 1 { -level } else { level }
        });
        quadratic(&errors, corner)
    }

    /// The words with the least error by a diagonal, whatever their signs.
    fn best_words(&self, target: &[f64; WORD], weights: &[f64; WORD]) -> Vec<u16> {
        let error = |word: u16| -> f64 {
            let columns = self.words[usize::from(word)].iter().zip(target).zip(weights);
            columns.map(|((level, value), weight)| weight * (value.abs() - level).powi(2)).sum()
        };
        let mut order: Vec<(f64, u16)> =
            (0..self.words.len() as u16).map(|word| (error(word), word)).collect();
        let ascending = |a: &(f64, u16), b: &(f64, u16)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
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

    /// Choices a small step away: one word replaced by a near one, or a sign turned,
    /// or two where their number stays even.
    pub(super) fn neighbours(&self, choice: Choice, mut visit: impl FnMut(Choice)) {
        for part in 0..Self::PARTS {
            for word in self.neighbours[usize::from(choice.words[part])] {
                let mut other = choice;
                other.words[part] = word;
                visit(other);
            }
        }
        let turns = (1..=u8::MAX).filter(|turns| match self.negatives {
            Negatives::Free => turns.count_ones() == 1,
            Negatives::Even => turns.count_ones() == 2,
        });
        for turns in turns {
            visit(Choice { signs: choice.signs ^ turns, ..choice });
        }
    }
}

impl Choice {
    /// The choice with a part added.
    fn with<const WORD: usize>(mut self, (part, chosen): (usize, Candidate)) -> Self {
        self.words[part] = chosen.word;
        self.signs |= chosen.signs << (part * WORD);
        self
    }
}

fn bit(bits: u8, at: u32) -> usize {
    usize::from(bits >> at & 1)
}

/// The bits of the columns of a part.
fn part_mask<const WORD: usize>(own: usize) -> u8 {
    (u8::MAX >> (LANE - WORD)) << own
}

/// Signs to try: all for a few columns, else those that differ from some in two columns
/// at most.
fn sign_patterns<const WORD: usize>(own: u8) -> impl Iterator<Item = u8> {
    let most = if WORD == LANE { 2 } else { WORD as u32 };
    (0..=part_mask::<WORD>(0)).filter(move |signs| (signs ^ own).count_ones() <= most)
}

fn negatives<const WORD: usize>(target: &[f64; WORD]) -> u8 {
    (0..WORD).map(|column| u8::from(target[column] < 0.0) << column).sum()
}

/// The best of all parts together with an even and with an odd number of negatives, and
/// their errors.
fn joined<const WORD: usize>(parts: impl Iterator<Item = [Candidate; 2]>) -> [(f64, Choice); 2] {
    let none = (f64::INFINITY, Choice::default());
    parts.enumerate().fold([(0.0, Choice::default()), none], |before, (at, part)| {
        [0, 1].map(|parity| {
            let with = |own: usize| {
                let (error, choice) = before[parity ^ own];
                (error + part[own].error, choice.with::<WORD>((at, part[own])))
            };
            let (even, odd) = (with(0), with(1));
            if odd.0 < even.0 { odd } else { even }
        })
    })
}

fn quadratic<const N: usize>(vector: &[f64; N], matrix: &[[f64; N]; N]) -> f64 {
    let products = matrix.iter().zip(vector).map(|(row, factor)| {
        factor * row.iter().zip(vector).map(|(entry, value)| entry * value).sum::<f64>()
    });
    products.sum()
}

/// Solves `x A = b` for a symmetric positive definite matrix by elimination; zeros if
/// it is not.
fn solve<const WORD: usize>(
    mut matrix: [[f64; WORD]; WORD],
    mut right: [f64; WORD],
) -> [f64; WORD] {
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

impl<const WORD: usize> Alphabet for Codebook<WORD> {
    fn lowest(&self) -> f64 {
        -self.highest()
    }

    fn highest(&self) -> f64 {
        self.magnitudes[self.magnitudes.len() - 1]
    }

    fn gap(&self) -> f64 {
        self.highest() - self.magnitudes[self.magnitudes.len() - 2]
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
