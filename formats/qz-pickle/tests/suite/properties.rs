//! What holds for all files: a damaged one is refused with its place, or its tensors
//! can be read to their last byte.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use qz_tensor::{Diagnose, TensorIndex, TensorSource};

use crate::support::{Scratch, VALID, checkpoint, dict, entry, golden, zip};

/// A change to a file.
#[derive(Clone, Debug)]
enum Change {
    Byte(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Cut(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => (index(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        3 => (index(), 0..8u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        2 => (index(), vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => (index(), 1..9usize).prop_map(|(at, count)| Change::Remove(at, count)),
        1 => index().prop_map(Change::Cut),
    ]
}

fn apply(mut bytes: Vec<u8>, change: &Change) -> Vec<u8> {
    if bytes.is_empty() {
        return bytes;
    }
    let length = bytes.len();
    match change {
        Change::Byte(at, byte) => bytes[at.index(length)] = *byte,
        Change::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
        Change::Insert(at, more) => {
            let at = at.index(length);
            bytes.splice(at..at, more.iter().copied());
        }
        Change::Remove(at, count) => {
            let at = at.index(length);
            bytes.drain(at..length.min(at + count));
        }
        Change::Cut(at) => bytes.truncate(at.index(length)),
    }
    bytes
}

fn check(scratch: &Scratch, bytes: &[u8]) -> Result<(), TestCaseError> {
    match scratch.open(bytes) {
        Ok(file) => {
            for (place, tensor) in file.tensors().iter().enumerate() {
                prop_assert!(tensor.bytes <= bytes.len() as u64);
                let mut out = vec![0; tensor.bytes as usize];
                let read = file.read(TensorIndex(place), 0, &mut out);
                prop_assert!(read.is_ok(), "{:?}", read);
            }
        }
        Err(error) => {
            let location = error.diagnosis().location;
            prop_assert_eq!(location.file.as_ref(), Some(&scratch.path));
            prop_assert!(location.offset.is_some_and(|offset| offset <= bytes.len() as u64));
        }
    }
    Ok(())
}

fn run<S: Strategy>(
    cases: u32,
    strategy: &S,
    test: impl Fn(&Scratch, S::Value) -> Result<(), TestCaseError>,
) {
    let scratch = Scratch::new();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
    let result = TestRunner::new(config).run(strategy, |value| test(&scratch, value));
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

/// Damage anywhere in a file.
#[test]
fn damaged_files() {
    let files = ["types.bin", "views.bin", "old.bin", "protocol4.bin"]
        .map(|name| std::fs::read(golden(name)).expect("read"));
    let small = checkpoint(&dict(&[("w", VALID.pickled())]));
    let seeds: Vec<Vec<u8>> = files.into_iter().chain([small]).collect();
    let strategy = (prop::sample::select(seeds), vec(change(), 1..4));
    run(4_000, &strategy, |scratch, (seed, changes)| {
        check(scratch, &changes.iter().fold(seed, apply))
    });
}

/// Damage in the pickle, with a checksum that fits, so that the machine sees it.
#[test]
fn damaged_pickles() {
    let strategy = vec(change(), 1..4);
    run(8_000, &strategy, |scratch, changes| {
        let pickle = dict(&[("w", VALID.pickled()), ("v", VALID.pickled())]);
        let pickle = changes.iter().fold(pickle, apply);
        check(scratch, &checkpoint(&pickle))
    });
}

/// Any bytes as a pickle, mostly opcodes.
#[test]
fn random_programs() {
    let opcodes = b"(.N\x88\x89JKM\x8aGCBX)t\x85\x86\x87]ae}su\x93RbQhjqr\x94\x95\x8c\x8d".to_vec();
    let byte = prop_oneof![4 => prop::sample::select(opcodes), 1 => 0..4u8, 1 => any::<u8>()];
    run(8_000, &vec(byte, 0..60), |scratch, program| {
        let pickle = [b"\x80\x02".as_slice(), &program, b"."].concat();
        check(scratch, &zip(&[entry("m/data.pkl", pickle)]))
    });
}
