//! One file per command: arguments to a job, the job's report to text or JSON.

pub(crate) mod bench;
pub(crate) mod calibrate;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod demo;
pub(crate) mod eval;
pub(crate) mod inspect;
mod outputs;
pub(crate) mod plan;
pub(crate) mod quantize;
mod sample;
pub(crate) mod targets;
mod tasks;
pub(crate) mod verify;

pub(crate) use crate::messages::{print_json, print_line, print_lines};

/// Warns of what is no error.
fn warn(warnings: &[String]) {
    warnings.iter().for_each(|warning| crate::messages::warning(warning));
}
