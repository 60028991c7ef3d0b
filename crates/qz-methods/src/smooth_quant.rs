//! SmoothQuant (arXiv 2211.10438): factors of channels that move what is hard to round from
//! activations into weights.

use crate::awq::{Candidate, Channels};

/// A factor for each channel, `max|x|^strength / max|w|^(1 − strength)`, by which inputs are
/// divided and columns multiplied. `channels` has the squares of these largest magnitudes.
///
/// All are divided by their geometric mean, which changes nothing where tokens have scales of
/// their own, and keeps norms as large as they were. Channels that are always zero, or that
/// nothing is multiplied with, have 1.
pub fn smoothing_factors(channels: Channels<'_>, strength: f64) -> Vec<f32> {
    Candidate { inputs: strength, weights: 1.0 - strength }.factors(channels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_those_of_the_paper_up_to_their_mean() {
        let (inputs, weights) = ([1.0f64, 100.0, 9.0, 0.0], [0.5f64, 0.25, 1.0, 2.0]);
        let squares = |numbers: [f64; 4]| numbers.map(|number| number * number);
        let channels = Channels { energies: &squares(inputs), weights: &squares(weights) };
        for strength in [0.0, 0.5, 0.8, 1.0] {
            let found = smoothing_factors(channels, strength);
            let expected = |at: usize| {
                libm::pow(inputs[at], strength)
                    / libm::pow(weights[at], 1.0 - strength)
                    / f64::from(found[at])
            };
            for at in 1..3 {
                assert!((expected(at) / expected(0) - 1.0).abs() < 1e-5, "{strength}: {found:?}");
            }
            let product: f32 = found[..3].iter().product();
            assert!((product - 1.0).abs() < 1e-5 && found[3] == 1.0, "{strength}: {found:?}");
        }
        // At one half both sides have the same largest magnitudes, up to one number for all.
        let found = smoothing_factors(channels, 0.5);
        let ratio = |at: usize| inputs[at] / f64::from(found[at]).powi(2) / weights[at];
        assert!(
            (ratio(1) / ratio(0) - 1.0).abs() < 1e-5 && (ratio(2) / ratio(0) - 1.0).abs() < 1e-5
        );
    }
}
