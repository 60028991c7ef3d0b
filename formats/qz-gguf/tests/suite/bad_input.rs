//! Files that break one rule each. Whatever is wrong, the message names the file
//! and the byte, and the rule has a stable name.

use qz_gguf::GgufModel;
use qz_tensor::{Array, Diagnose, FaultClass, TensorSource, Value};

use crate::support::{Scratch, file, file_aligned, open, pair, start, tensor, text, valid};

/// Opening `bytes` fails with `rule` and says where; returns the message.
#[track_caller]
fn check(bytes: impl AsRef<[u8]>, rule: &str) -> String {
    check_in(&Scratch::new(), bytes.as_ref(), rule)
}

/// [`check`] without a new file.
#[track_caller]
fn check_in(scratch: &Scratch, bytes: &[u8], rule: &str) -> String {
    let error = scratch.open(bytes).err().unwrap_or_else(|| panic!("accepted, expected {rule}"));
    let diagnosis = error.diagnosis();
    let message = error.to_string();
    assert_eq!(diagnosis.rule, rule, "{message}");
    assert_eq!(diagnosis.class, FaultClass::BadInput);
    assert!(message.contains("model.gguf: "), "{message}");
    assert!(!message.contains('\n'), "{message}");
    let offset = diagnosis.location.offset.expect("the message says where");
    assert!(offset <= bytes.len() as u64, "{message}");
    message
}

/// A file of these pairs alone.
fn pairs(pairs: &[Vec<u8>]) -> Vec<u8> {
    file(pairs, &[], 0)
}

/// A file of one pair "k".
fn value(kind: u32, value: &[u8]) -> Vec<u8> {
    pairs(&[pair("k", kind, value)])
}

