//! compressed-tensors: a family of formats under one `quant_method`. Source:
//! compressed-tensors 0.20 (`quantization/quant_config.py`, `compressors/*`).
//!
//! Each format is a file: what it is called, how a scheme's name becomes one of its
//! layouts, and how it finds its modules in a checkpoint.

mod activations;
mod agreement;
mod float4;
mod float_quantized;
mod int_quantized;
mod integer;
pub(crate) mod microscaled;
mod pack_quantized;
mod transforms;

use std::collections::BTreeSet;

use qz_tensor::{DataType, Shape, TensorIndex};
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::method::{Method, OpenRequest, PackedTensor};
use crate::scheme::{CacheScales, Configuration, Mixing, Quantized, Scheme, SchemeFamily};
use crate::schemes::Words;

pub(crate) const FAMILY: SchemeFamily = SchemeFamily {
    name: "ct",
    examples: &[
        "w4a16",
        "w4a16+asym",
        "w4a16+g32",
        "w8a16+channel",
        "w8a8",
        "w8a8+static",
        "w4a8",
        "w4a4",
        "w4afp8",
        "fp8",
        "fp8+static",
        "fp8a16",
        "nvfp4",
        "nvfp4a4",
        "mxfp4",
        "mxfp4a4",
        "mxfp4xfp8",
        "mxfp8",
        "mxfp8a16",
        "mxfp6a16",
        "mxfp6a8",
    ],
    form: "a scheme: ct:w4a16 (2 to 8 bits, inputs of 4, 8 or 16; +g32, +channel, +asym), ct:w8a8, \
           ct:fp8, ct:nvfp4 (+4over6), ct:mxfp4 (+hadamard32), ct:mxfp8 or others that `quantize \
           targets` lists",
    method: "compressed-tensors",
    mixing: Mixing::Fused,
    cache_part: Some(cache_part),
    parse,
};

pub(crate) const METHOD: Method = Method {
    name: "compressed-tensors",
    aliases: &[],
    looks_like: "`weight_packed` and `weight_scale`, or `weight` of eight-bit integers",
    recognise,
    open,
};

fn recognise(request: &OpenRequest<'_>) -> Option<TensorIndex> {
    let integers = || {
        let scales = request.modules_with("weight_scale").into_iter();
        let weights = scales.filter_map(|(module, _)| request.tensor(module, "weight"));
        weights.into_iter().find(|weight| request.data_type(*weight) == DataType::I8)
    };
    request.first_with(&["weight_packed", "weight_scale"]).or_else(integers)
}

/// One of the formats.
struct Format {
    /// The scheme of this name, if it is one of this format's.
    parse: fn(&Words) -> Option<Box<dyn Scheme>>,
    /// Finds the format's modules: all of them, by the tensors that are there.
    open: fn(&OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error>,
}

static FORMATS: &[Format] = &[
    pack_quantized::FORMAT,
    int_quantized::FORMAT,
    float_quantized::FORMAT,
    float4::FORMAT,
    microscaled::FORMAT,
];

fn parse(text: &str) -> Option<Box<dyn Scheme>> {
    let words = Words::of(text)?;
    FORMATS.iter().find_map(|format| (format.parse)(&words))
}

pub(super) fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    check_formats(request)?;
    check_sparsity(request)?;
    let mut packed = Vec::new();
    for format in FORMATS {
        packed.extend((format.open)(request)?);
    }
    agreement::check(request, &mut packed)?;
    transforms::undo(request, packed)
}

/// Formats of older releases, which the package knows by name alone. Their tensors have the names
/// of others, or stand in other places.
pub const GONE: &[&str] = &["sparse-bitmask", "sparse-24-bitmask", "marlin-24"];

