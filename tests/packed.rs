//! Packed layouts: written from checkpoints and GGUF files alike, read back, converted
//! into each other, and held to the rules of the engines that load them.

use std::fs;
use std::path::{Path, PathBuf};

use qz_safetensors::SafetensorsModel;
use qz_tensor::{DataType, TensorIndex, TensorSource};
use serde_json::{Value, json};

use crate::support::{
    checkpoints, edit_json, fixtures, names, quantize, scratch, survives_kills, tensor, text,
};

fn demo() -> PathBuf {
    fixtures().join("demo-llama")
}

fn convert(source: &Path, target: &str, output: &Path) {
    quantize(&["convert", text(source), "--to", target, "-o", text(output)]).expect_success();
}

/// Every tensor of a folder: name, type and bytes.
fn tensors(folder: &Path) -> Vec<(String, DataType, Vec<u8>)> {
    let model = SafetensorsModel::open_folder(folder).expect("opens");
    let mut tensors: Vec<(String, DataType, Vec<u8>)> = (0..model.tensors().len())
        .map(|position| {
            let info = &model.tensors()[position];
            let mut bytes = vec![0; info.bytes as usize];
            model.read(TensorIndex(position), 0, &mut bytes).expect("read");
            (info.name.to_string(), info.data_type, bytes)
        })
        .collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).expect("read")).expect("JSON")
}

/// The rules that findings name.
fn findings(folder: &Path, engine: Option<&str>) -> Vec<String> {
    let engine = engine.map_or_else(Vec::new, |engine| vec!["--for", engine]);
    let run = quantize(&[&["verify", text(folder), "--json"][..], &engine].concat());
    let report = run.json();
    let findings = report["findings"].as_array().unwrap_or_else(|| panic!("{report}"));
    assert_eq!(run.code, i32::from(!findings.is_empty()), "{report}");
    let rule = |finding: &Value| finding["rule"].as_str().expect("a rule").to_owned();
    let mut rules: Vec<String> = findings.iter().map(rule).collect();
    rules.dedup();
    rules
}

#[test]
fn every_layout_is_written_and_read() {
    let folder = scratch();
    let targets = [
        "gptq:w4g128",
        "gptq:w3g64+v2+asym",
        "awq:w4g128",
        "ct:w4a16",
        "ct:w5a16+asym+g32",
        "ct:w8a8",
        "ct:w4a8",
        "ct:w3a8+g32+packed",
        "ct:w4a4+channel",
        "ct:w4afp8",
        "ct:fp8",
        "ct:fp8+tensor",
        "ct:fp8a16",
        "ct:nvfp4",
        "ct:nvfp4+4over6",
        "ct:mxfp4",
        "ct:mxfp4+hadamard32",
        "ct:mxfp4a4",
        "ct:mxfp4xfp8",
        "ct:mxfp8",
        "ct:mxfp6a16",
        "fp8:block128",
        "fp8:tensor",
        "modelopt:nvfp4a16",
        "modelopt:fp8+channel",
        "modelopt:mxfp8",
        "bnb:nf4",
        "bnb:nf4+double",
        "bnb:int8",
        "mlx:w4g64",
    ];
    for target in targets {
        let output = folder.path().join(target.replace(':', "-"));
        convert(&demo(), target, &output);
        let source = demo();
        let run = quantize(&["verify", text(&output), "--source", text(&source)]);
        assert_eq!(run.code, 0, "{target}: {}", run.stdout);
        let inspected = quantize(&["inspect", text(&output), "--json"]).expect_success().json();
        let bits = inspected["bits_per_weight"].as_f64().expect("a number");
        assert!((4.0..10.5).contains(&bits), "{target}: {bits}");
        // What the source's folder holds besides is there as it was.
        let tokenizer = "tokenizer.json";
        let [was, is] =
            [&source, &output].map(|path| fs::read(path.join(tokenizer)).expect("read"));
        assert!(was == is, "{target}");
    }
}

