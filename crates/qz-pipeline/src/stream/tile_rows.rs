//! One tile's rows at work: put in order, decoded, encoded or packed.

use std::ops::Range;

use qz_codec::Codec;
use qz_models::Change;
use qz_packed::{Measure, PartIndex, Rounding, RowBlock};
use qz_tensor::{DataType, Location};

use super::{CHUNK_WEIGHTS, Cancel, Importance, Packed, PutParts, Work, check_cancelled};
use crate::error::Error;
use crate::format::{PackedPlace, PartPlace};
use crate::loss::{self, Suspicion};
use crate::mapped_rows::{RowsInChange, changed_type};
use crate::model::{Model, ModelTensor, to_usize};

/// Buffers that an encoding thread keeps.
#[derive(Default)]
pub(super) struct Scratch {
    weights: Vec<f32>,
    importance: Vec<f32>,
    /// What encoded weights became, where that is looked at.
    written: Vec<f32>,
    pub(super) changed: Vec<u8>,
}

/// How rows are packed.
pub(super) struct Packing<'a> {
    pub(super) place: &'a PackedPlace,
    /// Of each of the stacked matrices.
    pub(super) measures: &'a [Measure],
    pub(super) rounding: Rounding,
}

/// Rows that are encoded in one call, counted from the tile's first.
struct Chunk {
    rows: Range<usize>,
    /// Which of the stacked matrices they belong to.
    matrix: u64,
}

/// One tile's rows at work.
#[derive(Clone)]
pub(super) struct TileRows<'a> {
    cancel: &'a Cancel,
    model: &'a Model,
    tensor: &'a ModelTensor,
    /// As many as the tensor's, or another number of rows with as many weights.
    pub(super) rows: Range<u64>,
    columns: usize,
    /// Their type.
    pub(super) data_type: DataType,
    /// What has become of the stored rows.
    change: Change,
    importance: Option<Importance<'a>>,
}

impl<'a> TileRows<'a> {
    /// Rows as they are stored; `rows` are those of the tensor.
    pub(super) fn stored(
        cancel: &'a Cancel,
        model: &'a Model,
        work: &Work<'a>,
        rows: Range<u64>,
    ) -> Self {
        let tensor = work.tensor;
        let tile = Self {
            cancel,
            model,
            tensor,
            rows,
            columns: to_usize(tensor.grid().1),
            data_type: tensor.stored_type,
            change: Change::NONE,
            importance: work.importance,
        };
        tile.with_columns(tensor.stored_columns())
    }

    /// What stored rows become.
    pub(super) fn changed(&self, change: Change) -> Self {
        let data_type = changed_type(self.data_type, change);
        let changed = Self { change, data_type, ..self.clone() };
        match change.transposed {
            Some(matrix) => changed.with_columns(matrix.columns),
            None => changed,
        }
    }

    /// The same weights in rows of another length.
    fn with_columns(mut self, columns: u64) -> Self {
        let row = |row: u64| row * self.columns as u64 / columns.max(1);
        self.rows = row(self.rows.start)..row(self.rows.end);
        self.columns = to_usize(columns);
        self
    }

    /// Carries out the change that these rows have gone through.
    pub(super) fn carry_out(&self, stored: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let in_change = RowsInChange {
            change: self.change,
            stored_type: self.tensor.stored_type,
            columns: self.columns as u64,
            first_row: self.rows.start,
        };
        in_change.carry_out(stored, out).ok_or_else(|| self.model.no_decoder(self.tensor))
    }

    /// Bytes of a row of a type.
    pub(super) fn row_bytes(&self, data_type: DataType) -> usize {
        data_type.byte_size(self.columns as u64).map_or(0, to_usize)
    }

