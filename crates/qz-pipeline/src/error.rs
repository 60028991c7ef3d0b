//! Everything that can end a job.

mod diagnosis;

use std::path::PathBuf;

use qz_tensor::{DataType, FileError, Location, OutputError};

use crate::planning::shortened;
use crate::unknown_target::UnknownTarget;

/// Why a job ended without its result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An input file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A model folder cannot be opened.
    #[error(transparent)]
    Folder(#[from] qz_shards::Error),
    /// A GGUF file breaks its format, or cannot be written.
    #[error(transparent)]
    Gguf(#[from] qz_gguf::Error),
    /// A safetensors file or index breaks its format.
    #[error(transparent)]
    Safetensors(#[from] qz_safetensors::Error),
    /// A PyTorch file or index breaks its format.
    #[error(transparent)]
    Pickle(#[from] qz_pickle::Error),
    /// Packed weights break their layout, or are of a method that is not known.
    #[error(transparent)]
    Packed(#[from] qz_packed::Error),
    /// A matrix that a packed layout has no room for.
    #[error("{location}: {target} cannot hold it: {why}{}{}", fitting_targets(fitting), left(leaving.as_deref()))]
    Unfit {
        /// File and tensor.
        location: Box<Location>,
        /// The target.
        target: Box<str>,
        /// Why it does not fit.
        why: Box<str>,
        /// Its name in GGUF, which patterns go by.
        name: Box<str>,
        /// The same target with other groups, where these fit the whole model.
        fitting: Vec<String>,
        /// The value of `--tensor-type` that leaves the few matrices as they are that do not fit.
        leaving: Option<Box<str>>,
    },
    /// A target that does not exist.
    #[error(transparent)]
    UnknownTarget(#[from] UnknownTarget),
    /// Several targets that cannot be written.
    #[error("{}", target_faults(.0).join("\n"))]
    Targets(Vec<(String, Error)>),
    /// The checkpoint is not a model we know, or contradicts itself.
    #[error(transparent)]
    Model(#[from] qz_models::Error),
    /// The target's types do not fit the model.
    #[error(transparent)]
    Plan(#[from] qz_plan::Error),
    /// The importance matrix cannot be read.
    #[error(transparent)]
    Calibration(#[from] qz_calib::Error),
    /// The text cannot be evaluated.
    #[error(transparent)]
    Evaluation(#[from] qz_eval::Error),
    /// Nothing that a method could learn from.
    #[error(
        "{0} needs a text that the model reads: --data FILE (or --data default, the text that comes with this program), --tokens or --stats"
    )]
    NoCalibration(&'static str),
    /// Nothing that tells what a matrix multiplies.
    #[error(
        "{0} stores the largest inputs of its matrices, or the largest keys and values, which a text has to tell: `quantize quantize` with --data FILE (or --data default, the text that comes with this program) or --tokens"
    )]
    StaticWithoutText(String),
    /// A matrix whose inputs nobody sees.
    #[error(
        "{tensor}: {target} stores its largest input, and the forward pass does not multiply by it"
    )]
    UnseenMatrix {
        /// The target.
        target: Box<str>,
        /// The matrix.
        tensor: Box<str>,
    },
    /// Inputs that become something that is not computed here.
    #[error(
        "{}: {tensor}: {what}, which is not computed here: --activations f32 leaves all inputs as they are", .path.display()
    )]
    UnknownInputs {
        /// The model.
        path: PathBuf,
        /// The matrix.
        tensor: Box<str>,
        /// What says so.
        what: Box<str>,
    },
    /// Nothing that scales of cached keys and values could be stored for, or in.
    #[error("--kv-scales: {target}: {why}")]
    NoCacheScales {
        /// The target.
        target: Box<str>,
        /// Why.
        why: Box<str>,
    },
    /// Nothing that factors could be searched with.
    #[error(
        "{0} needs a text that the full model reads: --data FILE (or --data default), or --tokens; --stats do not say enough"
    )]
    TransformWithoutText(&'static str),
    /// Nothing is won where activations stay as they are.
    #[error(
        "{transform} makes activations easier to round and weights harder, and {target} rounds no activations: it is for ct:w8a8, ct:fp8 and fp8:*, awq for weights alone"
    )]
    ActivationsStay {
        /// The transform's name.
        transform: &'static str,
        /// The target.
        target: String,
    },
    /// Factors are searched for columns that stay columns.
    #[error("{transform} scales columns, and {target} mixes them: use one of both")]
    ColumnsMix {
        /// The transform's name.
        transform: &'static str,
        /// The target.
        target: String,
    },
    /// Each target has a folded model of its own.
    #[error("a folded model is saved of one target alone, not of {0}")]
    FoldedModels(usize),
    /// The folded model and the output are the same, or one is in the other.
    #[error("{}: the folded model needs a path of its own, not the output's {}", folded.display(), output.display())]
    FoldedIsOutput {
        /// The folded model.
        folded: PathBuf,
        /// The output.
        output: PathBuf,
    },
    /// Nothing is folded.
    #[error("a folded model is saved where factors are folded in: --method awq or smoothquant")]
    NothingFolded,
    /// Layers that cannot be left out.
    #[error("{}: {detail}", .path.display())]
    Pruning {
        /// The model.
        path: PathBuf,
        /// Why.
        detail: Box<str>,
    },
    /// Only GGUF says what is left of a model.
    #[error(
        "{}: layers are left out of GGUF files alone: write one (--to f16 --prune-layers ...), and convert that", .0.display()
    )]
    PrunedFolder(PathBuf),
    /// Nothing to evaluate on.
    #[error("no text to evaluate the model on")]
    NoText,
    /// Something was asked of an encoder that it has not.
    #[error(
        "{}: an encoder predicts no tokens, so there are no {asked}; its vectors are compared with \
         those of a reference model",
        path.display()
    )]
    Encoder {
        /// The model.
        path: PathBuf,
        /// What was asked.
        asked: &'static str,
    },
    /// Cosines are to be limited of a model that predicts tokens.
    #[error(
        "{}: it predicts tokens, so there is no cosine to limit (--min-cosine is for encoders); \
         --max-kld and --min-top1 limit how far it is from its reference",
        .0.display()
    )]
    Decoder(PathBuf),
    /// An encoder beside a model that predicts tokens.
    #[error(
        "{}: an encoder predicts no tokens, and {} does; they cannot be compared",
        path.display(), other.display()
    )]
    NoEncoder {
        /// The encoder.
        path: PathBuf,
        /// The other model.
        other: PathBuf,
    },
    /// An encoder and its reference have vectors of other sizes.
    #[error("{}: vectors of {found} numbers, those of the reference have {expected}", path.display())]
    EmbeddingWidth {
        /// The encoder.
        path: PathBuf,
        /// Numbers of its vectors.
        found: usize,
        /// Numbers of the reference's.
        expected: usize,
    },
    /// A way to make one vector of a text's that is not known.
    #[error("{}: {key} is {kind}, which is no kind of pooling that is known (0 to 3)", path.display())]
    Pooling {
        /// The encoder.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        kind: u64,
    },
    /// As many tasks would be examples as there are.
    #[error("{location}: {examples} of {tasks} tasks as examples leave none to score")]
    FewTasks {
        /// The file of tasks.
        location: Location,
        /// How many there are.
        tasks: usize,
        /// How many would be examples.
        examples: usize,
    },
    /// A prompt that nothing can follow.
    #[error("{}: the prompt has {tokens} tokens; it may have 1 to {context}", path.display())]
    Prompt {
        /// The model.
        path: PathBuf,
        /// The prompt's tokens.
        tokens: usize,
        /// What the model can see.
        context: usize,
    },
    /// A model that knows other tokens than its reference.
    #[error("{}: {found} tokens in the vocabulary, the reference has {expected}", path.display())]
    Vocabulary {
        /// The model.
        path: PathBuf,
        /// Its tokens.
        found: usize,
        /// The reference's.
        expected: usize,
    },
    /// A task, counted from 0, with more tokens than the model has positions.
    #[error("{location}: task {task} is longer than the model's {context} positions")]
    TaskTooLong {
        /// The file.
        location: Location,
        /// The task.
        task: usize,
        /// The model's positions.
        context: usize,
    },
    /// A model that makes other tokens of the text than its reference.
    #[error("{}: the text has other tokens than for {}", path.display(), reference.display())]
    Tokens {
        /// The model.
        path: PathBuf,
        /// The reference.
        reference: PathBuf,
    },
    /// A text that is not UTF-8.
    #[error("{location}: the text is not UTF-8")]
    TextEncoding {
        /// The file and the byte.
        location: Location,
    },
    /// A number that is no token id.
    #[error("{location}: {token} is no token id{}", vocabulary.map(|size| format!(": the vocabulary has 0 to {}", size.saturating_sub(1))).unwrap_or_default())]
    TokenId {
        /// The file of token ids and the number's first byte.
        location: Location,
        /// The number.
        token: String,
        /// Tokens of the model's vocabulary.
        vocabulary: Option<usize>,
    },
    /// Schemes of a packed folder that cannot be in one.
    #[error("{location}: {why}")]
    Mixed {
        /// The tensor with the other scheme.
        location: Box<Location>,
        /// Why they cannot.
        why: Box<str>,
    },
    /// A method chooses among a grid's values, and the target is not stored as such.
    #[error("{target} has no values that a method could choose among")]
    MethodFormat {
        /// The target.
        target: String,
    },
    /// A file of statistics lacks what a method needs.
    #[error("{location}: {}", match needs {
        qz_methods::Needs::Gram => "no Gram matrix of its inputs; `calibrate --collect grams` writes them",
        _ => "no importance of its inputs",
    })]
    MissingStatistics {
        /// The file and the tensor.
        location: Location,
        /// What the method needs.
        needs: qz_methods::Needs,
    },
    /// The full model's inputs are not in a file of statistics.
    #[error(
        "--propagation needs a text that the full model reads beside the quantized one, or statistics that `calibrate --beside` collected: these do not tell what it would have seen"
    )]
    PropagationWithoutText,
    /// A method refuses a tensor.
    #[error("{tensor}: {source}")]
    Method {
        /// The tensor.
        tensor: String,
        /// Why.
        source: qz_methods::Error,
    },
    /// A line of calibration data that is no document.
    #[error("{location}: {problem}")]
    Document {
        /// The file and the line's first byte.
        location: Location,
        /// What is wrong.
        problem: String,
    },
    /// Calibration data without a document.
    #[error("{0}: there is no text in it")]
    EmptyData(Location),
    /// A parquet file that cannot be read.
    #[error("{}: {problem}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What its reader says.
        problem: String,
    },
    /// Conversations are to go through a template that is not there.
    #[error("{}: the model has no chat template", .0.display())]
    NoChatTemplate(PathBuf),
    /// A run that goes on has nothing left to do.
    #[error("the text has no chunks after the {skipped} that were seen")]
    NoChunksLeft {
        /// Chunks in the file that the run was to go on from.
        skipped: usize,
    },
    /// More was asked of a legacy file than it can hold.
    #[error("{}: a legacy file has room for sums of squares alone; write a GGUF file", .0.display())]
    LegacyFormat(PathBuf),
    /// Gram matrices cannot be added to those of a file.
    #[error("{}: Gram matrices are collected in one run; a run cannot go on from others, or be added to them", .0.display())]
    GramsInParts(PathBuf),
    /// What a quantized model lacks is nothing without Gram matrices.
    #[error("--beside needs Gram matrices: add --collect grams")]
    BesideWithoutGrams,
    /// A model that computes something else than the one that it is beside.
    #[error("{}: its layers are not those of {}", path.display(), full.display())]
    OtherLayers {
        /// The model.
        path: PathBuf,
        /// The full one.
        full: PathBuf,
    },
    /// An output cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Nothing here that any container reader knows.
    #[error("{}: {detail}", path.display())]
    UnknownContainer {
        /// The path given.
        path: PathBuf,
        /// What was looked for.
        detail: String,
    },
    /// A checkpoint without its weights.
    #[error("{}: {detail}", path.display())]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// What is there, or is not.
        detail: String,
    },
    /// What may be a model of the hub that is not on this machine.
    #[error("{}: no such file or folder, and {id} is not in the hub's cache; fetch it with `hf download {id}`", path.display())]
    NotFetched {
        /// The path given.
        path: PathBuf,
        /// The model's id.
        id: String,
    },
    /// A weight that is no number.
    #[error("{location}: weight {index} is {value}")]
    NonFiniteWeight {
        /// File, tensor and byte.
        location: Location,
        /// Its position in the source tensor, in storage order.
        index: u64,
        /// `NaN`, `inf` or `-inf`.
        value: f32,
    },
    /// A stored block whose scale is no number.
    #[error("{location}: block {block} of {data_type} has a scale that is not finite")]
    NonFiniteBlock {
        /// File, tensor and byte.
        location: Location,
        /// The block's position in the tensor.
        block: u64,
        /// The stored type.
        data_type: DataType,
    },
    /// A weight too large for the target type.
    #[error(
        "{location}: row {row} holds a weight up to {largest:e}, which overflows {data_type}; use bf16 or f32"
    )]
    Overflow {
        /// File and tensor.
        location: Location,
        /// The row in the stored tensor.
        row: u64,
        /// The row's largest magnitude.
        largest: f32,
        /// The type that cannot hold it.
        data_type: DataType,
    },
    /// An edit of weights that are stored as blocks, which would be rounded to blocks again.
    #[error(
        "{location}: it is stored as {data_type}, and an edit would round it to {data_type} a second time; edit the model that was quantized"
    )]
    EditOfBlocks {
        /// File and tensor.
        location: Location,
        /// The type it is stored in.
        data_type: DataType,
    },
    /// An adapter that is malformed, or does not belong to the model.
    #[error("{location}: {problem}")]
    Adapter {
        /// The file, and the tensor or key.
        location: Location,
        /// What is wrong.
        problem: String,
    },
    /// A tensor that an edit cannot be carried out on.
    #[error("{location}: it cannot be edited: {why}")]
    Uneditable {
        /// File and tensor.
        location: Location,
        /// Why not.
        why: String,
    },
    /// A type that can be carried but not decoded or encoded.
    #[error("{location}: {data_type} cannot be converted to {target}: no codec for {missing}")]
    NoCodec {
        /// File and tensor.
        location: Location,
        /// The stored type.
        data_type: DataType,
        /// The wanted type.
        target: DataType,
        /// The one without a codec.
        missing: DataType,
    },
    /// A type of which there is no speed to measure.
    #[error("{0} has no codec, so there is nothing to measure")]
    NoCodecToMeasure(DataType),
    /// A quantized tensor would be quantized again.
    #[error(
        "{location}: the tensor is quantized already ({}); quantizing it again loses quality, --allow-requantize does it all the same", quantized_as(*data_type)
    )]
    Requantize {
        /// File and tensor.
        location: Location,
        /// The stored type.
        data_type: DataType,
    },
    /// Tensors whose result would be useless without importance have none.
    #[error("{}", missing_importance(.0))]
    MissingImportance(Vec<Uncovered>),
    /// An importance entry that does not fit its tensor.
    #[error(
        "{location}: {found} importance values, the tensor needs {expected}; the importance matrix belongs to another model"
    )]
    ImportanceWidth {
        /// The importance matrix and the tensor.
        location: Location,
        /// Values in the entry.
        found: u64,
        /// Columns of the tensor, times its matrices.
        expected: u64,
    },
    /// A model of which nobody here knows what its tensors are.
    #[error("{}: {}; --generic quantizes it tensor by tensor, by their names and shapes alone", path.display(), unknown_architecture(architecture.as_deref()))]
    UnknownArchitecture {
        /// The file.
        path: PathBuf,
        /// What its metadata says, if anything.
        architecture: Option<String>,
    },
    /// A checkpoint of a class that nobody here knows, to be written as GGUF.
    #[error("{}: nobody here knows what GGUF calls this model's tensors; packed folders can be written, as fp8:block128", .0.display())]
    NoGgufNames(PathBuf),
    /// A checkpoint of a class that nobody here knows, to be computed with.
    #[error("{}: architectures: nobody here knows how a model of this class computes, so no text can be given to it; its matrices can be rounded (rtn), which needs none", .0.join("config.json").display())]
    NoKnownClass(PathBuf),
    /// The part that sees is asked of a file that has none.
    #[error("{}: the file holds the part of a model that reads and writes text; the checkpoint has the one that sees", .0.display())]
    NoProjector(PathBuf),
    /// A projector in a type that none is written in.
    #[error("{}: a projector is written to f32, f16, bf16 or q8_0", .0.display())]
    ProjectorType(PathBuf),
    /// A checkpoint that should be left as it is, in another container.
    #[error("{}: copy is for GGUF models; for a checkpoint say which type its tensors are to have: f32, f16 or bf16", .0.display())]
    CopyOfCheckpoint(PathBuf),
    /// An output would change an input, or what an input is.
    #[error("{}: the output {relation} the input {}", output.display(), input.display())]
    OutputIsInput {
        /// The output.
        output: PathBuf,
        /// It is the input, lies in it, or contains it.
        relation: &'static str,
        /// The input.
        input: PathBuf,
    },
    /// An input was written to while the job read it.
    #[error("{}: the file changed while it was being read", .0.display())]
    InputChanged(PathBuf),
    /// The operating system gave no threads, or the device does not compute.
    #[error(transparent)]
    Device(#[from] qz_kernels::Error),
    /// The caller asked the job to stop.
    #[error("interrupted")]
    Interrupted,
}

