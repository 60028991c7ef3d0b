//! Model folders, as far as they are not like those of safetensors.

use std::path::Path;

use qz_pickle::TorchModel;
use qz_tensor::{Diagnose, FaultClass, TensorSource};

use crate::support::{VALID, checkpoint, contents, dict, write};

const INDEX: &str = "pytorch_model.bin.index.json";

fn shard(names: &[&str]) -> Vec<u8> {
    let entries: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (*name, VALID.pickled())).collect();
    checkpoint(&dict(&entries))
}

fn index(entries: &[(&str, &str)]) -> String {
    let entries: Vec<String> =
        entries.iter().map(|(tensor, shard)| format!("{tensor:?}:{shard:?}")).collect();
    format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{{{}}}}}"#, entries.join(","))
}

#[track_caller]
fn check(folder: &Path, rule: &str, class: FaultClass, expected: &str) {
    let error = TorchModel::open_folder(folder).expect_err(rule);
    let (diagnosis, message) = (error.diagnosis(), error.to_string());
    assert_eq!((diagnosis.rule, diagnosis.class), (rule, class), "{message}");
    assert!(message.contains(expected), "{message}");
}

#[test]
fn shards_are_one_model() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(folder.path(), "1.bin", shard(&["b", "a"]));
    write(folder.path(), "2.bin", shard(&["c"]));
    write(folder.path(), INDEX, index(&[("c", "2.bin"), ("a", "1.bin"), ("b", "1.bin")]));
    let model = TorchModel::open_path(folder.path()).expect("the model is valid");
    let names: Vec<&str> = model.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["b", "a", "c"]);
    assert_eq!(contents(&model, 2), (0..16).collect::<Vec<u8>>());
    assert!(model.tensors()[2].file.ends_with("2.bin"));
    assert!(TorchModel::open_path(folder.path().join(INDEX)).is_ok());
    assert!(TorchModel::open_path(folder.path().join("1.bin")).is_ok());
}

#[test]
fn folders_and_indexes_that_do_not_fit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (at, bad, refused) = (folder.path(), FaultClass::BadInput, FaultClass::Refused);
    check(at, "no-weights", bad, "pytorch_model.bin");
    write(at, "1.bin", shard(&["a"]));
    let with = |entries: &[(&str, &str)]| write(at, INDEX, index(entries));
    with(&[("a", "1.bin"), ("b", "2.bin")]);
    check(at, "missing-shards", bad, "2.bin");
    with(&[("a", "1.bin"), ("b", "1.bin")]);
    check(at, "index-mismatch", bad, "b (1.bin)");
    for shard in ["../1.bin", "/1.bin", "sub/1.bin", "a\\1.bin", ".."] {
        with(&[("a", shard)]);
        check(at, "outside-folder", refused, INDEX);
    }
    with(&[("a", "1.bin")]);
    write(at, "1.bin", "version https://git-lfs.github.com/spec/v1\n");
    check(at, "not-pytorch", bad, "Git LFS");
}
