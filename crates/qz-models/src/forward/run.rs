//! The run of a text's chunks through all layers.

use std::cell::RefCell;
use std::ops::Range;
use std::path::PathBuf;

use qz_kernels::backend::{Backend, Rounding, reference};
use qz_tensor::{DataType, Location, Metadata};

use super::capture::Untapped;
use super::chunks::{Chunks, Span};
use super::execute::{Pass, Registers};
use super::hidden::HiddenStates;
use super::layer::Layer;
use super::states::States;
use super::weights::{Loader, StoredTensor, WeightSource};
use crate::architecture::Architecture;
use crate::error::Error;
use crate::graph::{LayerGraph, ModelGraph, Register, Rotary};
use crate::rules::{LayerIndex, Part, Role};

/// How a forward pass computes, and within what.
#[derive(Clone, Debug)]
pub struct ForwardOptions {
    /// What becomes of activations before products.
    pub rounding: Rounding,
    /// The type keys and values are kept in.
    pub cache_type: DataType,
    /// Memory for everything whose size can be chosen, in bytes.
    pub max_memory: u64,
    /// Where hidden states go that do not fit.
    pub spill_folder: PathBuf,
}

/// Tokens of a batch, where memory allows: products reach their speed, and a layer's
/// intermediate results stay small.
const BATCH_TOKENS: usize = 512;

/// A model ready for forward passes.
pub struct Forward<'a, B: Backend, W: WeightSource> {
    pub(super) backend: &'a B,
    pub(super) source: &'a W,
    architecture: &'static dyn Architecture,
    pub(super) graph: ModelGraph,
    pub(super) options: ForwardOptions,
}

impl<'a, B: Backend, W: WeightSource> Forward<'a, B, W> {
    /// Looks at a model's metadata. `window` is the sliding window of its configuration.
    ///
    /// # Errors
    /// If it is none that a forward pass is known of.
    pub fn new(
        backend: &'a B,
        source: &'a W,
        metadata: &Metadata,
        window: Option<u64>,
        options: ForwardOptions,
    ) -> Result<Self, W::Error> {
        let location = source.location("");
        let location = Location { tensor: None, offset: None, ..location };
        let (architecture, graph) = ModelGraph::read(metadata, window, &location)?;
        let mut forward = Self { backend, source, architecture, graph, options };
        // Files count layers that predict further tokens also where they are without them.
        let further = forward.graph.layers_to_output()..forward.graph.layer_count();
        let is_there =
            |layer: &u32| forward.loader().has(Role::NextTokenProjection, LayerIndex(*layer));
        let there = further.take_while(is_there).count();
        forward.graph = forward.graph.with_further(there);
        Ok(forward)
    }

