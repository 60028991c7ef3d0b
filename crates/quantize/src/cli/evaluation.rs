//! The arguments of `eval` and `compare`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueHint};
use qz_pipeline::{
    CompareOptions, ComputeOptions, EvalData, EvalOptions, FewShot, ReferenceOptions, Rounding,
    SampleOptions, SamplingOptions, SaveOptions, TaskOptions, TextOptions, Thresholds,
};
use qz_tensor::DataType;

use super::heading::{COMPUTE, LIMITS, OUTPUT, SAMPLE, TASKS, TEXT};
use super::values::{parse_amount, parse_limit, parse_share, parse_size};
use super::{Global, Source};
use crate::exit::UsageError;

/// Measure how well a model predicts a text: perplexity, KL divergence from a reference
///
/// Or how many multiple-choice tasks it solves (--task), or what it writes (--sample).
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("source").required(true).args(["data", "tokens", "reference_file", "sample", "task"])))]
#[command(group(ArgGroup::new("compared").args(["reference", "reference_file"])))]
#[command(override_usage = "\
quantize eval <MODEL> --data <FILE> [--reference <MODEL>] [OPTIONS]
       quantize eval <MODEL> --reference-file <FILE> [OPTIONS]
       quantize eval <MODEL> --task <FILE> [OPTIONS]
       quantize eval <MODEL> --sample <PROMPT> [OPTIONS]")]
#[command(after_help = "\
Examples:
  quantize eval model-Q4_K_M.gguf --data wiki.test.raw
  quantize eval q4.gguf --data wiki.test.raw --reference ./model --max-kld 0.05
  quantize eval model-Q4_K_M.gguf --sample 'The sea' -n 32")]
pub(crate) struct Eval {
    /// A Hugging Face folder or a .gguf file
    #[arg(value_name = "MODEL", value_parser = crate::hub::models())]
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    text: Text,
    /// Compare with this model on the same text
    #[arg(long, value_name = "MODEL", conflicts_with = "reference_file")]
    #[arg(value_hint = ValueHint::AnyPath, value_parser = crate::hub::models())]
    reference: Option<PathBuf>,
    /// Compare with a file of probabilities, which brings the text
    ///
    /// From --save-logits, --save-leading or llama-perplexity --kl-divergence-base.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "tokens", "chunks", "stride"])]
    #[arg(value_hint = ValueHint::FilePath)]
    reference_file: Option<PathBuf>,
    /// Print the figures as a Markdown table
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Fail above this perplexity
    #[arg(long, value_name = "X", value_parser = parse_limit, help_heading = LIMITS)]
    max_ppl: Option<f64>,
    /// Fail above this mean KL divergence from the reference, in nats
    #[arg(long, value_name = "X", value_parser = parse_limit, requires = "compared")]
    #[arg(help_heading = LIMITS)]
    max_kld: Option<f64>,
    /// Fail below this top-1 agreement with the reference: 0.9 or 90%
    #[arg(long, value_name = "X", value_parser = parse_share, requires = "compared")]
    #[arg(help_heading = LIMITS)]
    min_top1: Option<f64>,
    /// Fail below this mean cosine of an encoder's vectors and the reference's
    #[arg(long, value_name = "X", value_parser = parse_share, requires = "reference")]
    #[arg(help_heading = LIMITS)]
    min_cosine: Option<f64>,

    /// Save the probabilities as llama-perplexity does (--kl-divergence-base)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["save_leading", "stride"])]
    #[arg(help_heading = OUTPUT, hide_short_help = true, value_hint = ValueHint::FilePath)]
    save_logits: Option<PathBuf>,
    /// Save the most probable tokens, in about a hundredth of that size
    #[arg(long, value_name = "FILE", conflicts_with = "stride", help_heading = OUTPUT)]
    #[arg(hide_short_help = true, value_hint = ValueHint::FilePath)]
    save_leading: Option<PathBuf>,
    /// Replace that file if it exists
    #[arg(long, help_heading = OUTPUT, hide_short_help = true)]
    force: bool,

    #[command(flatten)]
    tasks: Tasks,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    compute: Compute,
    #[command(flatten)]
    read: Source,
}

