//! Packed checkpoints as other programs left them: with a wrong label, with tensors that say
//! nothing, with their configuration elsewhere, under another name, or contradicting it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Run, Safetensors, edit_json, fixtures, quantize, scratch, text};

const WEIGHTS: &str = "model.safetensors";

/// A packed form of the trained checkpoint.
fn packed(fixture: &str, target: &str, output: &Path) {
    let source = fixtures().join(fixture);
    quantize(&["convert", text(&source), "--to", target, "-o", text(output), "--force"])
        .expect_success();
}

/// The run that decodes a folder, and where it writes.
fn decode(folder: &Path) -> (Run, PathBuf) {
    let output = folder.with_extension("decoded");
    let to = "safetensors:f32";
    let run = quantize(&["convert", text(folder), "--to", to, "-o", text(&output), "--force"]);
    (run, output.join(WEIGHTS))
}

/// The decoded file's bytes, and what was said.
#[track_caller]
fn decoded(folder: &Path) -> (Vec<u8>, String) {
    let (run, output) = decode(folder);
    let run = run.expect_success();
    (fs::read(output).expect("read"), run.stderr)
}

fn edit_quantization(folder: &Path, edit: impl FnOnce(&mut Value)) {
    edit_json(&folder.join("config.json"), |config| edit(&mut config["quantization_config"]));
}

fn edit_weights(folder: &Path, edit: impl FnOnce(&mut Safetensors)) {
    let path = folder.join(WEIGHTS);
    let mut weights = Safetensors::read(&path);
    edit(&mut weights);
    weights.write(&path);
}

#[test]
fn the_version_of_zero_points_is_found() {
    let folder = scratch();
    let packed_in = folder.path().join("packed");
    let check = |target: &str, label: &str, is_found: bool| {
        packed("demo-llama", target, &packed_in);
        let (right, said) = decoded(&packed_in);
        assert!(!said.contains("zero point"), "{target}: {said}");
        edit_quantization(&packed_in, |config| config["checkpoint_format"] = json!(label));
        let (found, said) = decoded(&packed_in);
        assert_eq!(found == right, is_found, "{target}");
        assert_eq!(said.contains("warning: ") && said.contains("zero point"), is_found, "{said}");
    };
    for target in ["gptq:w4g128", "gptq:w8g128", "gptq:w3g64", "gptq:w2g64"] {
        check(&format!("{target}+v2"), "gptq", true);
        check(target, "gptq_v2", true);
    }
    check("gptq:w4g128+v2+asym", "gptq", false);
    check("gptq:w4g128+asym", "gptq_v2", false);
    // Every reader says it.
    packed("demo-llama", "gptq:w4g128+v2", &packed_in);
    edit_quantization(&packed_in, |config| config["checkpoint_format"] = json!("gptq"));
    let gguf = folder.path().join("model.gguf");
    let run = quantize(&["convert", text(&packed_in), "--to", "q4_0", "-o", text(&gguf)]);
    assert!(run.stderr.contains("read as gptq_v2"), "{}", run.stderr);
    let run = quantize(&["inspect", text(&packed_in)]).expect_success();
    assert!(run.stdout.contains("read as gptq_v2"), "{}", run.stdout);
}

/// AutoGPTQ and AutoAWQ wrote one beside every matrix.
#[test]
fn biases_of_zeros_say_nothing() {
    const MODULES: [(&str, usize); 4] = [
        ("self_attn.o_proj", 256),
        ("mlp.gate_proj", 64),
        ("mlp.up_proj", 64),
        ("mlp.down_proj", 256),
    ];
    let folder = scratch();
    let packed_in = folder.path().join("packed");
    for target in ["gptq:w4g64", "awq:w4g64"] {
        // Queries, keys and values have biases of their own.
        packed("tiny/qwen2", target, &packed_in);
        let (right, _) = decoded(&packed_in);
        let name = |module: &str| format!("model.layers.0.{module}.bias");
        edit_weights(&packed_in, |weights| {
            for (module, outputs) in MODULES {
                // One of them below zero.
                let mut bytes = vec![0; outputs * 2];
                bytes[5] = 0x80;
                weights.add(&name(module), "F16", &[outputs], &bytes);
            }
        });
        assert!(decoded(&packed_in).0 == right, "{target}");
        edit_weights(&packed_in, |weights| {
            let start = weights.start(&name("mlp.up_proj"));
            weights.data[start + 8] = 1;
        });
        let (run, _) = decode(&packed_in);
        assert_eq!(run.code, 3, "{target}: {}", run.stderr);
        assert!(run.stderr.contains("up_proj.bias"), "{}", run.stderr);
        assert!(!run.stderr.contains("gate_proj.bias"), "{}", run.stderr);
    }
}

