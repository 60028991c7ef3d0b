//! A product of two thin matrices, added to a wide one.

use std::fmt;
use std::sync::Arc;

use qz_codec::grid::Rows;
use qz_kernels::gemm;
use qz_tensor::{FileError, TensorIndex, TensorSource};

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

/// L or R, as a stored tensor of plain numbers.
#[derive(Clone)]
pub struct Factor {
    /// Where it is stored.
    pub source: Arc<dyn TensorSource>,
    /// Which tensor it is.
    pub tensor: TensorIndex,
    /// How its elements lie.
    pub strides: FactorStrides,
}

/// How far elements of a factor are from each other, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FactorStrides {
    /// From the factor of one matrix of a stack to that of the next; 0 if there is one matrix.
    pub matrix: u64,
    /// From one row of L, or column of R, to the next.
    pub item: u64,
    /// From one place of the rank to the next.
    pub rank: u64,
}

impl fmt::Debug for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.source.tensors()[self.tensor.0].name;
        write!(f, "{name} {:?}", self.strides)
    }
}

/// Both factors in memory. Each has `rank` numbers for each row or column of the matrix.
#[derive(Debug)]
pub(super) struct HeldFactors {
    rows: Vec<f32>,
    columns: Vec<f32>,
}

/// The matrix, or stack of them, that is added to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stack {
    pub(super) matrices: u64,
    /// Of each.
    pub(super) rows: u64,
    pub(super) columns: u64,
}

impl LowRank {
    /// What tells it from others.
    pub(super) fn description(&self) -> String {
        let Self { rows, columns, rank, scale, is_rounded } = self;
        format!("{rows:?} {columns:?} {rank} {scale:e} {is_rounded}")
    }

    /// Reads both factors.
    pub(super) fn hold(&self, stack: Stack) -> Result<HeldFactors, FileError> {
        let rows = self.rows.read(stack.matrices, stack.rows, self.rank)?;
        let columns = self.columns.read(stack.matrices, stack.columns, self.rank)?;
        Ok(HeldFactors { rows, columns })
    }

    /// The rows of `scale · (L R)` from `first_row` of the stack on; `out` is whole rows.
    ///
    /// As torch does, a product is summed in f32 along the rank, then multiplied.
    pub(super) fn product(
        &self,
        held: &HeldFactors,
        stack: Stack,
        first_row: u64,
        out: &mut [f32],
    ) {
        out.fill(0.0);
        let rank = to_usize(self.rank);
        let (row_count, columns) = (to_usize(stack.rows), to_usize(stack.columns));
        let (mut row, mut rest) = (to_usize(first_row), &mut *out);
        while !rest.is_empty() {
            let matrix = row / row_count;
            let count = ((matrix + 1) * row_count - row).min(rest.len() / columns);
            let (part, after) = std::mem::take(&mut rest).split_at_mut(count * columns);
            let left = &held.rows[row * rank..(row + count) * rank];
            let right = &held.columns[matrix * columns * rank..][..columns * rank];
            gemm::add_row_products(Rows::dense(left, rank), Rows::dense(right, rank), part);
            (row, rest) = (row + count, after);
        }
        out.iter_mut().for_each(|value| *value *= self.scale);
    }
}

impl Factor {
    /// Its numbers: `rank` for each item of each matrix, next to each other.
    fn read(&self, matrices: u64, items: u64, rank: u64) -> Result<Vec<f32>, FileError> {
        let info = &self.source.tensors()[self.tensor.0];
        let mut bytes = vec![0; to_usize(info.bytes)];
        self.source.read(self.tensor, 0, &mut bytes)?;
        let mut stored = vec![0.0; to_usize(info.shape.elements())];
        // Whoever made the edit has looked for a codec.
        if let Some(codec) = qz_kernels::codec_for(info.data_type) {
            codec.decode(&bytes, &mut stored);
        }
        drop(bytes);
        let FactorStrides { matrix, item, rank: place } = self.strides;
        if matrices == 1 && place == 1 && item == rank {
            return Ok(stored);
        }
        let mut numbers = Vec::with_capacity(stored.len());
        for first in (0..matrices).map(|number| number * matrix) {
            for first in (0..items).map(|number| first + number * item) {
                numbers.extend((0..rank).map(|number| stored[to_usize(first + number * place)]));
            }
        }
        Ok(numbers)
    }
}
