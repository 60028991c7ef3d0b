//! What a person says about types and metadata.

use qz_gguf::GgufFile;
use qz_tensor::{DataType, TensorSource, Value};

use crate::support::{Run, fixtures, quantize, scratch, tensor, text};

const UP: &str = "blk.0.ffn_up.weight";
const DOWN: &str = "blk.3.ffn_down.weight";
const OUTPUT: &str = "output.weight";
const EMBEDDING: &str = "token_embd.weight";

/// Converts the trained checkpoint with these options and compares types.
#[track_caller]
fn check(options: &[&str], expected: &[(&str, DataType)]) -> Run {
    let folder = scratch();
    let (source, output) = (fixtures().join("demo-llama"), folder.path().join("out.gguf"));
    let arguments = ["convert", text(&source), "-o", text(&output)];
    let run = quantize(&[&arguments[..], options].concat()).expect_success();
    for (name, data_type) in expected {
        assert_eq!(tensor(&output, name).0, *data_type, "{name} with {options:?}");
    }
    run
}

#[test]
fn types_go_to_the_first_that_claims_a_tensor() {
    let k_m = ["--to", "q4_k_m"];
    let with = |options: &[&'static str]| [&k_m[..], options].concat();
    check(&k_m, &[(UP, DataType::Q4_K), (DOWN, DataType::Q6_K), (OUTPUT, DataType::Q6_K)]);
    check(
        &with(&["--tensor-type", "ffn_up=q8_0", "--tensor-type", r"blk\.\d+\.ffn=q5_k"]),
        &[(UP, DataType::Q8_0), (DOWN, DataType::Q5_K), (EMBEDDING, DataType::Q4_K)],
    );
    check(
        &with(&["--output-tensor-type", "q8_0", "--token-embedding-type", "q2_k", "--pure"]),
        &[(OUTPUT, DataType::Q8_0), (EMBEDDING, DataType::Q2_K), (DOWN, DataType::Q4_K)],
    );
    // Left as it is in the checkpoint, which is in bfloat16.
    check(&with(&["--leave-output-tensor"]), &[(OUTPUT, DataType::BF16)]);
}

#[test]
fn a_pattern_without_effect_is_told() {
    let run = check(&["--to", "q4_k_m", "--tensor-type", "attn_z=q8_0"], &[]);
    assert!(
        run.stderr.contains("attn_z=Q8_0 has no effect: it matches no tensor"),
        "{}",
        run.stderr
    );
    let run = check(&["--to", "f16", "--tensor-type", "ffn_up=q8_0"], &[(UP, DataType::F16)]);
    assert!(run.stderr.contains("ffn_up=Q8_0 has no effect"), "{}", run.stderr);
}

#[test]
fn an_option_of_other_targets_is_told() {
    let run = check(&["--to", "q4_0", "--rounding", "mse", "--shard-size", "1M"], &[]);
    for option in ["--rounding has no effect", "--shard-size has no effect"] {
        assert!(run.stderr.contains(option), "{}", run.stderr);
    }
    let run = check(&["--to", "q4_0", "--split-max-size", "1G"], &[]);
    assert!(!run.stderr.contains("no effect"), "{}", run.stderr);
    let folder = scratch();
    let (source, output) = (fixtures().join("demo-llama"), folder.path().join("out"));
    let arguments = ["convert", text(&source), "--to", "ct:w4a16+g32", "-o", text(&output)];
    let options = ["--rounding", "mse", "--shard-size", "1M", "--split-max-tensors", "9"];
    let run = quantize(&[&arguments[..], &options].concat()).expect_success();
    assert!(run.stderr.contains("--split-max-tensors has no effect"), "{}", run.stderr);
    assert_eq!(run.stderr.matches("no effect").count(), 1, "{}", run.stderr);
}

#[test]
fn metadata_as_wished() {
    let folder = scratch();
    let (source, output) = (fixtures().join("demo-llama"), folder.path().join("out.gguf"));
    let arguments = [
        "convert",
        text(&source),
        "--to",
        "q8_0",
        "-o",
        text(&output),
        "--override-kv",
        "llama.context_length=int:4096",
        "--override-kv",
        "general.name=str:a=b",
        "--override-kv",
        "new.key=bool:true",
    ];
    quantize(&arguments).expect_success();
    let file = GgufFile::open(&output).expect("opens");
    let metadata = file.metadata();
    assert_eq!(metadata.get("llama.context_length"), Some(&Value::U32(4096)));
    assert_eq!(metadata.string("general.name"), Some("a=b"));
    assert_eq!(metadata.get("new.key"), Some(&Value::Bool(true)));
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let check = |option: &str, value: &str, expected: &str| {
        let run = quantize(&["convert", "x", "--to", "q8_0", "-o", "y", option, value]);
        assert_eq!(run.code, 2, "{value}: {}", run.stderr);
        assert!(run.stderr.contains(expected), "{expected} is not in {}", run.stderr);
    };
    check("--tensor-type", "attn_v", "REGEX=TYPE");
    check("--tensor-type", "attn_v=q4_k_m", "q4_k_m is a file type");
    check("--tensor-type", "(=q8_0", "unclosed group");
    check("--output-tensor-type", "q9", "no such element type: q9");
    check("--override-kv", "a=int:x", "integer");
    check("--override-kv", "a=1", "KEY=TYPE:VALUE");
}

#[test]
fn every_target_is_listed() {
    let listed_by_us = quantize(&["targets"]).expect_success().stdout;
    let readme = std::fs::read_to_string(fixtures().join("../README.md")).expect("read");
    let listed = readme.split_once("Targets: `").and_then(|(_, rest)| rest.split_once('`'));
    let listed: Vec<&str> = listed.expect("a list of targets").0.split_whitespace().collect();
    for file_type in qz_plan::FILE_TYPES {
        assert!(listed.contains(&file_type.name), "README: {}", file_type.name);
        // A name ends at a comma, the bracket or the line's end.
        let mut words = listed_by_us.split_whitespace();
        assert!(words.any(|word| word == file_type.name), "targets: {}", file_type.name);
    }
}
