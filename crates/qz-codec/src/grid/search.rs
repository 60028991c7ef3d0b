//! Scale and offset of one group, not yet rounded to what is stored: some scales
//! are tried, values rounded, and the weighted least-squares line taken through
//! the levels they went to. All in `f64`, so that no weight is too large or small.
//!
//! These searches follow ggml-quants.c's `make_qx_quants` and `make_qkx3_quants`
//! in what they try, and not in bytes: both signs of an asymmetric range are
//! tried, and the winner is rounded and solved again until nothing moves.

use super::levels::{Levels, bounded_integer};
use super::quick::{Quick, Span};

/// What values can be rounded to, for a search.
pub(super) trait Alphabet: Send + Sync {
    /// The lowest level.
    fn lowest(&self) -> f64;
    /// The highest level.
    fn highest(&self) -> f64;
    /// The distance from the last level to the one before, by which scales to try
    /// are told apart.
    fn gap(&self) -> f64;
    /// Rounds `(value + offset) / scale` to levels; the scale is not zero.
    fn round(&self, line: RealLine, group: Group<'_>, levels: &mut [f64]);
    /// The levels' ends if they are consecutive integers: lines are then tried quickly.
    fn span(&self) -> Option<Span> {
        None
    }
}

impl Alphabet for Levels {
    fn lowest(&self) -> f64 {
        Levels::lowest(self)
    }

    fn highest(&self) -> f64 {
        Levels::highest(self)
    }

    fn gap(&self) -> f64 {
        Levels::gap(self)
    }

    fn round(&self, line: RealLine, group: Group<'_>, levels: &mut [f64]) {
        let inverse = 1.0 / line.scale;
        for (level, value) in levels.iter_mut().zip(group.values) {
            *level = self.level_near((f64::from(*value) + line.offset) * inverse);
        }
    }

    fn span(&self) -> Option<Span> {
        let span = || Span { lowest: self.lowest() as f32, highest: self.highest() as f32 };
        self.is_consecutive().then(span)
    }
}

/// All integers between two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Integers {
    pub lowest: f64,
    pub highest: f64,
}

impl Alphabet for Integers {
    fn lowest(&self) -> f64 {
        self.lowest
    }

    fn highest(&self) -> f64 {
        self.highest
    }

    fn gap(&self) -> f64 {
        1.0
    }

    fn round(&self, line: RealLine, group: Group<'_>, levels: &mut [f64]) {
        let inverse = 1.0 / line.scale;
        for (level, value) in levels.iter_mut().zip(group.values) {
            let position = (f64::from(*value) + line.offset) * inverse;
            *level = bounded_integer(position, self.lowest, self.highest);
        }
    }

    fn span(&self) -> Option<Span> {
        Some(Span { lowest: self.lowest as f32, highest: self.highest as f32 })
    }
}

/// Values and what their squared errors count.
#[derive(Clone, Copy)]
pub(super) struct Group<'a> {
    pub values: &'a [f32],
    pub weights: &'a [f32],
}

impl<'a> Group<'a> {
    /// Groups of a unit.
    pub(super) fn split(self, columns: usize) -> impl Iterator<Item = Group<'a>> {
        let pairs = self.values.chunks(columns).zip(self.weights.chunks(columns));
        pairs.map(|(values, weights)| Group { values, weights })
    }

    fn terms(self) -> impl Iterator<Item = (f64, f64)> {
        self.values
            .iter()
            .zip(self.weights)
            .map(|(value, weight)| (f64::from(*value), f64::from(*weight)))
    }

    /// The least and the greatest value.
    fn extremes(self) -> (f64, f64) {
        let values = self.values.iter().map(|value| f64::from(*value));
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        })
    }

    /// The same, with zero between them.
    pub(super) fn range(self) -> (f64, f64) {
        let (low, high) = self.extremes();
        (low.min(0.0), high.max(0.0))
    }

    /// The weighted squared error of levels on a line.
    pub(super) fn error(self, line: RealLine, levels: &[f64]) -> f64 {
        self.terms().zip(levels).fold(0.0, |sum, ((value, weight), level)| {
            let difference = line.scale * level - line.offset - value;
            sum + weight * difference * difference
        })
    }
}

/// `value = scale * level - offset`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct RealLine {
    pub scale: f64,
    pub offset: f64,
}

