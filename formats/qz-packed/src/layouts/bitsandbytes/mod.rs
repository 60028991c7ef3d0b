//! bitsandbytes: four-bit numbers in blocks of the flattened matrix (NF4, FP4), and integers
//! of eight bits with a scale for each row (LLM.int8). Sources: bitsandbytes 0.50.2
//! (`functional.py`, `backends/default/ops.py`, `nn/modules.py`), transformers 5.17
//! (`integrations/bitsandbytes.py`).

mod blocks;
mod dynamic_map;
mod four_bit;
mod int8;
mod state;

use serde_json::{Value, json};

use crate::error::Error;
use crate::method::{Method, OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Mixing, Quantized, Scheme, SchemeFamily};

pub(crate) const FAMILY: SchemeFamily = SchemeFamily {
    name: "bnb",
    examples: &["nf4", "nf4+double", "fp4", "fp4+double", "int8"],
    form: "a type: bnb:nf4, bnb:fp4 (both: +double) or bnb:int8",
    method: "bitsandbytes",
    mixing: Mixing::None,
    cache_part: None,
    parse,
};

pub(crate) const METHOD: Method = Method {
    name: "bitsandbytes",
    aliases: &[],
    looks_like: "`weight.absmax` or `SCB`",
    recognise: |request| four_bit::recognise(request).or_else(|| int8::recognise(request)),
    open,
};

fn parse(text: &str) -> Option<Box<dyn Scheme>> {
    int8::parse(text).or_else(|| four_bit::parse(text))
}

fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let mut packed = four_bit::open(request)?;
    check_width(request, &packed, "load_in_4bit", "load_in_8bit")?;
    let eight_bits = int8::open(request)?;
    check_width(request, &eight_bits, "load_in_8bit", "load_in_4bit")?;
    packed.extend(eight_bits);
    Ok(packed)
}

/// Fails if the configuration wants weights in the width that they are not stored in: loaders
/// make modules of the one that it names.
fn check_width(
    request: &OpenRequest<'_>,
    packed: &[PackedTensor],
    own: &str,
    other: &str,
) -> Result<(), Error> {
    let Some(codes) = packed.first().and_then(|packed| packed.parts.first()) else {
        return Ok(());
    };
    for (key, expected) in [(own, true), (other, false)] {
        let stated = request.config.get(key).and_then(Value::as_bool);
        if let Some(stated) = stated.filter(|stated| *stated != expected) {
            let name = &request.info(*codes).name;
            let bits = own.trim_start_matches("load_in_").trim_end_matches("bit");
            let detail = format!("says {stated}, but {name} has codes of {bits} bits");
            return Err(request.config_fault(key, detail));
        }
    }
    Ok(())
}

/// Everything that transformers writes, as it reads keys that are missing as others.
fn configuration(four_bits: Option<(&str, bool)>, quantized: &Quantized<'_>) -> Configuration {
    let model_type = state::torch_name(quantized.model_type);
    let (kind, is_double) = four_bits.unwrap_or(("fp4", false));
    let config: Value = json!({
        "quant_method": "bitsandbytes",
        "_load_in_4bit": four_bits.is_some(),
        "_load_in_8bit": four_bits.is_none(),
        "load_in_4bit": four_bits.is_some(),
        "load_in_8bit": four_bits.is_none(),
        "bnb_4bit_compute_dtype": model_type,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": kind,
        "bnb_4bit_use_double_quant": is_double,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": quantized.left,
        "llm_int8_threshold": 6.0,
        "meta": quantized.provenance.meta(),
    });
    Configuration { entries: vec![("quantization_config", config)], files: Vec::new() }
}

#[cfg(test)]
mod tests {
    use qz_tensor::DataType;

    use super::*;
    use crate::golden::{bytes_of, golden};
    use crate::testing::{Checkpoint, Tensor};

    fn four_bits() -> Vec<Tensor<'static>> {
        let case = "bnb-nf4-f32-21";
        let state = golden(case, "state");
        let length: &'static [u64] = Box::leak(Box::new([state.len() as u64]));
        vec![
            ("a.weight", DataType::U8, &[525, 1], golden(case, "codes")),
            ("a.weight.absmax", DataType::F32, &[17], golden(case, "absmax")),
            ("a.weight.quant_map", DataType::F32, &[16], golden("bnb-maps", "nf4")),
            ("a.weight.quant_state.bitsandbytes__nf4", DataType::U8, length, state),
        ]
    }

    fn eight_bits() -> Vec<Tensor<'static>> {
        vec![
            ("a.weight", DataType::I8, &[1, 2], vec![127, 0]),
            ("a.SCB", DataType::F32, &[1], bytes_of(&[1.0])),
        ]
    }

    #[test]
    fn the_other_width_is_named() {
        let check = |tensors: fn() -> Vec<Tensor<'static>>, keys: Value, expected: Option<&str>| {
            let mut config = keys;
            config["quant_method"] = json!("bitsandbytes");
            let found = Checkpoint::new(tensors()).open(config).err();
            let expected = expected.map(|text| format!("config.json: quantization_config.{text}"));
            assert_eq!(found.map(|error| error.to_string()), expected);
        };
        check(four_bits, json!({}), None);
        check(four_bits, json!({"load_in_4bit": true, "load_in_8bit": false}), None);
        check(eight_bits, json!({"load_in_4bit": false, "load_in_8bit": true}), None);
        check(
            four_bits,
            json!({"load_in_8bit": true}),
            Some("load_in_8bit: says true, but a.weight has codes of 4 bits"),
        );
        check(
            four_bits,
            json!({"load_in_4bit": false, "load_in_8bit": false}),
            Some("load_in_4bit: says false, but a.weight has codes of 4 bits"),
        );
        check(
            eight_bits,
            json!({"load_in_4bit": true}),
            Some("load_in_4bit: says true, but a.weight has codes of 8 bits"),
        );
    }
}
