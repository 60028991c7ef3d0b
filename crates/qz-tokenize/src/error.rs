//! What can be wrong with a checkpoint's tokenizer.

use std::path::PathBuf;

use qz_tensor::{Diagnose, Diagnosis, FaultClass, FileError, Location};

use crate::pattern::GaveUp;

/// A pre-tokenizer that llama.cpp has no known name for, so that no GGUF file can name it.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{}: pre_tokenizer: llama.cpp has no pre-tokenizer that is known to split text like this: {definition}; \
     if one of its pre-tokenizers fits, name it with --pre-tokenizer NAME",
    path.display()
)]
pub struct UnknownPreTokenizer {
    /// The file.
    pub path: PathBuf,
    /// The definition, as JSON, shortened.
    pub definition: String,
}

/// A fault of a checkpoint's tokenizer files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no `tokenizer.json`.
    #[error("{}: no such file in the checkpoint", .0.display())]
    MissingFile(PathBuf),
    /// A file is another one than its name says.
    #[error("{}: it looks like {found}", path.display())]
    OtherFile {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A file is not the JSON it should be.
    #[error("{}: not a valid tokenizer file: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser says, with line and column.
        source: serde_json::Error,
    },
    /// A file that must be text is not.
    #[error("{}: not valid UTF-8: {source}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Where it stops being text.
        source: std::str::Utf8Error,
    },
    /// A value that cannot be.
    #[error("{}: {key}: {problem}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key, with dots for nesting.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// `tokenizer.model` is not the SentencePiece model it should be.
    #[error("{}: at byte {offset}: not a SentencePiece model: {problem}", path.display())]
    SentencePiece {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// A kind of tokenizer that this program does not convert.
    #[error("{}: {kind} vocabularies are not supported yet", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The kind.
        kind: String,
    },
    /// A pre-tokenizer that llama.cpp has no known name for.
    #[error(transparent)]
    UnknownPreTokenizer(#[from] UnknownPreTokenizer),
    /// A key that a vocabulary in GGUF must have is not there.
    #[error("{}: {key}: is missing; without it the tokenizer cannot be rebuilt", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
    },
    /// A pre-tokenizer whose definition in `tokenizer.json` is not known.
    #[error(
        "{}: tokenizer.ggml.pre: how {name:?} splits text is not known as a definition for \
         tokenizer.json; known are {known}; if one of them fits, name it with --pre-tokenizer NAME",
        path.display()
    )]
    UnknownDefinition {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
        /// The names whose definition is known.
        known: String,
    },
    /// A pre-tokenizer name that llama.cpp does not know.
    #[error("--pre-tokenizer {name}: llama.cpp knows no such pre-tokenizer; it knows {known}")]
    UnknownPreTokenizerName {
        /// The name.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A pattern that cuts text takes too many steps on some.
    #[error(
        "the pre-tokenizer's pattern {pattern:?} takes more than a million steps back on the text \
         at byte {offset}: {excerpt:?}"
    )]
    PatternGaveUp {
        /// The pattern.
        pattern: String,
        /// Bytes before the place, of the text between two special tokens.
        offset: usize,
        /// What stands there.
        excerpt: String,
    },
    /// An entry of a file's metadata that cannot be.
    #[error("{key}: {problem}")]
    Metadata {
        /// The entry's key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A kind of vocabulary that nothing is known of.
    #[error("tokenizer.ggml.model: {model:?} is no known kind of vocabulary; known are {known}")]
    UnknownVocabularyModel {
        /// What the metadata says.
        model: String,
        /// The kinds that are known.
        known: String,
    },
    /// A pre-tokenizer in a file's metadata that llama.cpp does not know.
    #[error("tokenizer.ggml.pre: {name:?} is no known pre-tokenizer; known are {known}")]
    UnknownVocabularyPreTokenizer {
        /// The name.
        name: String,
        /// The names that exist.
        known: String,
    },
}

impl From<GaveUp> for Error {
    fn from(failure: GaveUp) -> Self {
        let GaveUp { pattern, offset, excerpt } = failure;
        Self::PatternGaveUp { pattern, offset, excerpt }
    }
}

impl Diagnose for Error {
    fn diagnosis(&self) -> Diagnosis {
        let (class, location, rule) = match self {
            Self::File(error) => return error.diagnosis(),
            Self::PatternGaveUp { .. } => {
                (FaultClass::BadInput, Location::default(), "pattern-gave-up")
            }
            Self::MissingFile(path) => (FaultClass::BadInput, Location::file(path), "file-missing"),
            Self::OtherFile { path, .. } => {
                (FaultClass::BadInput, Location::file(path), "another-file")
            }
            Self::Json { path, .. } => (FaultClass::BadInput, Location::file(path), "invalid-json"),
            Self::Text { path, source } => {
                let location = Location::file(path).offset(source.valid_up_to() as u64);
                (FaultClass::BadInput, location, "invalid-utf-8")
            }
            Self::Key { path, key, .. } => {
                (FaultClass::BadInput, Location::file(path).tensor(key), "bad-tokenizer-value")
            }
            Self::SentencePiece { path, offset, .. } => {
                let location = Location::file(path).offset(*offset);
                (FaultClass::BadInput, location, "bad-sentencepiece-model")
            }
            Self::Unsupported { path, .. } => {
                (FaultClass::BadInput, Location::file(path), "unsupported-tokenizer")
            }
            Self::UnknownPreTokenizer(UnknownPreTokenizer { path, .. }) => {
                let location = Location::file(path).tensor("pre_tokenizer");
                (FaultClass::BadInput, location, "unknown-pre-tokenizer")
            }
            Self::MissingKey { path, key } => {
                (FaultClass::BadInput, Location::file(path).tensor(*key), "metadata-missing")
            }
            Self::UnknownDefinition { path, .. } => {
                let location = Location::file(path).tensor("tokenizer.ggml.pre");
                (FaultClass::BadInput, location, "unknown-pre-tokenizer")
            }
            Self::UnknownPreTokenizerName { .. } => {
                (FaultClass::BadInput, Location::default(), "unknown-pre-tokenizer-name")
            }
            Self::Metadata { key, .. } => {
                (FaultClass::BadInput, Location::default().tensor(key), "bad-vocabulary-value")
            }
            Self::UnknownVocabularyModel { .. } => {
                let location = Location::default().tensor("tokenizer.ggml.model");
                (FaultClass::BadInput, location, "unknown-vocabulary-model")
            }
            Self::UnknownVocabularyPreTokenizer { .. } => {
                let location = Location::default().tensor("tokenizer.ggml.pre");
                (FaultClass::BadInput, location, "unknown-pre-tokenizer-name")
            }
        };
        Diagnosis { class, location, rule }
    }
}
