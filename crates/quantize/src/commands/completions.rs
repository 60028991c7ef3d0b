//! `quantize completions`

use super::print_line;
use crate::cli::Completions;
use crate::completion;
use crate::exit::Outcome;

pub(crate) fn run(arguments: &Completions) -> anyhow::Result<Outcome> {
    let script = completion::script(arguments.shell)?;
    print_line(String::from_utf8_lossy(&script).trim_end());
    Ok(Outcome::Ok)
}
