//! Matrices that a layout stores as several tensors: rows in the layout's order and
//! units on their way out, and back as the numbers they stand for.

use std::ops::Range;

use qz_codec::grid::{Grid, RowBatch};
use qz_models::RowOrder;
use qz_packed::{Measure, PartBytes, PartIndex};
use qz_tensor::FileError;

use crate::error::Error;
use crate::format::{PackedPlace, TargetPlan};
use crate::model::to_usize;
use crate::sinks::Sinks;
use crate::stream::{Content, Packed};

/// Rows that are written together: the bytes of a strided layout lie in runs of so many.
const ROWS_TOGETHER: usize = 256;

/// One matrix of a place.
pub(super) struct PackedMatrix<'a> {
    place: &'a PackedPlace,
    /// Which of the matrices stacked in the tensor.
    number: usize,
    /// Of each row that is written, the row that it is in the order of GGUF.
    rows: Vec<usize>,
}

impl<'a> PackedMatrix<'a> {
    /// `gguf` puts stored rows in the order of GGUF, `written` in that of the output.
    pub(super) fn new(
        place: &'a PackedPlace,
        number: usize,
        gguf: RowOrder,
        written: RowOrder,
    ) -> Self {
        let count = place.matrix.rows;
        let mut of_stored = vec![0; to_usize(count)];
        for row in 0..count {
            of_stored[to_usize(gguf.source_row(row))] = to_usize(row);
        }
        let rows = (0..count).map(|row| of_stored[to_usize(written.source_row(row))]).collect();
        Self { place, number, rows }
    }

    /// The values that weights may take.
    pub(super) fn grid(&self) -> Option<Box<dyn Grid>> {
        self.place.layout.grid(self.columns())
    }

    fn columns(&self) -> usize {
        to_usize(self.place.matrix.columns)
    }

    /// Weights in the order in which they are written.
    pub(super) fn in_order(&self, weights: &[f32]) -> Vec<f32> {
        let columns = self.columns();
        self.rows.iter().flat_map(|row| &weights[row * columns..][..columns]).copied().collect()
    }

    /// Takes rows to be written.
    pub(super) fn writer(&self) -> Writer<'_> {
        let mut packed = Packed::default();
        let parts = &self.place.parts[self.number];
        let mut put = |part: PartIndex, offset: u64, bytes: &[u8]| {
            packed.put(parts[part.0], offset, bytes);
        };
        self.place.layout.write_constants(self.place.matrix, Measure::default(), &mut put);
        let values = vec![0; self.rows.len() * self.columns() * size_of::<f32>()];
        Writer { matrix: self, packed, values, waiting: Vec::new(), written: 0, taken: 0 }
    }

    /// What an earlier run wrote, as f32 numbers in the order of GGUF; none if that
    /// cannot be read.
    pub(super) fn taken_back(
        &self,
        plans: &[TargetPlan],
        sinks: &Sinks,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut parts = Vec::new();
        for part in &self.place.parts[self.number] {
            let Some(bytes) = sinks.read_tensor(plans, 0, *part)? else { return Ok(None) };
            parts.push(bytes);
        }
        let columns = self.columns();
        let mut values = vec![0.0; self.rows.len() * columns];
        let matrix = self.place.matrix;
        self.place.layout.decode(matrix, &InMemory(parts), 0..matrix.rows, &mut values)?;
        let mut bytes = vec![0; values.len() * size_of::<f32>()];
        for (row, values) in self.rows.iter().zip(values.chunks(columns)) {
            store(&mut bytes, *row, values);
        }
        Ok(Some(bytes))
    }
}

/// Parts of a matrix as they were read.
struct InMemory(Vec<Vec<u8>>);

impl PartBytes for InMemory {
    fn read(&self, part: PartIndex, offset: u64, out: &mut [u8]) -> Result<(), FileError> {
        out.copy_from_slice(&self.0[part.0][to_usize(offset)..][..out.len()]);
        Ok(())
    }
}

/// Puts a row of numbers into bytes of rows.
fn store(bytes: &mut [u8], row: usize, values: &[f32]) {
    let size = size_of_val(values);
    let own = &mut bytes[row * size..][..size];
    for (bytes, value) in own.as_chunks_mut().0.iter_mut().zip(values) {
        *bytes = value.to_le_bytes();
    }
}

/// A matrix on its way out.
pub(super) struct Writer<'a> {
    matrix: &'a PackedMatrix<'a>,
    packed: Packed,
    /// f32 numbers in the order of GGUF.
    values: Vec<u8>,
    /// Rows that are not written yet, since they do not fill the layout's units.
    waiting: Vec<RowBatch>,
    written: usize,
    taken: usize,
}

impl Writer<'_> {
    /// Takes the next rows.
    pub(super) fn take(&mut self, rows: Range<usize>, batch: &RowBatch) {
        for (own, row) in self.matrix.rows[rows.clone()].iter().enumerate() {
            store(&mut self.values, *row, batch.values(own));
        }
        self.waiting.push(batch.clone());
        self.taken = rows.end;
        let unit = to_usize(self.matrix.place.row_unit());
        let waiting = self.taken - self.written;
        if waiting >= ROWS_TOGETHER && waiting.is_multiple_of(unit) {
            self.write();
        }
    }

    fn write(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let PackedPlace { layout, matrix, parts, .. } = self.matrix.place;
        let (parts, packed) = (&parts[self.matrix.number], &mut self.packed);
        let batch = RowBatch::stacked(&self.waiting);
        let mut put = |part: PartIndex, offset: u64, bytes: &[u8]| {
            packed.put(parts[part.0], offset, bytes);
        };
        layout.write(*matrix, self.written as u64, &batch, &mut put);
        self.waiting.clear();
        self.written = self.taken;
    }

    /// The bytes of all parts, and the numbers they stand for.
    pub(super) fn finish(mut self) -> (Content, Vec<u8>) {
        self.write();
        (Content::Packed(self.packed), self.values)
    }
}
