//! E2M1 numbers in groups, two in a byte: the layout that compressed-tensors, ModelOpt and
//! gpt-oss share. They differ in names, in the tensor's scale, and in the order of rows.

use std::ops::Range;

use qz_codec::grid::{Grid, LevelFormat, listed_scales};
use qz_tensor::{DataType, FileError};

use super::batches;
use super::eight_bit_float::f32_from_e8m0;
use super::float4_groups as groups;
use super::float4_groups::{Edge, MXFP4_GROUP, NVFP4_GROUP, TensorScale};
use super::four_bit_float::{VALUES, pack_low_first};
use super::numbers::ScaleType;
use crate::layout::{
    ChosenRows, Layout, Matrix, Measure, Part, PartBytes, PartIndex, Prepass, Put, RowBlock, Unfit,
    Whole,
};

const WEIGHT: PartIndex = PartIndex(0);
const SCALES: PartIndex = PartIndex(1);
const GLOBAL: PartIndex = PartIndex(2);

/// Columns of a block of GGML's NVFP4.
const NVFP4_BLOCK: usize = 64;

/// What scales groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// E4M3 for 16, and one number for the tensor.
    Nvfp4,
    /// A power of two for 32.
    Mxfp4,
}

impl Kind {
    fn group(self) -> usize {
        match self {
            Self::Nvfp4 => NVFP4_GROUP,
            Self::Mxfp4 => MXFP4_GROUP,
        }
    }
}

/// The scale of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Global {
    pub(crate) suffix: &'static str,
    /// compressed-tensors divides by it, ModelOpt multiplies with it.
    pub(crate) is_divisor: bool,
    pub(crate) rank: usize,
}

/// Which of the stored rows the matrix has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Picked {
    All,
    /// Every second one, from the first or the second on.
    Every2nd {
        first: u64,
    },
}

