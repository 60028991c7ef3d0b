//! Adapters, from the command line. What PEFT and llama.cpp make of them is in
//! `fixtures/lora/NAME/golden.json` (`fixtures/make/lora_adapters.py`).

use std::fs;
use std::path::{Path, PathBuf};

use qz_gguf::GgufModel;
use qz_safetensors::SafetensorsModel;
use qz_tensor::{DataType, TensorIndex, TensorSource};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::{Safetensors, copy_of, edit_json, fixtures, quantize, scratch, tensor, text};

const BAD_INPUT: i32 = 3;
const NUMERIC: i32 = 6;

fn adapter(name: &str) -> PathBuf {
    fixtures().join("lora").join(name)
}

fn golden(name: &str) -> Value {
    let bytes = fs::read(adapter(name).join("golden.json")).expect("a golden");
    serde_json::from_slice(&bytes).expect("JSON")
}

fn base_of(name: &str) -> PathBuf {
    fixtures().join("tiny").join(golden(name)["base"].as_str().expect("a base"))
}

/// All tensors of a folder: name, type, bytes.
fn tensors(folder: &Path) -> Vec<(String, DataType, Vec<u8>)> {
    let model = SafetensorsModel::open_folder(folder).expect("a folder");
    let read = |(index, info): (usize, &qz_tensor::TensorInfo)| {
        let mut bytes = vec![0; info.bytes as usize];
        model.read(TensorIndex(index), 0, &mut bytes).expect("read");
        (info.name.to_string(), info.data_type, bytes)
    };
    model.tensors().iter().enumerate().map(read).collect()
}

/// The base in a type, as a folder.
fn base_as(name: &str, data_type: &str, into: &Path) -> PathBuf {
    if data_type == "bf16" {
        return base_of(name);
    }
    let folder = into.join(base_of(name).file_name().expect("a name"));
    let target = format!("safetensors:{data_type}");
    quantize(&["convert", text(&base_of(name)), "--to", &target, "-o", text(&folder), "--force"])
        .expect_success();
    folder
}

/// A base with adapters merged, as a folder of the type.
fn merged(base: &Path, adapters: &[&str], data_type: &str, into: &Path) -> PathBuf {
    let (out, target) = (into.join("merged"), format!("safetensors:{data_type}"));
    let mut arguments = vec!["convert", text(base), "--to", &target, "-o", text(&out), "--force"];
    let adapters: Vec<PathBuf> = adapters.iter().map(|name| adapter(name)).collect();
    adapters.iter().for_each(|path| arguments.extend(["--merge-lora", text(path)]));
    let run = quantize(&arguments).expect_success();
    assert!(!run.stderr.contains("base_model_name_or_path"), "{}", run.stderr);
    out
}

/// PEFT's merged tensors have these digests.
fn assert_digests(folder: &Path, expected: &Value, context: &str) {
    let expected = expected.as_object().expect("digests");
    let found = tensors(folder);
    assert_eq!(found.len(), expected.len(), "{context}");
    let digest = |bytes: &[u8]| format!("{:x}", Sha256::digest(bytes));
    let differing: Vec<&str> = found
        .iter()
        .filter(|(name, _, bytes)| expected[name] != digest(bytes).as_str())
        .map(|(name, ..)| name.as_str())
        .collect();
    assert!(differing.is_empty(), "{context}: {differing:?}");
}

#[test]
fn merged_models_are_those_of_peft() {
    const NAMES: &[&str] = &[
        "plain",
        "half",
        "pickled",
        "patterns",
        "embeddings",
        "embed-output",
        "biases",
        "experts",
        "fused-experts",
    ];
    let folder = scratch();
    for name in NAMES {
        for (data_type, key) in [("bf16", "bfloat16"), ("f32", "float32")] {
            let base = base_as(name, data_type, folder.path());
            let out = merged(&base, &[name], data_type, folder.path());
            assert_digests(&out, &golden(name)[key], &format!("{name} {key}"));
        }
    }
    let base = base_as("latent", "f32", folder.path());
    let out = merged(&base, &["latent"], "f32", folder.path());
    assert_digests(&out, &golden("latent")["float32"], "latent");
}

