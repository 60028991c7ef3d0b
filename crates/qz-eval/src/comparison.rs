//! One position of a text, seen by a model and by its reference.

use crate::leading::Leading;
use crate::log_probability::LogSoftmax;
use crate::logits_file::Levels;

/// What a reference says of the token that follows one position.
#[derive(Clone, Copy, Debug)]
pub enum Reference<'a> {
    /// Its logits.
    Logits(&'a [f32]),
    /// Logarithms of probabilities rounded to 16 bits, from llama.cpp's file.
    Levels(Levels<'a>),
    /// The most probable tokens, from the compact file.
    Leading(&'a Leading),
}

/// Bounds of a number that is known, or nearly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// It is not below this.
    pub lower: f64,
    /// It is not above this.
    pub upper: f64,
}

impl Bounds {
    /// A number that is known.
    pub fn exactly(value: f64) -> Self {
        Self { lower: value, upper: value }
    }
}

/// How a model and its reference see one position.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// The negative logarithm of the probability that the model gives the token which
    /// follows, in nats.
    pub nll: f64,
    /// The same of the reference.
    pub reference_nll: f64,
    /// The KL divergence of the model from the reference, in nats.
    pub divergence: Bounds,
    /// How much more probable the model takes the token that follows.
    pub probability_change: f64,
    /// Both find the same token most probable.
    pub same_top: bool,
}

impl Position {
    /// Compares the model's logits with the reference; `next` is the token that
    /// follows. Both know the same tokens.
    pub fn compare(logits: &[f32], reference: Reference<'_>, next: usize) -> Self {
        match reference {
            Reference::Logits(reference) => with_logits(logits, reference, next),
            Reference::Levels(levels) => with_levels(logits, levels, next),
            Reference::Leading(leading) => with_leading(logits, leading, next),
        }
    }

    fn new(nll: f64, reference_nll: f64, divergence: Bounds, same_top: bool) -> Self {
        let probability_change = libm::exp(-nll) - libm::exp(-reference_nll);
        Self { nll, reference_nll, divergence, probability_change, same_top }
    }
}

fn with_logits(logits: &[f32], reference: &[f32], next: usize) -> Position {
    let (softmax, base) = (LogSoftmax::of(logits), LogSoftmax::of(reference));
    let mut divergence = 0.0;
    for (&logit, &base_logit) in logits.iter().zip(reference) {
        let log_p = base.log_probability(base_logit);
        divergence += libm::exp(log_p) * (log_p - softmax.log_probability(logit));
    }
    Position::new(
        -softmax.log_probability(logits[next]),
        -base.log_probability(reference[next]),
        Bounds::exactly(divergence),
        softmax.top == base.top,
    )
}

/// As perplexity.cpp computes it, `log_softmax` with a base: in f32, without tokens
/// that the reference gives less than e^-16.
fn with_levels(logits: &[f32], levels: Levels<'_>, next: usize) -> Position {
    let softmax = LogSoftmax::of(logits);
    let log_sum = softmax.log_sum as f32;
    let shift = softmax.maximum + log_sum;
    let (mut divergence, mut top, mut largest) = (0.0f64, 0, f32::NEG_INFINITY);
    for (token, &logit) in logits.iter().enumerate() {
        let log_p = levels.log_probability(token);
        if log_p > largest {
            (largest, top) = (log_p, token);
        }
        if log_p > -16.0 {
            divergence += f64::from(libm::expf(log_p) * (log_p - logit + shift));
        }
    }
    Position::new(
        f64::from(softmax.maximum + log_sum - logits[next]),
        f64::from(-levels.log_probability(next)),
        Bounds::exactly(divergence),
        softmax.top == top,
    )
}

fn with_leading(logits: &[f32], leading: &Leading, next: usize) -> Position {
    let softmax = LogSoftmax::of(logits);
    Position::new(
        -softmax.log_probability(logits[next]),
        -f64::from(leading.next),
        leading.divergence_of(logits, &softmax),
        softmax.top == leading.top(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::logits_near;

    #[test]
    fn a_model_does_not_diverge_from_itself() {
        let (logits, _) = logits_near(7, 500, 0.0);
        let position = Position::compare(&logits, Reference::Logits(&logits), 3);
        assert_eq!(position.divergence, Bounds::exactly(0.0));
        assert_eq!(position.probability_change, 0.0);
        assert!(position.same_top);
    }

    #[test]
    fn divergence_of_two_coins() {
        // KL(1/2, 1/2 || 1/4, 3/4) = ln 2 - ln 3 / 2.
        let position =
            Position::compare(&[0.0, libm::logf(3.0f32)], Reference::Logits(&[1.0, 1.0]), 1);
        let expected = libm::log(2.0f64) - libm::log(3.0f64) / 2.0;
        assert!((position.divergence.lower - expected).abs() < 1e-7);
        assert!((position.probability_change - 0.25).abs() < 1e-7);
    }

    #[test]
    fn levels_and_leading_tokens_agree_with_logits() {
        for seed in 0..20 {
            let (reference, logits) = logits_near(seed, 2000, 0.3);
            let next = 17 * seed as usize;
            let exact = Position::compare(&logits, Reference::Logits(&reference), next);
            let levels = Levels::round(&reference);
            let rounded = Position::compare(&logits, Reference::Levels(levels.as_levels()), next);
            let difference = rounded.divergence.lower - exact.divergence.lower;
            assert!(difference.abs() < 1e-3, "{difference}");
            assert!((rounded.reference_nll - exact.reference_nll).abs() < 1e-3);
            let leading = Leading::of(&reference, next, 100);
            let bounded = Position::compare(&logits, Reference::Leading(&leading), next);
            assert!(bounded.divergence.lower <= exact.divergence.lower + 1e-6);
            assert!(bounded.divergence.upper >= exact.divergence.upper - 1e-6);
            assert!((bounded.reference_nll - exact.reference_nll).abs() < 1e-5);
            assert_eq!(bounded.same_top, exact.same_top);
        }
    }
}
