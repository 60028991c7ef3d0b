//! Chat templates as text: Jinja as transformers' sandbox has it (trimmed blocks, loop
//! controls, `generation` blocks, Python's strings, lists and dictionaries), within a budget.
//!
//! What belongs here: the language, and the functions, filters, tests and methods that
//! templates call. What does not: which template a model has and what it is given
//! (`qz-calib`).
//!
//! Layer 2: uses `qz-shards` only, for what JSON of checkpoints has beside JSON.
//!
//! Invariants: a template reads nothing but what it is given. Every step, byte and slot that
//! it makes is paid for before it is made, from a budget that does not depend on the machine;
//! sources, values and calls are nested so deep and no deeper. So no template takes more
//! memory, time or stack than stated, and the same one ends the same way everywhere.

#![forbid(unsafe_code)]

mod ast;
mod budget;
mod error;
mod lex;
mod parse;
mod render;
mod value;

use serde_json::{Map, Value};

pub use budget::{MAX_SOURCE, MAX_TEXT};
pub use error::Error;

/// A template, ready to render.
#[derive(Debug)]
pub struct Template {
    body: Vec<ast::Statement>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// If it is none, is longer than [`MAX_SOURCE`], or is nested too deep.
    pub fn new(source: &str) -> Result<Self, Error> {
        let body = with_stack(|| parse::template(source))?;
        Ok(Self { body })
    }

    /// The text that it makes of these variables.
    ///
    /// # Errors
    /// If the template refuses them, does something that Python would not, or takes more
    /// than its budget.
    pub fn render(&self, variables: &Map<String, Value>) -> Result<String, Error> {
        with_stack(|| render::template(&self.body, variables))
    }
}

/// What the deepest template takes, several times over.
const STACK: usize = 32 << 20;

/// Runs on a stack of a known size, whatever the caller's is.
fn with_stack<T: Send>(job: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, job);
        let thread = thread.map_err(|error| Error {
            from_system: true,
            ..Error::new(format!("no thread: {error}"))
        })?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests;