#[test]
fn adapters_are_merged_one_after_the_other() {
    let folder = scratch();
    let out = merged(&base_of("patterns"), &["plain", "patterns"], "bf16", folder.path());
    assert_digests(&out, &golden("patterns")["after plain"], "plain, then patterns");
}

/// PEFT's norms of rows are sums in f32 in an order of their own.
#[test]
fn dora_is_merged_within_a_rounding_of_its_norms() {
    let folder = scratch();
    for (data_type, key, most) in [("bf16", "bfloat16", 0.004), ("f32", "float32", 5e-7)] {
        let base = base_as("dora", data_type, folder.path());
        let out = tensors(&merged(&base, &["dora"], data_type, folder.path()));
        let plain = tensors(&base);
        let model =
            SafetensorsModel::open_path(adapter("dora").join(format!("merged-{key}.safetensors")));
        let model = model.expect("a golden");
        assert_eq!(model.tensors().len(), 4);
        for (index, info) in model.tensors().iter().enumerate() {
            let mut bytes = vec![0; info.bytes as usize];
            model.read(TensorIndex(index), 0, &mut bytes).expect("read");
            let of = |tensors: &[(String, DataType, Vec<u8>)]| {
                let found =
                    tensors.iter().find(|(name, ..)| *name == *info.name).expect("a tensor");
                numbers(found.1, &found.2)
            };
            let (expected, found) = (numbers(info.data_type, &bytes), of(&out));
            assert_ne!(found, of(&plain), "{}", info.name);
            for (found, expected) in found.iter().zip(&expected) {
                let error = (found - expected).abs();
                assert!(error <= most * expected.abs() + 1e-9, "{}: {found} {expected}", info.name);
            }
        }
    }
}

fn numbers(data_type: DataType, bytes: &[u8]) -> Vec<f32> {
    let codec = qz_codec::codec_for(data_type).expect("a codec");
    let mut numbers = vec![0.0; bytes.len() / data_type.block_bytes()];
    codec.decode(bytes, &mut numbers);
    numbers
}

/// A merged model is one that was saved: whatever is done with the base and its adapter gives
/// the same.
#[test]
fn every_job_sees_the_merged_model() {
    let folder = scratch();
    let (base, lora) = (base_of("plain"), adapter("plain"));
    let saved = folder.path().join("sharded");
    quantize(&[
        "convert",
        text(&base),
        "--to",
        "safetensors:bf16",
        "-o",
        text(&saved),
        "--merge-lora",
        text(&lora),
    ])
    .expect_success();
    let data = folder.path().join("text.txt");
    fs::write(&data, "The weights are numbers, and we round them. ".repeat(40)).expect("written");
    let out = |name: &str| folder.path().join(name);
    for target in ["q4_0", "f32", "mlx:w4g32"] {
        let run = |model: &Path, more: &[&str], to: &str| {
            let path = out(to);
            let arguments = ["convert", text(model), "--to", target, "-o", text(&path), "--force"];
            quantize(&[&arguments, more].concat()).expect_success();
            match path.is_dir() {
                true => tensors(&path).into_iter().flat_map(|(_, _, bytes)| bytes).collect(),
                false => fs::read(path).expect("a file"),
            }
        };
        let expected = run(&saved, &[], &format!("a-{target}").replace(':', "-"));
        let found =
            run(&base, &["--merge-lora", text(&lora)], &format!("b-{target}").replace(':', "-"));
        assert!(found == expected, "{target}");
        let plain = run(&base, &[], &format!("c-{target}").replace(':', "-"));
        assert!(plain != expected, "{target}");
    }
    let merging = ["--merge-lora", text(&lora)];
    let perplexity = |model: &Path, more: &[&str]| {
        let common =
            ["eval", text(model), "--data", text(&data), "--ctx", "64", "--chunks", "2", "--json"];
        let report = quantize(&[&common, more].concat()).expect_success().json();
        report["perplexity"]["value"].as_f64().expect("a number")
    };
    assert_eq!(perplexity(&base, &merging), perplexity(&saved, &[]));
    let calibrated = |model: &Path, more: &[&str], to: &str| {
        let path = out(to);
        let common = [
            "calibrate",
            text(model),
            "--data",
            text(&data),
            "--ctx",
            "64",
            "--chunks",
            "2",
            "-o",
            text(&path),
        ];
        quantize(&[&common, more].concat()).expect_success();
        fs::read(path).expect("a file")
    };
    assert!(calibrated(&base, &merging, "a.gguf") == calibrated(&saved, &[], "b.gguf"));
    let quantized = |model: &Path, more: &[&str], to: &str| {
        let path = out(to);
        let common = [
            "quantize",
            text(model),
            "--to",
            "q4_0",
            "--method",
            "gptq",
            "--data",
            text(&data),
            "--ctx",
            "64",
            "--chunks",
            "2",
            "-o",
            text(&path),
        ];
        quantize(&[&common, more].concat()).expect_success();
        fs::read(path).expect("a file")
    };
    assert!(quantized(&base, &merging, "c.gguf") == quantized(&saved, &[], "d.gguf"));

    // The source of a comparison is merged, and what is written is held to it.
    let artifact = out("b-f32");
    let verify = ["verify", text(&artifact), "--source", text(&base)];
    quantize(&[&verify, &merging[..]].concat()).expect_success();
    assert_eq!(quantize(&verify).code, 1);
}

