//! What the positions of a text say of a model: the figures that llama-perplexity
//! prints, by its formulas (perplexity.cpp, `kl_divergence`), with confidence intervals
//! that know about chunks.

use serde::Serialize;

use crate::bootstrap::{Bootstrap, Interval, weighted_mean};
use crate::comparison::Position;

/// A figure and how sure it is.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Its standard error, taking tokens for independent, as the reference program
    /// does.
    pub stderr: f64,
    /// Its confidence interval, by chunks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
}

/// How the values of all positions are spread.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: Estimate,
    /// The largest.
    pub max: f64,
    /// Below it lie 99.9 of 100.
    pub p999: f64,
    /// Below it lie 99 of 100.
    pub p99: f64,
    /// Below it lie 95 of 100.
    pub p95: f64,
    /// Below it lie 90 of 100.
    pub p90: f64,
    /// Below it lie 75 of 100.
    pub p75: f64,
    /// Half lies below it.
    pub median: f64,
    /// Below it lie 25 of 100.
    pub p25: f64,
    /// Below it lie 10 of 100.
    pub p10: f64,
    /// Below it lie 5 of 100.
    pub p05: f64,
    /// Below it lies 1 of 100.
    pub p01: f64,
    /// Below it lies 1 of 1000.
    pub p001: f64,
    /// The smallest.
    pub min: f64,
}

/// The perplexity of one model.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Perplexity {
    /// Scored positions.
    pub tokens: usize,
    /// Chunks.
    pub chunks: usize,
    /// The exponential of the mean negative log-likelihood.
    pub perplexity: Estimate,
}

impl Perplexity {
    /// Of the negative log-likelihoods of all positions, chunk by chunk, of which each
    /// has as many.
    pub fn of(nll: &[f64], chunks: usize) -> Self {
        let bootstrap = Bootstrap::new(chunks);
        let perplexity = exponential(mean(nll), &bootstrap, &chunk_means(nll, chunks));
        Self { tokens: nll.len(), chunks, perplexity }
    }
}

/// A model beside its reference.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Scored positions.
    pub tokens: usize,
    /// Chunks.
    pub chunks: usize,
    /// The model's perplexity.
    pub perplexity: Estimate,
    /// The reference's.
    pub reference_perplexity: Estimate,
    /// How the logarithms of both go together, -1 to 1.
    pub perplexity_correlation: f64,
    /// The logarithm of their ratio.
    pub log_perplexity_ratio: Estimate,
    /// The model's perplexity divided by the reference's.
    pub perplexity_ratio: Estimate,
    /// The model's perplexity less the reference's.
    pub perplexity_difference: Estimate,
    /// The KL divergence from the reference, in nats: its lower bound, where that is
    /// all there is.
    pub kld: Spread,
    /// Its upper bound, where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld_upper: Option<Spread>,
    /// How much more probable the model takes the token that follows.
    pub probability_change: Spread,
    /// The root of the mean square of that.
    pub rms_probability_change: Estimate,
    /// The share of positions where both find the same token most probable.
    pub same_top: Estimate,
}

