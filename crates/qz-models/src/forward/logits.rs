//! The end of a forward pass: logits, a few rows at a time.

use std::ops::Range;

use qz_kernels::backend::Backend;

use super::run::{Chunks, Forward};
use super::states::States;
use super::weights::{StoredTensor, WeightSource};
use crate::error::Error;
use crate::rules::Role;

/// Bytes of the output matrix that are multiplied at a time.
const TILE_BYTES: u64 = 64 << 20;

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
    states: States,
    length: usize,
    count: usize,
    norm: B::Buffer,
    name: String,
    tensor: StoredTensor,
    vocabulary: usize,
    /// The whole output matrix, where it fits.
    resident: Option<Vec<B::Matrix>>,
}

impl<'a, B: Backend, W: WeightSource> Logits<'a, B, W> {
    pub(super) fn new(
        forward: &'a Forward<'a, B, W>,
        chunks: &Chunks,
        states: States,
    ) -> Result<Self, W::Error> {
        let loader = forward.loader();
        let norm = loader.vector(Role::OutputNorm, None, forward.shape.hidden)?;
        let (name, tensor) = loader.output()?;
        let vocabulary = usize::try_from(tensor.shape.rows()).unwrap_or(usize::MAX);
        let mut logits = Self {
            forward,
            states,
            length: chunks.length(),
            count: chunks.count(),
            norm,
            name,
            tensor,
            vocabulary,
            resident: None,
        };
        let bytes = logits.tensor.shape.byte_size(logits.tensor.data_type).unwrap_or(u64::MAX);
        if bytes <= forward.options.max_memory / 2 {
            let tiles = logits.tiles().map(|rows| logits.load(rows));
            logits.resident = Some(tiles.collect::<Result<_, _>>()?);
        }
        Ok(logits)
    }

    /// Tokens of the vocabulary: numbers in a row.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Rows that fit into a quarter of the memory; a matrix that does not stay in memory
    /// is read once for each such tile.
    pub fn tile_rows(&self) -> usize {
        let rows = self.forward.options.max_memory / 4 / (self.vocabulary.max(1) as u64 * 4);
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
        let all = self.count * positions.len();
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
        let forward = self.forward;
        let (width, vocabulary) = (forward.shape.hidden, self.vocabulary);
        let mut numbers = vec![0.0; rows.len() * width];
        for (row, out) in rows.clone().zip(numbers.chunks_exact_mut(width)) {
            let chunk = row / positions.len();
            let token = chunk * self.length + positions.start + row % positions.len();
            forward.on_disk(self.states.read(token..token + 1, out))?;
        }
        let mut normed = forward.backend.zeros(numbers.len());
        let hidden = forward.backend.buffer(&numbers);
        forward.backend.rms_norm(&hidden, &self.norm, forward.shape.rms_epsilon, &mut normed);
        tile.values.resize(rows.len() * vocabulary, 0.0);
        tile.rows = rows.clone();
        let mut part = Vec::new();
        for (number, columns) in self.tiles().enumerate() {
            let loaded;
            let matrix = match &self.resident {
                Some(tiles) => &tiles[number],
                None => {
                    loaded = self.load(columns.clone())?;
                    &loaded
                }
            };
            let mut out = forward.backend.zeros(rows.len() * columns.len());
            forward.backend.matmul(forward.options.rounding, &normed, matrix, &mut out);
            self.check(positions, &rows, columns.len(), forward.backend.first_non_finite(&out))?;
            part.resize(rows.len() * columns.len(), 0.0);
            forward.backend.read(&out, 0, &mut part);
            let parts = part.chunks_exact(columns.len());
            for (values, part) in tile.values.chunks_exact_mut(vocabulary).zip(parts) {
                values[columns.clone()].copy_from_slice(part);
            }
        }
        Ok(())
    }

    fn check(
        &self,
        positions: &Range<usize>,
        rows: &Range<usize>,
        width: usize,
        non_finite: Option<usize>,
    ) -> Result<(), Error> {
        let Some(found) = non_finite else { return Ok(()) };
        let row = rows.start + found / width;
        let chunk = row / positions.len();
        let token = chunk * self.length + positions.start + row % positions.len();
        let location = self.forward.source.location(&self.name);
        Err(Error::NonFiniteActivation { location, token })
    }

    /// The output matrix in parts.
    fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<B, W> {
        let row_bytes = self.tensor.shape.row_bytes(self.tensor.data_type).unwrap_or(1).max(1);
        let step = usize::try_from(TILE_BYTES / row_bytes).unwrap_or(usize::MAX).max(1);
        let all = self.vocabulary;
        (0..all).step_by(step).map(move |first| first..all.min(first + step))
    }

    fn load(&self, rows: Range<usize>) -> Result<B::Matrix, W::Error> {
        let rows = rows.start as u64..rows.end as u64;
        self.forward.loader().rows(&self.name, &self.tensor, rows)
    }
}