/// A GGUF adapter of this type, for the base as its golden names it.
fn gguf_of(name: &str, data_type: &str, into: &Path) -> PathBuf {
    let out = into.join(format!("{name}.gguf"));
    let (path, base) = (adapter(name), base_of(name));
    quantize(&[
        "convert",
        text(&path),
        "--base",
        text(&base),
        "--to",
        data_type,
        "-o",
        text(&out),
        "--force",
    ])
    .expect_success();
    out
}

#[test]
fn gguf_adapters_are_those_of_llama_cpp() {
    let folder = scratch();
    for name in ["plain", "half", "pickled", "embed-output"] {
        let bytes = fs::read(gguf_of(name, "f32", folder.path())).expect("a file");
        let digest = format!("{:x}", Sha256::digest(bytes));
        assert_eq!(golden(name)["gguf"], digest.as_str(), "{name}");
    }
}

/// What llama.cpp adds to a tensor: alpha over the rank times the product of both factors.
fn added(file: &Path, name: &str) -> Vec<f32> {
    let model = GgufModel::open(file).expect("a GGUF file");
    let Some(qz_tensor::Value::F32(alpha)) = model.metadata().get("adapter.lora.alpha") else {
        panic!("alpha");
    };
    let read = |ending: &str| {
        let name = format!("{name}.{ending}");
        let tensors = model.tensors();
        let index = tensors.iter().position(|info| *info.name == *name).expect("a factor");
        let mut bytes = vec![0; tensors[index].bytes as usize];
        model.read(TensorIndex(index), 0, &mut bytes).expect("read");
        (numbers(tensors[index].data_type, &bytes), tensors[index].shape.clone())
    };
    let ((a, a_shape), (b, b_shape)) = (read("lora_a"), read("lora_b"));
    let (rank, columns) = (b_shape.columns() as usize, a_shape.columns() as usize);
    let matrices = a_shape.rows() as usize / rank;
    let rows = b_shape.rows() as usize / matrices;
    let mut product = vec![0.0; matrices * rows * columns];
    for (number, value) in product.iter_mut().enumerate() {
        let (matrix, row, column) =
            (number / (rows * columns), number / columns % rows, number % columns);
        let terms = (0..rank).map(|place| {
            a[(matrix * rank + place) * columns + column] * b[(matrix * rows + row) * rank + place]
        });
        *value = *alpha / rank as f32 * terms.sum::<f32>();
    }
    product
}

