//! What every tensor of every output will be, decided and checked before any
//! weight is read: the common beginning of `convert` and `plan`.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use qz_calib::{Entry, ImportanceMatrix};
use qz_codec::{ImportanceUse, encoder_for};
use qz_gguf::SplitOptions;
use qz_packed::{CacheScales, Provenance, Rounding};
use qz_plan::{Assignment, Fallback, Overrides, Reason};
use qz_tensor::{DataType, Location};

use crate::error::{Error, Uncovered};
use crate::format::TargetPlan;
use crate::loaders;
use crate::metadata_override::MetadataOverride;
use crate::model::{Model, ModelTensor};
use crate::target::Target;
use crate::unknown_target::UnknownTarget;

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
    /// Bytes of data in one safetensors file.
    pub shard_size: u64,
    /// How weights are rounded to the grids of packed layouts.
    pub rounding: Rounding,
    /// Scales of cached keys and values that are stored.
    pub cache_scales: Option<CacheScales>,
    /// What a method has done instead, for configurations.
    pub method: Option<Provenance>,
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
            shard_size: qz_safetensors::DEFAULT_SHARD_SIZE,
            rounding: Rounding::default(),
            cache_scales: None,
            method: None,
        }
    }
}

impl PlanOptions {
    /// How the values of packed layouts are chosen, as their configurations say it.
    pub(crate) fn provenance(&self) -> Provenance {
        if let Some(method) = &self.method {
            return method.clone();
        }
        let mut rounded = Provenance::of(match self.rounding {
            Rounding::Nearest => "rtn",
            Rounding::LeastError => "mse",
            Rounding::Importance => "importance",
        });
        if let (Rounding::Importance, Some(matrix)) = (self.rounding, &self.importance) {
            rounded.details.insert("importance".to_owned(), file_name(matrix.path()).into());
        }
        rounded
    }
}

/// A file's name without the folders that it lies in, which are nobody's business.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
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
    let plan = |target: &Target| target.plan(model, options);
    let plans = plan_each(model, targets, Vec::new(), options)?;
    // What several targets have in common is said once.
    let mut said = HashSet::new();
    let of_targets = plans.iter().flat_map(|target| &target.warnings);
    let mut warnings: Vec<String> = of_targets.filter(|text| said.insert(*text)).cloned().collect();
    for (target, planned) in targets.iter().zip(&plans) {
        warnings.extend(loaders::warning(target, planned, &plan)?);
    }
    let targets = plans;
    warnings.extend(idle_overrides(model, &targets, options));
    let uncovered = check_coverage(model, &targets, options, &mut warnings)?;
    Ok(Planning { targets, warnings, uncovered })
}

/// Plans each target, and reports all that cannot be written together.
fn plan_each(
    model: &Model,
    targets: &[Target],
    mut faults: Vec<(String, Error)>,
    options: &PlanOptions,
) -> Result<Vec<TargetPlan>, Error> {
    let mut plans = Vec::new();
    for target in targets {
        match target.plan(model, options) {
            Ok(plan) => plans.push(plan),
            Err(error) => faults.push((target.to_string(), error)),
        }
    }
    if faults.is_empty() { Ok(plans) } else { Err(together(faults)) }
}

/// One error for all of them. What ails the model ails each of its targets, and is said once.
fn together(mut faults: Vec<(String, Error)>) -> Error {
    let messages: HashSet<String> = faults.iter().map(|(_, error)| error.to_string()).collect();
    if messages.len() > 1 { Error::Targets(faults) } else { faults.remove(0).1 }
}

/// The error of targets that do not exist; those that do, and do not fit the model, are
/// reported with them.
pub fn unknown_targets(
    unknown: Vec<UnknownTarget>,
    known: &[Target],
    model: Option<&Model>,
    options: &PlanOptions,
) -> Option<Error> {
    let fault = |target: UnknownTarget| {
        let target = model.map_or(target.clone(), |model| target.beside(model, options));
        (target.name().to_owned(), Error::from(target))
    };
    let faults: Vec<(String, Error)> = unknown.into_iter().map(fault).collect();
    match model {
        _ if faults.is_empty() => None,
        Some(model) => plan_each(model, known, faults, options).err(),
        None => Some(together(faults)),
    }
}

/// Refuses quantizing what is quantized.
pub(crate) fn check_requantizing(
    model: &Model,
    tensor: &ModelTensor,
    wanted: DataType,
    options: &PlanOptions,
) -> Result<(), Error> {
    let from = tensor.source_type;
    // llama-quantize refuses plain types, too, where it reads a quantized one.
    let loses = match model.is_checkpoint() {
        true => tensor.is_quantized() && wanted.is_block(),
        false => from.is_block(),
    };
    if loses && from != wanted && !options.allow_requantize {
        let location = model.location(tensor, 0);
        return Err(Error::Requantize { location, data_type: from });
    }
    Ok(())
}

/// Refuses what could only fail later.
pub(crate) fn check_codecs(
    model: &Model,
    tensor: &ModelTensor,
    wanted: DataType,
) -> Result<(), Error> {
    let from = tensor.source_type;
    if from == wanted {
        return Ok(());
    }
    for missing in [from, wanted] {
        // Integers can be read, but are no weights.
        let is_float = missing == from && from == DataType::F64;
        if encoder_for(missing).is_none() && !is_float {
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
    let entry = options.importance.as_ref()?.entry(tensor.measured_name())?;
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
            .filter(|target| target.places[position].is_some())
            .map(|target| &target.assignments[position])
            .filter(|assignment| assignment.data_type != tensor.source_type)
            .collect();
        if encoded.is_empty() || importance_of(options, tensor).is_some() {
            continue;
        }
        let unfit =
            options.importance.as_ref().and_then(|matrix| matrix.entry(tensor.measured_name()));
        if let (Some(entry), Some(matrix)) = (unfit, &options.importance) {
            let (found, expected) = (entry.len(), importance_width(tensor));
            if !is_embedding(&tensor.name) {
                let location = Location::file(matrix.path()).tensor(&tensor.name);
                return Err(Error::ImportanceWidth { location, found, expected });
            }
        }
        if let Some(required) = encoded.iter().find(|assignment| assignment.requires_importance) {
            let data_type = required.data_type;
            uncovered.push(Uncovered { tensor: tensor.name.to_string(), data_type });
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
    encoder_for(data_type).is_some_and(|codec| codec.spec().importance != ImportanceUse::Ignored)
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
