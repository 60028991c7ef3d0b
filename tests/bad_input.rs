//! Bent checkpoints: each ends with a documented code and a message that names
//! what is wrong, and leaves nothing behind.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::support::{Safetensors, copy_of, edit_json, names, quantize, scratch, text};

pub(crate) const BAD_INPUT: i32 = 3;
const REFUSED: i32 = 5;
pub(crate) const NUMERIC: i32 = 6;

/// Bends a copy of `fixture`, converts it, and compares code and message.
#[track_caller]
pub(crate) fn check(fixture: &str, bend: impl FnOnce(&Path), code: i32, expected: &[&str]) {
    check_target("q8_0", fixture, bend, code, expected);
}

#[track_caller]
fn check_target(
    target: &str,
    fixture: &str,
    bend: impl FnOnce(&Path),
    code: i32,
    expected: &[&str],
) {
    let folder = scratch();
    let checkpoint = copy_of(fixture, folder.path());
    bend(&checkpoint);
    let output = folder.path().join("out.gguf");
    let arguments = ["convert", text(&checkpoint), "--to", target, "-o", text(&output), "--json"];
    let run = quantize(&arguments);
    assert_eq!(run.code, code, "{}", run.stderr);
    for part in expected {
        assert!(run.stderr.contains(part), "{part:?} is not in: {}", run.stderr);
    }
    assert_eq!(run.stderr.trim_end().lines().filter(|line| line.starts_with("error")).count(), 1);
    assert_eq!(run.json()["error"]["code"], code);
    assert_eq!(names(folder.path()), ["checkpoint"], "something was left behind");
}

const LLAMA: &str = "tiny/llama-tied";
pub(crate) const WEIGHTS: &str = "model.safetensors";

pub(crate) fn bend_weights(checkpoint: &Path, bend: impl FnOnce(&mut Safetensors)) {
    let path = checkpoint.join(WEIGHTS);
    let mut file = Safetensors::read(&path);
    bend(&mut file);
    file.write(&path);
}

pub(crate) fn bend_config(checkpoint: &Path, key: &str, value: serde_json::Value) {
    edit_json(&checkpoint.join("config.json"), |config| config[key] = value);
}

#[test]
fn a_missing_shard_is_named() {
    let shard = |checkpoint: &Path| {
        names(checkpoint).into_iter().find(|name| name.starts_with("model-00002")).expect("a shard")
    };
    check(
        "tiny/sharded",
        |at| fs::remove_file(at.join(shard(at))).expect("removed"),
        BAD_INPUT,
        &["model-00002"],
    );
}

#[test]
fn a_truncated_file_is_found_at_once() {
    let cut = |checkpoint: &Path, by: u64| {
        let file =
            fs::OpenOptions::new().write(true).open(checkpoint.join(WEIGHTS)).expect("opened");
        let length = file.metadata().expect("a length").len();
        file.set_len(length - by).expect("cut");
    };
    check(LLAMA, |at| cut(at, 2), BAD_INPUT, &[WEIGHTS]);
    check(LLAMA, |at| cut(at, 400_000), BAD_INPUT, &[WEIGHTS]);
    check(LLAMA, |at| fs::write(at.join(WEIGHTS), b"").expect("written"), BAD_INPUT, &[WEIGHTS]);
}

#[test]
fn a_header_that_lies_is_found_at_once() {
    let length = |checkpoint: &Path, length: u64| {
        let path = checkpoint.join(WEIGHTS);
        let mut bytes = fs::read(&path).expect("read");
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(path, bytes).expect("written");
    };
    check(LLAMA, |at| length(at, u64::MAX), BAD_INPUT, &[WEIGHTS]);
    check(LLAMA, |at| length(at, 1 << 40), BAD_INPUT, &[WEIGHTS]);
    check(LLAMA, |at| length(at, 0), BAD_INPUT, &[WEIGHTS]);
    let name = "model.layers.0.mlp.up_proj.weight";
    let offsets = |at: &Path, end: u64| {
        bend_weights(at, |file| file.header[name]["data_offsets"] = json!([0, end]));
    };
    check(LLAMA, |at| offsets(at, 1 << 50), BAD_INPUT, &[WEIGHTS]);
    check(
        LLAMA,
        |at| bend_weights(at, |file| file.header[name]["dtype"] = json!("F5")),
        BAD_INPUT,
        &[WEIGHTS, "F5"],
    );
}

#[test]
fn a_shape_that_contradicts_the_configuration_is_named() {
    let name = "model.layers.0.mlp.up_proj.weight";
    check(LLAMA, |at| bend_config(at, "intermediate_size", json!(512)), BAD_INPUT, &[name, "512"]);
    check(
        LLAMA,
        |at| bend_config(at, "hidden_size", json!(1u64 << 40)),
        BAD_INPUT,
        &["hidden_size"],
    );
    check(
        LLAMA,
        |at| bend_config(at, "num_hidden_layers", json!(5)),
        BAD_INPUT,
        &["model.layers."],
    );
    check(
        LLAMA,
        |at| bend_config(at, "num_hidden_layers", json!(0)),
        BAD_INPUT,
        &["num_hidden_layers"],
    );
    check(
        LLAMA,
        |at| bend_config(at, "num_attention_heads", json!(-4)),
        BAD_INPUT,
        &["num_attention_heads"],
    );
}