#[test]
fn what_stays_is_as_it_was_and_is_named() {
    let folder = scratch();
    let output = folder.path().join("out");
    convert(&demo(), "ct:w4a16", &output);
    let written = config(&output);
    let quantization = &written["quantization_config"];
    assert_eq!(quantization["ignore"], json!(["lm_head"]));
    assert_eq!(quantization["format"], "pack-quantized");
    let weights = &quantization["config_groups"]["group_0"]["weights"];
    assert_eq!(
        *weights,
        json!({"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group",
               "dynamic": false, "group_size": 128})
    );
    let (was, is) = (tensors(&demo()), tensors(&output));
    for (name, data_type, bytes) in was {
        let is_linear = name.ends_with("_proj.weight");
        let found = is.iter().find(|tensor| tensor.0 == name);
        match found {
            None => assert!(is_linear, "{name} is gone"),
            Some(found) => {
                assert!(!is_linear, "{name} is still there");
                assert!(found.1 == data_type && found.2 == bytes, "{name}");
            }
        }
    }
    // GPTQ has a file of its own that says the same.
    let output = folder.path().join("gptq");
    convert(&demo(), "gptq:w4g128+v2", &output);
    let own: Value =
        serde_json::from_slice(&fs::read(output.join("quantize_config.json")).expect("read"))
            .expect("JSON");
    assert_eq!(config(&output)["quantization_config"], own);
    assert_eq!(own["checkpoint_format"], "gptq_v2");
}

/// Row orders, names and tied weights do not depend on the way that a model came.
#[test]
fn gguf_files_make_the_same_tensors() {
    let folder = scratch();
    let check = |fixture: &str, target: &str| {
        let name = format!("{}-{}", fixture.replace('/', "-"), target.replace(':', "-"));
        let [gguf, direct, from_gguf] =
            ["gguf", "direct", "again"].map(|kind| folder.path().join(format!("{name}.{kind}")));
        let source = fixtures().join(fixture);
        convert(&source, "f32", &gguf);
        convert(&source, target, &direct);
        convert(&gguf, target, &from_gguf);
        let (expected, found) = (tensors(&direct), tensors(&from_gguf));
        let listed = |tensors: &[(String, DataType, Vec<u8>)]| -> Vec<(String, DataType)> {
            tensors.iter().map(|tensor| (tensor.0.clone(), tensor.1)).collect()
        };
        assert_eq!(listed(&found), listed(&expected), "{fixture} {target}");
        for (expected, found) in expected.iter().zip(&found) {
            assert!(expected.2 == found.2, "{fixture} {target} {}", expected.0);
        }
        let [was, is] =
            [&direct, &from_gguf].map(|path| config(path)["quantization_config"].clone());
        assert_eq!(is, was);
    };
    check("demo-llama", "gptq:w4g128");
    check("demo-llama", "awq:w4g64");
    check("tiny/llama-tied", "ct:w3a16+asym");
    check("tiny/mixtral", "ct:w4a16+g32");
    check("tiny/mixtral", "gptq:w4g32");
    check("tiny/qwen3", "awq:w4g64");
}

/// A folder of any family holds its weights, whatever becomes of the rows of its modules on
/// their way to GGUF; families without a matrix that a module has for itself are refused.
#[test]
fn every_family_keeps_its_weights() {
    let folder = scratch();
    for checkpoint in checkpoints() {
        let name = checkpoint.file_name().expect("a name").to_str().expect("UTF-8");
        let output = folder.path().join(name);
        let run =
            quantize(&["convert", text(&checkpoint), "--to", "fp8:tensor", "-o", text(&output)]);
        if ["gpt2", "jina-v3"].contains(&name) {
            assert_eq!(run.code, 2, "{}", run.stderr);
            assert!(run.stderr.contains("no linear layer with its rows"), "{}", run.stderr);
            continue;
        }
        run.expect_success();
        quantize(&["verify", text(&output), "--source", text(&checkpoint)]).expect_success();
    }
}

#[test]
fn what_no_module_has_for_itself_is_left_and_told() {
    let folder = scratch();
    let output = folder.path().join("out");
    let source = fixtures().join("tiny/openelm");
    let run = quantize(&["convert", text(&source), "--to", "gptq:w4g32", "-o", text(&output)]);
    let run = run.expect_success();
    let told = "6 of 15 matrices are not packed (blk.0.ffn_gate.weight and so on)";
    assert!(run.stderr.contains(told), "{}", run.stderr);
    let names: Vec<String> = tensors(&output).into_iter().map(|(name, ..)| name).collect();
    let has = |name: &str| names.iter().any(|own| own == name);
    assert!(has("transformer.layers.0.ffn.proj_1.weight"));
    assert!(has("transformer.layers.0.ffn.proj_2.qweight"));
}

