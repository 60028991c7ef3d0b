//! The arguments of `calibrate`.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, ValueHint};
use qz_pipeline::{
    CalibrateOptions, CalibrationData, Collect, Conversations, DataOptions, ExpertOptions,
    StatisticsFormat,
};

use super::evaluation::Compute;
use super::heading::{EXPERTS, OUTPUT, TEXT};
use super::{Global, Source};

/// Collect statistics of a model's activations on a text: importance matrices
///
/// The files are those of llama-imatrix; with --collect grams they serve `quantize quantize
/// --stats`, too.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("work").required(true).multiple(true).args(["data", "in_file", "show_statistics"])))]
#[command(override_usage = "\
quantize calibrate <SRC> --data <FILE> -o <STATS> [OPTIONS]
       quantize calibrate --in-file <STATS>... -o <STATS>
       quantize calibrate --show-statistics <STATS>")]
#[command(after_help = "\
Examples:
  quantize calibrate ./Llama-3.2-1B --data default -o imatrix.gguf
  quantize calibrate --in-file a.gguf --in-file b.gguf -o both.gguf")]
pub(crate) struct Calibrate {
    /// A Hugging Face folder or a .gguf file
    #[arg(value_name = "SRC", requires = "data", value_parser = crate::hub::models())]
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) model: Option<PathBuf>,
    /// Text to read: a file, or "default" (repeatable)
    ///
    /// Plain text, JSON lines (.jsonl) or parquet with "text" or "messages", or "default" for the
    /// text that comes with this program. Chunks of several parts are mixed evenly.
    #[arg(long, value_name = "FILE", requires = "model", value_hint = ValueHint::FilePath)]
    data: Vec<PathBuf>,
    /// The file to write
    #[arg(short, long, value_name = "STATS", required_unless_present = "show_statistics")]
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Add the sums of this file (repeatable); without a model, only that
    #[arg(long, value_name = "STATS", value_hint = ValueHint::FilePath)]
    pub(crate) in_file: Vec<PathBuf>,
    /// Continue the output with the chunks after those in it
    #[arg(long, requires = "model")]
    resume: bool,
    /// Print a file's figures, as llama-imatrix does
    #[arg(long, value_name = "STATS", conflicts_with_all = ["model", "in_file", "output"])]
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) show_statistics: Option<PathBuf>,
    /// Replace the output if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) reading: Reading,

    /// More than sums of squares, comma-separated (GGUF only)
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',', help_heading = OUTPUT)]
    collect: Vec<What>,
    /// Kind of file [default: by its name: .dat is legacy]
    #[arg(long, value_name = "KIND", value_enum, help_heading = OUTPUT, hide_short_help = true)]
    output_format: Option<Format>,
    /// Collect what this quantized model loses beside the full one, too
    ///
    /// Both read the text. Statistics are of the quantized model's inputs, with the output
    /// matrix'; `quantize --stats` corrects targets of its type for what earlier layers lost.
    /// Needs --collect grams.
    #[arg(long, value_name = "QUANTIZED", requires = "model", help_heading = OUTPUT)]
    #[arg(value_hint = ValueHint::AnyPath, hide_short_help = true)]
    beside: Option<PathBuf>,
    /// Collect the inputs of the output matrix, too, if it has its own weights
    #[arg(long, help_heading = OUTPUT, hide_short_help = true)]
    process_output: bool,
    #[command(flatten)]
    experts: Experts,
    #[command(flatten)]
    compute: Compute,
    #[command(flatten)]
    read: Source,
}

/// How a text for statistics is read.
#[derive(Debug, Args)]
pub(crate) struct Reading {
    /// Context length: tokens of a chunk
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = parse_context)]
    #[arg(help_heading = TEXT)]
    pub(crate) ctx: u32,
    /// Read at most N chunks of the text [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(help_heading = TEXT)]
    chunks: Option<u32>,
    /// Parse the names of special tokens in plain text
    #[arg(long, help_heading = TEXT, hide_short_help = true)]
    parse_special: bool,
    /// How conversations become text [default: template, if there is one]
    #[arg(long, value_name = "HOW", value_enum, help_heading = TEXT, hide_short_help = true)]
    chat: Option<Chat>,
}

