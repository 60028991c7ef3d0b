//! Everything llama.cpp wrote from the committed checkpoints, we write too:
//! `golden.json` beside each (made by `fixtures/make/golden_conversion.py`).

use std::collections::BTreeMap;
use std::path::Path;

use qz_gguf::GgufFile;
use qz_tensor::{Array, Metadata, TensorIndex, TensorInfo, TensorSource, Value};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use crate::support::{
    checkpoints, command, finish, forget_merges, has_byte_tokens, quantize, scratch, text,
};

fn golden(checkpoint: &Path) -> Json {
    record(checkpoint, "golden.json")
}

fn record(checkpoint: &Path, name: &str) -> Json {
    let path = checkpoint.join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).expect("JSON")
}

fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Name to type, shape and digest, as the golden files hold them. The reference
/// converter writes tensors in the checkpoint's order, we in the quantizer's.
fn tensors_of(file: &GgufFile) -> BTreeMap<String, Json> {
    let describe = |(position, info): (usize, &TensorInfo)| {
        let mut bytes = vec![0; info.bytes as usize];
        file.read(TensorIndex(position), 0, &mut bytes).expect("read");
        let shape: Vec<u64> = info.shape.dimensions().iter().rev().copied().collect();
        let data_type = info.data_type.name().to_lowercase();
        (info.name.to_string(), json!({"type": data_type, "shape": shape, "sha256": hex(&bytes)}))
    };
    file.tensors().iter().enumerate().map(describe).collect()
}

fn tensors_in(golden: &Json) -> BTreeMap<String, Json> {
    let describe = |tensor: &Json| {
        let mut tensor = tensor.clone();
        let fields = tensor.as_object_mut().expect("an object");
        let name = fields.remove("name").expect("a name");
        (name.as_str().expect("a string").to_owned(), tensor)
    };
    golden["tensors"].as_array().expect("a list").iter().map(describe).collect()
}

fn convert(checkpoint: &Path, target: &str, output: &Path) -> GgufFile {
    quantize(&["convert", text(checkpoint), "--to", target, "-o", text(output)]).expect_success();
    if has_byte_tokens(checkpoint) {
        forget_merges(output);
    }
    GgufFile::open(output).expect("what we write opens")
}

#[test]
fn tensors_equal_the_reference_converter() {
    let folder = scratch();
    for checkpoint in checkpoints() {
        for (target, expected) in golden(&checkpoint)["converted"].as_object().expect("an object") {
            let output = folder.path().join("out.gguf");
            let file = convert(&checkpoint, target, &output);
            let context = format!("{} to {target}", checkpoint.display());
            assert_eq!(tensors_of(&file), tensors_in(expected), "{context}");
            std::fs::remove_file(output).expect("removed");
        }
    }
}

/// A projector's tensors as the reference has them, where it is known to be wrong (PARITY.md):
/// without the row that llama.cpp asks for, and by the name under which it reads another norm.
fn without_differences(
    checkpoint: &Path,
    tensors: BTreeMap<String, Json>,
) -> BTreeMap<String, Json> {
    let count = tensors.len();
    let theirs = |(name, tensor): (String, Json)| match checkpoint.file_name()?.to_str()? {
        "mistral3" if name == "v.token_embd.img_break" => None,
        "llama4" => Some((name.replace(".ln2.", ".attn_post_norm."), tensor)),
        _ => Some((name, tensor)),
    };
    let theirs: BTreeMap<String, Json> = tensors.into_iter().filter_map(theirs).collect();
    let is_short = checkpoint.ends_with("mistral3");
    assert_eq!(theirs.len() + usize::from(is_short), count, "{}", checkpoint.display());
    theirs
}

