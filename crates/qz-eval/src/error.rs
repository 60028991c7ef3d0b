//! What can go wrong in an evaluation.

use qz_tensor::{Diagnose, Diagnosis, FaultClass, FileError, Location, OutputError, SourceFile};

/// A failure to evaluate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be opened or read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A file of a reference's probabilities, or of tasks, breaks its format.
    #[error("{location}: {fault}")]
    Malformed {
        /// File and byte.
        location: Location,
        /// What is wrong.
        fault: Fault,
    },
    /// Too few tokens.
    #[error(
        "the text has {tokens} tokens; it needs {}, two chunks of {context}, as llama.cpp asks for however few chunks are scored; take a longer text or a smaller --ctx", 2 * context
    )]
    TooShort {
        /// How many there are.
        tokens: usize,
        /// Tokens in a chunk.
        context: usize,
    },
    /// Chunks in which nothing would be scored.
    #[error("chunks of {0} tokens are too short; the smallest have 4")]
    Context(usize),
    /// More tokens would be scored than a chunk has.
    #[error("a stride of {stride} is nothing that chunks of {context} tokens can be apart")]
    Stride {
        /// Tokens between chunks.
        stride: usize,
        /// Tokens in a chunk.
        context: usize,
    },
}

/// What is wrong with a file of probabilities or tasks.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Neither of the two kinds.
    #[error(
        "not a file of a reference's probabilities; those begin with \"_logits_\" or \"QZLEAD01\""
    )]
    NoLogits,
    /// A count that cannot be.
    #[error("{chunks} chunks of {context} tokens, of a vocabulary of {vocabulary}")]
    Empty {
        /// Tokens in a chunk.
        context: u64,
        /// Tokens in the vocabulary.
        vocabulary: u64,
        /// How many chunks.
        chunks: u64,
    },
    /// A file that was cut short, or has something after its end.
    #[error("{actual} bytes, but {expected} by what its head says")]
    Length {
        /// By its head.
        expected: u128,
        /// By the file system.
        actual: u64,
    },
    /// A text that is longer than any that somebody evaluates on.
    #[error("a text of {tokens} tokens; the most are {most}")]
    ManyTokens {
        /// Tokens that it says it holds.
        tokens: u64,
        /// The most.
        most: u64,
    },
    /// A token that the vocabulary does not have.
    #[error("token {token}, in a vocabulary of {vocabulary}")]
    Token {
        /// The token.
        token: u32,
        /// Tokens in the vocabulary.
        vocabulary: u64,
    },
    /// A record with a number that is none.
    #[error("a record holds a number that is not finite")]
    NonFiniteRecord,
    /// A file of tasks without any.
    #[error("no tasks")]
    NoTasks,
    /// More than any set of tasks has.
    #[error("{0} bytes are too many for a file of tasks")]
    TasksTooLarge(u64),
    /// A binary file that ends too early, or is something else.
    #[error(
        "{wanted} bytes are needed here, {left} are left; neither JSON lines nor llama.cpp's file of multiple-choice tasks, or cut short"
    )]
    TasksTruncated {
        /// Bytes that the item takes.
        wanted: usize,
        /// Bytes to the end of the file.
        left: usize,
    },
    /// A line that is no JSON object.
    #[error("{0}")]
    Json(String),
    /// A task without something, or with something else in its place.
    #[error("the task's {0} is missing, or nothing that fits")]
    Field(&'static str),
    /// An answer without text.
    #[error("one of the task's answers is empty")]
    EmptyChoice,
    /// Nothing to choose from.
    #[error("a task with {0} answers")]
    FewChoices(usize),
    /// More answers than there can be.
    #[error("a task with {0} answers; the most are 100")]
    ManyChoices(usize),
    /// The right answer is none of those there are.
    #[error("answer {correct} is right, counted from 0, but there are {choices}")]
    NoSuchChoice {
        /// The right one.
        correct: usize,
        /// How many there are.
        choices: usize,
    },
}

impl Fault {
    fn rule(&self) -> &'static str {
        match self {
            Self::NoLogits => "not-logits",
            Self::Empty { .. } => "logits-empty",
            Self::Length { .. } => "logits-length",
            Self::ManyTokens { .. } => "logits-tokens",
            Self::Token { .. } => "logits-token",
            Self::NonFiniteRecord => "logits-non-finite",
            Self::NoTasks => "no-tasks",
            Self::TasksTooLarge(_) => "tasks-too-large",
            Self::TasksTruncated { .. } => "tasks-truncated",
            Self::Json(_) => "tasks-json",
            Self::Field(_) | Self::EmptyChoice => "task-field",
            Self::FewChoices(_) | Self::ManyChoices(_) | Self::NoSuchChoice { .. } => {
                "task-choices"
            }
        }
    }
}

impl Error {
    pub(crate) fn at(file: &SourceFile, offset: u64, fault: Fault) -> Self {
        Self::Malformed { location: Location::file(&**file.path()).offset(offset), fault }
    }
}

impl Diagnose for Error {
    fn diagnosis(&self) -> Diagnosis {
        let bad_input =
            |rule| Diagnosis { class: FaultClass::BadInput, location: Location::default(), rule };
        match self {
            Self::File(error) => error.diagnosis(),
            Self::Output(error) => error.diagnosis(),
            Self::Malformed { location, fault } => Diagnosis {
                class: FaultClass::BadInput,
                location: location.clone(),
                rule: fault.rule(),
            },
            Self::TooShort { .. } => bad_input("text-too-short"),
            Self::Context(_) => bad_input("context-too-short"),
            Self::Stride { .. } => bad_input("stride"),
        }
    }
}
