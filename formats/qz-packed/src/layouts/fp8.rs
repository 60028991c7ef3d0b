//! Native FP8 checkpoints (`quant_method: "fp8"`): DeepSeek's blocks of 128 × 128, and one
//! scale for a tensor. Sources: transformers 5.17 (`integrations/finegrained_fp8.py`), vLLM
//! 0.33 (`layers/quantization/fp8.py`).
//!
//! The blocks' scale is called `weight_scale_inv`, and yet weights are multiplied by it.

use qz_codec::activations::{Activations, Number};
use qz_tensor::{DataType, Shape, TensorIndex};
use serde_json::{Value, json};

use super::float8::{Float8, Spread, StoredScale};
use super::numbers::ScaleType;
use crate::error::{Error, Fault};
use crate::inputs::{self, InputPart, Inputs};
use crate::layout::{Layout, Matrix};
use crate::method::{Method, OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Mixing, Quantized, Scheme, SchemeFamily};
use crate::schemes::{Words, number};

pub(crate) const FAMILY: SchemeFamily = SchemeFamily {
    name: "fp8",
    examples: &["block128", "block128+ue8m0", "tensor", "tensor+fused", "tensor+static"],
    form: "blocks or a tensor: fp8:block128 (any side; +ue8m0) or fp8:tensor (+fused, +static)",
    method: "fp8",
    mixing: Mixing::None,
    cache_part: Some(cache_part),
    parse,
};

pub(crate) const METHOD: Method = Method {
    name: "fp8",
    aliases: &[],
    looks_like: "`weight` of eight-bit floats with `weight_scale_inv` or `weight_scale`",
    recognise,
    open,
};

const BLOCK_SUFFIX: &str = "weight_scale_inv";
const TENSOR_SUFFIX: &str = "weight_scale";
const INPUT_SCALE: &str = "input_scale";

/// What weights may be.
const CODES: [DataType; 2] = [DataType::F8_E4M3, DataType::F8_E5M2];

fn recognise(request: &OpenRequest<'_>) -> Option<TensorIndex> {
    let modules = [BLOCK_SUFFIX, TENSOR_SUFFIX].map(|suffix| request.modules_with(suffix));
    let mut weights =
        modules.into_iter().flatten().filter_map(|(module, _)| request.tensor(module, "weight"));
    weights.find(|weight| CODES.contains(&request.data_type(*weight)))
}

/// What stands behind the colon.
#[derive(Clone, Copy, Debug)]
enum Fp8Scheme {
    Block { side: u64, powers: bool },
    Tensor { fused: bool, is_static: bool },
}

fn parse(text: &str) -> Option<Box<dyn Scheme>> {
    let words = Words::of(text)?;
    let scheme = match words.head() {
        "tensor" if words.flags_are(&["fused", "static"]) => {
            Fp8Scheme::Tensor { fused: words.has("fused"), is_static: words.has("static") }
        }
        head if words.flags_are(&["ue8m0"]) => {
            let side = number(head.strip_prefix("block")?)?;
            Fp8Scheme::Block { side, powers: words.has("ue8m0") }
        }
        _ => return None,
    };
    Some(Box::new(scheme))
}

impl Scheme for Fp8Scheme {
    fn name(&self) -> String {
        match self {
            Self::Block { side, powers } => {
                format!("block{side}{}", if *powers { "+ue8m0" } else { "" })
            }
            Self::Tensor { fused, is_static } => {
                let fused = if *fused { "+fused" } else { "" };
                format!("tensor{fused}{}", if *is_static { "+static" } else { "" })
            }
        }
    }

    fn layout(&self, _model_type: DataType) -> Box<dyn Layout> {
        let number = StoredScale::Number(ScaleType::F32);
        let (spread, suffix, scale) = match *self {
            Self::Block { side, powers } => (
                Spread::Block { rows: side, columns: side },
                BLOCK_SUFFIX,
                if powers { StoredScale::Power(DataType::F8_E8M0) } else { number },
            ),
            Self::Tensor { fused, .. } => (Spread::Tensor { fused }, TENSOR_SUFFIX, number),
        };
        let code = DataType::F8_E4M3;
        Box::new(Float8 { code, spread, suffix, scale, rank: 0, quotient: None })
    }

    fn activations(&self) -> Activations {
        match *self {
            Self::Block { side, .. } => Activations::Group(Number::E4M3, side as usize),
            Self::Tensor { is_static: true, .. } => Activations::Tensor(Number::E4M3),
            Self::Tensor { is_static: false, .. } => Activations::Token(Number::E4M3),
        }
    }

    fn input_part(&self, _model_type: DataType) -> Option<InputPart> {
        let part =
            InputPart { suffix: INPUT_SCALE, scale: ScaleType::F32, rank: 0, is_reciprocal: false };
        self.activations().is_stored().then_some(part)
    }