/// The value of an array: element kind, count, elements.
fn array(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

/// A file of these tensors with `data` bytes of data.
fn tensors(tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    file(&[], tensors, data)
}

/// A file of one tensor "w".
fn one(dimensions: &[u64], data_type: u32, data: usize) -> Vec<u8> {
    tensors(&[tensor("w", dimensions, data_type, 0)], data)
}

#[test]
fn files_that_are_cut_anywhere() {
    let whole = valid();
    let scratch = Scratch::new();
    let header_end = whole.len() - (32 + 96);
    // Less room for items: their count may be what is found first.
    let in_header = ["truncated-header", "count-too-large", "data-missing"];
    for length in 0..whole.len() - 28 {
        let cut = &whole[..length];
        let rule = scratch.open(cut).expect_err("refused").diagnosis().rule;
        match length {
            0..4 => check_in(&scratch, cut, "not-gguf"),
            _ if length >= header_end => check_in(&scratch, cut, "data-missing"),
            _ => {
                assert!(in_header.contains(&rule), "{rule} at {length}");
                check_in(&scratch, cut, rule)
            }
        };
    }
    // The last 28 bytes are padding.
    assert!(open(&whole[..whole.len() - 28]).is_ok());
}

#[test]
fn beginnings_of_other_files() {
    check(b"", "not-gguf");
    let shows = |bytes: &[u8], expected: &str| {
        let message = check(bytes, "not-gguf");
        assert!(message.contains(expected), "{message}");
    };
    shows(b"FUGG\x03\0\0\0", "\"FUGG\"");
    shows(b"\x00\xff\n\"", r#""\\x00\\xff\\n\\\"""#);
    shows(b"PK\x03\x04\x14\0", "zip");
    shows(b"version https://git-lfs.github.com/spec/v1\n", "Git LFS");
    shows(b"<!doctype html>", "web page");
    shows(b"\x10\0\0\0\0\0\0\0{\"w\":{}}        ", "safetensors");
    shows(&[0; 4096], "did not finish");
    shows(b"tjgg\x03\0\0\0", "older than GGUF");
}

#[test]
fn versions() {
    for version in [0, 1, 4, 0x1_0003] {
        let message = check(start(version, 0, 0), "unsupported-version");
        assert!(message.contains(&version.to_string()), "{message}");
    }
    for version in [2u32, 3] {
        let message = check(start(version.swap_bytes(), 0, 0), "big-endian");
        assert!(message.contains(&format!("version {version}")), "{message}");
    }
    check(b"GGUF", "truncated-header");
}

#[test]
fn counts_that_cannot_fit() {
    for count in [u64::MAX, 1 << 63, 1 << 29, 1] {
        check(start(3, count, 0), "count-too-large");
        check(start(3, 0, count), "count-too-large");
    }
    // Fit by their least size, but are not there.
    check([start(3, 0, 1), vec![0xFF; 14]].concat(), "count-too-large");
    check([start(3, 1, 0), vec![0xFF; 25]].concat(), "count-too-large");
}

#[test]
fn keys() {
    let raw = |key: &[u8]| [&text(key)[..], &7u32.to_le_bytes(), &[1], &[0; 16]].concat();
    check(pairs(&[raw(b"")]), "empty-key");
    check(pairs(&[raw(b"a\0b")]), "invalid-text");
    check(pairs(&[raw(b"a\xff")]), "invalid-text");
    check(pairs(&[raw(&vec![b'k'; 65_536])]), "key-too-long");
    for length in [u64::MAX, 1 << 30] {
        let pair = [&length.to_le_bytes()[..], &[b'k'; 40]].concat();
        check(pairs(&[pair]), "count-too-large");
    }
    let flag = |key: &str| pair(key, 7, &[1]);
    let message = check(pairs(&[flag("a"), flag("b"), flag("a")]), "duplicate-key");
    assert!(message.contains("first at byte 24") && message.contains("at byte 52"), "{message}");
}

#[test]
fn values() {
    for kind in [13, 99, u32::MAX] {
        check(value(kind, &[0; 32]), "unknown-value-kind");
        check(value(9, &array(kind, 1, &[0; 32])), "unknown-value-kind");
    }
    check(value(7, &[2]), "invalid-bool");
    check(value(9, &array(7, 3, &[0, 1, 255])), "invalid-bool");
    check(value(9, &array(9, 1, &array(4, 1, &[0; 4]))), "nested-array");
    let mut deep = array(4, 0, &[]);
    for _ in 0..5000 {
        deep = array(9, 1, &deep);
    }
    check(value(9, &deep), "nested-array");
}

#[test]
fn lengths_of_values() {
    for count in [u64::MAX, 1 << 63, 1 << 61, 1 << 30, 100] {
        for kind in [0, 3, 4, 7, 8, 10] {
            check(value(9, &array(kind, count, &[0; 64])), "count-too-large");
        }
        check(value(8, &[&count.to_le_bytes()[..], &[b'x'; 64]].concat()), "count-too-large");
    }
    // The strings of an array are longer than what is left.
    check(value(9, &array(8, 2, &[text("a"), vec![0xFF; 8]].concat())), "count-too-large");
}

#[test]
fn a_fault_in_a_value_names_its_key() {
    let error = open(&value(7, &[2])).expect_err("refused");
    assert_eq!(error.diagnosis().location.tensor.as_deref(), Some("k"));
}

#[test]
fn alignments() {
    let with = |kind: u32, value: &[u8]| pairs(&[pair("general.alignment", kind, value)]);
    for alignment in [0u32, 13, 33, 1 << 17, 1 << 31, u32::MAX] {
        let message = check(with(4, &alignment.to_le_bytes()), "invalid-alignment");
        assert!(message.contains("65536") && message.contains("general.alignment"), "{message}");
    }
    check(with(5, &32i32.to_le_bytes()), "invalid-alignment");
    check(with(10, &32u64.to_le_bytes()), "invalid-alignment");
    check(with(8, &text("32")), "invalid-alignment");
    // Another than the data was laid out for.
    let pairs = [pair("general.alignment", 4, &64u32.to_le_bytes())];
    let list = [tensor("a", &[1], 0, 0), tensor("b", &[1], 0, 32)];
    check(file_aligned(64, &pairs, &list, 64), "data-offset");
}

#[test]
fn tensor_names() {
    let named = |name: &[u8]| {
        let entry = tensor("", &[1], 0, 0);
        tensors(&[[&text(name)[..], &entry[8..]].concat()], 32)
    };
    check(named(b""), "empty-tensor-name");
    check(named(&[b'n'; 64]), "tensor-name-too-long");
    check(named(b"a\0b"), "invalid-text");
    check(named(b"\xff"), "invalid-text");
    let w = |offset: u64| tensor("w", &[1], 0, offset);
    let message = check(tensors(&[w(0), tensor("v", &[1], 0, 32), w(64)], 96), "duplicate-tensor");
    assert!(message.contains("tensors 0 and 2"), "{message}");
}

#[test]
fn dimensions() {
    check(one(&[1; 5], 0, 32), "too-many-dimensions");
    let many = [&text("w")[..], &u32::MAX.to_le_bytes(), &[0; 64]].concat();
    check(tensors(&[many], 32), "too-many-dimensions");
    check(one(&[u64::MAX], 0, 32), "size-overflow");
    check(one(&[4, u64::MAX], 0, 32), "size-overflow");
    check(one(&[1 << 32, 1 << 32], 24, 32), "size-overflow");
    check(one(&[0, 1 << 32, 1 << 32], 24, 32), "size-overflow");
    // The elements fit 63 bits, the bytes do not.
    check(one(&[1 << 61], 0, 32), "size-overflow");
    check(one(&[4, (1 << 30) - 1, (1 << 30) + 1], 0, 32), "size-overflow");
    // Each fits, both together do not.
    let half = |name: &str, offset: u64| tensor(name, &[(1 << 63) - 64], 24, offset);
    check(tensors(&[half("a", 0), half("b", (1 << 63) - 64)], 64), "data-missing");
    // Only the padding overflows.
    check(one(&[(1 << 63) - 1], 24, 32), "size-overflow");
}

#[test]
fn element_types() {
    for id in [43, 99, u32::MAX] {
        let message = check(one(&[1], id, 32), "unknown-type");
        assert!(message.contains(&id.to_string()), "{message}");
    }
    for (id, name) in [
        (4, "Q4_2"),
        (5, "Q4_3"),
        (31, "Q4_0_4_4"),
        (32, "Q4_0_4_8"),
        (33, "Q4_0_8_8"),
        (36, "IQ4_NL_4_4"),
        (37, "IQ4_NL_4_8"),
        (38, "IQ4_NL_8_8"),
    ] {
        let message = check(one(&[256], id, 256), "removed-type");
        assert!(message.contains(name), "{message}");
    }
    check(one(&[31], 2, 32), "partial-block");
    check(one(&[300], 12, 320), "partial-block");
    // Whole blocks in all, but not in each row.
    check(one(&[128, 2], 12, 160), "partial-block");
}

#[test]
fn places_of_data() {
    let second_at =
        |offset: u64| tensors(&[tensor("a", &[8], 0, 0), tensor("b", &[8], 0, offset)], 96);
    for offset in [0, 16, 31, 33, 64, 1 << 40, 1 << 63, u64::MAX] {
        let message = check(second_at(offset), "data-offset");
        assert!(message.contains(&offset.to_string()) && message.contains("32"), "{message}");
    }
    check(tensors(&[tensor("a", &[8], 0, 32)], 96), "data-offset");
}

#[test]
fn data_that_is_not_there() {
    check(one(&[8], 0, 31), "data-missing");
    check(one(&[8], 0, 0), "data-missing");
    check(one(&[1 << 38], 0, 32), "data-missing");
    let message = check(one(&[1 << 30, 1 << 10], 1, 32), "data-missing");
    assert!(message.contains("F16 [1024, 1073741824]"), "{message}");
}

#[test]
fn bytes_behind_the_data() {
    let check_passed_over = |bytes: Vec<u8>, count: u64| {
        let model = open_model(&bytes);
        let note = format!("{count} bytes behind the last tensor are passed over");
        assert!(model.notes()[0].ends_with(&note), "{:?}", model.notes());
        assert_eq!(model.notes().len(), 1);
    };
    check_passed_over(one(&[8], 0, 33), 1);
    check_passed_over(one(&[1], 0, 33), 1);
    check_passed_over(file(&[], &[], 1), 1);
    check_passed_over([one(&[8], 0, 32), b"PK\x05\x06".to_vec()].concat(), 4);
    check_passed_over([one(&[8], 0, 32), b"GGUF".to_vec()].concat(), 4);
    let joined = [one(&[8], 0, 32), one(&[8], 0, 32)].concat();
    check(joined, "joined-files");
    // The first one without its last padding.
    check([one(&[1], 0, 4), one(&[8], 0, 32)].concat(), "joined-files");
}

fn open_model(bytes: &[u8]) -> GgufModel {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).expect("written");
    GgufModel::open(path).expect("opened")
}

#[test]
fn strings_that_are_no_text_are_kept() {
    let strings = array(8, 3, &[text("ok"), text(b"\xff"), text(b"x\xe9")].concat());
    let bytes = file(&[pair("a", 8, &text(b"caf\xe9")), pair("b", 9, &strings)], &[], 0);
    let model = open_model(&bytes);
    let metadata = model.metadata();
    assert_eq!(metadata.get("a"), Some(&Value::Bytes(b"caf\xe9".to_vec())));
    let kept = [&b"ok"[..], b"\xff", b"x\xe9"].map(<[u8]>::to_vec).to_vec();
    assert_eq!(metadata.get("b"), Some(&Value::Array(Array::Bytes(kept.into()))));
    let notes = model.notes();
    assert!(notes[0].ends_with(r#": a: not UTF-8, kept byte for byte: "caf\xe9""#), "{notes:?}");
    assert!(notes[1].ends_with(r#"2 of its strings, first "\xff""#), "{notes:?}");
}

#[test]
fn headers_that_are_too_long() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.gguf");
    // A file with room for everything, of which only the beginning is written.
    let check = |pairs: u64, pair: &[u8]| {
        let bytes = [start(3, 0, pairs), pair.to_vec()].concat();
        std::fs::write(&path, bytes).expect("written");
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opened");
        file.set_len(1 << 40).expect("lengthened");
        let error = qz_gguf::GgufFile::open(&path).expect_err("refused");
        assert_eq!(error.diagnosis().rule, "header-too-long", "{error}");
        assert!(error.to_string().contains("134217728"), "{error}");
    };
    check(1 << 30, &[]);
    check(1, &pair("k", 8, &(1u64 << 30).to_le_bytes()));
    check(1, &pair("k", 9, &array(4, 1 << 28, &[])));
    check(1, &(1u64 << 30).to_le_bytes());
    // The first pair leaves four bytes for the second.
    let most = array(0, qz_gguf::MAX_HEADER - (24 + 25) - 4, &[]);
    check(2, &pair("k", 9, &most));
}

#[test]
fn more_entries_than_memory_is_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.gguf");
    let check = |tensors: u64, pairs: u64, expected: &str| {
        std::fs::write(&path, start(3, tensors, pairs)).expect("written");
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opened");
        file.set_len(1 << 27).expect("lengthened");
        let error = qz_gguf::GgufFile::open(&path).expect_err("refused");
        assert_eq!(error.diagnosis().rule, expected, "{error}");
    };
    check(1_600_000, 0, "too-many-entries");
    check(0, 3_100_000, "too-many-entries");
    check(800_000, 1_600_000, "too-many-entries");
    // So many are read, and the first one's name is missing.
    check(1_500_000, 0, "empty-tensor-name");
    check(0, 3_000_000, "empty-key");
}

#[test]
fn what_is_no_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rule = |path: &std::path::Path| {
        qz_gguf::GgufFile::open(path).expect_err("refused").diagnosis().rule
    };
    assert_eq!(rule(folder.path()), "not-a-regular-file");
    assert_eq!(rule(&folder.path().join("absent")), "file-missing");
}
