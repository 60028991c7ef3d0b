//! What can be wrong with a checkpoint's description of itself.

use std::fmt;
use std::path::PathBuf;

use qz_tensor::{DataType, Diagnose, Diagnosis, FaultClass, FileError, Location, Shape};

/// How many tensors of a kind a message lists.
const LISTED: usize = 3;

/// A fault of a checkpoint's side files or tensor list.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A side file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A side file that must be there is not.
    #[error("{}: no such file in the checkpoint", .0.display())]
    MissingFile(PathBuf),
    /// A side file is not the JSON it should be.
    #[error("{}: not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser says, with line and column.
        source: serde_json::Error,
    },
    /// A key of a JSON file has a value that cannot be.
    #[error("{}: {key}: {problem}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key, with dots for nesting.
        key: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// The model is of a kind this program does not know.
    #[error("{}: architectures: {name} is not supported; {nearest} (docs/families.md lists all); --generic packs the linear layers of any other", path.display())]
    UnsupportedArchitecture {
        /// The file.
        path: PathBuf,
        /// The class that `config.json` names.
        name: String,
        /// Which known classes are called alike.
        nearest: String,
    },
    /// A key that a GGUF file must have is not there.
    #[error("{}: {key}: is missing", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A GGUF file of an architecture whose checkpoints are not known.
    #[error("{}: general.architecture: how a checkpoint of {name:?} looks is not known; known are {known}", path.display())]
    UnknownCheckpoint {
        /// The file.
        path: PathBuf,
        /// What the file calls itself.
        name: String,
        /// The names that are known.
        known: String,
    },
    /// Frequency factors that follow from no parameters a configuration has.
    #[error("{}: {tensor}: {problem}", path.display())]
    RopeFactors {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The tensors are not those of the architecture.
    #[error("{}", .0)]
    Tensors(Box<TensorFaults>),
    /// Weights with an adapter beside them that changes them.
    #[error(
        "{location}: {count} tensors belong to an adapter that is not merged into the weights: merge it first (peft's `merge_and_unload`)"
    )]
    UnmergedAdapter {
        /// The first of them.
        location: Location,
        /// How many they are.
        count: usize,
    },
    /// The model lies under a prefix, beside other tensors.
    #[error("{location}: {}", under_prefix(prefixes, other, *others))]
    UnderPrefix {
        /// The model's embedding.
        location: Location,
        /// What stands before the names of the model's tensors; of several models, each.
        prefixes: Box<[String]>,
        /// The first of the other tensors.
        other: Box<str>,
        /// How many they are.
        others: usize,
    },
    /// No tensor has the prefix that a user names.
    #[error("{location}: no tensor begins with `{prefix}`; this is the first one")]
    NoSuchPrefix {
        /// The first tensor.
        location: Location,
        /// What was to be taken away.
        prefix: Box<str>,
    },
    /// A weight is stored quantized, in a layout of its own.
    #[error("{}: quantization_config: weights quantized by {method} are not supported; convert the unquantized checkpoint", path.display())]
    Quantized {
        /// The file.
        path: PathBuf,
        /// The method that `config.json` names.
        method: String,
    },
    /// The vocabulary cannot be converted.
    #[error(transparent)]
    Vocabulary(#[from] qz_tokenize::Error),
    /// Logits are asked of an encoder.
    #[error("{location}: an encoder predicts no tokens: it has no logits, and no perplexity")]
    NoLogits {
        /// The model.
        location: Location,
    },
    /// A text is longer than the model has positions for.
    #[error("{location}: a text of {wanted} tokens in a model of {positions} positions")]
    Positions {
        /// The tensor.
        location: Location,
        /// The text's tokens.
        wanted: u64,
        /// Positions that there are.
        positions: u64,
    },
    /// A sequence that goes on from a position whose state was not kept.
    #[error("the state behind position {position} is no longer there")]
    StateIsGone {
        /// The position.
        position: usize,
    },
    /// A forward pass is asked of an architecture that has none.
    #[error("{location}: {name:?} cannot be evaluated; known are {known}")]
    NoForwardPass {
        /// The model.
        location: Location,
        /// What it says it is.
        name: String,
        /// What can be evaluated.
        known: String,
    },
    /// A metadata key that a forward pass needs is missing or cannot be.
    #[error("{location}: {problem}")]
    Hyperparameter {
        /// The model and the key.
        location: Location,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor that a forward pass needs is not there.
    #[error("{location}: the tensor is missing, evaluation needs it")]
    MissingWeight {
        /// The model and the tensor.
        location: Location,
    },
    /// A tensor has another shape than the metadata says.
    #[error("{location}: the shape is {}, the metadata asks for {:?}", shapes.0, shapes.1)]
    WeightShape {
        /// The model and the tensor.
        location: Location,
        /// What was found and what should be there, outermost first.
        shapes: Box<(Shape, Vec<usize>)>,
    },
    /// A product of activations and weights is no number.
    #[error("{location}: the product with this tensor is not finite for token {token} of the text")]
    NonFiniteActivation {
        /// The model and the tensor.
        location: Location,
        /// The token, counted from the first chunk's start.
        token: usize,
    },
    /// More tokens than a session has room for, or none.
    #[error("a sequence of {wanted} tokens, where there is room for {capacity}")]
    SessionLength {
        /// Tokens that there is room for.
        capacity: usize,
        /// Tokens that there would be.
        wanted: usize,
    },
    /// A token that the model does not have.
    #[error("{location}: token {token} is not in the model's vocabulary of {vocabulary}")]
    Token {
        /// The model and its embedding.
        location: Location,
        /// The token.
        token: u32,
        /// How many there are.
        vocabulary: u64,
    },
    /// The backend cannot compute with a tensor.
    #[error("{location}: {source}")]
    Backend {
        /// The model and the tensor.
        location: Location,
        /// Why.
        source: Box<qz_kernels::backend::Error>,
    },
    /// The device does not compute.
    #[error(transparent)]
    Device(#[from] qz_kernels::backend::Error),
    /// Hidden states that do not fit into memory cannot be kept on disk.
    #[error("{}: cannot keep hidden states here: {source}", folder.display())]
    Spill {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// The same error about the token that `token` makes of its own.
    pub(crate) fn of_token(mut self, of: impl FnOnce(usize) -> usize) -> Self {
        if let Self::NonFiniteActivation { token, .. } = &mut self {
            *token = of(*token);
        }
        self
    }
}

fn under_prefix(prefixes: &[String], other: &str, others: usize) -> String {
    let first = prefixes.first().map_or("", |prefix| prefix.as_str());
    let other = other.escape_debug();
    match prefixes.len() {
        0 | 1 => format!(
            "the model's tensors lie under `{first}`, beside others ({others}), such as {other}; \
             --strip-prefix {first} reads the model alone"
        ),
        count => format!(
            "the tensors are those of {count} models, under `{}`; --strip-prefix {first} reads the \
             first alone",
            prefixes.join("`, `")
        ),
    }
}

/// One tensor that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TensorFault {
    /// Not in the checkpoint.
    Missing {
        /// Its name.
        name: String,
        /// The shape it should have.
        expected: Shape,
        /// The keys of `config.json` that ask for it.
        keys: String,
    },
    /// In the checkpoint, and no part of the architecture.
    Unknown {
        /// Its name.
        name: String,
        /// Its shape.
        shape: Shape,
        /// Why, if it is a tensor of the architecture elsewhere.
        reason: Option<String>,
    },
    /// Of another shape than `config.json` says.
    Shape {
        /// Its name.
        name: String,
        /// The shape it has.
        found: Shape,
        /// The shape it should have.
        expected: Shape,
        /// The keys of `config.json` that fix it.
        keys: String,
    },
    /// Of another element type than the tensors it is to be one with.
    Type {
        /// Its name.
        name: String,
        /// The type it has.
        found: DataType,
        /// The type of the first one.
        expected: DataType,
    },
    /// In the checkpoint twice.
    Duplicate {
        /// Its name.
        name: String,
    },
}

impl TensorFault {
    /// The tensor's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Missing { name, .. }
            | Self::Unknown { name, .. }
            | Self::Shape { name, .. }
            | Self::Type { name, .. }
            | Self::Duplicate { name } => name,
        }
    }
}

