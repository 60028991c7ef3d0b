//! Files that are read.

use qz_tensor::{DATA_TYPES, DataType, TensorIndex, TensorSource, Value};

use crate::support::{bytes_named, contents, entry, file, header, names, open};

#[test]
fn tensors_come_in_the_order_of_their_data() {
    let entries = [
        entry("b", "F32", "[2,1]", 4, 12),
        r#""__metadata__":{"format":"pt"}"#.to_owned(),
        entry("a", "BF16", "[2]", 0, 4),
    ];
    let file = open(&file(header(&entries), 12)).expect("the file is valid");
    assert_eq!(names(&file), ["a", "b"]);
    let b = &file.tensors()[1];
    assert_eq!((b.data_type, b.shape.dimensions()), (DataType::F32, &[2, 1][..]));
    assert_eq!(contents(&file, 1), [4, 5, 6, 7, 8, 9, 10, 11]);
    let mut middle = [0; 2];
    file.read(TensorIndex(1), 3, &mut middle).expect("read");
    assert_eq!(middle, [7, 8]);
    assert_eq!(file.metadata().get("format"), Some(&Value::String("pt".to_owned())));
}

#[test]
fn unusual_but_valid_files_are_read() {
    let check = |bytes: &[u8], expected: &[&str]| {
        assert_eq!(names(&open(bytes).expect("the file is valid")), expected);
    };
    check(&file("{}", 0), &[]);
    check(&file(r#"{"__metadata__":{}}"#, 0), &[]);
    // Space on either side.
    check(&file("\n\t {}  ", 0), &[]);
    // A scalar, and tensors of no bytes at either end of another's range.
    check(&file(header(&[entry("s", "F64", "[]", 0, 8)]), 8), &["s"]);
    let entries = [
        entry("w", "U8", "[3]", 0, 3),
        entry("y", "F32", "[0,7]", 3, 3),
        entry("x", "F32", "[0]", 0, 0),
    ];
    check(&file(header(&entries), 3), &["x", "w", "y"]);
    // Fields that the format may grow.
    let extra = r#"{"w":{"dtype":"U8","more":{"a":[1,null,"x",-1.5,true]},"shape":[1],"data_offsets":[0,1]}}"#;
    check(&file(extra, 1), &["w"]);
    // Names that look like paths are names.
    check(&bytes_named(&[("../../x", 1)]), &["../../x"]);
    check(
        &file(header(&[entry(r"\u0061\n".trim_end_matches(r"\n"), "U8", "[1]", 0, 1)]), 1),
        &["a"],
    );
    let long = "n".repeat(1 << 16);
    check(&bytes_named(&[(&long, 1)]), &[&long]);
}

#[test]
fn every_element_type_is_read() {
    for data_type in DATA_TYPES {
        let Some(name) = data_type.spec().safetensors else { continue };
        let size = data_type.block_bytes() as u64;
        let bytes = file(header(&[entry("w", name, "[1,1]", 0, size)]), size as usize);
        assert_eq!(open(&bytes).expect("the file is valid").tensors()[0].data_type, *data_type);
    }
}
