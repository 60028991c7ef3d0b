//! Operands copied into panels.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_TRANSPOSE4_PS, _mm_loadu_ps, _mm_storeu_ps};

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

    /// The same in memory of its own.
    pub(crate) fn packed(rows: View<'_>, width: usize) -> Self {
        let mut packed = Self::default();
        packed.pack(rows, width);
        packed
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
        // Copies of a length that is known need no call.
        return match own.rows() {
            6 => copy_columns::<6>(from, stride, width, numbers),
            16 => copy_columns::<16>(from, stride, width, numbers),
            32 => copy_columns::<32>(from, stride, width, numbers),
            rows => {
                for (column, numbers) in numbers.chunks_exact_mut(width).enumerate() {
                    numbers[..rows].copy_from_slice(&from[column * stride..][..rows]);
                }
            }
        };
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

/// Numbers that are turned at a time.
const SIDE: usize = 4;

fn interleave(from: &[f32], stride: usize, rows: usize, width: usize, numbers: &mut [f32]) {
    let depth = numbers.len() / width;
    for (group, numbers) in numbers.chunks_mut(TOGETHER * width).enumerate() {
        let first = group * TOGETHER;
        let count = TOGETHER.min(depth - first);
        // Squares, where the group is whole; then the rows that are left.
        let whole = if count == TOGETHER { rows / SIDE * SIDE } else { 0 };
        for row in (0..whole).step_by(SIDE) {
            for column in (0..TOGETHER).step_by(SIDE) {
                let side = |at: usize| -> [f32; SIDE] {
                    let from = &from[(row + at) * stride + first + column..][..SIDE];
                    std::array::from_fn(|at| from[at])
                };
                for (at, own) in transposed(std::array::from_fn(side)).iter().enumerate() {
                    numbers[(column + at) * width + row..][..SIDE].copy_from_slice(own);
                }
            }
        }
        for row in whole..rows {
            let from = &from[row * stride + first..][..count];
            for (to, number) in numbers[row..].iter_mut().step_by(width).zip(from) {
                *to = *number;
            }
        }
    }
}

fn copy_columns<const ROWS: usize>(from: &[f32], stride: usize, width: usize, numbers: &mut [f32]) {
    for (column, numbers) in numbers.chunks_exact_mut(width).enumerate() {
        numbers[..ROWS].copy_from_slice(&from[column * stride..][..ROWS]);
    }
}

/// A square with rows and columns exchanged.
#[inline(always)]
pub(crate) fn transposed(square: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has SSE; rows are four numbers.
    unsafe {
        let [mut a, mut b, mut c, mut d] = square.map(|row| _mm_loadu_ps(row.as_ptr()));
        _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
        [a, b, c, d].map(|row| {
            let mut numbers = [0.0; 4];
            _mm_storeu_ps(numbers.as_mut_ptr(), row);
            numbers
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::array::from_fn(|row| std::array::from_fn(|column| square[column][row]))
}
