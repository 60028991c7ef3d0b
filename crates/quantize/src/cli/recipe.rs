//! What is to be written, how its types are decided, and where it goes.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueHint};
use qz_pipeline::{
    DEFAULT_SHARD_SIZE, Fallback, ImportanceMatrix, MetadataOverride, OpenOptions, Overrides,
    PackedRounding, PlanOptions, SplitOptions, TensorOverride,
};
use qz_tensor::DataType;

use super::Source;
use super::heading::{METHOD, OUTPUT, TYPES};
use super::values::{TargetParser, TypeParser, parse_size, parse_tensor_override};

/// What is to be written, and how its types are decided.
#[derive(Debug, Args)]
pub(crate) struct Recipe {
    /// A Hugging Face folder or a .gguf file
    #[arg(value_name = "SRC", value_parser = crate::hub::models())]
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) source: PathBuf,
    /// What to write, comma-separated: q4_k_m, gptq:w4g128, safetensors:bf16, ...
    ///
    /// `quantize targets` lists them with their bits per weight and the engines that load them.
    #[arg(long, value_name = "TARGET", value_delimiter = ',', required = true)]
    #[arg(value_parser = TargetParser, hide_possible_values = true)]
    pub(crate) to: Vec<String>,

    /// Importance matrix that weighs the errors: a file of llama-imatrix
    ///
    /// Written by `quantize calibrate` or llama-imatrix, as GGUF or legacy .dat.
    #[arg(long, value_name = "FILE", help_heading = METHOD, value_hint = ValueHint::FilePath)]
    pub(crate) imatrix: Option<PathBuf>,
    /// How packed layouts (gptq, awq, ct, ...) round
    ///
    /// rtn: as their packages do. mse: to the scale of the least error. importance: to the scale
    /// and zero point of the least error weighed by importance. [default: importance with
    /// --imatrix, else rtn]
    #[arg(long, value_name = "HOW", help_heading = METHOD, hide_short_help = true)]
    pub(crate) rounding: Option<RoundingName>,
    /// Quantize tensors that are quantized already
    #[arg(long, help_heading = METHOD)]
    pub(crate) allow_requantize: bool,

    /// Type of the tensors whose names match (repeatable)
    ///
    /// Names are those of GGUF. The first pattern that matches, and whose type the target can
    /// have, decides: --tensor-type 'attn_v=q8_0'. For packed folders (ct, gptq, mlx) a scheme of
    /// the same family, 'ffn_down=ct:w8a16', or a float type, which leaves a matrix as it is.
    #[arg(long, value_name = "REGEX=TYPE", help_heading = TYPES, allow_hyphen_values = true)]
    #[arg(value_parser = parse_tensor_override)]
    pub(crate) tensor_type: Vec<TensorOverride>,
    /// Type of the output matrix
    #[arg(long, value_name = "TYPE", value_parser = TypeParser, help_heading = TYPES)]
    #[arg(hide_possible_values = true)]
    pub(crate) output_tensor_type: Option<DataType>,
    /// Type of the token embedding
    #[arg(long, value_name = "TYPE", value_parser = TypeParser, help_heading = TYPES)]
    #[arg(hide_possible_values = true)]
    pub(crate) token_embedding_type: Option<DataType>,
    /// Keep the output matrix in its source's precision
    #[arg(long, help_heading = TYPES, hide_short_help = true)]
    pub(crate) leave_output_tensor: bool,
    /// Give every tensor the target's base type, without its mixture
    #[arg(long, help_heading = TYPES)]
    pub(crate) pure: bool,
    /// What tensors get whose rows do not fill their type's blocks
    ///
    /// llama.cpp: its stand-in type, Q5_0 for Q4_K and so on. best: the type that loses least in
    /// the bytes of that stand-in (IQ4_NL for Q4_0). none: such rows are an error.
    #[arg(long, value_name = "HOW", help_heading = TYPES, default_value = "llama.cpp")]
    pub(crate) fallback: FallbackName,
    /// The same as --fallback none
    #[arg(long, help_heading = TYPES, conflicts_with = "fallback", hide_short_help = true)]
    pub(crate) no_fallback: bool,
    /// Quantize a model of an unknown architecture by names and shapes
    ///
    /// Of a GGUF file all matrices; of a checkpoint the linear layers, into packed folders.
    #[arg(long, help_heading = TYPES, hide_short_help = true)]
    pub(crate) generic: bool,

    /// Set a metadata entry: int (written as u32), float, bool or str (repeatable)
    #[arg(long, value_name = "KEY=TYPE:VALUE", help_heading = OUTPUT, hide_short_help = true)]
    #[arg(allow_hyphen_values = true)]
    pub(crate) override_kv: Vec<MetadataOverride>,
    #[command(flatten)]
    pub(crate) split: SplitArguments,
    /// Largest safetensors file, in bytes of tensors [default: 50G]
    #[arg(long, value_name = "N[K|M|G]", value_parser = parse_size, help_heading = OUTPUT)]
    #[arg(hide_short_help = true)]
    pub(crate) shard_size: Option<NonZeroU64>,
    #[command(flatten)]
    pub(crate) read: Source,
}

