//! The command line, as types.

mod bench;
mod calibrated;
mod calibration;
mod evaluation;
mod recipe;
mod usage;
mod values;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use qz_pipeline::{Engine, Isa, MergedAdapter, OpenOptions};
use qz_tensor::OutputOptions;

pub(crate) use bench::{Bench, Format as BenchFormat};
pub(crate) use calibrated::Quantize;
pub(crate) use calibration::Calibrate;
pub(crate) use evaluation::{Compare, Eval};
pub(crate) use recipe::{Recipe, Written};
pub(crate) use usage::parse;
use values::{EngineParser, Layers, parse_adapter, parse_instruction_set, parse_layers};

/// Headings of help texts.
pub(crate) mod heading {
    pub(crate) const TEXT: &str = "Text";
    pub(crate) const METHOD: &str = "Method";
    pub(crate) const TYPES: &str = "Types of tensors";
    pub(crate) const OUTPUT: &str = "Output";
    pub(crate) const SOURCE: &str = "Reading the model";
    pub(crate) const COMPUTE: &str = "Computation";
    pub(crate) const LIMITS: &str = "Limits (exit code 1 if one is not kept)";
    pub(crate) const TASKS: &str = "Multiple-choice tasks";
    pub(crate) const SAMPLE: &str = "Generation";
    pub(crate) const EXPERTS: &str = "Mixtures of experts";
    pub(crate) const GLOBAL: &str = "Global options";
}

/// Converts, quantizes, evaluates and verifies checkpoints of language models
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100, after_help = EXAMPLES, after_long_help = NOTES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  quantize convert ./Llama-3.2-1B --to q4_k_m
  quantize quantize ./Llama-3.2-1B --to gptq:w4g128 --data default
  quantize eval model-Q4_K_M.gguf --data wiki.test.raw
  quantize targets";

const NOTES: &str = "\
Examples:
  quantize convert ./Llama-3.2-1B --to q4_k_m
  quantize quantize ./Llama-3.2-1B --to gptq:w4g128 --data default
  quantize eval model-Q4_K_M.gguf --data wiki.test.raw
  quantize targets

Exit codes:
  0    ok
  1    a check or threshold failed
  2    usage: an unknown option or target, or one that does not fit
  3    bad input
  4    environment: disk, permission, lock, an input that changed
  5    refused: the output exists, requantizing, a path outside the model
  6    numeric: a NaN or infinite weight, an overflow
  70   internal error
  129, 130, 143  interrupted; the same command continues";

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Threads that do the work [default: one per core]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    #[arg(help_heading = heading::GLOBAL)]
    pub(crate) threads: Option<u16>,
    /// Print errors, warnings and the result alone
    #[arg(short, long, global = true, help_heading = heading::GLOBAL)]
    pub(crate) quiet: bool,
    /// Print details: each tensor, each fallback, each finding
    #[arg(short, long, global = true, conflicts_with = "quiet", help_heading = heading::GLOBAL)]
    pub(crate) verbose: bool,
    /// Show no progress bar, even on a terminal
    #[arg(long, global = true, help_heading = heading::GLOBAL)]
    pub(crate) no_progress: bool,
    /// Instruction set: baseline, avx2 or avx512 [default: the fastest here]
    ///
    /// Converted bytes are the same with each. Calibrated ones differ in their last bits.
    #[arg(long, global = true, value_name = "ISA", value_parser = parse_instruction_set)]
    #[arg(help_heading = heading::GLOBAL, hide_short_help = true)]
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
    /// Convert or quantize a model without data, into one or more formats
    Convert(Convert),
    /// Quantize a model with calibration data (GPTQ, importance)
    Quantize(Box<Quantize>),
    /// Show what `convert` would write: types, sizes, time and memory
    Plan(Plan),
    /// List what can be written, and which engines load it
    Targets(Targets),
    /// Show what a model is: architecture, sizes, types, metadata
    Inspect(Inspect),
    /// Check an artifact's structure, and its weights against their source
    Verify(Verify),
    /// Collect statistics of a model's activations: importance matrices
    Calibrate(Box<Calibrate>),
    /// Measure perplexity, KL divergence from a reference, task accuracy
    Eval(Box<Eval>),
    /// Compare several models with one reference: size and quality
    Compare(Compare),
    /// Measure the speed of a model, or of this machine's codecs
    Bench(Bench),
    /// Convert, quantize and verify the bundled checkpoint
    Demo(Demo),
    /// Print a shell's completion script
    Completions(Completions),
}

