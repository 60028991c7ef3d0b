//! `int-quantized`: integers of 8 bits, a byte each, for activations of 8 bits
//! (`compressors/naive_quantized`).

use std::ops::Range;

use qz_tensor::{DataType, FileError};
use serde_json::json;

use super::integer::IntegerScheme;
use super::{Format, configuration, scale_type};
use crate::error::{Error, Fault};
use crate::layout::{Layout, Matrix, Part, PartBytes, PartIndex, Put, Unfit};
use crate::layouts::integer_layout::{IntegerLayout, read_scales_by_row};
use crate::layouts::integers::{GroupedCodes, IntegerGroups};
use crate::method::{OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Quantized, Scheme};
use crate::schemes::Words;

pub(super) const FORMAT: Format = Format { parse, open };

const NAME: &str = "int-quantized";

const WEIGHT: PartIndex = PartIndex(0);
const SCALES: PartIndex = PartIndex(1);

/// The layout.
#[derive(Clone, Debug)]
struct IntQuantized {
    integers: IntegerGroups,
    /// One scale for all rows; only read.
    whole_tensor: bool,
}

#[derive(Clone, Copy, Debug)]
struct IntScheme(IntegerScheme);

fn parse(words: &Words) -> Option<Box<dyn Scheme>> {
    let scheme = IntegerScheme::parse(words)?;
    let is_ours = (scheme.bits, scheme.activations, scheme.group, scheme.symmetric);
    (is_ours == (8, 8, None, true)).then(|| Box::new(IntScheme(scheme)) as Box<dyn Scheme>)
}

impl Scheme for IntScheme {
    fn name(&self) -> String {
        self.0.name()
    }

    fn layout(&self, model_type: DataType) -> Box<dyn Layout> {
        let integers = self.0.integers(scale_type(model_type));
        Box::new(IntQuantized { integers, whole_tensor: false })
    }

    fn rounds_activations(&self) -> bool {
        true
    }

    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration {
        let activations = json!({
            "num_bits": 8,
            "type": "int",
            "symmetric": true,
            "strategy": "token",
            "dynamic": true,
        });
        configuration(NAME, &self.0.weights(), &activations, quantized)
    }
}

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "rows, columns and places are a matrix', whose size was checked, and its parts' with it"
)]
impl IntegerLayout for IntQuantized {
    fn integers(&self) -> &IntegerGroups {
        &self.integers
    }

    fn parts(&self, matrix: Matrix) -> Result<Vec<Part>, Unfit> {
        let scale = self.integers.scale.data_type();
        let scales: &[u64] = if self.whole_tensor { &[1] } else { &[matrix.rows, 1] };
        Ok(vec![
            Part::new("weight", DataType::I8, &[matrix.rows, matrix.columns])?,
            Part::new("weight_scale", scale, scales)?,
        ])
    }

    fn put(&self, _matrix: Matrix, first_row: u64, codes: &GroupedCodes, put: &mut Put<'_>) {
        let bytes: Vec<u8> = codes.codes.iter().map(|code| code ^ 0x80).collect();
        put(WEIGHT, first_row * codes.columns as u64, &bytes);
        let mut bytes = Vec::new();
        self.integers.scale.write(&codes.scales, &mut bytes);
        put(SCALES, first_row * self.integers.scale.bytes() as u64, &bytes);
    }

    fn read_codes(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<u8>, FileError> {
        let mut codes = vec![0; ((rows.end - rows.start) * matrix.columns) as usize];
        parts.read(WEIGHT, rows.start * matrix.columns, &mut codes)?;
        codes.iter_mut().for_each(|code| *code ^= 0x80);
        Ok(codes)
    }

    fn read_scales(
        &self,
        _matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<f32>, FileError> {
        let scale = self.integers.scale;
        if self.whole_tensor {
            let one = read_scales_by_row(SCALES, scale, 1, parts, 0..1)?;
            return Ok(vec![one[0]; (rows.end - rows.start) as usize]);
        }
        read_scales_by_row(SCALES, scale, 1, parts, rows)
    }

    fn read_zeros(
        &self,
        _matrix: Matrix,
        _parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<u8>, FileError> {
        Ok(vec![128; (rows.end - rows.start) as usize])
    }
}

fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let mut packed = Vec::new();
    for (module, scales) in request.modules_with("weight_scale") {
        let Some(weight) = request.tensor(module, "weight") else { continue };
        if request.data_type(weight) != DataType::I8 {
            continue;
        }
        if request.tensor(module, "weight_zero_point").is_some() {
            let detail = "asymmetric weights of 8 bits are not supported".to_owned();
            return Err(request.fault(module, Fault::Unfit(detail)));
        }
        let [rows, columns] = *request.matrix_dimensions(weight)?;
        let whole_tensor = request.dimensions(scales) == [1] && rows != 1;
        let scale = request.scale_type(scales)?;
        let scheme = IntegerScheme { bits: 8, activations: 8, group: None, symmetric: true };
        let layout = IntQuantized { integers: scheme.integers(scale), whole_tensor };
        let mut tensor = request.packed(module, Matrix { rows, columns }, Box::new(layout))?;
        tensor.unused =
            request.tensors(module, &["input_scale", "input_zero_point", "output_scale"]);
        packed.push(tensor);
    }
    Ok(packed)
}
