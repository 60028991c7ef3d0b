//! Products of activations and weights: which kernel takes which.

use qz_codec::Codec;
use qz_tensor::DataType;
use rayon::prelude::*;

use super::integers::{FEW, PanelKind, Quantized, multiply_few, multiply_many};
use super::{FewTokens, floats};
use crate::backend::{Rounding, Shaped, round_activations};
use crate::memory::Bytes;
use crate::vector::Instructions;

/// A matrix in its own type.
pub struct Matrix {
    pub(super) codec: &'static dyn Codec,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) bytes: Bytes,
}

impl Shaped for Matrix {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }
}

/// The one of a list of kernels that is written for a type.
pub(super) fn kernel_of<K: Copy>(kernels: &[(DataType, K)], data_type: DataType) -> Option<K> {
    let own = kernels.iter().find(|(own, _)| *own == data_type);
    own.map(|(_, kernel)| *kernel)
}

/// Rows that a task of about `weights` weights has: fewer if threads would be left without
/// any, or wait for the last one's.
pub(super) fn rows_of_a_task(matrix: &Matrix, weights: usize) -> usize {
    /// Tasks of a thread: the longest anybody waits is then a part of the whole time.
    const TASKS: usize = 8;
    let share = matrix.rows.div_ceil(TASKS * rayon::current_num_threads());
    (weights / matrix.columns).min(share).max(1)
}

/// What multiplies.
#[derive(Clone, Copy)]
pub(super) struct Products {
    pub(super) instructions: Instructions,
    pub(super) few: FewTokens,
}

impl Products {
    /// Every product; runs on the current pool's threads.
    pub(super) fn multiply(
        self,
        rounding: Rounding,
        activations: &[f32],
        matrix: &Matrix,
        out: &mut [f32],
    ) {
        let spec = matrix.codec.spec();
        let wanted = spec.activations;
        if rounding == Rounding::Exact || wanted == DataType::F32 {
            return self.multiply_floats(activations, matrix, out);
        }
        let Some(kind) = PanelKind::of(spec) else {
            let mut rounded = activations.to_vec();
            let rows = rounded.par_chunks_mut(matrix.columns);
            rows.for_each(|row| round_activations(wanted, matrix.columns, row));
            return self.multiply_floats(&rounded, matrix, out);
        };
        let quantized = Quantized::new(wanted, matrix.columns, activations);
        if self.takes_few(activations, matrix) {
            multiply_few(self.instructions, kind, &quantized, matrix, out);
        } else {
            multiply_many(self.instructions, kind, &quantized, matrix, out);
        }
    }

    fn multiply_floats(self, activations: &[f32], matrix: &Matrix, out: &mut [f32]) {
        let few = self.takes_few(activations, matrix);
        floats::multiply(self.instructions, few, activations, matrix, out);
    }

    fn takes_few(self, activations: &[f32], matrix: &Matrix) -> bool {
        self.few == FewTokens::Own && activations.len() <= FEW * matrix.columns
    }
}
