//! Gram matrices `XᵀX` of a matrix's inputs, in parts of rows.

use std::ops::Range;

use qz_kernels::gemm::{Into, View, ViewMut, add_gram, multiply};
use rayon::prelude::*;

/// The rows `range` of the upper triangle of `XᵀX`, where X has one row for each token.
///
/// The rows of each call of [`Self::add`] are multiplied in f32 (`qz_kernels::gemm`: runs
/// of 256 products, then the runs' sums), and the calls' results are added up in f64. So
/// an element's error is at most `(256 + n/256) · 2⁻²⁴ · Σ|xᵢ·xⱼ|` for calls with `n` rows,
/// about 1.6e-5 relative on the diagonal, and does not grow with the text; without a
/// pattern in the roundings it is near 1e-6. The result depends on how rows are shared
/// out to calls, not on threads.
#[derive(Clone, Debug)]
pub struct GramRows {
    size: usize,
    range: Range<usize>,
    tokens: u64,
    /// `range` rows of the columns from `range.start` on.
    sums: Vec<f64>,
    batch: Vec<f32>,
}

impl GramRows {
    /// Zeros: rows `range` of `size`.
    pub fn new(size: usize, range: Range<usize>) -> Self {
        let elements = range.len() * (size - range.start);
        Self { size, range, tokens: 0, sums: vec![0.0; elements], batch: vec![0.0; elements] }
    }

    /// Bytes that so many rows take.
    pub fn bytes(size: usize, range: &Range<usize>) -> u64 {
        let element = size_of::<f64>() + size_of::<f32>();
        (range.len() * (size - range.start) * element) as u64
    }

    /// Adds tokens' rows of X, one behind the other, on the current pool's threads.
    ///
    /// # Panics
    /// If the last row is not whole.
    pub fn add(&mut self, rows: &[f32]) {
        let (size, width) = (self.size, self.size - self.range.start);
        assert!(rows.len().is_multiple_of(size), "whole rows");
        let count = rows.len() / size;
        if count == 0 {
            return;
        }
        let x = View::dense(rows, count, size);
        if self.range == (0..size) {
            self.batch.fill(0.0);
            add_gram(1.0, x, ViewMut::dense(&mut self.batch, size, size));
        } else {
            let left = x.block(0..count, self.range.clone()).transposed();
            let right = x.block(0..count, self.range.start..size);
            let out = ViewMut::dense(&mut self.batch, self.range.len(), width);
            multiply(Into::Set, 1.0, left, right, out);
        }
        let parts = self.sums.par_chunks_mut(width).zip(self.batch.par_chunks(width));
        parts.for_each(|(sums, batch)| {
            sums.iter_mut().zip(batch).for_each(|(sum, number)| *sum += f64::from(*number));
        });
        self.tokens += count as u64;
    }

    /// Tokens that were added.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Where these rows are in the packed triangle, in elements.
    pub fn packed_start(&self) -> usize {
        packed_start(self.size, self.range.start)
    }

    /// The rows, each from its diagonal on, divided by nothing.
    pub fn packed(&self) -> impl Iterator<Item = f32> + '_ {
        let width = self.size - self.range.start;
        let rows = self.sums.chunks_exact(width).enumerate();
        rows.flat_map(|(row, sums)| sums[row..].iter().map(|sum| *sum as f32))
    }
}

/// Elements of the packed upper triangle of a matrix with so many rows.
pub fn packed_len(size: usize) -> usize {
    size * (size + 1) / 2
}

/// Where a row's diagonal is in the packed upper triangle: rows one behind the other, each
/// from its diagonal on.
fn packed_start(size: usize, row: usize) -> usize {
    row * size - row * row.saturating_sub(1) / 2
}

/// The whole symmetric matrix, row by row, of its packed upper triangle.
///
/// # Panics
/// If there are not that many elements.
pub fn unpack(size: usize, packed: &[f32]) -> Vec<f32> {
    assert_eq!(packed.len(), packed_len(size), "elements of the triangle");
    let mut full = vec![0.0; size * size];
    for row in 0..size {
        let upper = &packed[packed_start(size, row)..][..size - row];
        full[row * size + row..(row + 1) * size].copy_from_slice(upper);
        for (column, number) in (row..size).zip(upper) {
            full[column * size + row] = *number;
        }
    }
    full
}

/// Rows cut into runs of at most `limit` bytes each, of at least one row.
pub fn cut(size: usize, limit: u64) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut start = 0;
    while start < size {
        let row = GramRows::bytes(size, &(start..start + 1)).max(1);
        let count = usize::try_from(limit / row).unwrap_or(usize::MAX).clamp(1, size - start);
        runs.push(start..start + count);
        start += count;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(tokens: usize, size: usize) -> Vec<f32> {
        (0..tokens * size).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.4).collect()
    }

    /// The definition, in f64.
    fn expected(rows: &[f32], size: usize) -> Vec<f64> {
        let mut gram = vec![0.0; size * size];
        for row in rows.chunks_exact(size) {
            for i in 0..size {
                for j in 0..size {
                    gram[i * size + j] += f64::from(row[i]) * f64::from(row[j]);
                }
            }
        }
        gram
    }

    #[test]
    fn parts_make_the_whole() {
        for (tokens, size, limit) in [(1, 1, 1), (40, 13, 300), (700, 50, 9000), (33, 50, 1 << 20)]
        {
            let rows = inputs(tokens, size);
            let mut packed = vec![0.0; packed_len(size)];
            for range in cut(size, limit) {
                let mut part = GramRows::new(size, range);
                rows.chunks(size * 300).for_each(|rows| part.add(rows));
                assert_eq!(part.tokens(), tokens as u64);
                let start = part.packed_start();
                for (out, number) in packed[start..].iter_mut().zip(part.packed()) {
                    *out = number;
                }
            }
            let (found, expected) = (unpack(size, &packed), expected(&rows, size));
            let scale = expected.iter().copied().fold(0.0, f64::max);
            for (found, expected) in found.iter().zip(&expected) {
                assert!((f64::from(*found) - expected).abs() <= 2e-6 * scale);
            }
        }
    }

    #[test]
    fn rows_are_cut_into_runs() {
        assert_eq!(cut(4, u64::MAX), vec![0..4]);
        assert_eq!(cut(4, 0), vec![0..1, 1..2, 2..3, 3..4]);
        // A row has 4 elements of 12 bytes.
        assert_eq!(cut(4, 100), vec![0..2, 2..4]);
    }
}
