//! Packed layouts that are no integer groups: broken parts, and what their loaders want.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Safetensors, edit_json, fixtures, quantize, scratch, text};

const MODULE: &str = "model.layers.1.self_attn.q_proj";

fn packed(target: &str, output: &Path) {
    if output.exists() {
        fs::remove_dir_all(output).expect("removed");
    }
    let source = fixtures().join("demo-llama");
    quantize(&["convert", text(&source), "--to", target, "-o", text(output)]).expect_success();
}

/// Changes the first bytes of a tensor.
fn patch(folder: &Path, part: &str, change: impl FnOnce(&mut [u8])) {
    let path = folder.join("model.safetensors");
    let mut file = Safetensors::read(&path);
    let start = file.start(&format!("{MODULE}.{part}"));
    change(&mut file.data[start..]);
    file.write(&path);
}

/// Gives a tensor another name.
fn rename(folder: &Path, part: &str, to: &str) {
    let path = folder.join("model.safetensors");
    let mut file = Safetensors::read(&path);
    let header = file.header.as_object_mut().expect("an object");
    let tensor = header.remove(&format!("{MODULE}.{part}")).expect("the tensor");
    header.insert(format!("{MODULE}.{to}"), tensor);
    file.write(&path);
}

fn not_a_number(bytes: &mut [u8]) {
    bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
}

#[test]
fn broken_parts_are_told() {
    let folder = scratch();
    let (output, plain) = (folder.path().join("packed"), folder.path().join("plain.gguf"));
    let check = |target: &str, break_it: fn(&Path), code: i32, expected: &[&str]| {
        packed(target, &output);
        break_it(&output);
        let run = quantize(&["convert", text(&output), "--to", "f16", "-o", text(&plain)]);
        assert_eq!(run.code, code, "{target}: {}", run.stderr);
        for expected in expected {
            assert!(run.stderr.contains(expected), "{target}: {expected} in {}", run.stderr);
        }
        assert!(!plain.exists());
    };
    let state = "weight.quant_state.bitsandbytes__nf4";
    check(
        "bnb:nf4",
        |at| rename(at, "weight.quant_map", "weight.quant_mop"),
        3,
        &["config.json", MODULE, "has no tensor `weight.quant_map`"],
    );
    check(
        "bnb:nf4+double",
        |at| patch(at, "weight.quant_state.bitsandbytes__nf4", |bytes| bytes[40..60].fill(b' ')),
        3,
        &["model.safetensors", state, "is not JSON"],
    );
    check(
        "bnb:nf4",
        |at| patch(at, "weight.quant_state.bitsandbytes__nf4", |bytes| bytes[16] = b'x'),
        3,
        &["model.safetensors", state, "there are: nf4, fp4"],
    );
    // Half a NaN in little-endian order.
    check("bnb:nf4", |at| patch(at, "weight.absmax", not_a_number), 6, &[MODULE]);
    check("bnb:int8", |at| patch(at, "SCB", not_a_number), 6, &[MODULE]);
    check("fp8:block128", |at| patch(at, "weight_scale_inv", not_a_number), 6, &[MODULE]);
    check("fp8:tensor", |at| patch(at, "weight_scale", not_a_number), 6, &[MODULE]);
    check("ct:nvfp4", |at| patch(at, "weight_global_scale", not_a_number), 6, &[MODULE]);
    for target in ["ct:mxfp4", "ct:mxfp6a16", "ct:mxfp8"] {
        check(target, |at| patch(at, "weight_scale", |bytes| bytes[0] = 255), 6, &[MODULE]);
    }
    check(
        "ct:fp8",
        |at| patch(at, "weight_scale", |bytes| bytes[..2].copy_from_slice(&[0xc0, 0x7f])),
        6,
        &[MODULE],
    );
    check(
        "ct:nvfp4",
        |at| rename(at, "weight_scale", "weight_scalf"),
        3,
        &[MODULE, "has no tensor `weight_scale`"],
    );
    check("mlx:w4g64", |at| rename(at, "biases", "biasez"), 3, &[MODULE, "has no tensor `biases`"]);
}

