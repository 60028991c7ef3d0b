//! Operands copied into panels.

use rayon::prelude::*;

use super::view::View;

/// Rows of a matrix, a few at a time: each panel has `width` rows, interleaved, so that
/// their numbers of one column lie behind each other. The last panel is filled up with
/// rows of zeros.
#[derive(Debug, Default)]
pub(crate) struct Panels {
    numbers: Vec<f32>,
    /// Rows of a panel.
    width: usize,
    /// Columns.
    depth: usize,
    /// Rows, without those of zeros.
    count: usize,
}

impl Panels {
    /// Copies the rows of a matrix; keeps the memory it had.
    pub(crate) fn pack(&mut self, rows: View<'_>, width: usize) {
        self.reserve(rows, width);
        let panels = self.numbers.chunks_exact_mut((width * self.depth).max(1));
        panels.enumerate().for_each(|(panel, numbers)| pack_panel(rows, width, panel, numbers));
    }

    /// The same on the current pool's threads.
    pub(crate) fn pack_on_all_threads(rows: View<'_>, width: usize) -> Self {
        let mut packed = Self::default();
        packed.reserve(rows, width);
        let panels = packed.numbers.par_chunks_exact_mut((width * packed.depth).max(1));
        panels.enumerate().for_each(|(panel, numbers)| pack_panel(rows, width, panel, numbers));
        packed
    }

    fn reserve(&mut self, rows: View<'_>, width: usize) {
        (self.width, self.depth, self.count) = (width, rows.columns(), rows.rows());
        self.numbers.resize(self.count.next_multiple_of(width) * self.depth, 0.0);
    }

    /// Rows, without those of zeros.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// All panels, one behind the other.
    pub(crate) fn numbers(&self) -> &[f32] {
        &self.numbers
    }

    /// The panel that begins with a row.
    #[inline(always)]
    pub(super) fn starting_with(&self, row: usize) -> &[f32] {
        &self.numbers[row * self.depth..][..self.width * self.depth]
    }
}

fn pack_panel(rows: View<'_>, width: usize, panel: usize, numbers: &mut [f32]) {
    let first = panel * width;
    let own = rows.block(first..rows.rows().min(first + width), 0..rows.columns());
    if own.rows() < width {
        numbers.fill(0.0);
    }
    if let Some((from, stride)) = own.contiguous_rows() {
        return interleave(from, stride, own.rows(), width, numbers);
    }
    if let Some((from, stride)) = own.transposed().contiguous_rows() {
        for (column, numbers) in numbers.chunks_exact_mut(width).enumerate() {
            numbers[..own.rows()].copy_from_slice(&from[column * stride..][..own.rows()]);
        }
        return;
    }
    for (column, numbers) in numbers.chunks_exact_mut(width).enumerate() {
        for (row, number) in numbers.iter_mut().enumerate().take(own.rows()) {
            *number = own.at(row, column);
        }
    }
}

/// Columns that are copied row by row before the next ones are: what is written stays in
/// the first cache.
const TOGETHER: usize = 16;

fn interleave(from: &[f32], stride: usize, rows: usize, width: usize, numbers: &mut [f32]) {
    let depth = numbers.len() / width;
    for (group, numbers) in numbers.chunks_mut(TOGETHER * width).enumerate() {
        let first = group * TOGETHER;
        let count = TOGETHER.min(depth - first);
        for row in 0..rows {
            let from = &from[row * stride + first..][..count];
            for (to, number) in numbers[row..].iter_mut().step_by(width).zip(from) {
                *to = *number;
            }
        }
    }
}