impl Comparison {
    /// Of all positions, chunk by chunk, of which each has as many.
    pub fn of(positions: &[Position], chunks: usize) -> Self {
        let bootstrap = Bootstrap::new(chunks);
        let all = |value: fn(&Position) -> f64| positions.iter().map(value).collect::<Vec<f64>>();
        let (nll, reference_nll) = (all(|p| p.nll), all(|p| p.reference_nll));
        let (model, reference) = (mean(&nll), mean(&reference_nll));
        let (model_chunks, reference_chunks) =
            (chunk_means(&nll, chunks), chunk_means(&reference_nll, chunks));
        let perplexity = exponential(model, &bootstrap, &model_chunks);
        let reference_perplexity = exponential(reference, &bootstrap, &reference_chunks);

        let covariance = covariance(&nll, &reference_nll);
        let log_ratio = model.value - reference.value;
        let variance =
            model.stderr * model.stderr + reference.stderr * reference.stderr - 2.0 * covariance;
        let log_ratio_stderr = root(variance);
        let ratio_of = |drawn: &[u32]| {
            weighted_mean(&model_chunks, drawn) - weighted_mean(&reference_chunks, drawn)
        };
        let log_perplexity_ratio = Estimate {
            value: log_ratio,
            stderr: log_ratio_stderr,
            interval: bootstrap.interval(ratio_of),
        };
        let perplexity_ratio = Estimate {
            value: libm::exp(log_ratio),
            stderr: libm::exp(log_ratio) * log_ratio_stderr,
            interval: bootstrap.interval(|drawn| libm::exp(ratio_of(drawn))),
        };
        let (value, base) = (perplexity.value, reference_perplexity.value);
        let difference_variance = perplexity.stderr.powi(2) + reference_perplexity.stderr.powi(2)
            - 2.0 * value * base * covariance;
        let perplexity_difference = Estimate {
            value: value - base,
            stderr: root(difference_variance),
            interval: bootstrap.interval(|drawn| {
                libm::exp(weighted_mean(&model_chunks, drawn))
                    - libm::exp(weighted_mean(&reference_chunks, drawn))
            }),
        };

        let change = all(|p| p.probability_change);
        let bounded = positions.iter().any(|p| p.divergence.upper != p.divergence.lower);
        let upper = bounded.then(|| Spread::of(&all(|p| p.divergence.upper), chunks, &bootstrap));
        Self {
            tokens: positions.len(),
            chunks,
            perplexity,
            reference_perplexity,
            perplexity_correlation: covariance / (model.stderr * reference.stderr),
            log_perplexity_ratio,
            perplexity_ratio,
            perplexity_difference,
            kld: Spread::of(&all(|p| p.divergence.lower), chunks, &bootstrap),
            kld_upper: upper,
            rms_probability_change: root_mean_square(&change, chunks, &bootstrap),
            probability_change: Spread::of(&change, chunks, &bootstrap),
            same_top: share(&all(|p| f64::from(u8::from(p.same_top))), chunks, &bootstrap),
        }
    }
}

/// Whether one model is nearer to the reference than another, on the same text.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PairedTest {
    /// The mean KL divergence of the first less that of the second.
    pub kld_difference: f64,
    /// Its confidence interval, by chunks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// How likely chance alone makes such a difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_value: Option<f64>,
}

impl PairedTest {
    /// Of two models at the same positions.
    pub fn of(first: &[Position], second: &[Position], chunks: usize) -> Self {
        let differences: Vec<f64> = first
            .iter()
            .zip(second)
            .map(|(first, second)| first.divergence.lower - second.divergence.lower)
            .collect();
        let bootstrap = Bootstrap::new(chunks);
        let means = chunk_means(&differences, chunks);
        Self {
            kld_difference: mean(&differences).value,
            interval: bootstrap.interval(|drawn| weighted_mean(&means, drawn)),
            p_value: bootstrap.p_value(|drawn| weighted_mean(&means, drawn)),
        }
    }
}

impl Spread {
    pub(crate) fn of(values: &[f64], chunks: usize, bootstrap: &Bootstrap) -> Self {
        let means = chunk_means(values, chunks);
        let interval = bootstrap.interval(|drawn| weighted_mean(&means, drawn));
        let mean = Estimate { interval, ..mean(values) };
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |fraction: f64| percentile(&sorted, fraction);
        Self {
            mean,
            max: at(1.0),
            p999: at(0.999),
            p99: at(0.99),
            p95: at(0.95),
            p90: at(0.9),
            p75: at(0.75),
            median: at(0.5),
            p25: at(0.25),
            p10: at(0.1),
            p05: at(0.05),
            p01: at(0.01),
            p001: at(0.001),
            min: at(0.0),
        }
    }
}

/// Between the two nearest of the sorted values.
fn percentile(sorted: &[f64], fraction: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = fraction * last as f64;
    let below = place.floor() as usize;
    let part = place - below as f64;
    (1.0 - part) * sorted[below] + part * sorted[(below + 1).min(last)]
}

/// The mean and its standard error; the reference program gives none for ten values or
/// fewer.
fn mean(values: &[f64]) -> Estimate {
    let count = values.len() as f64;
    let value = values.iter().sum::<f64>() / count;
    let square = values.iter().map(|value| value * value).sum::<f64>() / count;
    let stderr =
        if values.len() > 10 { root((square - value * value) / (count - 1.0)) } else { 0.0 };
    Estimate { value, stderr, interval: None }
}

/// Of the two means.
fn covariance(first: &[f64], second: &[f64]) -> f64 {
    if first.len() < 10 {
        return 0.0;
    }
    let count = first.len() as f64;
    let sum: f64 = first.iter().zip(second).map(|(first, second)| first * second).sum();
    let means = first.iter().sum::<f64>() / count * (second.iter().sum::<f64>() / count);
    (sum / count - means) / (count - 1.0)
}

