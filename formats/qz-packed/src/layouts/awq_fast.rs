//! AWQ for its fast kernels (`gemv_fast`), read: four rows in a run of 16-bit words, codes in the
//! kernels' order; zero points as products with their scales. Source: AutoAWQ 0.2.9
//! (`awq/modules/linear/gemv_fast.py`).

use std::ops::Range;

use qz_tensor::{DataType, FileError, TensorIndex};

use super::awq::{packed_as_stated, stated_group};
use super::integer_layout::read_scales_by_group;
use super::numbers::ScaleType;
use crate::error::Error;
use crate::layout::{Layout, Matrix, Part, PartBytes, PartIndex, Put, RowBlock, Unfit};
use crate::method::{OpenRequest, PackedTensor};

const WEIGHT: PartIndex = PartIndex(0);
const SCALES: PartIndex = PartIndex(1);
const OFFSETS: PartIndex = PartIndex(2);

/// Rows whose codes lie together.
const ROWS: usize = 4;
/// Columns of each of them in a run.
const COLUMNS: usize = 64;
/// Columns that change places among themselves.
const SHUFFLED: usize = 32;
/// Bytes of a run: half a byte for each code.
const RUN_BYTES: usize = ROWS * COLUMNS / 2;

/// The layout.
#[derive(Clone, Debug)]
struct AwqFast {
    group: u64,
    /// Lines of scales; the last ones stand for no group.
    lines: u64,
    scale: ScaleType,
}

/// Where a column's code stands among those of its [`SHUFFLED`] columns: pairs of four runs of
/// eight columns are put side by side, then even numbers before odd ones.
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a column of 64")]
fn place(column: usize) -> usize {
    let (eighth, pair, odd) = (column / 8, column % 8 / 2, column % 2);
    pair * 8 + odd * 4 + eighth
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl Layout for AwqFast {
    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        let Matrix { rows, columns } = matrix;
        matrix.check_groups(self.group)?;
        if rows == 0 || !rows.is_multiple_of(ROWS as u64) {
            return Err(Unfit(format!("{rows} outputs are not a multiple of {ROWS}")));
        }
        if !columns.is_multiple_of(COLUMNS as u64) {
            return Err(Unfit(format!("{columns} inputs are not a multiple of {COLUMNS}")));
        }
        let (groups, lines) = (columns / self.group, self.lines);
        if groups > lines {
            return Err(Unfit(format!("{groups} groups do not fit {lines} lines of scales")));
        }
        let scale = self.scale.data_type();
        Ok(vec![
            Part::new("qweight", DataType::I16, &[rows / ROWS as u64, columns])?,
            Part::new("scales", scale, &[lines, rows])?,
            Part::new("qzeros", scale, &[lines, rows])?,
        ])
    }

    fn encode(&self, _rows: &RowBlock<'_>, _put: &mut Put<'_>) -> Result<(), usize> {
        unreachable!("AWQ for fast kernels is only read")
    }

    fn decode(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<(), FileError> {
        let groups = matrix.columns / self.group;
        let numbers =
            |part| read_scales_by_group(part, self.scale, matrix, groups, parts, rows.clone());
        let (scales, offsets) = (numbers(SCALES)?, numbers(OFFSETS)?);
        let (columns, group) = (matrix.columns as usize, self.group as usize);
        let mut band = vec![0; columns * ROWS / 2];
        let mut loaded = None;
        for (number, (row, out)) in rows.zip(out.chunks_mut(columns)).enumerate() {
            let (of, within) = (row / ROWS as u64, row as usize % ROWS);
            if loaded.replace(of) != Some(of) {
                parts.read(WEIGHT, of * band.len() as u64, &mut band)?;
            }
            let groups = number * (columns / group);
            for (column, out) in out.iter_mut().enumerate() {
                let shuffled = column / SHUFFLED * SHUFFLED + place(column % SHUFFLED);
                let nibble = within * COLUMNS + shuffled % COLUMNS;
                let byte = band[shuffled / COLUMNS * RUN_BYTES + nibble / 2];
                let code = byte >> (nibble % 2 * 4) & 15;
                let group = groups + column / group;
                *out = f32::from(code) * scales[group] + offsets[group];
            }
        }
        Ok(())
    }
}

/// Only the configuration says how many lines of scales stand for groups.
pub(super) fn open_module(
    request: &OpenRequest<'_>,
    module: &str,
    weight: TensorIndex,
    stated: &[i64],
) -> Result<PackedTensor, Error> {
    let scales = request.part(module, "scales")?;
    let [bands, columns] = *request.matrix_dimensions(weight)?;
    let [lines, _] = *request.matrix_dimensions(scales)?;
    let group = u64::try_from(stated_group(request, stated)?).unwrap_or(columns);
    let layout = AwqFast { group, lines, scale: request.scale_type(scales)? };
    let matrix = Matrix { rows: bands.saturating_mul(ROWS as u64), columns };
    packed_as_stated(request, module, matrix, Box::new(layout), scales)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::golden::{assert_golden, bytes_of, floats, golden};
    use crate::testing::{Change, Checkpoint, Tensor, refusal_after, seen};

    fn checkpoint() -> Vec<Tensor<'static>> {
        let half = |case: &str| {
            let mut bytes = Vec::new();
            ScaleType::F16.write(&floats(&golden("awq-gemv-fast", case)), &mut bytes);
            bytes
        };
        vec![
            ("a.qweight", DataType::I16, &[2, 128], golden("awq-gemv-fast", "qweight")),
            ("a.scales", DataType::F16, &[16, 8], half("scales")),
            ("a.qzeros", DataType::F16, &[16, 8], half("qzeros")),
        ]
    }

    fn config() -> Value {
        json!({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemv_fast"})
    }

    #[test]
    fn codes_stand_where_the_package_puts_them() {
        let source = Checkpoint::new(checkpoint()).open(config()).expect("opens");
        assert_golden("awq-gemv-fast", "decoded", &bytes_of(&seen(&source)["a.weight"].2));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |change: Change, expected: &str| {
            let found = refusal_after(change, checkpoint(), config());
            assert!(found.contains(expected), "{found}");
        };
        check(|_, config| config["group_size"] = Value::Null, "group_size: is missing");
        check(|_, config| config["group_size"] = json!(4), "32 groups do not fit 16 lines");
        check(|all, _| all[0].2 = &[4, 64], "expected F16 [16, 16]");
        check(|all, _| drop(all.remove(2)), "has no tensor `qzeros`");
    }
}