#[test]
fn experts_get_tensors_of_their_own() {
    let folder = scratch();
    let output = folder.path().join("out");
    convert(&fixtures().join("tiny/mixtral"), "ct:w4a16+g32", &output);
    let names: Vec<String> = tensors(&output).into_iter().map(|tensor| tensor.0).collect();
    let packed = |expert: usize| {
        format!("model.layers.0.block_sparse_moe.experts.{expert}.w1.weight_packed")
    };
    for expert in 0..8 {
        assert!(names.contains(&packed(expert)), "{names:?}");
    }
    let ignored = config(&output)["quantization_config"]["ignore"].to_string();
    assert!(ignored.contains("model.layers.0.block_sparse_moe.gate"), "{ignored}");
    assert_eq!(findings(&output, Some("vllm")), [""; 0]);
    // Routers stay as they are, and have to be named.
    let output = folder.path().join("awq");
    convert(&fixtures().join("tiny/mixtral"), "awq:w4g32", &output);
    assert_eq!(findings(&output, Some("vllm")), [""; 0]);
    edit_json(&output.join("config.json"), |config| {
        config["quantization_config"]["modules_to_not_convert"] = json!([]);
    });
    assert_eq!(findings(&output, None), ["ignore"]);
}

/// Killed with some of its work written down, a run is continued to the same folder.
#[test]
fn a_killed_run_is_finished_by_the_next() {
    let folder = scratch();
    let [expected, output] = ["expected", "out"].map(|name| folder.path().join(name));
    convert(&demo(), "gptq:w4g128", &expected);
    let source = demo();
    let arguments = ["convert", text(&source), "--to", "gptq:w4g128", "-o", text(&output)];
    let expected = tensors(&expected);
    survives_kills(&arguments, &output, &|| assert!(tensors(&output) == expected));
    assert_eq!(names(folder.path()), ["expected", "out"]);
}

/// What a plan says of sizes is what is written.
#[test]
fn plans_are_kept() {
    let folder = scratch();
    let source = demo();
    let planned = quantize(&["plan", text(&source), "--to", "awq:w4g128,ct:w3a16", "--json"])
        .expect_success()
        .json();
    let output = folder.path().join("out");
    let written = quantize(&[
        "convert",
        text(&source),
        "--to",
        "awq:w4g128,ct:w3a16",
        "-o",
        text(&output),
        "--json",
    ])
    .expect_success()
    .json();
    let outputs = planned["outputs"].as_array().expect("outputs");
    assert_eq!(outputs.len(), 2);
    for (planned, written) in outputs.iter().zip(written["outputs"].as_array().expect("outputs")) {
        assert_eq!(planned["bytes"], written["bytes"]);
        assert_eq!(planned["bits_per_weight"], written["bits_per_weight"]);
    }
    assert_eq!(names(&output), ["demo-llama-awq-w4g128", "demo-llama-ct-w3a16"]);
}

/// Threads change no byte.
#[test]
fn the_same_bytes_on_any_number_of_threads() {
    let folder = scratch();
    for target in ["gptq:w4g128", "awq:w4g128", "ct:w4a16+asym"] {
        let outputs = ["1", "5"].map(|threads| {
            let output = folder.path().join(format!("{}-{threads}", target.replace(':', "-")));
            let source = demo();
            quantize(&[
                "convert",
                text(&source),
                "--to",
                target,
                "-o",
                text(&output),
                "--threads",
                threads,
            ])
            .expect_success();
            output
        });
        let [one, five] = outputs.map(|output| {
            names(&output)
                .into_iter()
                .map(|name| (fs::read(output.join(&name)).expect("read"), name))
                .collect::<Vec<_>>()
        });
        assert!(one == five, "{target}");
    }
}

