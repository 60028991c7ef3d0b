//! Sums of products of what the quantized model lacks and of its inputs.

use qz_kernels::gemm::{Into, View, ViewMut, multiply};

use crate::runs::Runs;

/// The sum of `(r̃ − r) xᵀ` over tokens: `r̃` are numbers of the full model, `r` the same
/// ones of the quantized model, and `x` a layer's inputs in the quantized model. With `x̃`
/// for `r̃` and `x` for `r` this is the cross term of GPTAQ (arXiv 2504.02692). Error and
/// order of sums are those of [`crate::Gram`].
#[derive(Clone, Debug)]
pub struct CrossGram {
    rows: usize,
    columns: usize,
    tokens: u64,
    sums: Vec<f32>,
    /// Of each token the difference, then the input.
    runs: Runs,
}

impl CrossGram {
    /// A sum of nothing: of each token `rows` numbers that differ, and `columns` inputs.
    pub fn new(rows: usize, columns: usize) -> Self {
        let sums = vec![0.0; rows * columns];
        Self { rows, columns, tokens: 0, sums, runs: Runs::new(rows + columns) }
    }

    /// Bytes that such sums take, with what waits to be summed.
    pub fn bytes(rows: usize, columns: usize) -> u64 {
        (rows * columns * size_of::<f32>()) as u64 + Runs::bytes(rows + columns)
    }

    /// Adds tokens, one row each: numbers of the full model, the same ones of the quantized
    /// model, and its inputs.
    ///
    /// # Panics
    /// If these are not of as many tokens, or the last row is cut.
    pub fn add(&mut self, full: &[f32], quantized: &[f32], inputs: &[f32]) {
        let Self { rows: height, columns, sums, runs, .. } = self;
        let tokens = inputs.len() / *columns;
        assert_eq!(inputs.len(), tokens * *columns, "whole rows");
        assert!(full.len() == tokens * *height && quantized.len() == full.len(), "all tokens");
        let mut rows = Vec::with_capacity(full.len() + inputs.len());
        for (token, inputs) in inputs.chunks(*columns).enumerate() {
            let own = token * *height..(token + 1) * *height;
            let pairs = full[own.clone()].iter().zip(&quantized[own]);
            rows.extend(pairs.map(|(full, quantized)| full - quantized));
            rows.extend_from_slice(inputs);
        }
        self.tokens += runs.add(&rows, |run| add_run(sums, *height, *columns, run)) as u64;
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Sums what waits; tokens that come later begin a new run.
    fn settle(&mut self) {
        let Self { rows, columns, sums, runs, .. } = self;
        runs.finish(|run| add_run(sums, *rows, *columns, run));
    }

    /// Adds what another has summed of as many numbers.
    ///
    /// # Panics
    /// If it is of others.
    pub fn merge(&mut self, mut other: Self) {
        assert_eq!((self.rows, self.columns), (other.rows, other.columns), "the same numbers");
        self.settle();
        other.settle();
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, other)| *sum += other);
        self.tokens += other.tokens;
    }

    /// The mean over tokens, row by row: E[(r̃ − r) xᵀ].
    pub fn finish(mut self) -> Vec<f32> {
        self.settle();
        let factor = 1.0 / self.tokens.max(1) as f64;
        for sum in &mut self.sums {
            *sum = (f64::from(*sum) * factor) as f32;
        }
        self.sums
    }
}

fn add_run(sums: &mut [f32], rows: usize, columns: usize, run: &[f32]) {
    let width = rows + columns;
    let tokens = run.len() / width;
    let run = View::dense(run, tokens, width);
    let differences = run.block(0..tokens, 0..rows).transposed();
    let inputs = run.block(0..tokens, rows..width);
    multiply(Into::Add, 1.0, differences, inputs, ViewMut::dense(sums, rows, columns));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::small::tests::numbers;

    #[test]
    fn the_mean_of_cross_products() {
        for (tokens, rows, columns) in [(600, 20, 20), (300, 7, 20), (5, 3, 1)] {
            let (full, quantized) = (numbers(tokens * rows, 1), numbers(tokens * rows, 3));
            let inputs = numbers(tokens * columns, 2);
            let sum = |part: usize| {
                let mut cross = CrossGram::new(rows, columns);
                for first in (0..tokens).step_by(part) {
                    let end = tokens.min(first + part);
                    let (own, its) = (first * rows..end * rows, first * columns..end * columns);
                    cross.add(&full[own.clone()], &quantized[own], &inputs[its]);
                }
                cross.finish()
            };
            let cross = sum(tokens);
            assert!(sum(77) == cross && sum(300) == cross);
            let of = |tokens: std::ops::Range<usize>| {
                let mut part = CrossGram::new(rows, columns);
                let (own, its) = (
                    tokens.start * rows..tokens.end * rows,
                    tokens.start * columns..tokens.end * columns,
                );
                part.add(&full[own.clone()], &quantized[own], &inputs[its]);
                part
            };
            let (mut merged, half) = (of(0..tokens / 2), tokens / 2);
            merged.merge(of(half..tokens));
            assert_eq!(merged.tokens(), tokens as u64);
            let near = |(own, other): (&f32, &f32)| (own - other).abs() < 1e-6;
            assert!(merged.finish().iter().zip(&cross).all(near));
            for i in 0..rows {
                for j in 0..columns {
                    let term = |token: usize| {
                        let at = token * rows + i;
                        let missing = f64::from(full[at] - quantized[at]);
                        missing * f64::from(inputs[token * columns + j])
                    };
                    let sum: f64 = (0..tokens).map(term).sum();
                    let error = sum / tokens as f64 - f64::from(cross[i * columns + j]);
                    assert!(error.abs() < 1e-6, "{error}");
                }
            }
        }
    }
}
