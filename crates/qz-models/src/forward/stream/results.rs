//! What becomes of hidden states: the sums of the groups whose products are added to them.

use qz_kernels::backend::Backend;

use super::super::visitor::Visit;
use super::super::weights::WeightSource;
use super::{GroupIndex, LayerStream, Register, Registers, Untapped};

impl<B: Backend, W: WeightSource> LayerStream<'_, B, W> {
    /// Shows the inputs of a group whose products are added to hidden states, and gives the
    /// sums, one row each token.
    ///
    /// # Errors
    /// As [`Self::visit`].
    ///
    /// # Panics
    /// As [`Self::visit_batch`]; and if the group's products are added to nothing.
    pub fn visit_results(
        &mut self,
        group: GroupIndex,
        batch: usize,
        visit: &mut Visit<'_, B, W::Error>,
    ) -> Result<B::Buffer, W::Error> {
        let steps = self.added(group);
        let stage = self.graph().group(group).stage;
        let registers = self.run_to(stage, batch)?;
        self.show(stage, batch, &registers, visit)?;
        let backend = self.forward.backend;
        let copy = |register| backend.copy(registers.get(register));
        let (inputs, layer) = (self.graph().inputs(group), self.layer.as_ref());
        let layer = layer.expect("a layer is loaded");
        let mut beside = Registers::new(layer, copy(Register::HIDDEN)?);
        beside.set(inputs, copy(inputs)?);
        self.compute(batch, steps, &mut beside, &mut Untapped)?;
        self.keep(stage, batch, registers)?;
        Ok(beside.take(Register::HIDDEN))
    }

    /// Puts a batch past a group whose products are added to hidden states, and gives the sums,
    /// one row each token. Nothing is computed twice, and the group's matrix is fixed from
    /// here on.
    ///
    /// # Errors
    /// As [`Self::visit`].
    ///
    /// # Panics
    /// If no layer is loaded, the batch is past the group, or the group's products are added
    /// to nothing.
    pub fn pass_results(&mut self, group: GroupIndex, batch: usize) -> Result<B::Buffer, W::Error> {
        let end = self.added(group).end;
        let registers = self.run_until(end, batch, &mut Untapped)?;
        Ok(self.forward.backend.copy(registers.get(Register::HIDDEN))?)
    }

    /// The group's product, and the step that adds it.
    fn added(&self, group: GroupIndex) -> std::ops::Range<usize> {
        let graph = self.graph();
        assert!(graph.group(group).is_added, "products of {group:?} are added to nothing");
        let step = graph.stop(graph.group(group).stage).step;
        step..step + 2
    }

    /// Numbers of a hidden state.
    pub fn hidden_width(&self) -> usize {
        self.forward.graph.hidden
    }
}
