//! LLM.int8: integers of eight bits, each row's largest magnitude beside them
//! (`Int8Params`, `int8_vectorwise_quant`). Weights are rounded to binary16 first, as there.

use std::ops::Range;

use qz_tensor::{DataType, FileError, TensorIndex};

use super::configuration;
use crate::error::{Error, Fault};
use crate::layout::{Layout, Matrix, Measure, Part, PartBytes, PartIndex, Put, RowBlock, Unfit};
use crate::layouts::float8_rounding::largest_magnitude;
use crate::layouts::numbers::{ScaleType, number_over_tensor};
use crate::layouts::words::WeightReader;
use crate::method::{OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Quantized, Scheme};

const WEIGHT: PartIndex = PartIndex(0);
const MAXIMA: PartIndex = PartIndex(1);
const FORMAT: PartIndex = PartIndex(2);

const MAXIMA_SUFFIX: &str = "SCB";
const FORMAT_SUFFIX: &str = "weight_format";

/// What codes are multiplied with after the row's largest magnitude
/// (`int8_vectorwise_dequant`).
const STEP: f32 = 7.874_016e-3;

/// Adding it to a small number leaves the nearest integer in the lowest bits: 1.5 · 2^23.
const ROUNDING_OFFSET: f32 = 12_582_912.0;

#[derive(Clone, Copy, Debug)]
struct Int8Scheme;

pub(super) fn parse(text: &str) -> Option<Box<dyn Scheme>> {
    text.eq_ignore_ascii_case("int8").then(|| Box::new(Int8Scheme) as Box<dyn Scheme>)
}

impl Scheme for Int8Scheme {
    fn name(&self) -> String {
        "int8".to_owned()
    }

    fn layout(&self, _model_type: DataType) -> Box<dyn Layout> {
        Box::new(Int8 { has_format: true })
    }

    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration {
        configuration(None, quantized)
    }
}

/// The layout.
#[derive(Clone, Copy, Debug)]
struct Int8 {
    /// Old checkpoints do not say which order the codes are in.
    has_format: bool,
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl Layout for Int8 {
    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        let mut parts = vec![
            Part::new("weight", DataType::I8, &[matrix.rows, matrix.columns])?,
            Part::new(MAXIMA_SUFFIX, DataType::F32, &[matrix.rows])?,
        ];
        if self.has_format {
            parts.push(Part::new(FORMAT_SUFFIX, DataType::U8, &[])?);
        }
        Ok(parts)
    }

    fn write_constants(&self, _matrix: Matrix, _measure: Measure, put: &mut Put<'_>) {
        if self.has_format {
            put(FORMAT, 0, &[0]);
        }
    }

    /// Fails with the first weight that binary16 does not hold.
    fn encode(&self, rows: &RowBlock<'_>, put: &mut Put<'_>) -> Result<(), usize> {
        let half = ScaleType::F16;
        let weights: Vec<f32> = rows.weights.iter().map(|weight| half.rounded(*weight)).collect();
        if let Some(position) = weights.iter().position(|weight| weight.is_infinite()) {
            return Err(position);
        }
        let mut codes = vec![0; weights.len()];
        let mut maxima = Vec::new();
        let columns = rows.columns().max(1);
        for (weights, codes) in weights.chunks(columns).zip(codes.chunks_mut(columns)) {
            let largest = largest_magnitude(weights);
            maxima.extend(largest.to_le_bytes());
            // A row of zeros: no number there becomes zero here.
            let factor = match largest == 0.0 {
                true => 0.0,
                false => number_over_tensor(ScaleType::F32, 127.0, largest),
            };
            for (weight, code) in weights.iter().zip(codes) {
                *code = (weight * factor + ROUNDING_OFFSET).to_bits() as u8;
            }
        }
        put(WEIGHT, rows.first_row * rows.matrix.columns, &codes);
        put(MAXIMA, rows.first_row * 4, &maxima);
        Ok(())
    }

