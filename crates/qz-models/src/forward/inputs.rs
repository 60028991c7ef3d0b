//! What matrices multiply: a buffer as it is, and as an engine rounds it for them.

use qz_kernels::backend::{Backend, InputRounding};

use super::execute::Pass;
use super::layer::Layer;
use super::weights::Linear;
use crate::error::Error;
use crate::graph::GroupIndex;

/// The inputs of a group.
pub(super) struct Inputs<'a, B: Backend> {
    plain: &'a B::Buffer,
    rounding: Option<InputRounding>,
    /// As the group's matrices want them, where that is something else.
    rounded: Option<B::Buffer>,
}

impl<B: Backend> Inputs<'_, B> {
    /// What the group's matrices multiply, but for those that want something else than the first
    /// of them.
    pub(super) fn shown(&self) -> &B::Buffer {
        self.rounded.as_ref().unwrap_or(self.plain)
    }
}

impl<B: Backend> Pass<'_, B> {
    /// Rounds the inputs of a group, or of one of its experts.
    pub(super) fn inputs<'a>(
        &self,
        layer: &Layer<'_, B>,
        (group, expert): (GroupIndex, Option<usize>),
        plain: &'a B::Buffer,
    ) -> Result<Inputs<'a, B>, Error> {
        let rounding = layer.rounding(group, expert);
        let round = |rounding| self.backend.round_inputs(plain, &rounding);
        Ok(Inputs { plain, rounding, rounded: rounding.map(round).transpose()? })
    }

    /// A product with inputs as the matrix wants them.
    pub(super) fn product_of(
        &self,
        linear: &Linear<B>,
        inputs: &Inputs<'_, B>,
    ) -> Result<B::Buffer, Error> {
        match linear.inputs {
            own if own == inputs.rounding => self.product(linear, inputs.shown()),
            None => self.product(linear, inputs.plain),
            // Scales of its own: they are few, and rounding is little beside a product.
            Some(own) => self.product(linear, &self.backend.round_inputs(inputs.plain, &own)?),
        }
    }
}
