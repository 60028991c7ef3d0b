//! compressed-tensors: a family of formats under one `quant_method`. Source:
//! compressed-tensors 0.19 (`quantization/quant_config.py`, `compressors/*`).
//!
//! Each format is a file: what it is called, how a scheme's name becomes one of its
//! layouts, and how it finds its modules in a checkpoint.

mod float4;
mod float_quantized;
mod int_quantized;
mod integer;
mod pack_quantized;

use qz_tensor::DataType;
use serde_json::{Value, json};

use crate::error::Error;
use crate::method::{Method, OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Quantized, Scheme, SchemeFamily};
use crate::schemes::Words;

pub(crate) const FAMILY: SchemeFamily = SchemeFamily {
    name: "ct",
    examples: &[
        "w4a16",
        "w4a16+asym",
        "w4a16+g32",
        "w8a16+channel",
        "w8a8",
        "fp8",
        "nvfp4",
        "mxfp4",
    ],
    form: "a scheme: ct:w4a16 (2 to 8 bits; +g32, +channel, +asym), ct:w8a8, ct:fp8, ct:nvfp4 \
           or ct:mxfp4",
    method: "compressed-tensors",
    parse,
};

pub(crate) const METHOD: Method = Method { name: "compressed-tensors", open };

/// One of the formats.
struct Format {
    /// The scheme of this name, if it is one of this format's.
    parse: fn(&Words) -> Option<Box<dyn Scheme>>,
    /// Finds the format's modules: all of them, by the tensors that are there.
    open: fn(&OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error>,
}

static FORMATS: &[Format] =
    &[pack_quantized::FORMAT, int_quantized::FORMAT, float_quantized::FORMAT, float4::FORMAT];

fn parse(text: &str) -> Option<Box<dyn Scheme>> {
    let words = Words::of(text)?;
    FORMATS.iter().find_map(|format| (format.parse)(&words))
}

fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let mut packed = Vec::new();
    for format in FORMATS {
        packed.extend((format.open)(request)?);
    }
    Ok(packed)
}

/// The configuration of a checkpoint with one format. Nothing that is not needed: the
/// package refuses keys that it does not know.
fn configuration(
    format: &str,
    weights: &Value,
    input_activations: &Value,
    quantized: &Quantized<'_>,
) -> Configuration {
    let config = json!({
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "kv_cache_scheme": null,
        "ignore": quantized.left,
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": input_activations,
                "output_activations": null,
                "format": format,
            },
        },
    });
    Configuration { entries: vec![("quantization_config", config)], files: Vec::new() }
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
