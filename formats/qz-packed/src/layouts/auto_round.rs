//! auto-round's own checkpoints: layouts of others under its name. Source: auto-round 0.9
//! (`export/export_to_autoround/export.py`, `inference/backend.py`).

use serde_json::Value;

use super::gptq::{self, Exceptions, Version};
use super::{awq, compressed, fp8};
use crate::error::Error;
use crate::method::{Method, OpenRequest, PackedTensor};

pub(crate) const METHOD: Method = Method {
    name: "auto-round",
    aliases: &["intel/auto-round", "auto_round"],
    looks_like: "those of GPTQ or AWQ",
    // Nothing but the name tells it from the others.
    recognise: |_| None,
    open,
};

const KNOWN: &str = "auto_gptq, gptqmodel, auto_awq, llm_compressor, fp8";

fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    // Older versions call it the backend.
    let mut stated =
        ["packing_format", "backend"].into_iter().filter_map(|key| request.config.get(key));
    let stated = stated.find_map(Value::as_str).unwrap_or("auto_round:auto_gptq");
    let format = stated.strip_prefix("auto_round:").unwrap_or(stated);
    match format {
        "auto_gptq" | "gptq" | "auto" => gptq::open_as(request, Version::V1, Exceptions::Names),
        // Zero points as they are.
        "auto_round" | "gptqmodel" | "exllamav2" | "tritonv2" | "triton" => {
            gptq::open_as(request, Version::V2, Exceptions::Names)
        }
        "auto_awq" | "awq" => awq::open(request),
        "llm_compressor" => compressed::open(request),
        "fp8" | "fp8_static" => fp8::open(request),
        _ => {
            let detail =
                format!("the packing format {stated} is not supported; there are: {KNOWN}");
            Err(request.config_fault("packing_format", detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use qz_tensor::DataType;
    use serde_json::{Value, json};

    use crate::layouts::numbers::ScaleType;
    use crate::testing::{Checkpoint, Tensor, seen};

    /// Every code 9, scales below zero, a zero point of `stored`.
    fn gptq(stored: u32) -> Vec<Tensor<'static>> {
        let word = |nibble: u32| (0x1111_1111 * nibble).to_le_bytes();
        let mut scales = Vec::new();
        ScaleType::F16.write(&[-0.5; 8], &mut scales);
        vec![
            ("a.qweight", DataType::I32, &[4, 8], word(9).repeat(32)),
            ("a.qzeros", DataType::I32, &[1, 1], word(stored).to_vec()),
            ("a.scales", DataType::F16, &[1, 8], scales),
        ]
    }

    fn config(format: &str) -> Value {
        json!({
            "quant_method": "auto-round", "packing_format": format, "bits": 4, "group_size": 32,
            "sym": false, "extra_config": {"b": {"bits": 8}}
        })
    }

    #[test]
    fn layouts_of_others() {
        let check = |tensors: Vec<Tensor<'static>>, config: Value, expected: f32| {
            let source = Checkpoint::new(tensors).open(config.clone()).expect("opens");
            assert_eq!(seen(&source)["a.weight"].2, [expected; 256], "{config}");
            assert_eq!(source.method(), "auto-round");
        };
        check(gptq(4), config("auto_round:auto_gptq"), -2.0);
        check(gptq(5), config("auto_round:gptqmodel"), -2.0);
        check(gptq(5), config("auto_round"), -2.0);
        check(gptq(5), config("auto_round:exllamav2"), -2.0);
        let mut unnamed = config("");
        unnamed.as_object_mut().expect("an object").remove("packing_format");
        check(gptq(4), unnamed.clone(), -2.0);
        unnamed["backend"] = json!("auto_round:exllamav2");
        unnamed["quant_method"] = json!("intel/auto-round");
        check(gptq(5), unnamed, -2.0);
        let mut awq = gptq(5);
        (awq[0].2, awq[1].2) = (&[32, 1], &[1, 1]);
        check(awq, config("auto_round:auto_awq"), -2.0);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |config: Value, expected: &str| {
            let found = Checkpoint::new(gptq(7)).refusal(config);
            assert!(found.contains(expected), "{found}");
        };
        check(config("auto_round:marlin"), "packing_format: the packing format auto_round:marlin");
        let mut wrong = config("auto_round:auto_gptq");
        wrong["bits"] = json!(2);
        check(wrong, "bits: says 2 or 8, but a.qzeros has 1 words for 8 outputs");
    }
}