/// The layout.
#[derive(Clone, Debug)]
pub(crate) struct Float4 {
    pub(crate) kind: Kind,
    pub(crate) weight: &'static str,
    pub(crate) scales: &'static str,
    pub(crate) global: Option<Global>,
    /// What scales are computed in.
    pub(crate) precision: ScaleType,
    /// Of NVFP4, how a group's scale is chosen.
    pub(crate) edge: Edge,
    pub(crate) picked: Picked,
    /// Whether a row's codes are blocks of sixteen bytes, a dimension more.
    pub(crate) in_blocks: bool,
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl Float4 {
    fn groups(&self, matrix: Matrix) -> u64 {
        matrix.columns / self.kind.group() as u64
    }

    /// The tensor's scale, as the package makes it of the weights.
    fn new_tensor_scale(&self, measure: Measure) -> TensorScale {
        match self.global {
            Some(Global { is_divisor: true, .. }) => TensorScale::Divisor(groups::global_scale(
                measure.largest,
                self.precision,
                self.edge,
            )),
            Some(Global { is_divisor: false, .. }) => {
                TensorScale::Factor(groups::global_factor(measure.largest, self.edge))
            }
            None => TensorScale::Factor(1.0),
        }
    }

    /// Rounds as the package does.
    fn nearest(&self, rows: &RowBlock<'_>, packed: &mut [u8], scales: &mut [u8]) {
        match self.kind {
            Kind::Nvfp4 => {
                let tensor = self.new_tensor_scale(rows.measure);
                groups::encode_nvfp4(
                    rows.weights,
                    (tensor, self.edge),
                    self.precision,
                    packed,
                    scales,
                );
            }
            Kind::Mxfp4 => groups::encode_mxfp4(rows.weights, self.precision, packed, scales),
        }
    }

    fn tensor_scale(&self, parts: &dyn PartBytes) -> Result<TensorScale, FileError> {
        let Some(global) = self.global else { return Ok(TensorScale::Factor(1.0)) };
        let mut bytes = [0; 4];
        parts.read(GLOBAL, 0, &mut bytes)?;
        let number = f32::from_le_bytes(bytes);
        Ok(match global.is_divisor {
            true => TensorScale::Divisor(number),
            false => TensorScale::Factor(number),
        })
    }

    /// Bytes of rows of a part that has so many in each.
    fn read(
        &self,
        part: PartIndex,
        row_bytes: u64,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<u8>, FileError> {
        let count = ((rows.end - rows.start) * row_bytes) as usize;
        let Picked::Every2nd { first } = self.picked else {
            let mut bytes = vec![0; count];
            parts.read(part, rows.start * row_bytes, &mut bytes)?;
            return Ok(bytes);
        };
        // From the first wanted row to the last: one less than twice as many.
        let mut pairs = vec![0; (count * 2).saturating_sub(row_bytes as usize)];
        parts.read(part, (rows.start * 2 + first) * row_bytes, &mut pairs)?;
        let chosen = pairs.chunks(row_bytes.max(1) as usize).step_by(2);
        Ok(chosen.flatten().copied().collect())
    }

    /// Writes rows of a part, so many bytes each, where they belong.
    fn put_rows(
        &self,
        part: PartIndex,
        row_bytes: u64,
        first_row: u64,
        bytes: &[u8],
        put: &mut Put<'_>,
    ) {
        let Picked::Every2nd { first } = self.picked else {
            put(part, first_row * row_bytes, bytes);
            return;
        };
        for (row, bytes) in (first_row..).zip(bytes.chunks(row_bytes.max(1) as usize)) {
            put(part, (row * 2 + first) * row_bytes, bytes);
        }
    }

    fn put_codes_and_scales(
        &self,
        matrix: Matrix,
        first_row: u64,
        [packed, scales]: [&[u8]; 2],
        put: &mut Put<'_>,
    ) {
        self.put_rows(WEIGHT, matrix.columns / 2, first_row, packed, put);
        self.put_rows(SCALES, self.groups(matrix), first_row, scales, put);
    }

    fn codes_and_scales(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<(Vec<u8>, Vec<u8>), FileError> {
        let packed = self.read(WEIGHT, matrix.columns / 2, parts, rows.clone())?;
        Ok((packed, self.read(SCALES, self.groups(matrix), parts, rows)?))
    }
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl Layout for Float4 {
    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        let Matrix { rows, columns } = matrix;
        let group = self.kind.group() as u64;
        matrix.check_groups(group)?;
        let scale = match self.kind {
            Kind::Nvfp4 => DataType::F8_E4M3,
            Kind::Mxfp4 => DataType::U8,
        };
        let rows = match self.picked {
            Picked::All => rows,
            Picked::Every2nd { .. } => rows.saturating_mul(2),
        };
        let blocks = [rows, columns / group, group / 2];
        let codes = if self.in_blocks { &blocks[..] } else { &[rows, columns / 2] };
        let mut parts = vec![
            Part::new(self.weight, DataType::U8, codes)?,
            Part::new(self.scales, scale, &[rows, columns / group])?,
        ];
        if let Some(global) = self.global {
            parts.push(Part::new(global.suffix, DataType::F32, &[1u64][..global.rank])?);
        }
        Ok(parts)
    }

    fn group_columns(&self, _matrix: Matrix) -> u64 {
        self.kind.group() as u64
    }

    /// E4M3 holds numbers down to the 2^-18th part of its largest.
    fn faint(&self, measure: Measure) -> f32 {
        if self.global.is_some() { measure.largest * 1e-4 } else { 0.0 }
    }

    /// Engines multiply queries, keys and values at once, with one scale.
    fn prepass(&self) -> Prepass {
        match self.kind {
            Kind::Nvfp4 => Prepass::Fused,
            Kind::Mxfp4 => Prepass::None,
        }
    }

    fn write_constants(&self, _matrix: Matrix, measure: Measure, put: &mut Put<'_>) {
        if self.global.is_some() {
            let (TensorScale::Divisor(number) | TensorScale::Factor(number)) =
                self.new_tensor_scale(measure);
            put(GLOBAL, 0, &number.to_le_bytes());
        }
    }

    fn encode(&self, rows: &RowBlock<'_>, put: &mut Put<'_>) -> Result<(), usize> {
        if batches::write_searched(self, rows, put) {
            return Ok(());
        }
        let mut packed = vec![0; rows.weights.len() / 2];
        let mut scales = vec![0; rows.weights.len() / self.kind.group()];
        self.nearest(rows, &mut packed, &mut scales);
        self.put_codes_and_scales(rows.matrix, rows.first_row, [&packed, &scales], put);
        Ok(())
    }

    /// The tensor's scale is that of the weights before any is rounded.
    fn grid(&self, whole: &Whole<'_>) -> Option<Box<dyn Grid>> {
        let tensor = self.new_tensor_scale(whole.measure);
        let (name, usable) = match self.kind {
            // Zero is no scale: the package takes another one.
            Kind::Nvfp4 => ("NVFP4", 1..=0x7e),
            // Beyond, the largest number overflows.
            Kind::Mxfp4 => ("MXFP4", 0..=252),
        };
        let scale = |byte: u8| match self.kind {
            Kind::Nvfp4 => groups::nvfp4_factor(byte, tensor),
            Kind::Mxfp4 => f32_from_e8m0(byte),
        };
        let format = LevelFormat { name, levels: &VALUES, unit_columns: self.kind.group() };
        Some(Box::new(listed_scales(format, (0..=255).map(scale).collect(), usable)))
    }

    fn write(&self, chosen: &ChosenRows<'_>, put: &mut Put<'_>) {
        let ChosenRows { matrix, first_row, batch, .. } = *chosen;
        let codes = batches::codes(batch);
        let mut packed = vec![0; codes.len() / 2];
        pack_low_first(&codes, &mut packed);
        let scales = batches::scale_bytes(batch);
        self.put_codes_and_scales(matrix, first_row, [&packed, &scales], put);
    }

    fn is_strided(&self) -> bool {
        self.picked != Picked::All
    }

    fn takes(&self, data_type: DataType) -> bool {
        self.kind == Kind::Mxfp4 && data_type == DataType::MXFP4
    }

    fn put_blocks(&self, matrix: Matrix, first_row: u64, blocks: &[u8], put: &mut Put<'_>) {
        let (packed, scales) = groups::mxfp4_from_ggml(blocks);
        self.put_codes_and_scales(matrix, first_row, [&packed, &scales], put);
    }

    fn decode(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<(), FileError> {
        let (packed, scales) = self.codes_and_scales(matrix, parts, rows)?;
        match self.kind {
            Kind::Nvfp4 => groups::decode_nvfp4(&packed, &scales, self.tensor_scale(parts)?, out),
            Kind::Mxfp4 => groups::decode_mxfp4(&packed, &scales, out),
        }
        Ok(())
    }

    fn exact_type(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
    ) -> Result<Option<DataType>, FileError> {
        /// Scales looked at together.
        const AT_ONCE: u64 = 1 << 20;
        if self.kind == Kind::Mxfp4 {
            return Ok(Some(DataType::MXFP4));
        }
        let is_one = matches!(
            self.tensor_scale(parts)?,
            TensorScale::Divisor(1.0) | TensorScale::Factor(1.0)
        );
        if !is_one || !matrix.columns.is_multiple_of(NVFP4_BLOCK as u64) {
            return Ok(None);
        }
        let step = (AT_ONCE / self.groups(matrix)).max(1);
        for first in (0..matrix.rows).step_by(step as usize) {
            let rows = first..(first + step).min(matrix.rows);
            let scales = self.read(SCALES, self.groups(matrix), parts, rows)?;
            if !scales.iter().all(|scale| groups::is_ggml_scale(*scale)) {
                return Ok(None);
            }
        }
        Ok(Some(DataType::NVFP4))
    }

    fn repack(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), FileError> {
        let (packed, scales) = self.codes_and_scales(matrix, parts, rows)?;
        match self.kind {
            Kind::Nvfp4 => groups::nvfp4_to_ggml(&packed, &scales, out),
            Kind::Mxfp4 => groups::mxfp4_to_ggml(&packed, &scales, out),
        }
        Ok(())
    }
}
