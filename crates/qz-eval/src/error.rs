//! What can keep a text from being evaluated.

use qz_tensor::{Diagnose, Diagnosis, FaultClass, Location};

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text does not fill one window.
    #[error(
        "{location}: the text has {tokens} tokens, one window takes {needed}; use a longer text or a smaller context"
    )]
    TextTooShort {
        /// The text.
        location: Location,
        /// Its tokens.
        tokens: usize,
        /// Tokens of a window.
        needed: usize,
    },
    /// A window of which nothing would be scored.
    #[error("a context of {context} tokens leaves none to score; at least {least} are needed")]
    ContextTooShort {
        /// Tokens of a window.
        context: usize,
        /// What it takes.
        least: usize,
    },
    /// More tokens would be scored than a window has.
    #[error("a stride of {stride} is more than a context of {context} tokens can score")]
    StrideTooLong {
        /// Tokens between windows.
        stride: usize,
        /// Tokens of a window.
        context: usize,
    },
}

impl Diagnose for Error {
    fn diagnosis(&self) -> Diagnosis {
        let (location, rule) = match self {
            Self::TextTooShort { location, .. } => (location.clone(), "text-too-short"),
            Self::ContextTooShort { .. } => (Location::default(), "context-too-short"),
            Self::StrideTooLong { .. } => (Location::default(), "stride-too-long"),
        };
        Diagnosis { class: FaultClass::BadInput, location, rule }
    }
}
