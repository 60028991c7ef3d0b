//! ModelOpt's checkpoints: NVFP4 with a scale of the tensor that is multiplied, FP8 and MXFP8.
//! Sources: ModelOpt 0.47 (`torch/export/quant_utils.py`, `convert_hf_config.py`,
//! `torch/quantization/qtensor`), vLLM 0.33 (`layers/quantization/modelopt.py`).

use qz_codec::activations::{Activations, Number};
use qz_tensor::{DataType, SideFile};
use serde_json::{Map, Value, json};

use super::compressed::microscaled;
use super::float4::{Float4, Global, Kind, Picked};
use super::float4_groups::{Edge, NVFP4_GROUP};
use super::float8::{Float8, Spread, StoredScale};
use super::fp8::open_module;
use super::microscaling::{self, Element, Microscaled};
use super::numbers::ScaleType;
use crate::error::Error;
use crate::inputs::{self, InputPart, Inputs};
use crate::layout::{Layout, Matrix};
use crate::method::{Method, OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Mixing, OtherScheme, Quantized, Scheme, SchemeFamily};
use crate::schemes::{FOUR_OVER_SIX, Words};

pub(crate) const FAMILY: SchemeFamily = SchemeFamily {
    name: "modelopt",
    examples: &["nvfp4a16", "mxfp8", "nvfp4", "fp8"],
    form: "an algorithm: modelopt:nvfp4, modelopt:nvfp4a16 (+4over6), modelopt:fp8 (+channel, +fused) or \
           modelopt:mxfp8",
    method: "modelopt",
    mixing: Mixing::Fused,
    cache_part: None,
    parse,
};

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

/// An algorithm for each module.
const MIXED: &str = "MIXED_PRECISION";

/// The algorithms whose weights are known.
const ALGORITHMS: &[&str] =
    &["FP8", "FP8_PER_CHANNEL_PER_TOKEN", "NVFP4", "W4A16_NVFP4", "MXFP8", MIXED];

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
    let matrix = Matrix { rows, columns: bytes.saturating_mul(2) };
    let mut tensor = request.packed(module, matrix, Box::new(nvfp4(Edge::Six)))?;
    tensor.unused = request.tensors(module, &["input_scale", "output_scale"]);
    Ok(tensor)
}

/// What a module's weights and inputs become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    /// Four bits; with inputs of four bits, too.
    Nvfp4 {
        inputs: bool,
        edge: Edge,
    },
    /// A scale for the tensor, or one for those that are multiplied together; inputs as well.
    Fp8 {
        fused: bool,
    },
    /// A scale for each row, and for each token.
    Fp8Channel,
    Mxfp8,
}

#[derive(Clone, Copy, Debug)]
struct ModelOptScheme(Algorithm);

fn parse(text: &str) -> Option<Box<dyn Scheme>> {
    let words = Words::of(text)?;
    let (has_fused, has_channel) = (words.has("fused"), words.has("channel"));
    let has_edge = words.has(FOUR_OVER_SIX);
    let edge = if has_edge { Edge::SixOrFour } else { Edge::Six };
    let algorithm = match (words.head(), words.flags().len()) {
        ("nvfp4", count) if count == usize::from(has_edge) => {
            Algorithm::Nvfp4 { inputs: true, edge }
        }
        ("nvfp4a16", count) if count == usize::from(has_edge) => {
            Algorithm::Nvfp4 { inputs: false, edge }
        }
        ("fp8", 1) if has_channel => Algorithm::Fp8Channel,
        ("fp8", count) if count == usize::from(has_fused) => Algorithm::Fp8 { fused: has_fused },
        ("mxfp8", 0) => Algorithm::Mxfp8,
        _ => return None,
    };
    Some(Box::new(ModelOptScheme(algorithm)))
}

