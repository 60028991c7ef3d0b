//! The crate's tests, as one program.

mod bad_input;
mod golden;
mod properties;
mod split;
mod support;
mod writing;
