//! Matrices whose values a method chooses knowing nothing but the weights: no text is read, no
//! forward pass is asked for, so that any model that can be planned will do.

use qz_kernels::backend::Backend;
use qz_methods::TensorReport;

use super::captured::Captured;
use super::layers::{Layers, Matrix, output_rows};
use super::report::Reports;
use super::rest::Rest;
use crate::error::Error;
use crate::event::{Event, Observer};
use crate::model::to_usize;
use crate::sinks::Sinks;

impl<B: Backend> Layers<'_, B> {
    /// Quantizes all matrices, one after the other.
    pub(super) fn run_alone(
        &self,
        rest: &mut Rest<'_>,
        sinks: &mut Sinks,
        reports: &mut Reports,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        let mut open: Vec<usize> =
            self.chosen.positions().filter(|position| !sinks.is_done(0, *position)).collect();
        open.sort_unstable();
        let mut layer = None;
        for position in open {
            let own = self.model.tensors[position].layer;
            if own != layer {
                rest.encode(layer, sinks, observer)?;
                layer = own;
            }
            for matrix in self.stacked(position) {
                self.matrix_alone(&matrix, sinks, reports, observer)?;
            }
            self.complete(sinks, position, observer);
        }
        Ok(())
    }

    /// The matrices of a tensor.
    fn stacked(&self, position: usize) -> Vec<Matrix> {
        let tensor = &self.model.tensors[position];
        match tensor.shape.rank() {
            0..=2 => vec![self.matrix(position, None)],
            _ => {
                let count = to_usize(tensor.shape.rows() / tensor.rows_per_matrix());
                (0..count).map(|number| self.matrix(position, Some(number))).collect()
            }
        }
    }

    fn matrix_alone(
        &self,
        matrix: &Matrix,
        sinks: &mut Sinks,
        reports: &mut Reports,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        let (nothing, mut parts) = (Captured::default(), Vec::new());
        let rows = self.rows_alone(matrix);
        for first in (0..matrix.rows).step_by(rows) {
            let rows = rows.min(matrix.rows - first);
            let first_row = matrix.first_row + first as u64;
            let weights = self.read_rows(matrix.position, first_row, rows)?;
            let part = Matrix { first_row, rows, ..*matrix };
            parts.push(self.written(&part, &weights, &nothing, sinks)?);
            observer.observe(Event::Advanced { weights: weights.len() as u64 });
        }
        let report = TensorReport::of_parts(parts);
        reports.methods.extend(report.map(|report| self.described(matrix, &nothing, report)));
        Ok(())
    }

    /// Rows of a matrix that are quantized at a time: all of one that is stored in parts.
    pub(super) fn rows_alone(&self, matrix: &Matrix) -> usize {
        match self.plans[0].packed(matrix.position) {
            Some(_) => matrix.rows.max(1),
            None => output_rows(matrix),
        }
    }
}
