//! The command line, as types.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use qz_pipeline::{OpenOptions, Target};

/// Turns a language-model checkpoint into a smaller one that is as good as its
/// size allows, and proves it.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 ok; 1 a check failed; 2 usage; 3 bad input; 4 environment (disk, permission, lock, \
changed input); 5 refused by policy (output exists, requantizing, path outside the model folder); \
6 numeric (NaN or infinite weight, overflow); 70 internal error; 130/143 interrupted.";

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Threads that do the work [default: one per core]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Say nothing but errors and the result
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Say more: every tensor as it is done
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// No progress bar, even on a terminal
    #[arg(long, global = true)]
    pub(crate) no_progress: bool,
}

impl Global {
    pub(crate) fn thread_count(&self) -> usize {
        match self.threads {
            Some(threads) => threads.into(),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Convert a model to other formats and precisions in one read of it
    Convert(Convert),
    /// Show what a model is: architecture, sizes, types, metadata
    Inspect(Inspect),
    /// Check an artifact: its structure, and its weights against their source
    Verify(Verify),
    /// Convert, quantize and verify the bundled checkpoint
    Demo(Demo),
}

impl Command {
    /// True if the result, and a failure, are wanted as JSON.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Convert(Convert { json, .. })
            | Self::Inspect(Inspect { json, .. })
            | Self::Verify(Verify { json, .. })
            | Self::Demo(Demo { json, .. }) => *json,
        }
    }
}

/// How a source is read.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Source {
    /// The pre-tokenizer's GGUF name, instead of the one tokenizer.json implies
    #[arg(long, value_name = "NAME")]
    pub(crate) pre_tokenizer: Option<String>,
    /// The model's name, instead of the one its files imply
    #[arg(long, value_name = "NAME")]
    pub(crate) model_name: Option<String>,
}

impl Source {
    pub(crate) fn options(&self) -> OpenOptions {
        OpenOptions {
            pre_tokenizer: self.pre_tokenizer.clone(),
            model_name: self.model_name.clone(),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// A Hugging Face folder or a .gguf file
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// What to write: one or more of f32, f16, bf16, q8_0, q2_k, q3_k_s, q3_k_m, q3_k_l, q4_k_s,
    /// q4_k_m, q5_k_s, q5_k_m, q6_k
    #[arg(long, value_name = "TARGET", value_delimiter = ',', required = true)]
    pub(crate) to: Vec<Target>,
    /// The file to write; with several targets, a folder
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Replace outputs that exist
    #[arg(long)]
    pub(crate) force: bool,
    /// Quantize tensors that are quantized already
    #[arg(long)]
    pub(crate) allow_requantize: bool,
    /// Fail if a tensor's rows do not fill its type's blocks, instead of giving it another type
    #[arg(long)]
    pub(crate) no_fallback: bool,
    /// Write the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) read: Source,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// A Hugging Face folder or a .gguf file
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,
    /// Write the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) read: Source,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The artifact
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// The model it was made from: compares every weight
    #[arg(long, value_name = "SRC")]
    pub(crate) source: Option<PathBuf>,
    /// The largest relative error of a tensor that passes [default: by type]
    #[arg(long, value_name = "X", requires = "source")]
    pub(crate) max_relative_error: Option<f64>,
    /// Write the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) read: Source,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Keep the checkpoint and the results in this folder
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Write the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn help_names_every_target() {
        let mut command = Arguments::command();
        let convert = command.find_subcommand_mut("convert").expect("a command");
        let help = convert.render_long_help().to_string();
        for name in Target::names() {
            assert!(help.contains(name), "{name} is not in the help");
        }
    }
}
