//! The dense bit stream of GPTQ and compressed-tensors: codes of `bits` bits without
//! gaps, the first in the lowest bits, in little-endian words of 32. A code may lie
//! across two words.
//!
//! GPTQ runs the stream down a matrix's columns, compressed-tensors along its rows; so
//! here it runs along a slice, and GPTQ transposes words.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "loops over slices whose lengths are asserted, and bits that are 1 to 8"
)]

/// Bits of a word.
pub const WORD_BITS: usize = 32;

/// Words that `count` codes take.
pub fn words(count: u64, bits: u32) -> u64 {
    (u128::from(count) * u128::from(bits)).div_ceil(WORD_BITS as u128) as u64
}

/// How many codes fill whole words, and share none with others.
pub fn codes_per_run(bits: u32) -> u64 {
    WORD_BITS as u64 / (1u64 << bits.trailing_zeros().min(5))
}

/// Packs codes into words. Bits of codes past `bits` must be zero.
///
/// # Panics
/// If the bits are not 1 to 8, or `out` has not [`words`] of them.
pub fn pack(codes: &[u8], bits: u32, out: &mut [u32]) {
    assert_eq!(out.len() as u64, words(codes.len() as u64, bits), "words of the codes");
    match bits {
        1 => pack_as::<1>(codes, out),
        2 => pack_as::<2>(codes, out),
        3 => pack_as::<3>(codes, out),
        4 => pack_as::<4>(codes, out),
        5 => pack_as::<5>(codes, out),
        6 => pack_as::<6>(codes, out),
        7 => pack_as::<7>(codes, out),
        8 => pack_as::<8>(codes, out),
        _ => panic!("codes of {bits} bits"),
    }
}

/// Undoes [`pack`].
///
/// # Panics
/// As [`pack`].
pub fn unpack(words_: &[u32], bits: u32, codes: &mut [u8]) {
    assert_eq!(words_.len() as u64, words(codes.len() as u64, bits), "words of the codes");
    match bits {
        1 => unpack_as::<1>(words_, codes),
        2 => unpack_as::<2>(words_, codes),
        3 => unpack_as::<3>(words_, codes),
        4 => unpack_as::<4>(words_, codes),
        5 => unpack_as::<5>(words_, codes),
        6 => unpack_as::<6>(words_, codes),
        7 => unpack_as::<7>(words_, codes),
        8 => unpack_as::<8>(words_, codes),
        _ => panic!("codes of {bits} bits"),
    }
}

/// Packs lines of so many codes, each into words of its own.
pub fn pack_lines(codes: &[u8], line: usize, bits: u32) -> Vec<u32> {
    let line_words = words(line as u64, bits) as usize;
    let mut out = vec![0; codes.len() / line.max(1) * line_words];
    for (codes, out) in codes.chunks(line.max(1)).zip(out.chunks_mut(line_words.max(1))) {
        pack(codes, bits, out);
    }
    out
}

/// Undoes [`pack_lines`].
pub fn unpack_lines(packed: &[u32], line: usize, bits: u32) -> Vec<u8> {
    let line_words = words(line as u64, bits) as usize;
    let mut codes = vec![0; packed.len() / line_words.max(1) * line];
    for (packed, codes) in packed.chunks(line_words.max(1)).zip(codes.chunks_mut(line.max(1))) {
        unpack(packed, bits, codes);
    }
    codes
}

/// 32 codes fill `BITS` words exactly.
fn pack_as<const BITS: usize>(codes: &[u8], out: &mut [u32]) {
    let (whole, rest) = codes.as_chunks::<WORD_BITS>();
    let (runs, last) = out.split_at_mut(whole.len() * BITS);
    for (codes, out) in whole.iter().zip(runs.as_chunks_mut::<BITS>().0) {
        pack_run::<BITS>(codes, out);
    }
    if !rest.is_empty() {
        let (mut codes, mut words) = ([0; WORD_BITS], [0; BITS]);
        codes[..rest.len()].copy_from_slice(rest);
        pack_run::<BITS>(&codes, &mut words);
        last.copy_from_slice(&words[..last.len()]);
    }
}

fn pack_run<const BITS: usize>(codes: &[u8; WORD_BITS], out: &mut [u32; BITS]) {
    if BITS == 4 {
        for (codes, word) in codes.as_chunks::<8>().0.iter().zip(out) {
            *word = pack_nibbles(u64::from_le_bytes(*codes));
        }
        return;
    }
    let (mut held, mut filled, mut word) = (0u64, 0, 0);
    for code in codes {
        held |= u64::from(*code) << filled;
        filled += BITS;
        if filled >= WORD_BITS {
            out[word] = held as u32;
            (held, filled, word) = (held >> WORD_BITS, filled - WORD_BITS, word + 1);
        }
    }
}

