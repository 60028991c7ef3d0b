//! What people and scripts read.

use qz_tensor::{DataType, TensorInfo, TensorSource};
use serde_json::json;

use crate::support::{Safetensors, copy_of, fixtures, quantize, scratch, text};

#[test]
fn a_conversion_as_json() {
    let folder = scratch();
    let (source, output) = (fixtures().join("tiny/llama-tied"), folder.path().join("out.gguf"));
    let arguments = ["convert", text(&source), "--to", "q4_k_m", "-o", text(&output), "--json"];
    let report = quantize(&arguments).expect_success().json();
    assert_eq!(report["schema_version"], 1);
    let result = &report["outputs"][0];
    assert_eq!(result["target"], "q4_k_m");
    assert_eq!(result["path"], json!(text(&output)));
    assert_eq!(result["bytes"], json!(std::fs::metadata(&output).expect("written").len()));
    assert_eq!(result["fallbacks"], json!([]));
    let embedding = result["tensors"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|t| t["name"] == "token_embd.weight");
    assert_eq!(embedding.expect("an embedding")["type"], "Q6_K");
}

#[test]
fn inspect_tells_the_same_of_a_checkpoint_and_its_gguf() {
    let folder = scratch();
    let (source, output) = (fixtures().join("tiny/qwen3"), folder.path().join("out.gguf"));
    quantize(&["convert", text(&source), "--to", "bf16", "-o", text(&output)]).expect_success();
    let inspect = |path| quantize(&["inspect", text(path), "--json"]).expect_success().json();
    let (before, after) = (inspect(&source), inspect(&output));
    for key in ["architecture", "name", "weights"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    assert_eq!(
        (&before["container"], &after["container"]),
        (&json!("huggingface"), &json!("gguf"))
    );
    let text = quantize(&["inspect", text(&output), "--tensors"]).expect_success().stdout;
    for expected in ["qwen3", "BF16", "token_embd.weight", "qwen3.block_count"] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
}

#[test]
fn verify_passes_what_convert_writes() {
    let folder = scratch();
    for target in ["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k"] {
        let (source, output) = (fixtures().join("tiny/llama-tied"), folder.path().join(target));
        quantize(&["convert", text(&source), "--to", target, "-o", text(&output)]).expect_success();
        let run = quantize(&["verify", text(&output), "--source", text(&source)]).expect_success();
        assert!(run.stdout.contains("ok: "), "{}", run.stdout);
    }
}

#[test]
fn verify_tells_of_bytes_behind_the_last_tensor() {
    let folder = scratch();
    let (source, output) = (fixtures().join("tiny/llama-tied"), folder.path().join("out.gguf"));
    quantize(&["convert", text(&source), "--to", "q8_0", "-o", text(&output)]).expect_success();
    let mut bytes = std::fs::read(&output).expect("read");
    bytes.extend([7; 100]);
    std::fs::write(&output, bytes).expect("written");
    let run = quantize(&["verify", text(&output)]).expect_success();
    assert!(run.stderr.contains("bytes behind the last tensor"), "{}", run.stderr);
}

#[test]
fn verify_finds_another_models_weights() {
    let folder = scratch();
    let output = folder.path().join("out.gguf");
    let source = fixtures().join("tiny/llama-tied");
    quantize(&["convert", text(&source), "--to", "q8_0", "-o", text(&output)]).expect_success();
    let other = copy_of("tiny/llama-tied", folder.path());
    let weights = other.join("model.safetensors");
    let mut file = Safetensors::read(&weights);
    let start = file.start("model.layers.0.self_attn.k_proj.weight");
    // Two rows change places: every weight is still there, none in its place.
    let row = 2 * 256;
    let (first, rest) = file.data[start..].split_at_mut(row);
    first.swap_with_slice(&mut rest[..row]);
    file.write(&weights);
    let run = quantize(&["verify", text(&output), "--source", text(&other), "--json"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let findings = &run.json()["findings"];
    assert_eq!(findings[0]["rule"], "relative-error");
    assert_eq!(findings[0]["tensor"], "blk.0.attn_k.weight");
    assert_eq!(findings.as_array().map(Vec::len), Some(1));
}

#[test]
fn verify_finds_damage() {
    let folder = scratch();
    let output = folder.path().join("out.gguf");
    let source = fixtures().join("tiny/llama-tied");
    quantize(&["convert", text(&source), "--to", "q8_0", "-o", text(&output)]).expect_success();
    // The last tensor's last block gets an infinite scale.
    let mut bytes = std::fs::read(&output).expect("read");
    let info = qz_gguf::GgufFile::open(&output).expect("opens");
    let is_target = |info: &&TensorInfo| info.data_type == DataType::Q8_0;
    let last = info.tensors().iter().rfind(is_target).expect("one");
    let block = usize::try_from(last.offset + last.bytes).expect("small") - 34;
    bytes[block..block + 2].copy_from_slice(&0x7c00u16.to_le_bytes());
    std::fs::write(&output, bytes).expect("written");
    let run = quantize(&["verify", text(&output), "--json"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert_eq!(run.json()["findings"][0]["rule"], "non-finite-block");
}

#[test]
fn the_demonstration_passes() {
    let run = quantize(&["demo", "--json"]).expect_success();
    assert!(run.stderr.contains("verify q6_k (3/7): 39 tensors"), "{}", run.stderr);
    let report = run.json();
    assert_eq!(report["outputs"].as_array().map(Vec::len), Some(7));
    let verifications = report["verifications"].as_array().expect("a list");
    assert!(verifications.iter().all(|verification| verification["passed"] == true));
}

#[test]
fn usage_errors_have_their_own_code() {
    for arguments in [
        &["convert"][..],
        &["convert", "x", "--to", "q9", "-o", "y"],
        &["frobnicate"],
        // A limit that nothing is measured for would be kept by any model.
        &["eval", "x", "--data", "y", "--max-kld", "0.1"],
        &["eval", "x", "--data", "y", "--min-top1", "90%"],
    ] {
        assert_eq!(quantize(arguments).code, 2, "{arguments:?}");
    }
}
