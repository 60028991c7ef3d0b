//! What products of a layer multiply, and who hears of it.

use qz_kernels::backend::{Backend, ExpertLoad, Shaped};

use crate::error::Error;
use crate::graph::{GroupIndex, Stage};
use crate::rules::LayerIndex;

/// Which tokens' inputs of an expert are seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// Those that the router gave to it.
    #[default]
    Chosen,
    /// All tokens', whoever they were given to; what the layer computes stays the same.
    All,
}

/// Inputs of one group's products: some rows, one token each, in the text's order.
pub struct LinearInputs<'a, B: Backend> {
    /// The layer.
    pub layer: LayerIndex,
    /// The matrices.
    pub group: GroupIndex,
    /// Whose matrices, where each expert has its own.
    pub expert: Option<usize>,
    /// The rows, on the device: of as many numbers as the matrices have columns.
    pub rows: &'a B::Buffer,
    pub(super) first_token: usize,
    pub(super) load: Option<&'a ExpertLoad>,
}

impl<B: Backend> LinearInputs<'_, B> {
    /// How many rows.
    pub fn count(&self) -> usize {
        self.rows.rows()
    }

    /// The token of a row, counted over all chunks.
    pub fn token(&self, row: usize) -> usize {
        self.first_token + self.load.map_or(row, |load| load.tokens[row])
    }

    /// The weight that the expert's answer for a row has; 1 without experts, 0 if the
    /// token was given to others ([`Routing::All`]).
    pub fn weight(&self, row: usize) -> f32 {
        self.load.map_or(1.0, |load| load.weights[row])
    }
}

/// Hears of inputs while a layer computes.
pub(super) trait Tap<B: Backend> {
    /// # Errors
    /// If the device does not give the rows.
    fn see(
        &mut self,
        group: GroupIndex,
        rows: &B::Buffer,
        expert: Option<(usize, &ExpertLoad)>,
    ) -> Result<(), Error>;

    /// Hears of keys and values before they are cached.
    ///
    /// # Errors
    /// If the device does not give the rows.
    fn see_cached(&mut self, _keys: &B::Buffer, _values: &B::Buffer) -> Result<(), Error> {
        Ok(())
    }

    /// The last stage that is wanted; none if the layer's result is.
    fn last(&self) -> Option<Stage> {
        None
    }

    fn routing(&self) -> Routing {
        Routing::Chosen
    }
}

/// Hears nothing.
pub(super) struct Untapped;

impl<B: Backend> Tap<B> for Untapped {
    fn see(
        &mut self,
        _: GroupIndex,
        _: &B::Buffer,
        _: Option<(usize, &ExpertLoad)>,
    ) -> Result<(), Error> {
        Ok(())
    }
}

/// Hears what another does, and wants no result behind a stage.
pub(super) struct InputsOnly<'a, B: Backend>(pub(super) &'a mut dyn Tap<B>, pub(super) Stage);

impl<B: Backend> Tap<B> for InputsOnly<'_, B> {
    fn see(
        &mut self,
        group: GroupIndex,
        rows: &B::Buffer,
        expert: Option<(usize, &ExpertLoad)>,
    ) -> Result<(), Error> {
        self.0.see(group, rows, expert)
    }

    fn last(&self) -> Option<Stage> {
        Some(self.0.last().unwrap_or(self.1))
    }
}