impl Command {
    /// True if the result, and a failure, are wanted as JSON.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Convert(Convert { written: Written { json, .. }, .. })
            | Self::Plan(Plan { json, .. })
            | Self::Targets(Targets { json, .. })
            | Self::Inspect(Inspect { json, .. })
            | Self::Verify(Verify { json, .. })
            | Self::Compare(Compare { json, .. })
            | Self::Demo(Demo { json, .. }) => *json,
            Self::Quantize(quantize) => quantize.written.json,
            Self::Calibrate(calibrate) => calibrate.json,
            Self::Eval(eval) => eval.json,
            Self::Bench(bench) => bench.format() == BenchFormat::Json,
            Self::Completions(_) => false,
        }
    }
}

/// How a source is read.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Source {
    /// Merge a LoRA adapter into the model's weights first (repeatable)
    ///
    /// A folder that PEFT wrote, with =WEIGHT behind it to scale it: --merge-lora style=0.5.
    /// Several are merged one after the other, as PEFT's `merge_and_unload` does. `eval` leaves
    /// its reference as it is; `compare` merges into the reference.
    #[arg(long, value_name = "ADAPTER[=WEIGHT]", help_heading = heading::SOURCE)]
    #[arg(value_parser = parse_adapter, value_hint = ValueHint::DirPath)]
    pub(crate) merge_lora: Vec<MergedAdapter>,
    /// GGUF name of the pre-tokenizer [default: by tokenizer.json]
    #[arg(long, value_name = "NAME", help_heading = heading::SOURCE, hide_short_help = true)]
    pub(crate) pre_tokenizer: Option<String>,
    /// Name of the model [default: by its files]
    #[arg(long, value_name = "NAME", help_heading = heading::SOURCE, hide_short_help = true)]
    #[arg(allow_hyphen_values = true)]
    pub(crate) model_name: Option<String>,
    /// Read packed 4-bit matrices with zero points (AWQ) as Q4_1
    ///
    /// The codes stay, their offsets are rounded to binary16; the largest change of a weight
    /// is reported.
    #[arg(long, help_heading = heading::SOURCE, hide_short_help = true)]
    pub(crate) repack: bool,
    /// Take PREFIX away from the names of a folder's tensors
    ///
    /// For weights that a training saved inside of something else: --strip-prefix actor. reads
    /// actor.model.norm.weight. Tensors of other names are left out, and reported.
    #[arg(long, value_name = "PREFIX", help_heading = heading::SOURCE, hide_short_help = true)]
    #[arg(allow_hyphen_values = true)]
    pub(crate) strip_prefix: Option<String>,
    /// Leave out layers that only predict further tokens (multi-token prediction)
    #[arg(long, help_heading = heading::SOURCE, hide_short_help = true)]
    pub(crate) no_mtp: bool,
}

impl Source {
    pub(crate) fn options(&self) -> OpenOptions {
        OpenOptions {
            pre_tokenizer: self.pre_tokenizer.clone(),
            model_name: self.model_name.clone(),
            repack: self.repack,
            generic: false,
            projector: false,
            strip_prefix: self.strip_prefix.clone(),
            drops_further_layers: self.no_mtp,
            adapters: self.merge_lora.clone(),
            pruned_layers: Vec::new(),
        }
    }
}

/// Convert or quantize a model without data, into one or more formats in one read of it
///
/// Types below 8 bits are rounded by each format's own search; `quantize quantize` is better
/// at the same size, and needs a text.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quantize convert ./Llama-3.2-1B --to q4_k_m
  quantize convert ./Llama-3.2-1B --to q8_0,q4_k_m,gptq:w4g128 -o out/
  quantize convert model.gguf --to safetensors:bf16 -o model-hf/
  quantize convert ./Llama-3.2-1B --merge-lora ./my-lora --to q4_k_m
  quantize convert ./my-lora --base ./Llama-3.2-1B --to f16 -o my-lora.gguf
  quantize convert ./gemma-3-4b-it --mmproj --to f16")]
