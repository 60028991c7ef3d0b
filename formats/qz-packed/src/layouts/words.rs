//! What the layouts of packed integers read alike.

use std::ops::Range;

use qz_codec::number::{f16_from_f32, f32_from_f16};
use qz_tensor::{DataType, FileError, TensorIndex};

use super::integers::{GroupedCodes, IntegerGroups};
use super::numbers::ScaleType;
use crate::bits;
use crate::error::{Error, Fault};
use crate::layout::{Matrix, PartBytes, PartIndex};
use crate::method::OpenRequest;

/// Reads words and numbers of parts.
pub(crate) struct WeightReader<'a> {
    pub(crate) parts: &'a dyn PartBytes,
    pub(crate) bytes: Vec<u8>,
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl<'a> WeightReader<'a> {
    pub(crate) fn new(parts: &'a dyn PartBytes) -> Self {
        Self { parts, bytes: Vec::new() }
    }

    pub(crate) fn words(
        &mut self,
        part: PartIndex,
        offset: u64,
        out: &mut [u32],
    ) -> Result<(), FileError> {
        self.bytes.resize(out.len() * 4, 0);
        self.parts.read(part, offset, &mut self.bytes)?;
        bits::from_bytes(&self.bytes, out);
        Ok(())
    }

    pub(crate) fn numbers(
        &mut self,
        part: PartIndex,
        offset: u64,
        scale: ScaleType,
        out: &mut [f32],
    ) -> Result<(), FileError> {
        self.bytes.resize(out.len() * scale.bytes(), 0);
        self.parts.read(part, offset, &mut self.bytes)?;
        scale.read(&self.bytes, out);
        Ok(())
    }
}

/// Rows among those that share words with them.
#[derive(Clone, Debug)]
pub(crate) struct WholeRuns {
    /// All of these.
    pub(crate) rows: Range<u64>,
    wanted: Range<usize>,
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl WholeRuns {
    /// The runs of so many rows that `rows` lie in.
    pub(crate) fn around(rows: &Range<u64>, run: u64, matrix: Matrix) -> Self {
        let whole = rows.start / run * run..(rows.end.div_ceil(run) * run).min(matrix.rows);
        let [start, end] = [rows.start, rows.end].map(|row| (row - whole.start) as usize);
        Self { rows: whole, wanted: start..end }
    }

    pub(crate) fn len(&self) -> usize {
        (self.rows.end - self.rows.start) as usize
    }

    /// What of a number for each of all is of the rows.
    pub(crate) fn wanted<'a, T>(&self, all: &'a [T]) -> &'a [T] {
        &all[self.wanted.clone()]
    }
}

/// Which group each column is of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum GroupIndex {
    /// Column by column, in groups of neighbours; stored as a tensor.
    InOrder,
    /// The same, without such a tensor.
    Absent,
    /// In any order (activation order).
    Permuted(Vec<u32>),
}