#[test]
fn scales_of_the_cache_are_left_out() {
    const NAMES: &[&[&str]] = &[
        &["k_scale", "v_scale", "q_scale", "prob_output_scale"],
        &["k_proj.k_scale", "v_proj.v_scale", "k_proj.k_zero_point"],
        &["kv_scale"],
        &["k_proj.output_scale", "v_proj.output_scale"],
        &["attn.k_scale", "attn.v_scale", "attn.q_scale", "attn.prob_scale"],
        &["k_global_scale", "v_zero_point"],
    ];
    let folder = scratch();
    let packed_in = folder.path().join("packed");
    for target in ["fp8:tensor", "ct:fp8", "fp8:block128"] {
        for names in NAMES {
            packed("tiny/llama-tied", target, &packed_in);
            let (right, _) = decoded(&packed_in);
            edit_weights(&packed_in, |weights| {
                for name in *names {
                    let name = format!("model.layers.0.self_attn.{name}");
                    weights.add(&name, "F32", &[], &0.125f32.to_le_bytes());
                }
            });
            let (found, said) = decoded(&packed_in);
            assert!(found == right, "{target} {names:?}");
            assert_eq!(said.matches("left out").count(), 1, "{said}");
        }
    }
}

/// Moves the configuration out of `config.json`.
fn take_configuration(folder: &Path) -> Value {
    let mut taken = Value::Null;
    edit_json(&folder.join("config.json"), |config| {
        let config = config.as_object_mut().expect("an object");
        taken = config.remove("quantization_config").unwrap_or_default();
        config.remove("quantization");
    });
    let _ = fs::remove_file(folder.join("quantize_config.json"));
    taken
}

#[test]
fn the_configuration_may_lie_beside() {
    let folder = scratch();
    let packed_in = folder.path().join("packed");
    let check = |target: &str, file: &str, own: Value| {
        packed("tiny/llama-tied", target, &packed_in);
        let (right, _) = decoded(&packed_in);
        take_configuration(&packed_in);
        fs::write(packed_in.join(file), own.to_string()).expect("written");
        assert!(decoded(&packed_in).0 == right, "{target} {file}");
        // Where nothing is packed the file says nothing.
        let plain = folder.path().join("plain");
        let _ = fs::remove_dir_all(&plain);
        fs::rename(packed_in.with_extension("decoded"), &plain).expect("renamed");
        fs::copy(packed_in.join(file), plain.join(file)).expect("copied");
        assert!(decoded(&plain).0 == right, "{target} {file}");
    };
    let gptq = json!({"bits": 4, "group_size": 64, "desc_act": false, "sym": true});
    check("gptq:w4g64", "quantize_config.json", gptq);
    let awq = json!({"zero_point": true, "q_group_size": 64, "w_bit": 4, "version": "GEMM"});
    check("awq:w4g64", "quant_config.json", awq);
}

#[test]
fn packed_tensors_are_known_by_their_looks() {
    let folder = scratch();
    let packed_in = folder.path().join("packed");
    let families = [
        ("gptq:w4g64", "gptq"),
        ("awq:w4g64", "awq"),
        ("ct:w4a16+g64", "compressed-tensors"),
        ("ct:w8a8", "compressed-tensors"),
        ("ct:nvfp4", "compressed-tensors"),
        ("fp8:block128", "fp8"),
        ("fp8:tensor", "fp8"),
        ("bnb:nf4", "bitsandbytes"),
        ("bnb:int8", "bitsandbytes"),
        ("mlx:w4g64", "mlx"),
    ];
    for (target, method) in families {
        packed("tiny/llama-tied", target, &packed_in);
        let (right, _) = decoded(&packed_in);
        // Without a name, or with an empty one.
        let key = if method == "mlx" { "quantization" } else { "quantization_config" };
        let check_unnamed = |name: Option<&str>| {
            edit_json(&packed_in.join("config.json"), |config| {
                let config = config[key].as_object_mut().expect("an object");
                config.remove("quant_method");
                config.extend(name.map(|name| ("quant_method".to_owned(), json!(name))));
            });
            let (found, said) = decoded(&packed_in);
            assert!(found == right, "{target}");
            if method != "mlx" {
                assert!(said.contains(&format!("read as {method}")), "{target}: {said}");
            }
        };
        check_unnamed(None);
        if method != "mlx" {
            check_unnamed(Some(""));
        }
        // Without any.
        take_configuration(&packed_in);
        let (run, _) = decode(&packed_in);
        assert_eq!(run.code, 3, "{target}: {}", run.stderr);
        assert!(run.stderr.contains(&format!("looks packed by {method} (")), "{}", run.stderr);
        assert!(run.stderr.contains("quantize_config.json"), "{}", run.stderr);
        assert!(!run.stderr.contains("is missing"), "{}", run.stderr);
    }
}

