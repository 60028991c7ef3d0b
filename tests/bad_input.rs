//! Bent checkpoints: each ends with a documented code and a message that names
//! what is wrong, and leaves nothing behind.

use std::fs;
use std::path::Path;

use serde_json::{Value as Json, json};

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
    let unheard = |at: &Path| {
        edit_json(&at.join("tokenizer.json"), |tokenizer| {
            tokenizer["pre_tokenizer"] = json!({"type": "Unheard"});
        });
    };
    check(LLAMA, unheard, BAD_INPUT, &["Unheard", "--pre-tokenizer"]);
    check(
        LLAMA,
        |at| fs::remove_file(at.join("tokenizer.json")).expect("removed"),
        BAD_INPUT,
        &["tokenizer.json"],
    );
}

/// Only a GGUF file has to name it.
#[test]
fn a_tokenizer_without_a_name_in_gguf_reads_text() {
    let folder = scratch();
    let checkpoint = copy_of(LLAMA, folder.path());
    edit_json(&checkpoint.join("tokenizer.json"), |tokenizer| {
        tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"] =
            json!({"Regex": r"\p{Lu}?\p{Ll}+|\s+(?!\S)|."});
    });
    let (data, output) = (folder.path().join("text.txt"), folder.path().join("out"));
    fs::write(&data, "A river runs Past mills. ".repeat(40)).expect("written");
    let reads = ["--data", text(&data), "--ctx", "32", "--chunks", "2"];
    let eval = ["eval", text(&checkpoint)];
    quantize(&[&eval[..], &reads].concat()).expect_success();
    let to = |target: &'static str| {
        let arguments = ["quantize", text(&checkpoint), "--to", target, "-o", text(&output)];
        quantize(&[&arguments[..], &reads].concat())
    };
    to("gptq:w4g32").expect_success();
    let refused = to("q4_0");
    assert_eq!(refused.code, BAD_INPUT, "{}", refused.stderr);
    assert!(refused.stderr.contains("--pre-tokenizer NAME"), "{}", refused.stderr);
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

/// A GGUF file by hand: version, claimed counts, pairs, tensors, data.
struct Gguf<'a> {
    version: u32,
    tensor_count: Option<u64>,
    pair_count: Option<u64>,
    pairs: &'a [Vec<u8>],
    tensors: &'a [Vec<u8>],
    data: usize,
}

const GGUF: Gguf<'static> =
    Gguf { version: 3, tensor_count: None, pair_count: None, pairs: &[], tensors: &[], data: 0 };

impl Gguf<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.pair_count.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        out.extend(self.pairs.concat());
        out.extend(self.tensors.concat());
        out.resize(out.len().next_multiple_of(32) + self.data, 0);
        out
    }
}

fn gguf_text(value: &[u8]) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value].concat()
}

fn gguf_pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&gguf_text(key.as_bytes())[..], &kind.to_le_bytes(), value].concat()
}

