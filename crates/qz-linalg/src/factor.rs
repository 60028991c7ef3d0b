//! The factor that error feedback uses.
//!
//! With `H = R Rᵀ`, R upper triangular, a row's loss `e H eᵀ` is `|e R|²`, and its part
//! `j` is `(e_j R_jj + Σ_{i<j} e_i R_ij)²`: what column `j` has to take up of the errors
//! of earlier columns is `Σ_{i<j} e_i R_ij / R_jj`, and the square of what it leaves
//! counts `R_jj²`. That is GPTQ (arXiv 2210.17323), whose factor of `H⁻¹` is `R⁻¹`, as
//! LDLQ (arXiv 2307.13304) writes it: without an inverse.

use qz_codec::grid::Rows;
use qz_kernels::backend::{Backend, Error};
use qz_kernels::stop;
use rayon::prelude::*;

use crate::Symmetric;

/// What factors matrices: any backend, without its buffers' types.
pub trait Factor: Sync {
    /// As [`Backend::factor`].
    ///
    /// # Errors
    /// If the device fails.
    fn factor(&self, size: usize, matrix: Vec<f32>) -> Result<Result<Vec<f32>, usize>, Error>;
}

impl<B: Backend> Factor for B {
    fn factor(&self, size: usize, matrix: Vec<f32>) -> Result<Result<Vec<f32>, usize>, Error> {
        Backend::factor(self, size, matrix)
    }
}

/// Why there is no factor.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FactorError {
    /// The matrix is not positive definite, or not by enough for `f32`.
    #[error("no factor: column {column} depends on later ones")]
    NotPositive {
        /// Where that was seen.
        column: usize,
    },
    /// The device has failed.
    #[error(transparent)]
    Device(#[from] Error),
}

/// What columns take up of the errors of earlier ones, and what the rest counts.
#[derive(Clone, Debug)]
pub struct Feedback {
    size: usize,
    /// Row `j`: `R_ij / R_jj` for each `i < j`, then 1, then zeros.
    weights: Vec<f32>,
    /// R_jj
    diagonal: Vec<f32>,
}

impl Feedback {
    /// Factors a matrix on a device.
    ///
    /// # Errors
    /// If it is not positive definite, or the device fails.
    pub fn of(device: &dyn Factor, matrix: Symmetric) -> Result<Self, FactorError> {
        let size = matrix.size();
        match device.factor(size, matrix.into_entries())? {
            Ok(entries) => Ok(Self::scaled(entries, size)),
            Err(column) => Err(FactorError::NotPositive { column }),
        }
    }

    /// From R, in the upper half.
    fn scaled(mut entries: Vec<f32>, size: usize) -> Self {
        transpose(&mut entries, size);
        let mut diagonal = vec![0.0; size];
        entries.par_chunks_mut(size.max(1)).zip(diagonal.par_iter_mut()).enumerate().for_each(
            |(row, (entries, diagonal))| {
                *diagonal = entries[row];
                let inverse = 1.0 / entries[row];
                for entry in &mut entries[..row] {
                    *entry *= inverse;
                }
                entries[row] = 1.0;
                entries[row + 1..].fill(0.0);
            },
        );
        Self { size, weights: entries, diagonal }
    }

    /// Columns.
    pub fn size(&self) -> usize {
        self.size
    }

    /// What column `column` takes up of the errors of each column before it.
    pub fn weights(&self, column: usize) -> &[f32] {
        &self.weights[column * self.size..][..column]
    }