#[test]
fn auto_round_is_other_methods_layouts() {
    let folder = scratch();
    let packed_in = folder.path().join("packed");
    let check = |target: &str, format: &str| {
        packed("tiny/llama-tied", target, &packed_in);
        let (right, _) = decoded(&packed_in);
        edit_quantization(&packed_in, |config| {
            *config = json!({
                "quant_method": "auto-round", "packing_format": format, "bits": 4,
                "group_size": 64, "sym": true, "data_type": "int",
                "block_name_to_quantize": "model.layers"
            });
        });
        let (found, said) = decoded(&packed_in);
        assert!(found == right && !said.contains("zero point"), "{target} {format}: {said}");
        let run = quantize(&["verify", text(&packed_in)]);
        assert_eq!(run.code, 0, "{target} {format}: {}", run.stdout);
    };
    check("gptq:w4g64", "auto_round:auto_gptq");
    check("gptq:w4g64+v2", "auto_round:gptqmodel");
    check("awq:w4g64", "auto_round:auto_awq");
    check("ct:w4a16+g64", "auto_round:llm_compressor");
    check("fp8:tensor", "auto_round:fp8");
}

#[test]
fn what_tensors_contradict_is_named_by_every_job() {
    let folder = scratch();
    let packed_in = folder.path().join("packed");
    let check = |target: &str, edit: fn(&mut Value), expected: &str| {
        packed("tiny/llama-tied", target, &packed_in);
        let key = if target.starts_with("mlx") { "quantization" } else { "quantization_config" };
        edit_json(&packed_in.join("config.json"), |config| {
            edit(&mut config[key]);
        });
        let output = packed_in.with_extension("out");
        let source = fixtures().join("demo-llama/tokenizer.json");
        for command in [
            &["convert", text(&packed_in), "--to", "f16", "-o", text(&output)][..],
            &[
                "quantize",
                text(&packed_in),
                "--to",
                "q8_0",
                "--data",
                "default",
                "-o",
                text(&output),
            ],
            &["eval", text(&packed_in), "--data", text(&source)],
        ] {
            let run = quantize(command);
            assert_eq!(run.code, 3, "{command:?}: {}", run.stderr);
            assert!(run.stderr.contains(expected), "{target}: {}", run.stderr);
        }
    };
    check(
        "gptq:w4g64",
        |config| config["bits"] = json!(8),
        "quantization_config.bits: says 8, but model.layers.0.mlp.down_proj.qweight has codes of 4",
    );
    check(
        "gptq:w4g64",
        |config| config["group_size"] = json!(128),
        "quantization_config.group_size: says 128, but model.layers.0.mlp.down_proj.scales has 4 \
         groups for 256 inputs",
    );
    check(
        "gptq:w4",
        |config| config["group_size"] = json!(64),
        "quantization_config.group_size: says 64, but",
    );
    check(
        "awq:w4g64",
        |config| config["group_size"] = json!(-1),
        "quantization_config.group_size: says -1, but",
    );
    check(
        "ct:w4a16+g64",
        |config| config["config_groups"]["group_0"]["weights"]["num_bits"] = json!(8),
        "quantization_config.config_groups.group_0.weights.num_bits: says 8, but",
    );
    check(
        "ct:w4a16+g64",
        |config| config["config_groups"]["group_0"]["weights"]["group_size"] = json!(32),
        "quantization_config.config_groups.group_0.weights.group_size: says 32, but",
    );
    check(
        "ct:w4a16+asym+g64",
        |config| config["config_groups"]["group_0"]["weights"]["symmetric"] = json!(true),
        "weights.symmetric: says true, but model.layers.0.mlp.down_proj.weight_zero_point is there",
    );
    check(
        "bnb:nf4",
        |config| config["load_in_8bit"] = json!(true),
        "quantization_config.load_in_8bit: says true, but",
    );
    check(
        "mlx:w4g64",
        |config| config["bits"] = json!(8),
        "quantization_config.bits: says 8, and group_size 64, but",
    );
}

/// GPTQModel and auto-round give modules bits of their own.
#[test]
fn stated_exceptions_are_no_contradiction() {
    let folder = scratch();
    let packed_in = folder.path().join("packed");
    packed("tiny/llama-tied", "gptq:w8g64", &packed_in);
    let (right, _) = decoded(&packed_in);
    edit_quantization(&packed_in, |config| {
        config["bits"] = json!(4);
        config["group_size"] = json!(128);
        config["dynamic"] = json!({"+:.*layers.*": {"bits": 8, "group_size": 64}});
    });
    assert!(decoded(&packed_in).0 == right);
}
