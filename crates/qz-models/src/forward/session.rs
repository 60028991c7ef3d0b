//! One sequence, step by step: all weights in memory, keys and values of what was seen.

use qz_kernels::backend::Backend;

use super::capture::Untapped;
use super::chunks::Span;
use super::execute::{Caches, Registers};
use super::layer::Layer;
use super::output::Output;
use super::run::Forward;
use super::weights::WeightSource;
use crate::error::Error;
use crate::graph::Register;
use crate::rules::LayerIndex;

/// A sequence that grows. What it computes of its tokens is what [`Forward::run`] does,
/// whatever the steps in which they come.
///
/// Takes the memory of the model as it is stored, and of `capacity` positions' keys and
/// values; `max_memory` does not bound it.
pub struct Session<'a, B: Backend, W: WeightSource> {
    forward: &'a Forward<'a, B, W>,
    layers: Vec<(Layer<'a, B>, Caches<B>)>,
    output: Output<B>,
    /// Of each rotary embedding cosines and sines of each position.
    rotaries: Vec<Vec<f32>>,
    capacity: usize,
    length: usize,
}

impl<'a, B: Backend, W: WeightSource> Session<'a, B, W> {
    /// Reads all weights, for a sequence of at most `capacity` tokens. `on_layer` hears
    /// of each layer that was read, and may end the reading with an error.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape than the metadata says or cannot be
    /// read.
    pub fn new(
        forward: &'a Forward<'a, B, W>,
        capacity: usize,
        on_layer: &mut dyn FnMut() -> Result<(), W::Error>,
    ) -> Result<Self, W::Error> {
        let rotaries = forward.rotaries(capacity)?;
        let locate = |name: &str| forward.source.location(name);
        let pass = forward.pass(&[], &[], &locate);
        let mut layers = Vec::new();
        for layer in 0..forward.graph.layers_to_output() {
            let layer = Layer::load(&forward.loader(), LayerIndex(layer))?;
            let caches = pass.caches(&layer, 0..layer.graph.steps().len(), capacity)?;
            layers.push((layer, caches));
            on_layer()?;
        }
        let output = Output::load(forward, u64::MAX)?;
        Ok(Self { forward, layers, output, rotaries, capacity, length: 0 })
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.output.vocabulary()
    }

    /// Tokens seen.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Tokens that it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all tokens from `length` on; those before stay.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Sees more tokens, at least one, and makes `logits` those behind the last of them.
    ///
    /// # Errors
    /// If there is no room for them, one is not in the vocabulary, or a result is no
    /// number. Then they are as if they had not been seen.
    pub fn append(&mut self, tokens: &[u32], logits: &mut Vec<f32>) -> Result<(), W::Error> {
        let forward = self.forward;
        let end = self.length.saturating_add(tokens.len());
        if tokens.is_empty() || end > self.capacity {
            let (capacity, wanted) = (self.capacity, end);
            return Err(Error::SessionLength { capacity, wanted }.into());
        }
        let spans = [Span { rows: 0..tokens.len(), position: self.length }];
        let rotaries = forward.rotary_rows(&self.rotaries, &spans)?;
        let locate = |name: &str| forward.source.location(name);
        let mut pass = forward.pass(&spans, &rotaries, &locate);
        let mut hidden = forward.embedded(tokens, &spans)?;
        for (index, (layer, caches)) in (0..).map(LayerIndex).zip(&mut self.layers) {
            let steps = (index, 0..layer.graph.steps().len());
            forward.bring_tokens(steps, tokens, &spans, pass.beside.get_mut())?;
            let mut registers = Registers::new(layer, hidden);
            pass.run(layer, 0..layer.graph.steps().len(), caches, &mut registers, &mut Untapped)
                .map_err(|error| error.of_token(|token| self.length + token))?;
            hidden = registers.take(Register::HIDDEN);
        }
        let last = forward.backend.gather(&hidden, &[tokens.len() - 1])?;
        self.output.logits(forward, &last, &[end - 1], logits)?;
        self.length = end;
        Ok(())
    }
}
