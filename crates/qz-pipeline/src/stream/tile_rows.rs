//! One tile's rows at work: put in order, decoded, encoded or packed.

use std::ops::Range;

use qz_codec::Codec;
use qz_models::RowOrder;
use qz_packed::{Measure, PartIndex, Rounding, RowBlock};
use qz_tensor::{DataType, Location, TensorIndex};

use super::{CHUNK_WEIGHTS, Cancel, Importance, Packed, PutParts, check_cancelled};
use crate::error::Error;
use crate::format::PackedPlace;
use crate::loss::{self, Suspicion};
use crate::model::{Model, ModelTensor, to_usize};

/// Buffers that an encoding thread keeps.
#[derive(Default)]
pub(super) struct Scratch {
    weights: Vec<f32>,
    importance: Vec<f32>,
    /// What encoded weights became, where that is looked at.
    written: Vec<f32>,
    pub(super) reordered: Vec<u8>,
}

/// How rows are packed.
pub(super) struct Packing<'a> {
    pub(super) place: &'a PackedPlace,
    /// Of each of the stacked matrices.
    pub(super) measures: &'a [Measure],
    pub(super) rounding: Rounding,
    /// In which order they are already.
    pub(super) row_order: RowOrder,
}

/// Rows that are encoded in one call, counted from the tile's first.
struct Chunk {
    rows: Range<usize>,
    /// Which of the stacked matrices they belong to.
    matrix: u64,
}

/// One tile's rows at work.
pub(super) struct TileRows<'a> {
    pub(super) cancel: &'a Cancel,
    pub(super) model: &'a Model,
    pub(super) tensor: &'a ModelTensor,
    pub(super) rows: Range<u64>,
    pub(super) importance: Option<Importance<'a>>,
}

