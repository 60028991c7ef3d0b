//! Targets whose inputs engines round, too: what a checkpoint stores of inputs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Safetensors, edit_json, fixtures, quantize, scratch, text};

/// The exit code of what was asked for wrongly.
const USAGE: i32 = 2;

/// Tensors of one number whose names end so.
fn numbers(folder: &Path, suffix: &str) -> BTreeMap<String, f32> {
    let file = Safetensors::read(&folder.join("model.safetensors"));
    let header = file.header.as_object().expect("an object");
    let own = header.keys().filter_map(|name| Some((name, name.strip_suffix(suffix)?)));
    own.map(|(name, module)| {
        let start = file.start(name);
        let bytes: [u8; 4] = match file.header[name]["dtype"].as_str() {
            Some("F32") => file.data[start..start + 4].try_into().expect("four bytes"),
            _ => [0, 0, file.data[start], file.data[start + 1]],
        };
        (module.to_owned(), f32::from_le_bytes(bytes))
    })
    .collect()
}

#[test]
fn static_scales_need_a_text() {
    let folder = scratch();
    let (source, output) = (fixtures().join("demo-llama"), folder.path().join("out"));
    for target in ["ct:w8a8+static", "ct:fp8+static", "fp8:tensor+static", "ct:nvfp4a4"] {
        for command in ["convert", "quantize"] {
            let run = quantize(&[command, text(&source), "--to", target, "-o", text(&output)]);
            assert_eq!(run.code, USAGE, "{target}: {}", run.stderr);
            assert!(run.stderr.contains("which a text has to tell"), "{}", run.stderr);
            assert!(!output.exists());
        }
    }
}

/// Few tokens reach few experts: the others get what their siblings have, and are named. What
/// is multiplied as one matrix has one number.
#[test]
fn experts_without_tokens_get_the_largest_of_their_siblings() {
    let folder = scratch();
    let (source, output) = (fixtures().join("tiny/mixtral"), folder.path().join("out"));
    let tokens = folder.path().join("tokens");
    fs::write(&tokens, "3 1 4 1 5 9").expect("written");
    for (target, suffix, is_divisor) in [
        ("ct:nvfp4a4", ".input_global_scale", true),
        ("ct:w8a8+static", ".input_scale", false),
        ("fp8:tensor+static", ".input_scale", false),
    ] {
        let reads = ["--tokens", text(&tokens), "--ctx", "3", "--chunks", "1", "--method", "rtn"];
        let given = ["quantize", text(&source), "--to", target, "-o", text(&output)];
        let run = quantize(&[&given[..], &reads, &["--force", "--json"]].concat());
        let report = run.expect_success().json();
        let unseen = report["outputs"][0]["unseen_inputs"].as_array().expect("a list").clone();
        let scales = numbers(&output, suffix);
        assert_eq!(scales.len(), 2 * (4 + 3 * 8), "{target}");
        let attention = |name: &str| scales[&format!("model.layers.0.self_attn.{name}_proj")];
        assert_eq!([attention("k"), attention("v")], [attention("q"); 2], "{target}");
        assert_ne!(attention("o"), attention("q"), "{target}");
        for layer in 0..2 {
            let of = |expert: usize, matrix: &str| {
                let name = format!("layers.{layer}.block_sparse_moe.experts.{expert}.{matrix}");
                scales[&format!("model.{name}")]
            };
            let is_unseen = |expert: usize, kind: &str| {
                let tensor = format!("blk.{layer}.ffn_{kind}_exps.weight");
                unseen.iter().any(|own: &Value| own["tensor"] == tensor && own["expert"] == expert)
            };
            let seen: Vec<f32> = (0..8)
                .filter(|expert| !is_unseen(*expert, "down"))
                .map(|expert| of(expert, "w2"))
                .collect();
            // Three tokens, two experts each.
            assert!((1..=6).contains(&seen.len()), "{target}: {unseen:?}");
            let most = seen.iter().copied().reduce(if is_divisor { f32::min } else { f32::max });
            for expert in 0..8 {
                assert_eq!(of(expert, "w1"), of(expert, "w3"), "{target}");
                assert_eq!(is_unseen(expert, "gate"), is_unseen(expert, "down"), "{target}");
                if is_unseen(expert, "down") {
                    assert_eq!(Some(of(expert, "w2")), most, "{target}");
                }
            }
        }
        quantize(&["verify", text(&output), "--source", text(&source)]).expect_success();
    }
}

/// The first begins texts, as `eval` puts it there (`fixtures/make/golden_activations.py`).
fn golden_tokens() -> String {
    let others = (1..192u64).map(|number| 3 + (number * number * 7919 + number * 31) % 1000);
    std::iter::once(1150).chain(others).map(|token| format!("{token} ")).collect()
}

