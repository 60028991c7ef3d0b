//! Mixtures of experts: the layouts that checkpoints have, and faults in one
//! expert of many.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::bad_input::{BAD_INPUT, NUMERIC, WEIGHTS, bend_config, bend_weights, check};
use crate::support::{Safetensors, copy_of, edit_json, fixtures, quantize, scratch, text};

const MIXTRAL: &str = "tiny/mixtral";
const EXPERTS: usize = 8;
const HIDDEN: usize = 64;
const INNER: usize = 64;
/// Bytes of one expert's matrix.
const MATRIX: usize = 2 * HIDDEN * INNER;

fn expert(layer: usize, expert: usize, matrix: &str) -> String {
    format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{matrix}.weight")
}

/// Rewrites the weights as transformers 5 has them in memory: all experts in one
/// tensor, gates and up projections together.
fn fuse(checkpoint: &Path) {
    bend_weights(checkpoint, |file| {
        let mut fused = Safetensors { header: json!({}), data: Vec::new() };
        let mut add = |name: &str, shape: Value, bytes: &[u8]| {
            let start = fused.data.len();
            fused.data.extend_from_slice(bytes);
            fused.header[name] = json!({
                "dtype": "BF16", "shape": shape, "data_offsets": [start, fused.data.len()],
            });
        };
        let bytes_of = |name: &str| {
            let end = file.header[name]["data_offsets"][1].as_u64().expect("an offset");
            &file.data[file.start(name)..end as usize]
        };
        let names: Vec<&String> = file.header.as_object().expect("an object").keys().collect();
        for name in names {
            let shape = file.header[name]["shape"].clone();
            if name == "__metadata__" || name.contains(".experts.") {
                continue;
            }
            add(&name.replace("block_sparse_moe.gate", "mlp.gate"), shape, bytes_of(name));
        }
        for layer in 0..2 {
            let stack = |matrices: &[&str]| -> Vec<u8> {
                let names = (0..EXPERTS)
                    .flat_map(|of| matrices.iter().map(move |matrix| expert(layer, of, matrix)));
                names.flat_map(|name| bytes_of(&name).to_vec()).collect()
            };
            let prefix = format!("model.layers.{layer}.mlp.experts");
            let gate_and_up = stack(&["w1", "w3"]);
            add(
                &format!("{prefix}.gate_up_proj"),
                json!([EXPERTS, 2 * INNER, HIDDEN]),
                &gate_and_up,
            );
            add(&format!("{prefix}.down_proj"), json!([EXPERTS, HIDDEN, INNER]), &stack(&["w2"]));
        }
        *file = fused;
    });
}

fn convert(checkpoint: &Path, target: &str, output: &Path) -> Vec<u8> {
    let arguments = ["convert", text(checkpoint), "--to", target, "-o", text(output), "--force"];
    quantize(&arguments).expect_success();
    fs::read(output).expect("read")
}

#[test]
fn fused_experts_give_the_same_file() {
    let folder = scratch();
    let fused = copy_of(MIXTRAL, folder.path());
    fuse(&fused);
    let output = folder.path().join("out.gguf");
    // The name of a model is that of its folder.
    edit_json(&fused.join("config.json"), |config| config["_name_or_path"] = json!("mixtral"));
    let named = scratch();
    let plain = copy_of(MIXTRAL, named.path());
    edit_json(&plain.join("config.json"), |config| config["_name_or_path"] = json!("mixtral"));
    for target in ["f32", "f16", "q8_0"] {
        let expected = convert(&plain, target, &output);
        assert!(convert(&fused, target, &output) == expected, "{target}");
        let arguments = ["verify", text(&output), "--source", text(&fused)];
        quantize(&arguments).expect_success();
    }
}

#[test]
fn verify_reads_experts_where_they_lie() {
    let folder = scratch();
    let output = folder.path().join("out.gguf");
    convert(&fixtures().join(MIXTRAL), "q8_0", &output);
    let other = copy_of(MIXTRAL, folder.path());
    bend_weights(&other, |file| {
        // Two experts change places.
        let (first, second) = (file.start(&expert(1, 2, "w2")), file.start(&expert(1, 5, "w2")));
        let (early, late) = (first.min(second), first.max(second));
        let (head, tail) = file.data.split_at_mut(late);
        head[early..early + MATRIX].swap_with_slice(&mut tail[..MATRIX]);
    });
    let arguments = ["verify", text(&output), "--source", text(&other), "--json"];
    let run = quantize(&arguments);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let findings = run.json()["findings"].clone();
    assert_eq!(findings.as_array().map(Vec::len), Some(1), "{findings}");
    assert_eq!(findings[0]["tensor"], "blk.1.ffn_down_exps.weight");
}

