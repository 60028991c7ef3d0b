//! Groups of integers with a scale and a zero point, before any layout:
//! `value = (code - zero) * scale`. GPTQ, AWQ and compressed-tensors store the same numbers in
//! different places.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "loops over rows of a matrix whose size was checked, in groups that are not empty"
)]

use qz_codec::grid::{Grid, GroupIndex, IntegerFormat, ParameterIndex, RowBatch, integers_stored};

use super::batches;
use super::numbers::ScaleType;
use crate::layout::{Matrix, Rounding, RowBlock, Unfit};

/// How a package derives scale and zero point from a group, to the last bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Convention {
    /// GPTQModel 7.7, `quantization/quantizer.py`, `find_params`: rounds with the scale
    /// in binary32, whatever it is stored as; the zero point is added after rounding.
    Gptq,
    /// AutoAWQ 0.2.9, `quantize/quantizer.py`, `pseudo_quantize_tensor`, which
    /// GPTQModel has, too. A group of one sign is cut where its range lies away from
    /// zero; searches do better.
    Awq,
    /// compressed-tensors 0.19, `quantization/utils/helpers.py`, `calculate_qparams`:
    /// every operation in the scale's type; the zero point is added before rounding.
    CompressedTensors,
}

/// Which integers, and how they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IntegerGroups {
    /// Bits of a code, 2 to 8.
    pub(crate) bits: u32,
    /// Columns of a group; `None` for one group per row.
    pub(crate) group: Option<u64>,
    pub(crate) symmetric: bool,
    /// Zero points below it cannot be stored.
    pub(crate) least_zero: u8,
    pub(crate) scale: ScaleType,
    pub(crate) convention: Convention,
}

/// Rounded rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupedCodes {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Groups in a row.
    pub(crate) groups: usize,
    /// Row by row; from 0.
    pub(crate) codes: Vec<u8>,
    /// Row by row, as they are stored.
    pub(crate) scales: Vec<f32>,
    /// Row by row.
    pub(crate) zeros: Vec<u8>,
}

/// A group's line.
#[derive(Clone, Copy)]
struct Line {
    /// What codes are found with.
    scale: f32,
    /// What is stored.
    stored: f32,
    zero: f32,
}

impl IntegerGroups {
    /// The highest code.
    fn top(&self) -> f32 {
        ((1u32 << self.bits) - 1) as f32
    }

    fn middle(&self) -> f32 {
        (1u32 << (self.bits - 1)) as f32
    }

    pub(crate) fn group_columns(&self, columns: usize) -> usize {
        self.group.map_or(columns, |group| usize::try_from(group).unwrap_or(columns)).max(1)
    }

    /// Groups in a row; the last may be a part of one.
    pub(crate) fn groups(&self, matrix: Matrix) -> u64 {
        self.group.map_or(1, |group| matrix.columns.div_ceil(group.max(1)))
    }

    /// Fails if groups do not divide the rows.
    pub(crate) fn check_groups(&self, matrix: Matrix) -> Result<(), Unfit> {
        matrix.check_groups(self.group.unwrap_or(matrix.columns))
    }

    /// The values, for methods; `columns` are those of a row.
    pub(crate) fn grid(&self, columns: usize) -> Box<dyn Grid> {
        let format = IntegerFormat {
            bits: self.bits as u8,
            symmetric: self.symmetric,
            group_columns: self.group_columns(columns),
        };
        Box::new(integers_stored(format, self.least_zero, self.scale.stored()))
    }

    /// Rounds rows. Fails with the position of a weight whose group's scale overflows.
    pub(crate) fn round(&self, block: &RowBlock<'_>) -> Result<GroupedCodes, usize> {
        if block.rounding == Rounding::Importance {
            let grid = self.grid(block.columns());
            return Ok(Self::of_batch(&batches::searched(&*grid, block)));
        }
        let (rows, columns) = (block.rows(), block.columns());
        let group = self.group_columns(columns);
        let groups = columns / group;
        let mut out = GroupedCodes {
            rows,
            columns,
            groups,
            codes: vec![0; rows * columns],
            scales: Vec::with_capacity(rows * groups),
            zeros: Vec::with_capacity(rows * groups),
        };
        let chunks = block.weights.chunks(group).zip(out.codes.chunks_mut(group));
        for (position, (weights, codes)) in chunks.enumerate() {
            let (low, high) = range(weights);
            let line = match (block.rounding, self.convention) {
                (Rounding::LeastError, _) => self.least_error(weights, low.min(0.0), high.max(0.0)),
                (_, Convention::Awq) => self.line(low, high),
                _ => self.line(low.min(0.0), high.max(0.0)),
            };
            if !line.stored.is_finite() {
                return Err(position * group);
            }
            self.codes(line, weights, codes);
            out.scales.push(line.stored);
            // Between 0 and 255 by now.
            out.zeros.push(line.zero as u8);
        }
        Ok(out)
    }

    /// What a method has chosen on the grid.
    pub(crate) fn of_batch(batch: &RowBatch) -> GroupedCodes {
        GroupedCodes {
            rows: batch.rows(),
            columns: batch.columns(),
            groups: batch.units_per_row(),
            codes: batches::codes(batch),
            scales: batches::parameters(batch, ParameterIndex(0)),
            zeros: batches::of_units(batch, |unit| unit.offset(GroupIndex(0)) as u8),
        }
    }

