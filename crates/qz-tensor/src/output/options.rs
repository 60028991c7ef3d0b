//! How an output is written.

/// How an output is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputOptions {
    /// Replace an artifact that exists (`--force`).
    pub replace: bool,
    /// Bytes written before a flush of the data, with its journal records, begins. Small
    /// enough that the disk is busy from the start and the last flush is short.
    pub journal_every: u64,
    /// What tells the program that writes from any other build of it: only the same one
    /// continues what an interrupted run left.
    pub program: &'static str,
}

impl Default for OutputOptions {
    fn default() -> Self {
        Self { replace: false, journal_every: 64 << 20, program: "" }
    }
}

impl OutputOptions {
    /// The same, where an artifact that exists is replaced, or not.
    #[must_use]
    pub fn replacing(self, replace: bool) -> Self {
        Self { replace, ..self }
    }
}