/// A tensor that needs importance weights and has none.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Uncovered {
    /// Its name.
    pub tensor: String,
    /// The type it is to get.
    #[serde(rename = "type", serialize_with = "type_name")]
    pub data_type: DataType,
}

fn type_name<S: serde::Serializer>(data_type: &DataType, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(data_type.name())
}

fn missing_importance(uncovered: &[Uncovered]) -> String {
    let describe = |one: &Uncovered| format!("{} ({})", one.tensor, one.data_type);
    let names: Vec<String> = uncovered.iter().map(describe).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let list = shortened(&names).unwrap_or_default();
    format!("the result is useless without importance weights (--imatrix) for {list}")
}

/// The rest of a message: how the few matrices that do not fit can be left as they are.
fn left(pattern: Option<&str>) -> String {
    pattern.map_or_else(String::new, |pattern| {
        format!("; --tensor-type '{pattern}' leaves what does not fit as it is")
    })
}

/// The rest of a message: what could be written instead.
pub(crate) fn fitting_targets(fitting: &[String]) -> String {
    match fitting {
        [] => String::new(),
        [only] => format!("; {only} fits this model"),
        [before @ .., last] => format!("; {} and {last} fit this model", before.join(", ")),
    }
}

impl Error {
    /// The message, in a line for each of several faults.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Targets(faults) => target_faults(faults),
            error => vec![error.to_string()],
        }
    }
}

fn target_faults(faults: &[(String, Error)]) -> Vec<String> {
    let line = |(target, error): &(String, Error)| match error {
        // These name it themselves.
        Error::Unfit { .. } | Error::UnknownTarget(_) => format!("  {error}"),
        error => format!("  {target}: {error}"),
    };
    let first = format!("{} targets cannot be written; nothing was:", faults.len());
    [first].into_iter().chain(faults.iter().map(line)).collect()
}

/// A packed layout that no block type holds exactly is decoded to plain numbers.
fn quantized_as(data_type: DataType) -> &'static str {
    if data_type.is_block() { data_type.name() } else { "in a packed layout" }
}

fn unknown_architecture(architecture: Option<&str>) -> String {
    match architecture {
        Some(name) => format!("unknown architecture {name:?} (general.architecture)"),
        None => "there is no general.architecture".to_owned(),
    }
}
