//! A symmetric matrix.

use std::ops::Range;

use qz_codec::grid::Rows;

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

    /// `e H eᵀ`, in `f64`.
    ///
    /// # Panics
    /// If `errors` is not a row of the matrix's size.
    pub fn loss(&self, errors: &[f32]) -> f64 {
        assert_eq!(errors.len(), self.size, "an error for each row");
        let mut loss = 0.0;
        for (error, row) in errors.iter().zip(self.entries.chunks(self.size.max(1))) {
            if *error != 0.0 {
                let pull: f64 =
                    row.iter().zip(errors).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                loss += f64::from(*error) * pull;
            }
        }
        loss
    }
}
