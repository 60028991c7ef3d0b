//! Mutations: bits, integers at their edges, pieces moved, repeated, cut and taken from other
//! seeds, words of the format; and those that keep the file well formed (`structured`).

use crate::structured::Structure;

/// SplitMix64: small, and the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub(crate) fn choose<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }
}

/// Mutants grow no larger.
const MAX_SIZE: usize = 1 << 16;

/// Numbers at which sizes and counts go wrong.
pub(crate) const EDGES: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    15,
    16,
    31,
    32,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    1000,
    4096,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    1_000_000,
    0x0fff_ffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 40,
    1 << 60,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// Bits of floating-point numbers that are hard.
pub(crate) const FLOATS: &[f32] =
    &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MAX, f32::MIN_POSITIVE, 1e-45, -1.0];

/// Numbers as texts have them.
const DIGITS: &[&str] = &[
    "0",
    "-1",
    "1e400",
    "-0.0",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e-400",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "NaN",
    "0.5",
    "99999999999999999999999999",
];

/// A mutant of a seed: well formed, or of one to eight changes, half of those of a single one,
/// or both.
pub(crate) fn mutant(
    random: &mut Random,
    seeds: &[Vec<u8>],
    words: &[&[u8]],
    structure: Structure,
    out: &mut Vec<u8>,
) {
    let seed = random.choose(seeds).map_or(&[][..], Vec::as_slice);
    let structured = match random.below(2) {
        0 => structure.mutant(random, seed, words),
        _ => None,
    };
    out.clear();
    out.extend_from_slice(structured.as_deref().unwrap_or(seed));
    if structured.is_some() && random.below(4) > 0 {
        return;
    }
    let changes = 1 + random.below(8).min(random.below(8)) * random.below(2);
    for _ in 0..changes {
        change(random, seeds, words, out);
        out.truncate(MAX_SIZE);
    }
}

pub(crate) fn change(random: &mut Random, seeds: &[Vec<u8>], words: &[&[u8]], out: &mut Vec<u8>) {
    let at = random.below(out.len() + 1);
    match random.below(14) {
        0 => {
            if let Some(byte) = out.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = out.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        2..=4 => {
            let edge = *random.choose(EDGES).unwrap_or(&0);
            let delta = random.below(3) as u64;
            let width = 1 << random.below(4);
            overwrite(out, at, &edge.wrapping_add(delta).to_le_bytes()[..width]);
        }
        5 => {
            let float = *random.choose(FLOATS).unwrap_or(&0.0);
            overwrite(out, at, &float.to_le_bytes());
        }
        6 => out.truncate(at),
        7 => {
            let end = (at + 1 + random.below(64)).min(out.len());
            out.drain(at..end);
        }
        8 => {
            let end = (at + 1 + random.below(64)).min(out.len());
            let piece = out[at..end].to_vec();
            let most = if random.below(16) == 0 { 512 } else { 4 };
            let times = 1 + random.below(most);
            insert(out, end, &piece.repeat(times));
        }
        9 => {
            // A piece of this seed or another one, over what is there or in between.
            let from = random.choose(seeds).map_or(&[][..], Vec::as_slice);
            let start = random.below(from.len() + 1);
            let end = (start + 1 + random.below(128)).min(from.len());
            if random.below(2) == 0 {
                overwrite(out, at, &from[start..end]);
            } else {
                insert(out, at, &from[start..end]);
            }
        }
        10 | 11 => {
            let word = random.choose(words).copied().unwrap_or_default();
            if random.below(2) == 0 {
                overwrite(out, at, word);
            } else {
                insert(out, at, word);
            }
        }
        12 => replace_number(random, out, at),
        _ => {
            let other = random.below(out.len() + 1);
            let length = 1 + random.below(16);
            let (first, second) = (at.min(other), at.max(other));
            let length = length.min(second - first).min(out.len() - second);
            let (left, right) = out.split_at_mut(second);
            left[first..first + length].swap_with_slice(&mut right[..length]);
        }
    }
}

fn overwrite(out: &mut [u8], at: usize, bytes: &[u8]) {
    let length = bytes.len().min(out.len() - at);
    out[at..at + length].copy_from_slice(&bytes[..length]);
}

fn insert(out: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(MAX_SIZE)];
    out.splice(at..at, bytes.iter().copied());
}

/// Puts another number in the place of one that is written in digits.
fn replace_number(random: &mut Random, out: &mut Vec<u8>, at: usize) {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let Some(start) = out[at..].iter().position(is_digit).map(|offset| at + offset) else {
        return;
    };
    let end = out[start..].iter().position(|byte| !is_digit(byte));
    let end = end.map_or(out.len(), |length| start + length);
    let digits = random.choose(DIGITS).copied().unwrap_or("0");
    out.splice(start..end, digits.bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutants_are_the_same_everywhere() {
        let seeds = [b"{\"a\": 12, \"b\": [3]}".to_vec(), vec![0; 40]];
        let make = |seed: u64| {
            let mut out = Vec::new();
            mutant(&mut Random::new(seed), &seeds, &[b"null"], Structure::Json, &mut out);
            out
        };
        let different = (0..1000).filter(|seed| !seeds.contains(&make(*seed))).count();
        assert!(different > 900, "{different}");
        assert!((0..1000).all(|seed| make(seed) == make(seed)));
    }
}
