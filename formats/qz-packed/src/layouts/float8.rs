//! Eight-bit floats with scales, a byte each: the layout that the native FP8 checkpoints,
//! compressed-tensors and ModelOpt share. They differ in the scale's name, type and shape,
//! and in how they round.

use std::ops::Range;

use qz_codec::grid::{GivenScales, Grid, LevelFormat, ParameterIndex, given_scales, scaled_levels};
use qz_tensor::{DataType, FileError};

use super::batches;
use super::eight_bit_float::{f32_from_e4m3, f32_from_e5m2, f32_from_e8m0};
use super::float8_rounding::{self as rounding, BlockScale, Blocks, largest_magnitude};
use super::numbers::{ScaleType, greatest_divisor};
use crate::layout::{
    ChosenRows, Layout, Matrix, Measure, Part, PartBytes, PartIndex, Prepass, Put, RowBlock, Unfit,
    Whole,
};

const WEIGHT: PartIndex = PartIndex(0);
const SCALES: PartIndex = PartIndex(1);

/// Columns that a method works on together where scales are given.
const UNIT_COLUMNS: u64 = 64;

/// Which weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// All of a matrix; with `fused`, those of the matrices that are multiplied together.
    Tensor { fused: bool },
    /// A row.
    Row,
    /// A block.
    Block { rows: u64, columns: u64 },
}

/// How a scale is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredScale {
    Number(ScaleType),
    /// A power of two, as a tensor of this type.
    Power(DataType),
}

impl StoredScale {
    /// The one that a tensor of this type holds.
    pub(crate) fn of(data_type: DataType) -> Option<Self> {
        if [DataType::F8_E8M0, DataType::U8].contains(&data_type) {
            return Some(Self::Power(data_type));
        }
        ScaleType::of(data_type).map(Self::Number)
    }

    fn data_type(self) -> DataType {
        match self {
            Self::Number(scale) => scale.data_type(),
            Self::Power(data_type) => data_type,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Number(scale) => scale.bytes(),
            Self::Power(_) => 1,
        }
    }

    fn write(self, scales: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Number(scale) => scale.write(scales, &mut bytes),
            Self::Power(_) => {
                bytes.extend(scales.iter().map(|scale| (scale.to_bits() >> 23) as u8))
            }
        }
        bytes
    }

    fn read(self, bytes: &[u8], scales: &mut [f32]) {
        match self {
            Self::Number(scale) => scale.read(bytes, scales),
            Self::Power(_) => {
                for (scale, byte) in scales.iter_mut().zip(bytes) {
                    *scale = f32_from_e8m0(*byte);
                }
            }
        }
    }
}

