//! A symmetric matrix.

use std::ops::Range;

use qz_codec::grid::Rows;
use qz_kernels::gemm::{View, ViewMut, add_gram, add_row_products_in_runs, mirror_upper};
use qz_kernels::stop;
use rayon::prelude::*;

/// A symmetric matrix of `f32`, both halves stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Symmetric {
    size: usize,
    entries: Vec<f32>,
}

impl Symmetric {
    /// A matrix from its entries, row by row.
    ///
    /// # Panics
    /// If they are not those of a square matrix.
    pub fn new(size: usize, entries: Vec<f32>) -> Self {
        assert_eq!(entries.len(), size * size, "a square matrix");
        Self { size, entries }
    }

    /// Rows, and columns.
    pub fn size(&self) -> usize {
        self.size
    }

    /// All entries, row by row.
    pub fn entries(&self) -> &[f32] {
        &self.entries
    }

    pub(crate) fn into_entries(self) -> Vec<f32> {
        self.entries
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.entries[row * self.size..][..self.size]
    }

    /// Some columns of some rows.
    pub fn block(&self, rows: Range<usize>, columns: Range<usize>) -> Rows<'_> {
        let begin = rows.start * self.size + columns.start;
        let end = (rows.end - 1) * self.size + columns.end;
        Rows::new(&self.entries[begin..end], self.size, columns.len())
    }

    /// The diagonal.
    pub fn diagonal(&self) -> Vec<f32> {
        (0..self.size).map(|at| self.entries[at * (self.size + 1)]).collect()
    }

    /// The mean of the diagonal, in `f64`.
    pub fn mean_diagonal(&self) -> f64 {
        let sum: f64 = (0..self.size).map(|at| f64::from(self.entries[at * (self.size + 1)])).sum();
        sum / self.size.max(1) as f64
    }

    /// True if every entry is a number.
    pub fn is_finite(&self) -> bool {
        self.entries.iter().all(|entry| entry.is_finite())
    }

    /// Adds to every entry of the diagonal.
    pub fn add_to_diagonal(&mut self, amount: f32) {
        for at in 0..self.size {
            self.entries[at * (self.size + 1)] += amount;
        }
    }

    /// Of the mean of `x xᵀ` over so many inputs the mean over all but these, which are given one
    /// after the other. Nothing if no others are left.
    ///
    /// # Panics
    /// If the last input is cut.
    #[must_use]
    pub fn without(&self, tokens: u64, inputs: &[f32]) -> Option<Self> {
        let size = self.size.max(1);
        assert!(inputs.len().is_multiple_of(size), "whole inputs");
        let count = inputs.len() / size;
        let left = tokens.checked_sub(count as u64).filter(|left| *left > 0)?;
        let mut entries = vec![0.0; size * size];
        let view = View::dense(inputs, count, size);
        add_gram(1.0, view, ViewMut::dense(&mut entries, size, size));
        mirror_upper(ViewMut::dense(&mut entries, size, size));
        let (all, left) = (tokens as f64, left as f64);
        entries.par_iter_mut().zip(&self.entries).for_each(|(entry, mean)| {
            *entry = ((f64::from(*mean) * all - f64::from(*entry)) / left) as f32;
        });
        Some(Self { size: self.size, entries })
    }

    /// The matrix with rows and columns in another order: at position `p` what is at
    /// `order[p]` now.
    ///
    /// # Panics
    /// If `order` names a row that is not there.
    #[must_use]
    pub fn reordered(&self, order: &[usize]) -> Self {
        let mut entries = Vec::with_capacity(order.len() * order.len());
        for row in order {
            let row = self.row(*row);
            entries.extend(order.iter().map(|column| row[*column]));
        }
        Self { size: order.len(), entries }
    }

    /// `e H eᵀ` of each row of errors, runs of its sums in `f32`.
    ///
    /// # Panics
    /// If the last row is cut.
    pub fn losses(&self, errors: &[f32]) -> Vec<f64> {
        /// Rows of errors, and of the matrix, that are multiplied at a time.
        const ROWS: usize = 16;
        const OTHERS: usize = 96;
        let size = self.size.max(1);
        assert!(errors.len().is_multiple_of(size), "an error for each row of the matrix");
        let strips = errors.par_chunks(ROWS * size).map(|errors| {
            let rows = Rows::dense(errors, size);
            let mut losses = vec![0.0; rows.count()];
            for first in (0..size).step_by(OTHERS) {
                if stop::is_requested() {
                    break;
                }
                let own = first..size.min(first + OTHERS);
                let mut pulls = vec![0.0; rows.count() * own.len()];
                add_row_products_in_runs(rows, self.block(own.clone(), 0..size), &mut pulls);
                let pulls = pulls.chunks(own.len());
                for ((loss, row), pulls) in losses.iter_mut().zip(rows.iter()).zip(pulls) {
                    let errors = row[own.clone()].iter().map(|error| f64::from(*error));
                    *loss += errors.zip(pulls).map(|(error, pull)| error * pull).sum::<f64>();
                }
            }
            losses
        });
        strips.flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::small::tests::numbers;

    #[test]
    fn inputs_are_taken_out_of_a_mean() {
        let (size, tokens) = (7, 40);
        let inputs = numbers(tokens * size, 1);
        let all = crate::tests::mean_of(size, &inputs);
        let (first, rest) = inputs.split_at(15 * size);
        let expected = crate::tests::mean_of(size, rest);
        let found = all.without(tokens as u64, first).expect("others are left");
        for (found, expected) in found.entries().iter().zip(expected.entries()) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        assert_eq!(all.without(40, &inputs), None);
        assert_eq!(all.without(14, first), None);
    }

    #[test]
    fn losses_of_rows() {
        let size = 130;
        let matrix = crate::tests::mean_of(size, &numbers(40 * size, 1));
        let errors = numbers(20 * size, 2);
        for (row, loss) in errors.chunks(size).zip(matrix.losses(&errors)) {
            let expected: f64 = (0..size * size)
                .map(|at| {
                    let pair = f64::from(row[at / size]) * f64::from(row[at % size]);
                    pair * f64::from(matrix.entries()[at])
                })
                .sum();
            assert!((loss / expected - 1.0).abs() < 1e-5, "{loss} {expected}");
        }
    }
}