/// The root, of what rounding made negative 0.
fn root(square: f64) -> f64 {
    square.max(0.0).sqrt()
}

fn exponential(mean: Estimate, bootstrap: &Bootstrap, chunk_means: &[f64]) -> Estimate {
    let value = libm::exp(mean.value);
    let interval = bootstrap.interval(|drawn| libm::exp(weighted_mean(chunk_means, drawn)));
    Estimate { value, stderr: value * mean.stderr, interval }
}

fn root_mean_square(values: &[f64], chunks: usize, bootstrap: &Bootstrap) -> Estimate {
    let squares: Vec<f64> = values.iter().map(|value| value * value).collect();
    let square = mean(&squares);
    let value = square.value.sqrt();
    let means = chunk_means(&squares, chunks);
    let interval = bootstrap.interval(|drawn| weighted_mean(&means, drawn).sqrt());
    let stderr = if value > 0.0 { 0.5 / value * square.stderr } else { 0.0 };
    Estimate { value, stderr, interval }
}

pub(crate) fn share(ones: &[f64], chunks: usize, bootstrap: &Bootstrap) -> Estimate {
    let value = mean(ones).value;
    let means = chunk_means(ones, chunks);
    let interval = bootstrap.interval(|drawn| weighted_mean(&means, drawn));
    let stderr = root(value * (1.0 - value) / (ones.len() as f64 - 1.0));
    Estimate { value, stderr, interval }
}

fn chunk_means(values: &[f64], chunks: usize) -> Vec<f64> {
    let per_chunk = (values.len() / chunks.max(1)).max(1);
    values.chunks(per_chunk).map(|chunk| chunk.iter().sum::<f64>() / chunk.len() as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::Bounds;
    use crate::random::Random;

    /// A model whose KL divergence is about `divergence` everywhere.
    fn positions(count: usize, divergence: f64) -> Vec<Position> {
        let mut random = Random::new(11);
        (0..count)
            .map(|_| {
                let reference_nll = 3.0 + random.unit();
                let nll = reference_nll + 0.1 * random.unit();
                Position {
                    nll,
                    reference_nll,
                    divergence: Bounds::exactly(divergence * (0.5 + random.unit())),
                    probability_change: libm::exp(-nll) - libm::exp(-reference_nll),
                    same_top: random.unit() < 0.9,
                }
            })
            .collect()
    }

    #[test]
    fn percentiles_lie_between_values() {
        let check = |fraction: f64, expected: f64| {
            assert_eq!(percentile(&[1.0, 2.0, 4.0, 8.0], fraction), expected);
        };
        check(0.0, 1.0);
        check(1.0, 8.0);
        check(0.5, 3.0);
        check(1.0 / 3.0, 2.0);
    }

    #[test]
    fn perplexity_of_a_fair_die() {
        let perplexity = Perplexity::of(&[libm::log(6.0f64); 600], 20).perplexity;
        assert!((perplexity.value - 6.0).abs() < 1e-12);
        assert!(perplexity.stderr < 1e-6);
        let interval = perplexity.interval.expect("enough chunks");
        assert!((interval.lower - 6.0).abs() < 1e-9 && (interval.upper - 6.0).abs() < 1e-9);
    }

    #[test]
    fn figures_agree_with_each_other() {
        let comparison = Comparison::of(&positions(3000, 0.02), 30);
        let ratio = comparison.perplexity.value / comparison.reference_perplexity.value;
        assert!((comparison.perplexity_ratio.value - ratio).abs() < 1e-12);
        assert!(comparison.perplexity_correlation > 0.99);
        assert!((comparison.kld.mean.value - 0.02).abs() < 0.001);
        assert!((comparison.same_top.value - 0.9).abs() < 0.02);
        assert!(comparison.kld_upper.is_none());
        // The ratio is far better known than either perplexity.
        let relative = comparison.perplexity.stderr / comparison.perplexity.value;
        assert!(comparison.log_perplexity_ratio.stderr < 0.2 * relative);
    }

    #[test]
    fn the_nearer_model_is_found() {
        let (near, far) = (positions(2000, 0.02), positions(2000, 0.021));
        let test = PairedTest::of(&near, &far, 40);
        assert!(test.kld_difference < 0.0);
        assert!(test.p_value.expect("enough chunks") < 0.01);
        let same = PairedTest::of(&near, &near, 40);
        assert_eq!((same.kld_difference, same.p_value), (0.0, Some(1.0)));
    }
}