/// The lower halves of eight bytes, without gaps.
fn pack_nibbles(codes: u64) -> u32 {
    let pairs = (codes | codes >> 4) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    (fours | fours >> 16) as u32
}

fn unpack_as<const BITS: usize>(words: &[u32], codes: &mut [u8]) {
    let (whole, rest) = codes.as_chunks_mut::<WORD_BITS>();
    let (runs, last) = words.split_at(whole.len() * BITS);
    for (codes, words) in whole.iter_mut().zip(runs.as_chunks::<BITS>().0) {
        unpack_run::<BITS>(words, codes);
    }
    if !rest.is_empty() {
        let (mut codes, mut words) = ([0; WORD_BITS], [0; BITS]);
        words[..last.len()].copy_from_slice(last);
        unpack_run::<BITS>(&words, &mut codes);
        rest.copy_from_slice(&codes[..rest.len()]);
    }
}

fn unpack_run<const BITS: usize>(words: &[u32; BITS], codes: &mut [u8; WORD_BITS]) {
    let (mut held, mut filled, mut word) = (0u64, 0, 0);
    for code in codes {
        if filled < BITS {
            held |= u64::from(words[word]) << filled;
            (filled, word) = (filled + WORD_BITS, word + 1);
        }
        *code = held as u8 & (u8::MAX >> (8 - BITS));
        (held, filled) = (held >> BITS, filled - BITS);
    }
}

/// Bytes of words as files hold them.
pub fn to_bytes(words: &[u32], out: &mut Vec<u8>) {
    out.clear();
    out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

/// Undoes [`to_bytes`].
///
/// # Panics
/// If the bytes are not those of so many words.
pub fn from_bytes(bytes: &[u8], words: &mut [u32]) {
    assert_eq!(bytes.len(), words.len() * 4, "bytes of words");
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
}

/// The transpose of `rows` rows of `columns` elements.
///
/// # Panics
/// If a slice does not hold them.
pub fn transpose<T: Copy>(from: &[T], rows: usize, columns: usize, to: &mut [T]) {
    // Both sides of a square of this size stay in the first cache.
    const SIDE: usize = 32;
    assert_eq!((from.len(), to.len()), (rows * columns, rows * columns), "a matrix");
    for first_row in (0..rows).step_by(SIDE) {
        for first_column in (0..columns).step_by(SIDE) {
            for row in first_row..rows.min(first_row + SIDE) {
                for column in first_column..columns.min(first_column + SIDE) {
                    to[column * rows + row] = from[row * columns + column];
                }
            }
        }
    }
}

/// The transpose of `rows` rows of `columns` elements, as a new matrix.
///
/// # Panics
/// If the slice does not hold them.
pub fn transposed<T: Copy + Default>(from: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut to = vec![T::default(); from.len()];
    transpose(from, rows, columns, &mut to);
    to
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn codes_are_a_stream_from_the_lowest_bit() {
        let check = |bits: u32, codes: &[u8], expected: &[u32]| {
            let mut out = vec![0; expected.len()];
            pack(codes, bits, &mut out);
            assert_eq!(out, expected, "{bits} bits");
        };
        check(4, &[1, 2, 3, 4, 5, 6, 7, 8, 9], &[0x8765_4321, 9]);
        check(8, &[0x11, 0x22, 0x33, 0x44], &[0x4433_2211]);
        check(2, &[3; 16], &[u32::MAX]);
        // Code 10 of 3 bits lies across words: bits 30, 31 and 32.
        let mut codes = [0; 11];
        codes[10] = 0b101;
        check(3, &codes, &[0b01 << 30, 0b1]);
    }

    #[test]
    fn runs_fill_words() {
        let check = |bits: u32, expected: u64| assert_eq!(codes_per_run(bits), expected, "{bits}");
        [(1, 32), (2, 16), (3, 32), (4, 8), (5, 32), (6, 16), (7, 32), (8, 4)]
            .iter()
            .for_each(|(bits, expected)| check(*bits, *expected));
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_back(bits in 1u32..=8, codes in prop::collection::vec(any::<u8>(), 0..200)) {
            let codes: Vec<u8> = codes.iter().map(|code| code >> (8 - bits)).collect();
            let mut packed = vec![0; words(codes.len() as u64, bits) as usize];
            pack(&codes, bits, &mut packed);
            let mut back = vec![0; codes.len()];
            unpack(&packed, bits, &mut back);
            prop_assert_eq!(codes, back);
        }

        #[test]
        fn a_transpose_of_a_transpose(rows in 1usize..70, columns in 1usize..70) {
            let from: Vec<usize> = (0..rows * columns).collect();
            let (mut to, mut back) = (from.clone(), from.clone());
            transpose(&from, rows, columns, &mut to);
            prop_assert_eq!(to[(columns - 1) * rows], columns - 1);
            transpose(&to, columns, rows, &mut back);
            prop_assert_eq!(from, back);
        }
    }
}
