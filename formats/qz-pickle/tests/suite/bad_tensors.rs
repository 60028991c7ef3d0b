//! Tensors that cannot be: each fault names its tensor.

use crate::support::{
    Tensor, VALID, check_tensor, checkpoint, dict, entry, global, number, numbers, one, open,
    ordered_dict, text, tuple, zip,
};

#[track_caller]
fn bad(tensor: &Tensor<'_>, rule: &str) -> String {
    check_tensor(&one(tensor), rule)
}

/// A tensor that `function` makes of these.
fn rebuilt(function: &str, arguments: &[Vec<u8>]) -> Vec<u8> {
    let tensor = [global("torch._utils", function), tuple(arguments), b"R".to_vec()].concat();
    checkpoint(&dict(&[("w", tensor)]))
}

#[test]
fn storages_of_another_size() {
    bad(&Tensor { elements: 3, ..VALID }, "storage-size");
    bad(&Tensor { elements: 5, ..VALID }, "storage-size");
    bad(&Tensor { elements: i64::MAX, ..VALID }, "storage-size");
    bad(&Tensor { elements: -1, ..VALID }, "tensor-arguments");
    bad(&Tensor { class: ("torch", "HalfStorage"), ..VALID }, "storage-size");
    bad(&Tensor { class: ("torch", "DoubleStorage"), ..VALID }, "storage-size");
    let message = bad(&Tensor { key: "1", ..VALID }, "missing-storage");
    assert!(message.contains("\"1\""), "{message}");
    bad(&Tensor { key: "../data.pkl", ..VALID }, "missing-storage");
    bad(&Tensor { key: "", ..VALID }, "missing-storage");
}

#[test]
fn views_that_leave_their_storage() {
    bad(&Tensor { offset: 1, ..VALID }, "outside-storage");
    bad(&Tensor { offset: i64::MAX, ..VALID }, "outside-storage");
    bad(&Tensor { offset: -1, ..VALID }, "tensor-arguments");
    bad(&Tensor { shape: &[3, 2], ..VALID }, "outside-storage");
    bad(&Tensor { shape: &[2, -2], ..VALID }, "tensor-arguments");
    bad(&Tensor { strides: &[3, 1], ..VALID }, "outside-storage");
    bad(&Tensor { strides: &[2, -1], ..VALID }, "tensor-arguments");
    bad(&Tensor { shape: &[i64::MAX, i64::MAX], strides: &[1, 0], ..VALID }, "outside-storage");
    bad(&Tensor { shape: &[0, 1], offset: 5, ..VALID }, "outside-storage");
    bad(&Tensor { shape: &[0, 1], offset: i64::MAX, ..VALID }, "outside-storage");
}

#[test]
fn views_that_overlap_themselves() {
    bad(&Tensor { strides: &[0, 1], ..VALID }, "overlapping-strides");
    bad(&Tensor { strides: &[1, 1], ..VALID }, "overlapping-strides");
    bad(&Tensor { shape: &[i64::MAX], strides: &[0], ..VALID }, "overlapping-strides");
}

#[test]
fn shapes_that_cannot_be() {
    bad(&Tensor { shape: &[1; 9], strides: &[1; 9], ..VALID }, "too-many-dimensions");
    bad(&Tensor { shape: &[2, 2], strides: &[1], ..VALID }, "tensor-arguments");
    bad(&Tensor { shape: &[0, i64::MAX, 3], strides: &[1, 1, 1], ..VALID }, "size-overflow");
}

#[test]
fn arguments_of_another_form() {
    let v2 = "_rebuild_tensor_v2";
    let check = |function: &str, arguments: &[Vec<u8>]| {
        check_tensor(&rebuilt(function, arguments), "tensor-arguments");
    };
    let storage = || VALID.storage();
    let (shape, strides, none) = (|| numbers(&[4]), || numbers(&[1]), || b"N".to_vec());
    check(v2, &[]);
    check(v2, &[storage()]);
    check(v2, &[storage(), number(0), shape(), strides()]);
    check(v2, &[none(), number(0), shape(), strides(), none(), none()]);
    check(v2, &[storage(), none(), shape(), strides(), none(), none()]);
    check(v2, &[storage(), number(0), none(), strides(), none(), none()]);
    check(v2, &[storage(), number(0), b"]".to_vec(), strides(), none(), none()]);
    check(v2, &[storage(), number(0), tuple(&[none()]), strides(), none(), none()]);
    check("_rebuild_tensor", &[storage(), number(0), shape(), strides(), none()]);
    let float = || global("torch", "float32");
    check("_rebuild_tensor_v3", &[storage(), number(0), shape(), strides(), none(), none()]);
    check(
        "_rebuild_tensor_v3",
        &[storage(), number(0), shape(), strides(), none(), none(), float()],
    );
    let metadata = [ordered_dict(), text("neg"), b"\x88s".to_vec()].concat();
    let arguments = [storage(), number(0), shape(), strides(), none(), none(), metadata];
    check_tensor(&rebuilt(v2, &arguments), "unsupported-tensor");
    let valid = [storage(), number(0), shape(), strides()];
    assert!(open(&rebuilt("_rebuild_tensor", &valid)).is_ok());
}

