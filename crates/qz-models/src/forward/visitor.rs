//! What a layer computes, as a visitor sees it.

use std::ops::Range;

use qz_kernels::backend::{Backend, ExpertLoad};

use super::capture::{LinearGroup, LinearInputs, Routing, Stage, Tap};
use super::shape::DecoderShape;
use crate::rules::LayerIndex;

/// What is called with inputs; an error ends the run.
pub type Visit<'v, E> = dyn FnMut(&LinearInputs<'_>) -> Result<(), E> + 'v;

/// Shows a visitor what a layer computes of one batch.
pub(super) struct VisitorTap<'t, 'v, B: Backend, E> {
    pub(super) backend: &'t B,
    pub(super) shape: &'t DecoderShape,
    pub(super) layer: LayerIndex,
    /// The batch's tokens.
    pub(super) rows: &'t Range<usize>,
    /// The only stage that is shown, and the last one that is computed; all if none.
    pub(super) last: Option<Stage>,
    pub(super) routing: Routing,
    pub(super) visit: &'t mut Visit<'v, E>,
    /// The visitor's first error; it hears nothing after that.
    pub(super) failure: Option<E>,
}

impl<B: Backend, E> VisitorTap<'_, '_, B, E> {
    /// Shows one group's inputs, of all of the batch's tokens.
    pub(super) fn show(mut self, group: LinearGroup, rows: &B::Buffer) -> Result<(), E> {
        self.see(group, rows, None);
        self.end()
    }

    pub(super) fn end(self) -> Result<(), E> {
        self.failure.map_or(Ok(()), Err)
    }
}

impl<B: Backend, E> Tap<B> for VisitorTap<'_, '_, B, E> {
    fn see(&mut self, group: LinearGroup, rows: &B::Buffer, expert: Option<(usize, &ExpertLoad)>) {
        let is_wanted = self.last.is_none_or(|last| last == group.stage());
        if self.failure.is_some() || !is_wanted {
            return;
        }
        let width = self.shape.width(group);
        let load = expert.map(|(_, load)| load);
        let count = load.map_or(self.rows.len(), |load| load.tokens.len());
        let numbers = self.backend.numbers(rows);
        let inputs = LinearInputs {
            layer: self.layer,
            group,
            expert: expert.map(|(number, _)| number),
            width,
            rows: &numbers[..count * width],
            first_token: self.rows.start,
            load,
        };
        self.failure = (self.visit)(&inputs).err();
    }

    fn last(&self) -> Option<Stage> {
        self.last
    }

    fn routing(&self) -> Routing {
        self.routing
    }
}
