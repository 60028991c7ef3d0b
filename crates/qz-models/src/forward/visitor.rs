//! What a layer computes, as a visitor sees it.

use std::ops::Range;

use qz_kernels::backend::{Backend, ExpertLoad, Shaped};

use super::capture::{LinearInputs, Routing, Tap};
use crate::error::Error;
use crate::graph::{GroupIndex, LayerGraph, Stage};
use crate::rules::LayerIndex;

/// What is called with inputs; an error ends the run.
pub type Visit<'v, B, E> = dyn FnMut(&LinearInputs<'_, B>) -> Result<(), E> + 'v;

/// What is called with a layer's keys and values before they are cached; an error ends the run.
pub type VisitCached<'v, B, E> =
    dyn FnMut(LayerIndex, &<B as Backend>::Buffer, &<B as Backend>::Buffer) -> Result<(), E> + 'v;

/// Shows a visitor what a layer computes of one batch.
pub(super) struct VisitorTap<'t, 'v, B: Backend, E> {
    pub(super) graph: &'t LayerGraph,
    pub(super) layer: LayerIndex,
    /// The batch's tokens.
    pub(super) rows: Range<usize>,
    /// The only stage that is shown, and the last one that is computed; all if none.
    pub(super) last: Option<Stage>,
    pub(super) routing: Routing,
    pub(super) visit: &'t mut Visit<'v, B, E>,
    /// Hears of keys and values, if it is asked for.
    pub(super) cached: Option<&'t mut VisitCached<'v, B, E>>,
    /// The visitor's first error; it hears nothing after that.
    pub(super) failure: Option<E>,
}

impl<B: Backend, E> VisitorTap<'_, '_, B, E> {
    pub(super) fn end(self) -> Result<(), E> {
        self.failure.map_or(Ok(()), Err)
    }
}

impl<B: Backend, E> Tap<B> for VisitorTap<'_, '_, B, E> {
    fn see(
        &mut self,
        group: GroupIndex,
        rows: &B::Buffer,
        expert: Option<(usize, &ExpertLoad)>,
    ) -> Result<(), Error> {
        let own = self.graph.group(group);
        let is_wanted = self.last.is_none_or(|last| last == own.stage);
        if self.failure.is_some() || !is_wanted {
            return Ok(());
        }
        let load = expert.map(|(_, load)| load);
        let count = load.map_or(self.rows.len(), |load| load.tokens.len());
        assert_eq!((rows.rows(), rows.columns()), (count, own.columns), "inputs of {group:?}");
        let inputs = LinearInputs {
            layer: self.layer,
            group,
            expert: expert.map(|(number, _)| number),
            rows,
            first_token: self.rows.start,
            load,
        };
        self.failure = (self.visit)(&inputs).err();
        Ok(())
    }

    fn see_cached(&mut self, keys: &B::Buffer, values: &B::Buffer) -> Result<(), Error> {
        if let (Some(cached), None) = (&mut self.cached, &self.failure) {
            self.failure = cached(self.layer, keys, values).err();
        }
        Ok(())
    }

    fn last(&self) -> Option<Stage> {
        self.last
    }

    fn routing(&self) -> Routing {
        self.routing
    }
}