    fn line(&self, low: f32, high: f32) -> Line {
        let (top, middle) = (self.top(), self.middle());
        let magnitude = high.max(-low);
        match self.convention {
            Convention::Gptq => {
                let (low, high) = match (self.symmetric, low == 0.0 && high == 0.0) {
                    (_, true) => (-1.0, 1.0),
                    // A group without negative weights is cut; searches do better.
                    (true, false) if low == 0.0 => (low, magnitude),
                    (true, false) => (-magnitude, magnitude),
                    (false, false) => (low, high),
                };
                let scale = (high - low) / top;
                let zero = if self.symmetric { middle } else { (-low / scale).round_ties_even() };
                self.settled(scale, zero)
            }
            Convention::Awq => {
                let scale = (high - low).max(1e-5) / top;
                self.settled(scale, (-(low / scale).round_ties_even()).clamp(0.0, top))
            }
            Convention::CompressedTensors => {
                let typed = |value: f32| self.scale.rounded(value);
                let step = match self.symmetric {
                    true => typed(magnitude / (top / 2.0)),
                    false => typed(typed(high - low) / top),
                };
                let quotient = typed(low / step);
                let scale = if step == 0.0 { self.scale.epsilon() } else { step };
                let zero = match self.symmetric || step == 0.0 {
                    true => middle,
                    false => {
                        let shifted = typed(-middle - quotient).clamp(-middle, middle - 1.0);
                        shifted.round_ties_even() + middle
                    }
                };
                Line { scale, stored: scale, zero }
            }
        }
    }

    /// A line as it can be stored. A scale that would vanish keeps the least that does
    /// not: codes of zero are then all that is left.
    fn settled(&self, scale: f32, zero: f32) -> Line {
        let zero = zero.clamp(f32::from(self.least_zero), self.top());
        Line { scale, stored: self.scale.rounded(scale), zero }
    }

    /// Shrinks the range by a hundredth at a time, down to a fifth, and keeps the line
    /// with the least squared error as it is decoded. (GPTQ's own search raises errors
    /// to 2.4; `quantizer.py`.)
    fn least_error(&self, weights: &[f32], low: f32, high: f32) -> Line {
        let low = if self.symmetric { low.min(-high) } else { low };
        let mut best = (f32::INFINITY, self.line(low, high));
        for step in 0..80 {
            let part = 1.0 - step as f32 / 100.0;
            let line = self.line(low * part, high * part);
            // What is stored is what is decoded.
            let line = Line { scale: line.stored, ..line };
            if line.scale <= 0.0 || !line.scale.is_finite() {
                continue;
            }
            let error = self.squared_error(line, weights);
            if error < best.0 {
                best = (error, line);
            }
        }
        best.1
    }

    /// Summed in sixteen sums, so that the order does not depend on instructions.
    fn squared_error(&self, line: Line, weights: &[f32]) -> f32 {
        let top = self.top();
        let inverse = 1.0 / line.scale;
        let error = |weight: f32| {
            let code = (nearest(weight * inverse) + line.zero).clamp(0.0, top);
            let error = (code - line.zero) * line.scale - weight;
            error * error
        };
        let mut sums = [0.0f32; 16];
        let (whole, rest) = weights.as_chunks::<16>();
        for weights in whole {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += error(*weight);
            }
        }
        for (sum, weight) in sums.iter_mut().zip(rest) {
            *sum += error(*weight);
        }
        sums.iter().sum()
    }

    fn codes(&self, line: Line, weights: &[f32], codes: &mut [u8]) {
        let Line { scale, zero, .. } = line;
        let top = self.top();
        match self.convention {
            Convention::Gptq | Convention::Awq => {
                for (weight, code) in weights.iter().zip(codes) {
                    *code = byte((nearest(weight / scale) + zero).clamp(0.0, top));
                }
            }
            Convention::CompressedTensors => match self.scale {
                ScaleType::F16 => {
                    self.typed_codes(line, weights, codes, |v| ScaleType::F16.rounded(v))
                }
                ScaleType::BF16 => {
                    self.typed_codes(line, weights, codes, |v| ScaleType::BF16.rounded(v))
                }
                ScaleType::F32 => self.typed_codes(line, weights, codes, |v| v),
            },
        }
    }

    /// compressed-tensors', with every operation in one type.
    fn typed_codes(
        &self,
        Line { scale, zero, .. }: Line,
        weights: &[f32],
        codes: &mut [u8],
        typed: impl Fn(f32) -> f32,
    ) {
        let middle = self.middle();
        // In the middle it is zero, and adding it changes nothing.
        let shift = zero - middle;
        for (weight, code) in weights.iter().zip(codes) {
            let level = typed(typed(weight / scale) + shift).clamp(-middle, middle - 1.0);
            *code = byte(nearest(level) + middle);
        }
    }
}

/// Adding it to a small number leaves the nearest integer in the lowest bits.
const INTEGERS: f32 = 12_582_912.0;

/// The nearest integer, ties to even; of numbers past 2^20 one that is past every code.
/// (`round_ties_even` is a function call on processors of the baseline.)
fn nearest(value: f32) -> f32 {
    const LARGEST: f32 = 1_048_576.0;
    (value.clamp(-LARGEST, LARGEST) + INTEGERS) - INTEGERS
}

/// An integer from 0 to 255.
fn byte(value: f32) -> u8 {
    (value + INTEGERS).to_bits() as u8
}

/// The least and the largest weight.
fn range(weights: &[f32]) -> (f32, f32) {
    let mut lows = [f32::INFINITY; 16];
    let mut highs = [f32::NEG_INFINITY; 16];
    let (whole, rest) = weights.as_chunks::<16>();
    for weights in whole {
        for ((low, high), weight) in lows.iter_mut().zip(&mut highs).zip(weights) {
            *low = low.min(*weight);
            *high = high.max(*weight);
        }
    }
    let low = rest.iter().chain(&lows).fold(f32::INFINITY, |low, weight| low.min(*weight));
    let high = rest.iter().chain(&highs).fold(f32::NEG_INFINITY, |high, weight| high.max(*weight));
    (low, high)
}
