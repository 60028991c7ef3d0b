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

use std::io::Write;

use serde::Serialize;

use crate::exit::SCHEMA_VERSION;

/// A report with the schema's version beside its own fields.
#[derive(Serialize)]
struct Versioned<'a, T> {
    schema_version: u32,
    #[serde(flatten)]
    report: &'a T,
}

/// Writes a report to standard output as one line of JSON.
fn print_json(report: &impl Serialize) -> anyhow::Result<()> {
    print_line(&serde_json::to_string(&Versioned { schema_version: SCHEMA_VERSION, report })?)
}

/// Warns of what is no error.
fn warn(warnings: &[String]) {
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
}

/// Writes a line to standard output; a reader that has gone away is an error,
/// not a panic.
fn print_line(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