/// All that the squared error of a group depends on when its levels stay.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    /// Σw
    pub w: f64,
    /// Σwl
    pub l: f64,
    /// Σwl²
    pub ll: f64,
    /// Σwx
    pub x: f64,
    /// Σwxl
    pub xl: f64,
}

impl Moments {
    pub(super) fn of(group: Group<'_>, levels: &[f64]) -> Self {
        let mut sums = Self::default();
        for ((value, weight), level) in group.terms().zip(levels) {
            let weighted = weight * level;
            sums.w += weight;
            sums.l += weighted;
            sums.ll += weighted * level;
            sums.x += weight * value;
            sums.xl += weighted * value;
        }
        sums
    }

    /// The squared error of the levels on a line, less what zeros would have.
    pub(super) fn change(&self, RealLine { scale, offset }: RealLine) -> f64 {
        let curved = scale * scale * self.ll + offset * offset * self.w;
        curved - 2.0 * (scale * offset * self.l + scale * self.xl - offset * self.x)
    }

    /// The best scale with no offset.
    pub(super) fn scale(&self) -> f64 {
        if self.ll > 0.0 { self.xl / self.ll } else { 0.0 }
    }

    /// The best offset for a scale.
    pub(super) fn offset(&self, scale: f64) -> f64 {
        if self.w > 0.0 { (scale * self.l - self.x) / self.w } else { 0.0 }
    }

    /// The best line. Through zero if the levels are all equal, or if the best offset
    /// is negative and not `any_offset` is allowed.
    pub(super) fn line(&self, any_offset: bool) -> RealLine {
        let determinant = self.w * self.ll - self.l * self.l;
        if determinant > 1e-12 * self.w * self.ll {
            let scale = (self.w * self.xl - self.x * self.l) / determinant;
            let offset = self.offset(scale);
            if offset >= 0.0 || any_offset {
                return RealLine { scale, offset };
            }
        }
        RealLine { scale: self.scale(), offset: 0.0 }
    }
}

/// Rounds a group's values to a line that may be flat: then all levels are zero.
pub(super) fn round(alphabet: &dyn Alphabet, line: RealLine, group: Group<'_>, levels: &mut [f64]) {
    if line.scale == 0.0 {
        levels.fill(0.0);
    } else {
        alphabet.round(line, group, levels);
    }
}

/// Scales are tried for which the largest value is this many gaps further out than
/// the last level: below 0 it comes closer, above it is cut off.
const TRIES: [f64; 37] = [
    -0.9, -0.8, -0.7, -0.6, -0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7,
    0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6,
    2.7,
];

/// Which signs a scale may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signs {
    Positive,
    Both,
}

/// The best scale for lines through zero.
pub(super) fn scale(
    alphabet: &dyn Alphabet,
    signs: Signs,
    group: Group<'_>,
    levels: &mut [f64],
) -> f64 {
    let quick = alphabet.span().and_then(|span| Quick::new(span, group));
    scale_with(alphabet, signs, group, quick.as_ref(), levels)
}

/// The same, with the group as it is looked at quickly.
pub(super) fn scale_with(
    alphabet: &dyn Alphabet,
    signs: Signs,
    group: Group<'_>,
    quick: Option<&Quick>,
    levels: &mut [f64],
) -> f64 {
    let (low, high) = group.range();
    let (lowest, highest) = (alphabet.lowest(), alphabet.highest());
    let mut starts = vec![start((high, highest), (low, lowest))];
    if signs == Signs::Both && lowest != -highest {
        starts.push(start((high, lowest), (low, highest)));
    }
    let tried = starts.into_iter().filter(|(plain, _)| *plain != 0.0).flat_map(|(plain, level)| {
        TRIES.map(|try_| plain * level / (level + try_ * alphabet.gap()))
    });
    let mut best = (0.0, 0.0);
    if let Some(quick) = quick {
        let mut least = f64::INFINITY;
        for scale in tried {
            let (error, solved) = quick.solve_scale(scale);
            let allowed = signs == Signs::Both || solved > 0.0;
            if allowed && error < least {
                (least, best.1) = (error, solved);
            }
        }
    } else {
        for scale in tried {
            best = better_scale(alphabet, signs, group, scale, best, levels);
        }
    }
    for _ in 0..2 {
        if best.1 != 0.0 {
            best = better_scale(alphabet, signs, group, best.1, best, levels);
        }
    }
    best.1
}

