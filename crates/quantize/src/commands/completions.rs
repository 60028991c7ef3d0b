//! `quantize completions`

use clap::CommandFactory;

use super::print_line;
use crate::cli::{Arguments, Completions};
use crate::exit::Outcome;

pub(crate) fn run(arguments: &Completions) -> anyhow::Result<Outcome> {
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    // Into memory first: the generator panics if its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    print_line(String::from_utf8_lossy(&script).trim_end());
    Ok(Outcome::Ok)
}