#[test]
fn a_tensor_too_few_or_too_many_is_named() {
    let name = "model.norm.weight";
    let rename = |at: &Path| {
        bend_weights(at, |file| {
            let entry =
                file.header.as_object_mut().expect("an object").remove(name).expect("a tensor");
            file.header["model.unheard.of"] = entry;
        });
    };
    check(LLAMA, rename, BAD_INPUT, &["model.unheard.of"]);
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let name = "model.layers.0.self_attn.q_proj.weight";
    let poison = |at: &Path, index: usize, bits: u16| {
        bend_weights(at, |file| {
            let place = file.start(name) + 2 * index;
            file.data[place..place + 2].copy_from_slice(&bits.to_le_bytes());
        });
    };
    check(LLAMA, |at| poison(at, 0, 0x7fc0), NUMERIC, &[name, "weight 0", "NaN", "at byte"]);
    check(LLAMA, |at| poison(at, 777, 0xff80), NUMERIC, &[name, "weight 777", "-inf"]);
    let one_dimensional = |at: &Path| {
        bend_weights(at, |file| {
            let place = file.start("model.norm.weight") + 2 * 5;
            file.data[place..place + 2].copy_from_slice(&0x7f80u16.to_le_bytes());
        });
    };
    check(LLAMA, one_dimensional, NUMERIC, &["model.norm.weight", "weight 5", "inf"]);
}

#[test]
fn a_weight_too_large_for_its_scale_is_named() {
    let name = "model.layers.0.mlp.down_proj.weight";
    let enlarge = |at: &Path| {
        bend_weights(at, |file| {
            // 1e30 in bfloat16: finite, but not as the f16 scale of a block.
            let place = file.start(name) + 2 * (3 * 256 + 1);
            file.data[place..place + 2].copy_from_slice(&0x714au16.to_le_bytes());
        });
    };
    check(LLAMA, enlarge, NUMERIC, &[name, "row ", "Q8_0"]);
    // Here the reference's search overflows and it silently stores zeros.
    check_target("q6_k", LLAMA, enlarge, NUMERIC, &[name, "row 3 ", "Q6_K"]);
}

#[test]
fn a_path_out_of_the_folder_is_refused() {
    let index = "model.safetensors.index.json";
    let point = |at: &Path, to: &str| {
        edit_json(&at.join(index), |index| {
            let map = index["weight_map"].as_object_mut().expect("an object");
            *map.values_mut().next().expect("a shard") = json!(to);
        });
    };
    for path in [
        "../secret.safetensors",
        "/etc/secret.safetensors",
        "sub/x.safetensors",
        "a\\..\\b.safetensors",
    ] {
        check("tiny/sharded", |at| point(at, path), REFUSED, &[index]);
    }
}

#[test]
fn what_is_no_model_is_named() {
    check(
        LLAMA,
        |at| {
            fs::write(at.join(WEIGHTS), "version https://git-lfs.github.com/spec/v1\n")
                .expect("written")
        },
        BAD_INPUT,
        &[WEIGHTS, "LFS"],
    );
    check(
        LLAMA,
        |at| fs::remove_file(at.join(WEIGHTS)).expect("removed"),
        BAD_INPUT,
        &["safetensors"],
    );
    check(
        LLAMA,
        |at| fs::write(at.join("config.json"), "{").expect("written"),
        BAD_INPUT,
        &["config.json"],
    );
    check(
        LLAMA,
        |at| fs::remove_file(at.join("config.json")).expect("removed"),
        BAD_INPUT,
        &["config.json"],
    );
    check(
        LLAMA,
        |at| bend_config(at, "architectures", json!(["FancyForCausalLM"])),
        BAD_INPUT,
        &["FancyForCausalLM"],
    );
}

#[test]
fn a_tokenizer_nobody_knows_shows_its_definition() {
    let regex = "unheard[of]+";
    let bend = |at: &Path| {
        edit_json(&at.join("tokenizer.json"), |tokenizer| {
            tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"] = json!({"Regex": regex});
        });
    };
    check(LLAMA, bend, BAD_INPUT, &[regex, "--pre-tokenizer"]);
    check(
        LLAMA,
        |at| fs::remove_file(at.join("tokenizer.json")).expect("removed"),
        BAD_INPUT,
        &["tokenizer.json"],
    );
}

#[test]
fn a_named_pre_tokenizer_overrides_the_definition() {
    let folder = scratch();
    let checkpoint = copy_of(LLAMA, folder.path());
    let output = folder.path().join("out.gguf");
    let arguments = [
        "convert",
        text(&checkpoint),
        "--to",
        "f16",
        "-o",
        text(&output),
        "--pre-tokenizer",
        "qwen2",
    ];
    quantize(&arguments).expect_success();
    let file = qz_gguf::GgufFile::open(&output).expect("opens");
    use qz_tensor::TensorSource;
    assert_eq!(file.metadata().string("tokenizer.ggml.pre"), Some("qwen2"));
}

#[test]
fn bad_gguf_files_are_named() {
    let folder = scratch();
    let check = |bytes: &[u8], expected: &str| {
        let input = folder.path().join("model.gguf");
        fs::write(&input, bytes).expect("written");
        let output = folder.path().join("out.gguf");
        let run = quantize(&["convert", text(&input), "--to", "q8_0", "-o", text(&output)]);
        assert_eq!(run.code, BAD_INPUT, "{}", run.stderr);
        for part in ["model.gguf", expected] {
            assert!(run.stderr.contains(part), "{part:?} is not in: {}", run.stderr);
        }
        assert_eq!(names(folder.path()), ["model.gguf"]);
    };
    check(b"", "");
    check(b"GGUF", "");
    check(b"FUGG\x03\0\0\0", "FUGG");
    check(b"GGUF\x01\0\0\0\0\0\0\0\0\0\0\0", "version 1");
    check(&[&b"GGUF\x03\0\0\0"[..], &[0xff; 16]].concat(), "");
}
