//! Packed folders in which some matrices have another scheme than the target's: what the
//! configuration says of them, that they are read back, and what cannot be.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Run, fixtures, quantize, scratch, text};

fn demo() -> PathBuf {
    fixtures().join("demo-llama")
}

fn experts() -> PathBuf {
    fixtures().join("tiny/qwen3moe")
}

fn convert(source: &Path, target: &str, wishes: &[&str], output: &Path) -> Run {
    let fixed = ["convert", text(source), "--to", target, "-o", text(output), "--force"];
    let wishes = wishes.iter().flat_map(|wish| ["--tensor-type", wish]);
    quantize(&fixed.into_iter().chain(wishes).collect::<Vec<_>>())
}

fn quantization(folder: &Path, key: &str) -> Value {
    let bytes = fs::read(folder.join("config.json")).expect("read");
    serde_json::from_slice::<Value>(&bytes).expect("JSON")[key].clone()
}

/// The bits that a weight of a tensor takes.
fn bits(folder: &Path, name: &str) -> f64 {
    let report = quantize(&["inspect", text(folder), "--json", "-v"]).expect_success().json();
    let tensors = report["tensors"].as_array().expect("a list");
    let found = tensors.iter().find(|tensor| tensor["name"] == name);
    let tensor = found.unwrap_or_else(|| panic!("{name}: {report}"));
    let weights: f64 =
        tensor["shape"].as_array().expect("sizes").iter().filter_map(Value::as_f64).product();
    tensor["bytes"].as_f64().expect("bytes") * 8.0 / weights
}

/// Weights are near the source's, and the engines' rules find nothing.
fn check_sound(folder: &Path, source: &Path, engines: &[&str]) {
    quantize(&["verify", text(folder), "--source", text(source)]).expect_success();
    for engine in engines {
        quantize(&["verify", text(folder), "--for", engine]).expect_success();
    }
}

const ENGINES: [&str; 3] = ["vllm", "sglang", "transformers"];

#[test]
fn groups_of_compressed_tensors() {
    let folder = scratch();
    let output = folder.path().join("out");
    convert(&demo(), "ct:w4a16", &["ffn_down=ct:w8a16+g32"], &output).expect_success();
    let config = quantization(&output, "quantization_config");
    let group = |number: usize| &config["config_groups"][format!("group_{number}")];
    let down: Vec<String> =
        (0..4).map(|layer| format!("model.layers.{layer}.mlp.down_proj")).collect();
    assert_eq!(config["format"], "pack-quantized");
    assert_eq!(group(0)["targets"], json!(["Linear"]));
    assert_eq!(group(0)["weights"]["num_bits"], 4);
    assert_eq!(group(1)["targets"], json!(down));
    assert_eq!(group(1)["weights"]["num_bits"], 8);
    assert_eq!(group(1)["weights"]["group_size"], 32);
    assert_eq!(config["ignore"], json!(["lm_head"]));
    check_sound(&output, &demo(), &ENGINES);

    let wishes = [r"attn_(q|k|v)\.=ct:nvfp4", "attn_output=bf16"];
    convert(&demo(), "ct:w4a16", &wishes, &output).expect_success();
    let config = quantization(&output, "quantization_config");
    assert_eq!(config["format"], "mixed-precision");
    assert_eq!(config["config_groups"]["group_0"]["format"], "pack-quantized");
    assert_eq!(config["config_groups"]["group_1"]["format"], "nvfp4-pack-quantized");
    let left = config["ignore"].as_array().expect("a list");
    assert_eq!(left.len(), 5, "{config}");
    check_sound(&output, &demo(), &ENGINES);

    convert(&experts(), "ct:w4a16+g32", &["exps=ct:w8a16+g32"], &output).expect_success();
    let config = quantization(&output, "quantization_config");
    let targets = config["config_groups"]["group_1"]["targets"].as_array().expect("a list");
    assert_eq!(targets.len(), 6, "{config}");
    assert_eq!(targets[0], r"re:(.*\.)?layers\.0\.mlp\.experts\.\d+\.down_proj$");
    check_sound(&output, &experts(), &["vllm", "transformers"]);
}

#[test]
fn rules_of_gptq() {
    let folder = scratch();
    let output = folder.path().join("out");
    let wishes = [r"attn_(q|k|v)\.=gptq:w8g64", r"blk\.0\.ffn_down=bf16"];
    convert(&demo(), "gptq:w4g128", &wishes, &output).expect_success();
    let rules = &quantization(&output, "quantization_config")["dynamic"];
    let own = json!({"bits": 8, "group_size": 64, "sym": true});
    for name in ["k_proj", "q_proj", "v_proj", "qkv_proj"] {
        let rule = format!(r"+:^model\.layers\.(?:0|1|2|3)\.self_attn\.{name}$");
        assert_eq!(rules[&rule], own, "{rules}");
    }
    assert_eq!(rules[r"-:^model\.layers\.0\.mlp\.down_proj$"], json!({}));
    assert_eq!(rules.as_object().expect("rules").len(), 5, "{rules}");
    check_sound(&output, &demo(), &ENGINES);
}

