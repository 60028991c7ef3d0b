//! The compact file of a reference's probabilities: the leading tokens of every scored
//! position.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `QZLEAD01` |
//! | 8..24 | tokens in a chunk, in the vocabulary, chunks, leading tokens: 32 bits each |
//! | then | the tokens of all chunks, 32 bits each |
//! | then | for every scored position a record |
//!
//! A record is three binary32 (the logarithm of the probability of the token that
//! follows, the other tokens' probability, their sum of p·ln p), then for every leading
//! token its number, in as many bits as the vocabulary needs, and the logarithm of its
//! probability in 24 bits: steps of 2^-19 below zero. Bits are packed lowest first; the
//! last byte is filled with zeros.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects)
)]

use std::path::Path;

use qz_tensor::{Artifact, OutputOptions, SourceFile, StagedArtifact};

use crate::error::{Error, Fault};
use crate::leading::Leading;
use crate::stored_text::StoredText;
use crate::text::Text;

pub(crate) const MAGIC: &[u8; 8] = b"QZLEAD01";

/// Steps of one nat.
const STEPS: f32 = (1u32 << 19) as f32;
const LOGARITHM_BITS: u32 = 24;

/// How a record is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Format {
    vocabulary: usize,
    count: usize,
}

impl Format {
    fn token_bits(self) -> u32 {
        usize::BITS.saturating_sub(self.vocabulary.saturating_sub(1).leading_zeros())
    }

    fn record_size(self) -> usize {
        let bits = self.token_bits().saturating_add(LOGARITHM_BITS) as usize;
        self.count.saturating_mul(bits).div_ceil(8).saturating_add(12)
    }
}

/// How many leading tokens make a file of no more than a hundredth of the size of
/// llama.cpp's; one at least.
pub fn default_count(vocabulary: usize) -> usize {
    // The text itself, which is the same in both, is some 8 bytes for each position.
    let theirs = vocabulary.saturating_mul(2).saturating_add(8);
    let budget = (theirs / 100).saturating_sub(12 + 9).saturating_mul(8);
    let bits = Format { vocabulary: vocabulary.max(2), count: 1 }.token_bits();
    let bits = bits.saturating_add(LOGARITHM_BITS) as usize;
    budget.checked_div(bits).unwrap_or(0).clamp(1, vocabulary.max(1))
}

/// A file that was opened.
#[derive(Debug)]
pub struct LeadingFile {
    file: SourceFile,
    text: StoredText,
    format: Format,
}

impl LeadingFile {
    /// True if a file begins like this kind.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn recognises(path: &Path) -> Result<bool, Error> {
        let file = SourceFile::open(path)?;
        let mut magic = [0; MAGIC.len()];
        if file.len() < magic.len() as u64 {
            return Ok(false);
        }
        file.read_exact_at(0, &mut magic)?;
        Ok(&magic == MAGIC)
    }

    /// Opens a file and checks its sizes.
    ///
    /// # Errors
    /// If it cannot be read, is no such file, or is shorter or longer than it says.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = SourceFile::open(path)?;
        let format = |[_, vocabulary, _, count]: [u64; 4]| {
            let is_possible = (1..=vocabulary).contains(&count);
            let format = Format {
                vocabulary: usize::try_from(vocabulary).ok()?,
                count: usize::try_from(count).ok()?,
            };
            is_possible.then_some(format)
        };
        let size = |numbers| u64::try_from(format(numbers)?.record_size()).ok();
        let (text, numbers) = StoredText::of(&file, *MAGIC, size)?;
        let Some(format) = format(numbers) else {
            return Err(Error::at(&file, 8, Fault::NoLogits));
        };
        Ok(Self { file, text, format })
    }

    /// Reads the text it is about.
    ///
    /// # Errors
    /// If the file cannot be read, or has a token that the vocabulary lacks.
    pub fn read_text(&self) -> Result<Text, Error> {
        self.text.read(&self.file)
    }

    /// Tokens in the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.format.vocabulary
    }

    /// The record of a scored position, all chunks' counted through.
    ///
    /// # Errors
    /// If the file cannot be read, or the record cannot be.
    pub fn read(&self, position: usize) -> Result<Leading, Error> {
        let mut bytes = vec![0; self.format.record_size()];
        let offset = self.text.record(position, bytes.len());
        self.file.read_exact_at(offset, &mut bytes)?;
        let leading = unpack(self.format, &bytes);
        let numbers = [leading.next, leading.rest, leading.rest_entropy];
        if numbers.iter().any(|number| !number.is_finite()) {
            return Err(Error::at(&self.file, offset, Fault::NonFiniteRecord));
        }
        let limit = self.format.vocabulary;
        match leading.tokens.iter().find(|(token, _)| *token as usize >= limit) {
            Some((token, _)) => {
                let fault = Fault::Token { token: *token, vocabulary: limit as u64 };
                Err(Error::at(&self.file, offset, fault))
            }
            None => Ok(leading),
        }
    }
}

/// Writes a file, record by record in the order of positions.
#[derive(Debug)]
pub struct LeadingWriter {
    staged: StagedArtifact,
    format: Format,
    offset: u64,
}

