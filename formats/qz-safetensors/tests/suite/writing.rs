//! Folders written here: they open, here and in the reference, and hold what was put.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use qz_safetensors::{Error, SafetensorsLayout, SafetensorsModel, SafetensorsSink};
use qz_tensor::{
    DataType, Diagnose, OutputOptions, Shape, SideFile, SinkTensor, TensorIndex, TensorSink,
    TensorSource,
};

fn sink_tensor(name: &str, data_type: DataType, shape: &[u64]) -> SinkTensor {
    SinkTensor { name: name.to_owned(), data_type, shape: Shape::new(shape).expect("fits") }
}

fn config() -> Vec<SideFile> {
    vec![SideFile { name: "config.json".to_owned(), content: b"{}".to_vec() }]
}

fn begin(target: &Path, tensors: &[SinkTensor], shard_size: u64) -> Result<SafetensorsSink, Error> {
    let layout = SafetensorsLayout::new(target, tensors, config(), shard_size)?;
    SafetensorsSink::begin(layout, "job", OutputOptions::default())
}

/// Bytes that tell tensors and places apart.
fn content(position: usize, tensor: &SinkTensor) -> Vec<u8> {
    let bytes = tensor.shape.byte_size(tensor.data_type).expect("fits") as usize;
    (0..bytes).map(|at| (at * 7 + position * 31) as u8).collect()
}

fn write(target: &Path, tensors: &[SinkTensor], shard_size: u64) {
    let mut sink = begin(target, tensors, shard_size).expect("begun");
    for (position, tensor) in tensors.iter().enumerate().rev() {
        let bytes = content(position, tensor);
        let (first, second) = bytes.split_at(bytes.len() / 2);
        sink.put(TensorIndex(position), first.len() as u64, second).expect("put");
        sink.put(TensorIndex(position), 0, first).expect("put");
    }
    sink.finish().expect("finished");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_put_is_read(
        shapes in prop::collection::vec((0..4usize, prop::collection::vec(0..9u64, 0..4)), 0..12),
        shard_size in 0..400u64,
    ) {
        const TYPES: [DataType; 4] = [DataType::F32, DataType::F16, DataType::BF16, DataType::U8];
        let tensors: Vec<SinkTensor> = shapes
            .iter()
            .enumerate()
            .map(|(at, (of, shape))| sink_tensor(&format!("layer.{at}.w"), TYPES[*of], shape))
            .collect();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = folder.path().join("out");
        write(&target, &tensors, shard_size);
        let model = SafetensorsModel::open_folder(&target).expect("opens");
        prop_assert_eq!(model.tensors().len(), tensors.len());
        for (position, info) in model.tensors().iter().enumerate() {
            let put = tensors.iter().position(|tensor| info.name == tensor.name).expect("known");
            prop_assert_eq!(&info.shape, &tensors[put].shape);
            let mut bytes = vec![0; info.bytes as usize];
            model.read(TensorIndex(position), 0, &mut bytes).expect("read");
            prop_assert_eq!(bytes, content(put, &tensors[put]));
        }
        for file in model.files() {
            let bytes = fs::read(file.path()).expect("read");
            let reference = safetensors::SafeTensors::deserialize(&bytes);
            prop_assert!(reference.is_ok(), "{:?}", reference.err());
        }
    }
}

#[test]
fn tensors_are_in_the_order_of_their_numbers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = folder.path().join("out");
    let names = ["m.layers.10.w", "lm_head.w", "m.layers.9.w", "m.embed.w"];
    let tensors = names.map(|name| sink_tensor(name, DataType::F32, &[2]));
    write(&target, &tensors, u64::MAX);
    let model = SafetensorsModel::open_folder(&target).expect("opens");
    let found: Vec<&str> = model.tensors().iter().map(|info| info.name.as_str()).collect();
    assert_eq!(found, ["lm_head.w", "m.embed.w", "m.layers.9.w", "m.layers.10.w"]);
}

#[test]
fn what_safetensors_cannot_hold_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let check = |tensors: &[SinkTensor], rule: &str| {
        let error = begin(&folder.path().join("out"), tensors, u64::MAX).expect_err(rule);
        assert_eq!(error.diagnosis().rule, rule, "{error}");
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 0);
    };
    check(&[sink_tensor("w", DataType::Q4_K, &[1, 256])], "unsupported-type");
    check(&[sink_tensor("", DataType::F32, &[1])], "invalid-tensor-name");
    let twice = sink_tensor("w", DataType::F32, &[1]);
    check(&[twice.clone(), twice.clone()], "duplicate-tensor");
    check(&[twice, sink_tensor("W", DataType::F32, &[1])], "alike-names");
    let huge = sink_tensor("huge", DataType::F32, &[1 << 60]);
    check(&[huge], "size-overflow");
    let many: Vec<SinkTensor> =
        (0..5000).map(|at| sink_tensor(&format!("w.{at}"), DataType::F32, &[1])).collect();
    let error = begin(&folder.path().join("out"), &many, 4).expect_err("too many shards");
    assert_eq!(error.diagnosis().rule, "too-many-shards");
}

#[test]
fn an_unfinished_folder_is_continued() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = folder.path().join("out");
    let tensors = ["a", "b", "c"].map(|name| sink_tensor(name, DataType::F32, &[4]));
    let mut sink = begin(&target, &tensors, 20).expect("begun");
    assert!(sink.completed().is_empty());
    sink.put(TensorIndex(1), 0, &content(1, &tensors[1])).expect("put");
    sink.record_complete(TensorIndex(1), 0);
    sink.keep().expect("kept");
    assert!(!target.exists());
    let mut sink = begin(&target, &tensors, 20).expect("begun");
    assert_eq!(sink.completed(), [TensorIndex(1)]);
    for position in [0, 2] {
        let bytes = content(position, &tensors[position]);
        sink.put(TensorIndex(position), 0, &bytes).expect("put");
    }
    sink.finish().expect("finished");
    let whole = folder.path().join("whole");
    write(&whole, &tensors, 20);
    for entry in fs::read_dir(&whole).expect("listed") {
        let name = entry.expect("an entry").file_name();
        let same = fs::read(whole.join(&name)).unwrap() == fs::read(target.join(&name)).unwrap();
        assert!(same, "{name:?}");
    }
}

#[test]
#[should_panic(expected = "bytes of w were put")]
fn a_tensor_that_was_not_put_is_not_finished() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tensors = [sink_tensor("w", DataType::F32, &[2])];
    let sink = begin(&folder.path().join("out"), &tensors, u64::MAX).expect("begun");
    let _ = sink.finish();
}
