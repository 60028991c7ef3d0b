//! The arguments of `quantize quantize`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValue, TypedValueParser};
use qz_pipeline::qz_methods::{METHODS, Method, Options, Order, method_named};
use qz_pipeline::{CalibrationData, ComputeOptions, ConvertOptions, QuantizeOptions, Rounding};
use qz_tensor::DataType;

use super::calibration::{Experts, Reading};
use super::{Global, Recipe, parse_size};

#[derive(Debug, Args)]
pub(crate) struct Quantize {
    #[command(flatten)]
    pub(crate) recipe: Recipe,
    /// How values are chosen: rounding without data, rounding with each column's importance, or
    /// error feedback and coordinate descent
    #[arg(long, value_name = "METHOD", default_value = "gptq", value_parser = MethodParser)]
    method: &'static str,
    /// Text that the model reads meanwhile: a plain file, JSON lines with "text" or "messages"
    /// (.jsonl), or "default" for the text that comes with this program (repeatable)
    #[arg(long, value_name = "FILE")]
    data: Vec<PathBuf>,
    /// The text as token ids instead: numbers divided by anything else
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    tokens: Option<PathBuf>,
    /// Statistics that `calibrate` collected, instead of a text (with --collect grams for gptq)
    #[arg(long, value_name = "STATS", conflicts_with_all = ["data", "tokens"])]
    stats: Option<PathBuf>,
    #[command(flatten)]
    reading: Reading,
    /// What is added to the diagonal of the inputs' Gram matrix, in parts of its mean
    #[arg(long, value_name = "X", default_value_t = 0.01, value_parser = parse_amount)]
    damping: f64,
    /// The order in which columns are visited
    #[arg(long, value_name = "ORDER", value_enum, default_value_t = Visits::Natural)]
    order: Visits,
    /// Cycles of coordinate descent
    #[arg(long, value_name = "N", default_value_t = 3)]
    cycles: usize,
    /// How far weights move to make up for what was lost in the layers before, by what the full
    /// model would have seen (GPTAQ): 0 not at all, 1 all the way; takes a second run of the text
    /// beside the first. Experts are left out
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = parse_amount)]
    propagation: f64,
    #[command(flatten)]
    experts: Experts,
    /// Memory to stay within where there is a choice; hidden states beyond it go to disk
    #[arg(long, value_name = "N[K|M|G]", default_value = "2G", value_parser = parse_size)]
    max_memory: NonZeroU64,
    /// The file to write; with several targets, a folder for all
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Replace outputs that exist
    #[arg(long)]
    pub(crate) force: bool,
    /// Write the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The order in which columns are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Visits {
    /// From left to right
    Natural,
    /// The loudest inputs first, with scales fitted before
    Static,
    /// Groups with the loudest inputs first, and within them
    GroupAware,
}

/// Methods by name.
#[derive(Clone)]
struct MethodParser;

impl TypedValueParser for MethodParser {
    type Value = &'static str;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Self::Value, clap::Error> {
        let parse = |text: &str| {
            method_named(text).map(Method::name).ok_or_else(|| {
                let known: Vec<&str> = METHODS.iter().map(|method| method.name()).collect();
                format!("no such method; there are: {}", known.join(", "))
            })
        };
        parse.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(METHODS.iter().map(|method| PossibleValue::new(method.name()))))
    }
}

/// A number that something is multiplied with.
fn parse_amount(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    number
        .filter(|number| number.is_finite() && *number >= 0.0)
        .ok_or_else(|| "expected a number that is not negative".to_owned())
}

impl Quantize {
    pub(crate) fn options(&self, global: &Global) -> Result<QuantizeOptions, qz_pipeline::Error> {
        let mut text = self.reading.options(&self.data);
        text.data.extend(self.tokens.clone().map(CalibrationData::Tokens));
        let text = Some(text).filter(|text| !text.data.is_empty());
        let mut options = Options::default();
        options.gptq.damping = self.damping;
        options.gptq.cycles = self.cycles;
        options.gptq.propagation = self.propagation;
        options.gptq.order = match self.order {
            Visits::Natural => Order::Natural,
            Visits::Static => Order::Static,
            Visits::GroupAware => Order::GroupAware,
        };
        Ok(QuantizeOptions {
            convert: ConvertOptions {
                threads: global.thread_count(),
                output: global.output(self.force),
                plan: self.recipe.options()?,
            },
            // The parser lets no other name pass.
            method: method_named(self.method).unwrap_or(METHODS[0]),
            options,
            text,
            statistics: self.stats.clone(),
            experts: self.experts.options(),
            compute: ComputeOptions {
                rounding: Rounding::Exact,
                cache_type: DataType::F32,
                max_memory: self.max_memory.get(),
                spill_folder: std::env::temp_dir(),
                threads: global.thread_count(),
            },
        })
    }
}