impl ModelOptScheme {
    /// As ModelOpt calls it.
    fn algorithm(self) -> &'static str {
        match self.0 {
            Algorithm::Nvfp4 { inputs: true, .. } => "NVFP4",
            Algorithm::Nvfp4 { inputs: false, .. } => "W4A16_NVFP4",
            Algorithm::Fp8 { .. } => "FP8",
            Algorithm::Fp8Channel => "FP8_PER_CHANNEL_PER_TOKEN",
            Algorithm::Mxfp8 => "MXFP8",
        }
    }

    fn group(self) -> Option<usize> {
        match self.0 {
            Algorithm::Nvfp4 { .. } => Some(NVFP4_GROUP),
            Algorithm::Mxfp8 => Some(microscaling::GROUP),
            Algorithm::Fp8 { .. } | Algorithm::Fp8Channel => None,
        }
    }

    /// What its converter says in compressed-tensors' words, of some algorithms alone.
    fn config_group(self) -> Option<Value> {
        let number = |bits: u32| {
            let mut number = json!({"dynamic": false, "num_bits": bits, "type": "float"});
            if let (Value::Object(number), Some(group)) = (&mut number, self.group()) {
                number.insert("group_size".to_owned(), json!(group));
            }
            number
        };
        match self.0 {
            Algorithm::Nvfp4 { inputs: true, .. } => {
                Some(json!({"input_activations": number(4), "weights": number(4)}))
            }
            Algorithm::Nvfp4 { inputs: false, .. } => Some(json!({"weights": number(4)})),
            Algorithm::Fp8 { .. } => {
                Some(json!({"input_activations": number(8), "weights": number(8)}))
            }
            Algorithm::Fp8Channel | Algorithm::Mxfp8 => None,
        }
    }
}

impl Scheme for ModelOptScheme {
    fn name(&self) -> String {
        let name = match self.0 {
            Algorithm::Nvfp4 { inputs: true, .. } => "nvfp4",
            Algorithm::Nvfp4 { inputs: false, .. } => "nvfp4a16",
            Algorithm::Fp8 { fused: false } => "fp8",
            Algorithm::Fp8 { fused: true } => "fp8+fused",
            Algorithm::Fp8Channel => "fp8+channel",
            Algorithm::Mxfp8 => "mxfp8",
        };
        match self.0 {
            Algorithm::Nvfp4 { edge: Edge::SixOrFour, .. } => format!("{name}+{FOUR_OVER_SIX}"),
            _ => name.to_owned(),
        }
    }

    fn layout(&self, model_type: DataType) -> Box<dyn Layout> {
        let float8 = |spread, rank, quotient| {
            let (code, scale) = (DataType::F8_E4M3, StoredScale::Number(ScaleType::F32));
            Box::new(Float8 { code, spread, suffix: SCALES, scale, rank, quotient })
        };
        match self.0 {
            Algorithm::Nvfp4 { edge, .. } => Box::new(nvfp4(edge)),
            // torch divides in the tensor's type where the scale is but a number.
            Algorithm::Fp8 { fused } => {
                float8(Spread::Tensor { fused }, 0, ScaleType::of(model_type))
            }
            Algorithm::Fp8Channel => float8(Spread::Row, 1, None),
            Algorithm::Mxfp8 => Box::new(Microscaled {
                element: Element::E4m3,
                precision: ScaleType::F32,
                is_whole: true,
            }),
        }
    }

    fn activations(&self) -> Activations {
        match self.0 {
            Algorithm::Nvfp4 { inputs: true, .. } => Activations::Nvfp4,
            Algorithm::Nvfp4 { inputs: false, .. } => Activations::Full,
            Algorithm::Fp8 { .. } => Activations::Tensor(Number::E4M3),
            Algorithm::Fp8Channel => Activations::Token(Number::E4M3),
            Algorithm::Mxfp8 => Activations::Micro(Number::E4M3),
        }
    }

    fn input_part(&self, _model_type: DataType) -> Option<InputPart> {
        let is_reciprocal = self.activations() == Activations::Nvfp4;
        let part = InputPart { suffix: INPUT_SCALE, scale: ScaleType::F32, rank: 0, is_reciprocal };
        self.activations().is_stored().then_some(part)
    }

    fn entry(&self) -> Value {
        let mut entry = json!({"quant_algo": self.algorithm()});
        if let (Value::Object(entry), Some(group)) = (&mut entry, self.group()) {
            entry.insert("group_size".to_owned(), json!(group));
        }
        entry
    }

