//! MXFP6 and MXFP8 (OCP Microscaling Formats 1.0): small floats in groups of 32 with a power
//! of two for each, which is stored as its exponent. compressed-tensors and ModelOpt share the
//! layout; the four-bit one is that of `float4.rs`. Here, too: which power a group gets.

use std::ops::Range;

use qz_codec::grid::{Grid, LevelFormat, listed_scales};
use qz_tensor::{DataType, FileError};

use super::batches;
use super::eight_bit_float::{e4m3_from_f32, f32_from_e4m3, f32_from_e8m0};
use super::float8_rounding::largest_magnitude;
use super::numbers::ScaleType;
use super::six_bit_float;
use crate::bits;
use crate::layout::{
    ChosenRows, Layout, Matrix, Part, PartBytes, PartIndex, Put, RowBlock, Unfit, Whole,
};

const WEIGHT: PartIndex = PartIndex(0);
const SCALES: PartIndex = PartIndex(1);

/// Weights that share a scale.
pub(crate) const GROUP: usize = 32;

/// What a group's exponent follows from (compressed-tensors 0.20, `generate_mx_scales`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExponentRule {
    /// Where the largest weight's mantissa rounds up at so many bits, its exponent is one more.
    mantissa: u32,
    /// The exponent of the element's largest number.
    largest: u32,
    /// Whether a mantissa right in the middle rounds up.
    up: bool,
}

impl ExponentRule {
    pub(crate) const E2M1: Self = Self { mantissa: 1, largest: 2, up: true };
    /// Its largest mantissa is all ones.
    const E2M3: Self = Self { mantissa: 3, largest: 2, up: true };
    /// That of E2M1, though there are three bits.
    const E4M3: Self = Self { mantissa: 1, largest: 8, up: true };
    /// The least power of two with which no weight is beyond the largest number, 1¾ · 2^8
    /// (ModelOpt 0.47, `MXFP8QTensor`).
    const E4M3_WHOLE: Self = Self { mantissa: 1, largest: 8, up: false };

    /// The stored exponent of a group whose largest weight has this magnitude.
    ///
    /// Where binary16 has no such power for nothing but zeros, the package takes one; where it
    /// has none for tiny weights, it does so too, and loses them, which we do not follow.
    pub(crate) fn exponent(self, largest: f32, precision: ScaleType) -> u8 {
        if largest == 0.0 && precision == ScaleType::F16 && self.up {
            return 127;
        }
        let half = ((1u32 << 22) >> self.mantissa).saturating_sub(u32::from(!self.up));
        let exponent = largest.to_bits().saturating_add(half) >> 23;
        exponent.saturating_sub(self.largest).min(254) as u8
    }
}

/// What weights become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    /// Four in three bytes.
    E2m3,
    /// A byte each.
    E4m3,
}

impl Element {
    fn bits(self) -> u32 {
        match self {
            Self::E2m3 => 6,
            Self::E4m3 => 8,
        }
    }

    fn code_of(self, value: f32) -> u8 {
        match self {
            Self::E2m3 => six_bit_float::code_of(value),
            Self::E4m3 => e4m3_from_f32(value),
        }
    }

    fn value_of(self, code: u8) -> f32 {
        match self {
            Self::E2m3 => six_bit_float::value_of(code),
            Self::E4m3 => f32_from_e4m3(code),
        }
    }

    /// The bytes that methods may choose: beyond, the largest number overflows.
    fn last_exponent(self) -> u8 {
        match self {
            Self::E2m3 => 252,
            Self::E4m3 => 246,
        }
    }
}

