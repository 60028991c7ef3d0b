//! How a run ends: the exit codes, and what is said about a failure. The outcome is fixed
//! before anything is printed: a reader of the report who goes away does not change it.

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use qz_pipeline::Error;
use qz_tensor::{Diagnose, Diagnosis, FaultClass};
use serde_json::json;

use crate::{interrupt, messages, progress};

/// The version of everything `--json` prints.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// What a command that ran to its end found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    /// A check or threshold failed.
    CheckFailed,
}

const OK: u8 = 0;
const CHECK_FAILED: u8 = 1;
const USAGE: u8 = 2;
const BAD_INPUT: u8 = 3;
pub(crate) const ENVIRONMENT: u8 = 4;
const REFUSED: u8 = 5;
const NUMERIC: u8 = 6;
pub(crate) const INTERNAL: u8 = 70;

impl Outcome {
    /// Of a command that checks something.
    pub(crate) fn of_check(passed: bool) -> Self {
        if passed { Self::Ok } else { Self::CheckFailed }
    }
}

/// Runs a command and turns whatever comes of it into an exit code.
pub(crate) fn run(as_json: bool, command: impl FnOnce() -> anyhow::Result<Outcome>) -> ExitCode {
    // What a library catches it tells as an error.
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !qz_pipeline::catches_panics() {
            interrupt::note_panic(panic);
            tell(panic);
        }
    }));
    // The command's state is not looked at again after a panic.
    let code = match panic::catch_unwind(AssertUnwindSafe(command)) {
        Ok(Ok(Outcome::Ok)) => OK,
        Ok(Ok(Outcome::CheckFailed)) => CHECK_FAILED,
        Ok(Err(error)) => fail(&error, as_json),
        Err(_) => {
            messages::say("error: internal error; please report it with the message above");
            INTERNAL
        }
    };
    with_report(code).into()
}

/// Prints what the parser says instead of a command line: a mistake, or help. Who asks for JSON
/// gets a mistake as JSON, too.
pub(crate) fn of_usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
        let text = error.to_string();
        let message = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
        print_error(USAGE, None, message);
    }
    let lost = error.print().err().filter(|_| !error.use_stderr());
    let code = match lost {
        Some(lost) if lost.kind() != std::io::ErrorKind::BrokenPipe => ENVIRONMENT,
        _ if error.use_stderr() => USAGE,
        _ => OK,
    };
    code.into()
}

/// The code of a run of which not all may have been reported.
fn with_report(code: u8) -> u8 {
    match messages::lost_report() {
        // Whoever read it has seen enough.
        None | Some(std::io::ErrorKind::BrokenPipe) => code,
        // A failure says more than that nobody could be told of it.
        Some(_) if ![OK, CHECK_FAILED].contains(&code) => code,
        Some(kind) => {
            messages::say(&format!("error: standard output: cannot write the report: {kind}"));
            ENVIRONMENT
        }
    }
}

/// A command line that parsed but makes no sense.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

fn code_of(error: &anyhow::Error) -> u8 {
    if error.is::<UsageError>() {
        return USAGE;
    }
    match error.downcast_ref::<Error>() {
        Some(Error::Interrupted) => interrupt::exit_code(),
        Some(error) => match error.diagnosis().class {
            FaultClass::Usage => USAGE,
            FaultClass::BadInput => BAD_INPUT,
            FaultClass::Environment => ENVIRONMENT,
            FaultClass::Refused => REFUSED,
            FaultClass::Numeric => NUMERIC,
        },
        // Only file system calls of this crate end here.
        None => ENVIRONMENT,
    }
}

fn rule_of(error: &anyhow::Error) -> Option<&'static str> {
    error.downcast_ref::<Error>().map(|error| error.diagnosis().rule)
}

/// Our own errors say their causes themselves; of others the whole chain is said.
fn message(error: &anyhow::Error) -> String {
    if error.is::<Error>() { error.to_string() } else { format!("{error:#}") }
}

/// Says a failure: in several lines where it is several, or a text of our own.
fn say_error(error: &anyhow::Error) {
    let message = message(error);
    let lines = match error.downcast_ref::<Error>() {
        Some(error) => error.lines(),
        None if error.is::<UsageError>() => message.lines().map(str::to_owned).collect(),
        None => vec![message],
    };
    for (number, line) in lines.iter().enumerate() {
        messages::say(&if number == 0 { format!("error: {line}") } else { line.clone() });
    }
}

/// Prints an error as JSON.
fn print_error(code: u8, diagnosis: Option<&Diagnosis>, message: &str) {
    let location = diagnosis.map(|diagnosis| &diagnosis.location);
    messages::print_json(&json!({
        "error": {
            "code": code,
            "file": location.and_then(|location| location.file.as_ref()),
            "tensor": location.and_then(|location| location.tensor.as_ref()),
            "offset": location.and_then(|location| location.offset),
            "rule": diagnosis.map(|diagnosis| diagnosis.rule),
            "message": message,
        },
    }));
}

fn fail(error: &anyhow::Error, as_json: bool) -> u8 {
    let code = code_of(error);
    if as_json {
        let diagnosis = error.downcast_ref::<Error>().map(Diagnose::diagnosis);
        print_error(code, diagnosis.as_ref(), &message(error));
    }
    say_error(error);
    if rule_of(error) == Some("output-exists") {
        messages::say("hint: --force replaces it");
    }
    if matches!(error.downcast_ref::<Error>(), Some(Error::Interrupted)) {
        progress::say_stopped();
    }
    code
}