/// The parts of models that see and hear (`fixtures/make/projectors.py`).
#[test]
fn projectors_equal_the_reference_converter() {
    let folder = scratch();
    let output = folder.path().join("out.gguf");
    let checkpoints = std::fs::read_dir(crate::support::fixtures().join("projectors"));
    for checkpoint in checkpoints.expect("a folder").map(|entry| entry.expect("read").path()) {
        for (target, expected) in golden(&checkpoint)["files"].as_object().expect("an object") {
            let arguments = ["convert", text(&checkpoint), "--mmproj", "--to", target];
            quantize(&[&arguments[..], &["--force", "-o", text(&output)]].concat())
                .expect_success();
            let file = GgufFile::open(&output).expect("what we write opens");
            let context = format!("{} to {target}", checkpoint.display());
            assert_eq!(
                without_differences(&checkpoint, tensors_of(&file)),
                tensors_in(expected),
                "{context}"
            );
            let theirs: Vec<Json> =
                expected["metadata"].as_array().expect("a list").iter().map(rounded).collect();
            assert_eq!(entries(file.metadata()), theirs, "{context}");
        }
        let arguments = ["verify", text(&output), "--source", text(&checkpoint)];
        quantize(&arguments).expect_success();
        let arguments = ["convert", text(&checkpoint), "--mmproj", "--to", "q4_k_m"];
        let run = quantize(&[&arguments[..], &["--json", "-o", text(&output), "--force"]].concat());
        assert_eq!((run.code, &run.json()["error"]["rule"]), (2, &"projector-type".into()));
        let arguments = ["convert", text(&checkpoint), "--mmproj", "--to", "f16"];
        let split = ["--split-max-tensors", "3", "-o", text(&output), "--force"];
        let run = quantize(&[&arguments[..], &split].concat());
        assert!(run.code == 2 && run.stderr.contains("is not split"), "{}", run.stderr);
    }
    // The part that reads text is no projector, of a checkpoint or of a file.
    let checkpoint = crate::support::fixtures().join("tiny/qwen3");
    let of_text = folder.path().join("text.gguf");
    convert(&checkpoint, "f16", &of_text);
    for source in [&checkpoint, &of_text] {
        let refused = folder.path().join("refused.gguf");
        let arguments = ["convert", text(source), "--mmproj", "--to", "f16", "-o", text(&refused)];
        let run = quantize(&arguments);
        assert!(run.code == 3 && !refused.exists(), "{}", run.stderr);
    }
}

#[test]
fn tensors_equal_the_reference_quantizer() {
    let folder = scratch();
    for checkpoint in checkpoints() {
        for (target, expected) in golden(&checkpoint)["quantized"].as_object().expect("an object") {
            let context = format!("{} to {target}", checkpoint.display());
            let output = folder.path().join("out.gguf");
            let written = tensors_of(&convert(&checkpoint, target, &output));
            assert_eq!(written, tensors_in(expected), "{context}");
            std::fs::remove_file(output).expect("removed");
        }
    }
}

#[test]
fn files_equal_the_reference_quantizer() {
    let folder = scratch();
    for checkpoint in checkpoints() {
        for (target, expected) in golden(&checkpoint)["quantized"].as_object().expect("an object") {
            // Files of plain types keep the order of the converter's metadata.
            let is_quantized = !matches!(&**target, "f16" | "bf16");
            if is_quantized {
                let output = folder.path().join("out.gguf");
                convert(&checkpoint, target, &output);
                let bytes = std::fs::read(&output).expect("read");
                let context = format!("{} to {target}", checkpoint.display());
                assert_eq!(json!(hex(&bytes)), expected["sha256"], "{context}");
                std::fs::remove_file(output).expect("removed");
            }
        }
    }
}

