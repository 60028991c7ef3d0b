//! The end of a forward pass: logits, a few rows at a time.

use std::ops::Range;

use qz_kernels::backend::Backend;

use super::output::Output;
use super::run::Forward;
use super::states::States;
use super::weights::WeightSource;

/// Logits of consecutive rows: of each chunk in turn, the positions that were asked for.
#[derive(Debug, Default)]
pub struct LogitsTile {
    /// The rows, counted over all chunks.
    pub rows: Range<usize>,
    /// One number for each token of the vocabulary, row by row.
    pub values: Vec<f32>,
}

/// What all layers have made of a text, and how logits follow from it.
pub struct Logits<'a, B: Backend, W: WeightSource> {
    forward: &'a Forward<'a, B, W>,
    states: States<B>,
    /// Each chunk's first token.
    starts: Vec<usize>,
    output: Output<B>,
}

impl<'a, B: Backend, W: WeightSource> Logits<'a, B, W> {
    pub(super) fn new(
        forward: &'a Forward<'a, B, W>,
        states: States<B>,
        starts: Vec<usize>,
    ) -> Result<Self, W::Error> {
        let output = Output::load(forward, forward.options.max_memory / 2)?;
        Ok(Self { forward, states, starts, output })
    }

    /// Tokens of the vocabulary: numbers in a row.
    pub fn vocabulary(&self) -> usize {
        self.output.vocabulary()
    }

    /// Rows that fit into a quarter of the memory; a matrix that does not stay in memory
    /// is read once for each such tile.
    pub fn tile_rows(&self) -> usize {
        let rows = self.forward.options.max_memory / 4 / (self.vocabulary().max(1) as u64 * 4);
        usize::try_from(rows).unwrap_or(usize::MAX).clamp(1, 512)
    }

    /// Calls `visit` with the logits at these positions of every chunk, in order.
    ///
    /// # Errors
    /// If weights cannot be read, a logit is no number, or `visit` fails.
    pub fn visit(
        &mut self,
        positions: Range<usize>,
        mut visit: impl FnMut(&LogitsTile) -> Result<(), W::Error>,
    ) -> Result<(), W::Error> {
        let all = self.starts.len() * positions.len();
        let mut tile = LogitsTile::default();
        let step = self.tile_rows();
        for first in (0..all).step_by(step) {
            self.fill(&positions, first..all.min(first + step), &mut tile)?;
            visit(&tile)?;
        }
        Ok(())
    }

    /// Makes `tile` the logits of these rows, counted over all chunks' `positions`.
    ///
    /// # Errors
    /// If weights cannot be read, or a logit is no number.
    pub fn fill(
        &mut self,
        positions: &Range<usize>,
        rows: Range<usize>,
        tile: &mut LogitsTile,
    ) -> Result<(), W::Error> {
        let token = |row: usize| {
            self.starts[row / positions.len()] + positions.start + row % positions.len()
        };
        let tokens: Vec<usize> = rows.clone().map(token).collect();
        tile.rows = rows;
        self.of_tokens(&tokens, &mut tile.values)
    }

    /// Makes `logits` those behind some tokens, counted over all chunks, row by row.
    ///
    /// # Errors
    /// If weights cannot be read, or a logit is no number.
    pub fn of_tokens(&mut self, tokens: &[usize], logits: &mut Vec<f32>) -> Result<(), W::Error> {
        let forward = self.forward;
        let hidden = self.states.gather(forward.backend, tokens)?;
        self.output.logits(forward, &hidden, tokens, logits)
    }
}
