//! AWQ, the GEMV version, read: four-bit codes along the inputs in their own order, scales and
//! zero points row by row, filled up with zeros. Source: AutoAWQ 0.2.9
//! (`awq/modules/linear/gemv.py`).

use std::ops::Range;

use qz_tensor::{DataType, FileError, TensorIndex};

use super::awq::{MIDDLE, integers, packed_as_stated, stated_group, zero_points};
use super::integer_layout::{IntegerLayout, read_codes_by_row, read_scales_by_row};
use super::integers::{GroupedCodes, IntegerGroups};
use crate::error::{Error, Fault};
use crate::layout::{Matrix, Part, PartBytes, PartIndex, Put, Unfit};
use crate::method::{OpenRequest, PackedTensor};

const WEIGHT: PartIndex = PartIndex(0);
const SCALES: PartIndex = PartIndex(1);
/// Only where zero points are stored.
const ZEROS: PartIndex = PartIndex(2);

/// Codes in a word.
const RUN: u64 = 8;
const BITS: u32 = 4;

/// The layout.
#[derive(Clone, Debug)]
struct AwqGemv {
    integers: IntegerGroups,
    /// Words of a row's zero points. The kernels want so many of them together that some
    /// stand for no group.
    zero_words: u64,
    has_zeros: bool,
}

impl AwqGemv {
    /// Scales that are stored of a row.
    fn stored_groups(&self) -> u64 {
        self.zero_words.saturating_mul(RUN)
    }
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl IntegerLayout for AwqGemv {
    fn integers(&self) -> &IntegerGroups {
        &self.integers
    }

    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        let Matrix { rows, columns } = matrix;
        self.integers.check_groups(matrix)?;
        if !columns.is_multiple_of(RUN) {
            return Err(Unfit(format!("{columns} inputs are not a multiple of {RUN}")));
        }
        let (groups, stored) = (self.integers.groups(matrix), self.stored_groups());
        if groups > stored {
            return Err(Unfit(format!("{groups} groups do not fit {stored} scales of a row")));
        }
        let mut parts = vec![
            Part::new("qweight", DataType::I32, &[rows, columns / RUN])?,
            Part::new("scales", self.integers.scale.data_type(), &[rows, stored])?,
        ];
        if self.has_zeros {
            parts.push(Part::new("qzeros", DataType::I32, &[rows, self.zero_words])?);
        }
        Ok(parts)
    }

    fn put(&self, _: Matrix, _: u64, _: &GroupedCodes, _: &mut Put<'_>) {
        unreachable!("AWQ for GEMV is only read")
    }

