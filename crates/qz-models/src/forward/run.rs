//! The run of a text's chunks through all layers.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use qz_kernels::backend::{Backend, Rounding, reference};
use qz_tensor::{DataType, Location, Metadata};

use super::chunks::{Chunks, Span};
use super::layer::{Layer, Pass};
use super::logits::Logits;
use super::shape::DecoderShape;
use super::states::States;
use super::weights::{Loader, WeightSource};
use crate::error::Error;
use crate::rules::LayerIndex;

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
    pub(super) shape: DecoderShape,
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
        let shape = DecoderShape::read(metadata, window, &location)?;
        Ok(Self { backend, source, shape, options })
    }

    /// The model's sizes.
    pub fn shape(&self) -> &DecoderShape {
        &self.shape
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
        u64::from(self.shape.layers) * chunks.count() as u64
    }

    pub(super) fn loader(&self) -> Loader<'_, B, W> {
        Loader { backend: self.backend, source: self.source, shape: &self.shape }
    }

    /// Puts all chunks through all layers. `on_steps` hears of each layer that so many
    /// chunks are through, and may end the run with an error.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape than the metadata says or cannot be
    /// read, if a token is not in the vocabulary, or a result is no number.
    pub fn run(
        &self,
        chunks: &Chunks,
        on_steps: &mut dyn FnMut(u64) -> Result<(), W::Error>,
    ) -> Result<Logits<'_, B, W>, W::Error> {
        let mut states = self.embed(chunks)?;
        let table = self.rotary(chunks.length())?;
        for layer in 0..self.shape.layers {
            let layer = Layer::load(&self.loader(), LayerIndex(layer))?;
            for (batch, rows) in self.batches(chunks) {
                let spans = chunks.spans(batch.clone());
                let rotary = self.rotary_rows(&table, &spans);
                let locate = |name: &str| self.source.location(name);
                let pass = self.pass(&spans, &rotary, &locate);
                let hidden = states.with(rows.clone(), |numbers| self.backend.buffer(numbers));
                let mut hidden = self.on_disk(hidden)?;
                let mut cache = pass.cache(&layer, chunks.length())?;
                pass.run(&layer, &mut cache, &mut hidden)
                    .map_err(|error| error.of_token(|token| rows.start + token))?;
                self.on_disk(states.write(rows.start, &self.backend.numbers(&hidden)))?;
                on_steps(batch.len() as u64)?;
            }
        }
        Logits::new(self, chunks, states)
    }

    pub(super) fn pass<'p>(
        &'p self,
        spans: &'p [Span],
        rotary: &'p B::Buffer,
        locate: &'p dyn Fn(&str) -> Location,
    ) -> Pass<'p, B> {
        Pass {
            backend: self.backend,
            shape: &self.shape,
            rounding: self.options.rounding,
            cache_type: self.options.cache_type,
            rotary,
            spans,
            locate,
        }
    }

    /// Cosines and sines of each position.
    pub(super) fn rotary(&self, positions: usize) -> Result<Vec<f32>, W::Error> {
        let factors = self.loader().rope_factors()?;
        Ok(self.shape.rotary.table(positions, factors.as_deref()))
    }

    /// The same of each row of the spans.
    pub(super) fn rotary_rows(&self, table: &[f32], spans: &[Span]) -> B::Buffer {
        // A cosine and a sine for each pair: as many as elements of a head.
        let size = self.shape.head_size;
        let rows = spans.iter().flat_map(|Span { rows, position }| {
            &table[position * size..(position + rows.len()) * size]
        });
        self.backend.buffer(&rows.copied().collect::<Vec<f32>>())
    }

    /// Bytes that one token takes while a batch goes through a layer.
    pub(super) fn token_bytes(&self) -> u64 {
        let shape = &self.shape;
        let widths = 4 * shape.hidden + 4 * shape.heads * shape.head_size + 4 * shape.intermediate;
        widths as u64 * 4
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
    pub(super) fn embed(&self, chunks: &Chunks) -> Result<States, W::Error> {
        let limit = self.options.max_memory / 4;
        let folder = &self.options.spill_folder;
        let (count, width) = (chunks.tokens().len(), self.shape.hidden);
        let mut states = self.on_disk(States::new(count, width, limit, folder))?;
        for (_, rows) in self.batches(chunks) {
            let embeddings = self.embeddings(&chunks.tokens()[rows.clone()])?;
            self.on_disk(states.write(rows.start, &embeddings))?;
        }
        Ok(states)
    }

    /// The embeddings of some tokens: their rows are read, not the whole matrix.
    pub(super) fn embeddings(&self, tokens: &[u32]) -> Result<Vec<f32>, W::Error> {
        let loader = self.loader();
        let (name, tensor) = loader.embedding()?;
        let width = self.shape.hidden;
        let mut known = tokens.to_vec();
        known.sort_unstable();
        known.dedup();
        let mut embeddings = Vec::with_capacity(known.len() * width);
        for token in &known {
            let row = u64::from(*token);
            if row >= tensor.shape.rows() {
                let vocabulary = tensor.shape.rows();
                let location = self.source.location(&name);
                return Err(Error::Token { location, token: *token, vocabulary }.into());
            }
            let bytes = loader.bytes(&name, &tensor, row..row + 1)?;
            let row = reference::decode(tensor.data_type, &bytes)
                .map_err(|source| loader.failed(&name, source))?;
            embeddings.extend(row);
        }
        let mut numbers = Vec::with_capacity(tokens.len() * width);
        for token in tokens {
            let at = known.binary_search(token).unwrap_or_default();
            numbers.extend_from_slice(&embeddings[at * width..][..width]);
        }
        Ok(numbers)
    }

    pub(super) fn on_disk<T>(&self, result: io::Result<T>) -> Result<T, W::Error> {
        let folder = &self.options.spill_folder;
        result.map_err(|source| Error::Spill { folder: folder.clone(), source }.into())
    }
}