/// Compare several models with one reference, in one pass over a text: size and quality
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("source").required(true).args(["data", "tokens"])))]
#[command(override_usage = "\
quantize compare <REFERENCE> <MODEL>... --data <FILE> [OPTIONS]")]
#[command(after_help = "\
Examples:
  quantize compare ./model out/*.gguf --data wiki.test.raw -o page.html
  quantize compare ./model RTN=a/model-w4 GPTQ=b/model-w4 --data wiki.test.raw")]
pub(crate) struct Compare {
    /// The model that the others are compared with
    #[arg(value_name = "REFERENCE", value_hint = ValueHint::AnyPath)]
    pub(crate) reference: PathBuf,
    /// The others, each as PATH or NAME=PATH
    #[arg(value_name = "MODEL", required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) models: Vec<PathBuf>,
    #[command(flatten)]
    text: Text,
    /// Write a page with the table and a chart of size and divergence
    #[arg(short, long, value_name = "FILE.html", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Replace the page if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Print the table as Markdown
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,
    /// Print the result as JSON, with the differences of all pairs
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    compute: Compute,
    #[command(flatten)]
    read: Source,
}

/// Multiple-choice tasks.
#[derive(Clone, Debug, Args)]
struct Tasks {
    /// Score multiple-choice tasks instead of a text
    ///
    /// JSON lines in the fields of MMLU, ARC, HellaSwag or Winogrande, or the file of
    /// llama-perplexity --multiple-choice.
    #[arg(long, value_name = "FILE", conflicts_with_all = NOT_OF_TASKS, help_heading = TASKS)]
    #[arg(value_hint = ValueHint::FilePath)]
    task: Option<PathBuf>,
    /// Score at most the first N tasks [default: all]
    #[arg(long, value_name = "N", requires = "task", value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(help_heading = TASKS)]
    task_limit: Option<u32>,
    /// Put the first N tasks with their answers, or a file's text, before each
    #[arg(long, value_name = "N|FILE", requires = "task", help_heading = TASKS)]
    few_shot: Option<String>,
}

/// A text that the model writes.
#[derive(Clone, Debug, Args)]
struct Writing {
    /// Let the model continue this text instead
    #[arg(
        long,
        value_name = "PROMPT",
        allow_hyphen_values = true,
        help_heading = SAMPLE,
        conflicts_with_all = NOT_OF_TASKS,
        conflicts_with_all = NOT_OF_SAMPLES
    )]
    sample: Option<String>,
    /// Generate at most N tokens
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64, requires = "sample")]
    #[arg(help_heading = SAMPLE)]
    predict: usize,
    /// Sampling temperature [default: 0, the most probable token]
    #[arg(long, value_name = "X", requires = "sample", value_parser = parse_amount)]
    #[arg(help_heading = SAMPLE)]
    temperature: Option<f64>,
    /// Sample from the K most probable tokens only [default: all]
    #[arg(long, value_name = "K", requires = "temperature", help_heading = SAMPLE)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..), hide_short_help = true)]
    top_k: Option<u32>,
    /// Sample from the most probable tokens that together have this probability
    #[arg(long, value_name = "P", requires = "temperature", value_parser = parse_share)]
    #[arg(help_heading = SAMPLE, hide_short_help = true)]
    top_p: Option<f64>,
    /// Sample from tokens with this share of the largest probability
    #[arg(long, value_name = "P", requires = "temperature", value_parser = parse_share)]
    #[arg(help_heading = SAMPLE, hide_short_help = true)]
    min_p: Option<f64>,
    /// Seed of the sampling: the same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 0, requires = "temperature")]
    #[arg(help_heading = SAMPLE, hide_short_help = true)]
    seed: u64,
}

/// What says nothing of tasks, nor of a text that the model writes.
const NOT_OF_TASKS: [&str; 11] = [
    "ctx",
    "chunks",
    "stride",
    "reference",
    "save_logits",
    "save_leading",
    "force",
    "max_ppl",
    "max_kld",
    "min_top1",
    "min_cosine",
];

/// What says nothing of a text that the model writes, beside [`NOT_OF_TASKS`].
const NOT_OF_SAMPLES: [&str; 2] = ["max_memory", "markdown"];

/// The text, and how it is cut.
#[derive(Clone, Debug, Args)]
struct Text {
    /// Text to predict, in UTF-8
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    data: Option<PathBuf>,
    /// The text as token ids instead: numbers, separated by anything
    #[arg(long, value_name = "FILE", conflicts_with = "data", help_heading = TEXT)]
    #[arg(hide_short_help = true, value_hint = ValueHint::FilePath)]
    tokens: Option<PathBuf>,
    /// Context length: tokens of a chunk
    #[arg(long, value_name = "N", default_value_t = 512, help_heading = TEXT)]
    ctx: usize,
    /// Score at most N chunks of the text [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(help_heading = TEXT)]
    chunks: Option<u32>,
    /// Score overlapping chunks that begin N tokens apart
    #[arg(long, value_name = "N", help_heading = TEXT, hide_short_help = true)]
    stride: Option<usize>,
}

/// What rounding the arithmetic has.
#[derive(Clone, Debug, Args)]
pub(super) struct Arithmetic {
    /// How activations are rounded before products
    ///
    /// Inputs of packed matrices become what their folder's configuration says (ct:w8a8, ct:nvfp4a4
    /// and others), unless it is f32.
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Activations::Engine)]
    #[arg(help_heading = COMPUTE, hide_short_help = true)]
    activations: Activations,
    /// Type of the KV cache [default: f16 with --activations engine, else f32]
    #[arg(long, value_name = "TYPE", value_enum, help_heading = COMPUTE, hide_short_help = true)]
    kv_type: Option<KvType>,
}

/// How models compute.
#[derive(Clone, Debug, Args)]
pub(super) struct Compute {
    #[command(flatten)]
    arithmetic: Arithmetic,
    /// Memory limit where there is a choice; more goes to disk
    #[arg(long, value_name = "N[K|M|G]", default_value = "2G", value_parser = parse_size)]
    #[arg(help_heading = COMPUTE)]
    max_memory: NonZeroU64,
}

const NOT_DEFAULT: &str = "\
--data default: models are calibrated on that text, so it does not show how good they are; \
take another one, such as the test part of wikitext-2:
  curl -LO https://huggingface.co/datasets/ggml-org/ci/resolve/main/wikitext-2-raw-v1.zip
  unzip wikitext-2-raw-v1.zip    # --data wikitext-2-raw/wiki.test.raw";

/// What becomes of activations before products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Activations {
    /// As llama.cpp rounds them for each weight type, other engines for packed matrices
    Engine,
    /// As other engines round them for packed matrices, and else not at all
    Scheme,
    /// Not at all
    F32,
}

/// The type keys and values are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum KvType {
    F32,
    F16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
}

impl Text {
    /// Says why the text that calibration takes is none to measure with.
    fn check(&self) -> Result<(), UsageError> {
        match &self.data {
            Some(path) if path.as_os_str() == "default" && !path.exists() => {
                Err(UsageError(NOT_DEFAULT.to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn options(&self) -> Option<TextOptions> {
        let data = match (&self.tokens, &self.data) {
            (Some(tokens), _) => EvalData::Tokens(tokens.clone()),
            (None, Some(data)) => EvalData::Text(data.clone()),
            (None, None) => return None,
        };
        let chunks = self.chunks.map(|chunks| chunks as usize);
        Some(TextOptions { data, context: self.ctx, chunks, stride: self.stride })
    }
}

impl Compute {
    pub(super) fn options(&self, global: &Global) -> ComputeOptions {
        self.arithmetic.options(global, self.max_memory.get())
    }
}

impl Arithmetic {
    pub(super) fn options(&self, global: &Global, max_memory: u64) -> ComputeOptions {
        let rounding = match self.activations {
            Activations::Engine => Rounding::Engine,
            Activations::Scheme | Activations::F32 => Rounding::Exact,
        };
        let default = if rounding == Rounding::Exact { KvType::F32 } else { KvType::F16 };
        ComputeOptions {
            rounding,
            rounds_inputs: self.activations != Activations::F32,
            cache_type: match self.kv_type.unwrap_or(default) {
                KvType::F32 => DataType::F32,
                KvType::F16 => DataType::F16,
                KvType::Q8_0 => DataType::Q8_0,
                KvType::Q4_0 => DataType::Q4_0,
            },
            max_memory,
            spill_folder: std::env::temp_dir(),
            threads: global.thread_count(),
        }
    }
}

impl Eval {
    pub(crate) fn check_text(&self) -> Result<(), UsageError> {
        self.text.check()
    }

    /// If tasks are to be scored.
    pub(crate) fn task_options(&self, global: &Global) -> Option<TaskOptions> {
        let file = self.tasks.task.clone()?;
        let few_shot = self.tasks.few_shot.as_ref().map(|few| match few.parse() {
            Ok(count) => FewShot::Tasks(count),
            Err(_) => FewShot::Text(few.into()),
        });
        let limit = self.tasks.task_limit.map(|limit| limit as usize);
        let (open, compute) = (self.read.options(), self.compute.options(global));
        Some(TaskOptions { open, file, limit, few_shot, compute })
    }

    /// If the model is to write.
    pub(crate) fn sample_options(&self, global: &Global) -> Option<SampleOptions> {
        let Writing { predict, temperature, top_k, top_p, min_p, seed, .. } = self.writing;
        let prompt = self.writing.sample.clone()?;
        let sampling = SamplingOptions {
            temperature: temperature.unwrap_or(0.0),
            top_k: top_k.map(|count| count as usize),
            top_p,
            min_p,
            seed,
        };
        let (open, compute) = (self.read.options(), self.compute.options(global));
        Some(SampleOptions { open, prompt, tokens: predict, sampling, compute })
    }

    pub(crate) fn options(&self, global: &Global) -> EvalOptions {
        let reference = match (&self.reference, &self.reference_file) {
            (Some(model), _) => Some(ReferenceOptions::Model(model.clone())),
            (None, file) => file.clone().map(ReferenceOptions::File),
        };
        let save = match (&self.save_logits, &self.save_leading) {
            (Some(path), _) => Some(SaveOptions::Logits(path.clone())),
            (None, path) => path.clone().map(SaveOptions::Leading),
        };
        EvalOptions {
            open: self.read.options(),
            text: self.text.options(),
            reference,
            save,
            replace: self.force,
            compute: self.compute.options(global),
            thresholds: Thresholds {
                max_perplexity: self.max_ppl,
                max_divergence: self.max_kld,
                min_same_top: self.min_top1,
                min_cosine: self.min_cosine,
            },
        }
    }
}

impl Compare {
    pub(crate) fn check_text(&self) -> Result<(), UsageError> {
        self.text.check()
    }

    /// None if there is no text, which the parser does not let pass.
    pub(crate) fn options(&self, global: &Global) -> Option<CompareOptions> {
        let text = self.text.options()?;
        let compute = self.compute.options(global);
        Some(CompareOptions { open: self.read.options(), text, compute })
    }
}