impl LeadingWriter {
    /// Begins a file for a text, with `count` leading tokens per position
    /// ([`default_count`]).
    ///
    /// # Errors
    /// If the path is taken or the disk refuses.
    pub fn create(
        path: &Path,
        text: &Text,
        vocabulary: usize,
        count: usize,
        options: OutputOptions,
    ) -> Result<Self, Error> {
        let format = Format { vocabulary, count: count.clamp(1, vocabulary.max(1)) };
        let mut head = MAGIC.to_vec();
        for number in [text.context(), vocabulary, text.chunks(), format.count] {
            head.extend((number as u32).to_le_bytes());
        }
        head.extend(text.to_bytes());
        let records = text.positions().saturating_mul(format.record_size());
        let size = head.len().saturating_add(records) as u64;
        let mut staged = StagedArtifact::create(Artifact::file(path, size), "leading", options)?;
        staged.write_at(0, 0, &head)?;
        Ok(Self { staged, format, offset: head.len() as u64 })
    }

    /// Adds the next position; `next` is the token that follows it.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn write(&mut self, logits: &[f32], next: usize) -> Result<(), Error> {
        let record = pack(self.format, &Leading::of(logits, next, self.format.count));
        self.staged.write_at(0, self.offset, &record)?;
        self.offset = self.offset.saturating_add(record.len() as u64);
        Ok(())
    }

    /// Puts the file at its final path.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn finish(self) -> Result<(), Error> {
        Ok(self.staged.commit()?)
    }
}

#[allow(
    clippy::arithmetic_side_effects,
    reason = "a field has at most 32 bits, so no more than 39 are held before one is added"
)]
fn pack(format: Format, leading: &Leading) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(format.record_size());
    for number in [leading.next, leading.rest, leading.rest_entropy] {
        bytes.extend(number.to_le_bytes());
    }
    let (mut held, mut count) = (0u128, 0);
    for &(token, log_p) in &leading.tokens {
        let depth = (-log_p * STEPS).round().min(((1u32 << LOGARITHM_BITS) - 1) as f32);
        held |=
            u128::from(token) << count | u128::from(depth as u32) << (count + format.token_bits());
        count += format.token_bits() + LOGARITHM_BITS;
        while count >= 8 {
            bytes.push(held as u8);
            (held, count) = (held >> 8, count - 8);
        }
    }
    bytes.push(held as u8);
    bytes.truncate(format.record_size());
    bytes
}

#[allow(
    clippy::arithmetic_side_effects,
    reason = "a field has at most 32 bits, so no more than 39 are held before one is added"
)]
fn unpack(format: Format, bytes: &[u8]) -> Leading {
    let (numbers, packed) = bytes.split_at_checked(12).unwrap_or_default();
    let mut numbers = numbers.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let mut number = || numbers.next().unwrap_or(0.0);
    let mut packed = packed.iter();
    let (mut held, mut count) = (0u128, 0);
    let mut take = |bits: u32| {
        while count < bits {
            held |= u128::from(packed.next().copied().unwrap_or(0)) << count;
            count += 8;
        }
        let value = (held & ((1 << bits) - 1)) as u32;
        (held, count) = (held >> bits, count - bits);
        value
    };
    let mut tokens = Vec::with_capacity(format.count);
    for _ in 0..format.count {
        let token = take(format.token_bits());
        tokens.push((token, -(take(LOGARITHM_BITS) as f32) / STEPS));
    }
    Leading { tokens, next: number(), rest: number(), rest_entropy: number() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::logits_near;

    #[test]
    fn records_are_a_hundredth_of_whole_distributions() {
        let check = |vocabulary: usize| {
            let format = Format { vocabulary, count: default_count(vocabulary) };
            let (ours, theirs) = (format.record_size() as f64, (8 + 2 * vocabulary) as f64);
            // With four bytes for each token of the text, of which half is scored.
            assert!(ours + 8.1 <= (theirs + 8.0) / 100.0, "{vocabulary}: {ours} {theirs}");
            format.count
        };
        assert!(check(32_000) >= 120);
        check(32_768);
        check(128_256);
        check(151_936);
        check(262_144);
    }

    #[test]
    fn small_vocabularies_have_records() {
        for vocabulary in [2, 3, 100, 4096] {
            assert!((1..=vocabulary).contains(&default_count(vocabulary)));
        }
    }

    #[test]
    fn records_come_back() {
        let check = |vocabulary: usize, count: usize| {
            let format = Format { vocabulary, count };
            let (logits, _) = logits_near(vocabulary as u64, vocabulary, 0.0);
            let leading = Leading::of(&logits, vocabulary / 2, count);
            let bytes = pack(format, &leading);
            assert_eq!(bytes.len(), format.record_size());
            let back = unpack(format, &bytes);
            assert_eq!((back.next, back.rest), (leading.next, leading.rest));
            for ((token, log_p), (expected, exact)) in back.tokens.iter().zip(&leading.tokens) {
                assert_eq!(token, expected);
                assert!((log_p - exact).abs() <= 2e-6, "{log_p} {exact}");
            }
        };
        check(2, 1);
        check(2, 2);
        check(257, 31);
        check(5000, 70);
        check(40_000, 128);
    }
}
