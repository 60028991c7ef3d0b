//! Files of the reference writer: read as it meant them, written as it would.

use std::path::{Path, PathBuf};

use qz_gguf::GgufFile;
use qz_tensor::{Array, DataType, TensorSource, Value};

use crate::support::{contents, copy, file, open, pair, tensor, valid};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

#[test]
fn a_rewrite_is_the_same_bytes() {
    let check = |source: &Path| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = folder.path().join("copy.gguf");
        copy(&GgufFile::open(source).expect("the file is valid"), &target);
        let read = |path: &Path| std::fs::read(path).expect("read");
        assert!(read(source) == read(&target), "{} changed", source.display());
    };
    check(&golden("kinds.gguf"));
    check(&golden("types.gguf"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let by_hand = |bytes: &[u8]| {
        let path = folder.path().join("source.gguf");
        std::fs::write(&path, bytes).expect("written");
        check(&path);
    };
    by_hand(&valid());
    by_hand(&file(&[], &[], 0));
    by_hand(&file(&[], &[tensor("scalar", &[], 0, 0), tensor("trailing", &[2, 1, 1], 0, 32)], 64));
}

#[test]
fn every_kind_of_value_is_read() {
    let file = GgufFile::open(golden("kinds.gguf")).expect("the file is valid");
    let check = |key: &str, expected: Value| {
        assert_eq!(file.metadata().get(key), Some(&expected), "{key}");
    };
    check("general.architecture", Value::String("llama".to_owned()));
    check("value.uint8", Value::U8(255));
    check("value.int8", Value::I8(127));
    check("value.uint16", Value::U16(65535));
    check("value.int16", Value::I16(32767));
    check("value.uint32", Value::U32(u32::MAX));
    check("value.int32", Value::I32(i32::MAX));
    check("value.float32", Value::F32(3.0e38));
    check("value.bool", Value::Bool(true));
    check("value.string", Value::String("é中😀\n\0end".to_owned()));
    check("value.uint64", Value::U64(u64::MAX));
    check("value.int64", Value::I64(i64::MAX));
    check("value.float64", Value::F64(1.0e300));
    let array = |key: &str, expected: Array| check(key, Value::Array(expected));
    array("array.uint8", Array::U8(vec![0, 7, 255]));
    array("array.int8", Array::I8(vec![-128, 0, 127]));
    array("array.uint16", Array::U16(vec![0, 300, 65535]));
    array("array.int16", Array::I16(vec![-32768, 0, 32767]));
    array("array.uint32", Array::U32(vec![0, 70000, u32::MAX]));
    array("array.int32", Array::I32(vec![i32::MIN, 0, i32::MAX]));
    array("array.float32", Array::F32(vec![0.0, -1.5, 3.0e38]));
    array("array.bool", Array::Bool(vec![true, false, true]));
    let strings = ["", "plain", "é中😀\n\0end"];
    array("array.string", Array::String(strings.to_vec().into()));
    array("array.uint64", Array::U64(vec![0, 1 << 40, u64::MAX]));
    array("array.int64", Array::I64(vec![i64::MIN, 0, i64::MAX]));
    array("array.float64", Array::F64(vec![0.0, -1.5, 1.0e300]));
}

#[test]
fn tensors_are_outermost_first() {
    let file = GgufFile::open(golden("kinds.gguf")).expect("the file is valid");
    assert_eq!((file.version(), file.alignment()), (3, 32));
    let [first, second] = file.tensors() else { panic!("two tensors") };
    assert_eq!((first.shape.dimensions(), first.data_type), (&[5][..], DataType::F32));
    assert_eq!((second.shape.dimensions(), second.data_type), (&[2, 3][..], DataType::F16));
    let floats: Vec<u8> = (0..5u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
    assert_eq!(contents(&file, 0), floats);
}

#[test]
fn every_element_type_has_a_place() {
    let file = GgufFile::open(golden("types.gguf")).expect("the file is valid");
    assert_eq!(file.alignment(), 64);
    assert_eq!(file.tensors().len(), 37);
    for tensor in file.tensors() {
        assert!(tensor.offset.is_multiple_of(64), "{}", tensor.name);
        let parts: Vec<&str> = tensor.name.split('.').collect();
        if let ["blk", "0", name, "weight"] = parts[..] {
            assert_eq!(DataType::from_name(name), Some(tensor.data_type));
        }
    }
    let find = |name: &str| file.tensors().iter().find(|tensor| tensor.name == name);
    let shape = |name: &str| find(name).expect("the tensor is there").shape.dimensions().to_vec();
    assert_eq!(shape("one"), [1]);
    assert_eq!(shape("empty"), [0, 4]);
    assert_eq!(shape("column"), [3, 1]);
    assert_eq!(shape("deep"), [2, 1, 4, 2]);
}

#[test]
fn version_2_is_read() {
    let mut bytes = valid();
    bytes[4] = 2;
    let file = open(&bytes).expect("the file is valid");
    assert_eq!((file.version(), file.tensors().len()), (2, 3));
}

#[test]
fn a_part_of_a_set_is_recognised() {
    let split = |count: u16| {
        let pairs = [
            pair("split.no", 2, &1u16.to_le_bytes()),
            pair("split.count", 2, &count.to_le_bytes()),
            pair("split.tensors.count", 5, &9i32.to_le_bytes()),
        ];
        open(&file(&pairs, &[], 0)).expect("the file is valid").split().expect("a place")
    };
    assert_eq!(split(1), None);
    assert_eq!(split(3), Some(qz_gguf::Split { number: 1, count: 3, tensors: Some(9) }));
}

#[test]
fn unusual_but_valid_files_are_read() {
    let check = |bytes: &[u8], tensors: usize| {
        assert_eq!(open(bytes).expect("the file is valid").tensors().len(), tensors);
    };
    // A header alone, without the padding that data would need.
    check(&crate::support::start(3, 0, 0), 0);
    // The last tensor without its padding.
    check(&file(&[], &[tensor("a", &[3], 0, 0)], 12), 1);
    // Alignment 1 needs no padding at all.
    let pairs = [pair("general.alignment", 4, &1u32.to_le_bytes())];
    let tensors = [tensor("a", &[3], 24, 0), tensor("b", &[5], 24, 3)];
    check(&crate::support::file_aligned(1, &pairs, &tensors, 8), 2);
    // No elements: no bytes, wherever the zero is.
    let empty = [tensor("a", &[0], 0, 0), tensor("b", &[256, 0], 12, 0), tensor("c", &[1], 0, 0)];
    check(&file(&[], &empty, 32), 3);
    // The longest name.
    check(&file(&[], &[tensor(&"n".repeat(63), &[1], 0, 0)], 32), 1);
}