fn check_formats(request: &OpenRequest<'_>) -> Result<(), Error> {
    let check = |key: &str, format: Option<&Value>| match format.and_then(Value::as_str) {
        Some(format) if GONE.contains(&format) => {
            let detail = format!(
                "the format {format} is not supported: compressed-tensors 0.20 has no more than its name"
            );
            Err(request.config_fault(key, detail))
        }
        _ => Ok(()),
    };
    check("format", request.config.get("format"))?;
    let groups = request.config.get("config_groups").and_then(Value::as_object);
    for (name, group) in groups.into_iter().flatten() {
        check(&format!("config_groups.{name}.format"), group.get("format"))?;
    }
    Ok(())
}

/// Older versions compressed what is left of weights once more.
fn check_sparsity(request: &OpenRequest<'_>) -> Result<(), Error> {
    let format = request.config.get("sparsity_config").and_then(|config| config.get("format"));
    match format.and_then(Value::as_str) {
        None | Some("dense") => Ok(()),
        Some(format) => {
            let detail = format!(
                "weights stored as {format} are not supported: compressed-tensors 0.20 reads no \
                 sparse ones"
            );
            Err(request.config_fault("sparsity_config.format", detail))
        }
    }
}

/// What `weights` of all the configuration's groups say, as numbers; empty if one says
/// nothing.
fn stated_by_all(request: &OpenRequest<'_>, number: impl Fn(&Value) -> Option<i64>) -> Vec<i64> {
    let groups = request.config.get("config_groups").and_then(Value::as_object);
    let weights = groups.into_iter().flatten().filter_map(|(_, group)| group.get("weights"));
    let weights = weights.filter(|weights| !weights.is_null());
    weights.map(number).collect::<Option<Vec<i64>>>().unwrap_or_default()
}

/// What a configuration says of a group of modules. Nothing that is not needed: the package
/// refuses keys that it does not know.
fn entry(format: &str, weights: &Value, input_activations: &Value) -> Value {
    json!({
        "weights": weights,
        "input_activations": input_activations,
        "output_activations": null,
        "format": format,
    })
}

/// The configuration of a checkpoint: a group of all linear modules, and one for each scheme that
/// some of them have instead, by their names. A name goes before a class.
fn configuration(own: &Value, quantized: &Quantized<'_>) -> Configuration {
    let own = (own, vec!["Linear".to_owned()]);
    let others = quantized.others.iter().map(|other| (&other.entry, targets(&other.modules)));
    let (mut groups, mut formats) = (Map::new(), BTreeSet::new());
    for (number, (entry, targets)) in std::iter::once(own).chain(others).enumerate() {
        let mut group = entry.as_object().cloned().unwrap_or_default();
        formats.extend(group.get("format").and_then(Value::as_str).map(str::to_owned));
        group.insert("targets".to_owned(), json!(targets));
        groups.insert(format!("group_{number}"), Value::Object(group));
    }
    let mut formats = formats.into_iter();
    let format = match (formats.next(), formats.next()) {
        (Some(format), None) => format,
        _ => "mixed-precision".to_owned(),
    };
    let config = json!({
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "kv_cache_scheme": quantized.cache.map(cache_scheme),
        "ignore": quantized.left,
        "meta": quantized.provenance.meta(),
        "config_groups": groups,
    });
    Configuration { entries: vec![("quantization_config", config)], files: Vec::new() }
}

/// What the configuration says of cached keys and values.
fn cache_scheme(scales: CacheScales) -> Value {
    let strategy = match scales {
        CacheScales::Tensor => "tensor",
        CacheScales::Head => "attn_head",
    };
    json!({
        "num_bits": 8,
        "type": "float",
        "symmetric": true,
        "strategy": strategy,
        "dynamic": false,
    })
}

/// A scale of cached keys or values (`initialize_attn_qparams`).
fn cache_part(model_type: DataType, heads: Option<u64>) -> Option<(DataType, Shape)> {
    let shape = match heads {
        None => Shape::new([1]),
        Some(heads) => Shape::new([heads, 1, 1]),
    };
    Some((scale_type(model_type).data_type(), shape.ok()?))
}

