//! Command lines that cannot be read, and what may have been meant.

use std::ffi::OsString;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};

use super::Arguments;

/// The arguments; ends the process where they cannot be read, or only ask for help.
pub(crate) fn parse() -> Result<Arguments, clap::Error> {
    let given: Vec<OsString> = std::env::args_os().collect();
    Arguments::try_parse_from(&given).map_err(|error| explained(error, &given))
}

/// A model where a command is expected: `quantize ./model --to q4_k_m`.
fn explained(error: clap::Error, given: &[OsString]) -> clap::Error {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else {
        return error;
    };
    let is_model = Path::new(word).exists() || word.contains('/') || word.ends_with(".gguf");
    if error.kind() != ErrorKind::InvalidSubcommand || !is_model {
        return error;
    }
    let has = |option: &str| given.iter().any(|argument| argument == option);
    let command = match () {
        () if has("--data") && has("--to") => "quantize",
        () if has("--data") => "eval",
        () if has("--to") || has("-o") => "convert",
        () => "inspect",
    };
    let rest: Vec<_> = given.iter().skip(1).map(|word| word.to_string_lossy()).collect();
    let message = format!(
        "'{word}' is no command; did you mean\n\n  quantize {command} {}\n",
        rest.join(" ")
    );
    Arguments::command().error(ErrorKind::InvalidSubcommand, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_instead_of_a_command() {
        let check = |given: &[&str], expected: &str| {
            let given: Vec<OsString> = given.iter().map(OsString::from).collect();
            let error = Arguments::try_parse_from(&given).expect_err("no command");
            let message = explained(error, &given).to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(
            &["quantize", "./model", "--to", "q4_k_m"],
            "did you mean\n\n  quantize convert ./model --to q4_k_m\n",
        );
        check(
            &["quantize", "./model", "--to", "q4_k_m", "--data", "default"],
            "quantize quantize ./model --to q4_k_m --data default",
        );
        check(&["quantize", "x.gguf"], "quantize inspect x.gguf");
        check(&["quantize", "convrt"], "unrecognized subcommand 'convrt'");
    }
}
