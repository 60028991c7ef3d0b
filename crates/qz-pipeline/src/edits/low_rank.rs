//! A product of two thin matrices, added to a wide one.

use std::ops::Range;

use qz_codec::grid::Rows;
use qz_kernels::gemm;
use qz_tensor::FileError;

use super::operand::{Kept, Operand};
use crate::model::to_usize;

/// `scale · (L R)`: L has a row for each row of the edited matrix, R a column for each of its
/// columns. A stack of matrices has an L and an R for each of them.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// L.
    pub rows: Factor,
    /// R.
    pub columns: Factor,
    /// Columns of L and rows of R; at least 1.
    pub rank: u64,
    /// What the product is multiplied by.
    pub scale: f32,
    /// True if the product is rounded to the edited tensor's stored type before it is added.
    pub is_rounded: bool,
}

/// L or R, as some of a stored tensor's numbers.
#[derive(Clone, Debug)]
pub struct Factor {
    /// The numbers.
    pub operand: Operand,
    /// How they lie.
    pub strides: FactorStrides,
}

/// Where elements of a factor are, counted in elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FactorStrides {
    /// The first.
    pub first: u64,
    /// How far the factor of a matrix of a stack is from that of the one before; 0 if there is
    /// one matrix.
    pub matrix: u64,
    /// How far a row of L, or a column of R, is from the one before.
    pub item: u64,
    /// How far a place of the rank is from the one before.
    pub rank: u64,
}

/// The matrix, or stack of them, that is added to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stack {
    /// Of each matrix.
    pub(super) rows: u64,
    pub(super) columns: u64,
}

impl LowRank {
    /// What tells it from others.
    pub(super) fn description(&self) -> String {
        let Self { rows, columns, rank, scale, is_rounded } = self;
        format!("{rows:?} {columns:?} {rank} {scale:e} {is_rounded}")
    }

    /// The rows of `scale · (L R)` from `first_row` of the stack on; `out` is whole rows.
    ///
    /// As torch does, a product is summed in f32 along the rank, then multiplied.
    pub(super) fn product(
        &self,
        kept: &Kept,
        stack: Stack,
        first_row: u64,
        out: &mut [f32],
    ) -> Result<(), FileError> {
        out.fill(0.0);
        let (rank, columns) = (to_usize(self.rank), to_usize(stack.columns));
        let (mut row, mut rest) = (first_row, &mut *out);
        while !rest.is_empty() {
            let (matrix, within) = (row / stack.rows, row % stack.rows);
            let count = (stack.rows - within).min((rest.len() / columns) as u64);
            let (part, after) = std::mem::take(&mut rest).split_at_mut(to_usize(count) * columns);
            let left = self.rows.items(kept, matrix, within..within + count, self.rank)?;
            let right = self.columns.items(kept, matrix, 0..stack.columns, self.rank)?;
            gemm::add_row_products(Rows::dense(&left, rank), Rows::dense(&right, rank), part);
            (row, rest) = (row + count, after);
        }
        out.iter_mut().for_each(|value| *value *= self.scale);
        Ok(())
    }
}

impl Factor {
    /// The numbers of some rows of L, or columns of R, of one matrix: `rank` of each, next to
    /// each other.
    pub(crate) fn items(
        &self,
        kept: &Kept,
        matrix: u64,
        items: Range<u64>,
        rank: u64,
    ) -> Result<Vec<f32>, FileError> {
        let (numbers, strides) = (kept.numbers(&self.operand)?, self.strides);
        let first = strides.first + matrix * strides.matrix;
        let mut out = Vec::with_capacity(to_usize((items.end - items.start) * rank));
        for first in items.map(|item| first + item * strides.item) {
            out.extend((0..rank).map(|place| numbers[to_usize(first + place * strides.rank)]));
        }
        Ok(out)
    }
}