#[test]
fn storages_of_another_form() {
    let with = |reference: &[Vec<u8>]| {
        let storage = [tuple(reference), b"Q".to_vec()].concat();
        let arguments =
            [storage, number(0), numbers(&[4]), numbers(&[1]), b"N".to_vec(), b"N".to_vec()];
        rebuilt("_rebuild_tensor_v2", &arguments)
    };
    let check = |reference: &[Vec<u8>], rule: &str| check_tensor(&with(reference), rule);
    let (word, class) = (text("storage"), global("torch", "FloatStorage"));
    let (key, cpu, four) = (text("0"), text("cpu"), number(4));
    let none = || b"N".to_vec();
    check(&[word.clone(), class.clone()], "tensor-arguments");
    check(&[word.clone(), class.clone(), number(0), cpu.clone(), four.clone()], "tensor-arguments");
    check(&[word.clone(), class.clone(), key.clone(), cpu.clone(), none()], "tensor-arguments");
    let view = tuple(&[text("0"), number(0), number(2)]);
    check(
        &[word.clone(), class.clone(), key.clone(), cpu, four.clone(), view],
        "unsupported-tensor",
    );
    // Where it was does not matter.
    assert!(open(&with(&[word, class, key, text("cuda:0"), four])).is_ok());
}

#[test]
fn element_types_that_are_not_known() {
    let check = |class: (&str, &str)| {
        let (_, message) =
            crate::support::check(&one(&Tensor { class, ..VALID }), "unsupported-type");
        assert!(message.contains(class.1) && message.contains("BF16"), "{message}");
    };
    check(("torch", "QInt8Storage"));
    check(("torch", "ComplexDoubleStorage"));
    let untyped = Tensor { class: ("torch.storage", "UntypedStorage"), elements: 16, ..VALID };
    bad(&untyped, "tensor-arguments");
}

#[test]
fn names() {
    let named = |name: &str| checkpoint(&dict(&[(name, VALID.pickled())]));
    crate::support::check(&named(""), "invalid-tensor-name");
    crate::support::check(&named("a\u{202e}b"), "invalid-tensor-name");
    crate::support::check(&named("a\0b"), "invalid-tensor-name");
    assert!(open(&named("../../w")).is_ok());
    let twice = dict(&[("w", VALID.pickled()), ("w", VALID.pickled())]);
    check_tensor(&checkpoint(&twice), "duplicate-tensor");
}

#[test]
fn a_storage_that_is_not_there() {
    let pickle = dict(&[("w", VALID.pickled())]);
    check_tensor(&zip(&[entry("m/data.pkl", pickle)]), "missing-storage");
}

/// The layout before 1.6: the storages' counts and the file's end must fit.
#[test]
fn older_files_that_lie() {
    let whole = std::fs::read(crate::support::golden("old.bin")).expect("read");
    let check = |bytes: &[u8], rule: &str| crate::support::check(bytes, rule);
    check(&[whole.clone(), vec![0]].concat(), "trailing-bytes");
    check(&whole[..whole.len() - 1], "data-missing");
    check(&whole[..whole.len() - 960 - 4], "data-missing");
    let count = 240u64.to_le_bytes();
    let place = whole.windows(8).position(|bytes| bytes == count).expect("a count");
    let mut file = whole.clone();
    file[place..place + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    check(&file, "storage-size");
    let replaced = |from: &[u8], to: &[u8]| {
        let place = whole.windows(from.len()).position(|bytes| bytes == from).expect("found");
        let mut file = whole.clone();
        file[place..place + from.len()].copy_from_slice(to);
        file
    };
    check(&replaced(b"little_endianq\x02\x88", b"little_endianq\x02\x89"), "big-endian");
    check(&replaced(b"M\xe9\x03.", b"M\xea\x03."), "old-layout");
    crate::support::check_refused(
        &replaced(b"_rebuild_tensor_v2", b"_rebuild_tensor_vX"),
        "forbidden-global",
    );
}
