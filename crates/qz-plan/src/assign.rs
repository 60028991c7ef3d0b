//! The type of every tensor of a model: rules, a person's wishes, and what
//! happens where rows do not fit.

use qz_tensor::{DataType, Diagnose, Diagnosis, FaultClass, Location, Shape, SizeError};

use crate::category::{TensorCategory, is_converted, is_quantizable, is_worth_quantizing};
use crate::facts::ModelFacts;
use crate::file_type::FileType;
use crate::mixture::Mixture;
use crate::overrides::Overrides;
use crate::rule::Rule;

/// A tensor whose type is to be decided.
#[derive(Clone, Debug)]
pub struct PlannedTensor {
    /// The GGUF name.
    pub name: String,
    /// The dimensions, outermost first.
    pub shape: Shape,
    /// What it keeps if the file type must not touch it.
    pub unquantized: DataType,
    /// What it keeps if a person wants it left alone: its source's type.
    pub source_type: DataType,
}

/// What is to be decided, and by what.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The file type.
    pub file_type: &'static FileType,
    /// The model.
    pub facts: &'a ModelFacts,
    /// True if there are importance weights, for whatever tensors.
    pub has_importance: bool,
    /// A person's wishes.
    pub overrides: &'a Overrides,
    /// Whether rows that do not fit may get another type.
    pub fallback: Fallback,
}

/// How strictly a plan follows its file type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Rows that do not fit get llama.cpp's stand-in type.
    Allowed,
    /// Rows that do not fit get the type that loses least of those with the bytes of
    /// llama.cpp's stand-in.
    Best,
    /// Rows that do not fit are an error.
    Refused,
}

/// What a tensor gets.
#[derive(Clone, Copy, Debug)]
pub struct Assignment {
    /// The type it will have.
    pub data_type: DataType,
    /// What decided.
    pub reason: Reason,
    /// The type that was decided, if its blocks do not fit the rows.
    pub fallback_from: Option<DataType>,
    /// True if the result is useless without importance weights.
    pub requires_importance: bool,
}

/// What decided a tensor's type.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// It must not be quantized: a vector, a norm, a router.
    Kept,
    /// A person wants it left as it is.
    Left,
    /// The file type's base.
    Base,
    /// The base, since a person wants no mixture.
    Pure,
    /// It is the output matrix, or stands for it.
    Output,
    /// A rule of the file type.
    Rule(&'static Rule),
    /// Its architecture keeps it at eight bits.
    Architecture,
    /// The override of this position.
    Override(usize),
    /// The wish for the output matrix.
    OutputOption,
    /// The wish for the token embedding.
    TokenEmbeddingOption,
}

impl Reason {
    /// A short, stable name, for scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Left => "left",
            Self::Base => "base",
            Self::Pure => "pure",
            Self::Output => "output",
            Self::Rule(_) => "rule",
            Self::Architecture => "architecture",
            Self::Override(_) => "override",
            Self::OutputOption => "output-option",
            Self::TokenEmbeddingOption => "token-embedding-option",
        }
    }
}

/// Why a plan cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A row does not fill whole blocks, and no other type may stand in.
    #[error("{tensor}: a row of {columns} weights does not fill blocks of {} ({data_type}), and {}", data_type.block_elements(), why_not(*.stand_in_exists))]
    RowDoesNotFit {
        /// The tensor.
        tensor: String,
        /// Weights in a row.
        columns: u64,
        /// The type it was to get.
        data_type: DataType,
        /// True if a type could stand in but must not.
        stand_in_exists: bool,
    },
    /// A size overflows.
    #[error("{tensor}: {source}")]
    Size {
        /// The tensor.
        tensor: String,
        /// How.
        source: SizeError,
    },
}

fn why_not(stand_in_exists: bool) -> &'static str {
    if stand_in_exists {
        "falling back to another type is not allowed"
    } else {
        "no other type can stand in"
    }
}

impl Diagnose for Error {
    fn diagnosis(&self) -> Diagnosis {
        let (tensor, rule) = match self {
            Self::RowDoesNotFit { tensor, .. } => (tensor, "row-does-not-fit"),
            Self::Size { tensor, .. } => (tensor, "size"),
        };
        Diagnosis {
            class: FaultClass::BadInput,
            location: Location::default().tensor(tensor),
            rule,
        }
    }
}

/// The type of each tensor, in the order given. Tensors must come in the order of
/// [`crate::layer_then_name`]: the rules count them.
///
/// # Errors
/// If a tensor's rows do not fit the blocks of its type and may not fall back, or
/// a size overflows.
pub fn assign(request: &Request<'_>, tensors: &[PlannedTensor]) -> Result<Vec<Assignment>, Error> {
    let mut mixture = Mixture::new(request, tensors);
    tensors
        .iter()
        .map(|tensor| {
            let (first, reason) = decide(request, &mut mixture, tensor);
            let data_type = fitting(request, tensor, first, reason)?;
            let size = tensor.shape.byte_size(data_type);
            size.map_err(|source| Error::Size { tensor: tensor.name.clone(), source })?;
            let is_touched = !matches!(reason, Reason::Kept | Reason::Left);
            let needs = || request.file_type.requires_importance(&tensor.name, data_type);
            Ok(Assignment {
                data_type,
                reason,
                fallback_from: (data_type != first).then_some(first),
                requires_importance: is_touched && needs(),
            })
        })
        .collect()
}

