//! `int-quantized`: integers of 2 to 8 bits, a byte each, for activations that are rounded, too
//! (`compressors/naive_quantized`).

use std::ops::Range;

use qz_tensor::{DataType, FileError};
use serde_json::Value;

use qz_codec::activations::Activations;

use super::integer::{IntegerScheme, input_scale};
use super::{Format, activations, configuration, entry, scale_type};
use crate::error::{Error, Fault};
use crate::inputs::InputPart;
use crate::layout::{Layout, Matrix, Part, PartBytes, PartIndex, Put, Unfit};
use crate::layouts::integer_layout::{IntegerLayout, read_scales_by_row};
use crate::layouts::integers::{Convention, GroupedCodes, IntegerGroups};
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
    (!scheme.packed).then(|| Box::new(IntScheme(scheme)) as Box<dyn Scheme>)
}

impl Scheme for IntScheme {
    fn name(&self) -> String {
        self.0.name()
    }

    fn with_group(&self, group: Option<u64>) -> Option<Box<dyn Scheme>> {
        Some(Box::new(Self(self.0.with_group(group)?)))
    }

    fn layout(&self, model_type: DataType) -> Box<dyn Layout> {
        let integers = self.0.integers(scale_type(model_type));
        Box::new(IntQuantized { integers, whole_tensor: false })
    }

    fn activations(&self) -> Activations {
        self.0.activations
    }

    fn input_part(&self, model_type: DataType) -> Option<InputPart> {
        input_scale(self.0.activations, model_type)
    }

    fn entry(&self) -> Value {
        let inputs = activations::arguments(self.0.activations);
        entry(NAME, &self.0.weights(), &inputs)
    }

    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration {
        configuration(&self.entry(), quantized)
    }
}

impl IntQuantized {
    /// The code of nothing, where codes are counted from the least.
    fn zero(&self) -> u8 {
        1 << self.integers.bits.saturating_sub(1).min(7)
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
        self.integers.check_groups(matrix)?;
        let groups = self.integers.groups(matrix);
        let scales: &[u64] = if self.whole_tensor { &[1] } else { &[matrix.rows, groups] };
        Ok(vec![
            Part::new("weight", DataType::I8, &[matrix.rows, matrix.columns])?,
            Part::new("weight_scale", scale, scales)?,
        ])
    }

    fn put(&self, _matrix: Matrix, first_row: u64, codes: &GroupedCodes, put: &mut Put<'_>) {
        let zero = self.zero();
        let bytes: Vec<u8> = codes.codes.iter().map(|code| code.wrapping_sub(zero)).collect();
        put(WEIGHT, first_row * codes.columns as u64, &bytes);
        let mut bytes = Vec::new();
        self.integers.scale.write(&codes.scales, &mut bytes);
        put(SCALES, first_row * (codes.groups * self.integers.scale.bytes()) as u64, &bytes);
    }

