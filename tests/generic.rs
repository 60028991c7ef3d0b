//! GGUF models of architectures that nobody here knows.

use std::path::Path;

use qz_gguf::{GgufFile, GgufSink};
use qz_tensor::{
    DataType, Metadata, OutputOptions, Shape, SinkTensor, TensorIndex, TensorSink, TensorSource,
    Value,
};

use crate::support::{Safetensors, copy_of, edit_json, quantize, scratch, text};

/// Tensors as a diffusion model has them: name, type, dimensions outermost first,
/// and the type that `--generic --to q4_k_m` gives them.
const TENSORS: &[(&str, DataType, &[u64], DataType)] = &[
    ("blk.0.attn_v.weight", DataType::F32, &[8, 256], DataType::Q6_K),
    ("double_blocks.0.img_attn.qkv.weight", DataType::BF16, &[12, 256], DataType::Q4_K),
    ("double_blocks.0.img_attn.qkv.bias", DataType::F32, &[768], DataType::F32),
    ("double_blocks.0.query_norm.weight", DataType::F32, &[8, 256], DataType::F32),
    // Not named as weights are.
    ("pos_embed", DataType::F32, &[8, 256], DataType::F32),
    // Rows that do not fill blocks of 256, nor of 32.
    ("final_layer.linear.weight", DataType::F32, &[32, 96], DataType::Q5_0),
    ("conv.weight", DataType::F32, &[16, 16, 3, 3], DataType::F16),
    // Few weights, no weights, indices, and a type without an encoder.
    ("tiny.weight", DataType::F32, &[3, 256], DataType::F32),
    ("empty.weight", DataType::F32, &[0, 256], DataType::F32),
    ("ids.weight", DataType::I32, &[8, 256], DataType::I32),
];

fn write(path: &Path, metadata: &Metadata) {
    let infos: Vec<SinkTensor> = TENSORS
        .iter()
        .map(|(name, data_type, dimensions, _)| SinkTensor {
            name: (*name).into(),
            data_type: *data_type,
            shape: Shape::new(*dimensions).expect("fits"),
        })
        .collect();
    let mut sink =
        GgufSink::create(path, metadata, &infos, "test", OutputOptions::default()).expect("made");
    for (position, info) in infos.iter().enumerate() {
        let size = info.shape.byte_size(info.data_type).expect("fits");
        sink.put(TensorIndex(position), 0, &vec![0; size as usize]).expect("put");
    }
    sink.finish().expect("finished");
}

#[test]
fn types_follow_from_names_and_shapes() {
    let folder = scratch();
    let [input, output] = ["in.gguf", "out.gguf"].map(|name| folder.path().join(name));
    for architecture in [None, Some("flux")] {
        let named = architecture.map(|name| ("general.architecture", Value::from(name)));
        write(&input, &named.into_iter().collect());
        let arguments = ["convert", text(&input), "--to", "q4_k_m", "--generic", "--json"];
        let arguments = [&arguments[..], &["--force", "-o", text(&output)]].concat();
        let report = quantize(&arguments).expect_success().json();
        let file = GgufFile::open(&output).expect("opens");
        for (name, _, _, expected) in TENSORS {
            let info = file.tensors().iter().find(|info| info.name == *name).expect("a tensor");
            assert_eq!(info.data_type, *expected, "{name}");
        }
        let fallbacks = report["outputs"][0]["fallbacks"].as_array().expect("a list");
        let mut names: Vec<&str> =
            fallbacks.iter().filter_map(|fallback| fallback["tensor"].as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["conv.weight", "final_layer.linear.weight"]);
        assert_eq!(file.metadata().unsigned("general.file_type"), Some(15));
        std::fs::remove_file(&input).expect("removed");
    }
}

/// Rules by names that nobody here knows would be guesses: they must be wanted.
#[test]
fn an_unknown_architecture_wants_the_option() {
    let folder = scratch();
    let [input, output] = ["in.gguf", "out.gguf"].map(|name| folder.path().join(name));
    let check = |metadata: Metadata, parts: &[&str]| {
        write(&input, &metadata);
        for command in ["convert", "plan"] {
            let mut arguments = vec![command, text(&input), "--to", "q8_0", "--json"];
            if command == "convert" {
                arguments.extend(["-o", text(&output)]);
            }
            let run = quantize(&arguments);
            assert_eq!(run.code, 3, "{}", run.stderr);
            assert_eq!(run.json()["error"]["rule"], "unknown-architecture");
            for part in parts.iter().chain(&["in.gguf", "--generic"]) {
                assert!(run.stderr.contains(part), "{part:?} is not in: {}", run.stderr);
            }
        }
        assert!(!output.exists());
        std::fs::remove_file(&input).expect("removed");
    };
    check(Metadata::new(), &["no general.architecture"]);
    check([("general.architecture", "flux")].into_iter().collect(), &["\"flux\""]);
}