/// The layout.
#[derive(Clone, Debug)]
pub(crate) struct Float8 {
    /// E4M3 or, only read, E5M2.
    pub(crate) code: DataType,
    pub(crate) spread: Spread,
    /// The name of the scales' tensor.
    pub(crate) suffix: &'static str,
    pub(crate) scale: StoredScale,
    /// How many dimensions the scales' tensor has, where there is a choice: one or none
    /// for a tensor's, one or two for those of rows.
    pub(crate) rank: usize,
    /// What weights divided by their scale are rounded to before they become codes; the scale's
    /// own type where nothing is said.
    pub(crate) quotient: Option<ScaleType>,
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl Float8 {
    /// Weights of a row and scales of a row of blocks.
    fn scale_grid(&self, matrix: Matrix) -> (u64, u64) {
        match self.spread {
            Spread::Tensor { .. } => (1, 1),
            Spread::Row => (matrix.rows, 1),
            Spread::Block { rows, columns } => {
                (matrix.rows.div_ceil(rows.max(1)), matrix.columns.div_ceil(columns.max(1)))
            }
        }
    }

    /// The row of the scales' grid that a row's scales are in.
    fn scale_row(&self, row: u64) -> u64 {
        match self.spread {
            Spread::Tensor { .. } => 0,
            Spread::Row => row,
            Spread::Block { rows, .. } => row / rows.max(1),
        }
    }

    /// What scales are rounded to where weights are divided by them.
    fn precision(&self) -> ScaleType {
        match self.scale {
            StoredScale::Number(scale) => scale,
            StoredScale::Power(_) => ScaleType::F32,
        }
    }

    /// The scales that several rows share, by the weights before any is rounded; none if
    /// none do.
    fn shared_scales(&self, whole: &Whole<'_>) -> Option<GivenScales> {
        let columns = (whole.matrix.columns as usize).max(1);
        let (_, across) = self.scale_grid(whole.matrix);
        match self.spread {
            Spread::Row => None,
            Spread::Tensor { .. } => {
                let scale = rounding::scale(whole.measure.largest, self.precision());
                Some(GivenScales { scales: vec![scale], rows: usize::MAX, columns, across: 1 })
            }
            Spread::Block { rows, columns: wide } => {
                let (blocks, kind) = self.blocks(rows, wide);
                let bands = whole.weights.chunks(blocks.rows * columns);
                let scales = bands.flat_map(|band| blocks.scales(band, columns, kind)).collect();
                let across = across as usize;
                Some(GivenScales { scales, rows: blocks.rows, columns: blocks.columns, across })
            }
        }
    }

    fn blocks(&self, rows: u64, columns: u64) -> (Blocks, BlockScale) {
        let kind = match self.scale {
            StoredScale::Number(_) => BlockScale::F32,
            StoredScale::Power(_) => BlockScale::PowerOfTwo,
        };
        (Blocks { rows: rows as usize, columns: columns as usize }, kind)
    }

    fn put_scales(&self, first: u64, scales: &[f32], put: &mut Put<'_>) {
        put(SCALES, first * self.scale.bytes() as u64, &self.scale.write(scales));
    }

    fn encode_rows(&self, rows: &RowBlock<'_>, put: &mut Put<'_>) -> Result<Vec<u8>, usize> {
        let mut codes = vec![0; rows.weights.len()];
        let columns = rows.columns().max(1);
        let tiles = rows.weights.chunks(columns).zip(codes.chunks_mut(columns));
        let precision = self.precision();
        match self.spread {
            Spread::Tensor { .. } => {
                let scale = rounding::scale(rows.measure.largest, precision);
                let quotient = self.quotient.unwrap_or(precision);
                rounding::encode(rows.weights, scale, quotient, &mut codes);
            }
            Spread::Row => {
                let mut scales = Vec::with_capacity(rows.rows());
                for (row, (weights, codes)) in tiles.enumerate() {
                    let scale = rounding::scale(largest_magnitude(weights), precision);
                    if !scale.is_finite() {
                        return Err(row * columns);
                    }
                    rounding::encode(weights, scale, precision, codes);
                    scales.push(scale);
                }
                self.put_scales(rows.first_row, &scales, put);
            }
            Spread::Block { rows: high, columns: wide } => {
                let (blocks, kind) = self.blocks(high, wide);
                let mut scales = Vec::new();
                let size = blocks.rows * columns;
                for (weights, codes) in rows.weights.chunks(size).zip(codes.chunks_mut(size)) {
                    blocks.encode(weights, columns, kind, codes, &mut scales);
                }
                let (_, across) = self.scale_grid(rows.matrix);
                self.put_scales(self.scale_row(rows.first_row) * across, &scales, put);
            }
        }
        Ok(codes)
    }
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl Layout for Float8 {
    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        let (down, across) = self.scale_grid(matrix);
        let dimensions = [down, across];
        let dimensions = match self.spread {
            Spread::Block { .. } => &dimensions[..],
            _ => &dimensions[..self.rank],
        };
        Ok(vec![
            Part::new("weight", self.code, &[matrix.rows, matrix.columns])?,
            Part::new(self.suffix, self.scale.data_type(), dimensions)?,
        ])
    }

    fn group_columns(&self, matrix: Matrix) -> u64 {
        match self.spread {
            Spread::Block { columns, .. } => columns,
            Spread::Tensor { .. } | Spread::Row => matrix.columns,
        }
    }

    /// Codes of E4M3 hold numbers down to the 2^-18th part of their largest.
    fn faint(&self, measure: Measure) -> f32 {
        measure.largest * 1e-4
    }

    fn row_unit(&self, _matrix: Matrix) -> u64 {
        match self.spread {
            Spread::Block { rows, .. } => rows.max(1),
            _ => 1,
        }
    }

    fn prepass(&self) -> Prepass {
        match self.spread {
            Spread::Tensor { fused: true } => Prepass::Fused,
            Spread::Tensor { fused: false } => Prepass::Own,
            _ => Prepass::None,
        }
    }

    fn write_constants(&self, _matrix: Matrix, measure: Measure, put: &mut Put<'_>) {
        if let Spread::Tensor { .. } = self.spread {
            self.put_scales(0, &[rounding::scale(measure.largest, self.precision())], put);
        }
    }

    fn encode(&self, rows: &RowBlock<'_>, put: &mut Put<'_>) -> Result<(), usize> {
        // Scales that rows share are not searched.
        if self.spread == Spread::Row && batches::write_searched(self, rows, put) {
            return Ok(());
        }
        let codes = self.encode_rows(rows, put)?;
        put(WEIGHT, rows.first_row * rows.matrix.columns, &codes);
        Ok(())
    }

    /// Scales that rows share are the packages' own.
    fn grid(&self, whole: &Whole<'_>) -> Option<Box<dyn Grid>> {
        let columns = whole.matrix.columns;
        if self.code != DataType::F8_E4M3 || columns == 0 {
            return None;
        }
        let levels: Vec<f32> = (0..=255).map(f32_from_e4m3).collect();
        let format =
            |unit: u64| LevelFormat { name: "FP8", levels: &levels, unit_columns: unit as usize };
        match (self.shared_scales(whole), self.scale) {
            (None, StoredScale::Number(scale)) => {
                Some(Box::new(scaled_levels(format(columns), scale.stored())))
            }
            (None, StoredScale::Power(_)) => None,
            (Some(scales), _) => {
                // Units of one row and one scale; whole rows would be wide.
                let unit = greatest_divisor(columns, UNIT_COLUMNS);
                let unit = greatest_divisor(unit, scales.columns as u64);
                Some(Box::new(given_scales(format(unit), scales)))
            }
        }
    }

    fn write(&self, chosen: &ChosenRows<'_>, put: &mut Put<'_>) {
        let ChosenRows { matrix, first_row, batch, .. } = *chosen;
        put(WEIGHT, first_row * matrix.columns, &batches::codes(batch));
        match self.spread {
            Spread::Tensor { .. } => {}
            Spread::Row => {
                let scales = batches::parameters(batch, ParameterIndex(0));
                self.put_scales(first_row, &scales, put);
            }
            Spread::Block { rows, columns } => {
                let (_, across) = self.scale_grid(matrix);
                let unit = batch.columns() / batch.units_per_row();
                let scale = |row: usize, block: u64| {
                    let units = batch.units((block * columns) as usize / unit);
                    units[row].parameter_values()[0]
                };
                let bands = (0..batch.rows()).step_by(rows as usize);
                let scales: Vec<f32> = bands
                    .flat_map(|row| (0..across).map(move |block| (row, block)))
                    .map(|(row, block)| scale(row, block))
                    .collect();
                self.put_scales(self.scale_row(first_row) * across, &scales, put);
            }
        }
    }

    fn decode(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<(), FileError> {
        let columns = matrix.columns as usize;
        let mut codes = vec![0; out.len()];
        parts.read(WEIGHT, rows.start * matrix.columns, &mut codes)?;
        let number = if self.code == DataType::F8_E5M2 { f32_from_e5m2 } else { f32_from_e4m3 };
        for (code, out) in codes.iter().zip(&mut *out) {
            *out = number(*code);
        }
        let (_, across) = self.scale_grid(matrix);
        let wide = match self.spread {
            Spread::Block { columns, .. } => columns as usize,
            _ => columns,
        };
        let blocks = Blocks { rows: 1, columns: wide.max(1) };
        let first = self.scale_row(rows.start);
        let last = self.scale_row(rows.end.max(rows.start + 1) - 1);
        let mut bytes = vec![0; ((last + 1 - first) * across) as usize * self.scale.bytes()];
        parts.read(SCALES, first * across * self.scale.bytes() as u64, &mut bytes)?;
        let mut scales = vec![0.0; bytes.len() / self.scale.bytes()];
        self.scale.read(&bytes, &mut scales);
        for (row, out) in rows.zip(out.chunks_mut(columns.max(1))) {
            let own = (self.scale_row(row) - first) * across;
            blocks.decode_row(out, &scales[own as usize..][..across as usize]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::golden::{assert_golden, weights};
    use crate::testing::stored;

    fn layout(spread: Spread, scale: StoredScale) -> Float8 {
        let rank = if spread == Spread::Row { 2 } else { 0 };
        let (code, suffix) = (DataType::F8_E4M3, "weight_scale");
        Float8 { code, spread, suffix, scale, rank, quotient: None }
    }

    #[test]
    fn parts_hold_what_the_packages_write() {
        let rows = layout(Spread::Row, StoredScale::Number(ScaleType::F32));
        let written = stored(&rows, 12, 160, &weights(11, 12, 160, ScaleType::F32), 5);
        assert_golden("ct-fp8-channel-f32", "codes", &written.parts[0]);
        assert_golden("ct-fp8-channel-f32", "scales", &written.parts[1]);
        let tensor = layout(Spread::Tensor { fused: false }, StoredScale::Number(ScaleType::F32));
        let written = stored(&tensor, 12, 160, &weights(11, 12, 160, ScaleType::F32), 5);
        assert_golden("ct-fp8-tensor-f32", "codes", &written.parts[0]);
        assert_golden("ct-fp8-tensor-f32", "scales", &written.parts[1]);
        let spread = Spread::Block { rows: 32, columns: 64 };
        let check = |scale, case: &str| {
            let layout = layout(spread, scale);
            let written = stored(&layout, 64, 192, &weights(12, 64, 192, ScaleType::F32), 32);
            assert_golden(case, "codes", &written.parts[0]);
            assert_golden(case, "scales", &written.parts[1]);
        };
        check(StoredScale::Number(ScaleType::F32), "fp8-block-float");
        check(StoredScale::Power(DataType::F8_E8M0), "fp8-block-ue8m0");
    }

    proptest! {
        /// Whatever the tiles, the same bytes; and what is decoded is near.
        #[test]
        fn weights_come_back(
            rows in 1usize..40, columns in 1usize..70, kind in 0usize..5, seed in any::<u64>(),
        ) {
            let spread = [
                Spread::Tensor { fused: false },
                Spread::Row,
                Spread::Block { rows: 16, columns: 32 },
                Spread::Block { rows: 1, columns: 32 },
                Spread::Block { rows: 16, columns: 32 },
            ][kind];
            let number = StoredScale::Number(ScaleType::F32);
            let scale = if kind > 3 { StoredScale::Power(DataType::F8_E8M0) } else { number };
            let layout = layout(spread, scale);
            let weights = weights(seed, rows, columns, ScaleType::F32);
            let once = stored(&layout, rows, columns, &weights, rows);
            let tiles = stored(&layout, rows, columns, &weights, 16);
            prop_assert_eq!(&once.parts, &tiles.parts);
            let largest = weights.iter().fold(0.0f32, |most, weight| most.max(weight.abs()));
            for (back, weight) in once.decoded(&layout).iter().zip(&weights) {
                // A sixteenth of the weight, or the subnormals' step at twice the scale.
                let bound = (weight.abs() / 16.0).max(largest / 448.0 / 512.0) * 1.01;
                prop_assert!((back - weight).abs() <= bound, "{} {}", back, weight);
            }
        }
    }
}