/// Dimensions innermost first.
fn gguf_tensor(name: &str, dimensions: &[u64], data_type: u32, offset: u64) -> Vec<u8> {
    let mut out = gguf_text(name.as_bytes());
    out.extend((dimensions.len() as u32).to_le_bytes());
    dimensions.iter().for_each(|dimension| out.extend(dimension.to_le_bytes()));
    out.extend(data_type.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

/// The kinds of broken files in llama.cpp's `tests/test-gguf.cpp`, and some of its
/// CVEs: each is refused with its rule, and with the byte where it is broken. Every
/// rule by itself: `formats/qz-gguf/tests`.
#[test]
fn broken_gguf_files_are_refused_with_rule_key_and_byte() {
    let folder = scratch();
    let input = folder.path().join("model.gguf");
    let check = |file: Gguf<'_>, rule: &str, name: Option<&str>, offset: u64| {
        fs::write(&input, file.bytes()).expect("written");
        for command in ["convert", "inspect", "verify", "plan"] {
            let output = folder.path().join("out.gguf");
            let arguments: &[&str] = match command {
                "convert" => &["--to", "q8_0", "-o", text(&output)],
                "plan" => &["--to", "q8_0"],
                _ => &[],
            };
            let run = quantize(&[&[command, text(&input), "--json"], arguments].concat());
            assert_eq!(run.code, BAD_INPUT, "{command}: {}", run.stderr);
            let error = &run.json()["error"];
            assert_eq!(error["rule"], rule, "{command}");
            assert_eq!(error["file"], text(&input), "{rule}");
            assert_eq!(error["tensor"].as_str(), name, "{rule}");
            assert_eq!(error["offset"], offset, "{rule}");
            assert_eq!(names(folder.path()), ["model.gguf"], "{rule}");
        }
    };
    let w = |dimensions: &[u64], data_type| [gguf_tensor("w", dimensions, data_type, 0)];
    // A list of tensors begins at byte 24; of "w" the dimensions at 33.
    for version in [0, 1, 4] {
        check(Gguf { version, ..GGUF }, "unsupported-version", None, 4);
    }
    check(Gguf { version: 3u32.swap_bytes(), ..GGUF }, "big-endian", None, 4);
    check(Gguf { tensor_count: Some(u64::MAX), ..GGUF }, "count-too-large", None, 8);
    check(Gguf { tensor_count: Some(1 << 29), ..GGUF }, "count-too-large", None, 8);
    check(Gguf { pair_count: Some(u64::MAX), ..GGUF }, "count-too-large", None, 16);
    let long_key = [[&u64::MAX.to_le_bytes()[..], &[0; 40]].concat()];
    check(Gguf { pairs: &long_key, ..GGUF }, "count-too-large", None, 24);
    check(Gguf { pairs: &[gguf_pair("", 7, &[1])], data: 32, ..GGUF }, "empty-key", None, 24);
    check(
        Gguf { pairs: &[gguf_pair("k", 99, &[0; 8])], ..GGUF },
        "unknown-value-kind",
        Some("k"),
        33,
    );
    let twice = [gguf_pair("k", 7, &[1]), gguf_pair("k", 7, &[1])];
    check(Gguf { pairs: &twice, ..GGUF }, "duplicate-key", Some("k"), 38);
    let align = |kind, value: &[u8]| [gguf_pair("general.alignment", kind, value)];
    let alignment = Some("general.alignment");
    check(
        Gguf { pairs: &align(4, &13u32.to_le_bytes()), ..GGUF },
        "invalid-alignment",
        alignment,
        24,
    );
    check(
        Gguf { pairs: &align(5, &32i32.to_le_bytes()), ..GGUF },
        "invalid-alignment",
        alignment,
        24,
    );
    let long_array = [&4u32.to_le_bytes()[..], &(1u64 << 30).to_le_bytes(), &[0; 64]].concat();
    check(
        Gguf { pairs: &[gguf_pair("k", 9, &long_array)], ..GGUF },
        "count-too-large",
        Some("k"),
        41,
    );
    let long_name = [gguf_tensor(&"n".repeat(64), &[1], 0, 0)];
    check(Gguf { tensors: &long_name, data: 32, ..GGUF }, "tensor-name-too-long", None, 24);
    let names_twice = [gguf_tensor("w", &[1], 0, 0), gguf_tensor("w", &[1], 0, 32)];
    check(Gguf { tensors: &names_twice, data: 64, ..GGUF }, "duplicate-tensor", Some("w"), 57);
    check(Gguf { tensors: &w(&[1; 5], 0), data: 32, ..GGUF }, "too-many-dimensions", Some("w"), 33);
    for dimensions in [
        &[u64::MAX][..],
        &[1 << 32, 1 << 32],
        &[1 << 61],
        // The product of the padded sizes wraps (NBYTES_PAD_WRAP).
        &[4, (1 << 30) - 1, (1 << 30) + 1],
    ] {
        check(
            Gguf { tensors: &w(dimensions, 0), data: 32, ..GGUF },
            "size-overflow",
            Some("w"),
            33,
        );
    }
    check(Gguf { tensors: &w(&[31], 2), data: 32, ..GGUF }, "partial-block", Some("w"), 33);
    check(Gguf { tensors: &w(&[1], 999), data: 32, ..GGUF }, "unknown-type", Some("w"), 45);
    check(Gguf { tensors: &w(&[256], 4), data: 256, ..GGUF }, "removed-type", Some("w"), 45);
    let placed = |offset| [gguf_tensor("w", &[1], 0, offset)];
    for offset in [1, 32, u64::MAX] {
        check(Gguf { tensors: &placed(offset), data: 64, ..GGUF }, "data-offset", Some("w"), 49);
    }
    check(Gguf { tensors: &w(&[1], 0), data: 3, ..GGUF }, "data-missing", Some("w"), 49);
    // 96 bytes that declare a tensor of 1 TiB.
    check(Gguf { tensors: &w(&[1 << 38], 0), data: 32, ..GGUF }, "data-missing", Some("w"), 49);
}

/// A part that sees, whose configuration and tensors contradict each other.
#[test]
fn projectors_that_lack_tensors_or_have_them_twice() {
    let check = |bend: &dyn Fn(&Path), expected: &str| {
        let folder = scratch();
        let checkpoint = copy_of("projectors/gemma3", folder.path());
        bend(&checkpoint);
        let output = folder.path().join("out.gguf");
        let arguments = ["convert", text(&checkpoint), "--mmproj", "--to", "f16"];
        let run = quantize(&[&arguments[..], &["-o", text(&output)]].concat());
        assert_eq!(run.code, BAD_INPUT, "{}", run.stderr);
        assert!(run.stderr.contains(expected) && !output.exists(), "{}", run.stderr);
    };
    let with_layers = |layers: u64| {
        move |folder: &Path| {
            edit_json(&folder.join("config.json"), |config| {
                config["vision_config"]["num_hidden_layers"] = json!(layers);
            });
        }
    };
    check(&with_layers(3), "no tensor for v.blk.2.ln1.weight");
    // So many are not counted one by one.
    check(&with_layers(u64::from(u32::MAX)), "no tensor for v.blk.2.ln1.weight");
    check(&with_layers(0), "num_hidden_layers");
    check(
        &|folder| fs::remove_file(folder.join("preprocessor_config.json")).expect("removed"),
        "preprocessor_config.json",
    );
    let twice = |folder: &Path| {
        let path = folder.join("model.safetensors");
        let mut weights = Safetensors::read(&path);
        let name = "model.multi_modal_projector.mm_soft_emb_norm.weight";
        weights.add(name, "BF16", &[32], &[0; 64]);
        weights.write(&path);
    };
    check(&twice, "is there twice");
}

/// Parts that see and hear, of whose configurations one key is missing or says something else.
#[test]
fn projectors_whose_configuration_is_wrong() {
    let check = |name: &str, pointer: &str, value: Option<Json>, expected: &str| {
        let folder = scratch();
        let checkpoint = copy_of(&format!("projectors/{name}"), folder.path());
        let file = match pointer.starts_with("/image_") {
            true => "preprocessor_config.json",
            false => "config.json",
        };
        edit_json(&checkpoint.join(file), |config| {
            let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
            let parent = config.pointer_mut(parent).and_then(Json::as_object_mut);
            let parent = parent.expect("an object");
            match &value {
                Some(value) => parent.insert(key.to_owned(), value.clone()),
                None => parent.remove(key),
            };
        });
        let output = folder.path().join("out.gguf");
        let arguments = ["convert", text(&checkpoint), "--mmproj", "--to", "f16"];
        let run = quantize(&[&arguments[..], &["-o", text(&output)]].concat());
        let context = format!("{name} {pointer}: {}", run.stderr);
        assert!(run.code == BAD_INPUT && !output.exists(), "{context}");
        let key = pointer.trim_start_matches('/').replace('/', ".");
        assert!(run.stderr.contains(&key) && run.stderr.contains(expected), "{context}");
    };
    let missing = "is missing";
    check("mistral3", "/vision_config", None, missing);
    check("mistral3", "/vision_config/hidden_size", Some(json!(48)), "v.blk.0.ln1.weight has");
    check("mistral3", "/vision_config/intermediate_size", Some(json!(32)), "ffn_up.weight has");
    check("mistral3", "/vision_config/num_hidden_layers", Some(json!(2)), "and there is");
    check("mistral3", "/vision_config/hidden_act", Some(json!("relu")), "silu and gelu alone");
    check("pixtral", "/vision_config/model_type", Some(json!("clip_vision_model")), "\"pixtral\"");
    check("pixtral", "/vision_config", Some(json!({"model_type": "pixtral"})), "hidden_size");
    check("llama4", "/vision_config/pixel_shuffle_ratio", Some(json!(0)), "above zero");
    check("internvl", "/downsample_ratio", None, missing);
    check("internvl", "/vision_config/hidden_size", None, missing);
    check("lfm2-vl", "/vision_feature_layer", Some(json!(-5)), "of 3 layers");
    check("kimi-vl", "/vision_config/patch_size", None, missing);
    check("kimi-vl", "/image_mean", None, missing);
    check("kimi-vl", "/image_std", Some(json!([0.5, "x"])), "a list of numbers");
    check("gemma4", "/audio_config", None, "and there is model.audio_tower.");
    check("gemma4", "/audio_config/hidden_size", Some(json!(48)), "has the shape");
    check("ultravox", "/audio_config/num_mel_bins", None, missing);
    check("ultravox", "/stack_factor", None, missing);
    check("voxtral", "/model_type", Some(json!("voxtral_realtime")), "those of gemma3, gemma4,");
}