/// The scale that lets the value that reaches further go to its level, and that
/// level's magnitude. A level of zero reaches nothing.
fn start(high: (f64, f64), low: (f64, f64)) -> (f64, f64) {
    let reach = |(value, level): (f64, f64)| if level == 0.0 { 0.0 } else { value / level };
    let (plain, level) = if reach(high).abs() >= reach(low).abs() { high } else { low };
    (reach((plain, level)), level.abs())
}

/// Rounds with a scale and solves for the next; keeps the one that explains more.
fn better_scale(
    alphabet: &dyn Alphabet,
    signs: Signs,
    group: Group<'_>,
    scale: f64,
    best: (f64, f64),
    levels: &mut [f64],
) -> (f64, f64) {
    alphabet.round(RealLine { scale, offset: 0.0 }, group, levels);
    let moments = Moments::of(group, levels);
    let solved = moments.scale();
    let explained = solved * moments.xl;
    let allowed = signs == Signs::Both || solved > 0.0;
    if allowed && explained > best.0 { (explained, solved) } else { best }
}

/// The best scale and offset. Levels begin at zero; the scale is positive.
pub(super) fn line(
    alphabet: &dyn Alphabet,
    any_offset: bool,
    group: Group<'_>,
    levels: &mut [f64],
) -> RealLine {
    let quick = alphabet.span().and_then(|span| Quick::new(span, group));
    line_with(alphabet, any_offset, group, quick.as_ref(), levels)
}

/// The same, with the group as it is looked at quickly.
pub(super) fn line_with(
    alphabet: &dyn Alphabet,
    any_offset: bool,
    group: Group<'_>,
    quick: Option<&Quick>,
    levels: &mut [f64],
) -> RealLine {
    let (low, high) = if any_offset { group.extremes() } else { group.range() };
    let (span, top) = (high - low, alphabet.highest());
    let mut best = Solved { error: f64::INFINITY, line: RealLine { scale: 0.0, offset: -low } };
    if span <= 0.0 {
        return best.line;
    }
    let tried = TRIES.into_iter().flat_map(|try_| {
        let scale = span / (top + try_);
        let above = RealLine { scale, offset: -low };
        // Cut off on both sides instead of above only.
        let both = RealLine { scale, offset: -low - scale * try_ / 2.0 };
        std::iter::once(above).chain((try_ > 0.0).then_some(both))
    });
    if let Some(quick) = quick {
        let mut least = f64::INFINITY;
        for line in tried {
            let (error, solved) = quick.solve(line, any_offset);
            if error < least && solved.scale > 0.0 {
                (least, best.line) = (error, solved);
            }
        }
    } else {
        for line in tried {
            best.consider(line, alphabet, any_offset, group, levels);
        }
    }
    for _ in 0..3 {
        best.consider(best.line, alphabet, any_offset, group, levels);
    }
    best.line
}

/// The best line so far.
#[derive(Clone, Copy)]
struct Solved {
    error: f64,
    line: RealLine,
}

impl Solved {
    /// Rounds to a line and solves for the next; takes that if it is better.
    fn consider(
        &mut self,
        line: RealLine,
        alphabet: &dyn Alphabet,
        any_offset: bool,
        group: Group<'_>,
        levels: &mut [f64],
    ) {
        round(alphabet, line, group, levels);
        let line = Moments::of(group, levels).line(any_offset);
        let error = group.error(line, levels);
        if error < self.error && line.scale > 0.0 {
            *self = Self { error, line };
        }
    }
}

/// Rounds a line to what is stored, `rounded`, and the values to that; then solves
/// again for the levels they went to. Gives the best found and its error.
pub(super) fn settle(
    alphabet: &dyn Alphabet,
    with_offset: bool,
    group: Group<'_>,
    mut line: RealLine,
    levels: &mut [f64],
    rounded: impl Fn(f64) -> f64,
) -> (f64, RealLine) {
    // Where no level is zero and the scale underflows, nothing is better than zeros.
    let zero = RealLine::default();
    let mut best = (group.error(zero, levels), zero);
    for _ in 0..3 {
        let stored = RealLine { scale: rounded(line.scale), offset: rounded(line.offset) };
        round(alphabet, stored, group, levels);
        let error = group.error(stored, levels);
        if error < best.0 {
            best = (error, stored);
        }
        let moments = Moments::of(group, levels);
        line = if with_offset {
            moments.line(true)
        } else {
            RealLine { scale: moments.scale(), offset: 0.0 }
        };
    }
    best
}