/// What merging changes in a GGUF file of the base is what llama.cpp adds to it, whatever
/// rank-stabilized factors, patterns, row orders and stacks of experts are in between.
#[test]
fn gguf_adapters_add_what_merging_adds() {
    const TENSORS: &[(&str, &[&str])] = &[
        (
            "patterns",
            &[
                "blk.0.attn_k.weight",
                "blk.1.attn_q.weight",
                "blk.0.ffn_down.weight",
                "blk.1.ffn_gate.weight",
            ],
        ),
        (
            "experts",
            &[
                "blk.1.ffn_gate_exps.weight",
                "blk.0.ffn_up_exps.weight",
                "blk.0.ffn_down_exps.weight",
                "blk.1.attn_output.weight",
            ],
        ),
        (
            "fused-experts",
            &[
                "blk.0.ffn_gate_exps.weight",
                "blk.1.ffn_up_exps.weight",
                "blk.0.ffn_down_exps.weight",
            ],
        ),
    ];
    let folder = scratch();
    for (name, tensors) in TENSORS {
        let base = base_as(name, "f32", folder.path());
        let file = |more: &[&str], to: &str| {
            let out = folder.path().join(to);
            let arguments = ["convert", text(&base), "--to", "f32", "-o", text(&out), "--force"];
            quantize(&[&arguments, more].concat()).expect_success();
            out
        };
        let lora = adapter(name);
        let (plain, merged) =
            (file(&[], "plain.gguf"), file(&["--merge-lora", text(&lora)], "merged.gguf"));
        let alone = gguf_of(name, "f32", folder.path());
        for tensor_name in *tensors {
            let of = |file: &Path| {
                let (data_type, bytes) = tensor(file, tensor_name);
                numbers(data_type, &bytes)
            };
            let (before, after) = (of(&plain), of(&merged));
            let added = added(&alone, tensor_name);
            assert_eq!(added.len(), before.len(), "{name} {tensor_name}");
            let largest = added.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            assert!(largest > 1e-3, "{name} {tensor_name}: nothing is added");
            for ((before, after), added) in before.iter().zip(&after).zip(&added) {
                let error = (after - before - added).abs();
                assert!(error <= 1e-5 * (1.0 + largest), "{name} {tensor_name}: {error}");
            }
        }
    }
}

#[test]
fn gguf_adapters_have_types_and_bounds() {
    let folder = scratch();
    for data_type in ["f16", "bf16", "q8_0"] {
        let file = gguf_of("plain", data_type, folder.path());
        let of = |ending: &str| {
            tensor(&file, &format!("blk.0.attn_q.weight.{ending}")).0.name().to_lowercase()
        };
        // Rows of four numbers fill no block.
        let second = if data_type == "q8_0" { "f16" } else { data_type };
        assert_eq!([of("lora_a"), of("lora_b")], [data_type, second]);
    }
    let check = |name: &str, more: &[&str], code: i32, expected: &str| {
        let (path, base, out) = (adapter(name), base_of(name), folder.path().join("refused.gguf"));
        let arguments = ["convert", text(&path), "--base", text(&base), "-o", text(&out)];
        let run = quantize(&[&arguments, more].concat());
        assert_eq!(run.code, code, "{name}: {}", run.stderr);
        assert!(run.stderr.contains(expected), "{expected}: {}", run.stderr);
    };
    check("dora", &["--to", "f32"], BAD_INPUT, "merge it into its base");
    check("embeddings", &["--to", "f32"], BAD_INPUT, "takes the place of lm_head.weight");
    check("plain", &["--to", "q4_k_m"], 2, "f32, f16, bf16 or q8_0");
    check("plain", &["--to", "f32,f16"], 2, "f32, f16, bf16 or q8_0");
}

#[test]
fn a_weight_scales_the_change() {
    let folder = scratch();
    let base = base_as("plain", "f32", folder.path());
    let with = |weight: &str| {
        let adapter = format!("{}{weight}", text(&adapter("plain")));
        let out = folder.path().join("weighed");
        quantize(&[
            "convert",
            text(&base),
            "--to",
            "safetensors:f32",
            "-o",
            text(&out),
            "--force",
            "--merge-lora",
            &adapter,
        ])
        .expect_success();
        let all = tensors(&out);
        let name = "model.layers.0.self_attn.q_proj.weight";
        let (_, data_type, bytes) = all.into_iter().find(|it| it.0 == name).expect("a tensor");
        numbers(data_type, &bytes)
    };
    let (none, half, whole) = (with("=0"), with("=0.5"), with(""));
    assert_eq!(with("=1"), whole);
    for ((none, half), whole) in none.iter().zip(&half).zip(&whole) {
        assert!((none + whole - 2.0 * half).abs() <= 1e-6, "{none} {half} {whole}");
    }
    assert_ne!(none, whole);
}

