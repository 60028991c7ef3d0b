//! What becomes of hidden states: the sums of the groups whose products are added to them.

use qz_kernels::backend::Backend;

use super::super::capture::LinearGroup;
use super::super::layer::FeedForward;
use super::super::visitor::Visit;
use super::super::weights::WeightSource;
use super::{Kept, LayerStream};

impl<B: Backend, W: WeightSource> LayerStream<'_, B, W> {
    /// Shows the inputs of a group whose products are added to hidden states, and gives the
    /// sums, one row each token.
    ///
    /// # Errors
    /// As [`Self::visit`].
    ///
    /// # Panics
    /// As [`Self::visit_batch`]; and if the group is not the attention's output matrix or, in
    /// a layer without experts, down.
    pub fn visit_results(
        &mut self,
        group: LinearGroup,
        batch: usize,
        visit: &mut Visit<'_, W::Error>,
    ) -> Result<Vec<f32>, W::Error> {
        let inputs = match group {
            LinearGroup::AttentionOutput => self.attended(batch)?,
            LinearGroup::Down => self.gate_up(batch)?,
            _ => panic!("products of {group:?} are added to nothing"),
        };
        self.tap(batch, Some(group.stage()), visit).show(group, &inputs)?;
        let mut hidden = self.read(batch, Kept::States)?;
        let product = self.compute(batch, |pass, layer, tokens| {
            let linear = match (group, &layer.feed_forward) {
                (LinearGroup::AttentionOutput, _) => &layer.attention_output,
                (_, FeedForward::Dense(own)) => &own.down,
                (_, FeedForward::Experts { .. }) => panic!("each expert has its own {group:?}"),
            };
            pass.product(linear, &inputs, tokens)
        })?;
        self.forward.backend.add(&mut hidden, &product);
        if group == LinearGroup::Down && self.keeps_gated {
            self.batches[batch].gated = Some(inputs);
        }
        Ok(self.forward.backend.numbers(&hidden).into_owned())
    }

    /// Puts a batch past a group whose products are added to hidden states, and gives the sums,
    /// one row each token. Nothing is computed twice, and the group's matrix is fixed from
    /// here on.
    ///
    /// # Errors
    /// As [`Self::visit`].
    ///
    /// # Panics
    /// If no layer is loaded, the batch is past the group, or the group is not the attention's
    /// output matrix or down.
    pub fn pass_results(&mut self, group: LinearGroup, batch: usize) -> Result<Vec<f32>, W::Error> {
        let hidden = match group {
            LinearGroup::AttentionOutput => self.after_attention(batch)?,
            LinearGroup::Down => {
                self.finish_batch(batch)?;
                self.read(batch, Kept::States)?
            }
            _ => panic!("products of {group:?} are added to nothing"),
        };
        Ok(self.forward.backend.numbers(&hidden).into_owned())
    }

    /// Numbers of a hidden state.
    pub fn hidden_width(&self) -> usize {
        self.forward.shape.hidden
    }
}
