//! Sums of products of two inputs: the full model's and the quantized one's.

use qz_kernels::gemm::{Into, View, ViewMut, multiply};

use crate::runs::Runs;

/// The sum of `(x̃ − x) xᵀ` over tokens, where `x̃` is what the full model feeds a layer
/// and `x` what it gets behind quantized ones (GPTAQ, arXiv 2504.02692). Error and order of
/// sums are those of [`crate::Gram`].
#[derive(Clone, Debug)]
pub struct CrossGram {
    columns: usize,
    tokens: u64,
    sums: Vec<f32>,
    /// Of each token the difference, then the input.
    runs: Runs,
}

impl CrossGram {
    /// A sum of nothing.
    pub fn new(columns: usize) -> Self {
        let sums = vec![0.0; columns * columns];
        Self { columns, tokens: 0, sums, runs: Runs::new(2 * columns) }
    }

    /// Bytes that the sums of so many columns take, with what waits to be summed.
    pub fn bytes(columns: usize) -> u64 {
        (columns as u64).pow(2) * size_of::<f32>() as u64 + Runs::bytes(2 * columns)
    }

    /// Adds tokens' inputs, one row each: the full model's, and those the layer gets.
    ///
    /// # Panics
    /// If they are not as many, or the last row is cut.
    pub fn add(&mut self, full: &[f32], inputs: &[f32]) {
        let Self { columns, sums, runs, .. } = self;
        assert_eq!(full.len(), inputs.len(), "both inputs of each token");
        assert!(inputs.len().is_multiple_of(*columns), "whole rows");
        let mut rows = Vec::with_capacity(2 * inputs.len());
        for (full, inputs) in full.chunks(*columns).zip(inputs.chunks(*columns)) {
            rows.extend(full.iter().zip(inputs).map(|(full, input)| full - input));
            rows.extend_from_slice(inputs);
        }
        self.tokens += runs.add(&rows, |run| add_run(sums, *columns, run)) as u64;
    }

    /// The mean over tokens, row by row: E[(x̃ − x) xᵀ].
    pub fn finish(mut self) -> Vec<f32> {
        let Self { columns, sums, runs, .. } = &mut self;
        runs.finish(|run| add_run(sums, *columns, run));
        let factor = 1.0 / self.tokens.max(1) as f64;
        for sum in &mut self.sums {
            *sum = (f64::from(*sum) * factor) as f32;
        }
        self.sums
    }
}

fn add_run(sums: &mut [f32], columns: usize, rows: &[f32]) {
    let tokens = rows.len() / (2 * columns);
    let rows = View::dense(rows, tokens, 2 * columns);
    let differences = rows.block(0..tokens, 0..columns).transposed();
    let inputs = rows.block(0..tokens, columns..2 * columns);
    multiply(Into::Add, 1.0, differences, inputs, ViewMut::dense(sums, columns, columns));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::small::tests::numbers;

    #[test]
    fn the_mean_of_cross_products() {
        let (tokens, columns) = (600, 20);
        let (full, inputs) = (numbers(tokens * columns, 1), numbers(tokens * columns, 2));
        let sum = |part: usize| {
            let mut cross = CrossGram::new(columns);
            let parts = full.chunks(part * columns).zip(inputs.chunks(part * columns));
            parts.for_each(|(full, inputs)| cross.add(full, inputs));
            cross.finish()
        };
        let cross = sum(tokens);
        assert!(sum(77) == cross && sum(300) == cross);
        for i in 0..columns {
            for j in 0..columns {
                let rows = full.chunks(columns).zip(inputs.chunks(columns));
                let sum: f64 = rows.map(|(f, x)| f64::from(f[i] - x[i]) * f64::from(x[j])).sum();
                let error = sum / tokens as f64 - f64::from(cross[i * columns + j]);
                assert!(error.abs() < 1e-6, "{error}");
            }
        }
    }
}
