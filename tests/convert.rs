//! What `convert` promises beyond the reference's bytes.

use std::fs;
use std::path::Path;

use qz_gguf::{GgufFile, GgufModel};
use qz_tensor::{
    DataType, Metadata, OutputOptions, Shape, SinkTensor, TensorIndex, TensorSink, TensorSource,
    Value,
};

use crate::support::{copy_of, fixtures, names, quantize, scratch, text};

const FIXTURE: &str = "tiny/llama-tied";

#[test]
fn several_targets_from_one_read_equal_single_conversions() {
    let folder = scratch();
    let source = fixtures().join(FIXTURE);
    let many = folder.path().join("many");
    quantize(&["convert", text(&source), "--to", "bf16,q4_k_m,q6_k", "-o", text(&many)])
        .expect_success();
    let written = ["llama-tied-BF16.gguf", "llama-tied-Q4_K_M.gguf", "llama-tied-Q6_K.gguf"];
    assert_eq!(names(&many), written);
    for (target, name) in ["bf16", "q4_k_m", "q6_k"].into_iter().zip(written) {
        let single = folder.path().join("single.gguf");
        quantize(&["convert", text(&source), "--to", target, "-o", text(&single)]).expect_success();
        assert!(
            fs::read(&single).expect("read") == fs::read(many.join(name)).expect("read"),
            "{target}"
        );
        fs::remove_file(single).expect("removed");
    }
}

#[test]
fn a_gguf_source_gives_the_bytes_of_its_checkpoint() {
    let folder = scratch();
    let source = fixtures().join(FIXTURE);
    let [bf16, direct, through] =
        ["bf16.gguf", "direct.gguf", "through.gguf"].map(|name| folder.path().join(name));
    quantize(&["convert", text(&source), "--to", "bf16", "-o", text(&bf16)]).expect_success();
    quantize(&["convert", text(&source), "--to", "q5_k_m", "-o", text(&direct)]).expect_success();
    quantize(&["convert", text(&bf16), "--to", "q5_k_m", "-o", text(&through)]).expect_success();
    assert!(fs::read(direct).expect("read") == fs::read(through).expect("read"));
}

/// A GGUF file of an architecture nobody knows, with a key and a tensor nobody
/// knows, of integers.
fn strange_gguf(path: &std::path::Path) {
    let metadata: Metadata = [
        ("general.architecture", Value::from("unheard-of")),
        ("some.private.key", Value::from(vec!["kept".to_owned()])),
        ("general.file_type", 0u32.into()),
    ]
    .into_iter()
    .collect();
    let tensor = |name: &str, data_type, dimensions: &[u64]| SinkTensor {
        name: name.into(),
        data_type,
        shape: Shape::new(dimensions).expect("fits"),
    };
    let tensors = [
        tensor("blk.0.attn_q.weight", DataType::F32, &[4, 256]),
        tensor("some.private.table", DataType::I32, &[3, 256]),
    ];
    let mut sink =
        qz_gguf::GgufSink::create(path, &metadata, &tensors, "test", OutputOptions::default())
            .expect("created");
    let weights: Vec<u8> =
        (0..1024u16).flat_map(|i| (f32::from(i) / 1024.0 - 0.5).to_le_bytes()).collect();
    sink.put(TensorIndex(0), 0, &weights).expect("put");
    sink.put(TensorIndex(1), 0, &[7; 3 * 1024]).expect("put");
    sink.finish().expect("finished");
}

#[test]
fn unknown_keys_and_tensors_survive() {
    let folder = scratch();
    let [input, output] = ["in.gguf", "out.gguf"].map(|name| folder.path().join(name));
    strange_gguf(&input);
    let arguments = ["convert", text(&input), "--to", "q8_0", "--generic", "-o", text(&output)];
    quantize(&arguments).expect_success();
    let file = GgufFile::open(&output).expect("opens");
    let kept = Value::from(vec!["kept".to_owned()]);
    assert_eq!(file.metadata().get("some.private.key"), Some(&kept));
    let types: Vec<_> = file.tensors().iter().map(|info| (&*info.name, info.data_type)).collect();
    let expected = [("some.private.table", DataType::I32), ("blk.0.attn_q.weight", DataType::Q8_0)];
    assert_eq!(types, expected);
    let mut bytes = [0; 3 * 1024];
    file.read(TensorIndex(0), 0, &mut bytes).expect("read");
    assert_eq!(bytes, [7; 3 * 1024]);
}

