//! `mxfp8-quantized` and `mxfp6-pack-quantized`: small floats in groups of 32, scaled by powers
//! of two (`compressors/mxfp8`, `compressors/mxfp6`). MXFP4 is `float4.rs`.

use qz_codec::activations::{Activations, Number};
use qz_tensor::{DataType, TensorIndex};
use serde_json::{Value, json};

use super::{Format, activations, configuration, entry, scale_type};
use crate::error::Error;
use crate::layout::{Layout, Matrix};
use crate::layouts::microscaling::{Element, Microscaled};
use crate::layouts::numbers::ScaleType;
use crate::method::{OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Quantized, Scheme};
use crate::schemes::Words;

pub(super) const FORMAT: Format = Format { parse, open };

const SCALES: &str = "weight_scale";

/// The weights' element, and whether activations are rounded, too: to eight bits in the same
/// kind of groups, as they come (the presets MXFP8 and MXFP6A8).
#[derive(Clone, Copy, Debug)]
struct MicroScheme {
    element: Element,
    inputs: Activations,
}

fn parse(words: &Words) -> Option<Box<dyn Scheme>> {
    const EIGHT: Activations = Activations::Micro(Number::E4M3);
    let (element, inputs) = match words.head() {
        "mxfp8" => (Element::E4m3, EIGHT),
        "mxfp8a16" => (Element::E4m3, Activations::Full),
        "mxfp6a8" => (Element::E2m3, EIGHT),
        "mxfp6a16" => (Element::E2m3, Activations::Full),
        _ => return None,
    };
    let scheme = MicroScheme { element, inputs };
    words.flags_are(&[]).then(|| Box::new(scheme) as Box<dyn Scheme>)
}

/// What a configuration says of such weights.
fn arguments(bits: u32) -> Value {
    json!({
        "num_bits": bits,
        "type": "float",
        "symmetric": true,
        "strategy": "group",
        "group_size": 32,
        "dynamic": false,
        "scale_dtype": "torch.uint8",
        "zp_dtype": "torch.uint8",
    })
}

impl Scheme for MicroScheme {
    fn name(&self) -> String {
        let name = match (self.element, self.inputs.rounds()) {
            (Element::E4m3, true) => "mxfp8",
            (Element::E4m3, false) => "mxfp8a16",
            (Element::E2m3, true) => "mxfp6a8",
            (Element::E2m3, false) => "mxfp6a16",
        };
        name.to_owned()
    }

    fn layout(&self, model_type: DataType) -> Box<dyn Layout> {
        let (element, precision) = (self.element, scale_type(model_type));
        Box::new(Microscaled { element, precision, is_whole: false })
    }

    fn activations(&self) -> Activations {
        self.inputs
    }

    fn entry(&self) -> Value {
        let (format, bits) = match self.element {
            Element::E4m3 => ("mxfp8-quantized", 8),
            Element::E2m3 => ("mxfp6-pack-quantized", 6),
        };
        entry(format, &arguments(bits), &activations::arguments(self.inputs))
    }

    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration {
        configuration(&self.entry(), quantized)
    }
}

/// What a module's weights are, if they are such floats: MXFP4's have the same names as those
/// of six bits, and sixteen bytes for each scale.
pub(crate) fn element(request: &OpenRequest<'_>, module: &str) -> Option<(Element, TensorIndex)> {
    let dimensions = |tensor| request.matrix_dimensions(tensor).ok();
    let scales = request.tensor(module, SCALES)?;
    if request.data_type(scales) != DataType::U8 {
        return None;
    }
    if let Some(codes) = request.tensor(module, "weight_packed") {
        let ([_, bytes], [_, groups]) = (dimensions(codes)?, dimensions(scales)?);
        let is_six = request.data_type(codes) == DataType::U8 && groups.checked_mul(24)? == *bytes;
        return is_six.then_some((Element::E2m3, codes));
    }
    let codes = request.tensor(module, "weight")?;
    let is_eight = request.data_type(codes) == DataType::F8_E4M3;
    is_eight.then_some((Element::E4m3, codes))
}

fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let modules = request.modules_with(SCALES).into_iter();
    let modules = modules.filter_map(|(module, _)| {
        let (element, codes) = element(request, module)?;
        Some(open_module(request, module, element, codes))
    });
    modules.collect()
}

/// Such weights of a module.
pub(crate) fn open_module(
    request: &OpenRequest<'_>,
    module: &str,
    element: Element,
    codes: TensorIndex,
) -> Result<PackedTensor, Error> {
    let [rows, bytes] = *request.matrix_dimensions(codes)?;
    let matrix = Matrix { rows, columns: Microscaled::columns(element, bytes) };
    let layout = Microscaled { element, precision: ScaleType::F32, is_whole: false };
    let mut tensor = request.packed(module, matrix, Box::new(layout))?;
    tensor.unused = request.tensors(module, &["input_scale", "output_scale"]);
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{assert_golden, bytes_of, golden, weights};
    use crate::testing::{Checkpoint, Tensor, refusal_after, seen, stored};

    const CONFIG: fn() -> Value = || json!({"quant_method": "compressed-tensors"});

    #[test]
    fn parts_hold_what_the_package_writes() {
        for (element, case) in [(Element::E2m3, "ct-mxfp6a16"), (Element::E4m3, "ct-mxfp8a16")] {
            for (name, precision) in
                [("f32", ScaleType::F32), ("bf16", ScaleType::BF16), ("f16", ScaleType::F16)]
            {
                let layout = Microscaled { element, precision, is_whole: false };
                let weights = weights(13, 8, 128, precision);
                for tile in [1, 3, 8] {
                    let written = stored(&layout, 8, 128, &weights, tile);
                    let case = format!("{case}-{name}");
                    assert_golden(&case, "packed", &written.parts[0]);
                    assert_golden(&case, "scales", &written.parts[1]);
                    // The package decodes to bfloat16, which holds these numbers.
                    assert_golden(&case, "decoded", &bytes_of(&written.decoded(&layout)));
                }
            }
        }
    }

    #[test]
    fn names() {
        for name in ["mxfp8", "mxfp8a16", "mxfp6a8", "mxfp6a16"] {
            let scheme = Words::of(name).and_then(|words| parse(&words)).expect("known");
            assert_eq!(scheme.name(), name);
            assert_eq!(scheme.activations().rounds(), !name.ends_with("a16"));
        }
        assert!(Words::of("mxfp6").and_then(|words| parse(&words)).is_none());
    }

    fn six() -> Vec<Tensor<'static>> {
        vec![
            ("a.weight_packed", DataType::U8, &[8, 96], golden("ct-mxfp6a16-f32", "packed")),
            ("a.weight_scale", DataType::U8, &[8, 4], golden("ct-mxfp6a16-f32", "scales")),
        ]
    }

    #[test]
    fn both_are_read() {
        let seen = seen(&Checkpoint::new(six()).open(CONFIG()).expect("opens"));
        let a = &seen["a.weight"];
        assert_eq!((a.0, &*a.1), (DataType::F32, &[8, 128][..]));
        assert_golden("ct-mxfp6a16-f32", "decoded", &bytes_of(&a.2));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |change: fn(&mut Vec<Tensor<'static>>), expected: &str| {
            assert_eq!(refusal_after(|all, _| change(all), six(), CONFIG()), expected);
        };
        check(|all| drop(all.remove(1)), "config.json: a: has no tensor `weight_scale`");
        check(
            |all| all[1].2 = &[16, 2],
            "model.safetensors: a.weight_scale: at byte 0: is U8 [16, 2], expected U8 [8, 6]",
        );
    }
}