/// How well models predict whose inputs are rounded, beside what compressed-tensors computes.
#[test]
fn models_with_rounded_inputs_predict_as_the_package_says() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let (plain, packed, tokens) = (at("plain"), at("packed"), at("tokens"));
    fs::write(&tokens, golden_tokens()).expect("written");
    let demo = fixtures().join("demo-llama");
    quantize(&["convert", text(&demo), "--to", "safetensors:f32", "-o", text(&plain)])
        .expect_success();
    let eval = |path: &Path, activations: &str| {
        let reads = ["--tokens", text(&tokens), "--ctx", "96", "--chunks", "1", "--json"];
        let given = ["eval", text(path), "--activations", activations];
        let report = quantize(&[&given[..], &reads].concat()).expect_success().json();
        let perplexity = report["perplexity"]["value"].as_f64().expect("a number");
        (libm::log(perplexity), report)
    };
    let golden = fs::read(fixtures().join("golden-activations.json")).expect("read");
    let golden: BTreeMap<String, Value> = serde_json::from_slice(&golden).expect("JSON");
    let is_within = |found: f64, expected: &Value, most: f64| {
        (found - expected.as_f64().expect("a number")).abs() < most
    };
    let is_near = |found: f64, expected: &Value| is_within(found, expected, 2e-5);
    assert!(is_near(eval(&plain, "scheme").0, &golden["plain"]));
    for (case, expected) in golden.iter().filter(|(case, _)| case.contains(':')) {
        let (target, matrices) = case.split_once(' ').expect("two words");
        let given = ["quantize", text(&plain), "--to", target, "-o", text(&packed), "--force"];
        let mut reads = vec!["--tokens", text(&tokens), "--ctx", "96", "--method", "rtn"];
        if matrices == "first" {
            reads.extend(["--tensor-type", r"(blk\.[1-9]|attn_output|ffn)=f32"]);
        }
        quantize(&[&given[..], &reads].concat()).expect_success();
        let (rounded, report) = eval(&packed, "scheme");
        // A last bit decides which way a number at the middle of two goes, and with inputs that
        // are rounded again and again the difference grows.
        let (count, most) = if matrices == "first" { (3, 1e-4) } else { (28, 1e-2) };
        assert!(is_within(rounded, &expected["rounded"], most), "{case}: {rounded} {expected}");
        assert_eq!(report["rounded_inputs"][0]["matrices"], count, "{report}");
        let (as_they_are, report) = eval(&packed, "f32");
        assert!(is_near(as_they_are, &expected["plain"]), "{case}: {as_they_are} {expected}");
        assert!(report["rounded_inputs"].is_null(), "{report}");
    }
}

/// Inputs that become something unknown are no figure, unless they are left as they are.
#[test]
fn unknown_inputs_are_refused() {
    let folder = scratch();
    let (packed, tokens) = (folder.path().join("packed"), folder.path().join("tokens"));
    fs::write(&tokens, golden_tokens()).expect("written");
    let demo = fixtures().join("demo-llama");
    quantize(&["convert", text(&demo), "--to", "ct:w8a8", "-o", text(&packed)]).expect_success();
    edit_json(&packed.join("config.json"), |config| {
        config["quantization_config"]["config_groups"]["group_0"]["input_activations"]["symmetric"] =
            false.into();
    });
    let eval = |activations: &str| {
        let reads = ["--tokens", text(&tokens), "--ctx", "96", "--chunks", "1"];
        quantize(&[&["eval", text(&packed), "--activations", activations], &reads[..]].concat())
    };
    for activations in ["engine", "scheme"] {
        let run = eval(activations);
        assert_eq!(run.code, 5, "{}", run.stderr);
        let key = "quantization_config.config_groups.group_0.input_activations.symmetric";
        for expected in [key, "says false", "--activations f32"] {
            assert!(run.stderr.contains(expected), "{}", run.stderr);
        }
    }
    eval("f32").expect_success();
}

/// Error feedback is told what the engine multiplies: it loses less there than rounding does.
#[test]
fn feedback_sees_rounded_inputs() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let (rounded, chosen, tokens) = (at("rtn"), at("gptq"), at("tokens"));
    fs::write(&tokens, golden_tokens().repeat(8)).expect("written");
    let demo = fixtures().join("demo-llama");
    for (method, output) in [("rtn", &rounded), ("gptq", &chosen)] {
        let given = ["quantize", text(&demo), "--to", "ct:nvfp4a4", "-o", text(output)];
        let reads = ["--tokens", text(&tokens), "--ctx", "64", "--method", method];
        quantize(&[&given[..], &reads].concat()).expect_success();
    }
    // Both have the same numbers of inputs: those of the full model.
    let [before, after] = [&rounded, &chosen].map(|at| numbers(at, ".input_global_scale"));
    assert_eq!(before, after);
    let given = ["compare", text(&demo), text(&rounded), text(&chosen), "--activations", "scheme"];
    let reads = ["--tokens", text(&tokens), "--ctx", "64", "--json"];
    let report = quantize(&[&given[..], &reads].concat()).expect_success().json();
    let loss = |at: usize| report["models"][at]["kld"]["mean"]["value"].as_f64().expect("a number");
    assert!(loss(1) < 0.8 * loss(0), "{} {}", loss(0), loss(1));
}

