//! Factors of the channels that matrices read, so that rounding the scaled weights loses least:
//! AWQ's search (arXiv 2306.00978, its candidates and those of AutoAWQ), with what a matrix
//! loses measured by the Gram matrix of its inputs and on the grid that is written.
//!
//! What belongs here: which factors are tried, and what each loses. What does not: which tensors
//! take the factors (`qz-models`, folds), and who reads them (`qz-pipeline`).

use qz_codec::grid::Rows;
use qz_kernels::stop;
use qz_linalg::Symmetric;
use rayon::prelude::*;

use crate::rounding::round_rows;
use crate::target::Target;

/// Steps of the exponent on the way from 0 to 1 that are tried first.
const STEPS: usize = 10;
/// The largest factor, and the inverse of the least.
const MOST: f64 = 1024.0;

/// What is known of channels.
#[derive(Clone, Copy, Debug)]
pub struct Channels<'a> {
    /// The mean square of each channel's numbers, or the square of the largest.
    pub energies: &'a [f64],
    /// The same of the weights that each is multiplied with.
    pub weights: &'a [f64],
}

/// How the factors follow from what is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    /// The exponent of the channel's magnitude.
    pub(crate) inputs: f64,
    /// The exponent of the weights', by which it is divided.
    pub(crate) weights: f64,
}

impl Candidate {
    /// By the inputs alone, as the paper has it.
    fn of_inputs(exponent: f64) -> Self {
        Self { inputs: exponent, weights: 0.0 }
    }

    /// By inputs and weights, as AutoAWQ has it; at one half the geometric mean of both.
    fn of_both(exponent: f64) -> Self {
        Self { inputs: exponent, weights: 1.0 - exponent }
    }

    /// A factor for each channel, whose geometric mean is 1; channels that are always zero, or
    /// that nothing is multiplied with, have 1.
    pub(crate) fn factors(self, channels: Channels<'_>) -> Vec<f32> {
        let logarithms = channels.energies.iter().zip(channels.weights).map(|(energy, weights)| {
            let is_known = *energy > 0.0 && *weights > 0.0;
            let factor =
                0.5 * (self.inputs * libm::log(*energy) - self.weights * libm::log(*weights));
            (is_known && factor.is_finite()).then_some(factor)
        });
        let logarithms: Vec<Option<f64>> = logarithms.collect();
        let known = logarithms.iter().flatten();
        let mean = known.clone().sum::<f64>() / known.count().max(1) as f64;
        let factor = |own: &Option<f64>| own.map_or(1.0, |own| libm::exp(own - mean));
        logarithms.iter().map(|own| factor(own).clamp(1.0 / MOST, MOST) as f32).collect()
    }
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct FoundFactors {
    /// One for each channel.
    pub factors: Vec<f32>,
    /// What is lost without factors, and with them.
    pub losses: [f64; 2],
}

impl FoundFactors {
    /// What is lost with factors, in parts of what is lost without.
    pub fn ratio(&self) -> f64 {
        self.losses[1] / self.losses[0]
    }
}

/// The factors that lose least; none if no candidate loses less than none does. `loss` is told
/// factors, and measures.
///
/// # Errors
/// That of `loss`.
pub fn search_factors<E>(
    channels: Channels<'_>,
    loss: &mut dyn FnMut(&[f32]) -> Result<f64, E>,
) -> Result<Option<FoundFactors>, E> {
    let without = loss(&vec![1.0; channels.energies.len()])?;
    let mut best: Option<(Candidate, FoundFactors)> = None;
    let mut try_one = |candidate: Candidate, best: &mut Option<(Candidate, FoundFactors)>| {
        let factors = candidate.factors(channels);
        let found = loss(&factors)?;
        if found < best.as_ref().map_or(without, |(_, best)| best.losses[1]) {
            *best = Some((candidate, FoundFactors { factors, losses: [without, found] }));
        }
        Ok(())
    };
    for step in 1..=STEPS {
        let exponent = step as f64 / STEPS as f64;
        try_one(Candidate::of_inputs(exponent), &mut best)?;
        // With an exponent of 1 both are the same.
        if step < STEPS {
            try_one(Candidate::of_both(exponent), &mut best)?;
        }
    }
    let Some((coarse, _)) = best else { return Ok(None) };
    for step in [-0.5, 0.5] {
        let exponent = coarse.inputs + step / STEPS as f64;
        let candidate = match coarse.weights {
            0.0 => Candidate::of_inputs(exponent),
            _ => Candidate::of_both(exponent),
        };
        try_one(candidate, &mut best)?;
    }
    Ok(best.map(|(_, found)| found))
}

/// A matrix whose columns are scaled, and the rows of it that are looked at.
#[derive(Clone, Copy)]
pub struct ScaledMatrix<'a> {
    /// The weights as they are.
    pub weights: Rows<'a>,
    /// Rows that stand for all.
    pub rows: &'a [usize],
    /// The mean square of each column's inputs, if rounding may be told it.
    pub importance: Option<&'a [f32]>,
    /// `E[x xᵀ]` of the inputs.
    pub gram: &'a Symmetric,
}