#[test]
fn modules_of_mlx() {
    let folder = scratch();
    let output = folder.path().join("out");
    let wishes = ["token_embd=mlx:w8g64", "ffn_down=mlx:w6g32", "attn_v=mlx:w8g32"];
    convert(&demo(), "mlx:w4g64", &wishes, &output).expect_success();
    let config = quantization(&output, "quantization");
    let of =
        |module: &str| (config[module]["bits"].as_u64(), config[module]["group_size"].as_u64());
    assert_eq!(of("model.embed_tokens"), (Some(8), Some(64)));
    assert_eq!(of("model.layers.3.mlp.down_proj"), (Some(6), Some(32)));
    assert_eq!(of("model.layers.1.self_attn.v_proj"), (Some(8), Some(32)));
    assert_eq!(of("model.layers.1.self_attn.q_proj"), (None, None));
    check_sound(&output, &demo(), &["mlx"]);

    convert(&experts(), "mlx:w4g32", &["up_exps=mlx:w8g32"], &output).expect_success();
    let config = quantization(&output, "quantization");
    assert_eq!(config["model.layers.1.mlp.switch_mlp.up_proj"]["bits"], 8);
    check_sound(&output, &experts(), &["mlx"]);
}

#[test]
fn layers_of_modelopt() {
    let folder = scratch();
    let output = folder.path().join("out");
    let wishes = ["ffn_down=modelopt:mxfp8", "attn_output=bf16"];
    convert(&demo(), "modelopt:nvfp4a16", &wishes, &output).expect_success();
    let config = quantization(&output, "quantization_config");
    let layers = &config["quantized_layers"];
    assert_eq!(config["quant_algo"], "MIXED_PRECISION");
    let of = |module: &str| layers[format!("model.layers.2.{module}")].clone();
    assert_eq!(of("mlp.down_proj"), json!({"quant_algo": "MXFP8", "group_size": 32}));
    assert_eq!(of("mlp.up_proj"), json!({"quant_algo": "W4A16_NVFP4", "group_size": 16}));
    assert_eq!(of("self_attn.o_proj"), Value::Null);
    assert_eq!(layers.as_object().expect("layers").len(), 24);
    check_sound(&output, &demo(), &["vllm", "sglang"]);
}

/// A method works on the values of each matrix' own scheme.
#[test]
fn methods_work_on_each_scheme() {
    let folder = scratch();
    let output = folder.path().join("out");
    let source = demo();
    let fixed = ["quantize", text(&source), "--to", "ct:w4a16", "-o", text(&output), "--json"];
    let rest = ["--data", "default", "--ctx", "64", "--chunks", "2", "--tensor-type"];
    let run = quantize(&[&fixed[..], &rest, &["ffn_down=ct:w8a16"]].concat()).expect_success();
    let report = run.json();
    let tensors = report["outputs"][0]["methods"].as_array().expect("a list");
    let loss = |name: &str| {
        let found = tensors.iter().find(|tensor| tensor["tensor"] == name).expect("listed");
        found["losses"]["result"].as_f64().expect("a number")
    };
    // Four more bits are sixteen times finer steps.
    assert!(loss("blk.0.ffn_down.weight") < loss("blk.0.ffn_up.weight") / 64.0, "{report}");
    check_sound(&output, &demo(), &ENGINES);
}

#[test]
fn what_does_not_mix_is_refused() {
    let folder = scratch();
    let output = folder.path().join("out");
    let check = |source: &Path, target: &str, wish: &str, expected: &str| {
        let run = convert(source, target, &[wish], &output);
        assert_eq!(run.code, 2, "{target} {wish}: {}", run.stderr);
        assert!(run.stderr.contains(expected), "{}", run.stderr);
    };
    let together = "engines want one scheme for both";
    check(&demo(), "ct:w4a16", "attn_v=ct:w8a16", together);
    check(&demo(), "gptq:w4g128", "ffn_up=gptq:w8g128", together);
    check(&experts(), "ct:w4a16+g32", "down_exps=ct:w8a16+g32", together);
    check(
        &demo(),
        "gptq:w4g128",
        "ffn_down=gptq:w4g128+v2",
        "the configuration's checkpoint_format holds for all matrices",
    );
    for (target, wish) in [
        ("awq:w4g128", "ffn_down=awq:w4g64"),
        ("fp8:block128", "ffn_down=fp8:tensor"),
        ("bnb:nf4", "ffn_down=bnb:int8"),
    ] {
        check(&demo(), target, wish, "has one scheme for all matrices");
    }
    check(&demo(), "ct:w4a16", "ffn_down=ct:w9a16", "no such target: ct:w9a16");
    check(&demo(), "ct:w4a16", "ffn_down=safetensors:f16", "no scheme of packed matrices");
}

#[test]
fn wishes_of_other_formats_are_passed_over() {
    let folder = scratch();
    let output = folder.path().join("out");
    let wishes = ["ffn_down=gptq:w8g128", "ffn_down=q6_k", "ffn_down=ct:w8a16"];
    let run = convert(&demo(), "ct:w4a16", &wishes, &output).expect_success();
    for idle in &wishes[..2] {
        let name = idle.replace("q6_k", "Q6_K");
        let expected = format!("--tensor-type {name} has no effect");
        assert!(run.stderr.contains(&expected), "{}", run.stderr);
    }
    assert!(bits(&output, "blk.1.ffn_down.weight") > 8.0);
    assert!(bits(&output, "blk.1.ffn_up.weight") < 5.0);
    // The usual scheme, named once more, is the usual one.
    convert(&demo(), "ct:w4a16", &["attn_v=ct:w4a16+g128"], &output).expect_success();
    let config = quantization(&output, "quantization_config");
    assert_eq!(config["config_groups"].as_object().expect("groups").len(), 1, "{config}");
}
