//! llama.cpp's file of a reference's probabilities (`--kl-divergence-base`).
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `_logits_` |
//! | 8..20 | tokens in a chunk, in the vocabulary, chunks: 32 bits each |
//! | then | the tokens of all chunks, 32 bits each |
//! | then | for every scored position a record |
//!
//! A record is two binary32, what one level is worth and the logarithm at level 0, then
//! a 16-bit level for every token of the vocabulary, filled up to an even number.
//! Logits more than 16 below the largest have level 0. (perplexity.cpp,
//! `process_logits`, `kl_divergence`.)
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects)
)]

use std::path::Path;

use qz_tensor::{Artifact, OutputOptions, SourceFile, StagedArtifact};

use crate::error::{Error, Fault};
use crate::log_probability::LogSoftmax;
use crate::stored_text::StoredText;
use crate::text::Text;

pub(crate) const MAGIC: &[u8; 8] = b"_logits_";

/// How far below the largest logit others are told apart.
const DEPTH: f32 = 16.0;

/// One record: logarithms of probabilities in 16 bits.
#[derive(Clone, Copy, Debug)]
pub struct Levels<'a> {
    step: f32,
    lowest: f32,
    levels: &'a [[u8; 2]],
}

impl<'a> Levels<'a> {
    /// The record that these bytes are.
    pub(crate) fn from_bytes(record: &'a [u8]) -> Self {
        let (numbers, levels) = record.split_at_checked(8).unwrap_or_default();
        let mut numbers = numbers.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let mut next = || numbers.next().unwrap_or(0.0);
        Self { step: next(), lowest: next(), levels: levels.as_chunks().0 }
    }

    /// The record of these logits, as bytes.
    pub fn round(logits: &[f32]) -> Record {
        let softmax = LogSoftmax::of(logits);
        let first = logits.first().copied().unwrap_or(0.0);
        let minimum =
            logits.iter().fold(first, |min, &logit| if logit < min { logit } else { min });
        let minimum = minimum.max(softmax.maximum - DEPTH);
        let lowest = minimum - softmax.maximum - softmax.log_sum as f32;
        let step = (softmax.maximum - minimum) / 65535.0;
        let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
        let mut bytes = Vec::with_capacity(record_size(logits.len()));
        bytes.extend(step.to_le_bytes());
        bytes.extend(lowest.to_le_bytes());
        for &logit in logits {
            let level = if logit > minimum { inverse * (logit - minimum) } else { 0.0 };
            // Below 2^22, where this is the reference's way to round.
            bytes.extend((level.round_ties_even() as u16).to_le_bytes());
        }
        bytes.resize(record_size(logits.len()), 0);
        Record(bytes)
    }

    /// The logarithm of a token's probability. One that the vocabulary lacks has the least.
    pub fn log_probability(&self, token: usize) -> f32 {
        let level = self.levels.get(token).map_or(0, |level| u16::from_le_bytes(*level));
        self.step * f32::from(level) + self.lowest
    }
}

/// The bytes of a record.
#[derive(Clone, Debug)]
pub struct Record(Vec<u8>);

impl Record {
    /// What they say.
    pub fn as_levels(&self) -> Levels<'_> {
        Levels::from_bytes(&self.0)
    }
}

/// Bytes of a record.
fn record_size(vocabulary: usize) -> usize {
    vocabulary.saturating_add(vocabulary % 2).saturating_mul(2).saturating_add(8)
}

/// A file that was opened.
#[derive(Debug)]
pub struct LogitsFile {
    file: SourceFile,
    text: StoredText,
    vocabulary: usize,
}

impl LogitsFile {
    /// Opens a file and checks its sizes.
    ///
    /// # Errors
    /// If it cannot be read, is no such file, or is shorter or longer than it says.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = SourceFile::open(path)?;
        let size = |[_, vocabulary, _]: [u64; 3]| {
            u64::try_from(record_size(usize::try_from(vocabulary).ok()?)).ok()
        };
        let (text, [_, vocabulary, _]) = StoredText::of(&file, *MAGIC, size)?;
        Ok(Self { file, text, vocabulary: usize::try_from(vocabulary).unwrap_or(usize::MAX) })
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
        self.vocabulary
    }

    /// The record of a scored position, all chunks' counted through.
    ///
    /// # Errors
    /// If the file cannot be read, or the record's numbers are not finite.
    pub fn read(&self, position: usize) -> Result<Record, Error> {
        let mut bytes = vec![0; record_size(self.vocabulary)];
        let offset = self.text.record(position, bytes.len());
        self.file.read_exact_at(offset, &mut bytes)?;
        let record = Record(bytes);
        let levels = record.as_levels();
        if !levels.step.is_finite() || !levels.lowest.is_finite() {
            return Err(Error::at(&self.file, offset, Fault::NonFiniteRecord));
        }
        Ok(record)
    }
}

/// Writes a file, record by record in the order of positions.
#[derive(Debug)]
pub struct LogitsWriter {
    staged: StagedArtifact,
    offset: u64,
}

impl LogitsWriter {
    /// Begins a file for a text.
    ///
    /// # Errors
    /// If the path is taken or the disk refuses.
    pub fn create(
        path: &Path,
        text: &Text,
        vocabulary: usize,
        options: OutputOptions,
    ) -> Result<Self, Error> {
        let mut head = MAGIC.to_vec();
        let [context, chunks] = [text.context(), text.chunks()].map(|number| number as u32);
        for number in [context, vocabulary as u32, chunks] {
            head.extend(number.to_le_bytes());
        }
        head.extend(text.to_bytes());
        let records = text.positions().saturating_mul(record_size(vocabulary));
        let size = head.len().saturating_add(records) as u64;
        // Never continued: a reference is computed in one go.
        let mut staged = StagedArtifact::create(Artifact::file(path, size), "logits", options)?;
        staged.write_at(0, 0, &head)?;
        Ok(Self { staged, offset: head.len() as u64 })
    }

    /// Adds the next position.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn write(&mut self, logits: &[f32]) -> Result<(), Error> {
        let record = Levels::round(logits);
        self.staged.write_at(0, self.offset, &record.0)?;
        self.offset = self.offset.saturating_add(record.0.len() as u64);
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
