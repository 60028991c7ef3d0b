//! The command line, as types.

mod bench;
mod calibrated;
mod calibration;
mod evaluation;

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::sync::Arc;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use qz_pipeline::{
    DEFAULT_SHARD_SIZE, Engine, Fallback, ImportanceMatrix, Isa, MetadataOverride, OpenOptions,
    Overrides, PackedRounding, PlanOptions, SplitOptions, Target, TensorOverride, element_type,
};
use qz_tensor::{DataType, OutputOptions};

pub(crate) use bench::{Bench, Format as BenchFormat};
pub(crate) use calibrated::Quantize;
pub(crate) use calibration::Calibrate;
pub(crate) use evaluation::{Compare, Eval};

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
    /// The instruction set of the codecs: baseline, avx2 or avx512; with each the bytes are the
    /// same [default: the fastest of this machine]
    #[arg(long, global = true, value_name = "ISA", value_parser = parse_instruction_set)]
    pub(crate) isa: Option<Isa>,
    /// Bytes between two records of what is done, which an interrupted run is continued from
    #[arg(long, global = true, hide = true, value_name = "BYTES")]
    pub(crate) journal_every: Option<u64>,
}

impl Global {
    pub(crate) fn thread_count(&self) -> usize {
        match self.threads {
            Some(threads) => threads.into(),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// How outputs are written.
    pub(crate) fn output(&self, replace: bool) -> OutputOptions {
        let standard = OutputOptions { replace, program: env!("BUILD_ID"), ..Default::default() };
        OutputOptions {
            journal_every: self.journal_every.unwrap_or(standard.journal_every),
            ..standard
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Convert a model to other formats and precisions in one read of it
    Convert(Convert),
    /// Quantize a model with a method that knows what its matrices multiply
    Quantize(Quantize),
    /// Show what `convert` would write: types, sizes, time and memory
    Plan(Plan),
    /// Show what a model is: architecture, sizes, types, metadata
    Inspect(Inspect),
    /// Check an artifact: its structure, and its weights against their source
    Verify(Verify),
    /// Collect statistics of a model's activations on a text: importance matrices
    Calibrate(Calibrate),
    /// Measure how well a model foretells a text: its perplexity, its distance from a reference
    Eval(Box<Eval>),
    /// Measure several models beside one reference: a table of size and quality
    Compare(Compare),
    /// Measure the speed of a model, or of this machine with each codec
    Bench(Bench),
    /// Convert, quantize and verify the bundled checkpoint
    Demo(Demo),
    /// Write completions for a shell to standard output
    Completions(Completions),
}

impl Command {
    /// True if the result, and a failure, are wanted as JSON.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Convert(Convert { json, .. })
            | Self::Quantize(Quantize { json, .. })
            | Self::Plan(Plan { json, .. })
            | Self::Inspect(Inspect { json, .. })
            | Self::Verify(Verify { json, .. })
            | Self::Calibrate(Calibrate { json, .. })
            | Self::Compare(Compare { json, .. })
            | Self::Demo(Demo { json, .. }) => *json,
            Self::Eval(eval) => eval.json,
            Self::Bench(bench) => bench.format() == BenchFormat::Json,
            Self::Completions(_) => false,
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
    /// Read packed 4-bit matrices with zero points (AWQ) as Q4_1 with the same codes, their
    /// offsets rounded to binary16; the largest change is told
    #[arg(long)]
    pub(crate) repack: bool,
}

impl Source {
    pub(crate) fn options(&self) -> OpenOptions {
        OpenOptions {
            pre_tokenizer: self.pre_tokenizer.clone(),
            model_name: self.model_name.clone(),
            repack: self.repack,
        }
    }
}

/// What is to be written, and how its types are decided.
#[derive(Debug, Args)]
pub(crate) struct Recipe {
    /// A Hugging Face folder or a .gguf file
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// What to write: one or more, divided by commas
    #[arg(long, value_name = "TARGET", value_delimiter = ',', required = true)]
    #[arg(value_parser = TargetParser)]
    pub(crate) to: Vec<Target>,
    /// How packed layouts (gptq, awq, ct, ...) round: as their packages do, to the scale of
    /// the least error, or to the one of the least error weighed by importance. Default:
    /// importance with --imatrix, else rtn
    #[arg(long, value_name = "HOW")]
    pub(crate) rounding: Option<RoundingName>,

    /// Weigh the errors of each column with its importance, from a file of llama-imatrix
    #[arg(long, value_name = "FILE")]
    pub(crate) imatrix: Option<PathBuf>,
    /// Give tensors in whose name the pattern is found this element type (repeatable; the first
    /// that is found decides)
    #[arg(long, value_name = "REGEX=TYPE")]
    pub(crate) tensor_type: Vec<TensorOverride>,
    /// The element type of the output matrix
    #[arg(long, value_name = "TYPE", value_parser = parse_element_type)]
    pub(crate) output_tensor_type: Option<DataType>,
    /// The element type of the token embedding
    #[arg(long, value_name = "TYPE", value_parser = parse_element_type)]
    pub(crate) token_embedding_type: Option<DataType>,
    /// Leave the output matrix in its source's precision
    #[arg(long)]
    pub(crate) leave_output_tensor: bool,
    /// Give every tensor the file type's base, without its mixture
    #[arg(long)]
    pub(crate) pure: bool,
    /// Set a metadata entry; types are int (written as u32), float, bool and str (repeatable)
    #[arg(long, value_name = "KEY=TYPE:VALUE")]
    pub(crate) override_kv: Vec<MetadataOverride>,
    /// Quantize tensors that are quantized already
    #[arg(long)]
    pub(crate) allow_requantize: bool,
    /// Fail if a tensor's rows do not fill its type's blocks, instead of giving it another type
    #[arg(long)]
    pub(crate) no_fallback: bool,
    /// Quantize a GGUF model of an unknown architecture by its tensors' names and shapes alone
    #[arg(long)]
    pub(crate) generic: bool,
    #[command(flatten)]
    pub(crate) split: SplitArguments,
    /// Write safetensors files of at most so many bytes of tensors [default: 50G]
    #[arg(long, value_name = "N[K|M|G]", value_parser = parse_size)]
    pub(crate) shard_size: Option<NonZeroU64>,
    #[command(flatten)]
    pub(crate) read: Source,
}

/// Whether, and where, outputs are cut into several files.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct SplitArguments {
    /// Write files of at most so many bytes of tensors: NAME-00001-of-0000N.gguf
    #[arg(long, value_name = "N[K|M|G]", value_parser = parse_size)]
    split_max_size: Option<NonZeroU64>,
    /// Write files of at most so many tensors
    #[arg(long, value_name = "N")]
    split_max_tensors: Option<NonZeroU32>,
    /// Write the metadata alone into the first file
    #[arg(long)]
    no_tensor_first_split: bool,
}

impl SplitArguments {
    fn options(self) -> Option<SplitOptions> {
        let options = SplitOptions {
            max_bytes: self.split_max_size,
            max_tensors: self.split_max_tensors,
            first_without_tensors: self.no_tensor_first_split,
        };
        (options != SplitOptions::default()).then_some(options)
    }
}

/// A size as llama.cpp's converter takes it: a number, or thousands, millions or
/// thousand millions.
fn parse_size(text: &str) -> Result<NonZeroU64, String> {
    let (number, unit) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    let wanted = "expected a positive number of bytes, or one with K, M or G";
    size.and_then(NonZeroU64::new).ok_or_else(|| wanted.to_owned())
}

impl Recipe {
    /// The options, with the importance matrix opened.
    pub(crate) fn options(&self) -> Result<PlanOptions, qz_pipeline::Error> {
        let importance = self.imatrix.as_deref().map(ImportanceMatrix::open).transpose()?;
        Ok(PlanOptions {
            allow_requantize: self.allow_requantize,
            fallback: if self.no_fallback { Fallback::Refused } else { Fallback::Allowed },
            overrides: Overrides {
                tensors: self.tensor_type.clone(),
                output: self.output_tensor_type,
                token_embedding: self.token_embedding_type,
                leave_output: self.leave_output_tensor,
                pure: self.pure,
            },
            metadata: self.override_kv.clone(),
            importance: importance.map(Arc::new),
            generic: self.generic,
            split: self.split.options(),
            shard_size: self.shard_size.map_or(DEFAULT_SHARD_SIZE, NonZeroU64::get),
            rounding: match (self.rounding, &self.imatrix) {
                (Some(RoundingName::Rtn), _) | (None, None) => PackedRounding::Nearest,
                (Some(RoundingName::Mse), _) => PackedRounding::LeastError,
                (Some(RoundingName::Importance), _) | (None, Some(_)) => PackedRounding::Importance,
            },
        })
    }
}

/// How packed layouts round, by name: as the layout's package does, to the scale of the
/// least error, to scale and zero point of the least weighed error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RoundingName {
    Rtn,
    Mse,
    Importance,
}

/// An instruction set of this machine.
fn parse_instruction_set(name: &str) -> Result<Isa, String> {
    let isa: Isa = name.parse().map_err(|error: qz_pipeline::IsaError| error.to_string())?;
    match isa.is_supported() {
        true => Ok(isa),
        false => Err(qz_pipeline::IsaError::Unsupported(isa).to_string()),
    }
}

fn parse_element_type(name: &str) -> Result<DataType, String> {
    element_type(name).map_err(|error| error.to_string())
}

/// Targets by name; help and completions list those that can be written.
#[derive(Clone)]
struct TargetParser;

impl TypedValueParser for TargetParser {
    type Value = Target;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Target, clap::Error> {
        // The parser of any type with `FromStr`, for its messages.
        (|text: &str| text.parse::<Target>()).parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Target::names().into_iter().map(PossibleValue::new)))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Convert {
    #[command(flatten)]
    pub(crate) recipe: Recipe,
    /// The file to write, or the folder for safetensors; with several targets, a folder for all
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Replace outputs that exist
    #[arg(long)]
    pub(crate) force: bool,
    /// Write the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) recipe: Recipe,
    /// Write the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
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
    /// The engine that is to load it: its rules are checked, too (vllm, sglang,
    /// transformers, llama.cpp, mlx)
    #[arg(long = "for", value_name = "ENGINE")]
    pub(crate) engine: Option<Engine>,
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
    fn sizes() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(parse_size(text).ok().map(NonZeroU64::get), expected, "{text}");
        };
        check("7", Some(7));
        check("2K", Some(2_000));
        check("300M", Some(300_000_000));
        check("48G", Some(48_000_000_000));
        check("0", None);
        check("0G", None);
        check("-1M", None);
        check("1.5G", None);
        check("2T", None);
        check("G", None);
        check("", None);
        check("18446744073709551615G", None);
    }

    #[test]
    fn help_names_every_target() {
        let mut command = Arguments::command();
        let convert = command.find_subcommand_mut("convert").expect("a command");
        let help = convert.render_long_help().to_string();
        for name in Target::names() {
            assert!(help.contains(&name), "{name} is not in the help");
        }
    }
}
