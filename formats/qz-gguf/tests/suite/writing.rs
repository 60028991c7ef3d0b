//! Outputs: what is refused before any work, what is at the final path and when.

use std::fs;
use std::path::Path;

use qz_gguf::{Error, GgufFile, GgufSink};
use qz_tensor::{
    DataType, Diagnose, FaultClass, Metadata, OutputOptions, SinkTensor, TensorIndex, TensorSink,
    TensorSource, Value,
};

use crate::support::{contents, create, sink_tensor};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).expect("listed").count()
}

/// Two tensors of 12 and 34 bytes.
fn two() -> [SinkTensor; 2] {
    [sink_tensor("a", DataType::F32, &[3]), sink_tensor("b", DataType::Q8_0, &[1, 32])]
}

#[test]
fn parts_may_come_in_any_order() {
    let folder = folder();
    let target = folder.path().join("out.gguf");
    let mut sink = create(&target, &Metadata::new(), &two()).expect("created");
    sink.put(TensorIndex(1), 30, &[2; 4]).expect("put");
    sink.put(TensorIndex(0), 0, &[1; 12]).expect("put");
    sink.put(TensorIndex(1), 0, &[3; 30]).expect("put");
    assert!(!target.exists());
    sink.finish().expect("finished");
    let file = GgufFile::open(&target).expect("the file is valid");
    assert_eq!(contents(&file, 0), [1; 12]);
    assert_eq!(contents(&file, 1), [&[3; 30][..], &[2; 4]].concat());
    assert_eq!(entries(folder.path()), 1);
}

#[test]
fn an_unfinished_file_has_no_magic() {
    let folder = folder();
    let target = folder.path().join("out.gguf");
    let mut sink = create(&target, &Metadata::new(), &two()).expect("created");
    sink.put(TensorIndex(0), 0, &[1; 12]).expect("put");
    sink.record_complete(TensorIndex(0), 0);
    sink.keep().expect("kept");
    assert!(!target.exists());
    let data = fs::read(folder.path().join("out.gguf.partial/data/out.gguf")).expect("read");
    assert_eq!(data[..8], [0, 0, 0, 0, 3, 0, 0, 0]);
}

#[test]
fn an_interrupted_file_is_continued() {
    let folder = folder();
    let target = folder.path().join("out.gguf");
    let whole = folder.path().join("whole.gguf");
    let put = |sink: &mut GgufSink, index: usize| {
        let bytes = if index == 0 { &[1; 12][..] } else { &[2; 34] };
        sink.put(TensorIndex(index), 0, bytes).expect("put");
        sink.record_complete(TensorIndex(index), 0);
    };
    let mut sink = create(&whole, &Metadata::new(), &two()).expect("created");
    put(&mut sink, 0);
    put(&mut sink, 1);
    sink.finish().expect("finished");

    let mut sink = create(&target, &Metadata::new(), &two()).expect("created");
    assert!(sink.completed().is_empty());
    put(&mut sink, 1);
    sink.keep().expect("kept");
    // What was left where padding belongs does not survive.
    let data = folder.path().join("out.gguf.partial/data/out.gguf");
    let mut bytes = fs::read(&data).expect("read");
    *bytes.last_mut().expect("not empty") = 0xAA;
    fs::write(&data, bytes).expect("written");

    let mut sink = create(&target, &Metadata::new(), &two()).expect("created");
    assert_eq!(sink.completed(), [TensorIndex(1)]);
    put(&mut sink, 0);
    sink.finish().expect("finished");
    assert!(fs::read(&target).expect("read") == fs::read(&whole).expect("read"));
}

#[test]
fn another_job_begins_anew() {
    let folder = folder();
    let target = folder.path().join("out.gguf");
    let mut sink = create(&target, &Metadata::new(), &two()).expect("created");
    sink.put(TensorIndex(0), 0, &[1; 12]).expect("put");
    sink.record_complete(TensorIndex(0), 0);
    sink.keep().expect("kept");
    let options = OutputOptions::default();
    let sink = GgufSink::create(&target, &Metadata::new(), &two(), "another", options);
    assert!(sink.expect("created").completed().is_empty());
}

