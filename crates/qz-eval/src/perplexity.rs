//! Perplexity: the exponential of the mean negative log-likelihood.

use qz_models::forward::LogitsTile;
use rayon::prelude::*;

use crate::windows::Windows;

/// A figure with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Measured {
    /// The figure.
    pub value: f64,
    /// Its standard error; tokens are taken as independent, as in the reference.
    pub stderr: f64,
}

/// A text's perplexity under a model.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Perplexity {
    /// The perplexity.
    pub perplexity: Measured,
    /// Scored tokens.
    pub tokens: usize,
    /// The mean negative log-likelihood of each chunk.
    pub chunks: Vec<f64>,
}

/// Minus the logarithm of the probability that logits give a token.
pub fn negative_log_likelihood(logits: &[f32], token: u32) -> f64 {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |largest, logit| largest.max(*logit));
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - largest).exp())).sum();
    let own = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    -(f64::from(own - largest) - sum.ln())
}

/// Gathers what a perplexity is made of.
#[derive(Clone, Debug, Default)]
pub struct PerplexitySum {
    chunks: Vec<f64>,
    sum: f64,
    squares: f64,
    count: usize,
}

impl PerplexitySum {
    /// Adds the rows of a tile; tiles come in order.
    pub fn add(&mut self, windows: &Windows, tile: &LogitsTile) {
        let width = tile.values.len() / tile.rows.len().max(1);
        let rows = tile.values.par_chunks_exact(width.max(1)).enumerate();
        let scores: Vec<f64> = rows
            .map(|(row, logits)| {
                negative_log_likelihood(logits, windows.target(tile.rows.start + row))
            })
            .collect();
        for (row, score) in tile.rows.clone().zip(scores) {
            let chunk = windows.chunk(row);
            self.chunks.resize(chunk + 1, 0.0);
            self.chunks[chunk] += score / windows.positions().len() as f64;
            self.sum += score;
            self.squares += score * score;
            self.count += 1;
        }
    }

    /// The perplexity so far.
    pub fn finish(self) -> Perplexity {
        let count = self.count as f64;
        let mean = self.sum / count;
        let variance = self.squares / count - mean * mean;
        let value = mean.exp();
        let stderr = if variance > 0.0 { (variance / (count - 1.0)).sqrt() * value } else { 0.0 };
        Perplexity {
            perplexity: Measured { value, stderr },
            tokens: self.count,
            chunks: self.chunks,
        }
    }
}

#[cfg(test)]
mod tests {
    use qz_tensor::Location;

    use super::*;
    use crate::windows::WindowOptions;

    #[test]
    fn likelihoods() {
        let check = |logits: &[f32], token: u32, expected: f64| {
            let found = negative_log_likelihood(logits, token);
            assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
        };
        check(&[0.0, 0.0], 1, 2f64.ln());
        check(&[1000.0, 1000.0, 1000.0, 1000.0], 3, 4f64.ln());
        check(&[3f32.ln(), 0.0], 0, (4.0f64 / 3.0).ln());
        check(&[3f32.ln(), 0.0], 1, 4f64.ln());
        check(&[0.0, -1000.0], 1, 1000.0);
    }

    #[test]
    fn tiles_add_up() {
        let options = WindowOptions { context: 4, chunks: None, stride: None, first_token: None };
        let windows = Windows::new(&[0, 1, 0, 1, 1, 1, 1, 1], &options, &Location::default())
            .expect("long enough");
        assert_eq!(windows.rows(), 2);
        let mut sum = PerplexitySum::default();
        sum.add(&windows, &LogitsTile { rows: 0..1, values: vec![0.0, 0.0] });
        sum.add(&windows, &LogitsTile { rows: 1..2, values: vec![7f32.ln(), 0.0] });
        let found = sum.finish();
        // Probabilities 1/2 and 1/8: the mean of their logarithms is that of 1/4.
        assert!((found.perplexity.value - 4.0).abs() < 1e-6);
        assert_eq!((found.tokens, found.chunks.len()), (2, 2));
        assert!((found.chunks[1] - 8f64.ln()).abs() < 1e-6);
        assert!((found.perplexity.stderr - 4.0 * 2f64.ln()).abs() < 1e-6);
    }
}
