//! Files that break one rule each. Whatever is wrong, the message names the file
//! and the byte, and the rule has a stable name.

use qz_tensor::{Diagnose, FaultClass};

use crate::support::{bytes_named, entry, file, header, open};

/// Opening `bytes` fails with `rule` and says where; returns the message.
#[track_caller]
fn check(bytes: impl AsRef<[u8]>, rule: &str) -> String {
    let bytes = bytes.as_ref();
    let error = open(bytes).err().unwrap_or_else(|| panic!("accepted, expected {rule}"));
    let diagnosis = error.diagnosis();
    let message = error.to_string();
    assert_eq!(diagnosis.rule, rule, "{message}");
    assert_eq!(diagnosis.class, FaultClass::BadInput);
    assert!(message.contains("model.safetensors: "), "{message}");
    assert!(!message.contains('\n'), "{message}");
    let offset = diagnosis.location.offset.expect("the message says where");
    assert!(offset <= bytes.len() as u64, "{message}");
    message
}

/// A file of one valid tensor but for `text` in place of `part` of its header.
fn changed(part: &str, text: &str) -> Vec<u8> {
    let valid = header(&[entry("w", "U8", "[4]", 0, 4)]);
    assert!(valid.contains(part));
    file(valid.replace(part, text), 4)
}

#[test]
fn files_that_are_cut_anywhere() {
    let whole = bytes_named(&[("a", 3), ("b", 5)]);
    for length in 0..whole.len() {
        let rule = if length < whole.len() - 8 { "truncated-header" } else { "data-missing" };
        check(&whole[..length], rule);
    }
}

#[test]
fn lengths_of_the_header() {
    let with = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
    check(with(0), "empty-header");
    check(with(3), "truncated-header");
    check(with(100_000_000), "truncated-header");
    check(with(100_000_001), "header-too-long");
    check(with(u64::MAX), "header-too-long");
    // Shorter or longer than the JSON really is.
    check(with(1), "invalid-json");
    let mut bytes = bytes_named(&[("a", 4)]);
    bytes[0] += 2;
    check(bytes, "invalid-json");
}

