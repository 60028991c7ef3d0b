//! What holds for all files.

use std::fs;
use std::path::PathBuf;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use qz_gguf::GgufFile;
use qz_tensor::{
    Array, DATA_TYPES, DataType, Diagnose, Metadata, Shape, SinkTensor, TensorIndex, TensorSink,
    TensorSource, Value,
};

use crate::support::{Scratch, contents, create, valid};

fn array() -> impl Strategy<Value = Array> {
    prop_oneof![
        vec(any::<u8>(), 0..9).prop_map(Array::U8),
        vec(any::<i8>(), 0..9).prop_map(Array::I8),
        vec(any::<u16>(), 0..9).prop_map(Array::U16),
        vec(any::<i16>(), 0..9).prop_map(Array::I16),
        vec(any::<u32>(), 0..9).prop_map(Array::U32),
        vec(any::<i32>(), 0..9).prop_map(Array::I32),
        vec(any::<f32>(), 0..9).prop_map(Array::F32),
        vec(any::<bool>(), 0..9).prop_map(Array::Bool),
        vec(any::<String>(), 0..9).prop_map(|texts| Array::String(texts.into())),
        vec(any::<u64>(), 0..9).prop_map(Array::U64),
        vec(any::<i64>(), 0..9).prop_map(Array::I64),
        vec(any::<f64>(), 0..9).prop_map(Array::F64),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        any::<String>().prop_map(Value::String),
        array().prop_map(Value::Array),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
    ]
}

/// Metadata, with an alignment in one case of two.
fn metadata() -> impl Strategy<Value = Metadata> {
    let pairs = vec(("[a-z.é]{1,20}", value()), 0..9);
    (pairs, proptest::option::of(0..=16u32)).prop_map(|(pairs, alignment)| {
        let mut metadata: Metadata = pairs.into_iter().collect();
        if let Some(power) = alignment {
            metadata.set("general.alignment", 1u32 << power);
        }
        metadata
    })
}

/// A type and a shape that it can have.
fn tensor() -> impl Strategy<Value = (DataType, Shape)> {
    let types: Vec<DataType> =
        DATA_TYPES.iter().copied().filter(|data_type| data_type.spec().ggml.is_some()).collect();
    (proptest::sample::select(types), vec(0..4u64, 0..=4)).prop_map(|(data_type, mut shape)| {
        if let Some(columns) = shape.last_mut() {
            *columns *= data_type.block_elements() as u64;
        } else if data_type.is_block() {
            shape.push(data_type.block_elements() as u64);
        }
        (data_type, Shape::new(shape).expect("the shape is small"))
    })
}

fn tensors() -> impl Strategy<Value = Vec<SinkTensor>> {
    vec(tensor(), 0..6).prop_map(|tensors| {
        let named = |(place, (data_type, shape))| SinkTensor {
            name: format!("blk.{place}.weight"),
            data_type,
            shape,
        };
        tensors.into_iter().enumerate().map(named).collect()
    })
}

/// Bytes that tell tensors and places apart.
fn fill(index: usize, length: u64) -> Vec<u8> {
    (0..length).map(|place| (place as usize * 31 + index * 7 + 1) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(metadata in metadata(), tensors in tensors(), reversed: bool) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = folder.path().join("out.gguf");
        let mut sink = create(&target, &metadata, &tensors).expect("created");
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        if reversed {
            order.reverse();
        }
        for index in order {
            let bytes = tensors[index].shape.byte_size(tensors[index].data_type).expect("small");
            sink.put(TensorIndex(index), 0, &fill(index, bytes)).expect("put");
        }
        sink.finish().expect("finished");

        let file = GgufFile::open(&target).expect("the file is valid");
        // By their text, in which NaN equals NaN.
        prop_assert_eq!(format!("{:?}", file.metadata()), format!("{metadata:?}"));
        prop_assert_eq!(file.tensors().len(), tensors.len());
        for (index, (read, written)) in file.tensors().iter().zip(&tensors).enumerate() {
            prop_assert_eq!(&read.name, &written.name);
            prop_assert_eq!(read.data_type, written.data_type);
            prop_assert_eq!(&read.shape, &written.shape);
            prop_assert!(read.offset.is_multiple_of(file.alignment().into()));
            prop_assert_eq!(contents(&file, index), fill(index, read.bytes));
        }
    }
}

/// A change to a file: bytes replaced, a number put somewhere, cut, or lengthened.
#[derive(Clone, Debug)]
enum Change {
    Byte(prop::sample::Index, u8),
    Number(prop::sample::Index, u64),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    let numbers = prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(1 << 63),
        Just((1 << 63) - 1),
        Just(1 << 31),
        any::<u64>(),
        0..1000u64,
    ];
    prop_oneof![
        4 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        4 => (any::<prop::sample::Index>(), numbers).prop_map(|(at, number)| Change::Number(at, number)),
        1 => any::<prop::sample::Index>().prop_map(Change::Cut),
        1 => (any::<prop::sample::Index>(), vec(any::<u8>(), 1..40)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let length = bytes.len();
    if length == 0 {
        return;
    }
    match change {
        Change::Byte(at, byte) => bytes[at.index(length)] = *byte,
        Change::Number(at, number) => {
            let begin = at.index(length);
            let target = bytes[begin..].iter_mut();
            target.zip(number.to_le_bytes()).for_each(|(old, new)| *old = new);
        }
        Change::Cut(at) => bytes.truncate(at.index(length)),
        Change::Insert(at, more) => {
            let begin = at.index(length);
            bytes.splice(begin..begin, more.iter().copied());
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let golden = |name: &str| {
        let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "golden", name].iter().collect();
        fs::read(path).expect("read")
    };
    vec![valid(), golden("kinds.gguf"), golden("types.gguf")]
}

/// A damaged file is refused with its place, or is another valid file whose
/// tensors are all readable.
#[test]
fn damage_is_survived() {
    let scratch = Scratch::new();
    let damaged =
        (prop::sample::select(seeds()), vec(change(), 1..4)).prop_map(|(seed, changes)| {
            changes.iter().fold(seed, |mut bytes, change| {
                apply(&mut bytes, change);
                bytes
            })
        });
    let check = |bytes: Vec<u8>| {
        match scratch.open(&bytes) {
            Ok(file) => (0..file.tensors().len()).for_each(|index| drop(contents(&file, index))),
            Err(error) => {
                let location = error.diagnosis().location;
                prop_assert_eq!(location.file.as_ref(), Some(&scratch.path));
                prop_assert!(location.offset.is_some_and(|offset| offset <= bytes.len() as u64));
            }
        }
        Ok(())
    };
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) };
    let result = TestRunner::new(config).run(&damaged, check);
    result.unwrap_or_else(|failure| panic!("{failure}"));
}
