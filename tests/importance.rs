//! Importance matrices: what they weigh, and how they can be wrong. That the
//! result is the reference's is in `golden.rs`.

use std::path::Path;

use qz_tensor::{DataType, Metadata, Value};

use crate::support::{fixtures, names, quantize, scratch, tensor, text, write_gguf};

const ROWS: usize = 5;
const COLUMNS: usize = 256;
const EXPERTS: usize = 3;

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    let number = |index: usize| ((index * 7919 + seed * 104_729) % 1009) as f32 / 1009.0;
    (0..count).map(number).collect()
}

fn model(experts: u32) -> Metadata {
    [
        ("general.architecture", Value::from("llama")),
        ("general.type", "model".into()),
        ("llama.block_count", 4u32.into()),
        ("llama.expert_count", experts.into()),
    ]
    .into_iter()
    .collect()
}

fn statistics() -> Metadata {
    [
        ("general.type", Value::from("imatrix")),
        ("imatrix.datasets", vec!["some.txt".to_owned()].into()),
        ("imatrix.chunk_count", 3u32.into()),
        ("imatrix.chunk_size", 512u32.into()),
    ]
    .into_iter()
    .collect()
}

fn convert(source: &Path, target: &str, importance: &Path, output: &Path) -> crate::support::Run {
    let arguments = ["convert", text(source), "--to", target, "--imatrix", text(importance)];
    quantize(&[&arguments[..], &["-o", text(output), "--json"]].concat())
}

/// Experts stacked in one tensor get what each alone would get, although a tile
/// holds rows of several.
#[test]
fn each_expert_has_its_own_importance() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let weights = numbers(EXPERTS * ROWS * COLUMNS, 1);
    let sums = numbers(EXPERTS * COLUMNS, 2);
    let name = "blk.3.ffn_up_exps.weight";
    let shape = [EXPERTS as u64, ROWS as u64, COLUMNS as u64];
    write_gguf(&at("stacked.gguf"), &model(3), &[(name, &shape, &weights)]);
    let (sums_name, counts_name) = (format!("{name}.in_sum2"), format!("{name}.counts"));
    let stacked: &[(&str, &[u64], &[f32])] = &[
        (&sums_name, &[EXPERTS as u64, COLUMNS as u64], &sums),
        (&counts_name, &[EXPERTS as u64, 1], &[2.0, 0.0, 5.0]),
    ];
    write_gguf(&at("stacked.imatrix"), &statistics(), stacked);
    convert(&at("stacked.gguf"), "q4_k_s", &at("stacked.imatrix"), &at("out.gguf"))
        .expect_success();
    let (data_type, together) = tensor(&at("out.gguf"), name);
    assert_eq!(data_type, DataType::Q4_K);

    let mut alone = Vec::new();
    for (expert, count) in [2.0, 1.0, 5.0].into_iter().enumerate() {
        let single = "blk.3.ffn_up.weight";
        let own = &weights[expert * ROWS * COLUMNS..][..ROWS * COLUMNS];
        let [model_file, matrix, output] = ["single.gguf", "single.imatrix", "single-out.gguf"]
            .map(|file| at(&format!("{expert}-{file}")));
        write_gguf(&model_file, &model(0), &[(single, &[ROWS as u64, COLUMNS as u64], own)]);
        // Of the second nothing was counted: all its columns weigh the same.
        let own_sums = match expert {
            1 => vec![1.0; COLUMNS],
            _ => sums[expert * COLUMNS..][..COLUMNS].to_vec(),
        };
        let entry: &[(&str, &[u64], &[f32])] = &[
            ("blk.3.ffn_up.weight.in_sum2", &[1, COLUMNS as u64], &own_sums),
            ("blk.3.ffn_up.weight.counts", &[1, 1], &[count]),
        ];
        write_gguf(&matrix, &statistics(), entry);
        convert(&model_file, "q4_k_s", &matrix, &output).expect_success();
        alone.extend(tensor(&output, single).1);
    }
    assert!(together == alone);
    // And importance changes something.
    let plain = at("plain.gguf");
    quantize(&["convert", text(&at("stacked.gguf")), "--to", "q4_k_s", "-o", text(&plain)])
        .expect_success();
    assert!(tensor(&plain, name).1 != together);
}

