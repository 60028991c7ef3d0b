//! The arguments of `bench`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use qz_pipeline::{CodecBenchOptions, ModelBenchOptions};
use qz_tensor::DataType;

use super::evaluation::Arithmetic;
use super::values::TypeParser;
use super::{Global, Source};

/// Measure the speed of a model, or of this machine's codecs
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quantize bench model-Q4_K_M.gguf
  quantize bench --types q4_k,q8_0")]
pub(crate) struct Bench {
    /// A Hugging Face folder or a .gguf file; without one the codecs are measured
    #[arg(value_name = "MODEL", value_parser = crate::hub::models())]
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) model: Option<PathBuf>,
    /// Tokens of the prompt; 0 for no such test
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512, requires = "model")]
    prompt: u32,
    /// Tokens that are generated one by one; 0 for no such test
    #[arg(short = 'n', long, alias = "generate", value_name = "N", default_value_t = 128)]
    #[arg(requires = "model")]
    predict: u32,
    /// Repetitions of each test
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5, requires = "model")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    repetitions: u16,
    /// Measure these types only, comma-separated [default: all]
    #[arg(long, value_name = "TYPE", value_delimiter = ',', conflicts_with = "model")]
    #[arg(value_parser = TypeParser, hide_possible_values = true)]
    types: Vec<DataType>,
    /// How the figures are printed
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Print the result as JSON
    #[arg(long, conflicts_with = "format")]
    json: bool,
    #[command(flatten)]
    arithmetic: Arithmetic,
    #[command(flatten)]
    read: Source,
}

/// How figures are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Text,
    Md,
    Csv,
    Json,
}

impl Bench {
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }

    pub(crate) fn codec_options(&self, global: &Global) -> CodecBenchOptions {
        CodecBenchOptions { types: self.types.clone(), threads: global.thread_count() }
    }

    pub(crate) fn model_options(&self, global: &Global) -> ModelBenchOptions {
        ModelBenchOptions {
            open: self.read.options(),
            prompt: self.prompt as usize,
            generated: self.predict as usize,
            repetitions: self.repetitions.into(),
            // Nothing goes to disk here.
            compute: self.arithmetic.options(global, u64::MAX),
        }
    }
}
