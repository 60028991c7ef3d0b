//! PyTorch checkpoints: what is made of them is what is made of the same weights in
//! safetensors, and bad ones end with a documented code.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{copy_of, edit_json, fixtures, names, quantize, scratch, text};

/// A copy of a tiny checkpoint with the weights of `fixtures/pytorch/FOLDER` in place
/// of its own.
fn with_weights(tiny: &str, weights: &str, into: &Path) -> PathBuf {
    let checkpoint = copy_of(&format!("tiny/{tiny}"), into);
    for name in names(&checkpoint) {
        if name.contains(".safetensors") {
            fs::remove_file(checkpoint.join(name)).expect("removed");
        }
    }
    let from = fixtures().join("pytorch").join(weights);
    for name in names(&from) {
        fs::copy(from.join(&name), checkpoint.join(&name)).expect("copied");
    }
    checkpoint
}

fn convert(checkpoint: &Path, target: &str, output: &Path) -> Vec<u8> {
    quantize(&["convert", text(checkpoint), "--to", target, "-o", text(output)]).expect_success();
    fs::read(output).expect("read")
}

#[test]
fn the_same_weights_give_the_same_files() {
    let check = |tiny: &str, weights: &str, targets: &[&str]| {
        let folders = [scratch(), scratch()];
        let safetensors = copy_of(&format!("tiny/{tiny}"), folders[0].path());
        let pytorch = with_weights(tiny, weights, folders[1].path());
        for target in targets {
            let ours = convert(&pytorch, target, &folders[1].path().join(target));
            let expected = convert(&safetensors, target, &folders[0].path().join(target));
            assert!(ours == expected, "{weights} to {target}");
        }
    };
    // Tied, with views, parameters and three element types.
    check("llama-spm", "llama-spm", &["f32", "f16", "q8_0", "q4_k_m"]);
    check("sharded", "sharded", &["bf16", "q5_0"]);
    check("sharded", "sharded-legacy", &["bf16", "q5_0"]);
}

#[test]
fn the_other_commands_read_them() {
    let folder = scratch();
    let checkpoint = with_weights("llama-spm", "llama-spm", folder.path());
    let output = folder.path().join("out.gguf");
    convert(&checkpoint, "q8_0", &output);
    let run = quantize(&["inspect", text(&checkpoint), "--json"]).expect_success();
    assert_eq!(run.json()["container"], "huggingface");
    quantize(&["plan", text(&checkpoint), "--to", "q4_k_m", "--json"]).expect_success();
    quantize(&["verify", text(&output), "--source", text(&checkpoint)]).expect_success();
}

/// `transformers` reads safetensors where both are; so do we, and say so.
#[test]
fn safetensors_go_first() {
    let folder = scratch();
    let checkpoint = copy_of("tiny/llama-spm", folder.path());
    fs::write(checkpoint.join("pytorch_model.bin"), "not even a pickle").expect("written");
    let run = quantize(&["inspect", text(&checkpoint), "--json"]).expect_success();
    let warnings = run.json()["warnings"].to_string();
    assert!(warnings.contains("the safetensors are read"), "{warnings}");
}

const BIN: &str = "pytorch_model.bin";

/// Bends a copy of a PyTorch checkpoint, converts it, and compares code and message.
#[track_caller]
fn check_bent(tiny: &str, weights: &str, bend: impl FnOnce(&Path), code: i32, expected: &[&str]) {
    let folder = scratch();
    let checkpoint = with_weights(tiny, weights, folder.path());
    bend(&checkpoint);
    let output = folder.path().join("out.gguf");
    let run =
        quantize(&["convert", text(&checkpoint), "--to", "q8_0", "-o", text(&output), "--json"]);
    assert_eq!(run.code, code, "{}", run.stderr);
    for part in expected {
        assert!(run.stderr.contains(part), "{part:?} is not in: {}", run.stderr);
    }
    assert_eq!(names(folder.path()), ["checkpoint"], "something was left behind");
}

