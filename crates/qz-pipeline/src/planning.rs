//! What every tensor of every output will be, decided and checked before any
//! weight is read: the common beginning of `convert` and `plan`.

use std::collections::HashSet;
use std::sync::Arc;

use qz_calib::{Entry, ImportanceMatrix};
use qz_codec::{ImportanceUse, codec_for};
use qz_gguf::SplitOptions;
use qz_plan::{
    Assignment, Fallback, FileType, ModelFacts, Overrides, PlannedTensor, Reason, Request,
    is_known_architecture,
};
use qz_tensor::{DataType, Location, Metadata, SinkTensor, TensorIndex, Value};

use crate::error::{Error, Uncovered};
use crate::metadata_override::MetadataOverride;
use crate::model::{Model, ModelTensor};
use crate::target::Target;

/// What decides about types and metadata, apart from the target.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// Quantize tensors that are quantized already.
    pub allow_requantize: bool,
    /// Whether rows that do not fill their type's blocks may get another type.
    pub fallback: Fallback,
    /// Types that a person wants.
    pub overrides: Overrides,
    /// Metadata that a person wants.
    pub metadata: Vec<MetadataOverride>,
    /// What weighs the encoders' errors.
    pub importance: Option<Arc<ImportanceMatrix>>,
    /// Quantize by names and shapes alone, whatever the architecture.
    pub generic: bool,
    /// Cut outputs into several files.
    pub split: Option<SplitOptions>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            allow_requantize: false,
            fallback: Fallback::Allowed,
            overrides: Overrides::default(),
            metadata: Vec::new(),
            importance: None,
            generic: false,
            split: None,
        }
    }
}

/// One output, decided.
pub(crate) struct TargetPlan {
    /// Of each tensor of the model.
    pub(crate) assignments: Vec<Assignment>,
    pub(crate) metadata: Metadata,
    /// The output's tensors in their order, as positions in the model.
    pub(crate) order: Vec<usize>,
}

impl TargetPlan {
    /// The output's tensors as its sink wants them.
    pub(crate) fn sink_tensors(&self, model: &Model) -> Vec<SinkTensor> {
        let sink_tensor = |position: &usize| {
            let tensor = &model.tensors[*position];
            SinkTensor {
                name: tensor.name.clone(),
                data_type: self.assignments[*position].data_type,
                shape: tensor.shape.clone(),
            }
        };
        self.order.iter().map(sink_tensor).collect()
    }

    /// For each tensor of the model its place in the output.
    pub(crate) fn places(&self) -> Vec<TensorIndex> {
        let mut places = vec![TensorIndex(0); self.order.len()];
        let order = self.order.iter().enumerate();
        order.for_each(|(place, position)| places[*position] = TensorIndex(place));
        places
    }
}

/// All outputs, decided.
pub(crate) struct Planning {
    pub(crate) targets: Vec<TargetPlan>,
    /// What a person should know.
    pub(crate) warnings: Vec<String>,
    /// Tensors whose result is useless without importance, and that have none.
    pub(crate) uncovered: Vec<Uncovered>,
}

impl Planning {
    /// Fails if a result would be useless.
    pub(crate) fn check_importance(&self) -> Result<(), Error> {
        match self.uncovered.is_empty() {
            true => Ok(()),
            false => Err(Error::MissingImportance(self.uncovered.clone())),
        }
    }
}

/// Decides everything that needs no weights.
///
/// # Errors
/// If a tensor cannot become what it is to become.
pub(crate) fn plan_all(
    model: &Model,
    targets: &[Target],
    options: &PlanOptions,
) -> Result<Planning, Error> {
    let tensors: Vec<PlannedTensor> = model.tensors.iter().map(planned).collect();
    let targets: Vec<TargetPlan> = targets
        .iter()
        .map(|target| {
            let plan = match target {
                Target::FileType(file_type) => quantized(model, file_type, &tensors, options)?,
                Target::Copy => copied(model, options)?,
            };
            for (tensor, assignment) in model.tensors.iter().zip(&plan.assignments) {
                check_conversion(model, tensor, assignment.data_type, options)?;
            }
            Ok(plan)
        })
        .collect::<Result<_, Error>>()?;
    let mut warnings = idle_overrides(model, &targets, options);
    let uncovered = check_coverage(model, &targets, options, &mut warnings)?;
    Ok(Planning { targets, warnings, uncovered })
}

/// The model in another file type.
fn quantized(
    model: &Model,
    file_type: &'static FileType,
    tensors: &[PlannedTensor],
    options: &PlanOptions,
) -> Result<TargetPlan, Error> {
    let metadata = metadata_of(model, file_type, options);
    let facts = facts(model, &metadata, options)?;
    let request = Request {
        file_type,
        facts: &facts,
        has_importance: options.importance.is_some(),
        overrides: &options.overrides,
        fallback: options.fallback,
    };
    let assignments = qz_plan::assign(&request, tensors)?;
    Ok(TargetPlan { assignments, metadata, order: (0..tensors.len()).collect() })
}

