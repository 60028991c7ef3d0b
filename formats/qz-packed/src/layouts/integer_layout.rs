//! What every layout of integer groups does alike: rounding, a method's rows, decoding,
//! blocks of GGML with the same codes. A layout says where codes, scales and zero points
//! lie; [`Layout`] follows.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "loops over rows of a matrix whose size was checked, in groups that are not empty"
)]

use std::ops::Range;

use qz_codec::grid::Grid;
use qz_tensor::{DataType, FileError};

use super::integers::{GroupedCodes, IntegerGroups};
use super::numbers::ScaleType;
use super::words::{GroupIndex, WeightReader, nearest_block_type, pack_blocks};
use crate::bits;
use crate::layout::{
    ChosenRows, Layout, Matrix, Measure, Part, PartBytes, PartIndex, Put, RowBlock, Unfit, Whole,
};

/// Integer groups in several tensors. The methods named as those of [`Layout`] are those.
pub(crate) trait IntegerLayout: Send + Sync + std::fmt::Debug {
    /// Which integers.
    fn integers(&self) -> &IntegerGroups;

    /// Which group each column is of.
    fn index(&self) -> &GroupIndex {
        &GroupIndex::Absent
    }

    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit>;

    fn row_unit(&self, _matrix: Matrix) -> u64 {
        1
    }

    fn is_strided(&self) -> bool {
        false
    }

    fn write_constants(&self, _matrix: Matrix, _put: &mut Put<'_>) {}

    /// Writes whole row units.
    fn put(&self, matrix: Matrix, first_row: u64, codes: &GroupedCodes, put: &mut Put<'_>);

    /// Reads the codes of some rows, row by row.
    fn read_codes(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<u8>, FileError>;

    /// Reads the scales of some rows, row by row.
    fn read_scales(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<f32>, FileError>;

    /// Reads the zero points of some rows, row by row.
    fn read_zeros(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<u8>, FileError>;

    fn read(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<GroupedCodes, FileError> {
        Ok(GroupedCodes {
            rows: (rows.end - rows.start) as usize,
            columns: matrix.columns as usize,
            groups: self.integers().groups(matrix) as usize,
            codes: self.read_codes(matrix, parts, rows.clone())?,
            scales: self.read_scales(matrix, parts, rows.clone())?,
            zeros: self.read_zeros(matrix, parts, rows)?,
        })
    }
}

impl<L: IntegerLayout> Layout for L {
    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        IntegerLayout::parts(self, matrix)
    }

    fn row_unit(&self, matrix: Matrix) -> u64 {
        IntegerLayout::row_unit(self, matrix)
    }

    fn group_columns(&self, matrix: Matrix) -> u64 {
        self.integers().group.unwrap_or(matrix.columns)
    }

    fn is_strided(&self) -> bool {
        IntegerLayout::is_strided(self)
    }

    fn write_constants(&self, matrix: Matrix, _measure: Measure, put: &mut Put<'_>) {
        IntegerLayout::write_constants(self, matrix, put);
    }

    fn encode(&self, rows: &RowBlock<'_>, put: &mut Put<'_>) -> Result<(), usize> {
        let codes = self.integers().round(rows)?;
        self.put(rows.matrix, rows.first_row, &codes, put);
        Ok(())
    }

    fn grid(&self, whole: &Whole<'_>) -> Option<Box<dyn Grid>> {
        Some(self.integers().grid(whole.matrix.columns as usize))
    }

    fn write(&self, chosen: &ChosenRows<'_>, put: &mut Put<'_>) {
        let codes = IntegerGroups::of_batch(chosen.batch);
        self.put(chosen.matrix, chosen.first_row, &codes, put);
    }

    fn decode(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<(), FileError> {
        let codes = self.read(matrix, parts, rows)?;
        codes.decode(self.index(), self.integers().group_columns(codes.columns), out);
        Ok(())
    }

    fn exact_type(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
    ) -> Result<Option<DataType>, FileError> {
        let nearest = self.nearest_type(matrix, parts)?;
        Ok(nearest.filter(|(_, moved)| *moved == 0.0).map(|(data_type, _)| data_type))
    }

    fn nearest_type(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
    ) -> Result<Option<(DataType, f64)>, FileError> {
        nearest_block_type(self.integers(), matrix, self.index(), || {
            let scales = self.read_scales(matrix, parts, 0..matrix.rows)?;
            Ok((scales, self.read_zeros(matrix, parts, 0..matrix.rows)?))
        })
    }

    fn repack(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), FileError> {
        pack_blocks(self.integers(), &self.read(matrix, parts, rows)?, out);
        Ok(())
    }
}

/// Reads codes that lie row by row, so many of each, in whole words.
pub(super) fn read_codes_by_row(
    part: PartIndex,
    bits: u32,
    width: u64,
    parts: &dyn PartBytes,
    rows: Range<u64>,
) -> Result<Vec<u8>, FileError> {
    let row_words = bits::words(width, bits);
    let mut words = vec![0; ((rows.end - rows.start) * row_words) as usize];
    WeightReader::new(parts).words(part, rows.start * row_words * 4, &mut words)?;
    Ok(bits::unpack_lines(&words, width as usize, bits))
}

/// Reads scales that lie row by row, so many of each.
pub(super) fn read_scales_by_row(
    part: PartIndex,
    scale: ScaleType,
    width: u64,
    parts: &dyn PartBytes,
    rows: Range<u64>,
) -> Result<Vec<f32>, FileError> {
    let mut scales = vec![0.0; ((rows.end - rows.start) * width) as usize];
    let at = rows.start * width * scale.bytes() as u64;
    WeightReader::new(parts).numbers(part, at, scale, &mut scales)?;
    Ok(scales)
}

/// Writes scales that lie group by group, those of all rows together.
pub(super) fn put_scales_by_group(
    part: PartIndex,
    scale: ScaleType,
    matrix: Matrix,
    first_row: u64,
    codes: &GroupedCodes,
    put: &mut Put<'_>,
) {
    let mut of_groups = vec![0.0; codes.scales.len()];
    bits::transpose(&codes.scales, codes.rows, codes.groups, &mut of_groups);
    let mut bytes = Vec::new();
    for (group, scales) in of_groups.chunks(codes.rows).enumerate() {
        bytes.clear();
        scale.write(scales, &mut bytes);
        put(part, (group as u64 * matrix.rows + first_row) * scale.bytes() as u64, &bytes);
    }
}

/// Reads scales that lie group by group, as rows.
pub(super) fn read_scales_by_group(
    part: PartIndex,
    scale: ScaleType,
    matrix: Matrix,
    groups: u64,
    parts: &dyn PartBytes,
    rows: Range<u64>,
) -> Result<Vec<f32>, FileError> {
    let (count, groups) = ((rows.end - rows.start) as usize, groups as usize);
    let mut reader = WeightReader::new(parts);
    let mut of_groups = vec![0.0; groups * count];
    for (group, scales) in of_groups.chunks_mut(count.max(1)).enumerate() {
        let at = (group as u64 * matrix.rows + rows.start) * scale.bytes() as u64;
        reader.numbers(part, at, scale, scales)?;
    }
    let mut scales = vec![0.0; of_groups.len()];
    bits::transpose(&of_groups, groups, count, &mut scales);
    Ok(scales)
}