    /// The weights of some columns for the errors of some earlier ones, with zeros for
    /// those that are not earlier, and a one for the column itself.
    pub fn block(
        &self,
        columns: std::ops::Range<usize>,
        earlier: std::ops::Range<usize>,
    ) -> Rows<'_> {
        let begin = columns.start * self.size + earlier.start;
        let end = (columns.end - 1) * self.size + earlier.end;
        Rows::new(&self.weights[begin..end], self.size, earlier.len())
    }

    /// What the square of a column's error counts once later columns have taken up what
    /// they can: R_jj².
    pub fn remaining(&self, column: usize) -> f32 {
        self.diagonal[column] * self.diagonal[column]
    }

    /// `R_ij`, for `i <= j`.
    pub fn entry(&self, i: usize, j: usize) -> f32 {
        self.weights[j * self.size + i] * self.diagonal[j]
    }

    /// Solves `x H = b` for each row of `rows` in place.
    ///
    /// # Panics
    /// If the last row is cut.
    pub fn solve_rows(&self, rows: &mut [f32]) {
        let size = self.size.max(1);
        assert!(rows.len().is_multiple_of(size), "whole rows");
        rows.par_chunks_mut(size).for_each(|row| {
            if stop::is_requested() {
                return;
            }
            let mut values: Vec<f64> = row.iter().map(|value| f64::from(*value)).collect();
            // x R = y with y Rᵀ = b: from the last column of b, then from the first.
            for column in (0..self.size).rev() {
                let scale = f64::from(self.diagonal[column]);
                let value = values[column] / scale;
                for (earlier, weight) in values.iter_mut().zip(self.weights(column)) {
                    *earlier -= value * scale * f64::from(*weight);
                }
                values[column] = value;
            }
            for column in 0..self.size {
                let scale = f64::from(self.diagonal[column]);
                let earlier = values.iter().zip(self.weights(column));
                let sum: f64 = earlier.map(|(value, weight)| value * f64::from(*weight)).sum();
                values[column] = values[column] / scale - sum;
            }
            for (stored, value) in row.iter_mut().zip(values) {
                *stored = value as f32;
            }
        });
    }
}

fn transpose(entries: &mut [f32], size: usize) {
    const BLOCK: usize = 32;
    for row in (0..size).step_by(BLOCK) {
        for column in (row..size).step_by(BLOCK) {
            for i in row..(row + BLOCK).min(size) {
                for j in column.max(i + 1)..(column + BLOCK).min(size) {
                    entries.swap(i * size + j, j * size + i);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::small::tests::numbers;
    use crate::tests::{mean_of, processor};

    fn gram(size: usize) -> Symmetric {
        mean_of(size, &numbers(size * (size + 20), size as u32))
    }

    fn factor(threads: usize, matrix: Symmetric) -> Result<Feedback, FactorError> {
        Feedback::of(&processor(threads), matrix)
    }

    #[test]
    fn the_factor_gives_the_matrix() {
        for size in [1, 2, 127, 128, 129, 400] {
            let matrix = gram(size);
            let factor = factor(2, matrix.clone()).expect("positive");
            for i in 0..size {
                for j in i..size {
                    let sum: f64 = (j..size)
                        .map(|k| f64::from(factor.entry(i, k)) * f64::from(factor.entry(j, k)))
                        .sum();
                    let error = sum - f64::from(matrix.row(i)[j]);
                    assert!(error.abs() < 1e-6, "{size}: {i} {j}: {error}");
                }
            }
        }
    }

    #[test]
    fn systems_are_solved() {
        let size = 100;
        let mut matrix = gram(size);
        matrix.add_to_diagonal(0.1);
        let expected = numbers(2 * size, 4);
        let mut rows: Vec<f32> = expected
            .chunks(size)
            .flat_map(|x| {
                (0..size).map(|j| x.iter().zip(matrix.row(j)).map(|(x, h)| x * h).sum::<f32>())
            })
            .collect();
        factor(2, matrix.clone()).expect("positive").solve_rows(&mut rows);
        for (found, expected) in rows.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
    }

    #[test]
    fn threads_change_no_bit() {
        let weights = |threads| factor(threads, gram(600)).expect("positive").weights;
        assert_eq!(weights(1), weights(3));
    }

    #[test]
    fn what_is_not_positive_is_refused() {
        let check = |entries: &[f32], column: usize| {
            let size = entries.len().isqrt();
            let found = factor(1, Symmetric::new(size, entries.to_vec())).map(|_| ());
            assert_eq!(found, Err(FactorError::NotPositive { column }), "{entries:?}");
        };
        check(&[0.0], 0);
        check(&[-1.0], 0);
        check(&[f32::NAN], 0);
        check(&[1.0, 1.0, 1.0, 1.0], 0);
        check(&[1.0, 0.0, 0.0, 0.0], 1);
    }
}
