//! The regression that says what a matrix can do about what earlier layers lost: how much it is
//! damped, and how much of it is believed.
//!
//! `S = M (H + λ)⁻¹` is the regression of what is lacking, `M = E[d xᵀ]`, on the inputs. M is a mean
//! over few tokens of something small beside the inputs, so much of S is noise: with too little
//! damping, or taken whole, it makes held-out text worse. Two halves of the text tell how much.
//! With `S₁` and `S₂` of them, whose noise is not the same noise, what `s S` takes off the squares of
//! what is lacking in other text is `2 s ⟨M₁, S₂⟩ − s² (⟨S₁ H, S₂⟩ + noise)`, with the noise of `S` from
//! `⟨S₁ H, S₁⟩ − ⟨S₁ H, S₂⟩`.

use qz_linalg::{CrossMean, Factor, Feedback, Symmetric};
use serde::Serialize;

use super::order::Visits;
use super::prepare::{Unprepared, factor, solved};
use crate::rounding::sampled_rows;

/// Each damping that is tried is so many times another one.
const STEP: f64 = 3.0;
/// Dampings on either side of the first one.
const MOST_STEPS: i32 = 3;
/// How much of a regression is believed at most: damping takes away from it what is true, too.
const MOST: f64 = 2.0;

/// How what was lost before a matrix is made up for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Correction {
    /// What is added to the diagonal for the regression, in parts of its mean.
    pub damping: f64,
    /// The part of the regression that the weights move by.
    pub strength: f64,
}

/// What a damping is worth.
#[derive(Clone, Copy)]
struct Tried {
    damping: f64,
    strength: f64,
    gain: f64,
}

/// The correction that takes most off what is lacking in the half of the text that it was not made
/// of; `first` is the damping that is tried first, and taken where there are no halves.
pub(super) fn correction(
    device: &dyn Factor,
    gram: &Symmetric,
    visits: &Visits,
    sums: &CrossMean,
    first: f64,
) -> Result<Correction, Unprepared> {
    let Some(halves) = Halves::of(sums, gram.size()) else {
        return Ok(Correction { damping: first, strength: 1.0 });
    };
    let try_out = |step: i32| {
        let (solver, damping) = factor(device, gram, visits, first * STEP.powi(step))?;
        let added = damping * gram.mean_diagonal();
        Ok::<_, Unprepared>(halves.tried(&solver, visits, damping, added))
    };
    let mut best = try_out(0)?;
    for direction in [-1, 1] {
        let before = best.damping;
        for step in 1..=MOST_STEPS {
            let next = try_out(direction * step)?;
            if next.gain <= best.gain {
                break;
            }
            best = next;
        }
        if best.damping < before {
            break;
        }
    }
    Ok(Correction { damping: best.damping, strength: best.strength })
}

/// Rows of the means over two halves of the text.
struct Halves {
    means: [Vec<f32>; 2],
    /// Parts of all tokens.
    shares: [f64; 2],
}

impl Halves {
    fn of(sums: &CrossMean, columns: usize) -> Option<Self> {
        let (own, share) = sums.part.as_ref()?;
        let rows = sampled_rows(own.len() / columns.max(1));
        let at: Vec<usize> = rows.flat_map(|row| row * columns..(row + 1) * columns).collect();
        let rest = |at: &usize| {
            let own = share * f64::from(own[*at]);
            ((f64::from(sums.mean[*at]) - own) / (1.0 - share)) as f32
        };
        let means = [at.iter().map(|at| own[*at]).collect(), at.iter().map(rest).collect()];
        Some(Self { means, shares: [*share, 1.0 - share] })
    }

    /// What a regression on these inputs is worth, whose matrix got `added` on its diagonal.
    fn tried(&self, solver: &Feedback, visits: &Visits, damping: f64, added: f64) -> Tried {
        let means = self.means.each_ref().map(|mean| visits.of_rows(mean));
        let [first, second] = self.means.each_ref().map(|mean| solved(mean, visits, solver));
        let common = dot(&means[0], &second);
        // S H is M less what was added.
        let squares = common - added * dot(&first, &second);
        let mut seen = squares;
        for ((mean, own), share) in means.iter().zip([&first, &second]).zip(self.shares) {
            let own_squares = dot(mean, own) - added * dot(own, own);
            seen += share * share * (own_squares - squares).max(0.0);
        }
        let is_told = common > 0.0 && seen > 0.0;
        let strength = if is_told { (common / seen).min(MOST) } else { 0.0 };
        Tried { damping, strength, gain: strength * (2.0 * common - strength * seen) }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{DEVICE, cross_of, gram_of, numbers};

    /// What is lacking is `told` of the inputs, and noise `loud` times as large as it.
    fn check(loud: f32, is_expected: &dyn Fn(Correction) -> bool) {
        let (rows, columns, tokens) = (16, 32, 8 * 1024);
        let inputs = numbers(tokens * columns, 1);
        let (told, noise) = (numbers(rows * columns, 2), numbers(tokens * rows, 3));
        let mut lacking = Vec::with_capacity(tokens * rows);
        for (input, noise) in inputs.chunks(columns).zip(noise.chunks(rows)) {
            let own = told.chunks(columns).zip(noise).map(|(told, noise)| {
                let sum: f32 = told.iter().zip(input).map(|(told, x)| told * x).sum();
                sum + loud * noise
            });
            lacking.extend(own);
        }
        let sums = cross_of(rows, &lacking, &vec![0.0; lacking.len()], &inputs);
        let visits = Visits { columns: (0..columns).collect(), is_static: false };
        let gram = gram_of(columns, &inputs);
        let found = correction(&*DEVICE, &gram, &visits, &sums, 1.0).expect("a factor");
        assert!(is_expected(found), "{loud}: {found:?}");
        let of_whole = CrossMean { part: None, ..sums };
        let found = correction(&*DEVICE, &gram, &visits, &of_whole, 1.0).expect("a factor");
        assert_eq!(found, Correction { damping: 1.0, strength: 1.0 });
    }

    #[test]
    fn a_regression_is_believed_as_far_as_the_other_half_bears_it_out() {
        check(0.0, &|found| found.damping < 0.1 && (found.strength - 1.0).abs() < 0.05);
        check(1.0, &|found| found.damping < 0.1 && (found.strength - 1.0).abs() < 0.1);
        check(300.0, &|found| found.strength < 0.7);
    }
}