impl TileRows<'_> {
    /// The rows in another order. Row orders stay within units, and a tile holds
    /// whole units.
    pub(super) fn put_in_order(&self, stored: &[u8], row_order: RowOrder, out: &mut Vec<u8>) {
        let row_bytes = self.tensor.row_bytes(self.tensor.source_type);
        out.resize(stored.len(), 0);
        for (row, out) in self.rows.clone().zip(out.chunks_exact_mut(row_bytes)) {
            let start = to_usize(row_order.source_row(row) - self.rows.start) * row_bytes;
            out.copy_from_slice(&stored[start..start + row_bytes]);
        }
    }

    /// Looks at the bytes as they are stored.
    pub(super) fn check_finite(&self, bytes: &[u8]) -> Result<(), Error> {
        let data_type = self.tensor.source_type;
        let Some(codec) = qz_kernels::codec_for(data_type) else { return Ok(()) };
        let Some(block) = codec.first_non_finite_block(bytes) else { return Ok(()) };
        let blocks_per_row = to_usize(self.tensor.grid().1) / data_type.block_elements();
        let row = self.rows.start + (block / blocks_per_row) as u64;
        let block_in_row = (block % blocks_per_row) as u64;
        let size = data_type.block_bytes();
        let offset = (row * blocks_per_row as u64 + block_in_row) * size as u64;
        let location = self.model.location(self.tensor, offset);
        let place = self.model.source_of(self.tensor, offset);
        let stored = place.map_or(offset, |(_, offset)| offset) / size as u64;
        if data_type.is_block() {
            return Err(Error::NonFiniteBlock { location, block: stored, data_type });
        }
        let mut value = [0.0];
        codec.decode(&bytes[block * size..(block + 1) * size], &mut value);
        Err(Error::NonFiniteWeight { location, index: stored, value: value[0] })
    }

    /// Decodes and encodes the rows, a chunk at a time.
    pub(super) fn convert(
        &self,
        stored: &[u8],
        wanted: DataType,
        row_order: RowOrder,
        scratch: &mut Scratch,
        lost: &mut u64,
    ) -> Result<Vec<u8>, Error> {
        let suspicion = Suspicion::of_type(wanted, to_usize(self.tensor.grid().1));
        let decoder = self.codec(self.tensor.source_type, wanted)?;
        let encoder = self.codec(wanted, wanted)?;
        let columns = to_usize(self.tensor.grid().1);
        let (row_in, row_out) =
            (self.tensor.row_bytes(self.tensor.source_type), self.tensor.row_bytes(wanted));
        let mut bytes = vec![0; stored.len() / row_in * row_out];
        let mut matrix = None;
        for Chunk { rows, matrix: of } in self.chunks() {
            check_cancelled(self.cancel)?;
            if self.importance.is_some() && matrix.replace(of) != Some(of) {
                self.read_importance(of, &mut scratch.importance)?;
            }
            scratch.weights.resize(rows.len() * columns, 0.0);
            decoder.decode(&stored[rows.start * row_in..rows.end * row_in], &mut scratch.weights);
            let first = self.rows.start + rows.start as u64;
            if let Some(row) = row_past_searches(&scratch.weights, columns, wanted) {
                let weights = &scratch.weights[row * columns..][..columns];
                return Err(self.overflow(
                    row_order.source_row(first + row as u64),
                    wanted,
                    weights,
                ));
            }
            let out = &mut bytes[rows.start * row_out..rows.end * row_out];
            let importance = self.importance.map(|_| &*scratch.importance);
            encoder.encode(&scratch.weights, columns, importance, out);
            if let Some(block) = encoder.first_non_finite_block(out) {
                let row = block / (columns / wanted.block_elements());
                let weights = &scratch.weights[row * columns..][..columns];
                return Err(self.overflow(
                    row_order.source_row(first + row as u64),
                    wanted,
                    weights,
                ));
            }
            // Every f32 holds what was read.
            if wanted != DataType::F32 && suspicion.has_odd_block(&scratch.weights) {
                scratch.written.resize(scratch.weights.len(), 0.0);
                encoder.decode(out, &mut scratch.written);
                // No block is infinite: that was looked at.
                let found = suspicion.lost(&scratch.weights, &scratch.written);
                *lost += found.unwrap_or_default().weights;
            }
        }
        Ok(bytes)
    }

    /// Packs the rows, which are of one matrix and in the output's order.
    pub(super) fn pack(
        &self,
        stored: &[u8],
        packing: &Packing<'_>,
        scratch: &mut Scratch,
        lost: &mut u64,
    ) -> Result<Packed, Error> {
        let place = packing.place;
        let matrix = self.rows.start / place.matrix.rows.max(1);
        self.decode_all(stored, &mut scratch.weights)?;
        if self.importance.is_some() {
            self.read_importance(matrix, &mut scratch.importance)?;
        }
        // The placement has parts and a measure for each of the matrices.
        let (parts, measure) = (&place.parts[to_usize(matrix)], packing.measures[to_usize(matrix)]);
        let mut packed = Packed::default();
        let mut put = |part: PartIndex, offset: u64, bytes: &[u8]| {
            packed.put(parts[part.0], offset, bytes);
        };
        let block = RowBlock {
            matrix: place.matrix,
            first_row: self.rows.start % place.matrix.rows.max(1),
            weights: &scratch.weights,
            importance: self.importance.map(|_| &*scratch.importance),
            rounding: packing.rounding,
            measure,
        };
        if block.first_row == 0 {
            place.layout.write_constants(place.matrix, measure, &mut put);
        }
        let overflow = |position: usize| {
            let columns = block.columns();
            let row = position / columns.max(1);
            let weights = &block.weights[row * columns..][..columns];
            let stored = packing.row_order.source_row(self.rows.start + row as u64);
            self.overflow(stored, place.scale_type(), weights)
        };
        place.layout.encode(&block, &mut put).map_err(overflow)?;
        let columns = to_usize(place.layout.group_columns(place.matrix));
        let faint = place.layout.faint(measure);
        let suspicion = Suspicion::of_groups(columns, faint, loss::largest(block.weights));
        if suspicion.is_raised(block.weights) {
            let written = Written::of(place, &block, parts, &packed);
            *lost += written.lost(suspicion, &mut scratch.written, overflow)?;
        }
        Ok(packed)
    }

    /// Measures the rows, which are of one matrix and in the output's order.
    pub(super) fn measure(
        &self,
        stored: &[u8],
        place: &PackedPlace,
        scratch: &mut Scratch,
    ) -> Result<Measure, Error> {
        self.decode_all(stored, &mut scratch.weights)?;
        Ok(place.layout.measure(place.matrix, &scratch.weights))
    }

    fn decode_all(&self, stored: &[u8], weights: &mut Vec<f32>) -> Result<(), Error> {
        let decoder = self.codec(self.tensor.source_type, DataType::F32)?;
        let columns = to_usize(self.tensor.grid().1);
        weights.resize(to_usize(self.rows.end - self.rows.start) * columns, 0.0);
        decoder.decode(stored, weights);
        Ok(())
    }

    /// The tile's rows in chunks; those of a chunk belong to one of the matrices
    /// stacked in the tensor, since each has importance of its own.
    fn chunks(&self) -> impl Iterator<Item = Chunk> + use<> {
        let most = (CHUNK_WEIGHTS as u64 / self.tensor.grid().1.max(1)).max(1);
        let matrix_rows = self.tensor.rows_per_matrix();
        let (first, end) = (self.rows.start, self.rows.end);
        let mut start = first;
        std::iter::from_fn(move || {
            let matrix = start / matrix_rows;
            let stop = end.min(start + most).min((matrix + 1) * matrix_rows);
            let rows = to_usize(start - first)..to_usize(stop - first);
            start = stop;
            (!rows.is_empty()).then_some(Chunk { rows, matrix })
        })
    }

    /// Reads what weighs the columns of one of the stacked matrices.
    fn read_importance(&self, matrix: u64, out: &mut Vec<f32>) -> Result<(), Error> {
        let Some(importance) = self.importance else { return Ok(()) };
        let columns = self.tensor.grid().1;
        out.resize(to_usize(columns), 0.0);
        Ok(importance.matrix.read(importance.entry, matrix * columns, out)?)
    }

    fn codec(&self, data_type: DataType, target: DataType) -> Result<&'static dyn Codec, Error> {
        qz_kernels::codec_for(data_type).ok_or_else(|| Error::NoCodec {
            location: self.model.location(self.tensor, 0),
            data_type: self.tensor.source_type,
            target,
            missing: data_type,
        })
    }

    /// `stored` is the row as it is stored.
    fn overflow(&self, stored: u64, data_type: DataType, weights: &[f32]) -> Error {
        let row_bytes = self.tensor.row_bytes(self.tensor.source_type) as u64;
        let location: Location = self.model.location(self.tensor, stored * row_bytes);
        let place = self.model.source_of(self.tensor, stored * row_bytes);
        let largest = loss::largest(weights);
        Error::Overflow {
            location: Location { offset: None, ..location },
            row: place.map_or(stored, |(_, offset)| offset / row_bytes.max(1)),
            largest,
            data_type,
        }
    }
}