fn facts(model: &Model, metadata: &Metadata, options: &PlanOptions) -> Result<ModelFacts, Error> {
    if options.generic {
        return Ok(ModelFacts::from_names(model.tensors.iter().map(|tensor| &*tensor.name)));
    }
    let architecture = metadata.string("general.architecture");
    if architecture.is_some_and(is_known_architecture) {
        return Ok(ModelFacts::from_metadata(metadata));
    }
    let architecture = architecture.map(str::to_owned);
    Err(Error::UnknownArchitecture { path: model.path.clone(), architecture })
}

/// The model as it is, in the order of its files. Of a set's keys
/// `llama-gguf-split --merge` leaves all but the count, which it sets to none.
fn copied(model: &Model, options: &PlanOptions) -> Result<TargetPlan, Error> {
    if model.is_checkpoint() {
        return Err(Error::CopyOfCheckpoint(model.path.clone()));
    }
    let as_it_is = |tensor: &ModelTensor| Assignment {
        data_type: tensor.source_type,
        reason: Reason::Left,
        fallback_from: None,
        requires_importance: false,
    };
    let mut metadata = model.metadata.clone();
    if metadata.remove(SPLIT_COUNT).is_some() {
        metadata.set(SPLIT_COUNT, 0u16);
    }
    for MetadataOverride { key, value } in &options.metadata {
        metadata.remove(key);
        metadata.set(key, value.clone());
    }
    let mut order: Vec<usize> = (0..model.tensors.len()).collect();
    order.sort_by_key(|position| model.tensors[*position].first_source());
    let assignments = model.tensors.iter().map(as_it_is).collect();
    Ok(TargetPlan { assignments, metadata, order })
}

fn planned(tensor: &ModelTensor) -> PlannedTensor {
    let is_writable = tensor.source_type.spec().ggml.is_some();
    PlannedTensor {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        unquantized: tensor.unquantized,
        source_type: if is_writable { tensor.source_type } else { tensor.unquantized },
    }
}

/// Refuses what could only fail, or do harm, later.
fn check_conversion(
    model: &Model,
    tensor: &ModelTensor,
    wanted: DataType,
    options: &PlanOptions,
) -> Result<(), Error> {
    let from = tensor.source_type;
    if from == wanted {
        return Ok(());
    }
    if from.is_block() && !options.allow_requantize {
        let location = model.location(tensor, 0);
        return Err(Error::Requantize { location, data_type: from });
    }
    for missing in [from, wanted] {
        if codec_for(missing).is_none() {
            let location = model.location(tensor, 0);
            return Err(Error::NoCodec { location, data_type: from, target: wanted, missing });
        }
    }
    Ok(())
}

/// A warning for each pattern that decides no tensor in any output.
fn idle_overrides(model: &Model, targets: &[TargetPlan], options: &PlanOptions) -> Vec<String> {
    let decided: HashSet<usize> = targets
        .iter()
        .flat_map(|target| &target.assignments)
        .filter_map(|assignment| match assignment.reason {
            Reason::Override(position) => Some(position),
            _ => None,
        })
        .collect();
    let idle = options.overrides.tensors.iter().enumerate();
    idle.filter(|(position, _)| !decided.contains(position))
        .map(|(_, wish)| {
            let is_found = model.tensors.iter().any(|tensor| wish.matches(&tensor.name));
            let why = if is_found {
                "the tensors it matches are not quantized, or decided by something before it"
            } else {
                "it matches no tensor"
            };
            format!("--tensor-type {wish} has no effect: {why}")
        })
        .collect()
}

/// Statistics do not cover these, and a width that does not fit them is no fault:
/// a token embedding is looked up, not multiplied.
fn is_embedding(name: &str) -> bool {
    matches!(name, "token_embd.weight" | "per_layer_token_embd.weight")
}

/// The entry that weighs the errors of `tensor`, if there is one and it fits.
pub(crate) fn importance_of<'a>(
    options: &'a PlanOptions,
    tensor: &ModelTensor,
) -> Option<&'a Entry> {
    let entry = options.importance.as_ref()?.entry(&tensor.name)?;
    (entry.len() == importance_width(tensor)).then_some(entry)
}

/// One value per column, for each matrix stacked in the tensor.
fn importance_width(tensor: &ModelTensor) -> u64 {
    let matrices = tensor.shape.dimensions().iter().rev().skip(2);
    // A shape's elements were counted without overflow.
    tensor.shape.columns() * matrices.product::<u64>()
}