    fn read_codes(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<u8>, FileError> {
        let mut codes = vec![0; ((rows.end - rows.start) * matrix.columns) as usize];
        parts.read(WEIGHT, rows.start * matrix.columns, &mut codes)?;
        let zero = self.zero();
        codes.iter_mut().for_each(|code| *code = code.wrapping_add(zero));
        Ok(codes)
    }

    fn read_scales(
        &self,
        matrix: Matrix,
        parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<f32>, FileError> {
        let scale = self.integers.scale;
        if self.whole_tensor {
            let one = read_scales_by_row(SCALES, scale, 1, parts, 0..1)?;
            return Ok(vec![one[0]; (rows.end - rows.start) as usize]);
        }
        read_scales_by_row(SCALES, scale, self.integers.groups(matrix), parts, rows)
    }

    fn read_zeros(
        &self,
        matrix: Matrix,
        _parts: &dyn PartBytes,
        rows: Range<u64>,
    ) -> Result<Vec<u8>, FileError> {
        let groups = self.integers.groups(matrix);
        Ok(vec![self.zero(); ((rows.end - rows.start) * groups) as usize])
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
        // A group of each row's columns; where their number does not fit, the shape says so.
        let group = match *request.dimensions(scales) {
            [_, groups] if groups > 1 => columns.checked_div(groups).filter(|group| *group > 0),
            _ => None,
        };
        // Fewer bits are stored in bytes, too, with the same numbers.
        let integers = IntegerGroups {
            bits: 8,
            group,
            symmetric: true,
            least_zero: 0,
            scale,
            convention: Convention::CompressedTensors,
        };
        let layout = IntQuantized { integers, whole_tensor };
        let mut tensor = request.packed(module, Matrix { rows, columns }, Box::new(layout))?;
        tensor.unused =
            request.tensors(module, &["input_scale", "input_zero_point", "output_scale"]);
        packed.push(tensor);
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use qz_codec::activations::Number;
    use serde_json::{Value, json};

    use super::*;
    use crate::golden::{assert_golden, bytes_of, weights};
    use crate::layouts::numbers::ScaleType;
    use crate::testing::{Checkpoint, seen, stored};

    fn scheme(name: &str) -> Box<dyn Scheme> {
        parse(&Words::of(name).expect("words")).unwrap_or_else(|| panic!("{name}"))
    }

    #[test]
    fn parts_hold_what_the_package_writes() {
        let presets = [
            "w2a4", "w3a4", "w4a4", "w2a8", "w3a8", "w4a8", "w5a8", "w6a8", "w7a8", "w8a8",
            "w4afp8",
        ];
        let types = [("f32", ScaleType::F32), ("bf16", ScaleType::BF16), ("f16", ScaleType::F16)];
        for (preset, (name, precision)) in
            presets.iter().flat_map(|preset| types.iter().map(move |own| (preset, own)))
        {
            let layout = scheme(preset).layout(precision.data_type());
            let weights = weights(31, 8, 256, *precision);
            for tile in [1, 3, 8] {
                let written = stored(&*layout, 8, 256, &weights, tile);
                assert_golden(&format!("ct-{preset}-{name}"), "codes", &written.parts[0]);
                assert_golden(&format!("ct-{preset}-{name}"), "scales", &written.parts[1]);
            }
        }
    }

    #[test]
    fn groups_of_few_bits_are_read_from_bytes() {
        let weights_args = json!({
            "num_bits": 4, "type": "int", "strategy": "group", "group_size": 2,
        });
        let config = json!({
            "quant_method": "compressed-tensors",
            "format": NAME,
            "config_groups": {"g": {"targets": ["Linear"], "weights": weights_args}},
        });
        let codes: Vec<u8> = [1i8, -8, 7, 0].into_iter().map(i8::cast_unsigned).collect();
        let tensors = vec![
            ("a.weight", DataType::I8, &[1, 4][..], codes),
            ("a.weight_scale", DataType::F32, &[1, 2], bytes_of(&[0.5, 2.0])),
        ];
        let source = Checkpoint::new(tensors).open(config).expect("opens");
        assert_eq!(seen(&source)["a.weight"].2, [0.5, -4.0, 14.0, 0.0]);
    }

    #[test]
    fn names() {
        let check = |text: &str, expected: Option<(&str, Activations, Value)>| {
            let words = Words::of(text).expect("words");
            let found = parse(&words).map(|scheme| {
                let group =
                    IntegerScheme::parse(&words).expect("a scheme").weights()["group_size"].clone();
                (scheme.name(), scheme.activations(), group)
            });
            let expected = expected.map(|(name, inputs, group)| (name.to_owned(), inputs, group));
            assert_eq!(found, expected, "{text}");
        };
        let bytes = Activations::Token(Number::Int(8));
        check("w8a8", Some(("w8a8", bytes, Value::Null)));
        let fixed = Activations::Tensor(Number::Int(8));
        check("W8A8+static", Some(("w8a8+static", fixed, Value::Null)));
        check("w4a8", Some(("w4a8", bytes, json!(128))));
        check("w4a8+channel", Some(("w4a8+channel", bytes, Value::Null)));
        check("w3a4+g32", Some(("w3a4+g32", Activations::Token(Number::Int(4)), json!(32))));
        check("w4afp8", Some(("w4afp8", Activations::Token(Number::E4M3), json!(128))));
        for unknown in
            ["w8a8+g128", "w5a4", "w4a8+static", "w4a8+asym", "w8afp8", "w4a16", "w4a8+packed"]
        {
            check(unknown, None);
        }
    }
}
