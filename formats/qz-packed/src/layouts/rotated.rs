//! Matrices whose rows are multiplied by Hadamard matrices, block by block, before another
//! layout stores them; engines do the same to the inputs.

use std::ops::Range;

use qz_codec::grid::Grid;
use qz_tensor::FileError;

use super::numbers::ScaleType;
use crate::hadamard::Hadamard;
use crate::layout::{
    ChosenRows, Layout, Matrix, Measure, Part, PartBytes, Prepass, Put, RowBlock, Unfit, Whole,
};

/// The layout.
#[derive(Debug)]
pub(crate) struct Rotated {
    pub(crate) inner: Box<dyn Layout>,
    pub(crate) rotation: Hadamard,
    /// What rotated weights are rounded to before they are stored: the model's type.
    pub(crate) precision: ScaleType,
}

impl Rotated {
    fn rotated(&self, weights: &[f32]) -> Vec<f32> {
        let mut rotated = weights.to_vec();
        self.rotation.rotate(&mut rotated);
        rotated.iter_mut().for_each(|weight| *weight = self.precision.rounded(*weight));
        rotated
    }
}

impl Layout for Rotated {
    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        let (columns, size) = (matrix.columns, self.rotation.size());
        if columns == 0 || !columns.is_multiple_of(size as u64) {
            let why = format!("{columns} inputs are not a multiple of the {size} that are rotated");
            return Err(Unfit(why));
        }
        self.inner.parts(matrix)
    }

    fn row_unit(&self, matrix: Matrix) -> u64 {
        self.inner.row_unit(matrix)
    }

    /// A block's weights go into all groups that it has.
    fn group_columns(&self, matrix: Matrix) -> u64 {
        self.inner.group_columns(matrix).max(self.rotation.size() as u64)
    }

    fn faint(&self, measure: Measure) -> f32 {
        self.inner.faint(measure)
    }

    fn is_strided(&self) -> bool {
        self.inner.is_strided()
    }

    fn prepass(&self) -> Prepass {
        self.inner.prepass()
    }

    fn measure(&self, matrix: Matrix, weights: &[f32]) -> Measure {
        self.inner.measure(matrix, &self.rotated(weights))
    }

    fn write_constants(&self, matrix: Matrix, measure: Measure, put: &mut Put<'_>) {
        self.inner.write_constants(matrix, measure, put);
    }

    fn rotation(&self) -> Option<Hadamard> {
        Some(self.rotation)
    }

    fn encode(&self, rows: &RowBlock<'_>, put: &mut Put<'_>) -> Result<(), usize> {
        let weights = self.rotated(rows.weights);
        if let Some(position) = weights.iter().position(|weight| !weight.is_finite()) {
            return Err(position);
        }
        let importance = rows.importance.map(|importance| self.rotation.importance(importance));
        let importance = importance.as_deref();
        self.inner.encode(&RowBlock { weights: &weights, importance, ..*rows }, put)
    }

    fn grid(&self, whole: &Whole<'_>) -> Option<Box<dyn Grid>> {
        self.inner.grid(whole)
    }

    fn has_grid(&self, matrix: Matrix) -> bool {
        self.inner.has_grid(matrix)
    }

    fn write(&self, chosen: &ChosenRows<'_>, put: &mut Put<'_>) {
        self.inner.write(chosen, put);
    }

    fn decode(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<(), FileError> {
        self.inner.decode(matrix, parts, rows, out)?;
        self.rotation.rotate(out);
        Ok(())
    }
}
