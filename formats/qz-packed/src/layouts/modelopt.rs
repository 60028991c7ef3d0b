//! ModelOpt's checkpoints, read: NVFP4 with a scale of the tensor that is multiplied, and
//! FP8. Sources: ModelOpt 0.47 (`torch/export/quant_utils.py`), vLLM 0.33
//! (`layers/quantization/modelopt.py`).

use qz_codec::activations::{Activations, Number};
use qz_tensor::DataType;
use serde_json::Value;

use super::compressed::microscaled;
use super::float4::{Float4, Global, Kind, Picked};
use super::fp8::open_module;
use super::numbers::ScaleType;
use crate::error::Error;
use crate::inputs::{self, Inputs};
use crate::layout::Matrix;
use crate::method::{Method, OpenRequest, PackedTensor};

pub(crate) const METHOD: Method = Method {
    name: "modelopt",
    aliases: &[],
    looks_like: "`weight`, `weight_scale` and `weight_scale_2`",
    recognise: |request| request.first_with(&["weight", SCALES, GLOBAL]),
    open,
};

const SCALES: &str = "weight_scale";
const GLOBAL: &str = "weight_scale_2";
const INPUT_SCALE: &str = "input_scale";

/// The algorithms whose weights are one of the two.
const ALGORITHMS: &[&str] =
    &["FP8", "FP8_PER_CHANNEL_PER_TOKEN", "NVFP4", "W4A16_NVFP4", "MXFP8", "MIXED_PRECISION"];

fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let algorithm = request.config.get("quant_algo").and_then(Value::as_str);
    if !algorithm.is_some_and(|algorithm| ALGORITHMS.contains(&algorithm)) {
        let detail = format!(
            "the algorithm {} is not supported; there are: {}",
            algorithm.unwrap_or("(none)"),
            ALGORITHMS.join(", ")
        );
        return Err(request.config_fault("quant_algo", detail));
    }
    let mut packed = Vec::new();
    for (module, _) in request.modules_with(SCALES) {
        let mut tensor = open_one(request, module)?;
        tensor.inputs = inputs_of(request, module, algorithm.unwrap_or_default())?;
        packed.push(tensor);
    }
    Ok(packed)
}

/// What engines round a module's inputs to. In mixtures of algorithms its tensors tell.
fn inputs_of(request: &OpenRequest<'_>, module: &str, algorithm: &str) -> Result<Inputs, Error> {
    let is_nvfp4 = request.tensor(module, GLOBAL).is_some();
    let is_static = request.tensor(module, INPUT_SCALE).is_some();
    let activations = match algorithm {
        "W4A16_NVFP4" | "FP8_PB_WO" => Activations::Full,
        "FP8_PER_CHANNEL_PER_TOKEN" => Activations::Token(Number::E4M3),
        "MXFP8" => Activations::Micro(Number::E4M3),
        _ if is_static && is_nvfp4 => Activations::Nvfp4,
        _ if is_static => Activations::Tensor(Number::E4M3),
        algorithm => {
            let unknown = format!(
                "quantization_config.quant_algo: says {algorithm}, but there is no tensor \
                 {module}.{INPUT_SCALE}"
            );
            return Ok(Inputs::Unknown(unknown.into()));
        }
    };
    // Theirs is multiplied, that of NVFP4 here divided by.
    inputs::of_module(
        request,
        module,
        activations,
        (INPUT_SCALE, activations == Activations::Nvfp4),
    )
}

fn open_one(request: &OpenRequest<'_>, module: &str) -> Result<PackedTensor, Error> {
    let weight = request.part(module, "weight")?;
    if let Some((element, codes)) = microscaled::element(request, module) {
        return microscaled::open_module(request, module, element, codes);
    }
    if request.data_type(weight) != DataType::U8 {
        return open_module(request, module, SCALES, None);
    }
    let [rows, bytes] = *request.matrix_dimensions(weight)?;
    let layout = Float4 {
        kind: Kind::Nvfp4,
        weight: "weight",
        scales: SCALES,
        global: Some(Global { suffix: GLOBAL, is_divisor: false, rank: 0 }),
        precision: ScaleType::F32,
        picked: Picked::All,
    };
    let matrix = Matrix { rows, columns: bytes.saturating_mul(2) };
    let mut tensor = request.packed(module, matrix, Box::new(layout))?;
    tensor.unused = request.tensors(module, &["input_scale", "output_scale"]);
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::golden::bytes_of;
    use crate::testing::{Checkpoint, Tensor, refusal_after, seen};

    fn checkpoint() -> Vec<Tensor<'static>> {
        vec![
            ("a.weight", DataType::U8, &[1, 8], vec![0x21; 8]),
            // One, as E4M3.
            ("a.weight_scale", DataType::F8_E4M3, &[1, 1], vec![0x38]),
            ("a.weight_scale_2", DataType::F32, &[], bytes_of(&[0.25])),
            ("a.input_scale", DataType::F32, &[], bytes_of(&[1.0])),
            ("b.weight", DataType::F8_E4M3, &[1, 2], vec![0x38, 0x40]),
            ("b.weight_scale", DataType::F32, &[], bytes_of(&[4.0])),
        ]
    }

    #[test]
    fn the_scale_of_the_tensor_is_multiplied() {
        let config = json!({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"});
        let seen = seen(&Checkpoint::new(checkpoint()).open(config).expect("opens"));
        let expected: Vec<f32> = (0..16).map(|column| [0.125, 0.25][column % 2]).collect();
        assert_eq!(seen["a.weight"].2, expected);
        assert_eq!(seen["b.weight"].2, [4.0, 8.0]);
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |change: fn(&mut Vec<Tensor<'static>>), algorithm: &str, expected: &str| {
            let config = json!({"quant_method": "modelopt", "quant_algo": algorithm});
            assert_eq!(refusal_after(|all, _| change(all), checkpoint(), config), expected);
        };
        check(|all| drop(all.remove(2)), "NVFP4", "config.json: a: has no tensor `weight_scale_2`");
        check(
            |all| all[2].2 = &[1],
            "NVFP4",
            "model.safetensors: a.weight_scale_2: at byte 0: is F32 [1], expected F32 []",
        );
        check(
            |_| (),
            "INT4_AWQ",
            "config.json: quantization_config.quant_algo: the algorithm INT4_AWQ is not \
             supported; there are: FP8, FP8_PER_CHANNEL_PER_TOKEN, NVFP4, W4A16_NVFP4, MXFP8, \
             MIXED_PRECISION",
        );
    }
}