/// What stays as it is needs no rules.
#[test]
fn a_copy_needs_no_architecture() {
    let folder = scratch();
    let [input, output] = ["in.gguf", "out.gguf"].map(|name| folder.path().join(name));
    write(&input, &Metadata::new());
    quantize(&["convert", text(&input), "--to", "copy", "-o", text(&output)]).expect_success();
    assert!(std::fs::read(&input).expect("read") == std::fs::read(&output).expect("read"));
}

#[test]
fn a_checkpoint_is_no_copy() {
    let folder = scratch();
    let (source, output) =
        (crate::support::fixtures().join("tiny/llama-tied"), folder.path().join("o"));
    let run = quantize(&["convert", text(&source), "--to", "copy", "-o", text(&output), "--json"]);
    assert_eq!((run.code, &run.json()["error"]["rule"]), (5, &"copy-of-checkpoint".into()));
}

/// A checkpoint of a class that nobody here knows becomes the packed folder that it would
/// be if its class were known: its linear layers are known by their names.
#[test]
fn a_checkpoint_of_an_unknown_class_can_be_packed() {
    let folder = scratch();
    let source = copy_of("tiny/qwen3", folder.path());
    let weights = |target: &str, options: &[&str]| {
        let output = folder.path().join("out");
        let arguments = ["convert", text(&source), "--to", target, "--force", "-o", text(&output)];
        quantize(&[&arguments[..], options].concat()).expect_success();
        let Safetensors { header, data } = Safetensors::read(&output.join("model.safetensors"));
        let tensors = header.as_object().expect("an object").clone();
        let bytes = |info: &serde_json::Value| {
            let [begin, end] = [0, 1].map(|at| info["data_offsets"][at].as_u64());
            data[begin? as usize..end? as usize].to_vec().into()
        };
        let tensor = |(name, info): (&String, &serde_json::Value)| {
            let bytes: Option<Vec<u8>> = bytes(info);
            (name.clone(), info["dtype"].clone(), bytes)
        };
        tensors.iter().map(tensor).collect::<Vec<_>>()
    };
    let targets = [
        "fp8:block128",
        "fp8:tensor",
        "ct:w4a16+g32",
        "ct:nvfp4",
        "gptq:w4g32",
        "bnb:nf4",
        "safetensors:f16",
    ];
    let known: Vec<_> = targets.iter().map(|target| weights(target, &[])).collect();
    edit_json(&source.join("config.json"), |config| {
        config["architectures"] = vec!["BrandNewForCausalLM"].into();
        config["model_type"] = "brand_new".into();
    });
    for (target, known) in targets.iter().zip(&known) {
        let mut unknown = weights(target, &["--generic"]);
        let mut known = known.clone();
        known.sort_by(|a, b| a.0.cmp(&b.0));
        unknown.sort_by(|a, b| a.0.cmp(&b.0));
        assert!(unknown == known, "{target}");
    }
    let refused = |options: &[&str], rule: &str, part: &str| {
        let output = folder.path().join("refused");
        let arguments = ["convert", text(&source), "--json", "-o", text(&output)];
        let run = quantize(&[&arguments[..], options].concat());
        assert_eq!((run.code, &run.json()["error"]["rule"]), (3, &rule.into()), "{}", run.stderr);
        assert!(run.stderr.contains(part) && !output.exists(), "{}", run.stderr);
    };
    // Whoever looks at such a folder, or checks it, needs no option.
    let packed = folder.path().join("packed");
    let arguments = ["--to", "ct:w8a16+g32", "--generic", "-o", text(&packed)];
    quantize(&[&["convert", text(&source)], &arguments[..]].concat()).expect_success();
    for arguments in [&["inspect"][..], &["verify", "--source", text(&source)]] {
        let run = quantize(&[arguments, &[text(&packed)]].concat()).expect_success();
        let said = format!("{}{}", run.stdout, run.stderr);
        assert!(said.contains("by names and shapes alone"), "{said}");
    }
    let rule = "unsupported-architecture";
    refused(&["--to", "q8_0", "--generic"], rule, "packed folders");
    refused(&["--to", "fp8:block128"], rule, "--generic");
}

/// What needs a forward pass says that there is none.
#[test]
fn a_checkpoint_of_an_unknown_class_is_rounded_only() {
    let folder = scratch();
    let source = copy_of("tiny/qwen3", folder.path());
    edit_json(&source.join("config.json"), |config| config["architectures"] = ["Other"].into());
    let output = folder.path().join("out");
    let arguments = ["quantize", text(&source), "--generic", "--to", "ct:w4a16+g32", "--force"];
    let run =
        |options: &[&str]| quantize(&[&arguments[..], &["-o", text(&output)], options].concat());
    run(&["--method", "rtn"]).expect_success();
    for method in ["gptq", "imatrix", "awq"] {
        let run = run(&["--method", method, "--data", "default", "--chunks", "1", "--json"]);
        assert_eq!(
            (run.code, &run.json()["error"]["rule"]),
            (3, &"unsupported-architecture".into())
        );
        assert!(run.stderr.contains("nobody here knows how"), "{method}: {}", run.stderr);
    }
}
