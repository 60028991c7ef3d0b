//! The `quantize` command: arguments in, a job from `qz-pipeline`, text or JSON
//! out, an exit code.
//!
//! What belongs here: everything that people see. What does not: any knowledge of
//! formats, codecs or models. Layer 7: nothing depends on it.

#![forbid(unsafe_code)]
#![allow(missing_docs)]

mod cli;
mod commands;
mod completion;
mod exit;
mod hub;
mod interrupt;
mod memory;
mod messages;
mod names;
mod progress;
mod render;

use std::process::ExitCode;

use crate::cli::{Arguments, Command};
use crate::exit::Outcome;

fn main() -> ExitCode {
    interrupt::survive_limits();
    if let Some(code) = completion::answer() {
        return code;
    }
    let arguments = match cli::parse() {
        Ok(arguments) => arguments,
        Err(error) => return exit::of_usage(&error),
    };
    exit::run(arguments.command.wants_json(), || run(&arguments))
}

fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    if let Some(isa) = arguments.global.isa {
        isa.choose()?;
    }
    match &arguments.command {
        Command::Convert(convert) => commands::convert::run(convert, &arguments.global),
        Command::Quantize(quantize) => commands::quantize::run(quantize, &arguments.global),
        Command::Plan(plan) => commands::plan::run(plan, &arguments.global),
        Command::Targets(targets) => commands::targets::run(targets, &arguments.global),
        Command::Inspect(inspect) => commands::inspect::run(inspect, &arguments.global),
        Command::Verify(verify) => commands::verify::run(verify, &arguments.global),
        Command::Calibrate(calibrate) => commands::calibrate::run(calibrate, &arguments.global),
        Command::Eval(eval) => commands::eval::run(eval, &arguments.global),
        Command::Compare(compare) => commands::compare::run(compare, &arguments.global),
        Command::Bench(bench) => commands::bench::run(bench, &arguments.global),
        Command::Demo(demo) => commands::demo::run(demo, &arguments.global),
        Command::Completions(completions) => commands::completions::run(completions),
    }
}