/// Writes `to` over the first `from`, of the same length.
fn replace(path: &Path, from: &[u8], to: &[u8]) {
    let mut bytes = fs::read(path).expect("read");
    let place = bytes.windows(from.len()).position(|part| part == from).expect("found");
    bytes[place..place + to.len()].copy_from_slice(to);
    fs::write(path, bytes).expect("written");
}

#[test]
fn bad_files_end_with_their_code() {
    // Without checksums the older layout lets its pickle be bent in place.
    let check = |bend: &dyn Fn(&Path), code, expected: &[&str]| {
        check_bent("sharded", "sharded-legacy", |at| bend(&at.join(BIN)), code, expected);
    };
    let evil = |at: &Path| replace(at, b"collections\nOrderedDict\n", b"os\nsystem\n");
    check(&evil, 5, &[BIN, "os.system", "at byte"]);
    let cut = |at: &Path| {
        let bytes = fs::read(at).expect("read");
        fs::write(at, &bytes[..bytes.len() - 2]).expect("written");
    };
    check(&cut, 3, &[BIN, "at byte"]);
    check(&|at: &Path| fs::write(at, "").expect("written"), 3, &[BIN, "empty file"]);
    let tied = |bend: &dyn Fn(&Path), expected: &[&str]| {
        check_bent("llama-spm", "llama-spm", |at| bend(&at.join(BIN)), 3, expected);
    };
    tied(&cut, &[BIN, "no end record"]);
    tied(&|at: &Path| replace(at, b"FloatStorage", b"float_torage"), &[BIN, "checksum"]);
}

#[test]
fn bad_folders_end_with_their_code() {
    let index = "pytorch_model.bin.index.json";
    let check = |bend: &dyn Fn(&Path), code, expected: &[&str]| {
        check_bent("sharded", "sharded", bend, code, expected);
    };
    let point = |at: &Path, to: &str| {
        edit_json(&at.join(index), |index| {
            let map = index["weight_map"].as_object_mut().expect("an object");
            *map.values_mut().next().expect("a shard") = to.into();
        });
    };
    check(&|at: &Path| point(at, "../secret.bin"), 5, &[index, "../secret.bin"]);
    check(&|at: &Path| point(at, "absent.bin"), 3, &[index, "absent.bin"]);
    let second = "pytorch_model-00002-of-00003.bin";
    check(&|at: &Path| fs::remove_file(at.join(second)).expect("removed"), 3, &[second]);
    let add = |at: &Path| {
        edit_json(&at.join(index), |index| index["weight_map"]["extra"] = second.into());
    };
    check(&add, 3, &["extra (pytorch_model-00002-of-00003.bin)"]);
    let meta = |at: &Path| {
        for name in names(at).iter().filter(|name| name.starts_with("pytorch_model")) {
            fs::remove_file(at.join(name)).expect("removed");
        }
        fs::write(at.join("consolidated.00.pth"), "").expect("written");
    };
    check(&meta, 3, &["consolidated", "Meta"]);
}

/// A value that is no number is named with its place, also in a transposed matrix.
#[test]
fn a_weight_that_is_no_number_is_named() {
    let name = "model.layers.0.self_attn.k_proj.weight";
    let folder = scratch();
    let checkpoint = with_weights("sharded", "sharded", folder.path());
    let shard = checkpoint.join("pytorch_model-00001-of-00003.bin");
    let file = qz_pickle::TorchFile::open(&shard).expect("opens");
    use qz_tensor::TensorSource;
    let tensors = file.tensors();
    let tensor = tensors.iter().find(|tensor| tensor.name == name).unwrap_or(&tensors[0]);
    let (name, place) = (tensor.name.to_string(), tensor.offset + 2 * 70);
    let mut bytes = fs::read(&shard).expect("read");
    bytes[place as usize..place as usize + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    fs::write(&shard, bytes).expect("written");
    let output = folder.path().join("out.gguf");
    let run = quantize(&["convert", text(&checkpoint), "--to", "q8_0", "-o", text(&output)]);
    assert_eq!(run.code, 6, "{}", run.stderr);
    for part in [&*name, "weight 70", &format!("at byte {place}")] {
        assert!(run.stderr.contains(part), "{part:?} is not in: {}", run.stderr);
    }
}