/// A run on a copy of an adapter, after a change of it.
fn changed(name: &str, change: impl FnOnce(&Path), arguments: &[&str]) -> (i32, String) {
    let folder = scratch();
    let copy = folder.path().join(name);
    fs::create_dir(&copy).expect("a folder");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(adapter(name).join(file), copy.join(file)).expect("copied");
    }
    change(&copy);
    let (base, out) = (base_of(name), folder.path().join("out.gguf"));
    let common =
        ["convert", text(&base), "--to", "f16", "-o", text(&out), "--merge-lora", text(&copy)];
    let run = quantize(&[&common, arguments].concat());
    (run.code, run.stderr)
}

#[test]
fn adapters_that_do_not_fit_are_errors_that_say_what() {
    fn config(key: &'static str, value: Value) -> impl FnOnce(&Path) {
        move |folder| edit_json(&folder.join("adapter_config.json"), |json| json[key] = value)
    }
    fn renamed(from: &'static str, to: &'static str) -> impl FnOnce(&Path) {
        move |folder| {
            let path = folder.join("adapter_model.safetensors");
            let mut file = Safetensors::read(&path);
            let keys = file.header.as_object_mut().expect("a header");
            let entry = keys.remove(from).expect("a tensor");
            keys.insert(to.to_owned(), entry);
            file.write(&path);
        }
    }
    fn check<F: FnOnce(&Path)>(name: &str, change: F, expected: &[&str]) {
        let (code, stderr) = changed(name, change, &[]);
        assert_eq!(code, BAD_INPUT, "{expected:?}: {stderr}");
        for expected in expected {
            assert!(stderr.contains(expected), "{expected}: {stderr}");
        }
    }
    const Q_A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    check("plain", config("r", 5.into()), &["lora_A", "rank 4", "says 5"]);
    check("plain", config("lora_alpha", 1e300.into()), &["lora_A", "too large"]);
    check("plain", config("init_lora_weights", "pissa".into()), &["is pissa: "]);
    check("plain", config("use_dora", true.into()), &["lora_magnitude_vector", "use_dora"]);
    check("plain", config("use_qalora", true.into()), &["adapter_config.json", "use_qalora"]);
    check("plain", config("peft_type", "LOHA".into()), &["peft_type", "LOHA"]);
    check("dora", config("use_dora", false.into()), &["use_dora is not set"]);
    check(
        "plain",
        renamed(Q_A, "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"),
        &["layers.0", "no lora_A"],
    );
    check(
        "plain",
        renamed(Q_A, "base_model.model.model.layers.0.lora_C"),
        &["lora_C", "not understood"],
    );
    check(
        "plain",
        renamed(Q_A, "base_model.model.surprise.weight"),
        &["surprise.weight", "does not have"],
    );
    check(
        "plain",
        |folder: &Path| fs::write(folder.join("adapter_config.json"), "[").expect("written"),
        &["adapter_config.json", "no JSON object"],
    );
    check(
        "plain",
        |folder: &Path| fs::remove_file(folder.join("adapter_model.safetensors")).expect("gone"),
        &["adapter_model.safetensors or adapter_model.bin"],
    );
    check(
        "plain",
        |folder: &Path| fs::remove_file(folder.join("adapter_config.json")).expect("gone"),
        &["adapter_config.json", "no adapter of PEFT's"],
    );

    // PEFT unties the output from an embedding that an adapter replaces.
    let replaced = |folder: &Path| {
        const EMBEDDING: &str = "model.embed_tokens.weight";
        let base = Safetensors::read(&base_of("half").join("model.safetensors"));
        let shape = base.header[EMBEDDING]["shape"].as_array().expect("a shape");
        let size = |size: &Value| usize::try_from(size.as_u64()?).ok();
        let shape: Vec<usize> = shape.iter().map(|one| size(one).expect("a size")).collect();
        let bytes = vec![0; shape.iter().product::<usize>() * 2];
        let path = folder.join("adapter_model.safetensors");
        let mut file = Safetensors::read(&path);
        file.add(&format!("base_model.model.{EMBEDDING}"), "BF16", &shape, &bytes);
        file.write(&path);
    };
    check("half", replaced, &["model.embed_tokens.weight alone", "tie_word_embeddings"]);

    let (code, stderr) = changed("plain", |_| {}, &["--merge-lora", "nowhere"]);
    assert!(code != 0 && stderr.contains("nowhere"), "{stderr}");
    let (code, stderr) =
        changed("dora", |_| {}, &["--merge-lora", &format!("{}=2", text(&adapter("dora")))]);
    assert!(code == BAD_INPUT && stderr.contains("with a weight"), "{stderr}");
}

