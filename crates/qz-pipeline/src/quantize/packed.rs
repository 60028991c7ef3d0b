//! Matrices that a layout stores as several tensors: rows in the layout's order and
//! units on their way out, and back as the numbers they stand for.

use std::borrow::Cow;
use std::ops::Range;

use qz_codec::grid::{Grid, RowBatch};
use qz_methods::Target;
use qz_models::RowOrder;
use qz_packed::{ChosenRows, Hadamard, Measure, PartBytes, PartIndex, Prepass, Whole};
use qz_tensor::{DataType, FileError};

use super::storage::{Numbers, Storage, Writer};
use crate::error::Error;
use crate::format::{PackedPlace, TargetPlan};
use crate::loss::Suspicion;
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
    /// What the layout's prepass asked for.
    measure: Measure,
    /// Of each row that is written, the row that it is in the order of GGUF.
    rows: Vec<usize>,
}

impl<'a> PackedMatrix<'a> {
    /// `gguf` puts stored rows in the order of GGUF, `written` in that of the output.
    pub(super) fn new(
        place: &'a PackedPlace,
        number: usize,
        measure: Measure,
        gguf: RowOrder,
        written: RowOrder,
    ) -> Self {
        let count = place.matrix.rows;
        let mut of_stored = vec![0; to_usize(count)];
        for row in 0..count {
            of_stored[to_usize(gguf.source_row(row))] = to_usize(row);
        }
        let rows = (0..count).map(|row| of_stored[to_usize(written.source_row(row))]).collect();
        Self { place, number, measure, rows }
    }

    fn columns(&self) -> usize {
        to_usize(self.place.matrix.columns)
    }

    /// The f32 numbers of parts, in the order of GGUF.
    fn decoded(&self, parts: InMemory) -> Result<Vec<u8>, Error> {
        let columns = self.columns();
        let mut values = vec![0.0; self.rows.len() * columns];
        let matrix = self.place.matrix;
        self.place.layout.decode(matrix, &parts, 0..matrix.rows, &mut values)?;
        let mut bytes = vec![0; values.len() * size_of::<f32>()];
        for (row, values) in self.rows.iter().zip(values.chunks(columns)) {
            store(&mut bytes, *row, values);
        }
        Ok(bytes)
    }
}

impl Storage for PackedMatrix<'_> {
    fn rotation(&self) -> Option<Hadamard> {
        self.place.layout.rotation()
    }

    fn in_order<'w>(&self, weights: &'w [f32]) -> Cow<'w, [f32]> {
        let columns = self.columns();
        let rows = self.rows.iter().flat_map(|row| &weights[row * columns..][..columns]);
        let mut ordered: Vec<f32> = rows.copied().collect();
        if let Some(rotation) = self.rotation() {
            rotation.rotate(&mut ordered);
        }
        Cow::Owned(ordered)
    }

    fn target<'g>(
        &self,
        ordered: &[f32],
        grid: &'g mut Option<Box<dyn Grid>>,
    ) -> Option<Target<'g>> {
        let (matrix, measure) = (self.place.matrix, self.measure);
        *grid = self.place.layout.grid(&Whole { matrix, weights: ordered, measure });
        grid.as_deref().map(Target::of_grid)
    }

    fn remeasure(&mut self, ordered: &[f32]) {
        if self.place.layout.prepass() != Prepass::None {
            self.measure = self.place.layout.measure(self.place.matrix, ordered);
        }
    }

    fn writer(&self) -> Box<dyn Writer + '_> {
        let mut packed = Packed::default();
        let parts = &self.place.parts[self.number];
        let mut put = |part: PartIndex, offset: u64, bytes: &[u8]| {
            packed.put(parts[part.0], offset, bytes);
        };
        self.place.layout.write_constants(self.place.matrix, self.measure, &mut put);
        let values = vec![0; self.rows.len() * self.columns() * size_of::<f32>()];
        let waiting = Vec::new();
        Box::new(PackedWriter { matrix: self, packed, values, waiting, written: 0, taken: 0 })
    }

    fn suspicion(&self, largest: f32) -> Suspicion {
        let layout = &self.place.layout;
        let columns = to_usize(layout.group_columns(self.place.matrix));
        Suspicion::of_groups(columns, layout.faint(self.measure), largest)
    }

    fn read_back(&self, _plans: &[TargetPlan], sinks: &Sinks) -> Result<Option<Numbers>, Error> {
        let mut parts = Vec::new();
        let described = self.place.layout.parts(self.place.matrix).unwrap_or_default();
        for (part, place) in described.iter().zip(&self.place.parts[self.number]) {
            let size = part.shape.byte_size(part.data_type).unwrap_or_default();
            let Some(bytes) = sinks.read_part(0, *place, size)? else { return Ok(None) };
            parts.push(bytes);
        }
        let bytes = self.decoded(InMemory(parts))?;
        Ok(Some(Numbers { data_type: DataType::F32, bytes }))
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
struct PackedWriter<'a> {
    matrix: &'a PackedMatrix<'a>,
    packed: Packed,
    /// f32 numbers in the order of GGUF.
    values: Vec<u8>,
    /// Rows that are not written yet, since they do not fill the layout's units.
    waiting: Vec<RowBatch>,
    written: usize,
    taken: usize,
}