impl fmt::Display for TensorFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name().escape_debug();
        match self {
            Self::Missing { expected, keys, .. } => {
                write!(f, "{name} is missing, expected {expected} ({keys})")
            }
            Self::Unknown { shape, reason, .. } => {
                write!(f, "{name} {shape} is unknown")?;
                reason.as_ref().map_or(Ok(()), |reason| write!(f, " ({reason})"))
            }
            Self::Shape { found, expected, keys, .. } => {
                write!(f, "{name} is {found}, expected {expected} ({keys})")
            }
            Self::Type { found, expected, .. } => {
                write!(f, "{name} is {found}, the layer's other experts are {expected}")
            }
            Self::Duplicate { .. } => write!(f, "{name} is there twice"),
        }
    }
}

/// Every tensor that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorFaults {
    /// The config that was checked against.
    pub config: PathBuf,
    /// The architecture that was checked against.
    pub architecture: &'static str,
    /// The faults, never empty; at most [`TensorFaults::KEPT`] are kept.
    pub faults: Vec<TensorFault>,
    /// How many faults there are in all.
    pub total: u64,
}

impl TensorFaults {
    /// Faults of which the details are kept.
    pub const KEPT: usize = 1000;

    fn kinds(&self) -> [Vec<&TensorFault>; 3] {
        let mut kinds = [Vec::new(), Vec::new(), Vec::new()];
        for fault in &self.faults {
            let kind = match fault {
                TensorFault::Missing { .. } => 0,
                TensorFault::Unknown { .. } | TensorFault::Duplicate { .. } => 1,
                TensorFault::Shape { .. } | TensorFault::Type { .. } => 2,
            };
            kinds[kind].push(fault);
        }
        kinds
    }
}