    fn decode(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<(), FileError> {
        let mut codes = vec![0; out.len()];
        parts.read(WEIGHT, rows.start * matrix.columns, &mut codes)?;
        let mut maxima = vec![0.0; (rows.end - rows.start) as usize];
        let mut reader = WeightReader::new(parts);
        reader.numbers(MAXIMA, rows.start * 4, ScaleType::F32, &mut maxima)?;
        let columns = (matrix.columns as usize).max(1);
        let lines = out.chunks_mut(columns).zip(codes.chunks(columns));
        for ((out, codes), largest) in lines.zip(maxima) {
            for (out, code) in out.iter_mut().zip(codes) {
                *out = f32::from(*code as i8) * largest * STEP;
            }
        }
        Ok(())
    }
}

pub(super) fn recognise(request: &OpenRequest<'_>) -> Option<TensorIndex> {
    request.first_with(&[MAXIMA_SUFFIX, "weight"])
}

pub(super) fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let mut packed = Vec::new();
    for (module, _) in request.modules_with(MAXIMA_SUFFIX) {
        let weight = request.part(module, "weight")?;
        let [rows, columns] = *request.matrix_dimensions(weight)?;
        let format = request.tensor(module, FORMAT_SUFFIX);
        let layout = Int8 { has_format: format.is_some() };
        packed.push(request.packed(module, Matrix { rows, columns }, Box::new(layout))?);
        if let Some(format) = format
            && let [format_code] = *request.bytes(format)?
            && format_code != 0
        {
            let detail = format!("says that codes are in the order {format_code}, only 0 is known");
            return Err(request.tensor_fault(format, Fault::Content(detail)));
        }
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::golden::{assert_golden, golden, weights};
    use crate::testing::{Checkpoint, Tensor, refusal_after, seen, stored};

    #[test]
    fn parts_hold_what_the_package_writes() {
        for (name, precision) in [("f32", ScaleType::F32), ("bf16", ScaleType::BF16)] {
            let layout = Int8 { has_format: true };
            let weights = weights(17, 12, 160, precision);
            let written = stored(&layout, 12, 160, &weights, 5);
            assert_golden(&format!("bnb-int8-{name}"), "codes", &written.parts[0]);
            assert_golden(&format!("bnb-int8-{name}"), "scales", &written.parts[1]);
            assert_eq!(written.parts[2], [0]);
            for (back, weights) in written.decoded(&layout).chunks(160).zip(weights.chunks(160)) {
                let step = largest_magnitude(weights) / 127.0;
                for (back, weight) in back.iter().zip(weights) {
                    assert!((back - weight).abs() <= step * 0.51 + weight.abs() / 1024.0);
                }
            }
        }
    }

    fn checkpoint() -> Vec<Tensor<'static>> {
        vec![
            ("a.weight", DataType::I8, &[2, 2], vec![127, 0, 129, 64]),
            ("a.SCB", DataType::F32, &[2], golden("bnb-int8-f32", "scales")[..8].to_vec()),
            ("a.weight_format", DataType::U8, &[], vec![0]),
        ]
    }

    #[test]
    fn checkpoints_are_read() {
        for parts in [3, 2] {
            let mut tensors = checkpoint();
            tensors.truncate(parts);
            let scale = f32::from_le_bytes(tensors[1].3[..4].try_into().expect("four bytes"));
            let config = json!({"quant_method": "bitsandbytes"});
            let seen = seen(&Checkpoint::new(tensors).open(config).expect("opens"));
            assert_eq!(seen["a.weight"].2[..2], [127.0 * scale * STEP, 0.0]);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |change: fn(&mut Vec<Tensor<'static>>), expected: &str| {
            let config = json!({"quant_method": "bitsandbytes"});
            assert_eq!(refusal_after(|all, _| change(all), checkpoint(), config), expected);
        };
        check(|all| drop(all.remove(0)), "config.json: a: has no tensor `weight`");
        check(
            |all| all[2].3 = vec![3],
            "model.safetensors: a.weight_format: at byte 0: says that codes are in the order 3, \
             only 0 is known",
        );
        check(
            |all| (all[1].2, all[1].3) = (&[1], vec![0; 4]),
            "model.safetensors: a.SCB: at byte 0: is F32 [1], expected F32 [2]",
        );
        check(
            |all| all[0].1 = DataType::U8,
            "model.safetensors: a.weight: at byte 0: is U8 [2, 2], expected I8 [2, 2]",
        );
    }

    #[test]
    fn what_binary16_does_not_hold_is_refused() {
        let matrix = Matrix { rows: 1, columns: 2 };
        let (first_row, importance, measure) = (0, None, Measure::default());
        let rounding = crate::layout::Rounding::Nearest;
        let weights = &[1.0, 1e6];
        let rows = RowBlock { matrix, first_row, weights, importance, rounding, measure };
        assert_eq!(Int8 { has_format: true }.encode(&rows, &mut |_, _, _| {}), Err(1));
    }
}