/// Groups of four bits around a middle are blocks of Q4_0, and go there as they are.
#[test]
fn grids_are_kept_where_blocks_hold_them() {
    let folder = scratch();
    let [packed, gguf, plain] =
        ["packed", "model.gguf", "plain.gguf"].map(|name| folder.path().join(name));
    let check = |target: &str, to: &str, expected: DataType| {
        convert(&demo(), target, &packed);
        convert(&packed, to, &gguf);
        convert(&packed, "f32", &plain);
        let name = "blk.1.attn_q.weight";
        let (data_type, bytes) = tensor(&gguf, name);
        assert_eq!(data_type, expected);
        let codec = qz_codec::codec_for(data_type).expect("a codec");
        let (_, exact) = tensor(&plain, name);
        let mut decoded = vec![0.0f32; exact.len() / 4];
        codec.decode(&bytes, &mut decoded);
        let exact = exact.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        assert!(decoded.iter().copied().eq(exact), "{target} to {to}");
        fs::remove_dir_all(&packed).expect("removed");
        fs::remove_file(&gguf).expect("removed");
        fs::remove_file(&plain).expect("removed");
    };
    check("gptq:w4g128", "q4_0", DataType::Q4_0);
    check("gptq:w8g64", "q8_0", DataType::Q8_0);
    check("ct:w4a16", "q4_0", DataType::Q4_0);
}

#[test]
fn quantizing_again_has_to_be_allowed() {
    let folder = scratch();
    let packed = folder.path().join("packed");
    convert(&demo(), "awq:w4g128", &packed);
    let again = |target: &str, flags: &[&str]| {
        let output = folder.path().join(format!("{}-again", target.replace(':', "-")));
        let fixed = ["convert", text(&packed), "--to", target, "-o", text(&output), "--force"];
        quantize(&[&fixed[..], flags].concat())
    };
    for target in ["q4_k_m", "q4_0", "gptq:w4g128"] {
        let refused = again(target, &[]);
        assert_eq!(refused.code, 5, "{target}: {}", refused.stderr);
        assert!(refused.stderr.contains("quantized already"), "{}", refused.stderr);
        again(target, &["--allow-requantize"]).expect_success();
    }
    for target in ["f16", "bf16", "safetensors:bf16"] {
        again(target, &[]).expect_success();
    }
    let plain = folder.path().join("safetensors-bf16-again");
    assert_eq!(config(&plain).get("quantization_config"), None);
}

#[test]
fn sizes_that_do_not_fit_are_told() {
    let folder = scratch();
    let output = folder.path().join("out");
    let source = fixtures().join("tiny/llama-spm");
    let run = quantize(&["convert", text(&source), "--to", "gptq:w4g128", "-o", text(&output)]);
    assert_eq!(run.code, 2, "{}", run.stderr);
    let expected = "gptq:w4g128 cannot hold it: 64 inputs are not a multiple of the group 128; \
                    gptq:w4g32 and gptq:w4 fit this model";
    assert!(run.stderr.contains(expected), "{}", run.stderr);
    assert!(!output.exists());
    let run = quantize(&["convert", text(&source), "--to", "gptq:w9", "-o", text(&output)]);
    assert_eq!(run.code, 2, "{}", run.stderr);
}

/// Few small matrices that do not fit: the message says how they are left as they are.
#[test]
fn few_matrices_that_do_not_fit_can_be_left() {
    let folder = scratch();
    let source = fixtures().join("tiny/kimi-linear");
    let convert = |target: &str, more: &[&str]| {
        let output = folder.path().join(target.replace(':', "-"));
        let given = ["convert", text(&source), "--to", target, "-o", text(&output)];
        quantize(&[&given[..], more].concat())
    };
    for (target, fitting, pattern) in [
        ("ct:w4a16+g32", "; ct:w4a16+channel fits this model", r"\.(ssm_f_b|ssm_g_b)\.=bf16"),
        ("gptq:w4g32", "", r"\.(ssm_beta|ssm_f_b|ssm_g_b)\.=bf16"),
    ] {
        let run = convert(target, &[]);
        assert_eq!(run.code, 2, "{}", run.stderr);
        let expected = format!("{fitting}; --tensor-type '{pattern}' leaves what does not fit");
        assert!(run.stderr.contains(&expected), "{}", run.stderr);
        convert(target, &["--tensor-type", pattern]).expect_success();
    }
    // Nearly all of a model: no pattern is the way.
    let run = convert("gptq:w4g128", &[]);
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(!run.stderr.contains("--tensor-type"), "{}", run.stderr);
}