#[test]
fn bad_importance_is_refused_before_any_work() {
    let folder = scratch();
    let [source, matrix, output] =
        ["model.gguf", "matrix.gguf", "out.gguf"].map(|name| folder.path().join(name));
    let (name, weights) = ("blk.0.ffn_up.weight", numbers(2 * COLUMNS, 1));
    write_gguf(&source, &model(0), &[(name, &[2, COLUMNS as u64], &weights)]);
    let check = |values: &[f32], target: &str, code: i32, rule: &str, file: Option<&Path>| {
        let width = [1, values.len() as u64];
        let entry: &[(&str, &[u64], &[f32])] = &[
            ("blk.0.ffn_up.weight.in_sum2", &width, values),
            ("blk.0.ffn_up.weight.counts", &[1], &[1.0]),
        ];
        write_gguf(&matrix, &statistics(), entry);
        let run = convert(&source, target, &matrix, &output);
        assert_eq!(run.code, code, "{}", run.stderr);
        let error = &run.json()["error"];
        assert_eq!((error["rule"].as_str(), error["tensor"].as_str()), (Some(rule), Some(name)));
        assert_eq!(error["file"].as_str(), file.map(text));
        std::fs::remove_file(&matrix).expect("removed");
        assert_eq!(names(folder.path()), ["model.gguf"]);
    };
    let mut broken = numbers(COLUMNS, 3);
    broken[17] = f32::NAN;
    check(&broken, "q4_k_m", 6, "non-finite-importance", Some(&matrix));
    check(&[1.0; COLUMNS + 1], "q4_k_m", 3, "importance-width", Some(&matrix));
}

#[test]
fn missing_importance_is_told_or_refused() {
    let folder = scratch();
    let [source, matrix, output] =
        ["model.gguf", "matrix.gguf", "out.gguf"].map(|name| folder.path().join(name));
    let weights = numbers(2 * COLUMNS, 1);
    let shape: &[u64] = &[2, COLUMNS as u64];
    let tensors = ["blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "token_embd.weight"];
    write_gguf(&source, &model(0), &tensors.map(|name| (name, shape, &*weights)));
    let values = numbers(COLUMNS, 3);
    let entries: &[(&str, &[u64], &[f32])] = &[
        ("blk.0.ffn_up.weight.in_sum2", &[1, COLUMNS as u64], &values),
        ("blk.0.ffn_up.weight.counts", &[1], &[1.0]),
        ("blk.9.ffn_up.weight.in_sum2", &[1, COLUMNS as u64], &values),
        ("blk.9.ffn_up.weight.counts", &[1], &[1.0]),
        // An embedding is looked up, not multiplied: its entry may be anything.
        ("token_embd.weight.in_sum2", &[1, 7], &values[..7]),
        ("token_embd.weight.counts", &[1], &[1.0]),
    ];
    write_gguf(&matrix, &statistics(), entries);
    let run = convert(&source, "q4_k_m", &matrix, &output).expect_success();
    for expected in
        ["no importance for blk.0.ffn_gate.weight:", "the model has no blk.9.ffn_up.weight"]
    {
        assert!(run.stderr.contains(expected), "{expected} is not in {}", run.stderr);
    }
    std::fs::remove_file(&output).expect("removed");
    // Q2_K in a Q2_K_S file is useless without.
    let run = convert(&source, "q2_k_s", &matrix, &output);
    let error = &run.json()["error"];
    assert_eq!((run.code, error["rule"].as_str()), (3, Some("missing-importance")));
    assert!(run.stderr.contains("blk.0.ffn_gate.weight (Q2_K)"), "{}", run.stderr);
    assert!(!run.stderr.contains("ffn_up.weight ("), "{}", run.stderr);
    assert!(!output.exists());
}

#[test]
fn importance_changes_what_a_checkpoint_becomes() {
    let folder = scratch();
    let source = fixtures().join("demo-llama");
    let plain = folder.path().join("plain.gguf");
    let weighed = folder.path().join("weighed.gguf");
    quantize(&["convert", text(&source), "--to", "q4_k_m", "-o", text(&plain)]).expect_success();
    convert(&source, "q4_k_m", &source.join("importance.gguf"), &weighed).expect_success();
    let name = "blk.1.ffn_down.weight";
    assert!(tensor(&plain, name) != tensor(&weighed, name));
}
