//! Steps of a few families, on each row by itself.

use qz_kernels::backend::Rowwise;

use super::LayerBuilder;
use crate::graph::{Register, Step, VectorIndex};
use crate::rules::Role;

impl LayerBuilder {
    /// What becomes of each row by itself.
    pub(crate) fn rowwise(&mut self, operation: Rowwise, from: &[Register]) -> Register {
        self.rowwise_of(operation, from, None)
    }

    /// The same with a vector of so many numbers.
    pub(crate) fn rowwise_with(
        &mut self,
        operation: Rowwise,
        from: Register,
        role: Role,
        length: usize,
    ) -> Register {
        let vector = self.vector(role, length);
        self.rowwise_of(operation, &[from], Some(vector))
    }

    fn rowwise_of(
        &mut self,
        operation: Rowwise,
        from: &[Register],
        vector: Option<VectorIndex>,
    ) -> Register {
        let width = |at: usize| from.get(at).map_or(0, |own| self.widths[own.0]);
        let to = self.register(operation.widths(width(0), width(1)).1, None);
        self.steps.push(Step::Rowwise { operation, from: from.to_vec(), vector, to });
        to
    }

    /// Takes what a register holds from another one.
    pub(crate) fn subtract_from(&mut self, to: Register, from: Register) {
        self.steps.push(Step::Add { to, from, times: -1.0 });
    }

    /// Makes the hidden states what a register holds.
    pub(crate) fn replace_hidden(&mut self, from: Register) {
        let columns = 0..self.widths[from.0];
        self.steps.push(Step::Columns { from, columns, to: Register::HIDDEN });
    }
}
