//! Files that `torch.save` wrote, with what torch says of them, and a few by hand.

use qz_pickle::TorchFile;
use qz_tensor::{DataType, TensorIndex, TensorSource};
use serde_json::Value;

use crate::support::{
    Tensor, VALID, checkpoint, contents, dict, golden, one, open, ordered_dict, program, text,
};

fn open_golden(name: &str) -> TorchFile {
    TorchFile::open(golden(name)).expect("the file is valid")
}

fn views() -> Value {
    serde_json::from_slice(&std::fs::read(golden("views.json")).expect("read")).expect("JSON")
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().expect("a list").iter().map(|one| one.as_u64().expect("a number")).collect()
}

/// A golden value as an element of `data_type`.
fn element(data_type: DataType, value: u64) -> [u8; 4] {
    if data_type == DataType::F32 {
        (value as f32).to_le_bytes()
    } else {
        (value as i32).to_le_bytes()
    }
}

#[test]
fn views_are_what_torch_sees() {
    for name in ["views.bin", "old.bin", "protocol4.bin"] {
        let (file, expected) = (open_golden(name), views());
        assert_eq!(file.tensors().len(), expected.as_object().expect("an object").len());
        for (place, tensor) in file.tensors().iter().enumerate() {
            let expected = &expected[&*tensor.name];
            assert_eq!(tensor.shape.dimensions(), numbers(&expected["shape"]), "{}", tensor.name);
            let elements = numbers(&expected["elements"]);
            let bytes: Vec<u8> =
                elements.iter().flat_map(|value| element(tensor.data_type, *value)).collect();
            assert_eq!(contents(&file, place), bytes, "{name}: {}", tensor.name);
            check_parts(&file, place, &bytes);
        }
    }
}

/// Any part of a tensor is what it is in the whole, in whatever order parts are
/// read, and lies where the file says.
fn check_parts(file: &TorchFile, place: usize, whole: &[u8]) {
    let elements = whole.len() / 4;
    let raw = std::fs::read(file.file().path().as_ref()).expect("read");
    for first in (0..elements).rev() {
        for count in [1, 2, 7, elements] {
            let end = elements.min(first + count);
            let mut out = vec![0; 4 * (end - first)];
            file.read(TensorIndex(place), 4 * first as u64, &mut out).expect("read");
            assert_eq!(out, whole[4 * first..4 * end]);
        }
        let location = file.location(TensorIndex(place), 4 * first as u64 + 1);
        let offset = location.offset.expect("an offset") as usize;
        assert_eq!(raw[offset], whole[4 * first + 1]);
    }
}

#[test]
fn every_element_type() {
    let file = open_golden("types.bin");
    let names: Vec<&str> = file.tensors().iter().map(|tensor| tensor.data_type.name()).collect();
    assert_eq!(
        names,
        [
            "F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8",
            "BOOL", "C64", "F8_E4M3", "F8_E5M2", "F8_E8M0"
        ]
    );
    let second = |place: usize| {
        let size = file.tensors()[place].data_type.block_bytes();
        contents(&file, place)[size..2 * size].to_vec()
    };
    assert_eq!(second(0), 1f64.to_le_bytes());
    assert_eq!(second(1), 1f32.to_le_bytes());
    assert_eq!(second(2), [0, 0x3c]);
    assert_eq!(second(3), [0x80, 0x3f]);
    assert_eq!(second(8), 1u64.to_le_bytes());
    assert_eq!(second(12), [1]);
    assert_eq!(second(14), [0x38]);
    assert_eq!(second(16), [0x7f]);
}

#[test]
fn dictionaries_that_hold_the_state_dict() {
    let names = |bytes: &[u8]| -> Vec<String> {
        let file = open(bytes).expect("the file is valid");
        file.tensors().iter().map(|tensor| tensor.name.to_string()).collect()
    };
    let state = [ordered_dict(), text("w"), VALID.pickled(), b"s".to_vec()].concat();
    let metadata = [b"}".to_vec(), text("_metadata"), ordered_dict(), b"s".to_vec()].concat();
    assert_eq!(names(&checkpoint(&program(&[&state]))), ["w"]);
    assert_eq!(names(&checkpoint(&program(&[&state, &metadata, b"b"]))), ["w"]);
    for key in ["state_dict", "model_state_dict", "model", "module"] {
        let outer =
            program(&[b"}", &text("step"), b"K\x01s", &text(key), &state, b"s", &text("x"), b"}s"]);
        assert_eq!(names(&checkpoint(&outer)), ["w"]);
    }
    assert!(names(&checkpoint(&dict(&[]))).is_empty());
}

/// Tied weights are one storage under two names.
#[test]
fn tensors_may_share_their_storage() {
    let second = Tensor { shape: &[2, 2], strides: &[1, 2], ..VALID };
    let file = open(&checkpoint(&dict(&[("a", VALID.pickled()), ("b", second.pickled())])))
        .expect("valid");
    assert_eq!(contents(&file, 0), (0..16).collect::<Vec<u8>>());
    assert_eq!(contents(&file, 1), [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15]);
    assert_eq!(file.tensors()[0].offset, file.tensors()[1].offset);
}

#[test]
fn sizes_of_one_do_not_matter() {
    let file = open(&one(&Tensor { shape: &[1, 4], strides: &[99, 1], ..VALID })).expect("valid");
    assert_eq!(contents(&file, 0), (0..16).collect::<Vec<u8>>());
}

/// A matrix whose rows fill several bands, read as the engine reads it.
#[test]
fn bands_of_a_large_transposed_matrix() {
    let (rows, columns) = (3000u64, 2500u64);
    let data: Vec<u8> =
        (0..rows * columns).flat_map(|place| (place as u32).to_le_bytes()).collect();
    let tensor = Tensor {
        elements: (rows * columns) as i64,
        shape: &[rows as i64, columns as i64],
        strides: &[1, rows as i64],
        ..VALID
    };
    let pickle = dict(&[("w", tensor.pickled())]);
    let bytes = crate::support::zip(&[
        crate::support::entry("m/data.pkl", pickle),
        crate::support::entry("m/data/0", data),
    ]);
    let file = open(&bytes).expect("valid");
    let check = |first: u64, count: u64| {
        let mut out = vec![0; (count * columns * 4) as usize];
        file.read(TensorIndex(0), first * columns * 4, &mut out).expect("read");
        for (place, element) in (first * columns..).zip(out.chunks_exact(4)) {
            let expected = (place % columns * rows + place / columns) as u32;
            assert_eq!(element, expected.to_le_bytes(), "{place}");
        }
    };
    (0..rows).step_by(200).for_each(|first| check(first, 200));
    check(1500, 7);
    check(2990, 10);
    check(1, 2999);
}
