//! Targets whose inputs engines round, too: what a checkpoint stores of inputs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Safetensors, fixtures, quantize, scratch, text};

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
