//! `convert`: one read of a model, any number of outputs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use qz_gguf::GgufSink;
use qz_plan::Assignment;
use qz_tensor::{DataType, Metadata, OutputOptions, Shape, SinkTensor, TensorIndex, TensorSink};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::event::{Event, Observer};
use crate::model::{Model, ModelTensor};
use crate::planning::{PlanOptions, TargetPlan, importance_of, plan_all};
use crate::stream::{self, Cancel, Importance, Step, Work};
use crate::target::Target;

/// One artifact to write.
#[derive(Clone, Debug)]
pub struct Output {
    /// What it holds.
    pub target: Target,
    /// Its final path.
    pub path: PathBuf,
}

/// How to convert.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Encoding threads.
    pub threads: usize,
    /// Replace outputs that exist.
    pub replace: bool,
    /// What decides about types and metadata.
    pub plan: PlanOptions,
}

/// What came of one output.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ConvertReport {
    /// The final path.
    pub path: PathBuf,
    /// The target's name.
    pub target: String,
    /// The file's size.
    pub bytes: u64,
    /// Bits per weight over all tensors.
    pub bits_per_weight: f64,
    /// The tensors, in file order.
    pub tensors: Vec<ConvertedTensor>,
    /// Tensors whose rows do not fill the blocks of the type the rules name.
    pub fallbacks: Vec<FallbackTensor>,
}

/// A tensor that got another type than the rules name.
#[derive(Clone, Debug, serde::Serialize)]
pub struct FallbackTensor {
    /// Its name.
    pub tensor: String,
    /// Weights in a row.
    pub columns: u64,
    /// The type the rules name.
    pub from: &'static str,
    /// The type it got.
    pub to: &'static str,
}

/// One tensor of an output.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ConvertedTensor {
    /// Its name.
    pub name: String,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
    /// The type it came in.
    pub from: &'static str,
    /// The type it has.
    #[serde(rename = "type")]
    pub data_type: &'static str,
    /// Its size.
    pub bytes: u64,
}

/// Converts `model` into every output in one read of it.
///
/// # Errors
/// If the model does not fit a target, a weight is not finite, an output exists
/// or is an input, the disk refuses, or `cancel` was set. On any error no output
/// changes; after a cancel the staging folders stay, and the same call continues.
pub fn convert(
    model: &Model,
    outputs: &[Output],
    options: &ConvertOptions,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<Vec<ConvertReport>, Error> {
    for warning in model.warnings() {
        observer.observe(Event::Warning(warning));
    }
    let targets: Vec<Target> = outputs.iter().map(|output| output.target).collect();
    let planning = plan_all(model, &targets, &options.plan)?;
    for warning in &planning.warnings {
        observer.observe(Event::Warning(warning));
    }
    planning.check_importance()?;
    let plans = &planning.targets;
    let mut sinks = Sinks::create(model, outputs, plans, options, observer)?;
    let work = sinks.remaining_work(model, plans, &options.plan);
    let weights = work.iter().map(|work| work.tensor.shape.elements()).sum();
    observer.observe(Event::Started { job: "convert", tensors: work.len(), weights });
    let positions: Vec<usize> =
        (0..model.tensors.len()).filter(|position| sinks.is_wanted(*position)).collect();

    let outcome = stream::run(model, &work, options.threads, cancel, |step| match step {
        Step::Piece(piece) => {
            let sink = &mut sinks.sinks[piece.output];
            Ok(sink.put(TensorIndex(positions[piece.work]), piece.offset, &piece.bytes)?)
        }
        Step::TileDone { work: position, weights, is_last } => {
            observer.observe(Event::Advanced { weights });
            if is_last {
                sinks.complete(positions[position], &work[position]);
                let to: Vec<DataType> = plans
                    .iter()
                    .map(|plan| plan.assignments[positions[position]].data_type)
                    .collect();
                let tensor = work[position].tensor;
                let from = tensor.source_type;
                observer.observe(Event::TensorDone { name: &tensor.name, from, to: &to });
            }
            Ok(())
        }
    });
    match outcome.and_then(|()| check_unchanged(model, &options.plan)) {
        Ok(()) => sinks.finish(model, outputs, plans, observer),
        Err(Error::Interrupted) => {
            sinks.keep()?;
            Err(Error::Interrupted)
        }
        Err(error) => Err(error),
    }
}

/// The outputs being written.
struct Sinks {
    sinks: Vec<GgufSink>,
    /// For each output, which tensors an interrupted run had finished.
    done: Vec<Vec<bool>>,
}

impl Sinks {
    fn create(
        model: &Model,
        outputs: &[Output],
        plans: &[TargetPlan],
        options: &ConvertOptions,
        observer: &mut dyn Observer,
    ) -> Result<Self, Error> {
        let mut sinks = Vec::with_capacity(outputs.len());
        let mut done = Vec::with_capacity(outputs.len());
        for (output, plan) in outputs.iter().zip(plans) {
            check_not_an_input(model, &output.path)?;
            let metadata = &plan.metadata;
            let tensors = sink_tensors(model, &plan.assignments);
            let fingerprint = fingerprint(model, metadata, &tensors, &options.plan);
            let replace = OutputOptions { replace: options.replace };
            let sink = GgufSink::create(&output.path, metadata, &tensors, &fingerprint, replace)?;
            let mut finished = vec![false; tensors.len()];
            sink.completed().iter().for_each(|tensor| finished[tensor.0] = true);
            let resumed = finished.iter().filter(|finished| **finished).count();
            if resumed > 0 {
                observer.observe(Event::Resumed { path: &output.path, tensors: resumed });
            }
            sinks.push(sink);
            done.push(finished);
        }
        Ok(Self { sinks, done })
    }

    fn is_wanted(&self, position: usize) -> bool {
        self.done.iter().any(|done| !done[position])
    }

    fn remaining_work<'a>(
        &self,
        model: &'a Model,
        plans: &[TargetPlan],
        options: &'a PlanOptions,
    ) -> Vec<Work<'a>> {
        let wanted = |position: usize| {
            let of = |(plan, done): (&TargetPlan, &Vec<bool>)| {
                (!done[position]).then_some(plan.assignments[position].data_type)
            };
            plans.iter().zip(&self.done).map(of).collect()
        };
        model
            .tensors
            .iter()
            .enumerate()
            .filter(|(position, _)| self.is_wanted(*position))
            .map(|(position, tensor)| Work {
                tensor,
                wanted: wanted(position),
                importance: importance(options, tensor),
            })
            .collect()
    }

    fn complete(&mut self, position: usize, work: &Work<'_>) {
        for (sink, wanted) in self.sinks.iter_mut().zip(&work.wanted) {
            if wanted.is_some() {
                sink.record_complete(TensorIndex(position));
            }
        }
    }

    fn keep(self) -> Result<(), Error> {
        self.sinks.into_iter().try_for_each(|sink| Ok(sink.keep()?))
    }

    fn finish(
        self,
        model: &Model,
        outputs: &[Output],
        plans: &[TargetPlan],
        observer: &mut dyn Observer,
    ) -> Result<Vec<ConvertReport>, Error> {
        let mut reports = Vec::with_capacity(outputs.len());
        for ((sink, output), plan) in self.sinks.into_iter().zip(outputs).zip(plans) {
            let bytes = sink.size();
            sink.finish()?;
            observer.observe(Event::Written { path: &output.path, bytes });
            reports.push(report(model, output, &plan.assignments, bytes));
        }
        Ok(reports)
    }
}