/// The rules that findings name.
fn findings(folder: &Path, engine: Option<&str>) -> Vec<String> {
    let engine = engine.map_or_else(Vec::new, |engine| vec!["--for", engine]);
    let report = quantize(&[&["verify", text(folder), "--json"][..], &engine].concat()).json();
    let findings = report["findings"].as_array().unwrap_or_else(|| panic!("{report}"));
    let rule = |finding: &Value| finding["rule"].as_str().expect("a rule").to_owned();
    let mut rules: Vec<String> = findings.iter().map(rule).collect();
    rules.dedup();
    rules
}

#[test]
fn loaders_rules_of_floats() {
    let folder = scratch();
    let output = folder.path().join("packed");
    let check = |target: &str, engine: Option<&str>, change: fn(&Path), expected: &[&str]| {
        packed(target, &output);
        change(&output);
        assert_eq!(findings(&output, engine), expected, "{target} {engine:?}");
    };
    let nothing = |_: &Path| {};
    let floats = ["ct:fp8", "ct:fp8a16", "ct:nvfp4", "ct:mxfp4", "ct:mxfp8", "ct:mxfp6a16"];
    let others = ["fp8:block128", "fp8:tensor", "modelopt:nvfp4a16", "modelopt:mxfp8"];
    for target in floats.into_iter().chain(others) {
        for engine in [None, Some("vllm"), Some("sglang"), Some("transformers")] {
            let expected: &[&str] = match (target, engine) {
                // Another name for the scale of a tensor.
                ("fp8:tensor", Some("transformers")) => &["scale-name"],
                ("ct:mxfp6a16", Some("vllm" | "sglang")) => &["ct-floats"],
                ("ct:mxfp4" | "ct:mxfp8", Some("sglang")) => &["ct-floats"],
                ("modelopt:nvfp4a16" | "modelopt:mxfp8", Some("transformers")) => {
                    &["engine-method"]
                }
                _ => &[],
            };
            check(target, engine, nothing, expected);
        }
    }
    for target in ["bnb:nf4", "bnb:nf4+double", "bnb:fp4", "bnb:int8"] {
        check(target, Some("transformers"), nothing, &[]);
        check(target, Some("vllm"), nothing, &["engine-method"]);
    }
    check("mlx:w4g64", Some("mlx"), nothing, &[]);
    check("fp8:block96", Some("vllm"), nothing, &["block-divides"]);
    check("fp8:block96", None, nothing, &[]);
    let edit = |at: &Path, change: fn(&mut Value)| edit_json(&at.join("config.json"), change);
    check(
        "fp8:block128",
        Some("vllm"),
        |at| {
            edit_json(&at.join("config.json"), |config| {
                config["quantization_config"]["activation_scheme"] = json!("static");
            });
        },
        &["static-blocks"],
    );
    // Queries, keys and values are one matrix to these engines.
    let other = |at: &Path| {
        patch(at, "weight_global_scale", |bytes| bytes[..4].copy_from_slice(&7f32.to_le_bytes()));
    };
    check("ct:nvfp4", Some("vllm"), other, &["global-scale"]);
    check("ct:nvfp4", Some("transformers"), other, &[]);
    let other = |at: &Path| {
        patch(at, "weight_scale_2", |bytes| bytes[..4].copy_from_slice(&7f32.to_le_bytes()));
    };
    check("modelopt:nvfp4a16", Some("vllm"), other, &["global-scale"]);
    check("modelopt:fp8+channel", Some("vllm"), nothing, &[]);
    check("modelopt:fp8+channel", Some("sglang"), nothing, &["modelopt-algorithm"]);
    packed("bnb:nf4", &output);
    edit(&output, |config| {
        config["quantization_config"]["llm_int8_skip_modules"] = json!([]);
    });
    assert_eq!(findings(&output, None), ["ignore"]);
}
