//! The arguments of `quantize quantize`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{Args, ValueHint};
use qz_pipeline::qz_methods::{METHODS, Options, Order, method_named};
use qz_pipeline::{
    CacheScales, CalibrationData, ComputeOptions, ConvertOptions, PlanOptions, Propagation,
    QuantizeOptions, Rounding, Transform,
};
use qz_tensor::DataType;

use super::calibration::{Experts, Reading};
use super::heading::{COMPUTE, METHOD, TEXT};
use super::values::{
    MethodChoice, MethodParser, PropagationDamping, parse_amount, parse_propagation_damping,
    parse_share, parse_size,
};
use super::{Global, Recipe, Written};

/// Quantize a model with calibration data (GPTQ, importance)
///
/// The model reads a text, layer by layer; each matrix is quantized so that its outputs on that
/// text change least, given what the layers before it became.
#[derive(Debug, Args)]
#[command(override_usage = "\
quantize quantize <SRC> --to <TARGET> --data <FILE> [OPTIONS]
       quantize quantize <SRC> --to <TARGET> --stats <STATS> [OPTIONS]")]
#[command(after_help = "\
Examples:
  quantize quantize ./Llama-3.2-1B --to gptq:w4g128 --data default
  quantize quantize ./Llama-3.2-1B --to q4_k_m,ct:w4a16 --data my.jsonl -o out/")]
pub(crate) struct Quantize {
    #[command(flatten)]
    pub(crate) recipe: Recipe,
    #[command(flatten)]
    pub(crate) written: Written,

    /// Text that the model reads: a file, or "default" (repeatable)
    ///
    /// Plain text, JSON lines (.jsonl) or parquet with "text" or "messages", or "default" for the
    /// text that comes with this program. Chunks of several parts are mixed evenly.
    #[arg(long, value_name = "FILE", help_heading = TEXT, value_hint = ValueHint::FilePath)]
    data: Vec<PathBuf>,
    /// The text as token ids instead: numbers, separated by anything
    #[arg(long, value_name = "FILE", conflicts_with = "data", help_heading = TEXT)]
    #[arg(hide_short_help = true, value_hint = ValueHint::FilePath)]
    tokens: Option<PathBuf>,
    /// Statistics that `calibrate` collected, instead of a text
    ///
    /// With --collect grams for gptq. One collection serves many targets.
    #[arg(long, value_name = "STATS", conflicts_with_all = ["data", "tokens"], help_heading = TEXT)]
    #[arg(value_hint = ValueHint::FilePath)]
    stats: Option<PathBuf>,
    #[command(flatten)]
    reading: Reading,

