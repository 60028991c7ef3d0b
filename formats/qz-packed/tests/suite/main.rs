//! Layouts against what the packages write, and against themselves.

mod golden;
mod properties;
mod reading;
mod support;