/// Of a matrix of a few weights most bytes are scales and shapes, which hold no weights.
#[test]
fn small_matrices_lose_what_their_codes_lose() {
    let folder = scratch();
    let (source, output) = (fixtures().join("tiny/kimi-linear"), folder.path().join("out"));
    convert(&source, "ct:w4a16+channel", &output);
    quantize(&["verify", text(&output), "--source", text(&source)]).expect_success();
}

#[test]
fn searches_are_better_than_rounding() {
    let folder = scratch();
    let source = demo();
    let error = |rounding: &str| {
        let output = folder.path().join(rounding);
        quantize(&[
            "convert",
            text(&source),
            "--to",
            "ct:w3a16",
            "-o",
            text(&output),
            "--rounding",
            rounding,
        ])
        .expect_success();
        let run = quantize(&["verify", text(&output), "--source", text(&source), "--json"]).json();
        let tensors = run["tensors"].as_array().expect("tensors");
        tensors.iter().filter_map(|tensor| tensor["relative_error"].as_f64()).sum::<f64>()
    };
    let [plain, least, fitted] = ["rtn", "mse", "importance"].map(error);
    assert!(least < plain * 0.97, "{least} after {plain}");
    assert!(fitted < least * 1.001, "{fitted} after {least}");
}

/// Each demand of an engine, on a checkpoint that breaks it.
#[test]
fn loaders_rules() {
    let folder = scratch();
    let packed = folder.path().join("packed");
    let check = |target: &str, engine: Option<&str>, edit: fn(&mut Value), expected: &[&str]| {
        if packed.exists() {
            fs::remove_dir_all(&packed).expect("removed");
        }
        convert(&demo(), target, &packed);
        edit_json(&packed.join("config.json"), |config| edit(&mut config["quantization_config"]));
        assert_eq!(findings(&packed, engine), expected, "{target} {engine:?}");
    };
    let nothing = |_: &mut Value| {};
    for engine in [None, Some("vllm"), Some("sglang"), Some("transformers")] {
        check("gptq:w4g128", engine, nothing, &[]);
        check("awq:w4g128", engine, nothing, &[]);
        check("ct:w4a16+asym", engine, nothing, &[]);
    }
    check("gptq:w3g128", Some("vllm"), nothing, &["gptq-bits"]);
    check("gptq:w4g128+asym+v2", Some("vllm"), nothing, &["gptq-bits"]);
    check("gptq:w4g256", Some("vllm"), nothing, &["gptq-group"]);
    check("gptq:w4g128", Some("llama.cpp"), nothing, &["engine-method"]);
    check("gptq:w4g128", Some("mlx"), nothing, &["engine-method"]);
    check(
        "gptq:w4g128+v2",
        None,
        |config| {
            config["checkpoint_format"] = json!("gptq");
            config["format"] = json!("gptq");
        },
        &["zero-points-version", "config-copies"],
    );
    check(
        "gptq:w4g128",
        Some("vllm"),
        |config| config["desc_act"] = json!(true),
        &["config-copies", "act-order"],
    );
    check(
        "awq:w4g128",
        Some("vllm"),
        |config| config["zero_point"] = json!(false),
        &["awq-zero-point"],
    );
    check("ct:w4a16", None, |config| config["ignore"] = json!([]), &["ignore"]);
    check(
        "ct:w4a16+channel",
        None,
        |config| config["config_groups"]["group_0"]["weights"]["actorder"] = json!("static"),
        &["actorder-channel"],
    );
    check(
        "ct:w4a16",
        None,
        |config| config["config_groups"]["group_0"]["weights"]["damp"] = json!(0.1),
        &["unknown-key"],
    );
    check("ct:w4a16", None, |config| config["format"] = json!("packed"), &["format"]);
    // Not a method of anyone's.
    check(
        "ct:w4a16",
        None,
        |config| config["quant_method"] = json!("x"),
        &["unknown-quantization"],
    );
}