#[test]
fn files_of_other_kinds() {
    let looks_like = |bytes: &[u8], expected: &str| {
        let message = check(bytes, "not-safetensors");
        assert!(message.contains(expected), "{message}");
    };
    looks_like(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "Git LFS");
    looks_like(b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page");
    looks_like(b"<html>", "web page");
    looks_like(b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0", "GGUF");
    looks_like(b"PK\x03\x04\x14\0\0\0\0\0\0\0", "zip");
    looks_like(&[0; 4096], "did not finish");
}

#[test]
fn headers_that_are_no_object_of_tensors() {
    check(file(b"{\"a\xff\":1}", 0), "invalid-utf8");
    check(file("nonsense", 0), "invalid-json");
    check(file("{", 0), "invalid-json");
    check(file("{} {}", 0), "invalid-json");
    check(file("[]", 0), "invalid-field");
    check(file("null", 0), "invalid-field");
    check(file(r#"{"w":1}"#, 0), "invalid-field");
    check(file(r#"{"w":[]}"#, 0), "invalid-field");
    let message = check(file("{}\0\0\0\0\0\0", 0), "nul-padding");
    assert!(message.contains("spaces"), "{message}");
}

#[test]
fn json_that_nests_deep() {
    let nested =
        |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    check(file(nested("[", "]"), 0), "invalid-field");
    check(file(format!(r#"{{"w":{}}}"#, nested("[", "]")), 0), "invalid-field");
    check(file(format!(r#"{{"w":{{"shape":{}}}}}"#, nested("[", "]")), 0), "invalid-field");
    check(file(format!(r#"{{"w":{{"x":{}}}}}"#, nested("[", "]")), 0), "json-too-deep");
    check(
        file(
            format!(r#"{{"w":{{"x":{}1{}}}}}"#, r#"{"a":"#.repeat(100_000), "}".repeat(100_000)),
            0,
        ),
        "json-too-deep",
    );
    check(file(format!(r#"{{"w":{{"x":{}"#, "[".repeat(100_000)), 0), "json-too-deep");
}

#[test]
fn fields_of_a_tensor() {
    check(changed(r#""dtype":"U8","#, ""), "invalid-field");
    check(changed(r#""shape":[4],"#, ""), "invalid-field");
    check(changed(r#","data_offsets":[0,4]"#, ""), "invalid-field");
    check(changed(r#""shape""#, r#""dtype":"U8","shape""#), "duplicate-field");
    check(changed(r#""shape""#, r#""shape":[4],"shape""#), "duplicate-field");
    check(changed(r#""shape""#, r#""data_offsets":[0,4],"shape""#), "duplicate-field");
    check(changed(r#""U8""#, "8"), "invalid-field");
    check(changed(r#""U8""#, "null"), "invalid-field");
    check(changed("[4]", "4"), "invalid-field");
    check(changed("[4]", "[-4]"), "invalid-field");
    check(changed("[4]", "[4.0]"), "invalid-field");
    check(changed("[4]", "[4e0]"), "invalid-field");
    check(changed("[4]", "[1e400]"), "invalid-json");
    check(changed("[4]", "[18446744073709551616]"), "invalid-field");
    check(changed("[4]", r#"["4"]"#), "invalid-field");
    check(changed("[0,4]", "[0]"), "invalid-field");
    check(changed("[0,4]", "[0,4,4]"), "invalid-json");
    check(changed("[0,4]", "[-1,4]"), "invalid-field");
    check(changed("[0,4]", "4"), "invalid-field");
}

#[test]
fn a_fault_names_its_tensor() {
    for bytes in [
        changed(r#""dtype":"U8","#, ""),
        changed("[4]", "[-4]"),
        changed("[4]", "[5]"),
        changed("U8", "Q4"),
        changed("[0,4]", "[1,5]"),
    ] {
        let error = open(&bytes).expect_err("refused");
        assert_eq!(error.diagnosis().location.tensor.as_deref(), Some("w"), "{error}");
    }
}

#[test]
fn types_that_are_not_supported() {
    for name in ["Q4_K", "u8", "", "F4", "F6_E2M3", "F8_E4M3FNUZ", "INT4"] {
        let message = check(changed("U8", name), "unsupported-type");
        assert!(message.contains(&format!("{name:?}")) && message.contains("BF16"), "{message}");
    }
}

#[test]
fn sizes_that_cannot_be() {
    check(changed("[4]", "[5]"), "wrong-size");
    check(changed("[4]", "[]"), "wrong-size");
    check(changed("[4]", "[0]"), "wrong-size");
    check(changed("U8", "F32"), "wrong-size");
    check(changed("[4]", "[2,2,2]"), "wrong-size");
    check(changed("[4]", "[18446744073709551615]"), "size-overflow");
    check(changed("[4]", "[4294967296,4294967296]"), "size-overflow");
    // Wraps to 4 in 64 bits.
    check(changed("[4]", "[4194305,4194305,211106198978564]"), "size-overflow");
    // A zero hides no overflow.
    check(changed("[4]", "[0,18446744073709551615,2]"), "size-overflow");
    check(changed("[4]", "[1,1,1,1,1,1,1,1,4]"), "too-many-dimensions");
    check(changed("[4]", &format!("[{}4]", "1,".repeat(10_000))), "too-many-dimensions");
}

#[test]
fn ranges_that_do_not_follow_each_other() {
    let two = |a: (u64, u64), b: (u64, u64), data: usize| {
        let entry = |name: &str, (begin, end): (u64, u64)| {
            entry(name, "U8", &format!("[{}]", end.saturating_sub(begin)), begin, end)
        };
        file(header(&[entry("a", a), entry("b", b)]), data)
    };
    check(two((0, 4), (3, 7), 7), "overlap");
    check(two((0, 4), (0, 4), 4), "overlap");
    check(two((0, 8), (2, 4), 8), "overlap");
    check(two((0, 4), (2, 2), 4), "overlap");
    check(two((1, 4), (4, 8), 8), "hole");
    check(two((0, 4), (5, 8), 8), "hole");
    check(two((0, 4), (u64::MAX, u64::MAX), 4), "hole");
    check(two((0, 4), (4, 8), 9), "trailing-bytes");
    check(two((0, 4), (4, 8), 7), "data-missing");
    check(two((0, 4), (8, 4), 8), "inverted-range");
    check(file("{}", 1), "trailing-bytes");
    check(
        file(header(&[entry("w", "U8", "[9223372036854775807]", 0, i64::MAX as u64)]), 4),
        "data-missing",
    );
    let message = check(two((0, 4), (4, 8), 6), "data-missing");
    let whole = two((0, 4), (4, 8), 8).len();
    assert!(
        message.contains(&whole.to_string()) && message.contains(&(whole - 2).to_string()),
        "{message}"
    );
}

#[test]
fn names_that_occur_twice() {
    let w = |begin: u64, end: u64| entry("w", "U8", &format!("[{}]", end - begin), begin, end);
    check(file(header(&[w(0, 4), w(4, 8)]), 8), "duplicate-tensor");
    // The same range, read as another type: the last one wins in other readers.
    check(file(header(&[w(0, 4), entry("w", "F32", "[1]", 0, 4)]), 4), "duplicate-tensor");
    // Escapes make no difference.
    check(file(header(&[w(0, 4), entry(r"\u0077", "U8", "[4]", 4, 8)]), 8), "duplicate-tensor");
    check(file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), "duplicate-field");
    check(file(r#"{"__metadata__":{"a":"1","a":"2"}}"#, 0), "duplicate-field");
}

#[test]
fn names_that_do_not_print() {
    for name in ["", r"a\u0000b", r"\u001b[2J", r"a\nb", "a\u{202e}b"] {
        check(file(header(&[entry(name, "U8", "[1]", 0, 1)]), 1), "invalid-tensor-name");
    }
}

#[test]
fn metadata_that_is_no_object_of_strings() {
    for metadata in ["null", "[]", "1", r#"{"a":1}"#, r#"{"a":null}"#, r#"{"a":{"b":"c"}}"#] {
        check(file(format!(r#"{{"__metadata__":{metadata}}}"#), 0), "invalid-field");
    }
}
