//! What holds for all files. The format's own crate is the oracle: what is
//! accepted here it accepts, with the same tensors.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use qz_safetensors::SafetensorsFile;
use qz_tensor::{DATA_TYPES, DataType, Diagnose, TensorSource};
use safetensors::SafeTensors;

use crate::support::{Scratch, bytes_named, contents, entry, file, header};

/// The types that this crate and the oracle both know.
fn types() -> Vec<(DataType, &'static str)> {
    let named = |data_type: &DataType| Some((*data_type, data_type.spec().safetensors?));
    DATA_TYPES.iter().filter_map(named).collect()
}

/// A valid file: tensors of any type and shape, in any order of the header.
fn valid() -> impl Strategy<Value = Vec<u8>> {
    let tensor = ("[a-z.]{1,8}", prop::sample::select(types()), vec(0..4u64, 0..=4));
    vec(tensor, 0..6).prop_map(|tensors| {
        let mut end = 0;
        let entries = tensors.into_iter().enumerate().map(|(place, (name, kind, shape))| {
            let begin = end;
            end += kind.0.block_bytes() as u64 * shape.iter().product::<u64>();
            entry(&format!("{name}{place}"), kind.1, &format!("{shape:?}"), begin, end)
        });
        let mut entries: Vec<String> = entries.collect();
        entries.push(r#""__metadata__":{"format":"pt"}"#.to_owned());
        entries.reverse();
        file(header(&entries), end as usize)
    })
}

/// Compares a file that was accepted with what the oracle makes of it.
fn check_against_oracle(ours: &SafetensorsFile, bytes: &[u8]) -> Result<(), TestCaseError> {
    let oracle = SafeTensors::deserialize(bytes)
        .map_err(|error| TestCaseError::fail(format!("the oracle refuses: {error}")))?;
    prop_assert_eq!(oracle.len(), ours.tensors().len());
    for (index, tensor) in ours.tensors().iter().enumerate() {
        let view = oracle
            .tensor(&tensor.name)
            .map_err(|error| TestCaseError::fail(format!("the oracle lacks a tensor: {error}")))?;
        prop_assert_eq!(format!("{:?}", view.dtype()), tensor.data_type.name());
        let shape: Vec<u64> = view.shape().iter().map(|dimension| *dimension as u64).collect();
        prop_assert_eq!(&shape, tensor.shape.dimensions());
        prop_assert_eq!(view.data(), contents(ours, index));
    }
    Ok(())
}

#[test]
fn valid_files_are_read_as_the_oracle_reads_them() {
    let scratch = Scratch::new();
    run(2_000, &valid(), |bytes| {
        let ours = scratch.open(&bytes).map_err(|error| TestCaseError::fail(error.to_string()))?;
        check_against_oracle(&ours, &bytes)
    });
}

/// A change to a file: a byte, a number of the header's text, a piece of JSON, a
/// cut, or more bytes.
#[derive(Clone, Debug)]
enum Change {
    Byte(prop::sample::Index, u8),
    Digit(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Cut(prop::sample::Index),
    Length(u64),
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<prop::sample::Index>;
    let pieces = [
        "0",
        "-",
        "9999999999999999999",
        "{",
        "}",
        "[",
        "]",
        ",",
        "\"",
        "null",
        "1e9",
        "\\u0000",
        " ",
    ];
    let piece = prop_oneof![
        prop::sample::select(pieces.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
        vec(any::<u8>(), 1..20),
    ];
    prop_oneof![
        3 => (index(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        4 => (index(), b'0'..=b'9').prop_map(|(at, digit)| Change::Digit(at, digit)),
        3 => (index(), piece).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => index().prop_map(Change::Cut),
        1 => prop_oneof![any::<u64>(), 0..1000u64].prop_map(Change::Length),
    ]
}

fn apply(mut bytes: Vec<u8>, change: &Change) -> Vec<u8> {
    let length = bytes.len();
    if length < 8 {
        return bytes;
    }
    match change {
        Change::Byte(at, byte) => bytes[at.index(length)] = *byte,
        Change::Digit(at, digit) => {
            let digits: Vec<usize> = (8..length).filter(|at| bytes[*at].is_ascii_digit()).collect();
            if !digits.is_empty() {
                bytes[digits[at.index(digits.len())]] = *digit;
            }
        }
        // The header grows with what is put into it, else most changes would only
        // shift its end.
        Change::Insert(at, more) => {
            let begin = 8 + at.index(length - 7);
            bytes.splice(begin..begin, more.iter().copied());
            let old = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
            let new = old.wrapping_add(more.len() as u64);
            bytes[..8].copy_from_slice(&new.to_le_bytes());
        }
        Change::Cut(at) => bytes.truncate(at.index(length)),
        Change::Length(length) => bytes[..8].copy_from_slice(&length.to_le_bytes()),
    }
    bytes
}

/// A damaged file is refused with its place, or is another valid file that the
/// oracle reads alike.
#[test]
fn damage_is_survived() {
    let scratch = Scratch::new();
    let seed = prop_oneof![valid(), Just(bytes_named(&[("a", 3), ("b", 0), ("c", 5)]))];
    let damaged =
        (seed, vec(change(), 1..4)).prop_map(|(seed, changes)| changes.iter().fold(seed, apply));
    run(20_000, &damaged, |bytes| match scratch.open(&bytes) {
        Ok(ours) => check_against_oracle(&ours, &bytes),
        Err(error) => {
            let location = error.diagnosis().location;
            prop_assert_eq!(location.file.as_ref(), Some(&scratch.path));
            prop_assert!(location.offset.is_some_and(|offset| offset <= bytes.len() as u64));
            Ok(())
        }
    });
}

fn run<S: Strategy>(
    cases: u32,
    strategy: &S,
    check: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
    let result = TestRunner::new(config).run(strategy, check);
    result.unwrap_or_else(|failure| panic!("{failure}"));
}
