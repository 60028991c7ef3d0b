//! Rows that come in parts of any size, and go on in runs of one size.

use qz_kernels::gemm::DEPTH;

/// Hands rows on in multiples of the [`DEPTH`] rows that a product sums before it adds them:
/// so sums do not depend on the parts that the rows came in.
#[derive(Clone, Debug)]
pub(crate) struct Runs {
    width: usize,
    /// Rows that do not fill a run yet.
    waiting: Vec<f32>,
}

impl Runs {
    /// Of rows of `width` numbers.
    pub(crate) fn new(width: usize) -> Self {
        Self { width, waiting: Vec::new() }
    }

    /// The most bytes that wait.
    pub(crate) fn bytes(width: usize) -> u64 {
        (DEPTH * width * size_of::<f32>()) as u64
    }

    /// Takes rows, and gives `sum` those that fill runs; how many were taken.
    ///
    /// # Panics
    /// If the last row is cut.
    pub(crate) fn add(&mut self, rows: &[f32], mut sum: impl FnMut(&[f32])) -> usize {
        assert!(self.width > 0 && rows.len().is_multiple_of(self.width), "whole rows");
        let run = DEPTH * self.width;
        let mut rest = rows;
        if !self.waiting.is_empty() {
            let (first, after) = rest.split_at(rest.len().min(run - self.waiting.len()));
            self.waiting.extend_from_slice(first);
            rest = after;
            if self.waiting.len() == run {
                sum(&self.waiting);
                self.waiting.clear();
            }
        }
        let (whole, rest) = rest.split_at(rest.len() / run * run);
        if !whole.is_empty() {
            sum(whole);
        }
        self.waiting.extend_from_slice(rest);
        rows.len() / self.width
    }

    /// Gives `sum` what waits still.
    pub(crate) fn finish(&mut self, sum: impl FnOnce(&[f32])) {
        let waiting = std::mem::take(&mut self.waiting);
        if !waiting.is_empty() {
            sum(&waiting);
        }
    }
}