    #[allow(clippy::indexing_slicing, reason = "keys of an object that stands here")]
    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration {
        let mut config = json!({
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": if self.activations().is_stored() { "static" } else { "dynamic" },
            "weight_block_size": null,
            "modules_to_not_convert": quantized.left,
            "meta": quantized.provenance.meta(),
        });
        if let Self::Block { side, powers } = self {
            config["weight_block_size"] = json!([side, side]);
            if *powers {
                config["scale_fmt"] = json!("ue8m0");
            }
        }
        // AutoFP8's word for scales that are stored.
        if quantized.cache.is_some() {
            config["kv_cache_scheme"] = json!("static");
        }
        Configuration { entries: vec![("quantization_config", config)], files: Vec::new() }
    }
}

/// A scale of cached keys or values; engines have none of heads here.
fn cache_part(_model_type: DataType, heads: Option<u64>) -> Option<(DataType, Shape)> {
    let one = Shape::new([]).ok()?;
    heads.is_none().then_some((DataType::F32, one))
}

pub(super) fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let stated = block_size(request)?;
    let scheme = request.config.get("activation_scheme").filter(|scheme| !scheme.is_null());
    let mut packed = Vec::new();
    for suffix in [BLOCK_SUFFIX, TENSOR_SUFFIX] {
        for (module, _) in request.modules_with(suffix) {
            let mut tensor = open_module(request, module, suffix, stated)?;
            tensor.inputs = inputs_of(request, module, scheme, stated)?;
            packed.push(tensor);
        }
    }
    Ok(packed)
}

/// What engines round a module's inputs to; to nothing where the configuration does not say.
fn inputs_of(
    request: &OpenRequest<'_>,
    module: &str,
    scheme: Option<&Value>,
    block: Option<(u64, u64)>,
) -> Result<Inputs, Error> {
    let activations = match (scheme.map(Value::as_str), block) {
        (None, _) => Activations::Full,
        (Some(Some("static")), _) => Activations::Tensor(Number::E4M3),
        (Some(Some("dynamic")), Some((_, columns))) => {
            Activations::Group(Number::E4M3, columns as usize)
        }
        (Some(Some("dynamic")), None) => Activations::Token(Number::E4M3),
        (Some(_), _) => {
            let says = scheme.map(Value::to_string).unwrap_or_default();
            let unknown = format!("quantization_config.activation_scheme: says {says}");
            return Ok(Inputs::Unknown(unknown.into()));
        }
    };
    inputs::of_module(request, module, activations, (INPUT_SCALE, false))
}

/// `weight_block_size`, if there is one.
fn block_size(request: &OpenRequest<'_>) -> Result<Option<(u64, u64)>, Error> {
    let sides = match request.config.get("weight_block_size") {
        None | Some(Value::Null) => return Ok(None),
        Some(sides) => sides.as_array(),
    };
    let side = |side: &Value| side.as_u64().filter(|side| *side > 0);
    match sides.map(|sides| sides.iter().map(side).collect::<Vec<_>>()).as_deref() {
        Some([Some(rows), Some(columns)]) => Ok(Some((*rows, *columns))),
        _ => {
            let detail = "is not two positive numbers, the rows and columns of a block";
            Err(request.config_fault("weight_block_size", detail))
        }
    }
}

