//! What is wrong with a template, or with what it was given.

/// A failure to read or render a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}{}", .line.map(|line| format!(" (line {line})")).unwrap_or_default())]
#[non_exhaustive]
pub struct Error {
    /// What is wrong.
    pub problem: String,
    /// The template's line.
    pub line: Option<usize>,
    /// The operating system refused what reading or rendering takes; the template may be
    /// sound.
    pub from_system: bool,
}

impl Error {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), line: None, from_system: false }
    }

    /// Names the line, unless one is named.
    pub(crate) fn at(mut self, line: usize) -> Self {
        self.line.get_or_insert(line);
        self
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// An error with a formatted message.
macro_rules! fail {
    ($($format:tt)*) => { Err($crate::error::Error::new(format!($($format)*))) };
}
pub(crate) use fail;