/// Compares the importance matrix with what will be encoded: an entry of another
/// width is an error, a missing one a warning, or listed where it is required.
fn check_coverage(
    model: &Model,
    targets: &[TargetPlan],
    options: &PlanOptions,
    warnings: &mut Vec<String>,
) -> Result<Vec<Uncovered>, Error> {
    let (mut missing, mut uncovered) = (Vec::new(), Vec::new());
    for (position, tensor) in model.tensors.iter().enumerate() {
        let encoded: Vec<&Assignment> = targets
            .iter()
            .map(|target| &target.assignments[position])
            .filter(|assignment| assignment.data_type != tensor.source_type)
            .collect();
        if encoded.is_empty() || importance_of(options, tensor).is_some() {
            continue;
        }
        let unfit = options.importance.as_ref().and_then(|matrix| matrix.entry(&tensor.name));
        if let (Some(entry), Some(matrix)) = (unfit, &options.importance) {
            let (found, expected) = (entry.len(), importance_width(tensor));
            if !is_embedding(&tensor.name) {
                let location = Location::file(matrix.path()).tensor(&tensor.name);
                return Err(Error::ImportanceWidth { location, found, expected });
            }
        }
        if let Some(required) = encoded.iter().find(|assignment| assignment.requires_importance) {
            let data_type = required.data_type;
            uncovered.push(Uncovered { tensor: tensor.name.clone(), data_type });
        } else if encoded.iter().any(|assignment| is_weighed(assignment.data_type))
            && !is_embedding(&tensor.name)
            && tensor.name != "output.weight"
        {
            missing.push(&*tensor.name);
        }
    }
    if let Some(matrix) = &options.importance {
        warnings.extend(uncovered_warning(&missing));
        warnings.extend(unused_warning(model, matrix));
    }
    Ok(uncovered)
}

pub(crate) fn is_weighed(data_type: DataType) -> bool {
    codec_for(data_type).is_some_and(|codec| codec.spec().importance != ImportanceUse::Ignored)
}

fn uncovered_warning(names: &[&str]) -> Option<String> {
    let list = shortened(names)?;
    Some(format!("no importance for {list}: encoded as without an importance matrix"))
}

fn unused_warning(model: &Model, matrix: &ImportanceMatrix) -> Option<String> {
    let known: HashSet<&str> = model.tensors.iter().map(|tensor| &*tensor.name).collect();
    let unused: Vec<&str> = matrix.names().filter(|name| !known.contains(name)).collect();
    let list = shortened(&unused)?;
    Some(format!("{}: the model has no {list}", matrix.path().display()))
}

/// Names as a message lists them: the first, and how many more.
pub(crate) fn shortened(names: &[&str]) -> Option<String> {
    const LISTED: usize = 8;
    let shown: Vec<String> =
        names.iter().take(LISTED).map(|name| name.escape_debug().to_string()).collect();
    let more = names.len().saturating_sub(LISTED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!names.is_empty()).then(|| shown.join(", ") + &rest)
}

/// How many files a model is in; the reference's key.
const SPLIT_COUNT: &str = "split.count";

/// What only tells the files of one set apart: an output gets its own, if any.
const SPLIT_KEYS: [&str; 3] = ["split.no", SPLIT_COUNT, "split.tensors.count"];

/// The output's metadata: the model's, the file type, what a person wants, and
/// where importance came from, in llama-quantize's order.
fn metadata_of(model: &Model, file_type: &FileType, options: &PlanOptions) -> Metadata {
    /// `GGML_QNT_VERSION`: the block layouts have not changed since.
    const QUANTIZATION_VERSION: u32 = 2;
    let mut metadata = model.metadata.clone();
    // llama-quantize removes a key and appends it (gguf.cpp, `gguf_set_val_u32`);
    // the converter, which writes plain files from checkpoints, does not.
    let is_converters = model.is_checkpoint() && !file_type.base.is_block();
    let mut set = |key: &str, value: Value, in_place: bool| {
        if !in_place {
            metadata.remove(key);
        }
        metadata.set(key, value);
    };
    set("general.quantization_version", QUANTIZATION_VERSION.into(), is_converters);
    set("general.file_type", file_type.id.into(), is_converters);
    for key in SPLIT_KEYS {
        metadata.remove(key);
    }
    let mut set = |key: &str, value: Value| {
        metadata.remove(key);
        metadata.set(key, value);
    };
    for MetadataOverride { key, value } in &options.metadata {
        set(key, value.clone());
    }
    for (key, value) in options.importance.iter().flat_map(|matrix| provenance(matrix)) {
        set(key, value);
    }
    metadata
}

/// What llama-quantize notes about an importance matrix (quantize.cpp).
fn provenance(matrix: &ImportanceMatrix) -> Vec<(&'static str, Value)> {
    let path = matrix.path().to_string_lossy().into_owned();
    let entries = u32::try_from(matrix.len()).unwrap_or(u32::MAX);
    let mut notes = vec![("quantize.imatrix.file", Value::from(path))];
    let dataset = matrix.datasets().first();
    notes.extend(dataset.map(|name| ("quantize.imatrix.dataset", Value::from(&**name))));
    notes.push(("quantize.imatrix.entries_count", entries.into()));
    let chunks = Some(matrix.chunks()).filter(|chunks| *chunks > 0);
    notes.extend(chunks.map(|chunks| ("quantize.imatrix.chunks_count", chunks.into())));
    notes
}
