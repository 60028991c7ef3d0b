//! What a model is compared with: another model, or what a file keeps of one.

use std::ops::Range;
use std::path::{Path, PathBuf};

use qz_eval::leading_file::{LeadingFile, LeadingWriter, default_count};
use qz_eval::logits_file::{LogitsFile, LogitsWriter};
use qz_eval::text::Text;
use qz_tensor::OutputOptions;

use crate::error::Error;
use crate::model::{Model, to_usize};

/// The reference of a comparison.
#[derive(Clone, Debug)]
pub enum ReferenceOptions {
    /// A model, which sees the text beside the other one.
    Model(PathBuf),
    /// A file of its probabilities, which names the text: llama.cpp's or the compact
    /// one.
    File(PathBuf),
}

/// Where a model's own probabilities are to be kept.
#[derive(Clone, Debug)]
pub enum SaveOptions {
    /// In llama.cpp's file.
    Logits(PathBuf),
    /// In the compact file.
    Leading(PathBuf),
}

/// A file of probabilities.
pub(super) enum ReferenceFile {
    Logits(LogitsFile),
    Leading(LeadingFile),
}

impl ReferenceFile {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        if LeadingFile::recognises(path)? {
            return Ok(Self::Leading(LeadingFile::open(path)?));
        }
        Ok(Self::Logits(LogitsFile::open(path)?))
    }

    /// The text that it is about, which may be millions of tokens.
    pub(super) fn read_text(&self) -> Result<Text, Error> {
        Ok(match self {
            Self::Logits(file) => file.read_text()?,
            Self::Leading(file) => file.read_text()?,
        })
    }

    /// Refuses a model of another vocabulary, before anything is read or computed.
    pub(super) fn check_vocabulary(&self, model: &Model) -> Result<(), Error> {
        let rows = |name: &str| {
            let tensor = model.tensors.iter().find(|tensor| tensor.name == name)?;
            Some(to_usize(tensor.shape.rows()))
        };
        let expected = self.vocabulary();
        match rows("output.weight").or_else(|| rows("token_embd.weight")) {
            Some(found) if found != expected => {
                Err(Error::Vocabulary { path: model.path.clone(), found, expected })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn vocabulary(&self) -> usize {
        match self {
            Self::Logits(file) => file.vocabulary(),
            Self::Leading(file) => file.vocabulary(),
        }
    }
}

/// A file of probabilities that is being written.
pub(super) enum Saving {
    Logits(LogitsWriter),
    Leading(LeadingWriter),
}

impl Saving {
    pub(super) fn create(
        options: &SaveOptions,
        text: &Text,
        vocabulary: usize,
        replace: bool,
    ) -> Result<Self, Error> {
        let output = OutputOptions::default().replacing(replace);
        Ok(match options {
            SaveOptions::Logits(path) => {
                Self::Logits(LogitsWriter::create(path, text, vocabulary, output)?)
            }
            SaveOptions::Leading(path) => {
                let count = default_count(vocabulary);
                Self::Leading(LeadingWriter::create(path, text, vocabulary, count, output)?)
            }
        })
    }

    /// Adds the logits of these rows.
    pub(super) fn write(
        &mut self,
        text: &Text,
        rows: Range<usize>,
        logits: &[f32],
    ) -> Result<(), Error> {
        let width = logits.len() / rows.len().max(1);
        for (row, logits) in rows.zip(logits.chunks_exact(width.max(1))) {
            match self {
                Self::Logits(writer) => writer.write(logits)?,
                Self::Leading(writer) => writer.write(logits, text.next_token(row) as usize)?,
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(), Error> {
        let finished = match self {
            Self::Logits(writer) => writer.finish(),
            Self::Leading(writer) => writer.finish(),
        };
        Ok(finished?)
    }
}