/// Rows that have just been packed.
struct Written<'a> {
    place: &'a PackedPlace,
    block: &'a RowBlock<'a>,
    tensors: &'a [TensorIndex],
    packed: &'a Packed,
    /// What is written with the matrix' first rows.
    constants: Packed,
}

impl<'a> Written<'a> {
    fn of(
        place: &'a PackedPlace,
        block: &'a RowBlock<'a>,
        tensors: &'a [TensorIndex],
        packed: &'a Packed,
    ) -> Self {
        let mut constants = Packed::default();
        if block.first_row > 0 {
            let mut put = |part: PartIndex, offset: u64, bytes: &[u8]| {
                constants.put(tensors[part.0], offset, bytes);
            };
            place.layout.write_constants(block.matrix, block.measure, &mut put);
        }
        Self { place, block, tensors, packed, constants }
    }

    /// Decodes them, a chunk at a time; how many weights are lost.
    fn lost(
        &self,
        suspicion: Suspicion,
        written: &mut Vec<f32>,
        overflow: impl Fn(usize) -> Error,
    ) -> Result<u64, Error> {
        let RowBlock { matrix, first_row, weights, .. } = *self.block;
        let parts = PutParts::of(self.tensors, &[self.packed, &self.constants]);
        let columns = self.block.columns().max(1);
        let step = (CHUNK_WEIGHTS / columns).max(1);
        let mut lost = 0;
        for (chunk, weights) in weights.chunks(step * columns).enumerate() {
            if !suspicion.is_raised(weights) {
                continue;
            }
            let row = first_row + (chunk * step) as u64;
            let rows = row..row + (weights.len() / columns) as u64;
            written.resize(weights.len(), 0.0);
            self.place.layout.decode(matrix, &parts, rows, written)?;
            let place = |position: usize| overflow(chunk * step * columns + position);
            lost += suspicion.lost(weights, written).map_err(place)?.weights;
        }
        Ok(lost)
    }
}

/// The first row with a weight whose square overflows f32. The reference's
/// searches then find nothing, and some (Q6_K) store zeros without a complaint.
fn row_past_searches(weights: &[f32], columns: usize, wanted: DataType) -> Option<usize> {
    const LARGEST: f32 = 1e18;
    let past = |row: &[f32]| loss::largest(row) > LARGEST;
    let searched = wanted.is_block() && past(weights);
    searched.then(|| weights.chunks(columns).position(past)).flatten()
}