/// The tensors of an output as its sink wants them.
pub(crate) fn sink_tensors(model: &Model, assignments: &[Assignment]) -> Vec<SinkTensor> {
    let sink_tensor = |(tensor, assignment): (&ModelTensor, &Assignment)| SinkTensor {
        name: tensor.name.clone(),
        data_type: assignment.data_type,
        shape: tensor.shape.clone(),
    };
    model.tensors.iter().zip(assignments).map(sink_tensor).collect()
}

pub(crate) fn importance<'a>(
    options: &'a PlanOptions,
    tensor: &ModelTensor,
) -> Option<Importance<'a>> {
    let (matrix, entry) = (options.importance.as_ref()?, importance_of(options, tensor)?);
    Some(Importance { matrix, entry })
}

fn check_unchanged(model: &Model, options: &PlanOptions) -> Result<(), Error> {
    model.check_unchanged()?;
    match &options.importance {
        Some(matrix) if matrix.file().has_changed()? => {
            Err(Error::InputChanged(matrix.path().to_owned()))
        }
        _ => Ok(()),
    }
}

fn report(model: &Model, output: &Output, plan: &[Assignment], bytes: u64) -> ConvertReport {
    let size = |shape: &Shape, data_type| shape.byte_size(data_type).unwrap_or_default();
    let tensors: Vec<ConvertedTensor> = model
        .tensors
        .iter()
        .zip(plan)
        .map(|(tensor, assignment)| ConvertedTensor {
            name: tensor.name.clone(),
            shape: tensor.shape.dimensions().to_vec(),
            from: tensor.source_type.name(),
            data_type: assignment.data_type.name(),
            bytes: size(&tensor.shape, assignment.data_type),
        })
        .collect();
    let tensor_bytes: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
    ConvertReport {
        path: output.path.clone(),
        target: output.target.to_string(),
        bytes,
        bits_per_weight: tensor_bytes as f64 * 8.0 / (model.weights().max(1)) as f64,
        tensors,
        fallbacks: fallbacks(model, plan),
    }
}

pub(crate) fn fallbacks(model: &Model, plan: &[Assignment]) -> Vec<FallbackTensor> {
    let fallback = |(tensor, assignment): (&ModelTensor, &Assignment)| {
        Some(FallbackTensor {
            tensor: tensor.name.clone(),
            columns: tensor.shape.columns(),
            from: assignment.fallback_from?.name(),
            to: assignment.data_type.name(),
        })
    };
    model.tensors.iter().zip(plan).filter_map(fallback).collect()
}

fn check_not_an_input(model: &Model, path: &Path) -> Result<(), Error> {
    let Ok(output) = qz_tensor::SourceFile::open(path) else { return Ok(()) };
    let inode = output.identity().inode;
    let is_input =
        inode.is_some() && model.source.files().iter().any(|file| file.identity().inode == inode);
    if is_input { Err(Error::OutputIsInput(path.to_owned())) } else { Ok(()) }
}

/// One line that tells this job from any other: a staging folder may be
/// continued only by a job with the same line. Overrides are in it through the
/// types and the metadata that came of them.
fn fingerprint(
    model: &Model,
    metadata: &Metadata,
    tensors: &[SinkTensor],
    options: &PlanOptions,
) -> String {
    let mut text = format!("quantize {}\n", env!("CARGO_PKG_VERSION"));
    for file in model.source.files() {
        let _ = writeln!(text, "{} {:?}", file.path().display(), file.identity());
    }
    for (key, value) in metadata.iter() {
        let _ = writeln!(text, "{key} {value:?}");
    }
    for tensor in tensors {
        let _ = writeln!(text, "{} {} {}", tensor.name, tensor.data_type, tensor.shape);
    }
    if let Some(matrix) = &options.importance {
        let _ = writeln!(text, "importance {}", matrix.digest());
    }
    format!("{:x}", Sha256::digest(text.as_bytes()))
}
