//! `plan`: what `convert` would write, without reading a weight.

use std::path::Path;

use qz_plan::{Assignment, Reason};
use qz_tensor::{DataType, SinkTensor};

use crate::convert::{FallbackTensor, fallbacks, importance};
use crate::error::{Error, Uncovered};
use crate::estimate;
use crate::format::TargetPlan;
use crate::model::{Model, ModelTensor};
use crate::planning::{PlanOptions, plan_all};
use crate::stream::{self, Work};
use crate::target::Target;

/// What a conversion would do.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PlanReport {
    /// Encoding threads that time and memory are for.
    pub threads: usize,
    /// Seconds of encoding all outputs; the disk may take longer.
    pub seconds: Measured,
    /// The most memory the conversion holds at once, estimated from its buffers.
    pub peak_memory_bytes: u64,
    /// The outputs, in the order asked for.
    pub outputs: Vec<PlannedOutput>,
    /// Tensors whose result would be useless without an importance matrix;
    /// `convert` refuses them.
    pub missing_importance: Vec<Uncovered>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// A figure that was measured.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Measured {
    /// The figure.
    pub value: f64,
}

/// One file that would be written.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PlannedOutput {
    /// The target's name.
    pub target: String,
    /// How many files it is cut into.
    pub files: usize,
    /// Their size.
    pub bytes: u64,
    /// Bits per weight over all tensors.
    pub bits_per_weight: f64,
    /// The tensors, in file order.
    pub tensors: Vec<TensorPlan>,
    /// Tensors whose rows do not fill the blocks of the type decided on.
    pub fallbacks: Vec<FallbackTensor>,
}

/// One tensor of a file that would be written.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TensorPlan {
    /// Its name.
    pub name: String,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
    /// The type it comes in.
    pub from: &'static str,
    /// The type it would have.
    #[serde(rename = "type")]
    pub data_type: &'static str,
    /// Its size.
    pub bytes: u64,
    /// What decided, in a word: `base`, `rule`, `override`, ...
    pub reason: &'static str,
    /// The rule or the override itself.
    pub detail: Option<String>,
    /// The type decided on, if its blocks do not fit the rows.
    pub fallback_from: Option<&'static str>,
    /// True if importance would weigh its errors.
    pub importance: bool,
}

/// Plans the conversion of `model` to all `targets` in one read of it.
///
/// # Errors
/// If `convert` would fail before its first weight, but for missing importance.
pub fn plan(
    model: &Model,
    targets: &[Target],
    options: &PlanOptions,
    threads: usize,
) -> Result<PlanReport, Error> {
    let planning = plan_all(model, targets, options)?;
    let work = work(model, &planning.targets, options);
    let outputs = targets
        .iter()
        .zip(&planning.targets)
        .map(|(target, plan)| output(model, target, plan, options))
        .collect::<Result<_, Error>>()?;
    let warnings = model.warnings().iter().chain(&planning.warnings).cloned().collect();
    Ok(PlanReport {
        threads,
        seconds: Measured { value: estimate::encoding_seconds(&work, threads) },
        peak_memory_bytes: peak_memory(&work, targets.len(), threads),
        outputs,
        missing_importance: planning.uncovered,
        warnings,
    })
}

/// The engine's buffers and the program around them. Measured on a model of a
/// billion weights, one to three outputs and one to eight threads: the allocator
/// keeps up to as much again as the buffers hold, and each further output some.
pub(crate) fn peak_memory(work: &[Work<'_>], outputs: usize, threads: usize) -> u64 {
    const PROGRAM: u64 = 24 << 20;
    const FURTHER_OUTPUT: u64 = 6 << 20;
    let further = outputs.saturating_sub(1) as u64 * FURTHER_OUTPUT;
    PROGRAM + further + 2 * stream::peak_memory(work, threads)
}

fn work<'a>(model: &'a Model, plans: &[TargetPlan], options: &'a PlanOptions) -> Vec<Work<'a>> {
    let wanted = |position: usize| {
        plans.iter().map(move |plan| plan.wanted(position, None, options.rounding))
    };
    model
        .tensors
        .iter()
        .enumerate()
        .map(|(position, tensor)| Work {
            tensor,
            wanted: wanted(position).collect(),
            importance: importance(options, tensor),
        })
        .collect()
}

fn output(
    model: &Model,
    target: &Target,
    plan: &TargetPlan,
    options: &PlanOptions,
) -> Result<PlannedOutput, Error> {
    let name = target.to_string();
    let layout = target.format.layout(Path::new(&name), plan, options)?;
    let planned = |(tensor, source): (&SinkTensor, &usize)| {
        tensor_plan(tensor, &model.tensors[*source], &plan.assignments[*source], options)
    };
    let tensors: Vec<TensorPlan> = plan.tensors.iter().zip(&plan.sources).map(planned).collect();
    let tensor_bytes: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
    Ok(PlannedOutput {
        target: name,
        files: layout.paths().len(),
        bytes: layout.size(),
        bits_per_weight: tensor_bytes as f64 * 8.0 / plan.weights(model).max(1) as f64,
        tensors,
        fallbacks: fallbacks(model, &plan.assignments),
    })
}

fn tensor_plan(
    written: &SinkTensor,
    tensor: &ModelTensor,
    assignment: &Assignment,
    options: &PlanOptions,
) -> TensorPlan {
    let Assignment { reason, fallback_from, .. } = *assignment;
    let data_type = written.data_type;
    let detail = match reason {
        Reason::Rule(rule) => Some(rule.to_string()),
        Reason::Override(position) => {
            options.overrides.tensors.get(position).map(ToString::to_string)
        }
        _ => None,
    };
    let is_encoded = data_type != tensor.source_type;
    TensorPlan {
        name: written.name.clone(),
        shape: written.shape.dimensions().to_vec(),
        from: tensor.source_type.name(),
        data_type: data_type.name(),
        bytes: written.shape.byte_size(data_type).unwrap_or_default(),
        reason: reason.name(),
        detail,
        fallback_from: fallback_from.map(DataType::name),
        importance: is_encoded
            && importance(options, tensor).is_some()
            && crate::planning::is_weighed(data_type),
    }
}
