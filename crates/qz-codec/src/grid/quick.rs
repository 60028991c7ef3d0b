//! Many lines tried on one group, quickly: consecutive integers as levels, in `f32`, with
//! the largest value and the largest weight scaled to 1, so that nothing overflows. What
//! is found to be best is looked at again in `f64` by those who ask.

use super::search::{Group, Moments, RealLine};

/// Numbers that are worked on side by side.
const WIDTH: usize = 8;
type Side = [f32; WIDTH];

/// 1.5 * 2^23: adding it to a small number leaves the nearest integer.
const ROUNDING_OFFSET: f32 = 12_582_912.0;

/// The least and the greatest level, all integers between being levels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    pub lowest: f32,
    pub highest: f32,
}

/// A group, scaled. Beyond its end values and weights are zero.
#[derive(Clone, Debug)]
pub(super) struct Quick {
    span: Span,
    values: Vec<Side>,
    weights: Vec<Side>,
    /// What the values were divided by.
    unit: f64,
    /// Σw, Σwx
    sums: (f64, f64),
    /// Σwx²
    squares: f64,
}

impl Quick {
    /// None where the group's numbers are all zero, or too small or large to be scaled.
    pub(super) fn new(span: Span, group: Group<'_>) -> Option<Self> {
        let largest = |numbers: &[f32]| numbers.iter().fold(0.0f32, |most, n| most.max(n.abs()));
        let (value, weight) = (largest(group.values), largest(group.weights));
        let inverses = (1.0 / value, 1.0 / weight);
        if !(inverses.0.is_normal() && inverses.1.is_normal()) {
            return None;
        }
        let scaled = |numbers: &[f32], inverse: f32| -> Vec<Side> {
            let side = |numbers: &[f32]| {
                let mut side = [0.0; WIDTH];
                for (entry, number) in side.iter_mut().zip(numbers) {
                    *entry = number * inverse;
                }
                side
            };
            numbers.chunks(WIDTH).map(side).collect()
        };
        let (values, weights) =
            (scaled(group.values, inverses.0), scaled(group.weights, inverses.1));
        let (mut sums, mut squares) = ((0.0, 0.0), 0.0);
        for (value, weight) in values.iter().flatten().zip(weights.iter().flatten()) {
            let weighted = f64::from(*weight) * f64::from(*value);
            sums.0 += f64::from(*weight);
            sums.1 += weighted;
            squares += weighted * f64::from(*value);
        }
        Some(Self { span, values, weights, unit: 1.0 / f64::from(inverses.0), sums, squares })
    }

    /// Other levels for the same group.
    pub(super) fn set_span(&mut self, span: Span) {
        self.span = span;
    }

    fn scaled(&self, line: RealLine) -> RealLine {
        RealLine { scale: line.scale / self.unit, offset: line.offset / self.unit }
    }

    fn unscaled(&self, line: RealLine) -> RealLine {
        RealLine { scale: line.scale * self.unit, offset: line.offset * self.unit }
    }

    #[inline(always)]
    fn levels(&self, inverse: f32, shift: f32, values: &Side) -> Side {
        let mut levels = [0.0; WIDTH];
        for (level, value) in levels.iter_mut().zip(values) {
            let position = value * inverse + shift;
            // `clamp` would look for a NaN.
            let inside = position.max(self.span.lowest).min(self.span.highest);
            *level = (inside + ROUNDING_OFFSET) - ROUNDING_OFFSET;
        }
        levels
    }

    /// What makes positions of values.
    fn positions(line: RealLine) -> (f32, f32) {
        let inverse = if line.scale == 0.0 { 0.0 } else { 1.0 / line.scale };
        (inverse as f32, (line.offset * inverse) as f32)
    }

