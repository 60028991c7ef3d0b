//! The next token of a text that a model writes.
//!
//! Candidates are cut in llama.cpp's order (top-k, top-p, min-p, each on the
//! probabilities that the one before left: `src/llama-sampler.cpp`), then the temperature
//! is applied, and one is drawn. The draws are this program's own.

use crate::random::Random;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingOptions {
    /// What logits are divided by; at 0 the most probable token follows, always.
    pub temperature: f64,
    /// Only so many of the most probable tokens; all if none.
    pub top_k: Option<usize>,
    /// Only the most probable tokens that together have this probability, 0 to 1.
    pub top_p: Option<f64>,
    /// Only tokens with at least this share of the most probable one's probability.
    pub min_p: Option<f64>,
    /// Where the draws begin.
    pub seed: u64,
}

/// Chooses tokens. The same logits and options give the same tokens.
pub struct Sampler {
    options: SamplingOptions,
    random: Random,
}

impl Sampler {
    /// A sampler that has drawn nothing yet.
    pub fn new(options: SamplingOptions) -> Self {
        Self { options, random: Random::new(options.seed) }
    }

    /// The token that follows these logits, of which there is at least one; all are
    /// numbers.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        if self.options.temperature == 0.0 {
            return first_largest(logits);
        }
        let candidates = self.options.candidates(logits);
        let largest = f64::from(candidates[0].1);
        let weight =
            |logit: f32| libm::exp((f64::from(logit) - largest) / self.options.temperature);
        let weights: Vec<f64> = candidates.iter().map(|(_, logit)| weight(*logit)).collect();
        let mut left = self.random.unit() * weights.iter().sum::<f64>();
        for ((token, _), weight) in candidates.iter().zip(&weights) {
            if left < *weight {
                return *token;
            }
            left -= weight;
        }
        // Only rounding leads here.
        candidates[candidates.len() - 1].0
    }
}

impl SamplingOptions {
    /// The tokens that may follow, at least one, the most probable first.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f32)> {
        let mut candidates: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
        // Sorting is stable: of equals the first goes first.
        candidates.sort_by(|a, b| b.1.total_cmp(&a.1));
        if let Some(count) = self.top_k {
            candidates.truncate(count.max(1));
        }
        if let Some(wanted) = self.top_p {
            let weights = weights(&candidates);
            let sum: f64 = weights.iter().sum();
            let mut reached = 0.0;
            let enough = weights.iter().position(|weight| {
                reached += weight / sum;
                reached >= wanted
            });
            candidates.truncate(enough.map_or(candidates.len(), |last| last + 1));
        }
        if let Some(least) = self.min_p {
            let fitting =
                weights(&candidates).iter().take_while(|weight| **weight >= least).count();
            candidates.truncate(fitting.max(1));
        }
        candidates
    }
}

/// Probabilities as shares of the first one's.
fn weights(candidates: &[(u32, f32)]) -> Vec<f64> {
    let largest = f64::from(candidates[0].1);
    candidates.iter().map(|(_, logit)| libm::exp(f64::from(*logit) - largest)).collect()
}

fn first_largest(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, logit) in (0u32..).zip(logits) {
        if *logit > best.1 {
            best = (token, *logit);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWN: SamplingOptions =
        SamplingOptions { temperature: 1.0, top_k: None, top_p: None, min_p: None, seed: 1 };

    /// Logits of these probabilities.
    fn logits(probabilities: &[f64]) -> Vec<f32> {
        probabilities.iter().map(|probability| libm::log(*probability) as f32).collect()
    }

    #[test]
    fn without_temperature_the_most_probable_follows() {
        let mut sampler = Sampler::new(SamplingOptions { temperature: 0.0, ..DRAWN });
        assert_eq!(sampler.choose(&[1.0, 3.0, 2.0, 3.0]), 1);
        assert_eq!(sampler.choose(&[-1.0]), 0);
    }

    #[test]
    fn candidates_are_cut() {
        let logits = logits(&[0.1, 0.4, 0.05, 0.3, 0.15]);
        let check = |options: SamplingOptions, expected: &[u32]| {
            let found: Vec<u32> = options.candidates(&logits).iter().map(|(t, _)| *t).collect();
            assert_eq!(found, expected, "{options:?}");
        };
        check(DRAWN, &[1, 3, 4, 0, 2]);
        check(SamplingOptions { top_k: Some(2), ..DRAWN }, &[1, 3]);
        check(SamplingOptions { top_k: Some(0), ..DRAWN }, &[1]);
        check(SamplingOptions { top_p: Some(0.69), ..DRAWN }, &[1, 3]);
        check(SamplingOptions { top_p: Some(0.71), ..DRAWN }, &[1, 3, 4]);
        check(SamplingOptions { top_p: Some(0.0), ..DRAWN }, &[1]);
        check(SamplingOptions { min_p: Some(0.3), ..DRAWN }, &[1, 3, 4]);
        check(SamplingOptions { min_p: Some(1.0), ..DRAWN }, &[1]);
        // The probabilities of what is left count: 4/7 and 3/7.
        check(SamplingOptions { top_k: Some(2), top_p: Some(0.5), ..DRAWN }, &[1]);
    }

    #[test]
    fn draws_follow_probabilities() {
        let share = |temperature: f64, expected: f64| {
            let mut sampler = Sampler::new(SamplingOptions { temperature, ..DRAWN });
            let logits = logits(&[0.2, 0.8]);
            let ones = (0..20_000).filter(|_| sampler.choose(&logits) == 1).count();
            let share = ones as f64 / 20_000.0;
            // Four standard errors and more.
            assert!((share - expected).abs() < 0.015, "{temperature}: {share}");
        };
        share(1.0, 0.8);
        // Odds are raised to the temperature's inverse: 4^2, 4^(1/2).
        share(0.5, 16.0 / 17.0);
        share(2.0, 2.0 / 3.0);
    }

    #[test]
    fn a_seed_gives_its_sequence() {
        let run = |seed: u64| {
            let mut sampler = Sampler::new(SamplingOptions { seed, ..DRAWN });
            (0..40).map(|_| sampler.choose(&[0.0; 50])).collect::<Vec<u32>>()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }
}
