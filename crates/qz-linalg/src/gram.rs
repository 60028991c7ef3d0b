//! XᵀX, summed while tokens come in.

use qz_codec::grid::Rows;
use qz_kernels::row_products::add_row_products;
use rayon::prelude::*;

use crate::Symmetric;

/// Tokens that are multiplied at a time. Within these, products are summed in `f32`, 512
/// at a time; so a sum's relative error is a few times 1e-6 of `Σ|x_i x_j|`, whatever
/// the number of tokens.
pub(crate) const TOKENS_AT_ONCE: usize = 512;
/// Rows and columns of the matrix that are summed by one thread at a time.
const TILE: usize = 96;

/// The sum of `x xᵀ` over tokens. Memory: `columns²` times four bytes.
///
/// The order of sums is that of the tokens; how they are handed over does not matter, as
/// long as each part but the last has a multiple of 512 of them.
#[derive(Clone, Debug)]
pub struct Gram {
    columns: usize,
    tokens: u64,
    /// Row by row; only entries on and below the diagonal's tiles are kept.
    sums: Vec<f32>,
}

impl Gram {
    /// A sum of nothing.
    pub fn new(columns: usize) -> Self {
        Self { columns, tokens: 0, sums: vec![0.0; columns * columns] }
    }

    /// Columns of the inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Adds tokens' inputs, one row each.
    ///
    /// # Panics
    /// If the last row is cut.
    pub fn add(&mut self, inputs: &[f32]) {
        let columns = self.columns;
        assert!(columns > 0 && inputs.len().is_multiple_of(columns), "whole rows");
        self.tokens += (inputs.len() / columns) as u64;
        for inputs in inputs.chunks(TOKENS_AT_ONCE * columns) {
            let (turned, tokens) = turned(inputs, columns);
            self.sums.par_chunks_mut(TILE * columns).enumerate().for_each(|(tile, sums)| {
                add_tile(&turned, tokens, tile * TILE, sums, columns);
            });
        }
    }

    /// Adds another sum.
    ///
    /// # Panics
    /// If it is over other columns.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.columns, other.columns, "sums over the same columns");
        self.tokens += other.tokens;
        for (sum, other) in self.sums.iter_mut().zip(&other.sums) {
            *sum += other;
        }
    }

    /// The mean over tokens, E[x xᵀ].
    pub fn finish(mut self) -> Symmetric {
        let factor = 1.0 / self.tokens.max(1) as f64;
        let columns = self.columns;
        for row in 0..columns {
            for column in 0..=row {
                let mean = (f64::from(self.sums[row * columns + column]) * factor) as f32;
                self.sums[row * columns + column] = mean;
                self.sums[column * columns + row] = mean;
            }
        }
        Symmetric::new(columns, self.sums)
    }
}

/// One row for each column of the inputs; and its length.
pub(crate) fn turned(inputs: &[f32], columns: usize) -> (Vec<f32>, usize) {
    let tokens = inputs.len() / columns;
    let mut turned = vec![0.0; inputs.len()];
    turned.par_chunks_mut(16 * tokens).enumerate().for_each(|(strip, turned)| {
        for (token, inputs) in inputs.chunks(columns).enumerate() {
            let own = inputs[strip * 16..].iter();
            for (row, value) in turned.chunks_mut(tokens).zip(own) {
                row[token] = *value;
            }
        }
    });
    (turned, tokens)
}

/// Rows `first..` of the sum, up to the diagonal's tile.
fn add_tile(turned: &[f32], tokens: usize, first: usize, sums: &mut [f32], columns: usize) {
    let rows = sums.len() / columns;
    let left = Rows::dense(&turned[first * tokens..][..rows * tokens], tokens);
    let mut products = Vec::new();
    for other in (0..first + rows).step_by(TILE) {
        let width = TILE.min(columns - other);
        let right = Rows::dense(&turned[other * tokens..][..width * tokens], tokens);
        products.clear();
        products.resize(rows * width, 0.0f32);
        add_row_products(left, right, &mut products);
        for (sums, products) in sums.chunks_mut(columns).zip(products.chunks(width)) {
            for (sum, product) in sums[other..].iter_mut().zip(products) {
                *sum += product;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::small::tests::numbers;

    #[test]
    fn the_mean_of_products() {
        for (tokens, columns) in [(1, 1), (3, 2), (700, 5), (1030, 100)] {
            let inputs = numbers(tokens * columns, 3);
            let mut gram = Gram::new(columns);
            gram.add(&inputs[..tokens.min(512) * columns]);
            gram.add(&inputs[tokens.min(512) * columns..]);
            assert_eq!(gram.tokens(), tokens as u64);
            let gram = gram.finish();
            for i in 0..columns {
                for j in 0..columns {
                    let rows = inputs.chunks(columns);
                    let sum: f64 = rows.map(|row| f64::from(row[i]) * f64::from(row[j])).sum();
                    let error = sum / tokens as f64 - f64::from(gram.row(i)[j]);
                    assert!(error.abs() < 1e-6, "{tokens}x{columns}: {error}");
                }
            }
        }
    }

    #[test]
    fn threads_and_parts_change_no_bit() {
        let columns = 130;
        let inputs = numbers(1500 * columns, 9);
        let sum = |threads: usize, part: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("pool");
            pool.install(|| {
                let mut gram = Gram::new(columns);
                inputs.chunks(part * columns).for_each(|inputs| gram.add(inputs));
                gram.finish()
            })
        };
        let expected = sum(1, 1500);
        assert_eq!(sum(3, 1500), expected);
        assert_eq!(sum(2, 512), expected);
        assert_eq!(sum(2, 1024), expected);
    }
}