    /// The error of the nearest levels of a line, to compare with others of this group.
    pub(super) fn error(&self, line: RealLine) -> f64 {
        let line = self.scaled(line);
        let (inverse, shift) = Self::positions(line);
        let (scale, offset) = (line.scale as f32, line.offset as f32);
        let mut sums = [0.0; WIDTH];
        for (values, weights) in self.values.iter().zip(&self.weights) {
            let levels = self.levels(inverse, shift, values);
            for at in 0..WIDTH {
                let difference = scale * levels[at] - offset - values[at];
                sums[at] += weights[at] * difference * difference;
            }
        }
        sums.iter().map(|sum| f64::from(*sum)).sum()
    }

    /// The moments of the levels nearest to a line, scaled.
    fn moments(&self, line: RealLine) -> Moments {
        let (inverse, shift) = Self::positions(line);
        let (mut l, mut ll, mut xl) = ([0.0; WIDTH], [0.0; WIDTH], [0.0; WIDTH]);
        for (values, weights) in self.values.iter().zip(&self.weights) {
            let levels = self.levels(inverse, shift, values);
            for at in 0..WIDTH {
                let weighted = weights[at] * levels[at];
                l[at] += weighted;
                ll[at] += weighted * levels[at];
                xl[at] += weighted * values[at];
            }
        }
        let sum = |parts: Side| parts.iter().map(|part| f64::from(*part)).sum();
        Moments { w: self.sums.0, l: sum(l), ll: sum(ll), x: self.sums.1, xl: sum(xl) }
    }

    /// The best line for the levels nearest to `line`, and its error.
    pub(super) fn solve(&self, line: RealLine, any_offset: bool) -> (f64, RealLine) {
        let moments = self.moments(self.scaled(line));
        let solved = moments.line(any_offset);
        (self.squares + moments.change(solved), self.unscaled(solved))
    }

    /// The best scale without offset for the levels nearest to one, and its error.
    pub(super) fn solve_scale(&self, scale: f64) -> (f64, f64) {
        let moments = self.moments(self.scaled(RealLine { scale, offset: 0.0 }));
        let solved = moments.scale();
        (self.squares - solved * moments.xl, solved * self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_those_of_the_slow_way() {
        let values: Vec<f32> = (0..20).map(|at| ((at * at * 7) % 23) as f32 - 9.0).collect();
        let weights: Vec<f32> = (0..20).map(|at| 1e-9 * (1.0 + (at % 5) as f32)).collect();
        let group = Group { values: &values, weights: &weights };
        let quick =
            Quick::new(Span { lowest: 0.0, highest: 15.0 }, group).expect("ordinary numbers");
        let mut ratio = 0.0;
        // No value is in the middle between two levels: there either is the nearest.
        for (scale, offset) in [(1.5, 9.0), (2.1, 4.0), (0.5, 0.0), (-1.0, 3.0), (0.0, 1.0)] {
            let line = RealLine { scale, offset };
            let levels: Vec<f64> = values
                .iter()
                .map(|value| {
                    let position = (f64::from(*value) + offset) / scale;
                    if scale == 0.0 { 0.0 } else { position.clamp(0.0, 15.0).round_ties_even() }
                })
                .collect();
            let expected = group.error(line, &levels);
            let found = quick.error(line);
            if ratio == 0.0 {
                ratio = expected / found;
            }
            assert!((found * ratio / expected - 1.0).abs() < 1e-5, "{line:?}");
            if scale != 0.0 {
                let (error, solved) = quick.solve(line, true);
                let exact = Moments::of(group, &levels).line(true);
                assert!((solved.scale / exact.scale - 1.0).abs() < 1e-4, "{line:?}");
                let exact = group.error(exact, &levels);
                assert!((error * ratio / exact - 1.0).abs() < 1e-4, "{line:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_scaled_is_refused() {
        let check = |values: &[f32], weights: &[f32]| {
            let span = Span { lowest: 0.0, highest: 3.0 };
            assert!(Quick::new(span, Group { values, weights }).is_none(), "{values:?}");
        };
        check(&[0.0, 0.0], &[1.0, 1.0]);
        check(&[1.0, 2.0], &[0.0, 0.0]);
        check(&[1e-40, 0.0], &[1.0, 1.0]);
        check(&[f32::MAX, 0.0], &[1.0, 1.0]);
    }
}
