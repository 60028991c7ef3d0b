//! What all layers have made of a text, before anything predicts from it.

use std::ops::Range;

use qz_kernels::backend::Backend;

use super::chunks::Chunks;
use super::logits::Logits;
use super::run::Forward;
use super::states::States;
use super::weights::WeightSource;

/// The last hidden states of all tokens of a text. An encoder's are its result.
pub struct HiddenStates<'a, B: Backend, W: WeightSource> {
    forward: &'a Forward<'a, B, W>,
    states: States<B>,
    /// Each chunk's first token.
    starts: Vec<usize>,
}

impl<'a, B: Backend, W: WeightSource> HiddenStates<'a, B, W> {
    pub(super) fn new(forward: &'a Forward<'a, B, W>, chunks: &Chunks, states: States<B>) -> Self {
        let starts = (0..chunks.count()).map(|chunk| chunks.rows(chunk).start).collect();
        Self { forward, states, starts }
    }

    /// Numbers of one token.
    pub fn width(&self) -> usize {
        self.forward.graph.hidden
    }

    /// Makes `out` the numbers of some tokens, counted over all chunks, one row after the other:
    /// behind the last norm, if the model has one.
    ///
    /// # Errors
    /// If they lie on disk and cannot be read, or the norm cannot.
    pub fn read(&mut self, tokens: Range<usize>, out: &mut Vec<f32>) -> Result<(), W::Error> {
        let backend = self.forward.backend;
        let mut rows = self.states.gather(backend, &tokens.collect::<Vec<usize>>())?;
        if let Some(norm) = self.forward.loader().output_norm()? {
            rows = norm.apply(backend, &rows)?;
        }
        out.clear();
        out.extend_from_slice(&backend.numbers(&rows)?);
        Ok(())
    }

    /// What predicts the next token from them.
    ///
    /// # Errors
    /// If the model is an encoder, or its output matrix cannot be read.
    pub fn logits(self) -> Result<Logits<'a, B, W>, W::Error> {
        Logits::new(self.forward, self.states, self.starts)
    }
}
