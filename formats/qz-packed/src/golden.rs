//! What the packages made of the same weights (`fixtures/make/golden_packed.py` and
//! `golden_inputs.py`, which name their versions), for tests.

use std::fmt::Write;

use crate::layouts::numbers::ScaleType;

static RECORDS: [&str; 2] =
    [include_str!("../golden/floats.txt"), include_str!("../golden/inputs.txt")];

fn record(case: &str, part: &str) -> &'static str {
    let find = |line: &'static str| {
        let mut words = line.split(' ');
        let same = words.next() == Some(case) && words.next() == Some(part);
        same.then(|| words.next()).flatten()
    };
    RECORDS
        .iter()
        .flat_map(|records| records.lines())
        .find_map(find)
        .unwrap_or_else(|| panic!("no golden {case} {part}"))
}

/// A short record's bytes.
pub(crate) fn golden(case: &str, part: &str) -> Vec<u8> {
    let text = record(case, part).as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("a hexadecimal digit") as u8;
    text.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Compares bytes with a record, or with its digest where it is long.
#[track_caller]
pub(crate) fn assert_golden(case: &str, part: &str, bytes: &[u8]) {
    let known = record(case, part);
    let ours = if known.starts_with("fnv:") { digest(bytes) } else { hex(bytes) };
    assert_eq!(ours, known, "{case} {part}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("strings grow");
        text
    })
}

fn digest(bytes: &[u8]) -> String {
    let step = |state: u64, byte: &u8| (state ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    format!("fnv:{}:{:016x}", bytes.len(), bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// Bytes as numbers.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Numbers as bytes.
pub(crate) fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// The weights that the goldens are made of, rounded as a checkpoint of this precision
/// holds them.
pub(crate) fn weights(seed: u64, rows: usize, columns: usize, precision: ScaleType) -> Vec<f32> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    let weight = |position: usize| {
        let sum: i64 = (0..4).map(|_| (draw() >> 42) as i64).sum();
        let (row, column) = (position / columns, position % columns);
        let outlier = if position % 97 == 96 { 16.0 } else { 1.0 };
        let size = [1.0, 0.5, 0.25, 0.125][row % 4] * outlier / 8_388_608.0;
        let zero = row == 1 && column < 64;
        if zero { 0.0 } else { precision.rounded((sum - (1 << 23)) as f32 * size) }
    };
    (0..rows * columns).map(weight).collect()
}