impl GroupIndex {
    /// Reads and checks a stored one.
    pub(crate) fn read(
        request: &OpenRequest<'_>,
        module: &str,
        tensor: TensorIndex,
        group: Option<u64>,
        groups: u64,
    ) -> Result<Self, Error> {
        if request.data_type(tensor) != DataType::I32 {
            let (found, expected) = (request.data_type(tensor).to_string(), "I32".to_owned());
            return Err(request.tensor_fault(tensor, Fault::Part { found, expected }));
        }
        let bytes = request.bytes(tensor)?;
        let index: Vec<i32> =
            bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect();
        let wrong = |group: &i32| u64::try_from(*group).map_or(true, |group| group >= groups);
        if let Some(column) = index.iter().position(wrong) {
            let group = index.get(column).copied().unwrap_or_default();
            return Err(request.fault(module, Fault::GroupIndex { column, group, groups }));
        }
        let size = group.map_or(usize::MAX, |group| usize::try_from(group).unwrap_or(usize::MAX));
        let in_order = index
            .iter()
            .enumerate()
            .all(|(column, group)| column.checked_div(size).unwrap_or(column) == *group as usize);
        Ok(match in_order {
            true => Self::InOrder,
            false => Self::Permuted(index.iter().map(|group| *group as u32).collect()),
        })
    }
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl GroupedCodes {
    /// The weights that they stand for.
    pub(crate) fn decode(&self, index: &GroupIndex, group: usize, out: &mut [f32]) {
        let rows = out.chunks_mut(self.columns).zip(self.codes.chunks(self.columns));
        for (row, (out, codes)) in rows.enumerate() {
            let scales = &self.scales[row * self.groups..][..self.groups];
            let zeros = &self.zeros[row * self.groups..][..self.groups];
            if let GroupIndex::Permuted(index) = index {
                for ((out, code), group) in out.iter_mut().zip(codes).zip(index) {
                    let group = *group as usize;
                    *out = (f32::from(*code) - f32::from(zeros[group])) * scales[group];
                }
                continue;
            }
            let groups = out.chunks_mut(group).zip(codes.chunks(group));
            for ((out, codes), (scale, zero)) in groups.zip(scales.iter().zip(zeros)) {
                let zero = f32::from(*zero);
                for (out, code) in out.iter_mut().zip(codes) {
                    *out = (f32::from(*code) - zero) * scale;
                }
            }
        }
    }
}

/// Columns of the blocks below.
const BLOCK: u64 = 32;

/// The GGML type whose blocks hold these groups' codes, with scales that binary16 holds: a
/// zero point in the middle is that of Q4_0 and Q8_0, any other goes into the offset of
/// Q4_1, its product with the scale rounded to binary16. And by how many steps that
/// moves values, at most.
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "bits are 4 or 8 where they count"
)]
pub(crate) fn nearest_block_type(
    integers: &IntegerGroups,
    matrix: Matrix,
    index: &GroupIndex,
    read: impl FnOnce() -> Result<(Vec<f32>, Vec<u8>), FileError>,
) -> Result<Option<(DataType, f64)>, FileError> {
    let group = integers.group.unwrap_or(matrix.columns);
    let fits = group.is_multiple_of(BLOCK)
        && matrix.columns.is_multiple_of(BLOCK)
        && matrix.columns.is_multiple_of(group)
        && !matches!(index, GroupIndex::Permuted(_));
    if !fits || !matches!(integers.bits, 4 | 8) {
        return Ok(None);
    }
    let (scales, zeros) = read()?;
    let is_half = |value: f32| value.is_finite() && f32_from_f16(f16_from_f32(value)) == value;
    if !scales.iter().all(|scale| is_half(*scale)) {
        return Ok(None);
    }
    let middle = 1u8 << (integers.bits - 1);
    let in_the_middle = zeros.iter().all(|zero| *zero == middle);
    let moved = |(scale, zero): (&f32, &u8)| {
        let offset = f32::from(*zero) * scale;
        let rounded = f64::from(f32_from_f16(f16_from_f32(offset)));
        let steps = (rounded - f64::from(offset)).abs() / f64::from(scale.abs());
        if offset == 0.0 { 0.0 } else { steps }
    };
    Ok(match (integers.bits, in_the_middle) {
        (4, true) => Some((DataType::Q4_0, 0.0)),
        (8, true) => Some((DataType::Q8_0, 0.0)),
        (4, false) => {
            let most = scales.iter().zip(&zeros).map(moved).fold(0.0, f64::max);
            most.is_finite().then_some((DataType::Q4_1, most))
        }
        _ => None,
    })
}

/// Rows as blocks of the [`nearest_block_type`].
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "whole blocks fill the rows, as `nearest_block_type` said"
)]
pub(crate) fn pack_blocks(integers: &IntegerGroups, codes: &GroupedCodes, out: &mut [u8]) {
    const COLUMNS: usize = BLOCK as usize;
    let blocks = codes.columns / COLUMNS;
    let (size, has_minimum) = match (integers.bits, out.len() / (codes.rows * blocks).max(1)) {
        (8, size) => (size, false),
        (_, size) => (size, size == DataType::Q4_1.block_bytes()),
    };
    let group = integers.group_columns(codes.columns);
    let all = codes.codes.as_chunks::<COLUMNS>().0.iter().zip(out.chunks_mut(size));
    for (position, (levels, out)) in all.enumerate() {
        let (row, block) = (position / blocks, position % blocks);
        let group = row * codes.groups + block * COLUMNS / group;
        let scale = codes.scales[group];
        out[..2].copy_from_slice(&f16_from_f32(scale).to_le_bytes());
        if integers.bits == 8 {
            for (byte, level) in out[2..].iter_mut().zip(levels) {
                *byte = level ^ 0x80;
            }
            continue;
        }
        let mut begin = 2;
        if has_minimum {
            let minimum = -f32::from(codes.zeros[group]) * scale;
            out[2..4].copy_from_slice(&f16_from_f32(minimum).to_le_bytes());
            begin = 4;
        }
        let (low, high) = levels.split_at(COLUMNS / 2);
        for (byte, (low, high)) in out[begin..].iter_mut().zip(low.iter().zip(high)) {
            *byte = low | high << 4;
        }
    }
}