/// Where outputs go, and what is said of them.
#[derive(Debug, Args)]
pub(crate) struct Written {
    /// File or folder to write [default: NAME-TARGET here]
    ///
    /// A folder that is there, or a path that ends in /, gets files of default names:
    /// NAME-Q4_K_M.gguf, NAME-gptq-w4g128/. Several targets need such a folder. Missing folders
    /// are made.
    #[arg(short, long, value_name = "OUT", value_hint = ValueHint::AnyPath)]
    pub(crate) output: Option<PathBuf>,
    /// Replace outputs that exist
    #[arg(long)]
    pub(crate) force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whether, and where, outputs are cut into several files.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct SplitArguments {
    /// Largest GGUF file, in bytes of tensors: NAME-00001-of-0000N.gguf
    #[arg(long, value_name = "N[K|M|G]", value_parser = parse_size, help_heading = OUTPUT)]
    split_max_size: Option<NonZeroU64>,
    /// Most tensors in a GGUF file
    #[arg(long, value_name = "N", help_heading = OUTPUT, hide_short_help = true)]
    split_max_tensors: Option<NonZeroU32>,
    /// Write the metadata alone into the first GGUF file
    #[arg(long, help_heading = OUTPUT, hide_short_help = true)]
    no_tensor_first_split: bool,
}

impl SplitArguments {
    /// True if an output may become several files.
    pub(crate) fn is_set(self) -> bool {
        self.options().is_some()
    }

    fn options(self) -> Option<SplitOptions> {
        let options = SplitOptions {
            max_bytes: self.split_max_size,
            max_tensors: self.split_max_tensors,
            first_without_tensors: self.no_tensor_first_split,
        };
        (options != SplitOptions::default()).then_some(options)
    }
}

impl Recipe {
    /// How the source is read.
    pub(crate) fn open_options(&self) -> OpenOptions {
        OpenOptions { generic: self.generic, ..self.read.options() }
    }

    fn fallback(&self) -> Fallback {
        match self.fallback {
            _ if self.no_fallback => Fallback::Refused,
            FallbackName::LlamaCpp => Fallback::Allowed,
            FallbackName::Best => Fallback::Best,
            FallbackName::None => Fallback::Refused,
        }
    }

    /// The options, with the importance matrix opened.
    pub(crate) fn options(&self) -> Result<PlanOptions, qz_pipeline::Error> {
        let importance = self.imatrix.as_deref().map(ImportanceMatrix::open).transpose()?;
        Ok(PlanOptions {
            cache_scales: None,
            allow_requantize: self.allow_requantize,
            fallback: self.fallback(),
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
            method: None,
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

/// What tensors get whose rows do not fill their type's blocks, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FallbackName {
    #[value(name = "llama.cpp")]
    LlamaCpp,
    Best,
    None,
}
