//! Matrices whose inputs engines rotate: what the configuration says, what is read back, who
//! loads it, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Run, fixtures, quantize, scratch, text};

const TARGET: &str = "ct:mxfp4+hadamard32";

fn convert(source: &str, given: &[&str], output: &Path) -> Run {
    let source = fixtures().join(source);
    let fixed = ["convert", text(&source), "--to", TARGET, "-o", text(output), "--force"];
    quantize(&[&fixed, given].concat())
}

fn transforms(folder: &Path) -> Value {
    let bytes = fs::read(folder.join("config.json")).expect("read");
    let config: Value = serde_json::from_slice(&bytes).expect("JSON");
    config["quantization_config"]["transform_config"].clone()
}

#[test]
fn the_configuration_says_what_is_rotated() {
    let folder = scratch();
    let output = folder.path().join("out");
    convert("demo-llama", &["--tensor-type", "attn_output=bf16"], &output).expect_success();
    let group = &transforms(&output)["config_groups"]["rotation"];
    assert_eq!((&group["type"], &group["head_dim"]), (&json!("hadamard"), &json!(32)));
    let places = group["apply"].as_array().expect("a list");
    let locations: Vec<&Value> = places.iter().map(|place| &place["location"]).collect();
    assert_eq!(locations, ["input", "weight_input"]);
    let left: Vec<String> = (0..4)
        .map(|layer| format!("model.layers.{layer}.self_attn.o_proj"))
        .chain(["lm_head".to_owned()])
        .collect();
    for place in places {
        assert_eq!(place["targets"], json!(["Linear"]));
        let mut ignored: Vec<&str> =
            place["ignore"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        ignored.sort_unstable_by_key(|name| *name == "lm_head");
        assert_eq!(ignored, left);
    }
    let source = fixtures().join("demo-llama");
    quantize(&["verify", text(&output), "--source", text(&source)]).expect_success();
    quantize(&["verify", text(&output), "--for", "vllm"]).expect_success();
    for engine in ["sglang", "transformers"] {
        let run = quantize(&["verify", text(&output), "--for", engine]);
        assert!(run.stdout.contains("[transformed-inputs]"), "{engine}: {}", run.stdout);
    }
}

/// What is read is the matrix before it was rotated.
#[test]
fn weights_are_read_as_they_were() {
    let folder = scratch();
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    let source = fixtures().join("demo-llama");
    let loss = |output: &Path, reference: &Path| -> f64 {
        let report = quantize(&["verify", text(output), "--source", text(reference), "--json"]);
        let report = report.expect_success().json();
        let tensors = report["tensors"].as_array().expect("a list");
        tensors.iter().filter_map(|one| one["relative_error"].as_f64()).fold(0.0, f64::max)
    };
    convert("demo-llama", &[], &at("rtn")).expect_success();
    assert!(loss(&at("rtn"), &source) < 0.2);
    let (rtn, plain) = (at("rtn"), at("plain"));
    quantize(&["convert", text(&rtn), "--to", "safetensors:f32", "-o", text(&plain)])
        .expect_success();
    assert!(loss(&rtn, &plain) < 1e-6);
}

#[test]
fn what_no_engine_would_rotate_is_refused() {
    let folder = scratch();
    let output = folder.path().join("out");
    let check = |source: &str, given: &[&str], expected: &str| {
        let run = convert(source, given, &output);
        assert!(run.code != 0 && run.stderr.contains(expected), "{source}: {}", run.stderr);
    };
    check("tiny/qwen3moe", &[], "engines rotate no inputs of experts");
    let other = ["--tensor-type", "attn_output=ct:w8a16+g32"];
    check("demo-llama", &other, "the configuration's transform_config holds for all matrices");
    convert("tiny/qwen3moe", &["--tensor-type", "exps=bf16"], &output).expect_success();
    // Its queries have biases, which vLLM refuses.
    convert("tiny/qwen2", &[], &output).expect_success();
    let run = quantize(&["verify", text(&output), "--for", "vllm"]);
    assert!(run.stdout.contains("has a bias, which is refused"), "{}", run.stdout);
    let source = fixtures().join("demo-llama");
    let fixed = ["quantize", text(&source), "--to", TARGET, "-o", text(&output), "--force"];
    let run = quantize(&[&fixed[..], &["--method", "awq", "--data", "default"]].concat());
    assert!(run.stderr.contains("awq scales columns"), "{}", run.stderr);
}
