//! The arguments of `calibrate`.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use qz_pipeline::{
    CalibrateOptions, CalibrationData, Collect, Conversations, DataOptions, ExpertOptions,
    StatisticsFormat,
};

use super::evaluation::Compute;
use super::{Global, Source};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("work").required(true).multiple(true).args(["data", "in_file", "show_statistics"])))]
pub(crate) struct Calibrate {
    /// A Hugging Face folder or a .gguf file
    #[arg(value_name = "SRC", requires = "data")]
    pub(crate) model: Option<PathBuf>,
    /// Text to read: a plain file, "text" or "messages" in JSON lines (.jsonl) or .parquet, or
    /// "default" for the text that comes with this program (repeatable; parts are mixed evenly)
    #[arg(long, value_name = "FILE", requires = "model")]
    data: Vec<PathBuf>,
    /// The file to write
    #[arg(short, long, value_name = "STATS", required_unless_present = "show_statistics")]
    pub(crate) output: Option<PathBuf>,
    /// The kind of importance matrix to write [default: by the name: .dat is legacy]
    #[arg(long, value_name = "KIND", value_enum)]
    output_format: Option<Format>,
    #[command(flatten)]
    pub(crate) reading: Reading,
    #[command(flatten)]
    compute: Compute,
    /// Collect the inputs of the output matrix, too, if it has weights of its own
    #[arg(long)]
    process_output: bool,
    /// Collect more than sums of squares (GGUF only): magnitudes, grams, tokens
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    collect: Vec<What>,
    #[command(flatten)]
    experts: Experts,
    /// Add the sums of this file (repeatable); without a model, only that
    #[arg(long, value_name = "FILE")]
    pub(crate) in_file: Vec<PathBuf>,
    /// Go on from the output, which is there already, with the chunks of the text after those in it
    #[arg(long, requires = "model")]
    resume: bool,
    /// Show what a file says about a model's activations, as llama-imatrix does
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "in_file", "output"])]
    pub(crate) show_statistics: Option<PathBuf>,
    /// Replace the output if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Write the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    read: Source,
}

/// How a text for statistics is read.
#[derive(Debug, Args)]
pub(crate) struct Reading {
    /// Tokens that the model sees together
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = parse_context)]
    pub(crate) ctx: u32,
    /// Read at most so many chunks of the text [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    /// Take the names of special tokens in plain text for these tokens
    #[arg(long)]
    parse_special: bool,
    /// How conversations become text: through the model's chat template, or their contents alone
    /// [default: the template, if there is one]
    #[arg(long, value_name = "HOW", value_enum)]
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
    #[arg(long)]
    all_experts: bool,
    /// Draw experts with fewer tokens toward their layer's mean, as if it were the rest of so
    /// many; 0 leaves them as they are, as llama-imatrix does
    #[arg(long, value_name = "TOKENS", default_value_t = ExpertOptions::default().prior)]
    expert_prior: u64,
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
    Template,
    Plain,
}

/// What is collected besides sums of squares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Magnitudes,
    Grams,
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
            compute: self.compute.options(global),
            collect: Collect {
                magnitudes: self.collect.contains(&What::Magnitudes),
                grams: self.collect.contains(&What::Grams),
                tokens: self.collect.contains(&What::Tokens),
            },
            output_matrix: self.process_output,
            experts: self.experts.options(),
            add: self.in_file.clone(),
            resume: self.resume,
            format: self.format(),
            output: global.output(self.force),
        }
    }
}
