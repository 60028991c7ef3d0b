//! Scale and minimum: `value = scale * level - minimum`, levels from zero.

use super::LONGEST;
use crate::number::nearest_integer;

/// What a search tries.
#[derive(Clone, Copy, Debug)]
pub struct AffineSearch {
    /// The highest level.
    pub top: u8,
    /// Added to `top` for the first scale tried.
    pub first: f32,
    /// Added for each next one.
    pub step: f32,
    /// The number of the last one; the first has number 0.
    pub last: u8,
    /// Candidates are compared by absolute error instead of squared error.
    pub absolute: bool,
}

/// A fit. The minimum is stored negated: it is not negative where the fit is sane.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Affine {
    /// What one level is worth.
    pub scale: f32,
    /// What is subtracted.
    pub minimum: f32,
}

impl AffineSearch {
    /// How many levels the values' range is divided into at a try.
    #[inline(always)]
    pub(crate) fn divisions(&self, number: u8) -> f32 {
        self.first + self.step * f32::from(number) + f32::from(self.top)
    }
}

/// Finds scale, minimum and levels of one sub-block (ggml-quants.c,
/// `make_qkx2_quants` and `make_qkx3_quants`, which agree on finite values).
///
/// Once a try improves the fit, the following tries start from its minimum
/// instead of the values' own: the order of tries matters.
pub fn search(search: &AffineSearch, values: &[f32], weights: &[f32], levels: &mut [u8]) -> Affine {
    let moments = Moments::of(values, weights);
    let Moments { maximum, mut minimum, .. } = moments;
    if maximum == minimum {
        levels.fill(0);
        return Affine { scale: 0.0, minimum: -minimum };
    }
    let inverse = f32::from(search.top) / (maximum - minimum);
    let mut scale = 1.0 / inverse;
    round(search.top, inverse, minimum, values, levels);
    let mut best = error(search.absolute, scale, minimum, values, weights, levels);
    let mut buffer = [0; LONGEST];
    let candidate = &mut buffer[..values.len()];
    for number in 0..=search.last {
        let inverse = search.divisions(number) / (maximum - minimum);
        round(search.top, inverse, minimum, values, candidate);
        let Some((new_scale, new_minimum)) = moments.solve(values, weights, candidate) else {
            continue;
        };
        let error = error(search.absolute, new_scale, new_minimum, values, weights, candidate);
        if error < best {
            levels.copy_from_slice(candidate);
            (best, scale, minimum) = (error, new_scale, new_minimum);
        }
    }
    Affine { scale, minimum: -minimum }
}

/// What the fit needs to know of the values, whatever their levels.
struct Moments {
    /// The lowest value, at most zero.
    minimum: f32,
    maximum: f32,
    sum_weights: f32,
    sum_values: f32,
}

impl Moments {
    fn of(values: &[f32], weights: &[f32]) -> Self {
        let (mut minimum, mut maximum) = (values[0], values[0]);
        let mut sum_weights = weights[0];
        let mut sum_values = sum_weights * values[0];
        for (&value, &weight) in values.iter().zip(weights).skip(1) {
            if value < minimum {
                minimum = value;
            }
            if value > maximum {
                maximum = value;
            }
            sum_weights += weight;
            sum_values += weight * value;
        }
        if minimum > 0.0 {
            minimum = 0.0;
        }
        Self { minimum, maximum, sum_weights, sum_values }
    }

    /// Scale and minimum with the least weighted squared error for these levels;
    /// none where the levels are all equal. The minimum is kept at or below zero.
    fn solve(&self, values: &[f32], weights: &[f32], levels: &[u8]) -> Option<(f32, f32)> {
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
        for ((&value, &weight), &level) in values.iter().zip(weights).zip(levels) {
            let level = f32::from(level);
            sum_l += weight * level;
            sum_l2 += weight * level * level;
            sum_xl += weight * level * value;
        }
        let determinant = self.sum_weights * sum_l2 - sum_l * sum_l;
        // Named, because a NaN must fail too.
        let solvable = determinant > 0.0;
        if !solvable {
            return None;
        }
        let scale = (self.sum_weights * sum_xl - self.sum_values * sum_l) / determinant;
        let minimum = (sum_l2 * self.sum_values - sum_l * sum_xl) / determinant;
        if minimum > 0.0 { Some((sum_xl / sum_l2, 0.0)) } else { Some((scale, minimum)) }
    }
}

fn round(top: u8, inverse: f32, minimum: f32, values: &[f32], levels: &mut [u8]) {
    for (level, &value) in levels.iter_mut().zip(values) {
        *level = nearest_integer(inverse * (value - minimum)).clamp(0, i32::from(top)) as u8;
    }
}

fn error(
    absolute: bool,
    scale: f32,
    minimum: f32,
    values: &[f32],
    weights: &[f32],
    levels: &[u8],
) -> f32 {
    let mut sum = 0.0f32;
    for ((&value, &weight), &level) in values.iter().zip(weights).zip(levels) {
        let difference = scale * f32::from(level) + minimum - value;
        sum += weight * if absolute { difference.abs() } else { difference * difference };
    }
    sum
}