    /// Store scales of cached keys and values: engines keep these in eight bits then
    ///
    /// From the largest of the text: of a layer's keys and values each one, or one of each head.
    /// Targets ct:*, and fp8:* without those of heads.
    #[arg(long, value_name = "TYPE", value_enum, help_heading = METHOD, hide_short_help = true)]
    kv_scales: Option<KvScales>,
    /// How values are chosen
    ///
    /// gptq: error feedback on the Hessian XᵀX of the inputs, then coordinate descent. imatrix:
    /// llama.cpp's search, weighed by the importance of each column. rtn: round to nearest, as
    /// `convert` does; needs no text. hqq: half-quadratic search of scales and zero points for a
    /// norm that forgives outliers; needs no text. awq+METHOD, or awq for awq+imatrix: columns are scaled by
    /// what their inputs are worth, and their factors folded into the tensors before them.
    /// smoothquant+METHOD, or smoothquant for smoothquant+rtn: the same for targets that round
    /// activations, too (ct:w8a8, ct:fp8, fp8:*).
    #[arg(long, value_name = "METHOD", default_value = "gptq", value_parser = MethodParser)]
    #[arg(help_heading = METHOD)]
    method: MethodChoice,
    /// How much of what makes activations hard to round `smoothquant` moves into weights
    #[arg(long, value_name = "A", default_value = "0.5", value_parser = parse_share)]
    #[arg(help_heading = METHOD, hide_short_help = true)]
    smoothing: f64,
    /// Write the model with the factors of a transform folded in, in f32, before it is quantized
    #[arg(long, value_name = "PATH", help_heading = METHOD, hide_short_help = true)]
    #[arg(value_hint = ValueHint::AnyPath)]
    save_folded: Option<PathBuf>,
    /// Damping: added to the Hessian's diagonal, in parts of its mean
    #[arg(long, value_name = "X", default_value_t = 0.01, value_parser = parse_amount)]
    #[arg(help_heading = METHOD, hide_short_help = true)]
    damping: f64,
    /// Order in which columns are quantized
    #[arg(long, value_name = "ORDER", value_enum, default_value_t = Visits::Natural)]
    #[arg(help_heading = METHOD, hide_short_help = true)]
    order: Visits,
    /// Cycles of coordinate descent
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = METHOD)]
    #[arg(hide_short_help = true)]
    cycles: usize,
    /// Correct for the errors of earlier layers: 0 not at all, 1 fully [default: 1 where possible]
    ///
    /// The full model reads the text beside the quantized one. Statistics tell what is lost if
    /// they were collected --beside a model of about as many bits. Experts with fewer tokens than
    /// columns are left out, and named in the report.
    #[arg(long, value_name = "X", value_parser = parse_amount)]
    #[arg(help_heading = METHOD, hide_short_help = true)]
    propagation: Option<f64>,
    /// Damping of that correction, in parts of the diagonal's mean, or `auto`
    ///
    /// With `auto` each matrix gets the damping and the strength that fit best the half of the text
    /// that they were not made of. That is worth a little on a short text.
    #[arg(long, value_name = "X", default_value = "1", value_parser = parse_propagation_damping)]
    #[arg(help_heading = METHOD, hide_short_help = true)]
    propagation_damping: PropagationDamping,
    #[command(flatten)]
    experts: Experts,

    /// Memory limit where there is a choice; more goes to disk
    #[arg(long, value_name = "N[K|M|G]", default_value = "2G", value_parser = parse_size)]
    #[arg(help_heading = COMPUTE)]
    max_memory: NonZeroU64,
}

/// Scales of cached keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum KvScales {
    /// FP8 (E4M3), a scale of a layer's keys and one of its values
    #[value(name = "fp8")]
    Tensor,
    /// The same with scales of each head
    #[value(name = "fp8+head")]
    Head,
}

/// The order in which columns are quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Visits {
    /// From left to right
    Natural,
    /// Activation order (act-order, desc_act) with scales fitted before; the file does not show it
    Static,
    /// Activation order of groups, and within them
    GroupAware,
}

impl Quantize {
    pub(crate) fn options(&self, global: &Global) -> Result<QuantizeOptions, qz_pipeline::Error> {
        let mut text = self.reading.options(&self.data);
        text.data.extend(self.tokens.clone().map(CalibrationData::Tokens));
        let text = Some(text).filter(|text| !text.data.is_empty());
        let mut options = Options::default();
        options.gptq.damping = self.damping;
        options.gptq.cycles = self.cycles;
        options.gptq.propagation = self.propagation.unwrap_or(1.0);
        options.gptq.propagation_damping = self.propagation_damping.0;
        options.gptq.order = match self.order {
            Visits::Natural => Order::Natural,
            Visits::Static => Order::Static,
            Visits::GroupAware => Order::GroupAware,
        };
        Ok(QuantizeOptions {
            convert: ConvertOptions {
                threads: global.thread_count(),
                output: global.output(self.written.force),
                plan: PlanOptions {
                    cache_scales: self.kv_scales.map(|scales| match scales {
                        KvScales::Tensor => CacheScales::Tensor,
                        KvScales::Head => CacheScales::Head,
                    }),
                    ..self.recipe.options()?
                },
            },
            transform: self.method.transform.map(|transform| match transform {
                Transform::SmoothQuant { .. } => {
                    Transform::SmoothQuant { strength: self.smoothing }
                }
                Transform::Awq => transform,
            }),
            save_folded: self.save_folded.clone(),
            // The parser lets no other name pass.
            method: method_named(self.method.method).unwrap_or(METHODS[0]),
            options,
            text,
            statistics: self.stats.clone(),
            propagation: match self.propagation {
                Some(_) => Propagation::Asked,
                None => Propagation::WherePossible,
            },
            experts: self.experts.options(),
            compute: ComputeOptions {
                rounding: Rounding::Exact,
                rounds_inputs: false,
                cache_type: DataType::F32,
                max_memory: self.max_memory.get(),
                spill_folder: std::env::temp_dir(),
                threads: global.thread_count(),
            },
        })
    }
}