    fn read_codes(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<u8>, FileError> {
        read_codes_by_row(WEIGHT, BITS, matrix.columns, parts, rows)
    }

    fn read_scales(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<f32>, FileError> {
        let stored = self.stored_groups();
        let all = read_scales_by_row(SCALES, self.integers.scale, stored, parts, rows)?;
        Ok(of_groups(&all, stored, self.integers.groups(matrix)))
    }

    fn read_zeros(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<u8>, FileError> {
        let (stored, groups) = (self.stored_groups(), self.integers.groups(matrix));
        if !self.has_zeros {
            return Ok(vec![MIDDLE; ((rows.end - rows.start) * groups) as usize]);
        }
        let all = read_codes_by_row(ZEROS, BITS, stored, parts, rows)?;
        Ok(of_groups(&all, stored, groups))
    }
}

/// The first `groups` of each `stored` numbers.
fn of_groups<T: Copy>(all: &[T], stored: u64, groups: u64) -> Vec<T> {
    let rows = all.chunks(stored.max(1) as usize);
    rows.flat_map(|row| row.iter().take(groups as usize)).copied().collect()
}

/// Only the configuration says how many of the scales stand for groups.
pub(super) fn open_module(
    request: &OpenRequest<'_>,
    module: &str,
    weight: TensorIndex,
    stated: &[i64],
) -> Result<PackedTensor, Error> {
    let scales = request.part(module, "scales")?;
    let [rows, words] = *request.matrix_dimensions(weight)?;
    let [outputs, stored] = *request.matrix_dimensions(scales)?;
    if rows != outputs {
        let found = format!("[{rows}, {words}] beside scales of [{outputs}, {stored}]");
        let expected = "as many rows: codes along the inputs, as the version gemv has them";
        let fault = Fault::Part { found, expected: expected.to_owned() };
        return Err(request.tensor_fault(weight, fault));
    }
    let group = u64::try_from(stated_group(request, stated)?).ok();
    let (has_zeros, remark) = zero_points(request, module)?;
    let layout = AwqGemv {
        integers: integers(group, request.scale_type(scales)?),
        zero_words: stored / RUN,
        has_zeros,
    };
    let matrix = Matrix { rows, columns: words.saturating_mul(RUN) };
    let tensor = packed_as_stated(request, module, matrix, Box::new(layout), scales)?;
    let unused = if has_zeros { Vec::new() } else { request.tensors(module, &["qzeros"]) };
    Ok(PackedTensor { unused, remark, ..tensor })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::golden::{assert_golden, bytes_of, floats, golden};
    use crate::layouts::numbers::ScaleType;
    use crate::testing::{Change, Checkpoint, Tensor, refusal_after, seen};

    const ROWS: usize = 8;
    const COLUMNS: usize = 64;

    fn words(codes: impl Iterator<Item = u32>) -> Vec<u8> {
        let codes: Vec<u32> = codes.collect();
        let word = |codes: &[u32]| {
            codes.iter().enumerate().fold(0, |word, (at, code)| word | code << (4 * at))
        };
        codes.chunks(8).flat_map(|codes| word(codes).to_le_bytes()).collect()
    }

    fn code(row: usize, column: usize) -> u32 {
        ((row * 3 + column * 7) % 16) as u32
    }

    fn scale(row: usize, group: usize) -> f32 {
        0.125 * (row + 1) as f32 + group as f32
    }

    fn zero(row: usize, group: usize) -> u32 {
        ((row + 5 * group) % 16) as u32
    }

    /// Two groups of 32; 32 scales of a row are stored.
    fn checkpoint() -> Vec<Tensor<'static>> {
        let at = |width: usize| (0..ROWS * width).map(move |at| (at / width, at % width));
        let mut scales = Vec::new();
        let numbers: Vec<f32> =
            at(32).map(|(row, group)| if group < 2 { scale(row, group) } else { 0.0 }).collect();
        ScaleType::F16.write(&numbers, &mut scales);
        let zeros = at(32).map(|(row, group)| if group < 2 { zero(row, group) } else { 0 });
        let codes = at(COLUMNS).map(|(row, column)| code(row, column));
        vec![
            ("a.qweight", DataType::I32, &[8, 8], words(codes)),
            ("a.qzeros", DataType::I32, &[8, 4], words(zeros)),
            ("a.scales", DataType::F16, &[8, 32], scales),
        ]
    }

    fn config() -> Value {
        json!({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemv"})
    }

    fn weights(zero: impl Fn(usize, usize) -> u32) -> Vec<f32> {
        let weight = |at: usize| {
            let (row, column) = (at / COLUMNS, at % COLUMNS);
            let group = column / 32;
            (code(row, column) as f32 - zero(row, group) as f32) * scale(row, group)
        };
        (0..ROWS * COLUMNS).map(weight).collect()
    }

    #[test]
    fn groups_stand_in_front_of_what_fills_up() {
        let source = Checkpoint::new(checkpoint()).open(config()).expect("opens");
        assert_eq!(seen(&source)["a.weight"].2, weights(zero));
        assert_eq!(seen(&source).len(), 1);
    }

    #[test]
    fn parts_are_those_of_the_package() {
        const CASE: &str = "awq-gemv";
        let mut scales = Vec::new();
        ScaleType::F16.write(&floats(&golden(CASE, "scales")), &mut scales);
        let tensors = vec![
            ("a.qweight", DataType::I32, &[8, 16][..], golden(CASE, "qweight")),
            ("a.qzeros", DataType::I32, &[8, 2], golden(CASE, "qzeros")),
            ("a.scales", DataType::F16, &[8, 16], scales),
        ];
        let mut config = config();
        config["group_size"] = json!(64);
        let source = Checkpoint::new(tensors).open(config).expect("opens");
        assert_golden(CASE, "decoded", &bytes_of(&seen(&source)["a.weight"].2));
    }

    #[test]
    fn without_zero_points_the_middle_is_zero() {
        let mut config = config();
        config["zero_point"] = json!(false);
        let mut tensors = checkpoint();
        tensors[1].3.fill(0);
        let source = Checkpoint::new(tensors).open(config.clone()).expect("opens");
        assert_eq!(seen(&source)["a.weight"].2, weights(|_, _| 8));
        assert!(source.warnings()[0].contains("symmetric codes around 8"));
        let mut tensors = checkpoint();
        tensors.remove(1);
        let source = Checkpoint::new(tensors).open(config.clone()).expect("opens");
        assert_eq!(seen(&source)["a.weight"].2, weights(|_, _| 8));
        // Stored ones are believed.
        let source = Checkpoint::new(checkpoint()).open(config).expect("opens");
        assert_eq!(seen(&source)["a.weight"].2, weights(zero));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |change: Change, expected: &str| {
            let found = refusal_after(change, checkpoint(), config());
            assert!(found.contains(expected), "{found}");
        };
        check(|_, config| config["group_size"] = Value::Null, "group_size: is missing");
        check(|_, config| config["group_size"] = json!(1), "not fit");
        check(|_, config| config["group_size"] = json!(24), "not a multiple of the group 24");
        check(|_, config| config["version"] = json!("marlin"), "there are: gemm, gemv, gemv_fast");
        check(
            |_, config| config["version"] = json!("gemm"),
            "a.qweight has 8 words for 32 outputs",
        );
        check(|all, _| all[2].2 = &[32, 8], "as many rows");
    }
}
