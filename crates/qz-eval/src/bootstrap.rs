//! Confidence intervals by drawing chunks.
//!
//! Tokens of one chunk are alike: its text is easy or hard as a whole. Formulas that
//! take tokens for independent give intervals that are too narrow; drawing whole chunks
//! with replacement does not (the cluster bootstrap: Davison and Hinkley, Bootstrap
//! Methods and their Application, section 3.8).

use qz_tensor::stop;
use serde::Serialize;

use crate::random::Random;

/// How often chunks are drawn anew.
const RESAMPLES: usize = 1000;

/// The smallest probability that so many draws can show.
pub const LEAST_P_VALUE: f64 = 2.0 / (RESAMPLES as f64 + 1.0);

/// Fewer chunks than this say nothing about how chunks differ.
pub const FEWEST_CHUNKS: usize = 8;

const SEED: u64 = 0x7175_616e_7469_7a65;

/// The range in which a figure lies in 95 of 100 evaluations of such texts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Its lower end.
    pub lower: f64,
    /// Its upper end.
    pub upper: f64,
}

/// Which chunks each resample has; the same for all figures, models and runs.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// For every resample, how often each chunk is drawn.
    resamples: Vec<Vec<u32>>,
}

impl Bootstrap {
    /// Draws from this many chunks; from few, nothing.
    pub fn new(chunks: usize) -> Self {
        let mut random = Random::new(SEED);
        let count = if chunks < FEWEST_CHUNKS { 0 } else { RESAMPLES };
        let wanted = (0..count).take_while(|_| !stop::is_requested());
        let resamples = wanted.map(|_| {
            let mut drawn = vec![0; chunks];
            (0..chunks).for_each(|_| drawn[random.below(chunks)] += 1);
            drawn
        });
        Self { resamples: resamples.collect() }
    }

    /// The interval of a figure, given how often each chunk counts; none if there are
    /// too few chunks.
    pub fn interval(&self, figure: impl FnMut(&[u32]) -> f64) -> Option<Interval> {
        let values = self.values(figure);
        let last = values.len().checked_sub(1)? as f64;
        let at = |fraction: f64| values[(fraction * last).round() as usize];
        Some(Interval { lower: at(0.025), upper: at(0.975) })
    }

    /// How likely chance alone makes a difference that large, two-sided: none if there
    /// are too few chunks.
    pub fn p_value(&self, difference: impl FnMut(&[u32]) -> f64) -> Option<f64> {
        let values = self.values(difference);
        if values.is_empty() {
            return None;
        }
        let not_above = values.iter().filter(|value| **value <= 0.0).count();
        let not_below = values.iter().filter(|value| **value >= 0.0).count();
        // One more of each: no number of resamples shows that something never happens.
        let share = (not_above.min(not_below) + 1) as f64 / (values.len() + 1) as f64;
        Some((2.0 * share).min(1.0))
    }

    fn values(&self, figure: impl FnMut(&[u32]) -> f64) -> Vec<f64> {
        let wanted = self.resamples.iter().take_while(|_| !stop::is_requested());
        let mut values: Vec<f64> = wanted.map(Vec::as_slice).map(figure).collect();
        values.sort_by(f64::total_cmp);
        values
    }
}

/// The mean of the chunks' means, each counted as often as it was drawn.
pub(crate) fn weighted_mean(means: &[f64], drawn: &[u32]) -> f64 {
    let sum: f64 = means.iter().zip(drawn).map(|(mean, count)| mean * f64::from(*count)).sum();
    sum / drawn.iter().map(|count| f64::from(*count)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn means(chunks: usize, distance: f64) -> Vec<f64> {
        let mut random = Random::new(chunks as u64);
        (0..chunks).map(|_| distance + random.unit() - 0.5).collect()
    }

    #[test]
    fn few_chunks_give_no_interval() {
        assert_eq!(Bootstrap::new(3).interval(|_| 1.0), None);
        assert_eq!(Bootstrap::new(3).p_value(|_| 1.0), None);
    }

    #[test]
    fn intervals_are_as_wide_as_the_standard_error_says() {
        let values = means(400, 0.0);
        let interval =
            Bootstrap::new(400).interval(|drawn| weighted_mean(&values, drawn)).expect("enough");
        // Uniform numbers: the mean's standard error is sqrt(1 / 12 / 400).
        let expected = 2.0 * 1.96 * (1.0f64 / 12.0 / 400.0).sqrt();
        let width = interval.upper - interval.lower;
        assert!((width / expected - 1.0).abs() < 0.15, "{width} {expected}");
    }

    #[test]
    fn differences_are_found_where_they_are() {
        let p = |distance: f64| {
            let values = means(100, distance);
            Bootstrap::new(100).p_value(|drawn| weighted_mean(&values, drawn)).expect("enough")
        };
        assert!(p(0.2) < 0.01);
        assert!(p(-0.2) < 0.01);
        assert!(p(0.001) > 0.1);
    }

    #[test]
    fn draws_are_the_same_every_time() {
        let first = Bootstrap::new(50);
        assert_eq!(first.resamples, Bootstrap::new(50).resamples);
        assert!(first.resamples.iter().all(|drawn| drawn.iter().sum::<u32>() == 50));
    }
}