impl fmt::Display for TensorFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: the tensors are not those of a {} model: ",
            self.config.display(),
            self.architecture
        )?;
        let mut listed = 0u64;
        let mut separator = "";
        for kind in self.kinds() {
            for fault in kind.iter().take(LISTED) {
                write!(f, "{separator}{fault}")?;
                separator = "; ";
                listed += 1;
            }
        }
        match self.total.saturating_sub(listed) {
            0 => Ok(()),
            more => write!(f, "{separator}and {more} more"),
        }
    }
}

impl Diagnose for Error {
    fn diagnosis(&self) -> Diagnosis {
        let bad = |location: Location, rule: &'static str| Diagnosis {
            class: FaultClass::BadInput,
            location,
            rule,
        };
        match self {
            Self::File(error) => error.diagnosis(),
            Self::MissingFile(path) => bad(Location::file(path), "file-missing"),
            Self::Json { path, .. } => bad(Location::file(path), "invalid-json"),
            Self::Key { path, key, .. } => {
                bad(Location::file(path).tensor(key), "bad-config-value")
            }
            Self::UnsupportedArchitecture { path, .. } => {
                bad(Location::file(path).tensor("architectures"), "unsupported-architecture")
            }
            Self::MissingKey { path, key } => {
                bad(Location::file(path).tensor(key), "metadata-missing")
            }
            Self::UnknownCheckpoint { path, .. } => {
                bad(Location::file(path).tensor("general.architecture"), "unsupported-architecture")
            }
            Self::RopeFactors { path, tensor, .. } => {
                bad(Location::file(path).tensor(*tensor), "rope-factors")
            }
            Self::Tensors(faults) => {
                let location = Location::file(&faults.config);
                let rule = match faults.faults.first() {
                    Some(TensorFault::Missing { .. }) => "missing-tensor",
                    Some(TensorFault::Unknown { .. }) => "unknown-tensor",
                    Some(TensorFault::Duplicate { .. }) => "duplicate-tensor",
                    Some(TensorFault::Type { .. }) => "tensor-type",
                    Some(TensorFault::Shape { .. }) | None => "tensor-shape",
                };
                match faults.faults.first() {
                    Some(fault) => bad(location.tensor(fault.name()), rule),
                    None => bad(location, rule),
                }
            }
            Self::Quantized { path, .. } => {
                bad(Location::file(path).tensor("quantization_config"), "quantized-checkpoint")
            }
            Self::UnmergedAdapter { location, .. } => bad(location.clone(), "unmerged-adapter"),
            Self::NoSuchPrefix { location, .. } => bad(location.clone(), "strip-prefix"),
            Self::UnderPrefix { location, .. } => bad(location.clone(), "under-prefix"),
            Self::Vocabulary(error) => error.diagnosis(),
            Self::NoForwardPass { location, .. } => bad(location.clone(), "no-forward-pass"),
            Self::Hyperparameter { location, .. } => bad(location.clone(), "hyperparameter"),
            Self::MissingWeight { location } => bad(location.clone(), "missing-tensor"),
            Self::WeightShape { location, .. } => bad(location.clone(), "tensor-shape"),
            Self::Token { location, .. } => bad(location.clone(), "token-out-of-range"),
            Self::NoLogits { location } => bad(location.clone(), "no-logits"),
            Self::Positions { location, .. } => bad(location.clone(), "too-long"),
            Self::StateIsGone { .. } => bad(Location::default(), "state-is-gone"),
            Self::SessionLength { .. } => bad(Location::default(), "session-length"),
            Self::Backend { location, source } => {
                Diagnosis { location: location.clone(), ..source.diagnosis() }
            }
            Self::Device(error) => error.diagnosis(),
            Self::NonFiniteActivation { location, .. } => Diagnosis {
                class: FaultClass::Numeric,
                location: location.clone(),
                rule: "non-finite-activation",
            },
            Self::Spill { folder, .. } => Diagnosis {
                class: FaultClass::Environment,
                location: Location::file(folder),
                rule: "spill",
            },
        }
    }
}