/// Wishes and rules in llama.cpp's order of precedence (llama-quant.cpp,
/// `llama_tensor_get_type`).
fn decide(
    request: &Request<'_>,
    mixture: &mut Mixture<'_>,
    tensor: &PlannedTensor,
) -> (DataType, Reason) {
    let Request { file_type, facts, overrides, .. } = request;
    let name = &*tensor.name;
    // A checkpoint's weights are no 32-bit floats.
    let is_of_checkpoint = tensor.unquantized != tensor.source_type;
    if is_of_checkpoint && is_converted(name) && CONVERTERS_TYPES.contains(&file_type.name) {
        return (file_type.base, Reason::Base);
    }
    if !is_quantizable(&facts.architecture, name, &tensor.shape) || holds_no_weights(tensor) {
        return (tensor.unquantized, Reason::Kept);
    }
    if facts.is_generic && !is_worth_quantizing(tensor.source_type, &tensor.shape) {
        return (tensor.unquantized, Reason::Kept);
    }
    let category = TensorCategory::of(name);
    if category == TensorCategory::Output && overrides.leave_output {
        return (tensor.source_type, Reason::Left);
    }
    // The per-layer embedding is a large table of its own: a pattern that names
    // it goes before the wish for embeddings in general.
    let is_named = || name != "token_embd.weight" && overrides.first_type(name).is_some();
    match (category, overrides.token_embedding, overrides.output) {
        (TensorCategory::TokenEmbedding, Some(data_type), _) if !is_named() => {
            return (data_type, Reason::TokenEmbeddingOption);
        }
        (TensorCategory::Output, _, Some(data_type)) => return (data_type, Reason::OutputOption),
        _ => {}
    }
    if !file_type.base.is_block() {
        return (file_type.base, Reason::Base);
    }
    match overrides.first_type(name) {
        Some((position, data_type)) => (data_type, Reason::Override(position)),
        None if overrides.pure => (file_type.base, Reason::Pure),
        None => mixture.data_type(tensor),
    }
}

/// The types that the reference's converter makes files of.
const CONVERTERS_TYPES: &[&str] = &["f16", "bf16", "q8_0"];

/// True for tables of a GGUF file that are called weights but are not: llama.cpp
/// makes no weights of these types, and llama-quantize stops at them.
fn holds_no_weights(tensor: &PlannedTensor) -> bool {
    const NUMBERS: [DataType; 5] =
        [DataType::F64, DataType::I8, DataType::I16, DataType::I32, DataType::I64];
    tensor.unquantized == tensor.source_type && NUMBERS.contains(&tensor.source_type)
}

/// Types with smaller blocks that stand in for those with larger ones
/// (llama-quant.cpp, `tensor_type_fallback`).
const STAND_INS: &[(DataType, DataType)] = &[
    (DataType::IQ1_S, DataType::IQ4_NL),
    (DataType::IQ1_M, DataType::IQ4_NL),
    (DataType::IQ2_XXS, DataType::IQ4_NL),
    (DataType::IQ2_XS, DataType::IQ4_NL),
    (DataType::IQ2_S, DataType::IQ4_NL),
    (DataType::IQ3_XXS, DataType::IQ4_NL),
    (DataType::IQ3_S, DataType::IQ4_NL),
    (DataType::IQ4_XS, DataType::IQ4_NL),
    (DataType::Q2_0, DataType::Q4_0),
    (DataType::Q2_K, DataType::Q4_0),
    (DataType::Q3_K, DataType::Q4_0),
    (DataType::TQ1_0, DataType::Q4_0),
    (DataType::TQ2_0, DataType::Q4_0),
    (DataType::Q4_K, DataType::Q5_0),
    (DataType::Q5_K, DataType::Q5_1),
    (DataType::Q6_K, DataType::Q8_0),
];

/// Types that lose less than a stand-in in as many bytes: 16 levels that are closer
/// together near zero, where most weights are, instead of even ones.
const BETTER_STAND_INS: &[(DataType, DataType)] = &[(DataType::Q4_0, DataType::IQ4_NL)];

/// The stand-in for a type, llama.cpp's or a better one of the same size.
fn stand_in(first: DataType, fallback: Fallback) -> Option<DataType> {
    let listed = |list: &[(DataType, DataType)], of: DataType| {
        list.iter().find(|(from, _)| *from == of).map(|(_, to)| *to)
    };
    let is_small = first.block_elements() <= SMALLEST_BLOCK;
    let stand_in = listed(STAND_INS, first).or(is_small.then_some(first))?;
    let better = listed(BETTER_STAND_INS, stand_in);
    Some(better.filter(|_| fallback == Fallback::Best && stand_in != first).unwrap_or(stand_in))
}

/// Blocks up to this size have no smaller stand-in, rows that do not fill them
/// get f16.
const SMALLEST_BLOCK: usize = 32;

/// `first` if the rows fill its blocks, else its stand-in, else f16. What a
/// person wants for the embedding or the output is what they get, or an error;
/// so are types without a stand-in.
fn fitting(
    request: &Request<'_>,
    tensor: &PlannedTensor,
    first: DataType,
    reason: Reason,
) -> Result<DataType, Error> {
    let fits = |data_type: DataType| tensor.shape.row_bytes(data_type).is_ok();
    if fits(first) || matches!(reason, Reason::Kept | Reason::Left) {
        return Ok(first);
    }
    let category = TensorCategory::of(&tensor.name);
    let is_final = match reason {
        Reason::TokenEmbeddingOption => true,
        Reason::OutputOption => category == TensorCategory::Output,
        _ => false,
    };
    let stand_in = stand_in(first, request.fallback).filter(|_| !is_final);
    match stand_in {
        Some(stand_in) if request.fallback != Fallback::Refused => {
            Ok(if fits(stand_in) { stand_in } else { DataType::F16 })
        }
        _ => Err(Error::RowDoesNotFit {
            tensor: tensor.name.clone(),
            columns: tensor.shape.columns(),
            data_type: first,
            stand_in_exists: stand_in.is_some(),
        }),
    }
}

#[cfg(test)]
mod tests;
