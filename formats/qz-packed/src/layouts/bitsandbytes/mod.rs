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
use crate::scheme::{Configuration, Quantized, Scheme, SchemeFamily};

pub(crate) const FAMILY: SchemeFamily = SchemeFamily {
    name: "bnb",
    examples: &["nf4", "nf4+double", "fp4", "fp4+double", "int8"],
    form: "a type: bnb:nf4, bnb:fp4 (both: +double) or bnb:int8",
    method: "bitsandbytes",
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
    packed.extend(int8::open(request)?);
    Ok(packed)
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