/// Weights of eight bits with scales under this name.
pub(crate) fn open_module(
    request: &OpenRequest<'_>,
    module: &str,
    suffix: &'static str,
    block: Option<(u64, u64)>,
) -> Result<PackedTensor, Error> {
    let weight = request.part(module, "weight")?;
    let scales = request.part(module, suffix)?;
    let code = request.data_type(weight);
    if !CODES.contains(&code) {
        let (found, expected) = (code.to_string(), "F8_E4M3 or F8_E5M2".to_owned());
        return Err(request.tensor_fault(weight, Fault::Part { found, expected }));
    }
    let [rows, columns] = *request.matrix_dimensions(weight)?;
    let scale = StoredScale::of(request.data_type(scales)).ok_or_else(|| {
        let found = request.data_type(scales).to_string();
        let expected = "F32, BF16, F16, F8_E8M0 or U8".to_owned();
        request.tensor_fault(scales, Fault::Part { found, expected })
    })?;
    let dimensions = request.dimensions(scales);
    let spread = match *dimensions {
        [] | [1] => Spread::Tensor { fused: false },
        [count] | [count, 1] if count == rows => Spread::Row,
        [down, across] => {
            let (rows, columns) = block.ok_or_else(|| {
                let detail = format!("scales of {down} × {across} blocks, but no size of a block");
                request.tensor_fault(scales, Fault::Unfit(detail))
            })?;
            Spread::Block { rows, columns }
        }
        _ => {
            let found = format!("{} scales", request.info(scales).shape);
            let expected = "one for the tensor, for each row or for each block".to_owned();
            return Err(request.tensor_fault(scales, Fault::Part { found, expected }));
        }
    };
    let rank = dimensions.len();
    let layout = Float8 { code, spread, suffix, scale, rank, quotient: None };
    let mut tensor = request.packed(module, Matrix { rows, columns }, Box::new(layout))?;
    tensor.unused = request.tensors(module, &["input_scale", "activation_scale", "output_scale"]);
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Checkpoint, seen};

    fn scales(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn config(block: Value) -> Value {
        json!({"quant_method": "fp8", "weight_block_size": block})
    }

    #[test]
    fn blocks_are_multiplied_by_their_scale() {
        // 0x38 is 1, 0x40 is 2.
        let checkpoint = Checkpoint::new(vec![
            (
                "a.weight",
                DataType::F8_E4M3,
                &[3, 3],
                vec![0x38, 0x40, 0x38, 0x38, 0x40, 0x38, 0x38, 0x40, 0x38],
            ),
            ("a.weight_scale_inv", DataType::F32, &[2, 2], scales(&[1.0, 10.0, 100.0, 1000.0])),
            ("a.input_scale", DataType::F32, &[], scales(&[1.0])),
            ("norm.weight", DataType::F32, &[1], scales(&[7.0])),
        ]);
        let source = checkpoint.open(config(json!([2, 2]))).expect("opens");
        let seen = seen(&source);
        assert_eq!(seen.len(), 2);
        assert_eq!(seen["a.weight"].2, [1.0, 2.0, 10.0, 1.0, 2.0, 10.0, 100.0, 200.0, 1000.0]);
        assert_eq!(seen["norm.weight"].2, [7.0]);
    }

    #[test]
    fn powers_of_two_rows_and_tensors() {
        let check = |data_type, dimensions: &[u64], bytes: Vec<u8>, expected: &[f32]| {
            let checkpoint = Checkpoint::new(vec![
                ("a.weight", DataType::F8_E4M3, &[2, 2], vec![0x38, 0x40, 0x38, 0x40]),
                ("a.weight_scale", data_type, dimensions, bytes),
            ]);
            let source = checkpoint.open(config(json!([1, 1]))).expect("opens");
            assert_eq!(seen(&source)["a.weight"].2, expected);
        };
        check(DataType::F32, &[], scales(&[4.0]), &[4.0, 8.0, 4.0, 8.0]);
        check(DataType::F32, &[1], scales(&[4.0]), &[4.0, 8.0, 4.0, 8.0]);
        check(DataType::F32, &[2, 1], scales(&[4.0, 1.0]), &[4.0, 8.0, 1.0, 2.0]);
        check(DataType::F32, &[2], scales(&[4.0, 1.0]), &[4.0, 8.0, 1.0, 2.0]);
        check(
            DataType::F8_E8M0,
            &[2, 2],
            vec![127, 128, 126, 0],
            &[1.0, 4.0, 0.5, 2.0f32.powi(-126)],
        );
        check(DataType::BF16, &[], vec![0x80, 0x3f], &[1.0, 2.0, 1.0, 2.0]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |weight: DataType,
                     scale: DataType,
                     dimensions: &[u64],
                     block: Value,
                     expected: &str| {
            let size = scale.block_bytes() * dimensions.iter().product::<u64>() as usize;
            let checkpoint = Checkpoint::new(vec![
                ("a.weight", weight, &[4, 4], vec![0; 16 * weight.block_bytes()]),
                ("a.weight_scale_inv", scale, dimensions, vec![0; size]),
            ]);
            assert_eq!(checkpoint.refusal(config(block)), expected);
        };
        let (e4m3, f32) = (DataType::F8_E4M3, DataType::F32);
        check(
            e4m3,
            f32,
            &[3, 2],
            json!([2, 2]),
            "model.safetensors: a.weight_scale_inv: at byte 0: is F32 [3, 2], expected F32 [2, 2]",
        );
        check(
            e4m3,
            DataType::I32,
            &[2, 2],
            json!([2, 2]),
            "model.safetensors: a.weight_scale_inv: at byte 0: is I32, expected F32, BF16, F16, F8_E8M0 or U8",
        );
        check(
            DataType::I8,
            f32,
            &[2, 2],
            json!([2, 2]),
            "model.safetensors: a.weight: at byte 0: is I8, expected F8_E4M3 or F8_E5M2",
        );
        check(
            e4m3,
            f32,
            &[2, 2],
            json!([0, 2]),
            "config.json: quantization_config.weight_block_size: is not two positive numbers, the rows and columns of a block",
        );
        check(
            e4m3,
            f32,
            &[2, 2],
            Value::Null,
            "model.safetensors: a.weight_scale_inv: at byte 0: scales of 2 × 2 blocks, but no size of a block",
        );
        let alone = vec![("a.weight_scale_inv", f32, &[2u64, 2][..], vec![0; 16])];
        assert_eq!(
            Checkpoint::new(alone).refusal(config(json!([2, 2]))),
            "config.json: a: has no tensor `weight`"
        );
    }

    #[test]
    fn names() {
        let check = |text: &str, expected: Option<&str>| {
            let found = parse(text).map(|scheme| scheme.name());
            assert_eq!(found.as_deref(), expected, "{text}");
        };
        check("block128", Some("block128"));
        check("Block64+UE8M0", Some("block64+ue8m0"));
        check("tensor", Some("tensor"));
        check("tensor+fused", Some("tensor+fused"));
        check("tensor+static+fused", Some("tensor+fused+static"));
        check("block128+static", None);
        check("tensor+ue8m0", None);
        check("block", None);
        check("block0", None);
        check("w4", None);
    }
}