#[test]
fn files_with_importance_equal_the_reference_quantizer() {
    let folder = scratch();
    let checkpoint = crate::support::fixtures().join("demo-llama");
    let record = record(&checkpoint, "golden-importance.json");
    for (target, expected) in record["quantized"].as_object().expect("an object") {
        let output = folder.path().join("out.gguf");
        let arguments = ["convert", text(&checkpoint), "--to", target, "-o", text(&output)];
        let mut command = command(&[&arguments[..], &["--imatrix", "importance.gguf"]].concat());
        // The path of the importance matrix becomes metadata as it is given.
        let run = finish(command.current_dir(&checkpoint).output().expect("the binary runs"));
        run.expect_success();
        let file = GgufFile::open(&output).expect("what we write opens");
        let added: Vec<Json> = entries(file.metadata()).into_iter().filter(is_importance).collect();
        assert_eq!(json!(added), expected["metadata"], "{target}");
        assert_eq!(tensors_of(&file), tensors_in(expected), "{target}");
        let bytes = std::fs::read(&output).expect("read");
        assert_eq!(json!(hex(&bytes)), expected["sha256"], "{target}");
        std::fs::remove_file(output).expect("removed");
    }
}

fn is_importance(entry: &Json) -> bool {
    entry["key"].as_str().is_some_and(|key| key.starts_with("quantize.imatrix."))
}

#[test]
fn metadata_equals_the_reference_converter() {
    let folder = scratch();
    for checkpoint in checkpoints() {
        let golden = golden(&checkpoint);
        let file = convert(&checkpoint, "f16", &folder.path().join("out.gguf"));
        let expected = golden["converted"]["f16"]["metadata"].as_array().expect("a list");
        let entries = entries(file.metadata()).into_iter();
        // The converter forgets the type of GPT-NeoX' files.
        let is_known = |entry: &Json| expected.iter().any(|known| known["key"] == entry["key"]);
        let is_forgotten = |entry: &Json| entry["key"] == "general.file_type" && !is_known(entry);
        let entries: Vec<Json> = entries.filter(|entry| !is_forgotten(entry)).collect();
        for (ours, theirs) in entries.iter().zip(expected) {
            assert_eq!(ours, &rounded(theirs), "{}", checkpoint.display());
        }
        assert_eq!(entries.len(), expected.len(), "{}", checkpoint.display());
        std::fs::remove_file(folder.path().join("out.gguf")).expect("removed");
    }
}

/// JSON holds numbers in double precision; compare floats as the file has them.
fn rounded(entry: &Json) -> Json {
    let mut entry = entry.clone();
    if entry["type"] == "float32" {
        entry["value"] = json!(entry["value"].as_f64().expect("a number") as f32);
    }
    entry
}

fn entries(metadata: &Metadata) -> Vec<Json> {
    metadata.iter().map(|(key, value)| entry(key, value)).collect()
}

/// One entry in the form of `golden_conversion.py`.
fn entry(key: &str, value: &Value) -> Json {
    let simple = |kind: &str, value: Json| json!({"key": key, "type": kind, "value": value});
    match value {
        Value::U32(value) => simple("uint32", json!(value)),
        Value::I32(value) => simple("int32", json!(value)),
        Value::U64(value) => simple("uint64", json!(value)),
        Value::F32(value) => simple("float32", json!(value)),
        Value::Bool(value) => simple("bool", json!(value)),
        Value::String(value) => simple("string", json!(value)),
        Value::Array(Array::String(values)) => {
            list(key, "string", json!(values.iter().collect::<Vec<_>>()), values.len())
        }
        Value::Array(Array::I32(values)) => list(key, "int32", json!(values), values.len()),
        Value::Array(Array::F32(values)) => list(key, "float32", json!(values), values.len()),
        Value::Array(Array::Bool(values)) => list(key, "bool", json!(values), values.len()),
        Value::Array(Array::U8(values)) => list(key, "uint8", json!(values), values.len()),
        Value::Array(Array::U32(values)) => list(key, "uint32", json!(values), values.len()),
        other => panic!("{key}: the reference writes no {:?}", other.kind()),
    }
}

fn list(key: &str, element_type: &str, values: Json, length: usize) -> Json {
    const LONGEST: usize = 16;
    if length <= LONGEST {
        json!({"key": key, "type": "array", "element_type": element_type, "value": values})
    } else {
        let digest = hex(values.to_string().as_bytes());
        json!({"key": key, "type": "array", "element_type": element_type, "length": length, "sha256": digest})
    }
}