/// The layout.
#[derive(Clone, Debug)]
pub(crate) struct Microscaled {
    pub(crate) element: Element,
    /// The checkpoint's type, which scales are computed in.
    pub(crate) precision: ScaleType,
    /// Whether all weights are within the codes' range, as ModelOpt has it.
    pub(crate) is_whole: bool,
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl Microscaled {
    fn rule(&self) -> ExponentRule {
        match (self.element, self.is_whole) {
            (Element::E2m3, _) => ExponentRule::E2M3,
            (Element::E4m3, false) => ExponentRule::E4M3,
            (Element::E4m3, true) => ExponentRule::E4M3_WHOLE,
        }
    }

    /// Inputs of rows of so many bytes.
    pub(crate) fn columns(element: Element, bytes: u64) -> u64 {
        bytes.saturating_mul(8) / u64::from(element.bits())
    }

    fn groups(matrix: Matrix) -> u64 {
        matrix.columns / GROUP as u64
    }

    fn row_bytes(&self, matrix: Matrix) -> u64 {
        matrix.columns * u64::from(self.element.bits()) / 8
    }

    fn put(&self, matrix: Matrix, first_row: u64, codes: &[u8], scales: &[u8], put: &mut Put<'_>) {
        let words = bits::pack_lines(codes, matrix.columns as usize, self.element.bits());
        let mut bytes = Vec::new();
        bits::to_bytes(&words, &mut bytes);
        put(WEIGHT, first_row * self.row_bytes(matrix), &bytes);
        put(SCALES, first_row * Self::groups(matrix), scales);
    }
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl Layout for Microscaled {
    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        matrix.check_groups(GROUP as u64)?;
        let (name, data_type) = match self.element {
            Element::E2m3 => ("weight_packed", DataType::U8),
            Element::E4m3 => ("weight", DataType::F8_E4M3),
        };
        Ok(vec![
            Part::new(name, data_type, &[matrix.rows, self.row_bytes(matrix)])?,
            Part::new("weight_scale", DataType::U8, &[matrix.rows, Self::groups(matrix)])?,
        ])
    }

    fn group_columns(&self, _matrix: Matrix) -> u64 {
        GROUP as u64
    }

    fn encode(&self, rows: &RowBlock<'_>, put: &mut Put<'_>) -> Result<(), usize> {
        if batches::write_searched(self, rows, put) {
            return Ok(());
        }
        let mut codes = vec![0; rows.weights.len()];
        let mut scales = Vec::with_capacity(rows.weights.len() / GROUP);
        for (weights, codes) in rows.weights.chunks(GROUP).zip(codes.chunks_mut(GROUP)) {
            let exponent = self.rule().exponent(largest_magnitude(weights), self.precision);
            let scale = f32_from_e8m0(exponent);
            for (weight, code) in weights.iter().zip(codes) {
                *code = self.element.code_of(weight / scale);
            }
            scales.push(exponent);
        }
        self.put(rows.matrix, rows.first_row, &codes, &scales, put);
        Ok(())
    }

    fn grid(&self, _whole: &Whole<'_>) -> Option<Box<dyn Grid>> {
        let codes = 0..=u8::MAX >> (8 - self.element.bits());
        let levels: Vec<f32> = codes.map(|code| self.element.value_of(code)).collect();
        let name = if self.element == Element::E2m3 { "MXFP6" } else { "MXFP8" };
        let format = LevelFormat { name, levels: &levels, unit_columns: GROUP };
        let scales = (0..=255).map(f32_from_e8m0).collect();
        Some(Box::new(listed_scales(format, scales, 0..=self.element.last_exponent())))
    }

    fn write(&self, chosen: &ChosenRows<'_>, put: &mut Put<'_>) {
        let ChosenRows { matrix, first_row, batch, .. } = *chosen;
        self.put(matrix, first_row, &batches::codes(batch), &batches::scale_bytes(batch), put);
    }

    fn decode(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<(), FileError> {
        let count = rows.end - rows.start;
        let mut bytes = vec![0; (count * self.row_bytes(matrix)) as usize];
        parts.read(WEIGHT, rows.start * self.row_bytes(matrix), &mut bytes)?;
        let mut scales = vec![0; (count * Self::groups(matrix)) as usize];
        parts.read(SCALES, rows.start * Self::groups(matrix), &mut scales)?;
        let mut words = vec![0; bytes.len() / 4];
        bits::from_bytes(&bytes, &mut words);
        let codes = bits::unpack_lines(&words, matrix.columns as usize, self.element.bits());
        let groups = out.chunks_mut(GROUP).zip(codes.chunks(GROUP));
        for ((out, codes), scale) in groups.zip(scales) {
            let scale = f32_from_e8m0(scale);
            for (out, code) in out.iter_mut().zip(codes) {
                *out = self.element.value_of(*code) * scale;
            }
        }
        Ok(())
    }
}