/// Puts these bits at a weight of a tensor; returns the weight's byte in the file.
fn poison(checkpoint: &Path, name: &str, index: usize, bits: u16) -> u64 {
    let mut place = 0;
    bend_weights(checkpoint, |file| {
        place = file.start(name) + 2 * index;
        file.data[place..place + 2].copy_from_slice(&bits.to_le_bytes());
    });
    let bytes = fs::read(checkpoint.join(WEIGHTS)).expect("read");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
    8 + header + place as u64
}

/// Poisons a copy and says where the error must be.
#[track_caller]
fn check_poison(prepare: fn(&Path), name: &str, index: usize, bits: u16, expected: &[&str]) {
    let folder = scratch();
    let checkpoint = copy_of(MIXTRAL, folder.path());
    prepare(&checkpoint);
    let place = poison(&checkpoint, name, index, bits);
    let output = folder.path().join("out.gguf");
    let run = quantize(&["convert", text(&checkpoint), "--to", "q8_0", "-o", text(&output)]);
    assert_eq!(run.code, NUMERIC, "{}", run.stderr);
    let byte = if bits == HUGE { String::new() } else { format!("at byte {place}") };
    for part in expected.iter().copied().chain([name, &byte]) {
        assert!(run.stderr.contains(part), "{part:?} is not in: {}", run.stderr);
    }
}

/// Not a number, and 1e30, in bfloat16.
const NAN: u16 = 0x7fc0;
const HUGE: u16 = 0x714a;

#[test]
fn a_bad_weight_of_one_expert_is_named() {
    let as_is = |_: &Path| {};
    for (matrix, of) in [("w1", 0), ("w2", 5), ("w3", 7)] {
        let name = expert(1, of, matrix);
        check_poison(as_is, &name, 777, NAN, &["weight 777", "NaN"]);
        check_poison(as_is, &name, 3 * HIDDEN + 1, HUGE, &["row 3 ", "1.0002", "Q8_0"]);
    }
    let fused = "model.layers.1.mlp.experts.gate_up_proj";
    for row in [0, INNER, 5 * INNER + 3, 14 * INNER + 9, 15 * INNER + 63] {
        let index = row * HIDDEN + 5;
        check_poison(fuse, fused, index, NAN, &[&format!("weight {index} is NaN")]);
        check_poison(fuse, fused, index, HUGE, &[&format!("row {row} ")]);
    }
}

#[test]
fn experts_are_checked_against_the_configuration() {
    let name = expert(1, 6, "w3");
    let bend =
        |bend: fn(&mut Value)| move |at: &Path| bend_weights(at, |file| bend(&mut file.header));
    let without = |header: &mut Value| {
        let name = expert(1, 6, "w3");
        header.as_object_mut().expect("an object").remove(&name);
    };
    check(MIXTRAL, bend(without), BAD_INPUT, &[]);
    let renamed = |header: &mut Value| {
        let (from, to) = (expert(1, 6, "w3"), expert(1, 8, "w3"));
        let entry = header.as_object_mut().expect("an object").remove(&from).expect("an expert");
        header[to] = entry;
    };
    let missing = format!("{name} is missing, expected [64, 64] (num_local_experts is 8)");
    let unknown = format!("{} [64, 64] is unknown (num_local_experts is 8)", expert(1, 8, "w3"));
    check(MIXTRAL, bend(renamed), BAD_INPUT, &[&missing, &unknown]);
    let reshaped = |header: &mut Value| header[expert(1, 6, "w3")]["shape"] = json!([32, 128]);
    let shape = format!("{name} is [32, 128], expected [64, 64]");
    check(MIXTRAL, bend(reshaped), BAD_INPUT, &[&shape]);
    let retyped = |header: &mut Value| header[expert(1, 6, "w3")]["dtype"] = json!("F16");
    let mixed = format!("{name} is F16, the layer's other experts are BF16");
    check(MIXTRAL, bend(retyped), BAD_INPUT, &[&mixed]);

    let config = |key: &'static str, value: Value| move |at: &Path| bend_config(at, key, value);
    let fewer = [" is unknown (num_local_experts is 6)", "block_sparse_moe.gate.weight is [8, 64]"];
    check(MIXTRAL, config("num_local_experts", json!(6)), BAD_INPUT, &fewer);
    let range = "num_local_experts: is 1, expected an integer from 2 to 1024";
    check(MIXTRAL, config("num_local_experts", json!(1)), BAD_INPUT, &[range]);
    let huge = config("num_local_experts", json!(1_000_000_000));
    check(MIXTRAL, huge, BAD_INPUT, &["is 1000000000, expected"]);
    let used = "num_experts_per_tok: is 9, expected an integer from 1 to 8";
    check(MIXTRAL, config("num_experts_per_tok", json!(9)), BAD_INPUT, &[used]);
    let many = |at: &Path| {
        bend_config(at, "num_local_experts", json!(1024));
        bend_config(at, "num_hidden_layers", json!(10_000));
    };
    let start = std::time::Instant::now();
    check(MIXTRAL, many, BAD_INPUT, &["are not those of a llama model", " more"]);
    assert!(start.elapsed().as_secs() < 10);
}
