//! The factor that error feedback uses.
//!
//! With `H = R Rᵀ`, R upper triangular, a row's loss `e H eᵀ` is `|e R|²`, and its part
//! `j` is `(e_j R_jj + Σ_{i<j} e_i R_ij)²`: what column `j` has to take up of the errors
//! of earlier columns is `Σ_{i<j} e_i R_ij / R_jj`, and the square of what it leaves
//! counts `R_jj²`. That is GPTQ (arXiv 2210.17323), whose factor of `H⁻¹` is `R⁻¹`, as
//! LDLQ (arXiv 2307.13304) writes it: without an inverse.

use qz_codec::grid::Rows;
use qz_kernels::gemm::add_row_products_in_runs;
use qz_kernels::stop;
use rayon::prelude::*;

use crate::Symmetric;

/// Columns that are factored at a time.
const PANEL: usize = 128;
/// Rows that one thread works on at a time.
const TILE: usize = 128;

/// The matrix has no factor: it is not positive definite, or not by enough for `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no factor: column {column} depends on later ones")]
pub struct NotPositive {
    /// Where that was seen.
    pub column: usize,
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
    /// Factors a matrix in its own place. Runs of 256 products are summed in `f32`, these
    /// sums in `f64`, and the result is stored in `f32`: so the factor is that of a matrix
    /// whose entries differ from the given ones by a few times 1e-7 of `sqrt(H_ii H_jj)`,
    /// as those of the sums over tokens do, however many there are.
    ///
    /// # Errors
    /// If it is not positive definite.
    pub fn of(matrix: Symmetric) -> Result<Self, NotPositive> {
        let size = matrix.size();
        let mut entries = matrix.into_entries();
        for end in (1..=size).rev().step_by(PANEL) {
            if stop::is_requested() {
                return Err(NotPositive { column: 0 });
            }
            let first = end.saturating_sub(PANEL);
            factor_panel(&mut entries, size, first, end)?;
        }
        Ok(Self::scaled(entries, size))
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

/// Columns `first..end` of R in rows `..end`, later columns being there.
fn factor_panel(
    entries: &mut [f32],
    size: usize,
    first: usize,
    end: usize,
) -> Result<(), NotPositive> {
    let width = end - first;
    let later = size - end;
    let own: Vec<f32> = entries[first * size..end * size]
        .chunks(size)
        .flat_map(|row| row[end..].to_vec())
        .collect();
    let mut corner = rest(&entries[first * size..end * size], size, first, width, &own);
    factor_corner(&mut corner, width).map_err(|column| NotPositive { column: first + column })?;
    for (row, corner) in
        entries[first * size..end * size].chunks_mut(size).zip(corner.chunks(width))
    {
        for (entry, value) in row[first..end].iter_mut().zip(corner) {
            *entry = *value as f32;
        }
    }
    // Columns of the corner as rows.
    let mut turned = vec![0.0; width * width];
    for row in 0..width {
        for column in row..width {
            turned[column * width + row] = corner[row * width + column];
        }
    }
    debug_assert_eq!(own.len(), width * later);
    entries[..first * size].par_chunks_mut(TILE * size).for_each(|rows| {
        if stop::is_requested() {
            return;
        }
        let mut rest = rest(rows, size, first, width, &own);
        for (row, rest) in rows.chunks_mut(size).zip(rest.chunks_mut(width)) {
            for column in (0..width).rev() {
                let factors = &turned[column * width..][..column + 1];
                rest[column] /= factors[column];
                let value = rest[column];
                for (earlier, factor) in rest[..column].iter_mut().zip(factors) {
                    *earlier -= value * factor;
                }
            }
            for (entry, value) in row[first..end].iter_mut().zip(rest) {
                *entry = *value as f32;
            }
        }
    });
    Ok(())
}

/// `H_ij - Σ_k R_ik R_jk` over the later columns `k`, for the panel's columns `j`, whose
/// later parts are `own`.
fn rest(rows: &[f32], size: usize, first: usize, width: usize, own: &[f32]) -> Vec<f64> {
    let count = rows.len() / size;
    let later = own.len() / width;
    let mut rest = vec![0.0; count * width];
    if later > 0 {
        let rows = Rows::dense(rows, size).slice(first + width, later);
        add_row_products_in_runs(rows, Rows::dense(own, later), &mut rest);
    }
    for (rest, row) in rest.chunks_mut(width).zip(rows.chunks(size)) {
        for (rest, entry) in rest.iter_mut().zip(&row[first..]) {
            *rest = f64::from(*entry) - *rest;
        }
    }
    rest
}

/// The upper factor of a small matrix in its upper half; `Err` names a column.
fn factor_corner(corner: &mut [f64], width: usize) -> Result<(), usize> {
    for column in (0..width).rev() {
        let whole = corner[column * width + column];
        let later = &corner[column * width..][column + 1..width];
        let rest = whole - later.iter().map(|entry| entry * entry).sum::<f64>();
        // Below this the stored factor would be rounding.
        if rest.is_nan() || rest <= whole.abs() * 1e-9 || !rest.is_finite() {
            return Err(column);
        }
        let root = rest.sqrt();
        for row in 0..column {
            let products: f64 = (column + 1..width)
                .map(|k| corner[row * width + k] * corner[column * width + k])
                .sum();
            corner[row * width + column] = (corner[row * width + column] - products) / root;
        }
        corner[column * width + column] = root;
    }
    Ok(())
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
    use crate::Gram;
    use crate::small::tests::numbers;

    fn gram(size: usize) -> Symmetric {
        let mut gram = Gram::new(size);
        gram.add(&numbers(size * (size + 20), size as u32));
        gram.finish()
    }

    #[test]
    fn the_factor_gives_the_matrix() {
        for size in [1, 2, 127, 128, 129, 400] {
            let matrix = gram(size);
            let factor = Feedback::of(matrix.clone()).expect("positive");
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
        Feedback::of(matrix.clone()).expect("positive").solve_rows(&mut rows);
        for (found, expected) in rows.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
    }

    #[test]
    fn threads_change_no_bit() {
        let factor = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("pool");
            pool.install(|| Feedback::of(gram(600)).expect("positive").weights)
        };
        assert_eq!(factor(1), factor(3));
    }

    #[test]
    fn what_is_not_positive_is_refused() {
        let check = |entries: &[f32], column: usize| {
            let size = entries.len().isqrt();
            let found = Feedback::of(Symmetric::new(size, entries.to_vec())).map(|_| ());
            assert_eq!(found, Err(NotPositive { column }), "{entries:?}");
        };
        check(&[0.0], 0);
        check(&[-1.0], 0);
        check(&[f32::NAN], 0);
        check(&[1.0, 1.0, 1.0, 1.0], 0);
        check(&[1.0, 0.0, 0.0, 0.0], 1);
    }
}