    /// What vLLM reads of `config.json`, and the older file, which says the same.
    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration {
        let producer = json!({"name": "quantize", "version": env!("CARGO_PKG_VERSION")});
        let mut own = match quantized.others {
            [] => self.entry(),
            others => json!({
                "quant_algo": MIXED,
                "quantized_layers": self.quantized_layers(quantized, others),
            }),
        };
        let mut config = own.clone();
        if let (Value::Object(own), Value::Object(config)) = (&mut own, &mut config) {
            own.insert("kv_cache_quant_algo".to_owned(), Value::Null);
            own.insert("exclude_modules".to_owned(), json!(quantized.left));
            config.insert("quant_method".to_owned(), json!(METHOD.name));
            config.insert("ignore".to_owned(), json!(quantized.left));
            config.insert("producer".to_owned(), producer.clone());
            config.insert("meta".to_owned(), quantized.provenance.meta());
            if let (Some(Value::Object(mut group)), []) = (self.config_group(), quantized.others) {
                group.insert("targets".to_owned(), json!(["Linear"]));
                config.insert("config_groups".to_owned(), json!({"group_0": group}));
            }
        }
        let older = json!({"producer": producer, "quantization": own});
        let content = format!("{older:#}\n").into_bytes();
        let file = SideFile { name: "hf_quant_config.json".to_owned(), content };
        Configuration { entries: vec![("quantization_config", config)], files: vec![file] }
    }
}

impl ModelOptScheme {
    /// What is said of each packed module where schemes mix.
    fn quantized_layers(self, quantized: &Quantized<'_>, others: &[OtherScheme]) -> Value {
        let usual = quantized.modules.iter().map(|module| (module.clone(), self.entry()));
        let mut layers: Map<String, Value> = usual.collect();
        for OtherScheme { entry, modules } in others {
            layers.extend(modules.iter().map(|module| (module.clone(), entry.clone())));
        }
        Value::Object(layers)
    }
}

/// NVFP4 with a scale of the tensor that is multiplied.
fn nvfp4(edge: Edge) -> Float4 {
    Float4 {
        kind: Kind::Nvfp4,
        weight: "weight",
        scales: SCALES,
        global: Some(Global { suffix: GLOBAL, is_divisor: false, rank: 0 }),
        precision: ScaleType::F32,
        edge,
        picked: Picked::All,
        in_blocks: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{assert_golden, bytes_of, weights};
    use crate::testing::{Checkpoint, Tensor, refusal_after, seen, stored};

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

    const TYPES: [(&str, ScaleType); 3] =
        [("f32", ScaleType::F32), ("bf16", ScaleType::BF16), ("f16", ScaleType::F16)];

    #[test]
    fn parts_hold_what_the_package_writes() {
        for (name, precision) in TYPES {
            let weights = weights(13, 8, 128, precision);
            let check = |scheme: &str, case: &str, parts: &[&str], weights: &[f32]| {
                let layout = parse(scheme).expect("a scheme").layout(precision.data_type());
                for tile in [1, 3, 8] {
                    let written = stored(&*layout, 8, 128, weights, tile);
                    for (part, bytes) in parts.iter().zip(&written.parts) {
                        assert_golden(&format!("modelopt-{case}-{name}"), part, bytes);
                    }
                }
                stored(&*layout, 8, 128, weights, 8).decoded(&*layout)
            };
            let back = check("nvfp4", "nvfp4", &["packed", "scales", "shared"], &weights);
            // The package reads the zero below zero as the other one.
            let back: Vec<f32> = back.iter().map(|weight| weight + 0.0).collect();
            assert_golden(&format!("modelopt-nvfp4-{name}"), "decoded", &bytes_of(&back));
            check("fp8", "fp8", &["codes", "scales"], &weights);
            check("fp8+channel", "fp8-channel", &["codes", "scales"], &weights);
            let mut even = weights;
            even[3 * 128 + 32..][..32].iter_mut().for_each(|it| *it = it.clamp(-1.75, 1.75));
            even[3 * 128 + 40] = 1.75;
            check("mxfp8", "mxfp8", &["codes", "scales"], &even);
        }
    }

    #[test]
    fn names() {
        let check = |text: &str, expected: Option<&str>| {
            let found = parse(text).map(|scheme| scheme.name());
            assert_eq!(found.as_deref(), expected, "{text}");
        };
        for name in
            ["nvfp4", "nvfp4a16", "nvfp4a16+4over6", "fp8", "fp8+channel", "fp8+fused", "mxfp8"]
        {
            check(name, Some(name));
        }
        check("fp8+channel+fused", None);
        check("nvfp4+fused", None);
        check("mxfp4", None);
    }

    /// A matrix of zeros has no largest magnitude to divide by.
    #[test]
    fn zeros_stay_zeros() {
        for scheme in ["nvfp4a16", "fp8", "fp8+channel", "mxfp8"] {
            let layout = parse(scheme).expect("a scheme").layout(DataType::BF16);
            let written = stored(&*layout, 4, 64, &[0.0; 256], 4);
            assert!(written.decoded(&*layout).iter().all(|weight| *weight == 0.0), "{scheme}");
        }
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