impl ScaledMatrix<'_> {
    /// What the rows lose, `e H eᵀ`, if the matrix is rounded with its columns multiplied with
    /// `factors` and divided by them when it is read.
    pub fn loss(&self, target: Target<'_>, factors: &[f32]) -> f64 {
        let columns = self.weights.columns();
        let importance: Option<Vec<f32>> = self.importance.map(|importance| {
            importance.iter().zip(factors).map(|(own, factor)| own / (factor * factor)).collect()
        });
        let errors = self.rows.par_iter().map(|row| {
            if stop::is_requested() {
                return vec![0.0; columns];
            }
            let weights = self.weights.row(*row);
            let scaled: Vec<f32> = weights.iter().zip(factors).map(|(w, s)| w * s).collect();
            let rows = Rows::dense(&scaled, columns);
            let rounded = round_rows(target, rows, *row, importance.as_deref());
            let values = rounded.values(0).iter().zip(factors);
            values.zip(weights).map(|((value, factor), weight)| value / factor - weight).collect()
        });
        let errors: Vec<Vec<f32>> = errors.collect();
        self.gram.losses(&errors.concat()).iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use qz_tensor::DataType;

    use super::*;
    use crate::testing::{gram_of, numbers};

    #[test]
    fn factors_have_a_geometric_mean_of_one() {
        let channels =
            Channels { energies: &[1.0, 16.0, 0.0, 4.0], weights: &[1.0, 1.0, 1.0, 4.0] };
        let check = |candidate: Candidate, expected: [f64; 4]| {
            for (found, expected) in candidate.factors(channels).iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{candidate:?}: {found}");
            }
        };
        check(Candidate::of_inputs(1.0), [0.5, 2.0, 1.0, 1.0]);
        // Roots of 1, 4 and 2 / 2.
        let mean = libm::pow(2.0f64, 1.0 / 3.0);
        check(Candidate::of_both(0.5), [1.0 / mean, 2.0 / mean, 1.0, 1.0 / mean]);
    }

    #[test]
    fn the_least_loss_is_found() {
        let channels = Channels { energies: &[1.0, 16.0], weights: &[1.0, 1.0] };
        // The least is at factors of 2 and 1/2: an exponent of one.
        let away = |wanted: f32| {
            let mut loss =
                |factors: &[f32]| Ok::<_, ()>(f64::from(libm::logf(factors[1] / wanted).abs()));
            search_factors(channels, &mut loss).expect("no error")
        };
        assert_eq!(away(2.0).expect("factors").factors, [0.5, 2.0]);
        let found = away(libm::powf(2.0f32, 0.55)).expect("factors").factors;
        assert!((found[1] - libm::powf(2.0f32, 0.55)).abs() < 1e-5, "half steps: {found:?}");
        assert!(away(1.0).is_none(), "nothing is better than nothing");
    }

    #[test]
    fn channels_of_large_inputs_lose_less_when_they_are_scaled() {
        let (rows, columns, tokens) = (16, 64, 200);
        let weights = numbers(rows * columns, 1);
        let mut inputs = numbers(tokens * columns, 2);
        inputs.chunks_mut(columns).for_each(|row| row[5] *= 30.0);
        let gram = gram_of(columns, &inputs);
        let all: Vec<usize> = (0..rows).collect();
        let target = Target::of_type(DataType::Q4_0).expect("a grid");
        let matrix = ScaledMatrix {
            weights: Rows::dense(&weights, columns),
            rows: &all,
            importance: None,
            gram: &gram,
        };
        let energies: Vec<f64> = gram.diagonal().iter().copied().map(f64::from).collect();
        let channels = Channels { energies: &energies, weights: &vec![1.0; columns] };
        let found = search_factors(channels, &mut |factors: &[f32]| {
            Ok::<_, ()>(matrix.loss(target, factors))
        });
        let FoundFactors { factors, losses: [without, with] } =
            found.expect("no error").expect("factors");
        assert!(with < 0.5 * without, "{without} -> {with}");
        assert!(factors[5] > 2.0 && factors[6] < 2.0);
    }
}