    /// Where it is computed.
    pub fn backend(&self) -> &'a B {
        self.backend
    }

    /// What the model computes.
    pub fn graph(&self) -> &ModelGraph {
        &self.graph
    }

    /// Tokens that the model knows.
    ///
    /// # Errors
    /// If it has no embedding.
    pub fn vocabulary(&self) -> Result<usize, W::Error> {
        let (_, tensor) = self.loader().output()?;
        Ok(usize::try_from(tensor.shape.rows()).unwrap_or(usize::MAX))
    }

    /// Steps that [`Self::run`] reports.
    pub fn steps(&self, chunks: &Chunks) -> u64 {
        u64::from(self.graph.layers_to_output()) * chunks.count() as u64
    }

    /// Steps that a run with stops through all layers reports.
    pub fn stream_steps(&self, chunks: &Chunks) -> u64 {
        u64::from(self.graph.layer_count()) * chunks.count() as u64
    }

    pub(super) fn loader(&self) -> Loader<'_, B, W> {
        let Self { backend, source, architecture, graph, .. } = self;
        Loader { backend: *backend, source: *source, architecture: *architecture, graph }
    }

    /// Puts all chunks through all layers before the output. `on_steps` hears of each layer that so many
    /// chunks are through, and may end the run with an error.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape than the metadata says or cannot be
    /// read, if a token is not in the vocabulary, or a result is no number.
    pub fn run(
        &self,
        chunks: &Chunks,
        on_steps: &mut dyn FnMut(u64) -> Result<(), W::Error>,
    ) -> Result<HiddenStates<'_, B, W>, W::Error> {
        let mut states = self.embed(chunks)?;
        let tables = self.rotaries(chunks.length())?;
        let batches: Vec<_> = self.batches(chunks).map(|(_, rows)| rows).collect();
        let mut slots = self.slots(&batches)?;
        for index in (0..self.graph.layers_to_output()).map(LayerIndex) {
            let layer = Layer::load(&self.loader(), index)?;
            let steps = 0..layer.graph.steps().len();
            for (number, (batch, rows)) in self.batches(chunks).enumerate() {
                let spans = chunks.spans(batch.clone());
                let rotaries = self.rotary_rows(&tables, &spans)?;
                let locate = |name: &str| self.source.location(name);
                let mut pass = self.pass(&spans, &rotaries, &locate);
                let beside = pass.beside.get_mut();
                let tokens = &chunks.tokens()[rows.clone()];
                self.bring_tokens((index, steps.clone()), tokens, &spans, beside)?;
                let own = || (layer.graph, steps.clone());
                slots.bring(self.backend, own(), number, beside)?;
                let hidden = states.take(self.backend, number)?;
                let mut registers = Registers::new(&layer, hidden);
                let mut caches = pass.caches(&layer, steps.clone(), chunks.length())?;
                pass.run(&layer, steps.clone(), &mut caches, &mut registers, &mut Untapped)
                    .map_err(|error| error.of_token(|token| rows.start + token))?;
                slots.keep(self.backend, own(), number, pass.beside.get_mut())?;
                states.put(self.backend, number, registers.take(Register::HIDDEN))?;
                on_steps(batch.len() as u64)?;
            }
        }
        Ok(HiddenStates::new(self, chunks, states))
    }

    pub(super) fn pass<'p>(
        &'p self,
        spans: &'p [Span],
        rotaries: &'p [B::Buffer],
        locate: &'p dyn Fn(&str) -> Location,
    ) -> Pass<'p, B> {
        Pass {
            backend: self.backend,
            rounding: self.options.rounding,
            cache_type: self.options.cache_type,
            rotaries,
            spans,
            locate,
            checks: RefCell::default(),
            beside: RefCell::default(),
        }
    }

    /// Of each rotary embedding cosines and sines of each position.
    pub(super) fn rotaries(&self, positions: usize) -> Result<Vec<Vec<f32>>, W::Error> {
        let loader = self.loader();
        self.graph.rotaries.iter().map(|rotary| loader.rotary(rotary, positions)).collect()
    }

    /// The same of each row of the spans.
    pub(super) fn rotary_rows(
        &self,
        tables: &[Vec<f32>],
        spans: &[Span],
    ) -> Result<Vec<B::Buffer>, W::Error> {
        let rows = |(table, rotary): (&Vec<f32>, &Rotary)| {
            let size = rotary.size();
            let rows = spans.iter().flat_map(|Span { rows, position }| {
                &table[position * size..(position + rows.len()) * size]
            });
            Ok(self.backend.buffer(size, &rows.copied().collect::<Vec<f32>>())?)
        };
        tables.iter().zip(&self.graph.rotaries).map(rows).collect()
    }

    /// Bytes that one token takes while a batch goes through a layer: a few of everything
    /// that is multiplied.
    pub(super) fn token_bytes(&self) -> u64 {
        let widths = self.graph.layers.iter().map(LayerGraph::token_width);
        widths.max().unwrap_or(1) as u64 * 4 * 4
    }

    /// The chunks of each batch, and their rows.
    pub(super) fn batches<'c>(
        &self,
        chunks: &'c Chunks,
    ) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + use<'c, B, W> {
        let fitting = self.options.max_memory / 4 / self.token_bytes();
        let tokens = usize::try_from(fitting).unwrap_or(usize::MAX).min(BATCH_TOKENS);
        chunks.batches(tokens).into_iter().map(|batch| {
            let rows = chunks.rows(batch.start).start..chunks.rows(batch.end - 1).end;
            (batch, rows)
        })
    }

    /// The embeddings of all tokens.
    pub(super) fn embed(&self, chunks: &Chunks) -> Result<States<B>, W::Error> {
        let ForwardOptions { max_memory, spill_folder, .. } = &self.options;
        let rows = self.batches(chunks).map(|(_, rows)| rows).collect();
        let mut states = States::new(rows, self.graph.hidden, max_memory / 4, spill_folder)?;
        for (number, (batch, rows)) in self.batches(chunks).enumerate() {
            let embedded = self.embedded(&chunks.tokens()[rows], &chunks.spans(batch))?;
            states.put(self.backend, number, embedded)?;
        }
        Ok(states)
    }

    /// What the layers begin with: the embeddings of some tokens, and of their positions where
    /// the model has such.
    pub(super) fn embedded(&self, tokens: &[u32], spans: &[Span]) -> Result<B::Buffer, W::Error> {
        let mut embeddings = self.embeddings(tokens)?;
        let width = self.graph.hidden;
        let around = &self.graph.around;
        if around.adds_kind {
            self.add_kind(&mut embeddings)?;
        }
        if around.adds_positions {
            self.add_positions(spans, &mut embeddings)?;
        }
        let Some(epsilon) = around.first_epsilon else {
            return Ok(self.backend.buffer(width, &embeddings)?);
        };
        let loader = self.loader();
        let role = Role::TokenEmbeddingNorm;
        let weights = loader.vector(role, Part::Weight, None, width)?;
        let bias = loader.possible_vector(role, Part::Bias, None, width)?;
        let sums = self.backend.buffer(width, &embeddings)?;
        Ok(self.backend.layer_norm(&sums, &weights, bias.as_ref(), 1, epsilon)?)
    }

    /// The embeddings of some tokens: their rows are read, not the whole matrix.
    fn embeddings(&self, tokens: &[u32]) -> Result<Vec<f32>, W::Error> {
        let (name, tensor) = self.loader().embedding()?;
        self.scaled_embeddings(&name, &tensor, tokens)
    }

    /// The same of a matrix of embeddings.
    pub(super) fn scaled_embeddings(
        &self,
        name: &str,
        tensor: &StoredTensor,
        tokens: &[u32],
    ) -> Result<Vec<f32>, W::Error> {
        let mut numbers = self.rows_of_tokens(name, tensor, tokens, 0..self.graph.hidden)?;
        if let Some(scale) = self.graph.around.embedding_scale {
            numbers.iter_mut().for_each(|number| *number *= scale);
        }
        Ok(numbers)
    }

    /// Some numbers of the rows that a tensor has for tokens.
    pub(super) fn rows_of_tokens(
        &self,
        name: &str,
        tensor: &StoredTensor,
        tokens: &[u32],
        columns: Range<usize>,
    ) -> Result<Vec<f32>, W::Error> {
        let (loader, width) = (self.loader(), columns.len());
        let mut known = tokens.to_vec();
        known.sort_unstable();
        known.dedup();
        let mut embeddings = Vec::with_capacity(known.len() * width);
        for token in &known {
            let row = u64::from(*token);
            if row >= tensor.shape.rows() {
                let vocabulary = tensor.shape.rows();
                let location = self.source.location(name);
                return Err(Error::Token { location, token: *token, vocabulary }.into());
            }
            let bytes = loader.bytes(name, tensor, row..row + 1)?;
            let row = reference::decode(tensor.data_type, &bytes)
                .map_err(|source| loader.failed(name, source))?;
            embeddings.extend_from_slice(&row[columns.clone()]);
        }
        let mut numbers = Vec::with_capacity(tokens.len() * width);
        for token in tokens {
            let at = known.binary_search(token).unwrap_or_default();
            numbers.extend_from_slice(&embeddings[at * width..][..width]);
        }
        Ok(numbers)
    }

    /// Adds what a model has for a text's first kind of token.
    fn add_kind(&self, embeddings: &mut [f32]) -> Result<(), W::Error> {
        let kind = self.loader().embedding_rows(Role::TokenTypeEmbedding, 0..1)?;
        for row in embeddings.chunks_exact_mut(self.graph.hidden) {
            row.iter_mut().zip(&kind).for_each(|(row, kind)| *row += kind);
        }
        Ok(())
    }

    /// Adds what a model has for the positions of rows.
    fn add_positions(&self, spans: &[Span], embeddings: &mut [f32]) -> Result<(), W::Error> {
        let (loader, width) = (self.loader(), self.graph.hidden);
        let mut rows = embeddings.chunks_exact_mut(width);
        for Span { rows: own, position } in spans {
            let positions = *position as u64..(position + own.len()) as u64;
            let positions = loader.embedding_rows(Role::PositionEmbedding, positions)?;
            // Positions first: a row that is taken without one would be lost.
            for (position, row) in positions.chunks_exact(width).zip(rows.by_ref()) {
                row.iter_mut().zip(position).for_each(|(row, position)| *row += position);
            }
        }
        Ok(())
    }
}
