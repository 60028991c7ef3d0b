//! gpt-oss as it is published: experts in tensors that they share, and only for that family.

use std::fs;
use std::path::{Path, PathBuf};

use qz_safetensors::SafetensorsModel;
use qz_tensor::{DataType, TensorIndex, TensorSource};
use serde_json::{Value, json};

use crate::support::{fixtures, quantize, scratch, text};

fn gpt_oss() -> PathBuf {
    fixtures().join("tiny/gpt-oss")
}

fn convert(source: &Path, target: &str, output: &Path) {
    let run = quantize(&["convert", text(source), "--to", target, "-o", text(output), "--force"]);
    run.expect_success();
}

/// The tensors of experts, which are of bytes: name, dimensions and bytes.
fn experts(folder: &Path) -> Vec<(String, Vec<u64>, Vec<u8>)> {
    let model = SafetensorsModel::open_folder(folder).expect("opens");
    let tensors = model.tensors().iter().enumerate();
    let tensors = tensors.filter(|(_, info)| info.data_type == DataType::U8);
    let read = |(position, info): (usize, &qz_tensor::TensorInfo)| {
        let mut bytes = vec![0; info.bytes as usize];
        model.read(TensorIndex(position), 0, &mut bytes).expect("read");
        let dimensions = info.shape.dimensions().to_vec();
        (info.name.to_string(), dimensions, bytes)
    };
    let mut all: Vec<_> = tensors.map(read).collect();
    all.sort();
    all
}

#[test]
fn experts_share_tensors() {
    let folder = scratch();
    let native = folder.path().join("native");
    convert(&gpt_oss(), "mxfp4:native", &native);
    let found: Vec<(String, Vec<u64>)> = experts(&native)
        .into_iter()
        .filter(|(name, ..)| name.contains("layers.1."))
        .map(|(name, dimensions, _)| (name, dimensions))
        .collect();
    let name = |last: &str| format!("model.layers.1.mlp.experts.{last}");
    assert_eq!(
        found,
        [
            (name("down_proj_blocks"), vec![4, 64, 1, 16]),
            (name("down_proj_scales"), vec![4, 64, 1]),
            (name("gate_up_proj_blocks"), vec![4, 64, 2, 16]),
            (name("gate_up_proj_scales"), vec![4, 64, 2]),
        ]
    );
    let config = fs::read(native.join("config.json")).expect("read");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    let quantization = &config["quantization_config"];
    assert_eq!(quantization["quant_method"], "mxfp4");
    assert_eq!(
        quantization["modules_to_not_convert"],
        json!([
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head"
        ])
    );
    quantize(&["verify", text(&native), "--source", text(&gpt_oss())]).expect_success();
    for engine in ["vllm", "transformers"] {
        quantize(&["verify", text(&native), "--for", engine]).expect_success();
    }
}

/// Blocks are copied, not rounded again: zeros below zero, and exponents that another program
/// has chosen, stay.
#[test]
fn there_and_back_through_gguf() {
    let folder = scratch();
    let (native, gguf) = (folder.path().join("native"), folder.path().join("model.gguf"));
    convert(&gpt_oss(), "mxfp4:native", &native);
    // Half the weights with twice the scale: no rounding would find these.
    let file = native.join("model.safetensors");
    let mut bytes = fs::read(&file).expect("read");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let tensors: Value = serde_json::from_slice(&bytes[8..8 + header]).expect("JSON");
    for (name, tensor) in tensors.as_object().expect("tensors") {
        let [begin, end] = [0, 1].map(|at| tensor["data_offsets"][at].as_u64().unwrap_or(0));
        let own = &mut bytes[8 + header..][begin as usize..end as usize];
        if name.ends_with("_scales") {
            own.iter_mut().for_each(|exponent| *exponent += 3);
        } else if name.ends_with("_blocks") {
            own.iter_mut().step_by(5).for_each(|codes| *codes = 0x88);
        }
    }
    fs::write(&file, bytes).expect("written");
    convert(&native, "mxfp4_moe", &gguf);
    let back = folder.path().join("back");
    convert(&gguf, "mxfp4:native", &back);
    assert!(experts(&native) == experts(&back), "the experts' bytes");
}

/// The layout for other models has the same numbers.
#[test]
fn blocks_of_gguf_become_those_of_a_folder() {
    let folder = scratch();
    let (gguf, packed) = (folder.path().join("model.gguf"), folder.path().join("ct"));
    let source = fixtures().join("demo-llama");
    let fixed = ["convert", text(&source), "--to", "q8_0", "-o", text(&gguf)];
    let types = ["--tensor-type", r"blk\..*weight=mxfp4", "--tensor-type", ".=bf16"];
    quantize(&[&fixed[..], &types].concat()).expect_success();
    convert(&gguf, "ct:mxfp4", &packed);
    let run = quantize(&["verify", text(&packed), "--source", text(&gguf), "--json"]);
    let report = run.expect_success().json();
    let tensors = report["tensors"].as_array().expect("a list");
    let blocks = tensors.iter().filter(|tensor| tensor["type"] == "MXFP4");
    let errors: Vec<f64> =
        blocks.map(|tensor| tensor["relative_error"].as_f64().expect("a number")).collect();
    assert_eq!(errors, [0.0; 28]);
}

#[test]
fn methods_choose_its_values() {
    let folder = scratch();
    let output = folder.path().join("out");
    let source = gpt_oss();
    let fixed = ["quantize", text(&source), "--to", "mxfp4:native", "-o", text(&output), "--json"];
    let rest = ["--data", "default", "--ctx", "64", "--chunks", "4"];
    let report = quantize(&[&fixed[..], &rest].concat()).expect_success().json();
    let tensors = report["outputs"][0]["methods"].as_array().expect("a list");
    // Four experts of three matrices in two layers.
    assert_eq!(tensors.len(), 24, "{report}");
    for tensor in tensors {
        let loss = |of: &str| tensor["losses"][of].as_f64().expect("a number");
        assert!(loss("result") < loss("rounding"), "{tensor}");
    }
    quantize(&["verify", text(&output), "--source", text(&source)]).expect_success();
}

#[test]
fn other_families_are_refused() {
    let folder = scratch();
    let output = folder.path().join("out");
    for family in ["demo-llama", "tiny/qwen3moe"] {
        let source = fixtures().join(family);
        let fixed = ["convert", text(&source), "--to", "mxfp4:native", "-o", text(&output)];
        let run = quantize(&fixed);
        assert_eq!(run.code, 2, "{}", run.stderr);
        assert!(run.stderr.contains("has no experts that share tensors so"), "{}", run.stderr);
    }
}