impl Reading {
    /// This text, read so; `default` is the one that comes with the program.
    pub(super) fn options(&self, data: &[PathBuf]) -> DataOptions {
        let part = |path: &PathBuf| match path.as_os_str() == "default" {
            true => CalibrationData::Bundled,
            false => CalibrationData::File(path.clone()),
        };
        DataOptions {
            data: data.iter().map(part).collect(),
            context: self.ctx as usize,
            chunks: self.chunks.map(|chunks| chunks as usize),
            parse_special: self.parse_special,
            conversations: match self.chat {
                None => Conversations::Either,
                Some(Chat::Template) => Conversations::Template,
                Some(Chat::Plain) => Conversations::Plain,
            },
        }
    }
}

/// Which inputs count as an expert's.
#[derive(Debug, Args)]
pub(crate) struct Experts {
    /// Show every token to every expert
    #[arg(long, help_heading = EXPERTS, hide_short_help = true)]
    all_experts: bool,
    /// Draw the statistics of experts toward their layer's mean, which counts as N tokens
    ///
    /// Gram matrices are mixed with that mean, scaled to their size, as if it were N tokens more
    /// [default: a quarter of the columns]. Importance is filled up to N tokens where there are
    /// fewer [default: 64]. 0 leaves both as they are, as llama-imatrix does.
    #[arg(long, value_name = "N", help_heading = EXPERTS, hide_short_help = true)]
    expert_prior: Option<u64>,
}

impl Experts {
    pub(super) fn options(&self) -> ExpertOptions {
        ExpertOptions { all: self.all_experts, prior: self.expert_prior }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Gguf,
    Dat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Chat {
    /// Through the model's chat template
    Template,
    /// Their contents alone
    Plain,
}

/// What is collected besides sums of squares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Mean magnitudes of activations, E|x|
    Magnitudes,
    /// Hessians XᵀX of the inputs, for gptq
    Grams,
    /// How often each token occurs
    Tokens,
}

/// Chunks of one token have no context.
fn parse_context(text: &str) -> Result<u32, String> {
    let wanted = || "expected a number from 2 to 16777216".to_owned();
    let number: u32 = text.parse().map_err(|_| wanted())?;
    if (2..=1 << 24).contains(&number) { Ok(number) } else { Err(wanted()) }
}

impl Calibrate {
    pub(crate) fn format(&self) -> StatisticsFormat {
        let is_dat = |path: &Path| path.extension().is_some_and(|extension| extension == "dat");
        match (self.output_format, &self.output) {
            (Some(Format::Dat), _) => StatisticsFormat::Legacy,
            (None, Some(path)) if is_dat(path) => StatisticsFormat::Legacy,
            _ => StatisticsFormat::Gguf,
        }
    }

    pub(crate) fn options(&self, global: &Global) -> CalibrateOptions {
        CalibrateOptions {
            open: self.read.options(),
            data: self.reading.options(&self.data),
            compute: match self.beside {
                None => self.compute.options(global),
                // Differences between models are not to be those of rounded activations.
                Some(_) => self.compute.options(global).exact(),
            },
            collect: Collect {
                magnitudes: self.collect.contains(&What::Magnitudes),
                grams: self.collect.contains(&What::Grams),
                tokens: self.collect.contains(&What::Tokens),
            },
            output_matrix: self.process_output || self.beside.is_some(),
            beside: self.beside.clone(),
            experts: self.experts.options(),
            add: self.in_file.clone(),
            resume: self.resume,
            format: self.format(),
            output: global.output(self.force),
        }
    }
}