    /// Looks at the bytes as they are stored.
    pub(super) fn check_finite(&self, bytes: &[u8]) -> Result<(), Error> {
        let data_type = self.data_type;
        let Some(codec) = qz_kernels::codec_for(data_type) else { return Ok(()) };
        let Some(block) = codec.first_non_finite_block(bytes) else { return Ok(()) };
        let size = data_type.block_bytes();
        let before = self.rows.start * self.row_bytes(data_type) as u64;
        let offset = before + (block * size) as u64;
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
        scratch: &mut Scratch,
        lost: &mut u64,
    ) -> Result<Vec<u8>, Error> {
        let columns = self.columns;
        let suspicion = Suspicion::of_type(wanted, columns);
        let decoder = self.codec(self.data_type, wanted)?;
        let encoder = self.codec(wanted, wanted)?;
        let (row_in, row_out) = (self.row_bytes(self.data_type), self.row_bytes(wanted));
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
                return Err(self.overflow(first + row as u64, wanted, weights));
            }
            let out = &mut bytes[rows.start * row_out..rows.end * row_out];
            let importance = self.importance.map(|_| &*scratch.importance);
            encoder.encode(&scratch.weights, columns, importance, out);
            if let Some(block) = encoder.first_non_finite_block(out) {
                let row = block / (columns / wanted.block_elements());
                let weights = &scratch.weights[row * columns..][..columns];
                return Err(self.overflow(first + row as u64, wanted, weights));
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
        if place.layout.takes(self.data_type) {
            let (parts, mut packed) = (&place.parts[to_usize(matrix)], Packed::default());
            let mut put = |part: PartIndex, offset: u64, bytes: &[u8]| {
                packed.put(parts[part.0], offset, bytes);
            };
            let first_row = self.rows.start % place.matrix.rows.max(1);
            place.layout.put_blocks(place.matrix, first_row, stored, &mut put);
            return Ok(packed);
        }
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
            self.overflow(self.rows.start + row as u64, place.scale_type(), weights)
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
        let decoder = self.codec(self.data_type, DataType::F32)?;
        weights.resize(to_usize(self.rows.end - self.rows.start) * self.columns, 0.0);
        decoder.decode(stored, weights);
        Ok(())
    }

    /// The tile's rows in chunks; those of a chunk belong to one of the matrices
    /// stacked in the tensor, since each has importance of its own.
    fn chunks(&self) -> impl Iterator<Item = Chunk> + use<> {
        let columns = (self.columns as u64).max(1);
        let most = (CHUNK_WEIGHTS as u64 / columns).max(1);
        let of_matrix = self.tensor.rows_per_matrix().saturating_mul(self.tensor.grid().1);
        let matrix_rows = (of_matrix / columns).max(1);
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
            data_type: self.data_type,
            target,
            missing: data_type,
        })
    }

    /// `row` is one of these rows, as they are now.
    fn overflow(&self, row: u64, data_type: DataType, weights: &[f32]) -> Error {
        let row_bytes = self.tensor.stored_type.byte_size(self.columns as u64).unwrap_or(1);
        // Of transposed rows the first of the matrix.
        let stored = match self.change.transposed {
            Some(matrix) => row / matrix.rows.max(1) * matrix.rows,
            None => self.change.order.source_row(row),
        };
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
    parts: &'a [PartPlace],
    packed: &'a Packed,
    /// What is written with the matrix' first rows.
    constants: Packed,
}

impl<'a> Written<'a> {
    fn of(
        place: &'a PackedPlace,
        block: &'a RowBlock<'a>,
        parts: &'a [PartPlace],
        packed: &'a Packed,
    ) -> Self {
        let mut constants = Packed::default();
        if block.first_row > 0 {
            let mut put = |part: PartIndex, offset: u64, bytes: &[u8]| {
                constants.put(parts[part.0], offset, bytes);
            };
            place.layout.write_constants(block.matrix, block.measure, &mut put);
        }
        Self { place, block, parts, packed, constants }
    }

    /// Decodes them, a chunk at a time; how many weights are lost.
    fn lost(
        &self,
        suspicion: Suspicion,
        written: &mut Vec<f32>,
        overflow: impl Fn(usize) -> Error,
    ) -> Result<u64, Error> {
        let RowBlock { matrix, first_row, weights, .. } = *self.block;
        let parts = PutParts::of(self.parts, &[self.packed, &self.constants]);
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