/// Modules as targets of a group: names, which engines translate where theirs differ; of experts,
/// which are many, one pattern for all of a layer.
fn targets(modules: &[String]) -> Vec<String> {
    const EXPERTS: &str = ".experts.";
    let target = |module: &String| {
        let expert = module.split_once(EXPERTS).and_then(|(before, own)| {
            // What stands before the layer may be called otherwise.
            let layer = before.find(".layers.").map_or(0, |at| at.saturating_add(1));
            Some((before.get(layer..)?, own.split_once('.')?.1))
        });
        match expert {
            Some((before, last)) => {
                let escaped = |name: &str| name.replace('.', "\\.");
                format!("re:(.*\\.)?{}\\.experts\\.\\d+\\.{}$", escaped(before), escaped(last))
            }
            None => module.clone(),
        }
    };
    let mut targets: Vec<String> = modules.iter().map(target).collect();
    targets.dedup();
    targets
}

/// What `weights` of a configuration's group say, if it has but one group or all say
/// the same.
fn stated<'a>(request: &OpenRequest<'a>, key: &str) -> Option<&'a Value> {
    let groups = request.config.get("config_groups")?.as_object()?;
    let mut values = groups.values().filter_map(|group| group.get("weights")?.get(key));
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}

/// The type that scales are stored in: the model's.
fn scale_type(model_type: DataType) -> super::numbers::ScaleType {
    super::numbers::ScaleType::of(model_type).unwrap_or(super::numbers::ScaleType::BF16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::bytes_of;
    use crate::testing::{Checkpoint, Tensor, seen};

    /// One row of eight 4-bit codes of 9 with a scale of 2.
    fn tensors() -> Vec<Tensor<'static>> {
        let shape = [1u64.to_le_bytes(), 8u64.to_le_bytes()].concat();
        vec![
            ("a.weight_packed", DataType::I32, &[1, 1], 0x9999_9999u32.to_le_bytes().to_vec()),
            ("a.weight_scale", DataType::F32, &[1, 1], bytes_of(&[2.0])),
            ("a.weight_shape", DataType::I64, &[2], shape),
        ]
    }

    fn config(key: &str, value: Value) -> Value {
        let weights = json!({"num_bits": 4, "strategy": "group", "group_size": 8});
        let mut config = json!({
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": weights}},
        });
        if !key.is_empty() {
            config[key] = value;
        }
        config
    }

    fn transform(location: &str) -> Value {
        let apply = json!([{"targets": ["Linear"], "location": location}]);
        json!({"config_groups": {"R1": {"type": "hadamard", "apply": apply}}})
    }

    #[test]
    fn what_changes_no_weight_is_no_fault() {
        let check = |key: &str, value: Value| {
            let source = Checkpoint::new(tensors()).open(config(key, value)).expect("opens");
            assert_eq!(seen(&source)["a.weight"].2, [2.0; 8], "{key}");
        };
        check("", Value::Null);
        check("transform_config", Value::Null);
        check("transform_config", json!({}));
        check("transform_config", json!({"config_groups": {}}));
        check("transform_config", transform("weight_input"));
        check("sparsity_config", json!({}));
        check("sparsity_config", json!({"format": "dense"}));
        check("kv_cache_scheme", json!({"num_bits": 8, "type": "float"}));
    }

    /// All of a row of twos goes into the first column, times the root of eight.
    #[test]
    fn rotated_inputs_are_undone() {
        let check = |size: Value, expected: [f32; 8]| {
            let mut transform = transform("input");
            transform["config_groups"]["R1"]["head_dim"] = size;
            let mut tensors = tensors();
            // The package keeps the matrix beside the first module, and embeddings are not linear.
            tensors.push(("a.R1_input.weight", DataType::F32, &[1, 1], bytes_of(&[1.0])));
            tensors.push(("embed_tokens.weight", DataType::F32, &[1, 2], bytes_of(&[3.0, 4.0])));
            let config = config("transform_config", transform);
            let source = Checkpoint::new(tensors).open(config).expect("opens");
            let seen = seen(&source);
            assert_eq!(seen["a.weight"].2, expected);
            assert_eq!((seen.len(), &seen["embed_tokens.weight"].2[..]), (2, &[3.0, 4.0][..]));
        };
        let root = 2.0 * 8.0f64.sqrt() as f32;
        check(Value::Null, [root, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        check(json!(4), [4.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0]);
        check(json!(1), [2.0; 8]);
    }

    #[test]
    fn rotations_that_are_not_known_are_named() {
        let check = |change: &dyn Fn(&mut Value), expected: &str| {
            let mut transform = transform("input");
            change(&mut transform["config_groups"]["R1"]);
            let mut tensors = tensors();
            tensors.push(("lm_head.weight", DataType::F32, &[1, 1], bytes_of(&[3.0])));
            let found = Checkpoint::new(tensors).refusal(config("transform_config", transform));
            let start = format!(
                "config.json: quantization_config.transform_config.config_groups.R1{expected}"
            );
            assert!(found.starts_with(&start), "{found}");
        };
        check(&|_| {}, ": transforms the inputs of lm_head, which is not packed");
        check(&|group| group["head_dim"] = json!(3), ".head_dim: 3: no power of two that divides");
        check(&|group| group["head_dim"] = json!(16), ".head_dim: 16: no power of two that");
        check(&|group| group["head_dim"] = json!("4"), ".head_dim: says what is not known");
        check(&|group| group["randomize"] = json!(true), ": transforms (hadamard) the input");
        check(&|group| group["type"] = json!("random-matrix"), ": transforms (random-matrix) the");
        let name_class = |group: &mut Value| group["apply"][0]["targets"] = json!(["Embedding"]);
        check(&name_class, ": names the class Embedding");
        let say_twice = |group: &mut Value| {
            group["apply"] = json!([group["apply"][0], group["apply"][0]]);
        };
        check(&say_twice, ": transforms the inputs of a once more");
        let look_ahead = |group: &mut Value| group["apply"][0]["ignore"] = json!(["re:(?!a)"]);
        check(&look_ahead, ": says what is not known");
    }

    #[test]
    fn what_would_be_read_wrongly_is_named() {
        let check = |key: &str, value: Value, expected: &str| {
            let found = Checkpoint::new(tensors()).refusal(config(key, value));
            let start = format!("config.json: quantization_config.{expected}");
            assert!(found.starts_with(&start), "{found}");
        };
        for location in ["output", "k_cache", "q_attn"] {
            let expected = format!(
                "transform_config.config_groups.R1: transforms (hadamard) the {location} of layers"
            );
            check("transform_config", transform(location), &expected);
        }
        check("transform_config", json!({"groups": {}}), "transform_config.groups: says what");
        check("transform_config", json!([1]), "transform_config: says what");
        check(
            "transform_config",
            json!({"config_groups": {"R1": {"type": "hadamard"}}}),
            "transform_config.config_groups.R1: says what",
        );
        check(
            "sparsity_config",
            json!({"format": "sparse-24-bitmask"}),
            "sparsity_config.format: weights stored as sparse-24-bitmask",
        );
        check("format", json!("marlin-24"), "format: the format marlin-24");
        let weights = |key: &str, value: Value| {
            let mut groups = config("", Value::Null)["config_groups"].clone();
            groups["group_0"]["weights"][key] = value;
            groups
        };
        check(
            "config_groups",
            weights("num_bits", json!(8)),
            "config_groups.group_0.weights.num_bits: says 8, but a.weight_packed is I32 [1, 1] for 8 inputs",
        );
        check(
            "config_groups",
            weights("group_size", json!(4)),
            "config_groups.group_0.weights.group_size: says 4, but a.weight_scale has 1 groups for 8 inputs",
        );
    }
}