#[test]
fn numbers_that_are_none_are_said_of_the_adapter() {
    const Q_A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let folder = scratch();
    let poisoned = |name: &str, tensor: &str, place: usize, value: f32| {
        let copy = folder.path().join(name);
        fs::create_dir(&copy).expect("a folder");
        fs::copy(adapter("plain").join("adapter_config.json"), copy.join("adapter_config.json"))
            .expect("copied");
        let mut file = Safetensors::read(&adapter("plain").join("adapter_model.safetensors"));
        let at = file.start(tensor) + 4 * place;
        file.data[at..at + 4].copy_from_slice(&value.to_le_bytes());
        file.write(&copy.join("adapter_model.safetensors"));
        copy
    };
    let (base, out) = (base_of("plain"), folder.path().join("out.gguf"));
    let check = |copy: &Path, to: &str, merges: bool, expected: &[&str]| {
        let (copy, base) = (text(copy), text(&base));
        let sources = if merges { [base, "--merge-lora", copy] } else { [copy, "--base", base] };
        let run = quantize(&[&["convert"], &sources[..], &["--to", to, "-o", text(&out)]].concat());
        assert_eq!(run.code, NUMERIC, "{expected:?}: {}", run.stderr);
        for expected in expected {
            assert!(run.stderr.contains(expected), "{expected}: {}", run.stderr);
        }
        assert!(!out.exists());
    };
    let none = poisoned("none", Q_A, 5, f32::NAN);
    for merges in [true, false] {
        check(&none, "f16", merges, &["adapter_model.safetensors", Q_A, "weight 5 is NaN"]);
    }
    let large = poisoned("large", Q_A, 0, -1e6);
    let own = "blk.0.attn_q.weight.lora_a: row 0 holds a weight up to 1e6, which overflows F16";
    check(&large, "f16", false, &[own]);
}

#[test]
fn an_adapter_of_another_base_is_refused_or_told() {
    let folder = scratch();
    let out = folder.path().join("out.gguf");
    let run = |base: &Path, name: &str| {
        let path = adapter(name);
        quantize(&[
            "convert",
            text(base),
            "--to",
            "f16",
            "-o",
            text(&out),
            "--force",
            "--merge-lora",
            text(&path),
        ])
    };
    let renamed = folder.path().join("another");
    fs::rename(copy_of("tiny/sharded", folder.path()), &renamed).expect("renamed");
    let told = run(&renamed, "plain").expect_success();
    assert!(told.stderr.contains("base_model_name_or_path is tiny/sharded"), "{}", told.stderr);
    // Its output is its embedding.
    let refused = run(&fixtures().join("tiny/llama-spm"), "embed-output");
    assert_eq!(refused.code, BAD_INPUT);
    assert!(refused.stderr.contains("tie_word_embeddings"), "{}", refused.stderr);
    let refused = run(&fixtures().join("tiny/qwen3"), "plain");
    assert_eq!(refused.code, BAD_INPUT);
    assert!(refused.stderr.contains("is of a matrix of"), "{}", refused.stderr);
    let gguf = folder.path().join("base.gguf");
    quantize(&["convert", text(&base_of("plain")), "--to", "f16", "-o", text(&gguf)])
        .expect_success();
    let refused = run(&gguf, "plain");
    assert_eq!(refused.code, BAD_INPUT);
    assert!(refused.stderr.contains("a GGUF file"), "{}", refused.stderr);
}