impl Writer for PackedWriter<'_> {
    fn take(&mut self, rows: Range<usize>, batch: &RowBatch) {
        for (own, row) in self.matrix.rows[rows.clone()].iter().enumerate() {
            let mut values = Cow::Borrowed(batch.values(own));
            if let Some(rotation) = self.matrix.rotation() {
                rotation.rotate(values.to_mut());
            }
            store(&mut self.values, *row, &values);
        }
        self.waiting.push(batch.clone());
        self.taken = rows.end;
        let unit = to_usize(self.matrix.place.row_unit());
        let waiting = self.taken - self.written;
        if waiting >= ROWS_TOGETHER && waiting.is_multiple_of(unit) {
            self.write();
        }
    }

    fn finish(mut self: Box<Self>) -> (Content, Numbers) {
        self.write();
        let numbers = Numbers { data_type: DataType::F32, bytes: self.values };
        (Content::Packed(self.packed), numbers)
    }
}

impl PackedWriter<'_> {
    /// Writes the rows that wait.
    fn write(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let PackedPlace { layout, matrix, parts, .. } = self.matrix.place;
        let (parts, packed) = (&parts[self.matrix.number], &mut self.packed);
        let batch = &RowBatch::stacked(&self.waiting);
        let mut put = |part: PartIndex, offset: u64, bytes: &[u8]| {
            packed.put(parts[part.0], offset, bytes);
        };
        let (matrix, measure) = (*matrix, self.matrix.measure);
        let first_row = self.written as u64;
        layout.write(&ChosenRows { matrix, measure, first_row, batch }, &mut put);
        self.waiting.clear();
        self.written = self.taken;
    }
}

#[cfg(test)]
mod tests {
    use qz_codec::grid::{Rows, rounding};
    use qz_packed::{Activations, Matrix, SCHEMES};
    use qz_tensor::TensorIndex;

    use crate::format::PartPlace;

    use super::*;

    const ROWS: usize = 384;
    const COLUMNS: usize = 192;

    fn place(target: &str) -> PackedPlace {
        let (family, name) = target.split_once(':').expect("a target");
        let family = SCHEMES.iter().find(|known| known.name == family).expect("a family");
        let layout = (family.parse)(name).expect("a scheme").layout(DataType::BF16);
        let matrix = Matrix { rows: ROWS as u64, columns: COLUMNS as u64 };
        let count = layout.parts(matrix).expect("fits").len();
        let part = |number| PartPlace { tensor: TensorIndex(number), first_byte: 0 };
        let parts = vec![(0..count).map(part).collect()];
        PackedPlace { layout, matrix, parts, fused: 0, activations: Activations::Full }
    }

    /// What is written decodes to what the method gave, whatever the order of rows.
    #[test]
    fn written_rows_are_the_chosen_values() {
        let weights: Vec<f32> =
            (0..ROWS * COLUMNS).map(|at| ((at * 7919 % 1009) as f32 - 504.0) / 6000.0).collect();
        let permuted = RowOrder::InterleavedHalves { head_rows: 128 };
        let targets = [
            "bnb:nf4",
            "bnb:fp4",
            "bnb:nf4+double",
            "ct:nvfp4",
            "ct:mxfp4",
            "ct:mxfp4+hadamard64",
            "ct:mxfp6a16",
            "ct:mxfp8",
            "ct:fp8",
            "fp8:block128",
            "fp8:block128+ue8m0",
            "fp8:block100",
            "fp8:tensor",
            "modelopt:nvfp4a16",
            "modelopt:fp8+channel",
            "modelopt:mxfp8",
            "mlx:w5g64",
            "gptq:w4g64",
            "awq:w4g64",
            "ct:w8a8",
        ];
        for target in targets {
            let place = place(target);
            let measure = place.layout.measure(place.matrix, &weights);
            let matrix = PackedMatrix::new(&place, 0, measure, permuted, RowOrder::AsStored);
            let ordered = matrix.in_order(&weights);
            let mut grid = None;
            let grid = matrix.target(&ordered, &mut grid).expect("a grid").grid();
            let mut writer = matrix.writer();
            let mut values = vec![0; size_of_val(&weights[..])];
            for first in (0..ROWS).step_by(64) {
                let rows = first..first + 64;
                let own = Rows::dense(&ordered[first * COLUMNS..][..64 * COLUMNS], COLUMNS);
                let batch = rounding::round(grid, own, first, &[1.0; COLUMNS]);
                writer.take(rows.clone(), &batch);
                for (own, row) in rows.enumerate() {
                    let mut own = batch.values(own).to_vec();
                    matrix.rotation().iter().for_each(|rotation| rotation.rotate(&mut own));
                    store(&mut values, matrix.rows[row], &own);
                }
            }
            let (Content::Packed(packed), kept) = writer.finish() else { panic!("packed") };
            assert!(kept.bytes == values, "{target}");
            let parts = place.layout.parts(place.matrix).expect("fits");
            let mut parts: Vec<Vec<u8>> = parts
                .iter()
                .map(|part| vec![0; to_usize(part.shape.byte_size(part.data_type).expect("fits"))])
                .collect();
            for (part, offset, bytes) in packed.strips() {
                parts[part.0][to_usize(offset)..][..bytes.len()].copy_from_slice(bytes);
            }
            assert!(matrix.decoded(InMemory(parts)).expect("in memory") == values, "{target}");
        }
    }
}