/// All numbers of a tensor of a packed folder whose scales are in f32.
fn scales(folder: &Path, name: &str) -> (Value, Vec<f32>) {
    let file = Safetensors::read(&folder.join("model.safetensors"));
    let shape = file.header[name]["shape"].clone();
    let end = file.header[name]["data_offsets"][1].as_u64().expect("an offset") as usize;
    let numbers = file.data[file.start(name)..end].as_chunks().0.iter();
    (shape, numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

#[test]
fn scales_of_the_cache_are_what_transformers_caches() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let (plain, packed, tokens, back) = (at("plain"), at("packed"), at("tokens"), at("back.gguf"));
    fs::write(&tokens, golden_tokens()).expect("written");
    let demo = fixtures().join("demo-llama");
    quantize(&["convert", text(&demo), "--to", "safetensors:f32", "-o", text(&plain)])
        .expect_success();
    let golden = fs::read(fixtures().join("golden-activations.json")).expect("read");
    let golden: Value = serde_json::from_slice(&golden).expect("JSON");
    let layers = golden["cached"].as_array().expect("a list").clone();
    for (target, kind, strategy) in [
        ("ct:w8a8", "fp8", json!("tensor")),
        ("ct:w4a16", "fp8+head", json!("attn_head")),
        ("fp8:block128", "fp8", Value::Null),
    ] {
        let given = ["quantize", text(&plain), "--to", target, "-o", text(&packed), "--force"];
        let reads = ["--tokens", text(&tokens), "--ctx", "96", "--method", "rtn"];
        quantize(&[&given[..], &reads, &["--kv-scales", kind]].concat()).expect_success();
        for (number, layer) in layers.iter().enumerate() {
            for (at, name) in ["k_scale", "v_scale"].into_iter().enumerate() {
                let heads = layer[at].as_array().expect("heads");
                let heads: Vec<f64> = heads.iter().filter_map(Value::as_f64).collect();
                let name = format!("model.layers.{number}.self_attn.{name}");
                let (shape, found) = scales(&packed, &name);
                let (expected, dimensions) = match kind {
                    "fp8" => (vec![heads.iter().copied().fold(0.0, f64::max)], json!([1])),
                    _ => (heads.clone(), json!([heads.len(), 1, 1])),
                };
                let dimensions = if target.starts_with("fp8") { json!([]) } else { dimensions };
                assert_eq!(shape, dimensions, "{target} {name}");
                assert_eq!(found.len(), expected.len(), "{target} {name}");
                for (found, expected) in found.iter().zip(&expected) {
                    let distance = (f64::from(*found) * 448.0 / expected - 1.0).abs();
                    assert!(distance < 1e-5, "{target} {name}: {found} {expected}");
                }
            }
        }
        let config = fs::read(packed.join("config.json")).expect("read");
        let config: Value = serde_json::from_slice(&config).expect("JSON");
        let stated = &config["quantization_config"]["kv_cache_scheme"];
        match target.starts_with("fp8") {
            true => assert_eq!(stated, "static"),
            false => assert_eq!(stated["strategy"], strategy),
        }
        let run = quantize(&["verify", text(&packed), "--source", text(&plain)]);
        assert_eq!(run.code, 0, "{}", run.stdout);
        let converted = ["convert", text(&packed), "--to", "f16", "-o", text(&back), "--force"];
        let run = quantize(&converted).expect_success();
        assert!(run.stderr.contains("changes no weight"), "{}", run.stderr);
    }
}

#[test]
fn what_caches_no_keys_and_values_is_refused_by_name() {
    let folder = scratch();
    let tokens = folder.path().join("tokens");
    fs::write(&tokens, "3 1 4 1 5 9").expect("written");
    let check = |source: &str, target: &str, kind: &str, expected: &str| {
        let source = fixtures().join(source);
        let output = folder.path().join("out");
        let given = ["quantize", text(&source), "--to", target, "-o", text(&output)];
        let reads = ["--tokens", text(&tokens), "--ctx", "3", "--method", "rtn"];
        let run = quantize(&[&given[..], &reads, &["--kv-scales", kind]].concat());
        assert_eq!(run.code, USAGE, "{source:?}: {}", run.stderr);
        assert!(run.stderr.contains(expected), "{source:?}: {}", run.stderr);
    };
    check("tiny/deepseek2", "ct:w8a8", "fp8", "deepseek2 has latent attention");
    check("tiny/mamba", "ct:w8a8", "fp8", "mamba keeps no keys and values");
    check("demo-llama", "fp8:tensor", "fp8+head", "has no place for a scale of each head");
    check("demo-llama", "gptq:w4g128", "fp8", "has no place for scales of keys and values");
    check("demo-llama", "q4_0", "fp8", "q4_0: it has no place for them");
}