pub(crate) struct Convert {
    #[command(flatten)]
    pub(crate) recipe: Recipe,
    /// SRC is a LoRA adapter of this model: write the adapter alone, as llama.cpp loads it
    ///
    /// To f32, f16, bf16 or q8_0. `llama-cli --lora` applies it to a GGUF file of the model.
    #[arg(long, value_name = "MODEL", value_parser = crate::hub::models())]
    #[arg(help_heading = heading::SOURCE, value_hint = ValueHint::AnyPath)]
    pub(crate) base: Option<PathBuf>,
    /// Write the parts of SRC that see and hear, which llama.cpp loads beside the text's (mmproj)
    ///
    /// To f32, f16, bf16 or q8_0. `llama-server --mmproj` takes it.
    #[arg(long, help_heading = heading::SOURCE, conflicts_with = "base")]
    pub(crate) mmproj: bool,
    /// Leave out layers, by their numbers from 0 on: 3,7-9
    ///
    /// The others move up. Statistics of the whole model (--imatrix) are read by its numbers. GGUF
    /// targets only; a model in which a layer would compute something else in its new place is
    /// refused.
    #[arg(long, value_name = "LAYERS", value_parser = parse_layers, value_delimiter = ',')]
    #[arg(help_heading = heading::SOURCE, hide_short_help = true)]
    #[arg(conflicts_with_all = ["base", "mmproj"])]
    pub(crate) prune_layers: Vec<Layers>,
    #[command(flatten)]
    pub(crate) written: Written,
}

/// Show what `convert` would write: types, sizes, time and memory
///
/// Reads no weights. Encoding speed is measured on this machine.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  quantize plan ./Llama-3.2-1B --to q4_k_m,q8_0 -v")]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) recipe: Recipe,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// List what can be written: bits per weight, which engines load it, which rows it needs
///
/// Bits per weight are those of an 8B Llama 3, or of MODEL.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quantize targets
  quantize targets ./Llama-3.2-1B --for vllm")]
pub(crate) struct Targets {
    /// Say which of them fit this model
    #[arg(value_name = "MODEL", value_parser = crate::hub::models())]
    pub(crate) model: Option<PathBuf>,
    /// List only what this engine loads
    #[arg(long = "for", value_name = "ENGINE", value_parser = EngineParser)]
    pub(crate) engine: Option<Engine>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) read: Source,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Where each shell looks for them:
  bash  ~/.local/share/bash-completion/completions/quantize
  zsh   ~/.zfunc/_quantize, if ~/.zfunc is in $fpath
  fish  ~/.config/fish/completions/quantize.fish")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// A Hugging Face folder or a .gguf file
    #[arg(value_name = "MODEL", value_parser = crate::hub::models())]
    pub(crate) model: PathBuf,
    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) read: Source,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quantize verify model-Q4_K_M.gguf --source ./Llama-3.2-1B
  quantize verify out/Llama-3.2-1B-gptq-w4g128 --for vllm")]
pub(crate) struct Verify {
    /// The artifact: a .gguf file or a folder
    #[arg(value_name = "MODEL", value_parser = crate::hub::models())]
    pub(crate) model: PathBuf,
    /// The model it was made from: compares every weight
    #[arg(long, value_name = "SRC", value_parser = crate::hub::models())]
    pub(crate) source: Option<PathBuf>,
    /// Check what this engine asks of its input, too
    #[arg(long = "for", value_name = "ENGINE", value_parser = EngineParser)]
    pub(crate) engine: Option<Engine>,
    /// Largest relative error of a tensor that passes [default: by type]
    #[arg(long, value_name = "X", requires = "source")]
    pub(crate) max_relative_error: Option<f64>,
    /// Print the result as JSON
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
    /// Print the result as JSON
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

    /// Every help text, short and long, in an 80-column terminal.
    #[test]
    fn help_fits_80_columns() {
        let mut command = Arguments::command().term_width(80);
        command.build();
        let names: Vec<String> =
            command.get_subcommands().map(|known| known.get_name().to_owned()).collect();
        let mut helps = vec![command.render_help(), command.render_long_help()];
        for name in names.iter().filter(|name| *name != "help") {
            let subcommand = command.find_subcommand_mut(name).expect("a command");
            let mut subcommand = subcommand.clone().term_width(80);
            helps.extend([subcommand.render_help(), subcommand.render_long_help()]);
        }
        for help in helps {
            let help = help.to_string();
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{line}\nin\n{help}");
            }
        }
    }

    #[test]
    fn own_options_come_before_global_ones() {
        let mut command = Arguments::command();
        command.build();
        let convert = command.find_subcommand_mut("convert").expect("a command");
        let help = convert.render_long_help().to_string();
        let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("{text} in\n{help}"));
        assert!(at("--to <") < at("--imatrix") && at("--imatrix") < at("Global options:"));
        assert!(at("Global options:") < at("--threads") && at("--threads") < at("Examples:"));
    }
}