#[test]
fn quantizing_twice_needs_leave() {
    let folder = scratch();
    let [first, second] = ["first.gguf", "second.gguf"].map(|name| folder.path().join(name));
    let source = fixtures().join(FIXTURE);
    quantize(&["convert", text(&source), "--to", "q8_0", "-o", text(&first)]).expect_success();
    let again = ["convert", text(&first), "--to", "q4_k_m", "-o", text(&second), "--json"];
    let run = quantize(&again);
    assert_eq!((run.code, &run.json()["error"]["rule"]), (5, &"requantize".into()));
    assert!(!second.exists());
    quantize(&[&again[..], &["--allow-requantize"]].concat()).expect_success();
}

#[test]
fn an_existing_output_is_kept_without_force() {
    let folder = scratch();
    let output = folder.path().join("out.gguf");
    fs::write(&output, "precious").expect("written");
    let source = fixtures().join(FIXTURE);
    let arguments = ["convert", text(&source), "--to", "q8_0", "-o", text(&output)];
    let run = quantize(&arguments);
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(run.stderr.contains("--force"), "{}", run.stderr);
    assert_eq!(fs::read(&output).expect("read"), b"precious");
    quantize(&[&arguments[..], &["--force"]].concat()).expect_success();
    assert_eq!(&fs::read(&output).expect("read")[..4], b"GGUF");
    assert_eq!(names(folder.path()), ["out.gguf"]);
}

#[test]
fn the_input_is_never_the_output() {
    let folder = scratch();
    let path = folder.path().join("model.gguf");
    strange_gguf(&path);
    let before = fs::read(&path).expect("read");
    let run = quantize(&["convert", text(&path), "--to", "copy", "-o", text(&path), "--force"]);
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(fs::read(&path).expect("read") == before);
}

#[test]
fn a_sharded_checkpoint_equals_its_single_file() {
    // The same weights in one file: read back from our own GGUF.
    let folder = scratch();
    let source = fixtures().join("tiny/sharded");
    let [whole, again] = ["whole.gguf", "again.gguf"].map(|name| folder.path().join(name));
    quantize(&["convert", text(&source), "--to", "f32", "-o", text(&whole)]).expect_success();
    let copy = copy_of("tiny/sharded", folder.path());
    quantize(&["convert", text(&copy), "--to", "f32", "-o", text(&again), "--model-name", "x"])
        .expect_success();
    let verify = quantize(&["verify", text(&again), "--source", text(&whole)]);
    verify.expect_success();
}

#[test]
fn layers_that_predict_further_tokens_are_kept_or_left_out() {
    let folder = scratch();
    let convert = |source: &Path, name: &str, options: &[&str]| {
        let out = folder.path().join(name);
        let common = ["convert", text(source), "--to", "f16", "-o", text(&out)];
        let run = quantize(&[&common, options].concat()).expect_success();
        let file = GgufModel::open(&out).expect("a GGUF file");
        let names = file.tensors().iter().map(|info| info.name.clone());
        (names.filter(|name| name.starts_with("blk.2.")).count(), run.stderr, out)
    };
    let checkpoint = fixtures().join("tiny/qwen35");
    let (kept, told, file) = convert(&checkpoint, "kept.gguf", &[]);
    assert!(kept == 15 && !told.contains("they stay"), "{kept} {told}");
    let (left, told, _) = convert(&checkpoint, "left.gguf", &["--no-mtp"]);
    assert!(left == 0 && !told.contains("they stay"), "{left} {told}");
    // A checkpoint without them counts none.
    for name in ["glm4moe", "qwen35"] {
        let (source, out) = (fixtures().join("tiny").join(name), folder.path().join(name));
        let arguments = ["convert", text(&source), "--to", "safetensors:bf16", "--no-mtp"];
        quantize(&[&arguments[..], &["-o", text(&out)]].concat()).expect_success();
        let config = std::fs::read_to_string(out.join("config.json")).expect("written");
        let counts = ["num_nextn_predict_layers\": 0", "mtp_num_hidden_layers\": 0"];
        assert!(counts.iter().any(|count| config.contains(count)), "{name}: {config}");
    }
    // GGUF files are written as they are, and say so.
    let (kept, told, _) = convert(&file, "stays.gguf", &["--no-mtp"]);
    assert!(kept == 15 && told.contains("kept.gguf") && told.contains("they stay"), "{told}");
}