#[test]
#[should_panic(expected = "only 33 of 34 bytes of b were put")]
fn a_forgotten_byte_is_a_bug() {
    let folder = folder();
    let mut sink =
        create(&folder.path().join("out.gguf"), &Metadata::new(), &two()).expect("created");
    sink.put(TensorIndex(0), 0, &[1; 12]).expect("put");
    sink.put(TensorIndex(1), 0, &[1; 33]).expect("put");
    let _ = sink.finish();
}

#[test]
#[should_panic(expected = "outside its 12")]
fn a_byte_too_many_is_a_bug() {
    let folder = folder();
    let mut sink =
        create(&folder.path().join("out.gguf"), &Metadata::new(), &two()).expect("created");
    let _ = sink.put(TensorIndex(0), 1, &[1; 12]);
}

#[test]
fn what_gguf_cannot_hold_is_refused_before_any_work() {
    let folder = folder();
    let target = folder.path().join("out.gguf");
    let check = |metadata: &[(&str, Value)], tensors: &[SinkTensor], name: &str, rule: &str| {
        let metadata = metadata.iter().cloned().collect();
        let error = create(&target, &metadata, tensors).expect_err("refused");
        let diagnosis = error.diagnosis();
        assert_eq!(diagnosis.rule, rule, "{error}");
        assert_eq!(diagnosis.class, FaultClass::BadInput);
        assert_eq!(diagnosis.location.file.as_deref(), Some(target.as_path()));
        assert_eq!(diagnosis.location.tensor.as_deref(), Some(name));
        assert_eq!(entries(folder.path()), 0);
    };
    let pair = |key: &str, value: Value, rule: &str| check(&[(key, value)], &[], key, rule);
    pair("", Value::Bool(true), "empty-key");
    pair("a\0b", Value::Bool(true), "invalid-text");
    pair(&"k".repeat(65_536), Value::Bool(true), "key-too-long");
    pair("general.alignment", Value::U32(3), "invalid-alignment");
    pair("general.alignment", Value::I32(32), "invalid-alignment");

    let tensor = |name: &str, data_type: DataType, dimensions: &[u64], rule: &str| {
        check(&[], &[sink_tensor(name, data_type, dimensions)], name, rule);
    };
    tensor("", DataType::F32, &[1], "empty-tensor-name");
    tensor(&"n".repeat(64), DataType::F32, &[1], "tensor-name-too-long");
    tensor("a\0b", DataType::F32, &[1], "invalid-text");
    tensor("w", DataType::F32, &[1; 5], "too-many-dimensions");
    tensor("w", DataType::Q4_K, &[2, 128], "partial-block");
    tensor("w", DataType::F32, &[1 << 62], "size-overflow");
    tensor("w", DataType::F8_E4M3, &[1], "unknown-type");
    tensor("w", DataType::U8, &[1], "unknown-type");
    let w = sink_tensor("w", DataType::F32, &[1]);
    check(&[], &[w.clone(), w], "w", "duplicate-tensor");
    let half = |name: &str| sink_tensor(name, DataType::I8, &[(1 << 63) - 64]);
    check(&[], &[half("a"), half("b")], "b", "size-overflow");
}

#[test]
fn an_existing_file_stays_until_the_new_one_is_complete() {
    let folder = folder();
    let target = folder.path().join("out.gguf");
    fs::write(&target, "old").expect("written");
    let error = create(&target, &Metadata::new(), &[]).expect_err("refused");
    assert_eq!(error.diagnosis().rule, "output-exists");
    assert!(matches!(error, Error::Output(_)));
    let replace = OutputOptions::default().replacing(true);
    let sink = GgufSink::create(&target, &Metadata::new(), &[], "job", replace).expect("created");
    assert_eq!(fs::read(&target).expect("read"), b"old");
    sink.finish().expect("finished");
    assert!(GgufFile::open(&target).expect("the file is valid").tensors().is_empty());
}
