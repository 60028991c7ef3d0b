//! Sums of products of two inputs: the full model's and the quantized one's.

use qz_kernels::gemm::{Into, View, ViewMut, multiply};

/// The sum of `(x̃ − x) xᵀ` over tokens, where `x̃` is what the full model feeds a layer
/// and `x` what it gets behind quantized ones (GPTAQ, arXiv 2504.02692).
#[derive(Clone, Debug)]
pub struct CrossGram {
    columns: usize,
    tokens: u64,
    sums: Vec<f32>,
}

impl CrossGram {
    /// A sum of nothing.
    pub fn new(columns: usize) -> Self {
        Self { columns, tokens: 0, sums: vec![0.0; columns * columns] }
    }

    /// Columns of the inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Adds tokens' inputs, one row each: the full model's, and those the layer gets.
    ///
    /// # Panics
    /// If they are not as many, or the last row is cut.
    pub fn add(&mut self, full: &[f32], inputs: &[f32]) {
        let columns = self.columns;
        assert_eq!(full.len(), inputs.len(), "both inputs of each token");
        assert!(columns > 0 && inputs.len().is_multiple_of(columns), "whole rows");
        let tokens = inputs.len() / columns;
        self.tokens += tokens as u64;
        let difference: Vec<f32> = full.iter().zip(inputs).map(|(a, b)| a - b).collect();
        let left = View::dense(&difference, tokens, columns).transposed();
        let sums = ViewMut::dense(&mut self.sums, columns, columns);
        multiply(Into::Add, 1.0, left, View::dense(inputs, tokens, columns), sums);
    }

    /// The mean over tokens, row by row: E[(x̃ − x) xᵀ].
    pub fn finish(mut self) -> Vec<f32> {
        let factor = 1.0 / self.tokens.max(1) as f64;
        for sum in &mut self.sums {
            *sum = (f64::from(*sum) * factor) as f32;
        }
        self.sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::small::tests::numbers;

    #[test]
    fn the_mean_of_cross_products() {
        let (tokens, columns) = (600, 20);
        let (full, inputs) = (numbers(tokens * columns, 1), numbers(tokens * columns, 2));
        let mut cross = CrossGram::new(columns);
        cross.add(&full, &inputs);
        let cross = cross.finish();
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
