//! Models without some of their layers.

use std::fs;

use qz_gguf::GgufFile;
use qz_tensor::TensorSource;
use sha2::{Digest, Sha256};

use crate::support::{Run, fixtures, quantize, scratch, tensor, text};

fn pruned(source: &str, layers: &str, target: &str, output: &str, more: &[&str]) -> Run {
    let given = ["convert", source, "--to", target, "--prune-layers", layers, "-o", output];
    quantize(&[&given[..], more].concat())
}

/// What llama-quantize makes of the same file (`--prune-layers 1`, build of llama-cpp-python
/// 0.3.36): all tensors, behind the metadata, whose order is another one there.
const OF_REFERENCE: &str = "db8e32790b58e51af13af91181009050405c6800fd2ed645601ce75426d22dd8";

#[test]
fn tensors_are_those_of_the_reference() {
    let folder = scratch();
    let [whole, left] = ["whole.gguf", "left.gguf"].map(|name| folder.path().join(name));
    let source = fixtures().join("demo-llama");
    quantize(&["convert", text(&source), "--to", "f16", "-o", text(&whole)]).expect_success();
    let again = ["--allow-requantize"];
    pruned(text(&whole), "1", "q4_k_m", text(&left), &again).expect_success();
    let bytes = fs::read(&left).expect("a file");
    let tail = &bytes[bytes.len() - 1_450_000..];
    assert_eq!(format!("{:x}", Sha256::digest(tail)), OF_REFERENCE);
}

#[test]
fn layers_that_are_left_move_up() {
    let folder = scratch();
    let [whole, left] = ["whole.gguf", "left.gguf"].map(|name| folder.path().join(name));
    let source = fixtures().join("demo-llama");
    quantize(&["convert", text(&source), "--to", "f16", "-o", text(&whole)]).expect_success();
    pruned(text(&source), "0,2-2", "f16", text(&left), &[]).expect_success();
    let file = GgufFile::open(&left).expect("a file");
    assert_eq!(file.metadata().unsigned("llama.block_count"), Some(2));
    assert!(!file.tensors().iter().any(|info| info.name.starts_with("blk.2.")));
    for (new, old) in [(0, 1), (1, 3)] {
        for part in ["attn_q", "attn_norm", "ffn_down"] {
            let [own, its] = [(&left, new), (&whole, old)]
                .map(|(path, layer)| tensor(path, &format!("blk.{layer}.{part}.weight")));
            assert_eq!(own, its, "{part} of layer {old}");
        }
    }
    let data = fixtures().join("demo-llama/tokenizer.json");
    let given = ["eval", text(&left), "--data", text(&data), "--ctx", "64", "--chunks", "1"];
    quantize(&given).expect_success();
}

#[test]
fn statistics_are_those_of_the_whole_model() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let source = fixtures().join("demo-llama");
    let data = source.join("tokenizer.json");
    let given = ["calibrate", text(&source), "--data", text(&data), "--ctx", "64"];
    let (statistics, whole, left) = (at("stats.gguf"), at("whole.gguf"), at("left.gguf"));
    quantize(&[&given[..], &["--chunks", "4", "-o", text(&statistics)]].concat()).expect_success();
    let importance = ["--imatrix", text(&statistics), "--pure"];
    let given = ["convert", text(&source), "--to", "iq3_s", "-o", text(&whole)];
    quantize(&[&given[..], &importance].concat()).expect_success();
    pruned(text(&source), "1", "iq3_s", text(&left), &importance).expect_success();
    let of = |path, layer| tensor(path, &format!("blk.{layer}.attn_q.weight"));
    assert!(of(&left, 1) == of(&whole, 2) && of(&left, 2) == of(&whole, 3));
}

#[test]
fn what_cannot_be_left_out_is_told() {
    let folder = scratch();
    let output = folder.path().join("out");
    let check = |model: &str, layers: &str, target: &str, code: i32, expected: &str| {
        let run = pruned(text(&fixtures().join(model)), layers, target, text(&output), &[]);
        assert!(run.code == code && run.stderr.contains(expected), "{}: {}", run.code, run.stderr);
    };
    check("demo-llama", "0-3", "f16", 5, "none of its 4 layers would be left");
    check("demo-llama", "1,4", "f16", 5, "there is no layer 4 to leave out: it has 4, from 0 on");
    check("demo-llama", "3-1", "f16", 2, "not the number of a layer");
    check("demo-llama", "1", "ct:w4a16+g32", 5, "layers are left out of GGUF files alone");
    // Every sixth layer sees the whole text, the others a window.
    check("tiny/gemma3", "0", "f16", 5, "layer 5 would become layer 4, where gemma3 computes");
    check("tiny/gemma3n", "0", "f16", 3, "shared_kv_layers");
}

/// Layers before the first with experts, and those of a list.
#[test]
fn facts_about_layers_follow_them() {
    let folder = scratch();
    let check = |model: &str, key: &str, expected: u64| {
        let output = folder.path().join(format!("{model}.gguf"));
        let source = fixtures().join("tiny").join(model);
        pruned(text(&source), "0", "f16", text(&output), &[]).expect_success();
        let file = GgufFile::open(&output).expect("a file");
        assert_eq!(file.metadata().unsigned(key), Some(expected), "{key}");
    };
    check("deepseek2", "deepseek2.leading_dense_block_count", 0);
    check("mixtral", "llama.block_count", 1);
}
