//! The arguments of `eval` and `compare`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{ArgGroup, Args};
use qz_pipeline::{
    CompareOptions, ComputeOptions, EvalData, EvalOptions, FewShot, ReferenceOptions, Rounding,
    SampleOptions, SamplingOptions, SaveOptions, TaskOptions, TextOptions, Thresholds,
};
use qz_tensor::DataType;

use super::{Global, Source, parse_size};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("source").required(true).args(["data", "tokens", "reference_file", "sample", "task"])))]
pub(crate) struct Eval {
    /// A Hugging Face folder or a .gguf file
    #[arg(value_name = "MODEL", value_parser = crate::hub::models())]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    text: Text,
    /// Compare with this model, which sees the text, too
    #[arg(long, value_name = "MODEL", conflicts_with = "reference_file", value_parser = crate::hub::models())]
    reference: Option<PathBuf>,
    /// Compare with this file of a model's probabilities, from --save-logits, --save-leading or
    /// llama-perplexity; it brings the text
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "tokens", "chunks", "stride"])]
    reference_file: Option<PathBuf>,
    /// Keep the model's probabilities in llama-perplexity's file (--kl-divergence-base)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["save_leading", "stride"])]
    save_logits: Option<PathBuf>,
    /// Keep the most probable tokens, in at most a hundredth of that
    #[arg(long, value_name = "FILE", conflicts_with = "stride")]
    save_leading: Option<PathBuf>,
    /// Replace that file if it exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    tasks: Tasks,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    compute: Compute,
    /// Fail (exit code 1) if the perplexity is larger
    #[arg(long, value_name = "X")]
    max_ppl: Option<f64>,
    /// Fail if the mean KL divergence from the reference is larger, in nats
    #[arg(long, value_name = "X")]
    max_kld: Option<f64>,
    /// Fail if model and reference find the same token most probable less often: 0 to 1
    #[arg(long, value_name = "X")]
    min_top1: Option<f64>,
    /// Write the figures as a Markdown table
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,
    /// Write the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    read: Source,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("source").required(true).args(["data", "tokens"])))]
pub(crate) struct Compare {
    /// The model that the others are compared with
    #[arg(value_name = "REFERENCE", value_parser = crate::hub::models())]
    pub(crate) reference: PathBuf,
    /// The others
    #[arg(value_name = "MODEL", required = true, value_parser = crate::hub::models())]
    pub(crate) models: Vec<PathBuf>,
    #[command(flatten)]
    text: Text,
    #[command(flatten)]
    compute: Compute,
    /// Write a page with the table and a chart of size against divergence
    #[arg(short, long, value_name = "FILE.html")]
    pub(crate) output: Option<PathBuf>,
    /// Replace the page if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Write a Markdown table
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,
    /// Write the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    read: Source,
}

/// Multiple-choice tasks.
#[derive(Clone, Debug, Args)]
struct Tasks {
    /// Score the model on multiple-choice tasks instead: JSON lines in the fields of MMLU, ARC,
    /// HellaSwag or Winogrande, or the file of llama-perplexity --multiple-choice
    #[arg(long, value_name = "FILE", conflicts_with_all = NOT_OF_TASKS)]
    task: Option<PathBuf>,
    /// Score at most so many of the tasks, the first ones [default: all]
    #[arg(long, value_name = "N", requires = "task", value_parser = clap::value_parser!(u32).range(1..))]
    task_limit: Option<u32>,
    /// Put so many of the tasks, the first ones, with their right answers before each other one,
    /// or the text of a file
    #[arg(long, value_name = "N|FILE", requires = "task")]
    few_shot: Option<String>,
}

/// A text that the model writes.
#[derive(Clone, Debug, Args)]
struct Writing {
    /// Let the model continue this text instead
    #[arg(
        long,
        value_name = "PROMPT",
        conflicts_with_all = NOT_OF_TASKS,
        conflicts_with_all = NOT_OF_SAMPLES
    )]
    sample: Option<String>,
    /// Write at most so many tokens
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64, requires = "sample")]
    predict: usize,
    /// Draw each token: what logits are divided by [default: 0, always the most probable token]
    #[arg(long, value_name = "X", requires = "sample", value_parser = parse_temperature)]
    temperature: Option<f64>,
    /// Draw from so many of the most probable tokens only [default: all]
    #[arg(long, value_name = "K", requires = "temperature")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    top_k: Option<u32>,
    /// Draw from the most probable tokens that together have this probability only
    #[arg(long, value_name = "P", requires = "temperature", value_parser = parse_share)]
    top_p: Option<f64>,
    /// Draw from tokens with this share of the most probable one's probability only
    #[arg(long, value_name = "P", requires = "temperature", value_parser = parse_share)]
    min_p: Option<f64>,
    /// Draw other tokens, the same for the same number
    #[arg(long, value_name = "N", default_value_t = 0, requires = "temperature")]
    seed: u64,
}

/// What says nothing of tasks, nor of a text that the model writes.
const NOT_OF_TASKS: [&str; 10] = [
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
];

/// What says nothing of a text that the model writes, beside [`NOT_OF_TASKS`].
const NOT_OF_SAMPLES: [&str; 2] = ["max_memory", "markdown"];

fn parse_temperature(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "expected a number that is not negative".to_owned())
}

fn parse_share(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

/// The text, and how it is cut.
#[derive(Clone, Debug, Args)]
struct Text {
    /// The text
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// The text as token ids instead: numbers divided by anything else
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    tokens: Option<PathBuf>,
    /// Tokens that the model sees together
    #[arg(long, value_name = "N", default_value_t = 512)]
    ctx: usize,
    /// Score at most so many chunks of the text [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    /// Score overlapping chunks that begin so many tokens apart
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
}

/// What rounding the arithmetic has.
#[derive(Clone, Debug, Args)]
pub(super) struct Arithmetic {
    /// Round activations as llama.cpp does for each weight type, or not at all
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Activations::Engine)]
    activations: Activations,
    /// The type keys and values are kept in [default: f16; f32 with --activations f32]
    #[arg(long, value_name = "TYPE", value_enum)]
    kv_type: Option<KvType>,
}

/// How models compute.
#[derive(Clone, Debug, Args)]
pub(super) struct Compute {
    #[command(flatten)]
    arithmetic: Arithmetic,
    /// Memory to stay within where there is a choice; hidden states beyond it go to disk
    #[arg(long, value_name = "N[K|M|G]", default_value = "2G", value_parser = parse_size)]
    max_memory: NonZeroU64,
}

/// What becomes of activations before products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Activations {
    Engine,
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
            Activations::F32 => Rounding::Exact,
        };
        let default = if rounding == Rounding::Exact { KvType::F32 } else { KvType::F16 };
        ComputeOptions {
            rounding,
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
            },
        }
    }
}

impl Compare {
    /// None if there is no text, which the parser does not let pass.
    pub(crate) fn options(&self, global: &Global) -> Option<CompareOptions> {
        let text = self.text.options()?;
        let compute = self.compute.options(global);
        Some(CompareOptions { open: self.read.options(), text, compute })
    }
}
